"""Scripted programs: branches, loops, lists and states, against torch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from graphfuse.compiler import compile_model
from graphfuse.errors import UnsupportedModelError
from graphfuse.options import CompileOptions
from torchscript import programs
from torchscript.harness import agree, opened, saved

_OPEN = ("N", "M")


def read(name: str, folder: Path, shapes: dict[str, Any], **values: Any) -> Any:
    torch.manual_seed(0)
    program = torch.jit.script(getattr(programs, name)().eval())
    return opened(saved(program, folder), shapes, values)


def matrices(shape: tuple[int, ...], count: int = 4) -> list[dict[str, Any]]:
    random = np.random.default_rng(1)
    signs = [1, -1, 3, 0.01]
    return [{"x": (np.abs(random.standard_normal(shape)) * signs[k % 4]).astype(np.float32)} for k in range(count)]


@pytest.mark.parametrize("sizes", ["known", "open"])
@pytest.mark.parametrize(
    "name",
    [
        "DataIf",
        "EarlyReturn",
        "NumbersInBranches",
        "While",
        "ForSize",
        "Rows",
        "Nested",
        "Break",
        "InPlaceLoop",
        "ViewsInBranches",
    ],
)
def test_control_flow(name: str, sizes: str, tmp_path: Path) -> None:
    source = read(name, tmp_path, {"x": (3, 4) if sizes == "known" else _OPEN})
    agree(source, matrices((3, 4)))
    if sizes == "open":
        agree(source, [*matrices((1, 4)), *matrices((5, 7))])


def test_long_loops_are_loops(tmp_path: Path) -> None:
    source = read("Rows", tmp_path, {"x": (100, 3)})
    assert "Loop" in [node.op_type for node in source.converted.model.graph]
    agree(source, matrices((100, 3)))


@pytest.mark.parametrize("name", ["Lists", "InPlace", "Guarded"])
def test_what_is_known_is_done_at_once(name: str, tmp_path: Path) -> None:
    source = read(name, tmp_path, {"x": (3, 4)})
    assert "Loop" not in [node.op_type for node in source.converted.model.graph]
    agree(source, matrices((3, 4)))


def test_dropped_exceptions_are_noted(tmp_path: Path) -> None:
    notes = [text for _, text in read("Guarded", tmp_path, {"x": ("N", 4)}).converted.notes]
    assert notes == ["an exception that only the data would tell is not raised"]


def test_arguments_with_defaults(tmp_path: Path) -> None:
    x = matrices((3, 4), 1)[0]
    agree(read("Optional", tmp_path, {"x": (3, 4)}), [x])
    agree(read("Optional", tmp_path, {"x": (3, 4)}, scale=0.5, bias=False), [x])
    agree(read("Optional", tmp_path, {"x": (3, 4), "y": (4,)}), [{**x, "y": x["x"][0]}])


@pytest.mark.parametrize("name, shape", [("Recurrent", (2, 7, 4)), ("Transformer", (2, 7, 8)), ("Net", (2, 3, 14, 18))])
def test_layers(name: str, shape: tuple[int, ...], tmp_path: Path) -> None:
    source = read(name, tmp_path, {"x": shape})
    agree(source, matrices(shape, 1))
    agree(read(name, tmp_path, {"x": ("N", *shape[1:])}), matrices(shape, 1))


def test_names_are_paths_of_modules(tmp_path: Path) -> None:
    names = list(read("Net", tmp_path, {"x": (2, 3, 14, 18)}).converted.operators)
    assert names[:3] == ["features.0/conv2d", "features.1/batch_norm", "features.2/relu"]
    assert "head/linear" in names


def test_training_mode_is_refused(tmp_path: Path) -> None:
    source = opened(saved(torch.jit.script(programs.Net()), tmp_path), {"x": (2, 3, 14, 18)})
    with pytest.raises(UnsupportedModelError, match=r"(?s)'features\.1'.*training mode") as caught:
        source.read()
    assert "model.eval()" in str(caught.value)


@pytest.mark.parametrize(
    "name, reason",
    [
        ("FlatInPlaceRead", "written to in place through aten::flatten"),
        ("ExpandedInPlace", "written to in place through aten::expand"),
        ("ViewBeforeWrite", "aten::reshape may be a view or a copy"),
        ("Grows", "has another shape after each of them"),
        ("NumbersInList", "how long a list of other than tensors is"),
        ("Random", "dropout in training mode draws random numbers"),
        ("Foreign", r"(?s)2 nodes.*aten::fft_rfft.*aten::linalg_inv"),
    ],
)
def test_what_cannot_be_spelled_is_refused(name: str, reason: str, tmp_path: Path) -> None:
    with pytest.raises(UnsupportedModelError, match=reason):
        read(name, tmp_path, {"x": (4, 4)}).read()


def test_squeeze_of_an_open_size_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedModelError, match=r"(?s)give it as a number.*whether squeeze removes an axis"):
        read("Squeezes", tmp_path, {"x": ("N", 4)}).read()
    agree(read("Squeezes", tmp_path, {"x": (1, 4)}), matrices((1, 4)))


def test_in_place_on_what_nobody_reads_again(tmp_path: Path) -> None:
    agree(read("FlatInPlace", tmp_path, {"x": (2, 3, 4)}), matrices((2, 3, 4)))


@pytest.mark.parametrize(
    "name, has_if", [("Counter", False), ("Smoother", False), ("FirstIsOther", True), ("StateInBranch", True)]
)
def test_states(name: str, has_if: bool, tmp_path: Path) -> None:
    source = read(name, tmp_path, {"x": (2, 3)})
    agree(source, matrices((2, 3), 5))
    assert ("If" in [node.op_type for node in source.converted.model.graph]) == has_if
    assert source.converted.states


@pytest.mark.parametrize(
    "name, shape", [("Nested", _OPEN), ("Rows", _OPEN), ("FirstIsOther", (2, 3)), ("Counter", (2, 3))]
)
def test_compiled(name: str, shape: Any, tmp_path: Path) -> None:
    source = read(name, tmp_path, {"x": shape})
    compiled = compile_model(source, tmp_path / "m.gf", CompileOptions(cache=False))
    assert compiled.certificate is not None
    assert compiled.certificate.passed
    assert "torch" in compiled.certificate.versions
    with compiled.session() as session:
        theirs = source.fresh_module()
        for inputs in matrices((2, 3), 4):
            with torch.no_grad():
                expected = theirs(torch.from_numpy(inputs["x"])).numpy()
            np.testing.assert_allclose(session(inputs["x"]), expected, 1e-5, 1e-5)
