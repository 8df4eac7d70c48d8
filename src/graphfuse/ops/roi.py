"""Pooling over regions of interest, whose places and sizes come from data."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from graphfuse.graph.dims import Dim
from graphfuse.graph.dtypes import I64, is_float
from graphfuse.ops import expr as E
from graphfuse.ops.expr import Const, Expr, Result
from graphfuse.ops.loops import Builder, at, both, inside
from graphfuse.ops.registry import NotSupported, OpNode, op
from graphfuse.ops.samples import Sample, floats, int64, sample
from graphfuse.ops.tensor import Tensor, size

# More samples along an axis of one bin than this are not taken: a box from data must not hang the program.
_MOST_SAMPLES = 1 << 16


def _align_samples() -> list[Sample]:
    x = floats(2, 3, 10, 12)
    boxes = np.array([[0, 0, 9, 9], [1.5, 2.25, 7, 4], [-3, -2, 20, 5], [4, 4, 4.5, 4.25]], np.float32)
    images = int64(0, 1, 1, 0)
    return [
        *(
            sample(x, boxes, images, output_height=3, output_width=2, sampling_ratio=ratio, mode=mode, fixed=[1])
            for ratio in (0, 2)
            for mode in ("avg", "max")
        ),
        sample(
            x,
            boxes,
            images,
            output_height=2,
            output_width=5,
            spatial_scale=0.5,
            coordinate_transformation_mode="output_half_pixel",
            fixed=[1],
        ),
        sample(floats(1, 1, 5, 5, dtype=float), boxes[:1].astype(float), images[:1], fixed=[1]),
        sample(x, boxes, images, mode="median", rejected="median", reference="onnx"),
    ]


@op("RoiAlign", samples=_align_samples)
def roi_align(node: OpNode) -> Tensor:
    """Bilinear samples on a grid over each bin of a box, their mean or the largest of their weighted corners."""
    x, boxes, images = node.input(0), node.input(1), node.input(2)
    mode, half = node.attr("mode", "avg"), node.attr("coordinate_transformation_mode", "half_pixel")
    if mode not in ("avg", "max") or half not in ("half_pixel", "output_half_pixel"):
        raise NotSupported(f"mode = {mode!r}, coordinate_transformation_mode = {half!r}")
    if x.rank != 4 or not is_float(x.dtype):
        raise NotSupported(f"an input of rank {x.rank}")
    pooled = (node.attr("output_height", 1), node.attr("output_width", 1))
    ratio, scale = node.attr("sampling_ratio", 0), node.attr("spatial_scale", 1.0)
    regions, channels = boxes.shape[0], x.shape[1]
    b = Builder("roi_align")
    y = b.result((regions, channels, *pooled), x.dtype)
    with b.phase(regions, channels) as (r, c):
        image = b.let(inside(E.cast(at(images, r), I64), x.shape[0]))
        axes = [_bins(b, boxes, r, k, pooled[k], scale, ratio, half == "half_pixel") for k in (0, 1)]
        with b.each(pooled) as bin_:
            total = b.variable(Const(0.0, x.dtype))
            started = b.variable(Const(0, I64))
            with b.loop(0, axes[0][2]) as i, b.loop(0, axes[1][2]) as j:
                places = [
                    b.let(start + E.cast(p, x.dtype) * step + (E.cast(s, x.dtype) + 0.5) * step / E.cast(n, x.dtype))
                    for (start, step, n), p, s in zip(axes, bin_, (i, j), strict=True)
                ]
                corners = _corners(b, x, image, c, places)
                if mode == "avg":
                    b.assign(total, total + (corners[0] + corners[1] + corners[2] + corners[3]))
                else:
                    largest = E.maximum(E.maximum(corners[0], corners[1]), E.maximum(corners[2], corners[3]))
                    b.assign(total, E.where(E.equal(started, 0), largest, E.maximum(total, largest)))
                    b.assign(started, 1)
            if mode == "avg":
                b.assign(total, total / E.cast(E.maximum(axes[0][2] * axes[1][2], 1), x.dtype))
            b.store(y, (r, c, *bin_), total)
    return b.tensors()[0]


@op("MaxRoiPool", samples=lambda: [sample(floats(1, 2, 5), floats(1, 5), rejected="rank 3", pooled_shape=[2, 2])])
def max_roi_pool(node: OpNode) -> Tensor:
    """The largest pixel of every bin of a box, whose corners are rounded to pixels; zero for an empty bin.

    As in Fast R-CNN (Girshick, 2015): a box is [image, x1, y1, x2, y2], its corners inclusive.
    """
    x, boxes = node.input(0), node.input(1)
    pooled, scale = tuple(node.attr("pooled_shape")), float(node.attr("spatial_scale", 1.0))
    if x.rank != 4 or len(pooled) != 2 or min(pooled) < 1 or not is_float(x.dtype):
        raise NotSupported(f"an input of rank {x.rank}, pooled to {list(pooled)}")
    regions, channels, extents = boxes.shape[0], x.shape[1], x.shape[2:]
    b = Builder("max_roi_pool")
    y = b.result((regions, channels, *pooled), x.dtype)
    with b.phase(regions, channels) as (r, c):
        image = b.let(inside(E.cast(_within(at(boxes, r, 0), x.shape[0]), I64), x.shape[0]))
        corners = [
            [b.let(_rounded(at(boxes, r, k) * scale, extents[axis])) for k in (2 - axis, 4 - axis)] for axis in (0, 1)
        ]
        sizes = [b.let(E.cast(E.maximum(end - start + 1, 1), x.dtype)) for start, end in corners]
        with b.each(pooled) as bin_:
            spans = []
            for (start, _), n, p, count, extent in zip(corners, sizes, bin_, pooled, extents, strict=True):
                step = n / float(count)
                low = E.cast(E.unary("floor", E.cast(p, x.dtype) * step), I64) + start
                high = E.cast(E.unary("ceil", E.cast(p + 1, x.dtype) * step), I64) + start
                spans.append([b.let(E.minimum(E.maximum(edge, 0), size(extent))) for edge in (low, high)])
            (top, bottom), (left, right) = spans
            best = b.variable(Const(0.0, x.dtype))
            with b.when(both(top < bottom, left < right)):
                b.assign(best, at(x, image, c, inside(top, extents[0]), inside(left, extents[1])))
            with b.loop(top, bottom) as i, b.loop(left, right) as j:
                b.assign(best, E.maximum(best, at(x, image, c, inside(i, extents[0]), inside(j, extents[1]))))
            b.store(y, (r, c, *bin_), best)
    return b.tensors()[0]


def _within(v: Expr, extent: Dim) -> Expr:
    """A number from data, held where it fits an integer: an axis and its length around it."""
    n = E.cast(size(extent), v.dtype)
    return E.minimum(E.maximum(v, -2.0 * n - 2.0), n * 3.0 + 2.0)


def _rounded(v: Expr, extent: Dim) -> Expr:
    """The nearest pixel, halves away from zero."""
    v = _within(v, extent)
    return E.cast(E.where(v < 0, E.unary("ceil", v - 0.5), E.unary("floor", v + 0.5)), I64)


def _bins(
    b: Builder, boxes: Tensor, r: Expr, axis: int, pooled: int, scale: float, ratio: int, half: bool
) -> tuple[Expr, Expr, Expr]:
    """Along an axis (0: height): where the box starts, the size of a bin, the samples in a bin."""
    start, end = (b.let(at(boxes, r, k) * scale - (0.5 if half else 0.0)) for k in (1 - axis, 3 - axis))
    extent = end - start if half else E.maximum(end - start, 1.0)
    step = b.let(extent / float(pooled))
    if ratio > 0:
        return start, step, Const(ratio, I64)
    count = E.cast(E.maximum(E.minimum(E.unary("ceil", step), float(_MOST_SAMPLES)), 0.0), I64)
    return start, step, b.let(E.minimum(E.maximum(count, 0), _MOST_SAMPLES))


def _corners(b: Builder, x: Tensor, image: Expr, c: Expr, places: Sequence[Expr]) -> list[Result]:
    """The four pixels around a place times their weights, zeros where it lies outside the image."""
    extents: tuple[Dim, ...] = x.shape[2:]
    reals = [E.cast(size(n), x.dtype) for n in extents]
    valid = both(*(t for p, n in zip(places, reals, strict=True) for t in (p >= -1.0, p <= n)))
    near = []
    for p, n, extent in zip(places, reals, extents, strict=True):
        held = b.let(E.minimum(E.maximum(p, 0.0), n - 1.0))
        low = b.let(inside(E.cast(held, I64), extent))
        part = b.let(held - E.cast(low, x.dtype))
        near.append(((low, 1.0 - part), (inside(low + 1, extent), part)))
    return [
        b.let(E.where(valid, at(x, image, c, row, column) * (v * w), 0)) for row, v in near[0] for column, w in near[1]
    ]
