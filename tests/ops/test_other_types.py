"""Ops in the element types that their schemas allow and their own samples are not of."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest

from graphfuse.ops.registry import all_ops
from ops.cases import expected, inferred
from ops.other_types import Retyped, all_retyped
from ops.running import interpret

CASES = list(all_retyped())

# Half a unit in the last place for the rounding of the result, and another for what is computed; float64 is compared
# with an oracle's float32.
RTOL = {"float16": 2e-3, "bfloat16": 1.6e-2, "float64": 2e-5}


def assert_close(case: Retyped, actual: list[np.ndarray], wanted: list[np.ndarray]) -> None:
    """wanted: what the oracle computes in float32, for floats."""
    for a, w in zip(actual, wanted, strict=True):
        assert a.shape == w.shape
        if w.dtype.kind != "f":
            np.testing.assert_array_equal(a, w)
            continue
        with np.errstate(over="ignore"):
            rounded = w.astype(a.dtype).astype(np.float64)
        rtol = RTOL.get(case.dtype.name, 2e-5)
        scale = float(np.abs(rounded[np.isfinite(rounded)]).max(initial=0.0))
        if a.dtype == np.float64:  # what float32 has no room for
            rounded = np.where(np.isinf(rounded) & (np.abs(a) > np.finfo(np.float32).max), a, rounded)
        np.testing.assert_allclose(a.astype(np.float64), rounded, rtol=rtol, atol=rtol * max(1.0, scale / 16))


def oracle(case: Retyped) -> list[np.ndarray] | None:
    """What an oracle computes; None where none knows the type, whatever it raises then."""
    try:
        return expected(case.plain)
    except Exception:
        return None


@pytest.mark.parametrize("case", CASES, ids=lambda c: c.id)
def test_meaning(case: Retyped) -> None:
    wanted = oracle(case)
    if wanted is None:
        pytest.skip("no oracle computes this")
    values = interpret(inferred(case.case.model), case.case.inputs)
    assert_close(case, values, wanted)


def test_most_ops_of_floats_are_here_in_half_precision() -> None:
    halves = {c.id.partition("-")[0] for c in CASES if c.dtype == np.float16}
    assert len(halves) > len(all_ops()) / 2
    assert len({c.id.partition("-")[0] for c in CASES if c.dtype == ml_dtypes.bfloat16}) > len(all_ops()) / 2
