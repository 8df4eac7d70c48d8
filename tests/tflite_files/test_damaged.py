"""Damaged files: one error that names the file, never a crash, a traceback of another kind, or a long wait."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("ai_edge_litert")

from graphfuse.errors import GraphfuseError, ModelFileError
from graphfuse.importers.open import open_model

from . import more_cases
from .builder import Model
from .cases import CASES, floats
from .test_structure import counter, counting_loop

assert more_cases  # adds its own to CASES
FLIPS, CUTS = 120, 60
_SECONDS = 20


def a_few() -> dict[str, bytes]:
    """Files that hold most parts of the format."""
    loop, variables = Model(), Model()
    counting_loop(loop)
    counter(variables, in_branch=True)
    named = {"loop": loop.bytes(), "variables": variables.bytes()}
    for name in ("CONV_2D int8 1", "STRIDED_SLICE masks", "MEAN int8", "SPLIT_V"):
        named[name] = next(case for case in CASES if case.name == name).model()[0].bytes()
    return named


FILES = a_few()


def opened(data: bytes, path: Path) -> bool:
    """Whether it can still be read; errors name the file and are one line, or a line for each operator."""
    path.write_bytes(data)
    started = time.perf_counter()
    refusal = ""
    try:
        open_model(path).read()
    except GraphfuseError as error:
        refusal = str(error)
    assert time.perf_counter() - started < _SECONDS
    assert not refusal or str(path) in refusal
    assert len(refusal.splitlines()) < 2 or "cannot be compiled" in refusal
    return not refusal


@pytest.mark.parametrize("name", FILES)
def test_cut_short(name: str, tmp_path: Path) -> None:
    data = FILES[name]
    ends = np.linspace(8, len(data) - 1, CUTS).astype(int)
    read = sum(opened(data[:end], tmp_path / "m.tflite") for end in ends)
    assert read < CUTS // 2


@pytest.mark.parametrize("name", FILES)
def test_flipped_bytes(name: str, tmp_path: Path) -> None:
    random, refused = np.random.default_rng(0), 0
    for _ in range(FLIPS):
        data = bytearray(FILES[name])
        for _ in range(random.integers(1, 4)):
            data[random.integers(8, len(data))] ^= random.integers(1, 256)
        refused += not opened(bytes(data), tmp_path / "m.tflite")
    assert refused > FLIPS // 20


def test_a_real_file_damaged(real_model: Callable[[str], Path], tmp_path: Path) -> None:
    whole, random = real_model("okay_nabu").read_bytes(), np.random.default_rng(1)
    for _ in range(12):
        data = bytearray(whole)
        data[random.integers(8, len(data))] ^= random.integers(1, 256)
        opened(bytes(data), tmp_path / "m.tflite")
    for end in (9, 100, 5000, 60000):
        assert not opened(whole[:end], tmp_path / "m.tflite")


def test_vectors_longer_than_the_file(tmp_path: Path) -> None:
    """Thousands of operators that share one vector of inputs are not read thousands of times."""
    data = next(case for case in CASES if case.name == "ADD 0").model()[0].bytes()
    for place in range(8, len(data) - 4, 4):
        broken = data[:place] + (2**31 - 1).to_bytes(4, "little") + data[place + 4 :]
        opened(broken, tmp_path / "m.tflite")


@pytest.mark.parametrize("data", [b"\x1c\0\0\0TFL3", b"\x1c\0\0\0TFL3" + bytes(100), b"\0\0\0\0TFL3" + b"\xff" * 99])
def test_nothing_but_the_mark(data: bytes, tmp_path: Path) -> None:
    path = tmp_path / "m.tflite"
    path.write_bytes(data)
    with pytest.raises(ModelFileError, match="TFLite"):
        open_model(path).read()


def test_an_operand_that_nothing_computes(tmp_path: Path) -> None:
    model = Model()
    graph = model.main
    x, lost = graph.input("x", "float32", [3]), graph.tensor("lost", "float32", [3])
    y = graph.tensor("y", "float32", [3])
    graph.op("ADD", [x, lost], [y], "AddOptions")
    graph.outputs(y)
    (tmp_path / "m.tflite").write_bytes(model.bytes())
    with pytest.raises(GraphfuseError, match="'lost' is read before anything computes it"):
        open_model(tmp_path / "m.tflite").read()


def test_operands_that_do_not_fit(tmp_path: Path) -> None:
    model = Model()
    graph = model.main
    x, w = graph.input("x", "float32", [3, 4]), graph.constant(floats(5))
    y = graph.tensor("sum", "float32", [3, 4])
    graph.op("ADD", [x, w], [y], "AddOptions")
    graph.outputs(y)
    (tmp_path / "m.tflite").write_bytes(model.bytes())
    with pytest.raises(ModelFileError, match=r"operator 'sum' \(ADD\): its operands do not fit together"):
        open_model(tmp_path / "m.tflite").read()
