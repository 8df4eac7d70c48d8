"""Archives of torch.export (.pt2): read without executing anything that a stranger may have put in.

torch.export.load unpickles whatever an archive says is pickled, evaluates the expressions of sizes as Python, and looks
functions up by name. All that is looked at here first.
"""

from __future__ import annotations

import ast
import io
import json
import re
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from graphfuse.errors import ModelFileError, one_line
from graphfuse.importers.exported import Exported, describe, quiet_exporter, require_torch
from graphfuse.importers.torch_archive import open_archive

_MOST_JSON = 1 << 28  # bytes of one description inside an archive
_MOST_POWERS = 4  # in one size: powers of powers grow beyond all memory
_LARGEST_SIZE = 1 << 63
# Functions that nodes may call: operators of these libraries, arithmetic on sizes.
_TARGET = re.compile(
    r"torch\.ops\.(aten|prims|higher_order|quantized_decomposed)\.(?!from_file|save\b)\w+(\.\w+)?"
    r"|_operator\.(?!call|methodcaller|attrgetter)\w+|math\.\w+|torch\.sym_\w+|torch\._sym_\w+"
)
# What expressions of sizes may be made of.
_EXPRESSIONS = (
    ast.Expression, ast.BinOp, ast.UnaryOp, ast.BoolOp, ast.Compare, ast.Constant, ast.Name, ast.Call, ast.Subscript,
    ast.Load, ast.operator, ast.unaryop, ast.boolop, ast.cmpop, ast.Tuple, ast.IfExp, ast.keyword,
)  # fmt: skip
_FUNCTIONS = re.compile(
    r"Add|Mul|Pow|Rational|Max|Min|Mod|PythonMod|FloorDiv|CleanDiv|CeilDiv|ModularIndexing|Where|Eq|Ne|Lt|Le|Gt|Ge|And|Or|Not|Identity|abs"
    r"|Abs|max|min|floor|ceiling|RoundToInt|TruncToInt|TruncToFloat|ToFloat|FloorToInt|CeilToInt|IntTrueDiv"
    r"|FloatTrueDiv|PowByNatural|FloatPow|OpaqueUnaryFn_\w+|sqrt|Integer|Float|Symbol|len"
)
_REMEDY = "if you trust its origin, pass --allow-pickle"


class ExportedFile(Exported):
    """A file of torch.export.save."""

    path: Path

    def __init__(self, path: Path, allow_pickle: bool = False) -> None:
        super().__init__(None, str(path), path)
        self._allow_pickle = allow_pickle

    def load(self) -> Any:
        torch = require_torch("a file of torch.export")
        try:
            danger = "" if self._allow_pickle else next(_dangers(self.path, torch), "")
        except (OSError, ValueError, KeyError, TypeError, RuntimeError, AttributeError, zipfile.BadZipFile) as error:
            remedy = "export the model again"
            raise ModelFileError("a damaged archive", where=self.where, why=describe(error), remedy=remedy) from error
        if danger:
            raise ModelFileError("it could execute code", where=self.where, why=danger, remedy=_REMEDY)
        try:
            with quiet_exporter(), self.path.open("rb") as file:
                return torch.export.load(file)
        except Exception as error:  # whatever torch raises for what is damaged or of another version
            why, remedy = describe(error), f"torch here is {torch.__version__}: export the model again with it"
            raise ModelFileError("torch cannot load this program", where=self.where, why=why, remedy=remedy) from error


def holds_program(members: tuple[str, ...]) -> bool:
    """Whether these files of a zip archive are those of torch.export.save."""
    inner = [name.partition("/")[2] for name in members]
    return "archive_format" in inner and any(re.fullmatch(r"models/[^/]*\.json", name) for name in inner)


def _dangers(path: Path, torch: Any) -> Iterator[str]:
    """What loading would execute, in words; nothing for a plain program."""
    with zipfile.ZipFile(path) as archive:
        # What its reader refuses, torch takes for its older form, whose files are in no folder and pickled.
        for name in archive.namelist():
            if "/" not in name:
                yield f"{one_line(name, 80)!r} is outside the archive's folder, as in files before torch 2.8"
    reader = open_archive(path)
    for member in reader.get_all_records():
        name = member.lower()
        if name.startswith("data/aotinductor/"):
            yield f"{one_line(member, 80)} is compiled code"
        elif name.endswith(".pt"):
            yield from _pickled(reader, member, path.stat().st_size, torch)
        elif name.endswith("_config.json"):
            yield from _payloads(_json(reader, member))
        elif name.startswith("models/"):
            yield from _programs(_json(reader, member))


