"""Reductions over axes, and the positions of extremes."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from graphfuse.graph.dtypes import BOOL, F64, U8, is_float
from graphfuse.ops import expr as E
from graphfuse.ops.expr import Expr
from graphfuse.ops.registry import NotSupported, OpNode, op
from graphfuse.ops.runtime_sizes import hits, items, measure_sizes, without
from graphfuse.ops.samples import Sample, bools, floats, int64, ints, sample, special
from graphfuse.ops.tensor import Tensor, count, index_map, map_, reduce, reshape, size

Fold = Callable[[Tensor, Sequence[int]], Tensor]


def mean(x: Tensor, axes: Sequence[int]) -> Tensor:
    """The mean over axes, which stay as size 1."""
    n = count(x, axes)
    return map_(lambda s: s / E.cast(size(n), s.dtype), reduce("sum", x, axes))


def log_sum_exp(x: Tensor, axes: Sequence[int]) -> Tensor:
    """log(sum(exp(x))) without overflow; an infinite maximum is not subtracted, it would give NaN."""
    if not is_float(x.dtype):
        wide = log_sum_exp(map_(lambda v: E.cast(v, F64), x), axes)
        return map_(lambda v: E.cast(v, x.dtype), wide)
    top = map_(lambda m: E.where(E.logical("isinf", m), 0, m), reduce("max", x, axes))
    total = reduce("sum", map_(lambda v, m: E.exp(v - m), x, top), axes)
    return map_(lambda s, m: E.log(s) + m, total, top)


def _extreme(kind: str) -> Fold:
    def fold(x: Tensor, axes: Sequence[int]) -> Tensor:
        if x.dtype != BOOL:
            return reduce(kind, x, axes)
        return map_(lambda v: E.cast(v, BOOL), reduce(kind, map_(lambda v: E.cast(v, U8), x), axes))

    return fold


def _of(kind: str, before: Callable[[Expr], Expr] | None, after: Callable[[Expr], Expr] | None = None) -> Fold:
    def fold(x: Tensor, axes: Sequence[int]) -> Tensor:
        y = reduce(kind, x if before is None else map_(before, x), axes)
        return y if after is None else map_(_in_floats(after), y)

    return fold


def _in_floats(function: Callable[[Expr], Expr]) -> Callable[[Expr], Expr]:
    """The function, for integers computed in float64 and cut off."""

    def of(v: Expr) -> Expr:
        return function(v) if is_float(v.dtype) else E.cast(function(E.cast(v, F64)), v.dtype)

    return of


def drop(y: Tensor, axes: Sequence[int], keep: bool) -> Tensor:
    """The result of a reduction with its axes of size 1 kept or dropped."""
    return y if keep else reshape(y, [d for k, d in enumerate(y.shape) if k not in axes])


def _samples(*more: Sample, low: float = -3.0) -> list[Sample]:
    x = floats(3, 13, 17, low=low)
    return [
        sample(x),
        sample(x, int64(1), constants=[1]),
        sample(x, int64(-1), constants=[1], keepdims=0),
        sample(x, int64(0, 2), constants=[1], keepdims=0),
        sample(x, keepdims=0),
        sample(x, int64(), constants=[1], keepdims=0),
        sample(x, int64(), constants=[1], noop_with_empty_axes=1),
        sample(floats(1, 17, low=low), int64(0), constants=[1]),
        sample(floats(5, dtype=float, low=low), keepdims=0),
        sample(x, int64(1)),
        sample(x, int64(-1, 0), keepdims=0, fixed=[0]),
        sample(x, int64(0, 1, 2), keepdims=0, fixed=[0]),
        sample(x, int64(3), constants=[1], rejected="out of range", reference="onnx"),
        *more,
    ]


def _integers() -> list[Sample]:
    return [
        sample(ints(3, 17), int64(1), constants=[1]),
        sample(ints(3, 17, dtype=np.int64), int64(0), constants=[1], keepdims=0),
    ]


def _positive() -> list[Sample]:
    return [sample(ints(3, 17, low=3, high=90, dtype=dtype), int64(1), constants=[1]) for dtype in (np.int32, np.int64)]


def _axes(node: OpNode, x: Tensor) -> tuple[int, ...] | None:
    """The reduced axes; None when nothing is folded."""
    given: Sequence[int] = node.attr("axes", ())
    if node.optional(1) is not None:
        given = node.integers(1, "the axes")  # `_reduction` has looked whether they are known
    if len(given) == 0:
        return None if node.attr("noop_with_empty_axes", 0) else tuple(range(x.rank))
    return tuple(sorted({node.axis(a, x.rank) for a in given}))


def _over_axes_at_run_time(node: OpNode, x: Tensor, fold: Fold) -> Tensor:
    """Every axis becomes two, one that stays and one that is folded; all elements lie along one of them."""
    given = node.input(1)
    axes = items(given)
    folded = hits(axes, x.rank)
    kept = [E.where(gone, 1, size(d)) for gone, d in zip(folded, x.shape, strict=True)]
    away = [E.where(gone, size(d), 1) for gone, d in zip(folded, x.shape, strict=True)]
    shape = measure_sizes(node, [*kept, *away], given)
    spread = index_map(x, shape, lambda i: tuple(i[k] + i[x.rank + k] for k in range(x.rank)))
    y = reshape(fold(spread, range(x.rank, 2 * x.rank)), shape[: x.rank])
    if node.attr("keepdims", 1):
        return y
    return reshape(y, measure_sizes(node, without(x.shape, folded, x.rank - len(axes)), given))


def _reduction(name: str, fold: Fold, samples: Callable[[], list[Sample]]) -> None:
    def lower(node: OpNode) -> Tensor:
        x = node.input(0)
        if node.optional(1) is not None and node.dims(1) is None:
            return _over_axes_at_run_time(node, x, fold)
        axes = _axes(node, x)
        if axes is None:
            return fold(x, ())
        return drop(fold(x, axes), axes, bool(node.attr("keepdims", 1)))

    op(name, samples=samples)(lower)


_reduction("ReduceSum", _of("sum", None), lambda: _samples(sample(special(3, 17)), *_integers()))
_reduction("ReduceMean", mean, lambda: _samples(*_integers()))
_reduction("ReduceProd", _of("prod", None), lambda: _samples(*_integers()))
_reduction("ReduceMax", _extreme("max"), lambda: _samples(*_integers(), sample(bools(3, 5), int64(1), constants=[1])))
_reduction("ReduceMin", _extreme("min"), lambda: _samples(*_integers(), sample(bools(3, 5), int64(1), constants=[1])))
_reduction("ReduceL1", _of("sum", lambda x: E.unary("abs", x)), lambda: _samples(*_integers()))
_reduction("ReduceL2", _of("sum", lambda x: x * x, E.sqrt), lambda: _samples(*_integers()))
_reduction("ReduceSumSquare", _of("sum", lambda x: x * x), lambda: _samples(*_integers()))
_reduction("ReduceLogSum", _of("sum", None, E.log), lambda: _samples(*_positive(), low=0.1))
_reduction("ReduceLogSumExp", log_sum_exp, lambda: _samples(sample(special(3, 17) * 40, int64(1), constants=[1])))


def _position_samples() -> list[Sample]:
    ties = np.round(floats(3, 13, 17))
    return [
        sample(ties),
        sample(ties, axis=-1, keepdims=0),
        sample(ties, axis=1, select_last_index=1),
        sample(ints(13, 17), axis=1),
        sample(floats(1, 1), axis=0, keepdims=0),
        sample(floats(3), axis=1, rejected="out of range", reference="onnx"),
    ]


def _position(name: str, kind: str) -> None:
    def lower(node: OpNode) -> Tensor:
        x = node.input(0)
        if x.rank == 0:
            raise NotSupported("an input of rank 0 has no axis")
        axis = node.axis(node.attr("axis", 0), x.rank)
        y = reduce(kind, x, (axis,), last=bool(node.attr("select_last_index", 0)))
        return drop(y, (axis,), bool(node.attr("keepdims", 1)))

    op(name, samples=_position_samples)(lower)


_position("ArgMax", "argmax")
_position("ArgMin", "argmin")
