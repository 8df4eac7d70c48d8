"""Imports point one way: a part may import what stands in its own row or above, and never in a circle."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / "src" / "graphfuse"

# Rows from the foundation up. A part is a module or a folder directly under src/graphfuse.
ROWS = (
    ("errors", "options", "target", "ledger"),
    ("graph",),
    ("ops",),
    ("rules", "importers"),
    ("fusion",),
    ("plan",),
    ("codegen",),
    ("kernels",),
    ("toolchain", "runtime", "artifact", "verify", "account"),
    ("tune",),
    ("compiler",),
    ("update", "export"),
    ("torch",),
    ("cli", "bench", "demo", "__main__"),
)
ROW_OF = {part: row for row, parts in enumerate(ROWS) for part in parts}
# The package's own __init__ offers its functions by late imports of what they need.
PUBLIC_FACE = "__init__"
PUBLIC_FACE_MAY_IMPORT = {"compiler", "artifact", "runtime", "options", "errors", "torch"}


def parts() -> list[str]:
    found = {path.stem for path in PACKAGE.glob("*.py")}
    found |= {path.name for path in PACKAGE.iterdir() if path.is_dir() and any(path.rglob("*.py"))}
    return sorted(found)


def imports_of(tree: ast.Module, module: tuple[str, ...], is_package: bool) -> Iterator[tuple[str, int]]:
    """The parts of graphfuse named by any import statement of one file, with its line; late imports count too."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [alias.name.split(".") for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = node.module.split(".") if node.module else []
            if node.level:
                keep = len(module) - node.level + (1 if is_package else 0)
                base = [*module[:keep], *base]
            names = [[*base, alias.name] for alias in node.names] if base == ["graphfuse"] else [base]
        else:
            continue
        for name in names:
            # `from graphfuse import __version__` names a value of the root, not a part.
            if name[0] == "graphfuse" and len(name) > 1 and name[1] != "__version__":
                yield name[1], node.lineno


def imports_by_part() -> dict[str, dict[str, str]]:
    """part -> part it imports -> one place that does so ("file:line")."""
    found: dict[str, dict[str, str]] = {part: {} for part in parts()}
    for path in sorted(PACKAGE.rglob("*.py")):
        relative = path.relative_to(PACKAGE)
        is_package = relative.name == "__init__.py"
        module = ("graphfuse", *relative.parent.parts, *(() if is_package else (relative.stem,)))
        part = module[1] if len(module) > 1 else PUBLIC_FACE
        tree = ast.parse(path.read_text(encoding="utf-8"), str(path))
        for imported, line in imports_of(tree, module, is_package):
            if imported != part:
                found[part].setdefault(imported, f"src/graphfuse/{relative.as_posix()}:{line}")
    return found


def violations(imports: dict[str, dict[str, str]]) -> list[str]:
    wrong = []
    for part, imported in imports.items():
        for other, place in imported.items():
            if part == PUBLIC_FACE:
                allowed = other in PUBLIC_FACE_MAY_IMPORT
            else:
                allowed = other in ROW_OF and ROW_OF[other] <= ROW_OF[part]
            if not allowed:
                wrong.append(f"{place}: {part} may not import {other}")
    return wrong


def circle(imports: dict[str, dict[str, str]]) -> list[str]:
    """The parts of one import circle in order, or an empty list."""
    done: set[str] = set()

    def visit(part: str, path: list[str]) -> list[str]:
        if part in path:
            return [*path[path.index(part) :], part]
        if part in done:
            return []
        for other in imports.get(part, {}):
            found = visit(other, [*path, part])
            if found:
                return found
        done.add(part)
        return []

    return next((found for part in imports if (found := visit(part, []))), [])


def test_every_part_has_a_row() -> None:
    unknown = [part for part in parts() if part not in ROW_OF and part != PUBLIC_FACE]
    assert not unknown, f"give these a row in tests/test_layering.py: {unknown}"


def test_imports_point_one_way() -> None:
    wrong = violations(imports_by_part())
    assert not wrong, "\n".join(wrong)


def test_no_import_circle_between_parts() -> None:
    found = circle(imports_by_part())
    assert not found, " imports ".join(found)


@pytest.mark.parametrize(
    "source, module, expected",
    [
        ("from graphfuse.plan import x", ("graphfuse", "graph", "dims"), ["plan"]),
        ("from graphfuse import plan, compiler", ("graphfuse", "graph", "dims"), ["plan", "compiler"]),
        ("import graphfuse.codegen.writer", ("graphfuse", "graph", "dims"), ["codegen"]),
        ("from ..plan.memory import x", ("graphfuse", "graph", "dims"), ["plan"]),
        ("from .. import plan", ("graphfuse", "graph", "dims"), ["plan"]),
        ("from . import dims", ("graphfuse", "graph", "text"), ["graph"]),
        ("def f():\n    from graphfuse.cli import main", ("graphfuse", "graph", "dims"), ["cli"]),
        ("from graphfuse import __version__\nimport numpy", ("graphfuse", "graph", "dims"), []),
    ],
)
def test_the_reader_sees_every_spelling(source: str, module: tuple[str, ...], expected: list[str]) -> None:
    assert [part for part, _ in imports_of(ast.parse(source), module, is_package=False)] == expected


def test_the_checks_fail_on_a_violation() -> None:
    assert violations({"graph": {"plan": "f.py:1"}}) == ["f.py:1: graph may not import plan"]
    assert violations({"__init__": {"graph": "f.py:1"}}) == ["f.py:1: __init__ may not import graph"]
    assert circle({"toolchain": {"artifact": ""}, "artifact": {"verify": ""}, "verify": {"toolchain": ""}}) == [
        "toolchain", "artifact", "verify", "toolchain",
    ]  # fmt: skip
    assert circle({"plan": {"graph": ""}, "graph": {"errors": ""}}) == []


def test_importing_the_package_is_light() -> None:
    code = "import sys, graphfuse; print([m for m in ('numpy', 'onnx', 'onnxruntime', 'onnx_ir') if m in sys.modules])"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"
