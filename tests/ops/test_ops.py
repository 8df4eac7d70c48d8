"""Every sample that an op declares: lowered, interpreted, compared with an independent oracle."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from graphfuse.ops.registry import NotSupported, all_ops
from ops.cases import Case, all_cases, expected, inferred, rejected_cases, symbolic_model
from ops.running import interpret, lower_model

CASES = list(all_cases())
REJECTED = list(rejected_cases())

# The oracles compute float32 functions to a few units in the last place.
RTOL = {np.dtype(np.float64): 1e-6, np.dtype(np.float32): 2e-5, np.dtype(np.float16): 2e-3}
ATOL = {np.dtype(np.float64): 1e-7, np.dtype(np.float32): 1e-5, np.dtype(np.float16): 1e-3}


def assert_close(actual: list[np.ndarray], wanted: list[np.ndarray], *, sums: bool = False) -> None:
    """sums: what cancels out of terms as large as the largest element keeps the rounding of those terms."""
    assert len(actual) == len(wanted)
    for a, w in zip(actual, wanted, strict=True):
        assert a.dtype == w.dtype
        assert a.shape == w.shape
        if a.dtype.kind == "V" or a.dtype.name.startswith("float8"):  # the types of ml_dtypes: every value exact
            np.testing.assert_array_equal(a.astype(np.float32), w.astype(np.float32))
        elif a.dtype in RTOL:
            largest = float(np.abs(w[np.isfinite(w)]).max(initial=1.0)) if sums else 1.0
            np.testing.assert_allclose(a, w, rtol=RTOL[a.dtype], atol=ATOL[a.dtype] * max(1.0, largest / 16))
        else:
            np.testing.assert_array_equal(a, w)


@pytest.mark.parametrize("case", CASES, ids=lambda c: c.id)
def test_meaning(case: Case) -> None:
    assert_close(interpret(inferred(case.model), case.inputs), expected(case))


@pytest.mark.parametrize("case", [c for c in CASES if c.sample.symbolic and c.inputs], ids=lambda c: c.id)
def test_symbolic_dimensions(case: Case) -> None:
    model, env = symbolic_model(case)
    assert_close(interpret(inferred(model), case.inputs, env), interpret(inferred(case.model), case.inputs))


@pytest.mark.parametrize("case", REJECTED, ids=lambda c: c.id)
def test_rejected_with_reason(case: Case) -> None:
    with pytest.raises(NotSupported, match=case.sample.rejected):
        lower_model(ir.from_proto(case.model))  # shape inference would refuse some of them first


def test_every_op_has_samples() -> None:
    """But for control flow, whose bodies are graphs: tests/test_control_flow.py."""
    assert [op.name for op in all_ops() if not op.samples()] == ["If", "Loop", "Scan"]


def test_comparison_notices_one_percent() -> None:
    with pytest.raises(AssertionError):
        assert_close([np.array([1.01], np.float32)], [np.array([1.0], np.float32)])
