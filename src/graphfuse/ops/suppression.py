"""Selection of boxes: the best of each class that do not overlap a better one."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from graphfuse.graph import dims as D
from graphfuse.graph.dims import Dim
from graphfuse.graph.dtypes import BOOL, I32, I64, DType
from graphfuse.ops import expr as E
from graphfuse.ops.expr import Const, Expr, Operand, Result
from graphfuse.ops.loops import Builder, at
from graphfuse.ops.registry import NotSupported, OpNode, op
from graphfuse.ops.samples import Sample, floats, int64, sample, scalar
from graphfuse.ops.sorting import Sorter, key_type, sort_key
from graphfuse.ops.tensor import Tensor, size

# Boxes and scores looked at together.
_BLOCK = 64


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


class _Boxes:
    """Corners of boxes side by side, so that one box is compared with many at once."""

    def __init__(self, b: Builder, most: Dim, dtype: DType) -> None:
        self._b = b
        self._most = most
        self._sides = [b.scratch((most,), dtype) for _ in range(5)]  # low, low, high, high, area

    def keep(self, place: Expr, box: Sequence[Expr]) -> None:
        """Put a box at a place."""
        for side, value in zip(self._sides, box, strict=True):
            self._b.store(side, (place,), value)

    def apart(self, some: Expr, box: Sequence[Expr], threshold: Expr) -> Result:
        """Whether a box shares no more than the threshold with any of the first `some`: intersection over union."""
        b = self._b
        apart = b.variable(Const(True, BOOL))
        last = b.let(E.minimum(some, size(self._most)))
        with b.loop(0, size(D.ceildiv(self._most, _BLOCK))) as block:
            stop = b.let(E.minimum((block + 1) * _BLOCK, last))
            with b.when(block * _BLOCK >= last):
                b.leave()
            near = b.variable(Const(0, I32))
            with b.loop(block * _BLOCK, stop) as j:
                low, high = [at(s, j) for s in self._sides[:2]], [at(s, j) for s in self._sides[2:4]]
                sides = [
                    _larger(_smaller(h, u) - _larger(m, v), 0)
                    for m, v, h, u in zip(low, box, high, box[2:4], strict=False)
                ]
                common = b.let(sides[0] * sides[1])
                # Where there is nothing in common, this is 0 or no number, and not above the threshold.
                share = common / (at(self._sides[4], j) + box[4] - common)
                b.assign(near, E.binary("bitor", near, E.cast(share > threshold, I32)))
            with b.when(near > 0):
                b.assign(apart, Const(False, BOOL))
                b.leave()
        return apart


def _larger(a: Expr, b: Operand) -> Expr:
    return E.where(a > b, a, b)


def _smaller(a: Expr, b: Operand) -> Expr:
    return E.where(a < b, a, b)


def _box(b: Builder, boxes: Tensor, batch: Expr, number: Expr, centred: bool) -> list[Expr]:
    """The lower corner of a box, the higher one, and the area."""
    a = [b.let(at(boxes, batch, number, k)) for k in range(4)]
    if centred:
        low, high = ([b.let(a[k] + sign * (a[k + 2] / 2.0)) for k in range(2)] for sign in (-1.0, 1.0))
    else:
        low = [b.let(_smaller(a[k], a[k + 2])) for k in range(2)]
        high = [b.let(_larger(a[k], a[k + 2])) for k in range(2)]
    return [*low, *high, b.let((high[0] - low[0]) * (high[1] - low[1]))]


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
    most, share, least = (_number(node, k) for k in (2, 3, 4))
    limit, known = n, node.constant(2)
    if known is not None:
        limit = D.minimum(n, max(0, int(known.reshape(()).item())))
    elif most is None:
        limit = 0
    b = Builder("suppression")
    found, firsts = b.result((batches, classes, limit), I64), b.result((batches, D.add(classes, 1)), I64)
    total = b.result((), I64)
    centred = bool(node.attr("center_point_box", 0))
    line, kept = Sorter(b, n, key_type(scores.dtype)), _Boxes(b, limit, boxes.dtype)
    threshold = Const(0.0, boxes.dtype) if share is None else share
    with b.phase(batches, classes) as (batch, kind):
        wanted: Expr = size(limit)
        if known is None and most is not None:
            wanted = b.let(E.minimum(E.maximum(E.cast(most, I64), 0), size(limit)))
        candidates = _candidates(b, line, lambda i: at(scores, batch, kind, i), n, least)
        line.sort(candidates)
        some = b.variable(Const(0, I64))
        with b.loop(0, candidates) as i:
            with b.when(some >= wanted):
                b.leave()
            number = b.let(line.number(i))
            box = _box(b, boxes, batch, number, centred)
            with b.when(kept.apart(some, box, threshold)):
                kept.keep(some, box)
                b.store(found, (batch, kind, some), number)
                b.assign(some, some + 1)
        b.store(firsts, (batch, kind), some)
    _add_up(b, firsts, total, batches, classes)
    return b.tensors(D.product([batches, classes, n, 16]))


def _candidates(b: Builder, line: Sorter, score: Callable[[Expr], Expr], n: Dim, least: Expr | None) -> Expr:
    """Put the scores above the least in line, best first; how many there are. Most blocks hold none."""
    some = b.variable(Const(0, I64))
    with b.loop(0, size(D.ceildiv(n, _BLOCK))) as block:
        stop = b.let(E.minimum((block + 1) * _BLOCK, size(n)))
        above = b.variable(Const(0 if least is not None else 1, I32))
        if least is not None:
            with b.loop(block * _BLOCK, stop) as i:
                b.assign(above, E.binary("bitor", above, E.cast(score(i) > least, I32)))
        with b.when(above > 0), b.loop(block * _BLOCK, stop) as i:
            own = b.let(score(i))
            with b.when(Const(True, BOOL) if least is None else own > least):
                line.put(some, sort_key(own, descending=True), i)
                b.assign(some, some + 1)
    return some


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
