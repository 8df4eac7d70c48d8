"""Direct convolutions of every shape against float64."""

from __future__ import annotations

import pytest
import sympy

from graphfuse.graph.dtypes import F64, I32
from graphfuse.kernels.conv_direct import KERNEL

from .cases import conv, window
from .harness import BIAS_RELU, PLAIN, RESIDUAL, SWISH_GATE, X86, Case, Configuration, check_all, every_configuration

S = sympy.Symbol("S", integer=True, positive=True)
B = sympy.Symbol("B", integer=True, positive=True)
NCHW = (0, 1, 2, 3)


def same(k: int, rank: int = 2) -> tuple[tuple[int, ...], tuple[int, ...]]:
    return (k // 2,) * rank, (k // 2,) * rank


W3 = window((3, 3), pads=same(3))
CASES: dict[str, Case] = {
    **{
        f"3x3 {c}->{o} on {h}x{w}": conv((1, c, h, w), o, W3, epilogue=e)
        for (c, o, h, w), e in {
            (1, 1, 1, 1): PLAIN,
            (3, 16, 5, 7): BIAS_RELU,
            (5, 13, 7, 5): RESIDUAL,
            (13, 17, 13, 1): RESIDUAL,
            (16, 24, 7, 13): SWISH_GATE,
            (17, 31, 13, 13): RESIDUAL,
            (24, 33, 1, 13): BIAS_RELU,
            (33, 48, 7, 7): RESIDUAL,
            (48, 64, 5, 29): BIAS_RELU,
            (64, 5, 13, 7): RESIDUAL,
        }.items()
    },
    "batch": conv((3, 5, 7, 9), 17, W3, epilogue=RESIDUAL),
    "no padding": conv((2, 16, 9, 11), 17, window((3, 3)), epilogue=RESIDUAL),
    "no padding, slices": conv((2, 16, 9, 11), 17, window((3, 3)), epilogue=RESIDUAL, gap=5, offset=3),
    "padding, slices": conv((2, 13, 9, 11), 17, W3, epilogue=RESIDUAL, gap=5, offset=3),
    "rows padded only": conv((1, 8, 9, 11), 17, window((3, 3), pads=((1, 0), (1, 0))), epilogue=RESIDUAL),
    "stride 2": conv((2, 13, 13, 15), 17, window((3, 3), strides=(2, 2), pads=same(3)), epilogue=RESIDUAL),
    "stride 2, no padding": conv((1, 13, 13, 15), 17, window((3, 3), strides=(2, 2)), epilogue=RESIDUAL),
    "stride 3x1": conv((1, 4, 13, 15), 17, window((2, 5), strides=(3, 1), pads=((0, 2), (1, 1))), epilogue=RESIDUAL),
    "dilation": conv((1, 8, 13, 15), 17, window((3, 3), dilations=(2, 3), pads=((2, 3), (2, 3))), epilogue=RESIDUAL),
    "dilation, no padding": conv((1, 8, 13, 15), 17, window((3, 3), dilations=(2, 3)), epilogue=RESIDUAL),
    "dilation wider than the image": conv(
        (1, 3, 3, 3), 5, window((3, 3), dilations=(4, 5), pads=((4, 5), (4, 5))), epilogue=RESIDUAL
    ),
    "asymmetric": conv((1, 8, 7, 7), 17, window((3, 2), pads=((0, 1), (2, 0))), epilogue=RESIDUAL),
    "padding wider than the window": conv((1, 2, 3, 3), 5, window((2, 2), pads=((3, 3), (3, 3))), epilogue=RESIDUAL),
    "even kernel": conv((1, 8, 8, 8), 16, window((4, 4), strides=(2, 2), pads=((1, 1), (1, 1))), epilogue=BIAS_RELU),
    "1x7": conv((1, 8, 7, 13), 16, window((1, 7), pads=((0, 3), (0, 3))), epilogue=BIAS_RELU),
    "7x1": conv((1, 8, 13, 7), 16, window((7, 1), pads=((3, 0), (3, 0))), epilogue=BIAS_RELU),
    "1x1 with padding": conv((1, 8, 5, 5), 16, window((1, 1), pads=((1, 1), (0, 2))), epilogue=BIAS_RELU),
    "patches": conv((2, 3, 16, 16), 24, window((8, 8), strides=(8, 8)), epilogue=BIAS_RELU, x_order=NCHW),
    "first layer 7x7": conv(
        (2, 3, 31, 29), 64, window((7, 7), strides=(2, 2), pads=same(7)), epilogue=BIAS_RELU, x_order=NCHW
    ),
    "NCHW in": conv((2, 13, 7, 9), 17, W3, epilogue=RESIDUAL, x_order=NCHW),
    "NCHW in, no padding": conv((2, 2, 7, 9), 17, window((3, 3)), epilogue=RESIDUAL, x_order=NCHW),
    "NCHW all": conv((2, 13, 7, 9), 17, W3, epilogue=RESIDUAL, x_order=NCHW, out_order=NCHW, residual_order=NCHW),
    "2 groups": conv((1, 8, 7, 9), 34, window((3, 3), pads=same(3), groups=2), epilogue=RESIDUAL),
    "4 groups, NCHW": conv((1, 12, 7, 9), 20, window((3, 3), pads=same(3), groups=4), epilogue=RESIDUAL, x_order=NCHW),
    "groups, no padding": conv((2, 9, 7, 9), 51, window((3, 3), groups=3), epilogue=RESIDUAL),
    "groups of wide output": conv((1, 4, 5, 6), 160, window((3, 3), pads=same(3), groups=2), epilogue=RESIDUAL),
    "depthwise multiplier": conv((1, 5, 7, 9), 15, window((3, 3), pads=same(3), groups=5), epilogue=RESIDUAL),
    "f64": conv((1, 5, 7, 9), 17, W3, dtype=F64, epilogue=RESIDUAL),
    "i32": conv((1, 5, 7, 9), 17, W3, dtype=I32),
    "1-d": conv((2, 8, 37), 17, window((5,), pads=((2,), (2,))), epilogue=RESIDUAL),
    "1-d, long": conv((1, 8, 700), 17, window((5,), strides=(2,), pads=((2,), (2,))), epilogue=RESIDUAL),
    "1-d, long, no padding": conv((2, 8, 700), 40, window((5,), dilations=(3,)), epilogue=RESIDUAL),
    "1-d, long, unknown": conv(
        (B, 8, S), 17, window((5,), pads=((2,), (2,))), epilogue=RESIDUAL, env={"B": 2, "S": 333}
    ),
    "3-d": conv((2, 5, 4, 6, 7), 17, window((3, 3, 3), pads=same(3, 3)), epilogue=RESIDUAL),
    "3-d, strides": conv(
        (1, 5, 5, 6, 7), 17, window((3, 2, 3), strides=(2, 1, 2), dilations=(1, 2, 1)), epilogue=RESIDUAL
    ),
    "unknown size": conv((B, 13, S, S), 17, W3, epilogue=RESIDUAL, env={"B": 2, "S": 11}),
    "unknown size, strides": conv(
        (1, 3, S, S + 2),
        17,
        window((3, 3), strides=(2, 2), pads=same(3)),
        epilogue=RESIDUAL,
        x_order=NCHW,
        env={"S": 9},
    ),
    "unknown size, no padding": conv((B, 13, S, 17), 17, window((3, 3)), epilogue=RESIDUAL, env={"B": 2, "S": 11}),
    "unknown padding": conv((1, 5, 9, 11), 17, window((3, 3), pads=((S, 1), (1, S))), epilogue=RESIDUAL, env={"S": 2}),
    "several strips": conv((1, 64, 40, 60), 17, W3, epilogue=RESIDUAL),
}


@every_configuration
def test_against_float64(configuration: Configuration, subtests: pytest.Subtests) -> None:
    check_all(CASES, KERNEL, configuration, subtests)


def test_lines() -> None:
    site = conv((1, 3, 31, 29), 8, window((7, 7), strides=(2, 2), dilations=(2, 1), pads=((3, 3), (3, 3)))).site()
    lines = KERNEL.lines(site, X86)
    assert lines is not None
    assert (lines.height, lines.source_height) == (13, 31)
    assert (lines.stride, lines.before, lines.extent) == (2, 3, 13)


def test_refusals_name_the_reason() -> None:
    unknown = conv((1, 4, 5, 5), 4, window((3, 3)))
    unknown.constants.clear()
    assert KERNEL.accepts(unknown.site(), X86) == "the weights are not known at compile time"
    assert (
        KERNEL.accepts(conv((1, 4, 5, 5), 4, window((3, 3), pads=((-1, 0), (0, 0)))).site(), X86) == "negative padding"
    )
