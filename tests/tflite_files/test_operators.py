"""Every operator against LiteRT's reference kernels."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("ai_edge_litert")

from graphfuse.compiler import compile_model
from graphfuse.importers.tflite.registry import spellings
from graphfuse.options import CompileOptions

from . import cases, more_cases
from .builder import Model
from .cases import CASES, Case
from .running import Array, ours, read, theirs

assert more_cases
PARTS = 8
# Operators that tests of their own have.
ELSEWHERE = {"ASSIGN_VARIABLE", "CALL", "CALL_ONCE", "DENSIFY", "IF", "READ_VARIABLE", "STABLEHLO_COMPOSITE",
             "VAR_HANDLE", "WHILE"}  # fmt: skip


def compare(case: Case, expected: list[Array], actual: list[Array]) -> None:
    for y, wanted, got in zip(case.results, expected, actual, strict=True):
        assert got.dtype == wanted.dtype
        assert got.shape == wanted.shape
        if y.q is not None:
            off = np.abs(got.astype(np.int64) - wanted.astype(np.int64))
            assert off.max(initial=0) <= case.steps, f"{np.count_nonzero(off)} of {off.size} differ"
        elif got.dtype.kind == "f":
            np.testing.assert_allclose(got, wanted, rtol=case.tolerance * 10, atol=case.tolerance)
        else:
            np.testing.assert_array_equal(got, wanted)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_operator(case: Case, tmp_path: Path) -> None:
    model, inputs = case.model()
    source = read(model, tmp_path)
    compare(case, theirs(source, inputs, case.reference), ours(source, inputs))


@pytest.mark.parametrize("part", range(PARTS))
def test_compiled(part: int, tmp_path: Path) -> None:
    """Many operators side by side in one model, as C."""
    model, inputs, results = Model(), {}, []
    chosen = CASES[part::PARTS]
    for k, case in enumerate(chosen):
        more, outputs = case.add_to(model, f"{k}.")
        inputs |= more
        results += outputs
    model.main.outputs(*results)
    source = read(model, tmp_path)
    options = CompileOptions(verify=False)
    values = iter(compile_model(source, tmp_path / "m.gf", options).session().run(None, inputs))
    for case in chosen:
        alone, given = case.model()
        expected = theirs(read(alone, tmp_path), given, case.reference)
        compare(case, expected, [next(values) for _ in case.results])


def test_every_operator_has_a_case() -> None:
    assert set(spellings()) == {case.kind for case in CASES} | ELSEWHERE
    assert len(spellings()) >= 90
    assert cases.SAME == 0
