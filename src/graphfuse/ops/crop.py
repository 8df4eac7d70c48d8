"""Cropping and padding around the centre, and sequences that are written or read from the other end."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from graphfuse.graph import dims as D
from graphfuse.graph.dims import Dim, is_static, same
from graphfuse.graph.dtypes import I64
from graphfuse.ops import expr as E
from graphfuse.ops.expr import Expr, lift
from graphfuse.ops.loops import inside
from graphfuse.ops.registry import NotSupported, OpNode, op
from graphfuse.ops.samples import floats, int64, ints, sample
from graphfuse.ops.tensor import Tensor, generate, index_map, load, map_, pad, size, slice_


@op(
    "CenterCropPad",
    samples=lambda: [
        sample(floats(7, 5), int64(4, 3), constants=[1], reference="onnx"),
        sample(floats(4, 3), int64(7, 6), constants=[1], reference="onnx"),
        sample(floats(2, 7, 3), int64(4, 6), constants=[1], axes=[1, -1], reference="onnx"),
        sample(ints(6, 6), int64(5, 9), constants=[1], reference="onnx"),
        sample(floats(7, 5), int64(4, 8), symbolic=False, reference="onnx"),
        sample(floats(7, 5), int64(4), constants=[1], rejected="1 size", reference="onnx"),
    ],
)
def center_crop_pad(node: OpNode) -> Tensor:
    x = node.input(0)
    wanted = node.dims(1) or node.measure(node.input(1))
    axes = [node.axis(a, x.rank) for a in node.attr("axes", None) or range(x.rank)]
    if len(axes) != len(wanted):
        raise NotSupported(f"{len(wanted)} size{'s' * (len(wanted) > 1)} for {len(axes)} axes")
    target = list(x.shape)
    for axis, n in zip(axes, wanted, strict=True):
        target[axis] = n
    changed = [axis for axis in axes if not same(x.shape[axis], target[axis])]
    if is_static(*(d for axis in changed for d in (x.shape[axis], target[axis]))):
        return _static(x, [int(target[a]) if a in changed else d for a, d in enumerate(x.shape)], changed)

    def shift(axis: int) -> Dim:
        """How far the result's start lies behind the input's."""
        cut = D.maximum(0, D.add(x.shape[axis], D.mul(-1, target[axis])))
        added = D.maximum(0, D.add(target[axis], D.mul(-1, x.shape[axis])))
        return D.add(D.floordiv(cut, 2), D.mul(-1, D.floordiv(added, 2)))

    shifts = {axis: size(shift(axis)) for axis in changed}

    def index(i: Sequence[Expr]) -> tuple[Expr, ...]:
        return tuple(inside(e + shifts[k], x.shape[k]) if k in shifts else e for k, e in enumerate(i))

    def guard(i: Sequence[Expr]) -> Expr | None:
        condition: Expr | None = None
        for axis, by in shifts.items():
            at = i[axis] + by
            here = E.logical("and", at >= 0, at < size(x.shape[axis]))
            condition = here if condition is None else E.logical("and", condition, here)
        return condition

    return index_map(x, target, index, guard=guard, fill=lift(0, x.dtype))


def _static(x: Tensor, target: list[Dim], changed: Sequence[int]) -> Tensor:
    starts, before = [0] * x.rank, [0] * x.rank
    kept, after = list(x.shape), [0] * x.rank
    for axis in changed:
        extent, wanted = int(x.shape[axis]), int(target[axis])
        kept[axis] = min(extent, wanted)
        starts[axis] = max(0, extent - wanted) // 2
        missing = max(0, wanted - extent)
        before[axis], after[axis] = missing // 2, missing - missing // 2
    cropped = slice_(x, starts, kept, [1] * x.rank)
    return pad(cropped, before, after, lift(0, x.dtype)) if any(after) else cropped


@op(
    "ReverseSequence",
    samples=lambda: [
        sample(floats(4, 3, 5), int64(4, 1, 3)),
        sample(floats(3, 7, 2), int64(1, 7, 4), batch_axis=0, time_axis=1),
        sample(ints(3, 5), int64(2, 5, 0), batch_axis=0, time_axis=1, reference="onnx"),
        sample(floats(4, 3), int64(4, 1, 3), batch_axis=1, time_axis=1, rejected="the same axis", reference="onnx"),
    ],
)
def reverse_sequence(node: OpNode) -> Tensor:
    """The first elements of each sequence in reverse, as many as its length says; the others as they are."""
    x, lengths = node.input(0), node.input(1)
    batch, time = node.axis(node.attr("batch_axis", 1), x.rank), node.axis(node.attr("time_axis", 0), x.rank)
    if batch == time:
        raise NotSupported("batch and time are the same axis")

    def index(i: Sequence[Expr]) -> tuple[Expr, ...]:
        length = E.cast(load(lengths, (i[batch],)), I64)
        mirrored = inside(length - 1 - i[time], x.shape[time])
        at = E.where(i[time] < length, mirrored, i[time])
        return tuple(at if k == time else e for k, e in enumerate(i))

    return index_map(x, x.shape, index, lengths)


@op(
    "TensorScatter",
    samples=lambda: [
        sample(floats(2, 3, 7, 4), floats(2, 3, 2, 4, seed=1), int64(1, 5), reference="onnx"),
        sample(floats(2, 3, 7, 4), floats(2, 3, 3, 4, seed=1), int64(5, 6), mode="circular", reference="onnx"),
        sample(floats(2, 7, 3), floats(2, 5, 3, seed=1), axis=1, reference="onnx"),
        sample(np.arange(12.0).reshape(2, 6), floats(2, 1, dtype=float), int64(0, 5), axis=-1, reference="onnx"),
        sample(floats(2, 7), floats(2, 3), mode="mirror", rejected="mirror", reference="onnx"),
        sample(floats(2, 7), floats(2, 3), axis=0, rejected="batch", reference="onnx"),
    ],
)
def tensor_scatter(node: OpNode) -> Tensor:
    """The cache with the update written from each sample's index on."""
    cache, update, starts = node.input(0), node.input(1), node.optional(2)
    axis, mode = node.axis(node.attr("axis", -2), cache.rank), node.attr("mode", "linear")
    if mode not in ("linear", "circular"):
        raise NotSupported(f"mode = {mode!r} is unknown")
    if axis == 0:
        raise NotSupported("axis 0 is that of the batch")
    total, written = size(cache.shape[axis]), update.shape[axis]

    def offset(i: Sequence[Expr]) -> Expr:
        """How far behind the first element written an element of the cache lies."""
        if starts is None:
            return i[axis]
        behind = i[axis] - E.cast(load(starts, i[:1]), I64)
        return E.floormod(behind, total) if mode == "circular" else behind

    def index(i: Sequence[Expr]) -> tuple[Expr, ...]:
        return (*i[:axis], inside(offset(i), written), *i[axis + 1 :])

    def replaced(i: Sequence[Expr]) -> Expr:
        behind = offset(i)
        return E.logical("and", behind >= 0, behind < size(written))

    more = () if starts is None else (starts,)
    new = index_map(update, cache.shape, index, *more)
    shape = [d if k in (0, axis) else 1 for k, d in enumerate(cache.shape)]
    return map_(E.where, generate(shape, replaced, *more), new, cache)
