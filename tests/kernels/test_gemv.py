"""Products of few rows or columns with a matrix that is not packed, against float64."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import sympy

from graphfuse.graph.dtypes import F64, I32
from graphfuse.kernels.gemm import KERNEL as GEMM
from graphfuse.kernels.gemv import KERNEL

from .cases import conv, matmul, window
from .harness import (
    BIAS_RELU,
    RESIDUAL,
    SWISH_GATE,
    X86,
    Case,
    Configuration,
    Memory,
    build,
    check_all,
    every_configuration,
)

S = sympy.Symbol("S", integer=True, positive=True)
B = sympy.Symbol("B", integer=True, positive=True)


def run_time(a: tuple, b: tuple, **more: object) -> Case:
    return matmul(a, b, constant=False, **more)  # type: ignore[arg-type]


CASES: dict[str, Case] = {
    "columns, one vector": run_time((1, 67), (67, 10), epilogue=BIAS_RELU),
    "columns, two rows": run_time((2, 37), (37, 33), epilogue=RESIDUAL),
    "columns, many": run_time((1, 21), (21, 1000), epilogue=BIAS_RELU),
    "columns, eight rows": run_time((8, 19), (19, 150), epilogue=RESIDUAL),
    "columns, sixteen rows": run_time((16, 19), (19, 50), epilogue=RESIDUAL),
    "columns, short sums": run_time((3, 5), (5, 41), epilogue=RESIDUAL),
    "columns apart": run_time((1, 37), (37, 50), gap=3, epilogue=RESIDUAL),
    "columns, f64": run_time((1, 37), (37, 29), dtype=F64, epilogue=RESIDUAL),
    "columns, i32": run_time((2, 19), (19, 13), dtype=I32),
    "columns, unknown sum": run_time((1, S), (S, 24), epilogue=RESIDUAL, env={"S": 45}),
    "columns, unknown number": run_time((2, 21), (21, S), epilogue=RESIDUAL, env={"S": 57}),
    "columns, first operand turned": run_time((3, 21), (21, 19), a_order=(1, 0), epilogue=RESIDUAL),
    "sums": run_time((1, 67), (67, 10), b_order=(1, 0), epilogue=BIAS_RELU),
    "sums, short": run_time((1, 16), (16, 50), b_order=(1, 0), epilogue=RESIDUAL),
    "sums, long": run_time((1, 2500), (2500, 33), b_order=(1, 0), epilogue=RESIDUAL),
    "sums, eight rows": run_time((8, 50), (50, 40), b_order=(1, 0), epilogue=RESIDUAL),
    "sums apart": run_time((2, 37), (37, 50), b_order=(1, 0), gap=3, epilogue=RESIDUAL),
    "sums, unknown": run_time((2, S), (S, 21), b_order=(1, 0), epilogue=RESIDUAL, env={"S": 45}),
    "sums, unknown number": run_time((1, 48), (48, S), b_order=(1, 0), epilogue=RESIDUAL, env={"S": 45}),
    "sums, one vector of an unknown number": run_time((1, 48), (48, S), b_order=(1, 0), env={"S": 3}),
    "decoding QK": run_time((2, 3, 1, 40), (2, 3, 40, 51), a_order=(0, 2, 1, 3), b_order=(0, 3, 1, 2)),
    "decoding PV": run_time((2, 3, 1, 51), (2, 3, 51, 40), b_order=(0, 2, 1, 3), out_order=(0, 2, 1, 3)),
    "decoding QK, grouped": run_time((2, 3, 4, 40), (2, 3, 40, 51), b_order=(0, 1, 3, 2), epilogue=RESIDUAL),
    "decoding PV, grouped": run_time((2, 3, 4, 51), (2, 3, 51, 40), epilogue=SWISH_GATE),
    "decoding QK, unknown length": run_time((B, 3, 1, 40), (B, 3, 40, S), b_order=(0, 1, 3, 2), env={"B": 2, "S": 45}),
    "decoding PV, unknown length": run_time((B, 3, 1, S), (B, 3, S, 40), env={"B": 2, "S": 45}),
    "matrix broadcast": run_time((3, 1, 21), (21, 50), epilogue=RESIDUAL),
    "row broadcast": run_time((1, 21), (3, 21, 50), epilogue=RESIDUAL),
    "one column": run_time((100, 67), (67, 1), epilogue=RESIDUAL),
    "one column, turned": run_time((100, 67), (67, 1), a_order=(1, 0), epilogue=BIAS_RELU),
    "three columns": run_time((100, 37), (37, 3), a_order=(1, 0), epilogue=RESIDUAL),
    "three columns, elements of a sum side by side": run_time((100, 37), (37, 3), b_order=(1, 0), epilogue=RESIDUAL),
    "one column each": run_time((2, 3, 33, 20), (2, 3, 20, 1), epilogue=RESIDUAL, gap=3),
    "one column, unknown rows": run_time((S, 67), (67, 1), epilogue=RESIDUAL, env={"S": 45}),
    "one column, a matrix for all": run_time((33, 20), (4, 20, 1), epilogue=RESIDUAL),
}  # fmt: skip


@every_configuration
def test_against_float64(configuration: Configuration, subtests: pytest.Subtests) -> None:
    check_all(CASES, KERNEL, configuration, subtests)


@every_configuration
def test_sums_in_blocks(configuration: Configuration, subtests: pytest.Subtests) -> None:
    check_all({name: in_blocks(case) for name, case in CASES.items()}, KERNEL, configuration, subtests)


def in_blocks(case: Case) -> Case:
    """The case with sums of few terms, as strict numerics has them."""
    result = replace(case)
    result.site().sum_block = 2
    return result


@every_configuration
@pytest.mark.parametrize("name", ["columns", "sums"])
def test_what_is_not_finite_stays_in_its_column(configuration: Configuration, name: str) -> None:
    order = (1, 0) if name == "sums" else None
    built = build({name: run_time((2, 45), (45, 37), b_order=order)}, KERNEL, configuration)[name]
    finite = built.run()
    matrix = built.case.args[1]
    for value in (np.nan, np.inf, -np.inf):
        built.case.constants[matrix] = spoilt(built.case, value)
        got = built.run()
        assert not np.isfinite(got[:, 36]).any()
        np.testing.assert_array_equal(got[:, :36], finite[:, :36])


def spoilt(case: Case, value: float) -> np.ndarray:
    """The matrix that the case would have, with one other element: the last of the last column."""
    case.constants.pop(case.args[1], None)
    matrix = Memory(case).strided(case.views[case.args[1]]).copy()
    matrix[-1, -1] = value
    return matrix


def test_refusals_name_the_reason() -> None:
    def reason(case: Case) -> str | None:
        return KERNEL.accepts(case.site(), X86)

    assert reason(matmul((1, 64), (64, 64))) == "weights known at compile time are packed then"
    assert reason(run_time((17, 64), (64, 64))) == "17 rows: packing the other operand pays"
    assert reason(run_time((9, 64), (64, 64), b_order=(1, 0))) == "9 rows: packing the other operand pays"
    assert reason(run_time((S, 64), (64, 64), env={"S": 1})) == "how many rows there are is not known"
    assert reason(conv((1, 4, 5, 5), 4, window((1, 1)))) == "conv is not a matrix product"
    apart = run_time((1, 64), (2, 64, 64), b_order=(1, 2, 0))
    assert reason(apart) == "neither columns of the matrix nor elements of its sums lie side by side"


@pytest.mark.parametrize("order", [None, (1, 0)])
def test_one_row_costs_less_than_packing(order: tuple[int, ...] | None) -> None:
    site = run_time((1, 64), (64, 2048), b_order=order).site()
    assert KERNEL.cost(site, X86) < GEMM.cost(site, X86)
