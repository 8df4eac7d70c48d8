"""Convolutions of images with few channels against float64."""

from __future__ import annotations

import pytest
import sympy

from graphfuse.graph.dtypes import F64, I32
from graphfuse.kernels.conv_first import KERNEL

from .cases import conv, window
from .harness import BIAS_RELU, PLAIN, RESIDUAL, SWISH_GATE, X86, Case, Configuration, check_all, every_configuration

S = sympy.Symbol("S", integer=True, positive=True)
B = sympy.Symbol("B", integer=True, positive=True)
NCHW = (0, 1, 2, 3)


def first(shape: tuple, channels: int, kernel: tuple[int, int], pads: object = None, **settings: object) -> Case:
    """A case on channels-first images; `settings` go to the window or to the case by their names."""
    both = tuple(k // 2 for k in kernel)
    of_window = {k: settings.pop(k) for k in ("strides", "dilations") if k in settings}
    w = window(kernel, pads=pads or (both, both), **of_window)
    return conv(shape, channels, w, **{"epilogue": RESIDUAL, "x_order": NCHW, **settings})


CASES: dict[str, Case] = {
    "mobilenet": first((1, 3, 32, 32), 32, (3, 3), strides=(2, 2), epilogue=SWISH_GATE),
    "16 channels": first((1, 3, 19, 61), 16, (3, 3), strides=(2, 2), epilogue=BIAS_RELU),
    "resnet": first((2, 3, 23, 29), 64, (7, 7), strides=(2, 2)),
    "vgg": first((1, 3, 13, 17), 37, (3, 3)),
    "patches": first((1, 3, 16, 24), 40, (4, 4), pads=((0, 0), (0, 0)), strides=(4, 4), epilogue=BIAS_RELU),
    "grey": first((3, 1, 28, 28), 6, (5, 5), pads=((0, 0), (0, 0))),
    "four": first((1, 4, 7, 15), 24, (2, 3), pads=((0, 1), (1, 1)), strides=(3, 1)),
    "one pixel": first((1, 3, 1, 1), 5, (3, 3)),
    "window larger than the image": first((1, 2, 2, 3), 5, (5, 5), epilogue=PLAIN),
    "dilation": first((1, 3, 13, 15), 17, (3, 3), pads=((2, 3), (2, 3)), dilations=(2, 3)),
    "channels last": first((2, 3, 9, 11), 17, (3, 3), x_order=None),
    "NCHW all": first((2, 3, 7, 9), 13, (3, 3), out_order=NCHW, residual_order=NCHW),
    "slices": first((2, 3, 9, 11), 33, (3, 3), gap=5, offset=3),
    "open batch and height": first((B, 3, S, 15), 20, (3, 3), strides=(2, 2), env={"B": 2, "S": 12}),
    "f64": first((1, 3, 7, 9), 5, (3, 3), dtype=F64),
    "i32": first((1, 3, 7, 9), 5, (3, 3), dtype=I32, epilogue=PLAIN),
}


@every_configuration
def test_against_float64(configuration: Configuration, subtests: pytest.Subtests) -> None:
    check_all(CASES, KERNEL, configuration, subtests)


@pytest.mark.parametrize(
    ("case", "reason"),
    [
        (first((1, 8, 9, 9), 4, (3, 3)), "8 channels in 1 groups: only 1 to 4 channels in one"),
        (first((1, 3, 9, S), 4, (3, 3), env={"S": 9}), "the length of a line is not known at compile time"),
        (first((1, 3, 99, 99), 4, (3, 49)), "a window of 49 taps along the line is too wide"),
        (conv((1, 3, 99), 4, window((5,))), "not two spatial dimensions"),
    ],
)
def test_refusals_name_the_reason(case: Case, reason: str) -> None:
    assert KERNEL.accepts(case.site(), X86) == reason
