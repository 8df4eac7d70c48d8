"""Maximum and average pooling against NumPy, NaN and infinity included."""

from __future__ import annotations

import numpy as np
import pytest
import sympy

from graphfuse.graph.dtypes import F64, I8, I64, U8
from graphfuse.kernels.pool import KERNEL

from .cases import pool, window
from .harness import RESIDUAL, X86, Case, Configuration, Memory, build, check_all, every_configuration

S = sympy.Symbol("S", integer=True, positive=True)
B = sympy.Symbol("B", integer=True, positive=True)
NCHW = (0, 1, 2, 3)
ONE = ((1, 1), (1, 1))


def both(name: str, *args: object, **kwargs: object) -> dict[str, Case]:
    """The case as maximum, as average over the image, and as average over the padded image."""
    shape, w = args
    padded = window(
        w.kernel, strides=w.strides, dilations=w.dilations, pads=(w.pads_before, w.pads_after), count_include_pad=True
    )
    return {
        f"max, {name}": pool("max_pool", shape, w, **kwargs),
        f"mean, {name}": pool("average_pool", shape, w, **kwargs),
        f"mean with zeros, {name}": pool("average_pool", shape, padded, **kwargs),
    }


CASES: dict[str, Case] = {
    **both("3x3", (2, 17, 13, 15), window((3, 3), strides=(2, 2), pads=ONE)),
    **both("2x2", (1, 5, 8, 10), window((2, 2), strides=(2, 2)), epilogue=RESIDUAL),
    **both("rounded up", (1, 33, 6, 7), window((3, 3), strides=(2, 3), pads=ONE), out_shape=(4, 3)),
    **both("rounded up, no padding", (1, 3, 8, 8), window((3, 3), strides=(2, 2)), out_shape=(4, 4)),
    **both("asymmetric", (1, 16, 7, 7), window((3, 2), pads=((0, 1), (2, 0)))),
    **both("dilation", (1, 24, 9, 11), window((3, 2), dilations=(2, 3), pads=((1, 1), (2, 1)))),
    **both("whole image", (2, 48, 7, 7), window((7, 7))),
    **both("large window", (1, 3, 30, 30), window((15, 17), strides=(2, 1), pads=((7, 8), (7, 8)))),
    **both("slices", (2, 13, 9, 11), window((3, 3), pads=ONE), gap=5, offset=3),
    **both("NCHW in", (2, 13, 9, 11), window((3, 3), pads=ONE), x_order=NCHW),
    **both("NCHW", (2, 13, 9, 11), window((3, 3), pads=ONE), x_order=NCHW, out_order=NCHW),
    **both("1-d", (2, 17, 37), window((5,), strides=(2,), pads=((2,), (1,)))),
    **both("3-d", (1, 5, 5, 6, 7), window((2, 3, 2), strides=(1, 2, 2), pads=((1, 0, 1), (0, 1, 0)))),
    **both("unknown size", (B, 13, S, S), window((3, 3), strides=(2, 2), pads=ONE), env={"B": 2, "S": 11}),
    **both("unknown size, tiny", (B, 13, S, S), window((3, 3), pads=ONE), env={"B": 1, "S": 1}),
    **both("f64", (1, 5, 7, 9), window((3, 3), pads=ONE), dtype=F64),
    "max of int8": pool("max_pool", (1, 33, 7, 9), window((3, 3), pads=ONE), dtype=I8),
    "max of uint8": pool("max_pool", (1, 33, 7, 9), window((3, 3), pads=ONE), dtype=U8),
    "max of int64": pool("max_pool", (1, 3, 7, 9), window((3, 3), pads=ONE), dtype=I64),
}


@every_configuration
def test_against_numpy(configuration: Configuration, subtests: pytest.Subtests) -> None:
    check_all(CASES, KERNEL, configuration, subtests)


@every_configuration
def test_padding_never_wins_and_nan_does(configuration: Configuration, monkeypatch: pytest.MonkeyPatch) -> None:
    case = pool("max_pool", (1, 20, 5, 5), window((3, 3), pads=ONE))
    values = np.full((1, 20, 5, 5), -np.inf, np.float32)
    values[0, 3] = np.nan
    values[0, 4, 2, 2] = np.nan
    values[0, 5] = -3.0
    monkeypatch.setattr(Memory, "_values", lambda self, rng, t, view: values)
    result = build({"": case}, KERNEL, configuration)[""].run()
    assert (result[0, 0] == -np.inf).all()
    assert np.isnan(result[0, 3]).all()
    assert np.isnan(result[0, 4, 1:4, 1:4]).all()
    assert (result[0, 4, 0] == -np.inf).all()
    assert (result[0, 5] == -3.0).all()


def test_refusals_name_the_reason() -> None:
    site = pool("average_pool", (1, 3, 7, 9), window((3, 3)), dtype=I8).site()
    assert KERNEL.accepts(site, X86) == "no average_pool of INT8"
    unknown = pool("max_pool", (1, S, 7, 9), window((3, 3)), env={"S": 3}).site()
    assert KERNEL.accepts(unknown, X86) == "the number of channels is not known at compile time"
