"""Random geometry: forms of the ops with the most attributes, static and symbolic, against onnxruntime."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from graphfuse.ops.registry import all_ops
from graphfuse.ops.samples import Sample, floats, int64, ints, sample
from ops.cases import case_of, expected, inferred, symbolic_model
from ops.running import interpret

OPS = {op.name: op for op in all_ops() if not op.domain}
FAR = 2**62


class Draw:
    """Small random choices, the same for the same seed."""

    def __init__(self, seed: int) -> None:
        self.rng = np.random.default_rng(seed)

    def number(self, low: int, high: int) -> int:
        return int(self.rng.integers(low, high, endpoint=True))

    def numbers(self, n: int, low: int, high: int) -> list[int]:
        return [self.number(low, high) for _ in range(n)]

    def one(self, *choices: Any) -> Any:
        return choices[self.number(0, len(choices) - 1)]


def window(draw: Draw, rank: int) -> dict[str, Any]:
    attrs: dict[str, Any] = {"strides": draw.numbers(rank, 1, 3)}
    if draw.one(True, False):
        attrs["pads"] = draw.numbers(2 * rank, 0, 2)
    return attrs


def conv(draw: Draw) -> Sample:
    rank, groups = draw.number(1, 3), draw.one(1, 1, 2, 3)
    inner, outer = draw.number(1, 2), draw.number(1, 3)
    x = floats(draw.number(1, 2), groups * inner, *draw.numbers(rank, 7, 9))
    w = floats(groups * outer, inner, *draw.numbers(rank, 1, 4), seed=1)
    same = {"auto_pad": draw.one("SAME_UPPER", "SAME_LOWER"), "strides": draw.numbers(rank, 1, 3)}
    dilated = window(draw, rank) | {"dilations": draw.numbers(rank, 1, 2)}
    return sample(x, w, constants=[1], group=groups, **draw.one(same, dilated))


def conv_transpose(draw: Draw) -> Sample:
    rank, groups = draw.number(1, 3), draw.one(1, 1, 2)
    inner, outer = draw.number(1, 2), draw.number(1, 3)
    x = floats(draw.number(1, 2), groups * inner, *draw.numbers(rank, 3, 5))
    w = floats(groups * inner, outer, *draw.numbers(rank, 3, 4), seed=1)
    attrs = window(draw, rank) | {"dilations": draw.numbers(rank, 1, 2)}
    attrs["output_padding"] = [draw.number(0, s - 1) for s in attrs["strides"]]
    return sample(x, w, constants=[1], group=groups, **attrs)


def pool(draw: Draw) -> Sample:
    rank = draw.number(1, 3)
    kernel = draw.numbers(rank, 2, 4)
    x = floats(draw.number(1, 2), draw.number(1, 3), *draw.numbers(rank, 7, 9))
    attrs: dict[str, Any] = {"strides": draw.numbers(rank, 1, 4), "ceil_mode": draw.number(0, 1)}
    attrs["pads"] = [draw.number(0, k - 1) for k in kernel * 2]
    return sample(x, kernel_shape=kernel, **attrs, **draw.one({}, {"dilations": draw.numbers(rank, 1, 2)}))


def average_pool(draw: Draw) -> Sample:
    drawn = pool(draw)
    return sample(*drawn.inputs, **drawn.attrs, count_include_pad=draw.number(0, 1))


def slices(draw: Draw) -> Sample:
    rank = draw.number(1, 3)
    axes = draw.rng.permutation(rank)[: draw.number(1, rank)].tolist()
    ends = [[draw.one(draw.number(-12, 12), draw.number(-3, 3), FAR, -FAR) for _ in axes] for _ in range(2)]
    steps = [draw.one(1, 1, 2, -1, -3, 5) for _ in axes]
    return sample(
        floats(*draw.numbers(rank, 1, 9)),
        *(int64(*v) for v in (*ends, axes, steps)),
        constants=[1, 2, 3, 4],
    )


def pad(draw: Draw) -> Sample:
    mode = draw.one("constant", "edge", "reflect", "wrap")
    shape = draw.numbers(draw.number(1, 3), 1, 6)
    low, high = (-1, 4) if mode == "constant" else (0, 4)
    limit = [high if mode in ("constant", "edge") else min(high, n - 1) for n in shape]
    x = floats(*shape)
    return sample(x, int64(*(draw.number(low, k) for k in limit * 2)), constants=[1], mode=mode)


def resize(draw: Draw) -> Sample:
    mode = draw.one("nearest", "linear", "cubic")
    names = ("half_pixel", "half_pixel_symmetric", "pytorch_half_pixel", "align_corners", "asymmetric")
    attrs: dict[str, Any] = {"mode": mode, "coordinate_transformation_mode": draw.one(*names), "fixed": [1]}
    if mode == "nearest":
        attrs["nearest_mode"] = draw.one("round_prefer_floor", "round_prefer_ceil", "floor", "ceil")
    if mode == "cubic":
        attrs["exclude_outside"] = draw.number(0, 1)
    x = floats(1, 2, draw.number(4, 7), draw.number(4, 7))
    if draw.one(True, False):
        scales = [draw.one(1, 2, 3, 4, 0.5, 1.5, 0.75, 1.3, 0.7, 2.7, 0.3) for _ in range(2)]
        return sample(x, None, np.array([1, 1, *scales], np.float32), constants=[2], **attrs)
    return sample(x, None, None, int64(1, 2, *draw.numbers(2, 1, 12)), constants=[3], **attrs)


def gather(draw: Draw) -> Sample:
    x = floats(*draw.numbers(draw.number(1, 3), 1, 6))
    axis = draw.number(0, x.ndim - 1)
    n = x.shape[axis]
    indices = ints(*draw.numbers(draw.number(0, 2), 1, 4), low=-n, high=n, dtype=np.int64)
    return sample(x, indices, constants=draw.one([], [1]), axis=axis)


FORMS: dict[str, Callable[[Draw], Sample]] = {
    "Conv": conv,
    "ConvTranspose": conv_transpose,
    "MaxPool": pool,
    "AveragePool": average_pool,
    "Slice": slices,
    "Pad": pad,
    "Resize": resize,
    "Gather": gather,
}


@pytest.mark.parametrize("seed", range(25))
@pytest.mark.parametrize("name", FORMS)
def test_random_form(name: str, seed: int) -> None:
    drawn = FORMS[name](Draw(seed))
    case = case_of(OPS[name], drawn, seed)
    note = f"{[x if x is None or x.size < 9 else x.shape for x in drawn.inputs]} {drawn.attrs}"
    (wanted,) = expected(case)
    symbolic, env = symbolic_model(case)
    for model, symbols in ((case.model, {}), (symbolic, env)):
        (actual,) = interpret(inferred(model), case.inputs, symbols)
        assert actual.shape == wanted.shape, note
        np.testing.assert_allclose(actual, wanted, rtol=1e-4, atol=2e-5, err_msg=note)
