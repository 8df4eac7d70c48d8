"""DeformConv: a convolution whose taps lie where data says."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from itertools import product as cartesian
from typing import Any

from graphfuse.graph import dims as D
from graphfuse.graph.dims import is_static
from graphfuse.graph.dtypes import I64
from graphfuse.ops import expr as E
from graphfuse.ops.expr import Const, Expr
from graphfuse.ops.grid import tap, taps_around
from graphfuse.ops.matmul import matrix_product
from graphfuse.ops.registry import NotSupported, OpNode, op
from graphfuse.ops.samples import Sample, floats, sample
from graphfuse.ops.tensor import Tensor, generate, load, map_, reshape, size
from graphfuse.ops.windows import explicit_pads, per_axis


def _samples() -> list[Sample]:
    x, w = floats(2, 4, 7, 6), floats(6, 4, 3, 3, seed=1)
    offset = floats(2, 18, 7, 6, low=-1.5, high=1.5, seed=2)
    mask = floats(2, 9, 7, 6, low=0, high=1, seed=3)
    around: dict[str, Any] = {"pads": [1, 1, 1, 1], "kernel_shape": [3, 3], "fixed": [1]}
    return [
        sample(x, w, offset, constants=[1], **around),
        sample(x, w, offset, floats(6), mask, constants=[1, 3], **around),
        sample(x, w[:, :2], offset, floats(6), constants=[1, 3], group=2, **around),
        sample(x, w, floats(2, 36, 7, 6, seed=4), constants=[1], offset_group=2, **around),
        sample(x, w, offset[:, :, :3, :2], None, mask[:, :, :3, :2], constants=[1], strides=[2, 2], fixed=[1]),
        sample(x, floats(6, 4, 2, 3), floats(2, 12, 5, 2), constants=[1], dilations=[2, 2], symbolic=False),
        sample(x[..., 0], w[..., 0], offset[..., 0], rejected="rank 3", reference="onnx"),
    ]


@op("DeformConv", samples=_samples)
def deform_conv(node: OpNode) -> Tensor:
    """The sampled pixels as columns, times the weights as a matrix."""
    x, w, offset, bias, mask = (*(node.input(k) for k in range(3)), node.optional(3), node.optional(4))
    if x.rank != 4:
        raise NotSupported(f"an input of rank {x.rank}")
    if not is_static(x.shape[1], *w.shape):
        raise NotSupported("the number of channels and the kernel must be known at compile time")
    groups, sharing = node.attr("group", 1), node.attr("offset_group", 1)
    channels, outputs, kernel = int(x.shape[1]), int(w.shape[0]), (int(w.shape[2]), int(w.shape[3]))
    count = kernel[0] * kernel[1]
    if channels != int(w.shape[1]) * groups or outputs % groups or channels % sharing:
        raise NotSupported(f"{channels} channels in, {outputs} out, {groups} groups, {sharing} groups of offsets")
    batch, place = x.shape[0], offset.shape[2:]
    offsets = reshape(offset, (batch, sharing * count, 2, *place))
    strides, dilations = per_axis(node, "strides", 2, 1), per_axis(node, "dilations", 2, 1)
    before, _ = explicit_pads(node, 2)

    def coordinate(axis: int) -> Tensor:
        """Where each tap lies along an axis, [batch, groups of offsets * taps, *place]."""

        def element(i: Sequence[Expr]) -> Expr:
            k = E.floormod(i[1], count)
            at = E.floordiv(k, kernel[1]) if axis == 0 else E.floormod(k, kernel[1])
            base = i[2 + axis] * strides[axis] - size(before[axis]) + at * dilations[axis]
            return E.cast(base, x.dtype) + load(offsets, (i[0], i[1], Const(axis, I64), i[2], i[3]))

        return generate((batch, sharing * count, *place), element, offsets)

    places = [coordinate(0), coordinate(1)]
    weighed = None if mask is None else reshape(mask, (batch, sharing * count, *place))

    def column(i: Sequence[Expr]) -> Expr:
        n, c, k, *at = i
        index = (n, E.floordiv(c, channels // sharing) * count + k, *at)
        near = [taps_around(load(p, index), d, 2, "zeros", True) for p, d in zip(places, x.shape[2:], strict=True)]
        total = functools.reduce(lambda a, b: a + b, (tap(x, (n, c), choice) for choice in cartesian(*near)))
        return total if weighed is None else total * load(weighed, index)

    more = (x, *places) if weighed is None else (x, *places, weighed)
    columns = generate((batch, channels, count, *place), column, *more)
    inner, pixels = channels // groups * count, D.product(place)
    right = reshape(columns, (batch, groups, inner, pixels))
    y = matrix_product(reshape(w, (groups, outputs // groups, inner)), right)
    y = reshape(y, (batch, outputs, *place))
    return y if bias is None else map_(lambda v, b: v + b, y, reshape(bias, (outputs, 1, 1)))
