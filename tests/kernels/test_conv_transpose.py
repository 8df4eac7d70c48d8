"""Transposed convolutions against float64."""

from __future__ import annotations

import pytest
import sympy

from graphfuse.graph.dtypes import F64
from graphfuse.kernels.conv_transpose import KERNEL

from .cases import conv_transpose, window
from .harness import BIAS_RELU, PLAIN, RESIDUAL, SWISH_GATE, X86, Case, Configuration, check_all, every_configuration

S = sympy.Symbol("S", integer=True, positive=True)
B = sympy.Symbol("B", integer=True, positive=True)
NCHW = (0, 1, 2, 3)
ONE = ((1, 1), (1, 1))
TWICE = window((2, 2), strides=(2, 2))

CASES: dict[str, Case] = {
    **{
        f"2x2, stride 2, {c}->{o} on {h}x{w}": conv_transpose((1, c, h, w), o, TWICE, epilogue=e)
        for (c, o, h, w), e in {
            (1, 1, 1, 1): PLAIN,
            (3, 16, 5, 7): BIAS_RELU,
            (13, 17, 7, 5): RESIDUAL,
            (16, 24, 7, 13): SWISH_GATE,
            (24, 33, 13, 1): RESIDUAL,
            (48, 64, 5, 16): BIAS_RELU,
        }.items()
    },
    "4x4, stride 2": conv_transpose((2, 13, 7, 9), 17, window((4, 4), strides=(2, 2), pads=ONE), epilogue=RESIDUAL),
    "3x3, stride 2, more": conv_transpose(
        (1, 13, 7, 9), 17, window((3, 3), strides=(2, 2), pads=ONE), more=(1, 1), epilogue=RESIDUAL
    ),
    "3x3, stride 1": conv_transpose((1, 8, 7, 9), 17, window((3, 3), pads=ONE), epilogue=RESIDUAL),
    "3x3, stride 1, no padding": conv_transpose((1, 8, 7, 9), 17, window((3, 3)), epilogue=RESIDUAL),
    "stride wider than the window": conv_transpose((1, 8, 5, 6), 17, window((2, 1), strides=(3, 4)), epilogue=RESIDUAL),
    "stride wider, more": conv_transpose(
        (1, 8, 5, 6), 17, window((2, 2), strides=(3, 3)), more=(2, 2), epilogue=RESIDUAL
    ),
    "asymmetric": conv_transpose(
        (1, 5, 7, 9), 17, window((3, 5), strides=(2, 3), pads=((0, 1), (2, 3))), epilogue=RESIDUAL
    ),
    "dilation": conv_transpose(
        (1, 5, 7, 9), 17, window((3, 3), strides=(2, 2), dilations=(2, 3), pads=ONE), epilogue=RESIDUAL
    ),
    "dilation, stride 3": conv_transpose(
        (1, 5, 4, 5), 17, window((3, 3), strides=(3, 3), dilations=(2, 2)), epilogue=RESIDUAL
    ),
    "cut to little": conv_transpose((1, 5, 4, 4), 17, window((3, 3), pads=((2, 2), (2, 2))), epilogue=RESIDUAL),
    "2 groups": conv_transpose((1, 8, 5, 7), 34, window((3, 3), strides=(2, 2), pads=ONE, groups=2), epilogue=RESIDUAL),
    "depthwise": conv_transpose((1, 5, 5, 7), 5, window((4, 4), strides=(2, 2), pads=ONE, groups=5), epilogue=RESIDUAL),
    "slices": conv_transpose((2, 13, 5, 6), 17, TWICE, epilogue=RESIDUAL, gap=5, offset=3),
    "NCHW in": conv_transpose((2, 13, 5, 6), 17, TWICE, epilogue=RESIDUAL, x_order=NCHW),
    "NCHW": conv_transpose(
        (2, 3, 5, 6), 17, window((3, 3), strides=(2, 2), pads=ONE), epilogue=RESIDUAL, x_order=NCHW, out_order=NCHW
    ),
    "f64": conv_transpose((1, 5, 5, 6), 17, TWICE, dtype=F64, epilogue=RESIDUAL),
    "1-d": conv_transpose((2, 8, 17), 17, window((4,), strides=(2,), pads=((1,), (1,))), epilogue=RESIDUAL),
    "1-d, long": conv_transpose((1, 8, 333), 17, window((5,), strides=(3,), pads=((2,), (1,))), epilogue=RESIDUAL),
    "3-d": conv_transpose((1, 5, 3, 4, 5), 17, window((2, 3, 2), strides=(2, 1, 2)), epilogue=RESIDUAL),
    "unknown size": conv_transpose((B, 13, S, S), 17, TWICE, epilogue=RESIDUAL, env={"B": 2, "S": 11}),
    "unknown size, odd": conv_transpose(
        (1, 13, S, S + 1), 17, window((3, 3), strides=(2, 2), pads=ONE), epilogue=RESIDUAL, env={"S": 6}
    ),
    "several strips": conv_transpose((1, 64, 40, 60), 17, TWICE, epilogue=RESIDUAL),
}


@every_configuration
def test_against_float64(configuration: Configuration, subtests: pytest.Subtests) -> None:
    check_all(CASES, KERNEL, configuration, subtests)


def test_refuses_other_contractions() -> None:
    from .cases import conv

    reason = KERNEL.accepts(conv((1, 4, 5, 5), 4, window((3, 3))).site(), X86)
    assert reason == "conv is not conv_transpose"
