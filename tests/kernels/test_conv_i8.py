"""Convolutions of bytes against int64, to the last bit."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import sympy

from graphfuse.graph.dtypes import I8, I32, U8
from graphfuse.kernels.conv_i8 import KERNEL

from . import cases
from .cases import window
from .harness import BIAS_RELU, PLAIN, RESIDUAL, X86, Case, Configuration, check_all, every_configuration
from .test_gemm_i8 import VNNI

S = sympy.Symbol("S", integer=True, positive=True)
B = sympy.Symbol("B", integer=True, positive=True)
NCHW = (0, 1, 2, 3)


def conv(x: Sequence[Any], channels: int, kernel: Sequence[int], signed: bool = False, **more: Any) -> Case:
    shape = {key: more.pop(key) for key in ("strides", "dilations", "pads", "groups") if key in more}
    operands = (I8 if signed else U8, I8)
    return cases.conv(x, channels, window(kernel, **shape), dtype=I32, operands=operands, **more)


CASES: dict[str, Case] = {
    "3x3": conv((2, 17, 9, 11), 31, (3, 3), epilogue=BIAS_RELU),
    "3x3, signed": conv((2, 17, 9, 11), 31, (3, 3), True, epilogue=BIAS_RELU),
    "3x3, padded": conv((1, 16, 13, 13), 40, (3, 3), pads=((1, 1), (1, 1)), epilogue=RESIDUAL),
    "3x3, padded, signed": conv((1, 16, 13, 13), 40, (3, 3), True, pads=((1, 1), (1, 1)), epilogue=RESIDUAL),
    "5x3, stride, asymmetric": conv((2, 5, 12, 9), 13, (5, 3), True, strides=(2, 1), pads=((2, 0), (1, 3))),
    "dilation": conv((1, 6, 11, 12), 17, (3, 2), True, dilations=(2, 3), pads=((1, 2), (0, 1))),
    "padding wider than the window": conv((1, 5, 4, 3), 7, (2, 2), True, pads=((3, 3), (2, 4))),
    "one channel": conv((1, 1, 12, 13), 9, (3, 3), pads=((1, 1), (1, 1)), epilogue=PLAIN),
    "two groups": conv((1, 16, 7, 9), 22, (3, 3), True, groups=2, pads=((1, 1), (1, 1)), epilogue=RESIDUAL),
    "slices": conv((2, 13, 6, 7), 17, (3, 3), gap=3, offset=2, pads=((1, 1), (1, 1)), epilogue=RESIDUAL),
    "NCHW": conv((2, 13, 6, 7), 17, (3, 3), True, x_order=NCHW, out_order=NCHW, residual_order=NCHW, epilogue=RESIDUAL),
    "1-d": conv((2, 16, 40), 31, (3,), pads=((1,), (1,)), epilogue=RESIDUAL),
    "1-d, stride, signed": conv((1, 20, 300), 33, (3,), True, strides=(2,), epilogue=BIAS_RELU),
    "1-d, unknown": conv((B, 8, S), 9, (5,), True, pads=((2,), (2,)), env={"B": 2, "S": 45}, epilogue=RESIDUAL),
    "2-d, unknown": conv((B, 8, S, S + 1), 9, (3, 3), pads=((1, 1), (1, 1)), env={"B": 2, "S": 9}),
    "3-d": conv((1, 5, 4, 5, 6), 7, (3, 2, 3), True, pads=((1, 0, 1), (1, 1, 1)), epilogue=RESIDUAL),
}


@every_configuration
def test_against_int64(configuration: Configuration, subtests: pytest.Subtests) -> None:
    check_all(CASES, KERNEL, configuration, subtests)


@pytest.mark.parametrize("configuration", VNNI, ids=lambda c: c.cpu)
def test_with_dot_instruction(configuration: Configuration, subtests: pytest.Subtests) -> None:
    check_all(CASES, KERNEL, configuration, subtests)


def test_refusals_name_the_reason() -> None:
    floats = cases.conv((1, 4, 5, 5), 4, window((3, 3)))
    assert KERNEL.accepts(floats.site(), X86) == "no conv of FLOAT"