def _record(reader: Any, member: str, most: int) -> bytes:
    if reader.get_record_size(member) > most:
        raise ValueError(f"{one_line(member, 80)} is too large")
    data: bytes = reader.get_record(member)
    return data


def _json(reader: Any, member: str) -> Any:
    return json.loads(_record(reader, member, _MOST_JSON))


def _pickled(reader: Any, member: str, most: int, torch: Any) -> Iterator[str]:
    """Pickles that hold more than tensors and plain values; torch would execute those as well."""
    data = _record(reader, member, max(most, _MOST_JSON))
    try:
        if data:
            torch.load(io.BytesIO(data), weights_only=True)
    except Exception as error:  # an unpickler's, of any kind
        yield f"{one_line(member, 80)} is pickled: {describe(error)}"


def _payloads(config: Any) -> Iterator[str]:
    for name, payload in config["config"].items():
        path = str(payload["path_name"])
        if payload["use_pickle"] or not re.fullmatch(r"(weight|tensor)_\d+", path):
            yield f"the weight {one_line(name, 80)!r} is pickled"


def _programs(value: Any) -> Iterator[str]:
    """The expressions and functions in a program's description that are not known to be harmless."""
    if isinstance(value, list):
        for item in value:
            yield from _programs(item)
    if not isinstance(value, dict):
        return
    for key, item in value.items():
        is_guard = key == "guards_code"
        texts = [item] if key == "expr_str" else item if item and (is_guard or key == "range_constraints") else ()
        for text in texts:
            if not _is_size(str(text), is_guard):
                yield f"the size {one_line(str(text), 80)!r} is more than arithmetic"
        if key == "target" and isinstance(item, str) and "inputs" in value and not _TARGET.fullmatch(item):
            yield f"it calls {one_line(item, 80)}"
        if isinstance(item, str) and "default_factory" in item:
            yield "it makes dictionaries by a function"
        yield from _programs(item)


def _is_size(text: str, guard: bool = False) -> bool:
    try:
        tree = ast.parse(text.strip(), mode="eval")
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False
    nodes = list(ast.walk(tree))
    powers = sum(_is_power(node) for node in nodes)
    return powers <= _MOST_POWERS and all(_is_harmless(node, guard) for node in nodes)


def _is_power(node: ast.AST) -> bool:
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
        return "pow" in node.func.id.lower()
    return isinstance(node, ast.Pow)


def _is_harmless(node: ast.AST, guard: bool) -> bool:
    if isinstance(node, ast.Attribute):
        return guard and node.attr in ("size", "stride", "storage_offset")
    if isinstance(node, ast.Name):
        return re.fullmatch(r"[A-Za-z]\w*", node.id) is not None
    if isinstance(node, ast.Call):
        small = not _is_power(node) or (len(node.args) == 2 and _is_exponent(node.args[1]))
        return small and _is_known(node.func, guard)
    if isinstance(node, ast.Constant) and isinstance(node.value, int) and abs(node.value) > _LARGEST_SIZE:
        return False
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Pow):
        return _is_exponent(node.right)
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return re.fullmatch(r"[A-Za-z]\w*", node.value) is not None
    return isinstance(node, _EXPRESSIONS)


def _is_exponent(node: ast.expr) -> bool:
    """Whether a power stays small: its exponent is a number of two digits, spelled out."""
    text = ast.unparse(node)
    return re.fullmatch(r"(?:Integer\()?-?\d{1,2}\)?|Rational\(-?\d{1,2}, \d{1,2}\)", text) is not None


def _is_known(function: ast.expr, guard: bool) -> bool:
    if isinstance(function, ast.Attribute):
        return guard
    return isinstance(function, ast.Name) and _FUNCTIONS.fullmatch(function.id) is not None
