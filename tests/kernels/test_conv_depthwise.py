"""Depthwise convolutions against float64."""

from __future__ import annotations

import pytest
import sympy

from graphfuse.graph.dtypes import F64, I32
from graphfuse.kernels.conv_depthwise import KERNEL

from .cases import conv, window
from .harness import BIAS_RELU, PLAIN, RESIDUAL, SWISH_GATE, X86, Case, Configuration, check_all, every_configuration

S = sympy.Symbol("S", integer=True, positive=True)
B = sympy.Symbol("B", integer=True, positive=True)
NCHW = (0, 1, 2, 3)


def depthwise(shape: tuple, kernel: tuple[int, ...], pads: object = None, **settings: object) -> Case:
    """A depthwise case; `settings` go to the window or to the case by their names."""
    rank = len(kernel)
    both = tuple(k // 2 for k in kernel) if pads is None else None
    around = (both, both) if both is not None else pads
    of_window = {k: settings.pop(k) for k in ("strides", "dilations") if k in settings}
    w = window(kernel, pads=around, groups=shape[1], **of_window)
    assert len(shape) == rank + 2
    return conv(shape, shape[1], w, **{"epilogue": RESIDUAL, **settings})


CASES: dict[str, Case] = {
    **{
        f"3x3 {c} on {h}x{w}": depthwise((1, c, h, w), (3, 3), epilogue=e)
        for (c, h, w), e in {
            (2, 1, 1): PLAIN,
            (3, 5, 7): BIAS_RELU,
            (5, 7, 5): RESIDUAL,
            (13, 13, 2): RESIDUAL,
            (16, 7, 13): SWISH_GATE,
            (17, 13, 14): RESIDUAL,
            (24, 1, 16): BIAS_RELU,
            (31, 9, 17): RESIDUAL,
            (33, 7, 7): RESIDUAL,
            (48, 5, 29): BIAS_RELU,
            (64, 13, 28): RESIDUAL,
        }.items()
    },
    "batch, several strips": depthwise((3, 20, 40, 56), (3, 3)),
    "stride 2": depthwise((2, 24, 13, 15), (3, 3), strides=(2, 2)),
    "stride 2, even": depthwise((2, 24, 14, 56), (3, 3), pads=((0, 0), (1, 1)), strides=(2, 2)),
    "stride 3x1": depthwise((1, 5, 13, 15), (2, 5), pads=((0, 2), (1, 1)), strides=(3, 1)),
    "no padding": depthwise((1, 17, 13, 15), (3, 3), pads=((0, 0), (0, 0))),
    "dilation": depthwise((1, 17, 13, 15), (3, 3), pads=((2, 3), (2, 3)), dilations=(2, 3)),
    "dilation wider than the image": depthwise((1, 3, 3, 3), (3, 3), pads=((4, 5), (4, 5)), dilations=(4, 5)),
    "padding wider than the window": depthwise((1, 3, 3, 3), (2, 2), pads=((3, 3), (3, 3))),
    "asymmetric": depthwise((1, 17, 7, 7), (3, 2), pads=((0, 1), (2, 0))),
    "5x5": depthwise((1, 33, 14, 14), (5, 5)),
    "7x7": depthwise((1, 17, 14, 13), (7, 7)),
    "7x7, stride 2": depthwise((1, 17, 14, 13), (7, 7), strides=(2, 2)),
    "large window": depthwise((1, 3, 20, 22), (13, 21)),
    "1x9": depthwise((1, 8, 7, 21), (1, 9)),
    "slices": depthwise((2, 13, 9, 11), (3, 3), gap=5, offset=3),
    "NCHW in": depthwise((2, 13, 7, 9), (3, 3), x_order=NCHW),
    "NCHW all": depthwise((2, 13, 7, 9), (3, 3), x_order=NCHW, out_order=NCHW, residual_order=NCHW),
    "f64": depthwise((1, 5, 7, 9), (3, 3), dtype=F64),
    "i32": depthwise((1, 5, 7, 9), (3, 3), dtype=I32, epilogue=PLAIN),
    "1-d": depthwise((2, 17, 37), (5,)),
    "3-d": depthwise((2, 5, 4, 6, 7), (3, 3, 3)),
    "3-d, flat": depthwise((2, 5, 4, 6, 7), (1, 3, 3), pads=((1, 1, 1), (1, 1, 1))),
    "3-d, strides": depthwise(
        (1, 5, 5, 6, 7), (3, 2, 3), pads=((1, 0, 1), (0, 1, 1)), strides=(2, 1, 2), dilations=(1, 2, 1)
    ),
    "unknown size": depthwise((B, 13, S, S), (3, 3), env={"B": 2, "S": 11}),
    "unknown size, stride": depthwise((B, 13, S, S + 1), (5, 5), strides=(2, 2), env={"B": 2, "S": 12}),
    "unknown size, tiny": depthwise((B, 13, S, S), (7, 7), env={"B": 1, "S": 2}),
    "unknown size, no padding": depthwise((1, 13, S, S), (3, 3), pads=((0, 0), (0, 0)), env={"S": 5}),
    "unknown padding": depthwise((1, 5, 9, 11), (3, 3), pads=((S, 1), (1, S)), env={"S": 2}),
}


@every_configuration
def test_against_float64(configuration: Configuration, subtests: pytest.Subtests) -> None:
    check_all(CASES, KERNEL, configuration, subtests)


def test_refuses_groups_of_several_channels() -> None:
    site = conv((1, 4, 5, 5), 8, window((3, 3), groups=4)).site()
    reason = KERNEL.accepts(site, X86)
    assert reason == "4 groups for 4 channels in and 8 out: not one to one"
