"""Losses over classes: the log-probability of the target class, weighted and folded."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from graphfuse.graph import dims as D
from graphfuse.graph.dtypes import I64
from graphfuse.ops import expr as E
from graphfuse.ops.expr import Expr, lift
from graphfuse.ops.reduce import drop
from graphfuse.ops.registry import NotSupported, OpNode, op
from graphfuse.ops.samples import Sample, floats, ints, sample
from graphfuse.ops.tensor import Tensor, count, generate, index_map, load, map_, reduce, reshape, size


def _loss_samples(outputs: int) -> list[Sample]:
    x, t = floats(5, 7), ints(5, low=0, high=7, dtype=np.int64)
    image, labels = floats(2, 3, 4, 5), ints(2, 4, 5, low=0, high=3)
    weights, per_image = floats(7, low=0.1, seed=1), floats(3, low=0.1, seed=1)
    reductions = ("none", "sum", "mean")
    return [
        sample(x, t, outputs=outputs),
        *(sample(x, t, weights, reduction=r) for r in reductions),
        *(sample(image, labels, reduction=r, ignore_index=1, outputs=outputs) for r in reductions),
        *(sample(image, labels, per_image, reduction=r, ignore_index=2) for r in reductions),
        sample(floats(2, 3, 4), np.array([[0, -1, 2, 1], [2, -1, -1, 0]], np.int64), ignore_index=-1),
        sample(floats(1, 3, 2, 2, 2, 2), ints(1, 2, 2, 2, 2, low=0, high=3), reduction="none"),
        sample(floats(4, 3, dtype=float), ints(4, low=0, high=3), reduction="sum"),
        sample(floats(5), ints(5), rejected="rank 1", reference="onnx"),
        sample(x, t, reduction="median", rejected="median", reference="onnx"),
    ]


@op("NegativeLogLikelihoodLoss", samples=lambda: _loss_samples(1))
def negative_log_likelihood_loss(node: OpNode) -> Tensor:
    x, target = _operands(node)
    return _folded(node, map_(lambda v: -v, _picked(x, target)), target, x.shape[1])


@op("SoftmaxCrossEntropyLoss", samples=lambda: _loss_samples(2))
def softmax_cross_entropy_loss(node: OpNode) -> list[Tensor]:
    """The loss, and the logarithms of the probabilities of all classes."""
    x, target = _operands(node)
    top = reduce("max", x, (1,), loose=True)
    shifted = map_(lambda v, m: v - m, x, top)
    logarithm = map_(E.log, reduce("sum", map_(E.exp, shifted), (1,)))
    # The target's score alone: the probabilities of the other classes need no place in memory.
    best, total = (drop(t, (1,), keep=False) for t in (top, logarithm))
    each = map_(lambda v, m, s: s - (v - m), _picked(x, target), best, total)
    return [_folded(node, each, target, x.shape[1]), map_(lambda v, s: v - s, shifted, logarithm)]


def _operands(node: OpNode) -> tuple[Tensor, Tensor]:
    x, target = node.input(0), node.input(1)
    if x.rank < 2 or target.rank != x.rank - 1:
        raise NotSupported(f"scores of rank {x.rank} and targets of rank {target.rank}")
    return x, target


def _class(at: Expr, classes: D.Dim) -> Expr:
    return E.maximum(E.minimum(E.cast(at, I64), size(D.add(classes, -1))), 0)


def _picked(x: Tensor, target: Tensor) -> Tensor:
    """What x holds for the target class."""

    def index(i: Sequence[Expr]) -> tuple[Expr, ...]:
        return (i[0], _class(load(target, i), x.shape[1]), *i[1:])

    return index_map(x, target.shape, index, target)


def _folded(node: OpNode, loss: Tensor, target: Tensor, classes: D.Dim) -> Tensor:
    """The losses weighted by class, those of ignored targets zero, and reduced as the node says."""
    reduction, ignored, weight = node.attr("reduction", "mean"), node.attr("ignore_index"), node.optional(2)
    if reduction not in ("none", "sum", "mean"):
        raise NotSupported(f"reduction = {reduction!r} is unknown")
    factor = None
    if weight is not None:
        factor = index_map(weight, target.shape, lambda i: (_class(load(target, i), classes),), target)
    if ignored is not None:
        # A loss that is ignored may be infinite or NaN: it is chosen away, not multiplied by zero.
        loss = map_(lambda v, t: E.where(E.equal(t, ignored), 0, v), loss, target)
        if factor is None:
            factor = map_(lambda t: E.where(E.equal(t, ignored), lift(0, loss.dtype), 1), target)
        else:
            factor = map_(lambda w, t: E.where(E.equal(t, ignored), 0, w), factor, target)
    if factor is not None:
        loss = map_(lambda v, w: v * w, loss, factor)
    if reduction == "none":
        return loss
    axes = range(loss.rank)
    total = reshape(reduce("sum", loss, axes), ())
    if reduction == "sum":
        return total
    if factor is None:
        number = generate((), lambda _: E.cast(size(count(loss, axes)), loss.dtype))
    else:
        number = reshape(reduce("sum", factor, axes), ())
    return map_(lambda v, n: v / n, total, number)
