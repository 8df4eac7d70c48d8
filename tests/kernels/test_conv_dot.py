"""Convolutions to few channels against float64."""

from __future__ import annotations

import pytest
import sympy

from graphfuse.kernels.conv_dot import KERNEL

from .cases import conv, window
from .harness import BIAS_RELU, PLAIN, RESIDUAL, SWISH_GATE, X86, Case, Configuration, check_all, every_configuration

S = sympy.Symbol("S", integer=True, positive=True)
B = sympy.Symbol("B", integer=True, positive=True)
NCHW = (0, 1, 2, 3)


def same(k: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    return (k // 2,) * 2, (k // 2,) * 2


W3 = window((3, 3), pads=same(3))
CASES: dict[str, Case] = {
    "one channel out": conv((1, 32, 9, 37), 1, W3, epilogue=SWISH_GATE),
    "one channel out, NCHW": conv((2, 32, 9, 37), 1, W3, epilogue=BIAS_RELU, out_order=NCHW, residual_order=NCHW),
    "one channel in and out": conv((1, 1, 7, 50), 1, window((3, 21), pads=((1, 10), (1, 10))), epilogue=PLAIN),
    "two channels out": conv((2, 17, 6, 19), 2, W3, epilogue=RESIDUAL),
    "wide window": conv((1, 8, 11, 30), 2, window((3, 39), pads=((1, 19), (1, 19))), epilogue=BIAS_RELU),
    "no padding": conv((2, 16, 9, 11), 2, window((3, 3)), epilogue=RESIDUAL),
    "slices": conv((2, 16, 9, 11), 2, window((3, 3)), epilogue=RESIDUAL, gap=5, offset=3),
    "stride 2": conv((1, 12, 13, 35), 1, window((5, 5), strides=(2, 2), pads=same(5)), epilogue=BIAS_RELU),
    "lines dilated": conv(
        (1, 8, 13, 15), 2, window((3, 3), dilations=(3, 1), pads=((3, 1), (3, 1))), epilogue=RESIDUAL
    ),
    "NCHW in": conv((2, 13, 7, 9), 2, W3, epilogue=RESIDUAL, x_order=NCHW),
    "window wider than the image": conv((1, 8, 2, 3), 1, window((5, 7), pads=((2, 3), (2, 3))), epilogue=PLAIN),
    "1-d": conv((2, 1, 700), 1, window((64,), strides=(3,)), epilogue=BIAS_RELU),
    "1-d, unknown": conv((B, 2, S), 2, window((9,), pads=((4,), (4,))), epilogue=RESIDUAL, env={"B": 2, "S": 333}),
    "unknown size": conv((B, 16, S, S), 1, W3, epilogue=RESIDUAL, env={"B": 2, "S": 21}),
}
# More channels than half the lanes of the narrower vectors.
WIDE: dict[str, Case] = {
    f"{o} channels out": conv((1, 8, 5, 23), o, window((3, 9), pads=((1, 4), (1, 4))), epilogue=RESIDUAL)
    for o in range(3, 9)
}


@every_configuration
def test_against_float64(configuration: Configuration, subtests: pytest.Subtests) -> None:
    most = configuration.target.lanes // 2
    wide = {name: case for name, case in WIDE.items() if case.out.shape[1] <= most}
    check_all({**CASES, **wide}, KERNEL, configuration, subtests)


def test_refusals_name_the_reason() -> None:
    def reason(case: Case) -> str | None:
        return KERNEL.accepts(case.site(), X86)

    assert reason(conv((1, 8, 9, 9), 5, W3)) == "5 channels out: enough for the lanes"
    assert reason(conv((1, 2, 9, 9), 1, W3)) == "a line of the window has 6 elements, fewer than lanes"
    assert reason(conv((1, 8, 9, 9), 2, window((3, 3), dilations=(1, 2)))) == (
        "the taps of a line are not next to each other"
    )
    assert reason(conv((1, 8, 9, 9), 2, window((3, 3), groups=2))) == "2 groups"
