"""Matrix products and 1x1 convolutions against float64."""

from __future__ import annotations

import pytest
import sympy

from graphfuse.graph.dtypes import F64, I32, I64, U32
from graphfuse.kernels.gemm import KERNEL

from .cases import conv, matmul, window
from .harness import BIAS_RELU, PLAIN, RESIDUAL, SWISH_GATE, X86, Case, Configuration, check_all, every_configuration

S = sympy.Symbol("S", integer=True, positive=True)
B = sympy.Symbol("B", integer=True, positive=True)
NCHW = (0, 1, 2, 3)

CASES: dict[str, Case] = {
    **{
        f"{m}x{k}x{n}": matmul((m, k), (k, n), epilogue=e)
        for (m, k, n), e in {
            (1, 1, 1): PLAIN,
            (1, 31, 5): BIAS_RELU,
            (1, 64, 1000): BIAS_RELU,
            (5, 13, 16): PLAIN,
            (7, 3, 17): RESIDUAL,
            (13, 17, 24): RESIDUAL,
            (49, 48, 33): BIAS_RELU,
            (33, 64, 96): SWISH_GATE,
            (29, 5, 144): RESIDUAL,
            (100, 24, 13): RESIDUAL,
        }.items()
    },
    "one row, sums in four parts": matmul((1, 67), (67, 10), epilogue=BIAS_RELU),
    "two rows, sums in two parts": matmul((2, 37), (37, 33), epilogue=RESIDUAL),
    "three rows, sums in parts": matmul((3, 16), (16, 13), dtype=F64),
    "two rows of integers, sums in parts": matmul((2, 19), (19, 3), dtype=I32),
    "few rows, A transposed": matmul((2, 21), (21, 9), a_order=(1, 0), epilogue=BIAS_RELU),
    "items that do not fill a tile": matmul((5, 31, 19), (5, 19, 40), constant=False, epilogue=RESIDUAL),
    "rows share a vector, 24 columns": matmul((101, 37), (37, 24), epilogue=RESIDUAL),
    "rows share a vector, 36 columns": matmul((S, 19), (19, 36), epilogue=SWISH_GATE, env={"S": 45}),
    "rows share a vector, 11 columns": matmul((3, 41, 23), (23, 11), epilogue=RESIDUAL, gap=3),
    "long K": matmul((14, 2500), (2500, 48), epilogue=BIAS_RELU),
    "many rows": matmul((1000, 257), (257, 31), epilogue=RESIDUAL),
    "f64": matmul((13, 17), (17, 24), dtype=F64, epilogue=RESIDUAL),
    "i32": matmul((13, 17), (17, 24), dtype=I32),
    "u32": matmul((3, 7), (7, 5), dtype=U32),
    "i64": matmul((5, 9), (9, 20), dtype=I64),
    "batch, weights shared": matmul((3, 5, 17), (17, 24), epilogue=RESIDUAL),
    "batch, rows apart": matmul((3, 5, 17), (17, 24), epilogue=RESIDUAL, gap=3),
    "batch, columns first": matmul(
        (3, 5, 17), (17, 24), out_order=(0, 2, 1), residual_order=(1, 0, 2), epilogue=RESIDUAL
    ),
    "gate per item": matmul((3, 5, 17), (17, 24), epilogue=SWISH_GATE),
    "A transposed": matmul((30, 17), (17, 24), a_order=(1, 0), epilogue=BIAS_RELU),
    "unknown rows": matmul((S, 17), (17, 24), epilogue=RESIDUAL, env={"S": 37}),
    "unknown rows, one": matmul((S, 17), (17, 40), epilogue=RESIDUAL, env={"S": 1}),
    "unknown batch and rows": matmul((B, S, 17), (17, 24), epilogue=SWISH_GATE, env={"B": 3, "S": 11}),
    "B at run time": matmul((13, 17), (17, 24), constant=False, epilogue=RESIDUAL),
    "B transposed at run time": matmul((13, 17), (17, 57), constant=False, b_order=(1, 0), epilogue=BIAS_RELU),
    "attention QK": matmul((2, 3, 21, 16), (2, 3, 16, 21), constant=False, a_order=(0, 2, 1, 3), b_order=(0, 3, 1, 2)),
    "attention PV": matmul(
        (2, 3, 21, 21), (2, 3, 21, 16), constant=False, b_order=(0, 2, 1, 3), out_order=(0, 2, 1, 3)
    ),
    "attention QK, unknown length": matmul(
        (2, 3, S, 16), (2, 3, 16, S), constant=False, a_order=(0, 2, 1, 3), b_order=(0, 3, 1, 2), env={"S": 45}
    ),
    "attention PV, unknown length": matmul(
        (B, 3, S, S), (B, 3, S, 16), constant=False, b_order=(0, 2, 1, 3), out_order=(0, 2, 1, 3), env={"S": 19, "B": 2}
    ),
    "B broadcast": matmul((2, 3, 5, 7), (3, 7, 9), constant=False, epilogue=RESIDUAL),
    "A broadcast": matmul((5, 7), (4, 7, 9), constant=False, epilogue=RESIDUAL),
    "both broadcast": matmul((4, 1, 5, 7), (1, 3, 7, 9), constant=False),
    "1x1 conv": conv((2, 24, 7, 5), 33, window((1, 1)), epilogue=RESIDUAL),
    "1x1 conv, stride": conv((2, 16, 7, 9), 20, window((1, 1), strides=(2, 3)), epilogue=BIAS_RELU),
    "1x1 conv, slices": conv((2, 13, 5, 7), 17, window((1, 1)), epilogue=RESIDUAL, gap=3, offset=2),
    "1x1 conv, NCHW in": conv((2, 13, 5, 7), 17, window((1, 1)), epilogue=RESIDUAL, x_order=NCHW),
    "1x1 conv, NCHW out": conv((2, 13, 5, 7), 17, window((1, 1)), epilogue=RESIDUAL, out_order=NCHW),
    "1x1 conv, NCHW all": conv(
        (2, 13, 5, 7), 17, window((1, 1)), epilogue=RESIDUAL, x_order=NCHW, out_order=NCHW, residual_order=NCHW
    ),
    "1x1 conv, gate": conv((2, 16, 5, 7), 17, window((1, 1)), epilogue=SWISH_GATE),
    "1x1 conv, unknown size": conv(
        (B, 16, S, S + 1), 31, window((1, 1), strides=(2, 2)), epilogue=RESIDUAL, env={"B": 2, "S": 9}
    ),
    "1-d conv": conv((2, 16, 21), 31, window((1,)), epilogue=RESIDUAL),
    "3-d conv": conv((1, 5, 3, 4, 5), 13, window((1, 1, 1)), epilogue=RESIDUAL),
}


@every_configuration
def test_against_float64(configuration: Configuration, subtests: pytest.Subtests) -> None:
    check_all(CASES, KERNEL, configuration, subtests)


def test_refusals_name_the_reason() -> None:
    assert KERNEL.accepts(conv((1, 4, 5, 5), 4, window((3, 3))).site(), X86) == "the window is 3x3, not 1x1"
    assert KERNEL.accepts(conv((1, 4, 5, 5), 4, window((1, 1), groups=2)).site(), X86) == "2 groups"
    assert KERNEL.accepts(conv((1, 4, 5, 5), 4, window((1, 1), pads=((1, 1), (1, 1)))).site(), X86) == "padding"


def test_same_block_same_text() -> None:
    first, second = (
        KERNEL.emit(conv((1, 24, 7, 5), 33, window((1, 1)), epilogue=RESIDUAL).site(), X86) for _ in range(2)
    )
    assert first.source == second.source
