"""Pooling: windows and whole images."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import product as cartesian
from typing import Any

import numpy as np

from graphfuse.graph import dims as D
from graphfuse.graph.dims import Dim, is_static, same
from graphfuse.graph.dtypes import I64, is_float
from graphfuse.ops import expr as E
from graphfuse.ops.arithmetic import constant_power
from graphfuse.ops.expr import Const, Expr, Load, lift
from graphfuse.ops.loops import Builder, at, both, inside
from graphfuse.ops.registry import NotSupported, OpNode, op
from graphfuse.ops.samples import Sample, floats, int64, ints, sample, special
from graphfuse.ops.tensor import (
    Tensor,
    Window,
    constant,
    contract,
    count,
    generate,
    index_map,
    map_,
    reduce,
    reshape,
    size,
)
from graphfuse.ops.windows import explicit_pads, per_axis, sliding

# Positions of maxima are found one tap after the other in a single expression.
_MOST_TAPS = 1024
_HALVING: dict[str, Any] = {"kernel_shape": [2, 2], "strides": [2, 2]}
_HALVED = floats(1, 1, 2, 2)
_UNPOOL = np.array([[[[5, 7], [13, 15]]]], np.int64)


def _kernel(node: OpNode, x: Tensor) -> tuple[int, ...]:
    kernel = tuple(node.attr("kernel_shape"))
    if x.rank < 3 or len(kernel) != x.rank - 2:
        raise NotSupported(f"kernel_shape = {list(kernel)} on an input of rank {x.rank}")
    return kernel


def window_fold(kind: str, x: Tensor, space: Sequence[Dim], window: Window) -> Tensor:
    """A window fold to the spatial sizes `space`.

    Channels lie along the lanes of registers; where nobody knows how many there are, each is an image of its own.
    """
    if is_static(x.shape[1]):
        return contract(kind, (x,), (*x.shape[:2], *space), window)
    planes = D.product(x.shape[:2])
    y = contract(kind, (reshape(x, (planes, 1, *x.shape[2:])),), (planes, 1, *space), window)
    return reshape(y, (*x.shape[:2], *space))


def _window_samples() -> list[Sample]:
    image = floats(2, 3, 13, 17)
    return [
        sample(image, kernel_shape=[3, 3]),
        sample(image, kernel_shape=[3, 2], strides=[2, 2], pads=[1, 0, 1, 1]),
        sample(image, kernel_shape=[3, 3], strides=[2, 2], ceil_mode=1),
        sample(image, kernel_shape=[2, 2], strides=[3, 3], pads=[1, 1, 1, 1], ceil_mode=1),
        sample(image, kernel_shape=[2, 3], dilations=[2, 3]),
        sample(image, kernel_shape=[2, 2], auto_pad="SAME_UPPER"),
        sample(image, kernel_shape=[4, 3], auto_pad="SAME_LOWER", strides=[2, 2]),
        sample(image, kernel_shape=[3, 3], auto_pad="VALID", strides=[2, 1]),
        sample(floats(1, 2, 17), kernel_shape=[5], strides=[2], pads=[2, 2]),
        sample(floats(1, 2, 5, 6, 7), kernel_shape=[2, 3, 2], strides=[1, 2, 2]),
        sample(floats(1, 2, 17, dtype=float), kernel_shape=[3]),
    ]


@op(
    "MaxPool",
    samples=lambda: [
        *_window_samples(),
        sample(ints(1, 2, 7, 7, dtype="int8"), kernel_shape=[3, 3], pads=[1, 1, 1, 1]),
        sample(floats(2, 3, 7, 9), kernel_shape=[3, 3], pads=[1, 1, 1, 1], strides=[2, 2], outputs=2),
        sample(floats(2, 3, 7, 9), kernel_shape=[2, 3], dilations=[2, 1], storage_order=1, outputs=2),
        sample(np.round(floats(2, 3, 13)), kernel_shape=[4], outputs=2),
        sample(floats(1, 2, 5, 4, 6, dtype=float), kernel_shape=[2, 2, 3], outputs=2, ceil_mode=1),
        sample(floats(2, 3, 40, 40), kernel_shape=[33, 33], outputs=2, rejected="1089 elements"),
    ],
)
def max_pool(node: OpNode) -> list[Tensor | None]:
    x = node.input(0)
    window, out = sliding(node, x.shape[2:], _kernel(node, x))
    shape = (*x.shape[:2], *out)
    indices = _positions(node, x, shape, window) if len(node.node.outputs) > 1 else None
    return [window_fold("max_pool", x, shape[2:], window), indices]


def _positions(node: OpNode, x: Tensor, shape: Sequence[Dim], window: Window) -> Tensor:
    """Where in the whole input, counted row by row (or column by column), the first of the largest elements stands."""
    taps = math.prod(window.kernel)
    if taps > _MOST_TAPS:
        raise NotSupported(f"Indices of windows of {taps} elements")
    spatial = list(range(x.rank - 2))
    order = spatial[::-1] if node.attr("storage_order", 0) else spatial

    def element(i: Sequence[Expr]) -> Expr:
        best: Expr = lift(0, x.dtype)
        position: Expr = Const(-1, I64)
        for tap in cartesian(*map(range, window.kernel)):
            places = [
                i[2 + k] * window.strides[k] + tap[k] * window.dilations[k] - size(window.pads_before[k])
                for k in spatial
            ]
            here = both(*(c for k in spatial for c in (places[k] >= 0, places[k] < size(x.shape[2 + k]))))
            held = [inside(places[k], x.shape[2 + k]) for k in spatial]
            value = Load(x, (*i[:2], *held), here, lift(0, x.dtype))
            flat = i[0] * size(x.shape[1]) + i[1]
            for k in order:
                flat = flat * size(x.shape[2 + k]) + held[k]
            better = E.logical("and", here, E.logical("or", position < 0, value > best))
            best, position = E.where(better, value, best), E.where(better, flat, position)
        return position

    return generate(shape, element, x)


@op(
    "MaxUnpool",
    samples=lambda: [
        sample(floats(1, 1, 2, 2), _UNPOOL, kernel_shape=[2, 2], strides=[2, 2]),
        *(  # onnxruntime counts indices in the given output shape, the standard in the one before padding
            sample(_HALVED, _UNPOOL, int64(1, 1, 5, 5), constants=known, reference="onnx", symbolic=False, **_HALVING)
            for known in ([2], [])
        ),
        sample(floats(1, 1, 3), np.array([[[1, 2, 7]]], np.int64), kernel_shape=[3], strides=[3], pads=[1, 0]),
        sample(floats(2, 2), ints(2, 2, dtype=np.int64), kernel_shape=[2], rejected="rank 2", reference="onnx"),
    ],
)
def max_unpool(node: OpNode) -> Tensor:
    """The elements back at the places where MaxPool found them, zero elsewhere."""
    x, indices, kernel = node.input(0), node.input(1), _kernel(node, node.input(0))
    rank = len(kernel)
    strides = per_axis(node, "strides", rank, 1)
    before, after = explicit_pads(node, rank)
    spatial = [
        D.add(D.mul(D.add(n, -1), s), D.add(k, D.mul(-1, D.add(b, a))))
        for n, s, k, b, a in zip(x.shape[2:], strides, kernel, before, after, strict=True)
    ]
    pooled = (*x.shape[:2], *spatial)
    total = D.product(pooled)
    nest = Builder("max_unpool")
    y = nest.result((total,), x.dtype, start=Const(0.0 if is_float(x.dtype) else 0, x.dtype))
    with nest.phase(), nest.each(x.shape) as i:
        nest.store(y, (inside(at(indices, *i), total),), at(x, *i))
    whole = reshape(nest.tensors()[0], pooled)
    if node.optional(2) is None:
        return whole
    wanted = node.dims(2) or node.measure(node.input(2))
    if len(wanted) != x.rank:
        raise NotSupported(f"an output shape of {len(wanted)} sizes for an input of rank {x.rank}")
    if all(same(a, b) for a, b in zip(wanted, pooled, strict=True)):
        return whole

    def index(i: Sequence[Expr]) -> tuple[Expr, ...]:
        return tuple(inside(e, d) for e, d in zip(i, pooled, strict=True))

    def here(i: Sequence[Expr]) -> Expr:
        return both(*(e < size(d) for e, d in zip(i, pooled, strict=True)))

    return index_map(whole, wanted, index, guard=here, fill=lift(0, x.dtype))


@op(
    "AveragePool",
    samples=lambda: [
        *_window_samples(),
        *(
            sample(s.inputs[0], **s.attrs, count_include_pad=1)
            for s in _window_samples()
            if "pads" in s.attrs or "auto_pad" in s.attrs
        ),
    ],
)
def average_pool(node: OpNode) -> Tensor:
    x = node.input(0)
    include = bool(node.attr("count_include_pad", 0))
    window, out = sliding(node, x.shape[2:], _kernel(node, x), count_include_pad=include)
    return window_fold("average_pool", x, out, window)


@op(
    "LpPool",
    samples=lambda: [
        sample(floats(2, 3, 13, 17), kernel_shape=[3, 3]),
        sample(floats(2, 3, 13, 17), kernel_shape=[2, 3], strides=[2, 2], pads=[1, 1, 0, 1], p=1),
        sample(floats(2, 3, 13), kernel_shape=[3], p=3),
    ],
)
def lp_pool(node: OpNode) -> Tensor:
    """The sum over a window is a depthwise convolution with ones."""
    x, p = node.input(0), node.attr("p", 2)
    # As in `window_fold`.
    images = x if is_static(x.shape[1]) else reshape(x, (D.product(x.shape[:2]), 1, *x.shape[2:]))
    channels, kernel = int(images.shape[1]), _kernel(node, x)
    window, out = sliding(node, x.shape[2:], kernel, groups=channels)
    ones = constant(np.ones((channels, 1, *kernel), x.dtype.numpy()), "ones")
    powers = map_(lambda v: constant_power(E.unary("abs", v), p), images)
    total = contract("conv", (powers, ones), (*images.shape[:2], *out), window)
    return reshape(map_(lambda v: constant_power(v, 1 / p), total), (*x.shape[:2], *out))


def _global_samples() -> list[Sample]:
    return [
        sample(floats(2, 3, 13, 17)),
        sample(floats(2, 3, 17)),
        sample(floats(1, 2, 3, 4, 5)),
    ]


def _spatial_axes(x: Tensor) -> range:
    if x.rank < 3:
        raise NotSupported(f"an input of rank {x.rank} has no spatial axes")
    return range(2, x.rank)


@op("GlobalAveragePool", samples=lambda: [*_global_samples(), sample(special(1, 3, 5, 5))])
def global_average_pool(node: OpNode) -> Tensor:
    x = node.input(0)
    n = count(x, _spatial_axes(x))
    return map_(lambda s: s / E.cast(size(n), s.dtype), reduce("sum", x, _spatial_axes(x)))


@op("GlobalLpPool", samples=lambda: [sample(floats(2, 3), rejected="rank 2", reference="onnx")])
def global_lp_pool(node: OpNode) -> Tensor:
    x, p = node.input(0), node.attr("p", 2)
    powers = map_(lambda v: constant_power(E.unary("abs", v), p), x)
    return map_(lambda v: constant_power(v, 1 / p), reduce("sum", powers, _spatial_axes(x)))


@op("GlobalMaxPool", samples=_global_samples)
def global_max_pool(node: OpNode) -> Tensor:
    x = node.input(0)
    return reduce("max", x, _spatial_axes(x))
