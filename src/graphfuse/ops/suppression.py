"""Selection of boxes: the best of each class that do not overlap a better one."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from graphfuse.graph import dims as D
from graphfuse.graph.dims import Dim
from graphfuse.graph.dtypes import BOOL, I64
from graphfuse.ops import expr as E
from graphfuse.ops.expr import Const, Expr, Result
from graphfuse.ops.loops import Builder, at, both
from graphfuse.ops.registry import NotSupported, OpNode, op
from graphfuse.ops.samples import Sample, floats, int64, sample, scalar
from graphfuse.ops.sorting import Sorter, key_type, sort_key
from graphfuse.ops.tensor import Tensor, size


def _samples() -> list[Sample]:
    corners = np.sort(floats(2, 30, 2, 2, low=0.0, high=2.0), axis=2)
    boxes = np.concatenate([corners[:, :, 0], corners[:, :, 1]], axis=2)
    flipped = boxes[:, :, [2, 1, 0, 3]]
    centred = np.concatenate([floats(2, 30, 2, low=0, high=2), floats(2, 30, 2, low=0.2, high=1, seed=1)], axis=2)
    scores = floats(2, 3, 30, low=0.0, high=1.0)
    many, overlap, least = int64(5), np.array([0.3], np.float32), np.array([0.4], np.float32)
    return [
        sample(boxes, scores, many, overlap, least, constants=[2, 3, 4], fixed=[0, 2]),
        sample(flipped, scores, many, overlap, constants=[2, 3], fixed=[0, 2]),
        sample(centred, scores, int64(100), overlap, least, constants=[2, 3, 4], center_point_box=1, fixed=[0, 2]),
        sample(boxes, scores, many, overlap, least, fixed=[0, 2], symbolic=False),
        sample(
            boxes, np.round(scores, 1), scalar(7, np.int64), scalar(0.5), scalar(0.1), constants=[2], symbolic=False
        ),
        sample(boxes, scores, many, overlap, np.array([2.0], np.float32), constants=[2, 3, 4], symbolic=False),
        sample(boxes, scores, None, overlap, constants=[3], symbolic=False),
    ]


@dataclass(frozen=True)
class _Box:
    """A box between two corners, the lower one first, and its area."""

    low: tuple[Expr, Expr]
    high: tuple[Expr, Expr]

    @property
    def area(self) -> Expr:
        return (self.high[0] - self.low[0]) * (self.high[1] - self.low[1])


def _box(b: Builder, boxes: Tensor, batch: Expr, number: Expr, centred: bool) -> _Box:
    a = [b.let(at(boxes, batch, number, k)) for k in range(4)]
    if centred:
        low = [b.let(a[k] - a[k + 2] / 2.0) for k in range(2)]
        high = [b.let(a[k] + a[k + 2] / 2.0) for k in range(2)]
    else:
        low = [b.let(E.minimum(a[k], a[k + 2])) for k in range(2)]
        high = [b.let(E.maximum(a[k], a[k + 2])) for k in range(2)]
    return _Box((low[0], low[1]), (high[0], high[1]))


def _overlap(b: Builder, one: _Box, two: _Box) -> Expr:
    """Intersection over union; 0 where either is empty."""
    low = [E.maximum(one.low[k], two.low[k]) for k in range(2)]
    high = [E.minimum(one.high[k], two.high[k]) for k in range(2)]
    sides = [b.let(E.maximum(high[k] - low[k], 0)) for k in range(2)]
    common = b.let(sides[0] * sides[1])
    union = b.let(one.area + two.area - common)
    real = both(common > 0, union > 0, one.area > 0, two.area > 0)
    return b.let(E.where(real, common / E.where(union > 0, union, 1), 0))


@op("NonMaxSuppression", samples=_samples)
def non_max_suppression(node: OpNode) -> Tensor:
    """[batch, class, box] of the boxes that stay, class by class from the best score on; of equal ones the first."""
    boxes, scores = node.input(0), node.input(1)
    if boxes.rank != 3 or scores.rank != 3:
        raise NotSupported("boxes and scores have rank 3")
    found, firsts, count = _kept(node, boxes, scores)
    (total,) = node.measure(count)
    batches, classes, limit = found.shape
    b = Builder("suppression")
    y = b.result((total, 3), I64)
    with b.phase(batches, classes) as (batch, kind):
        first = b.let(at(firsts, batch, kind))
        with b.loop(0, E.minimum(at(firsts, batch, kind + 1) - first, size(limit))) as i:
            for k, value in enumerate((batch, kind, at(found, batch, kind, i))):
                b.store(y, (first + i, k), value + Const(0, I64))
    return b.tensors()[0]


def _number(node: OpNode, k: int) -> Expr | None:
    """An operand of one number, if there is one."""
    x = node.optional(k)
    return None if x is None else at(x, *(0 for _ in x.shape))


def _kept(node: OpNode, boxes: Tensor, scores: Tensor) -> list[Tensor]:
    """For each batch and class the numbers of the boxes that stay, and where they are in the result; their number."""
    batches, classes, n = scores.shape
    most, threshold, least = (_number(node, k) for k in (2, 3, 4))
    limit, known = n, node.constant(2)
    if known is not None:
        limit = D.minimum(n, max(0, int(known.reshape(()).item())))
    elif most is None:
        limit = 0
    b = Builder("suppression")
    found, firsts = b.result((batches, classes, limit), I64), b.result((batches, D.add(classes, 1)), I64)
    total = b.result((), I64)
    centred = bool(node.attr("center_point_box", 0))
    line = Sorter(b, n, key_type(scores.dtype))
    with b.phase(batches, classes) as (batch, kind):
        wanted: Expr = size(limit)
        if known is None and most is not None:
            wanted = b.let(E.minimum(E.maximum(E.cast(most, I64), 0), size(limit)))
        candidates = b.variable(Const(0, I64))
        with b.loop(0, size(n)) as i:
            score = b.let(at(scores, batch, kind, i))
            with b.when(Const(True, BOOL) if least is None else score > least):
                line.put(candidates, sort_key(score, descending=True), i)
                b.assign(candidates, candidates + 1)
        line.sort(candidates)
        some = b.variable(Const(0, I64))
        with b.loop(0, candidates) as i:
            with b.when(some >= wanted):
                b.leave()
            number = b.let(line.number(i))
            new = _box(b, boxes, batch, number, centred)
            apart = _apart(b, (boxes, batch, centred), found, (batch, kind), some, new, threshold)
            with b.when(apart):
                b.store(found, (batch, kind, some), number)
                b.assign(some, some + 1)
        b.store(firsts, (batch, kind), some)
    _add_up(b, firsts, total, batches, classes)
    return b.tensors(D.product([batches, classes, n, 64]))


def _apart(
    b: Builder,
    boxes: tuple[Tensor, Expr, bool],
    found: Tensor,
    row: tuple[Expr, Expr],
    some: Expr,
    new: _Box,
    threshold: Expr | None,
) -> Result:
    """Whether a box overlaps none of the first `some` that were found."""
    apart = b.variable(Const(True, BOOL))
    with b.loop(0, some) as j:
        other = _box(b, boxes[0], boxes[1], b.let(at(found, *row, j)), boxes[2])
        share = _overlap(b, new, other)
        with b.when(share > (Const(0.0, share.dtype) if threshold is None else threshold)):
            b.assign(apart, Const(False, BOOL))
            b.leave()
    return apart


def _add_up(b: Builder, firsts: Tensor, total: Tensor, batches: Dim, classes: Dim) -> None:
    """Numbers of boxes become the places of the first of them; behind those of a batch stands where the next begins."""
    with b.phase():
        before = b.variable(Const(0, I64))
        with b.loop(0, size(batches)) as batch:
            with b.loop(0, size(classes)) as kind:
                here = b.let(at(firsts, batch, kind))
                b.store(firsts, (batch, kind), before)
                b.assign(before, before + here)
            b.store(firsts, (batch, size(classes)), before)
        b.store(total, (), before)
