"""Selection of elements by index.

ONNX leaves indices that are out of range undefined; data must not decide which memory is read, so they are clamped.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from graphfuse.graph import dims as D
from graphfuse.graph.dims import Dim
from graphfuse.graph.dtypes import I64
from graphfuse.ops import expr as E
from graphfuse.ops.expr import Call, Const, Expr, Size, Var
from graphfuse.ops.registry import NotSupported, OpNode, op
from graphfuse.ops.runtime_sizes import items, measure_sizes
from graphfuse.ops.samples import Sample, bools, floats, int64, ints, sample, scalar
from graphfuse.ops.tensor import (
    Generate,
    IndexMap,
    Tensor,
    expand,
    generate,
    index_map,
    load,
    map_,
    reshape,
    size,
    slice_,
    variables,
)


def _in_range(index: Expr, extent: Dim, known: np.ndarray | None) -> Expr:
    """An index that counts from the end where it is negative, kept inside the axis."""
    index = E.cast(index, I64)
    if known is not None and isinstance(extent, int):
        if known.size and (known.min() < -extent or known.max() >= extent):
            raise NotSupported(f"an index is out of range for an axis of size {extent}")
        if not known.size or known.min() >= 0:
            return index
    wrapped = E.where(index < 0, index + size(extent), index)
    return E.maximum(E.minimum(wrapped, size(D.add(extent, -1))), 0)


def _gather_samples() -> list[Sample]:
    x = floats(13, 5, 17)
    return [
        sample(x, ints(3, low=0, high=5, dtype=np.int64), axis=1, symbolic=False),
        sample(x, ints(2, 4, low=-13, high=13, dtype=np.int64)),
        sample(x, ints(2, 4, low=-17, high=17), axis=-1),
        sample(x, scalar(3, np.int64), axis=1, constants=[1]),
        sample(x, scalar(-1, np.int64), axis=2, constants=[1]),
        sample(x, int64(1, 3, 5), constants=[1]),
        sample(x, int64(4, 2, 0), axis=1, constants=[1]),
        sample(x, int64(0, 0, 2), axis=1, constants=[1]),
        sample(x, int64(2, -1), axis=1, constants=[1]),
        sample(ints(5, dtype=np.int64), scalar(2, np.int32)),
        sample(bools(5, 3), int64()),
        sample(x, int64(5), axis=1, constants=[1], rejected="out of range"),
        sample(x, int64(5), axis=3, rejected="axis 3"),
    ]


@op("Gather", samples=_gather_samples)
def gather(node: OpNode) -> Tensor:
    x, indices, known = node.input(0), node.input(1), node.constant(1)
    if x.rank == 0:
        raise NotSupported("an input of rank 0 has no axis")
    axis = node.axis(node.attr("axis", 0), x.rank)
    extent = x.shape[axis]
    shape = (*x.shape[:axis], *indices.shape, *x.shape[axis + 1 :])
    if known is not None and known.size:
        view = _as_slice(x, axis, known)
        if view is not None:
            return reshape(view, shape)
    counted = _counted(indices) if known is None else None
    if counted is not None:
        return _as_broadcast_slice(x, axis, indices, *counted)
    _in_range(size(0), extent, known)  # a constant index out of range is refused here

    def index(i: Sequence[Expr]) -> tuple[Expr, ...]:
        place = i[axis : axis + indices.rank]
        at = _generated(indices, place)
        return (
            *i[:axis],
            _in_range(load(indices, place) if at is None else at, extent, known),
            *i[axis + indices.rank :],
        )

    return index_map(x, shape, index, indices)


def _generated(x: Tensor, index: Sequence[Expr]) -> Expr | None:
    """The element of a tensor that is a function of the index alone, such as a range; None for one that holds data."""
    if isinstance(x.prim, Generate) and not x.args:
        return x.prim.body(index)
    if isinstance(x.prim, IndexMap) and len(x.args) == 1:
        inner, guard = x.prim.at(index)
        return _generated(x.args[0], inner) if guard is None else None
    return None


def _counted(indices: Tensor) -> tuple[int | None, Dim] | None:
    """The axis along which indices count up by 1, and the first, where they do and depend on nothing else.

    The axis is None where all are the same.
    """
    place = variables(indices.rank)
    at = _generated(indices, place)
    if at is None:
        return None
    if isinstance(at, Const):
        return (None, int(at.value)) if at.value >= 0 else None
    first: Dim = 0
    if isinstance(at, Call) and at.fn == "add":
        numbers = [e for e in at.args if isinstance(e, (Const, Size))]
        counters = [e for e in at.args if isinstance(e, Var)]
        if len(numbers) != 1 or len(counters) != 1:
            return None
        first = numbers[0].dim if isinstance(numbers[0], Size) else int(numbers[0].value)
        at = counters[0]
    if not isinstance(at, Var) or at not in place or (isinstance(first, int) and first < 0):
        return None
    return place.index(at), first


def _as_broadcast_slice(x: Tensor, axis: int, indices: Tensor, counter: int | None, first: Dim) -> Tensor:
    """What indices that count up from `first` along their axis `counter` take, for every position along the others."""
    before, after = x.shape[:axis], x.shape[axis + 1 :]
    count = 1 if counter is None else indices.shape[counter]
    starts = [first if k == axis else 0 for k in range(x.rank)]
    taken = slice_(x, starts, (*before, count, *after), (1,) * x.rank)
    once = [count if k == counter else 1 for k in range(indices.rank)]
    return expand(reshape(taken, (*before, *once, *after)), (*before, *indices.shape, *after))


def _as_slice(x: Tensor, axis: int, known: np.ndarray) -> Tensor | None:
    """Constant indices in arithmetic progression are a strided view."""
    extent, flat = x.shape[axis], known.reshape(-1).astype(np.int64)
    if isinstance(extent, int):
        if flat.min() < -extent or flat.max() >= extent:
            return None
        flat = np.where(flat < 0, flat + extent, flat)
        start: Dim = int(flat[0])
    elif flat.size == 1:
        start = (
            D.minimum(int(flat[0]), D.add(extent, -1)) if flat[0] >= 0 else D.maximum(0, D.add(extent, int(flat[0])))
        )
    else:
        return None
    steps = np.unique(np.diff(flat))
    if steps.size > 1 or 0 in steps:
        return None
    step = [1] * x.rank
    step[axis] = int(steps[0]) if steps.size else 1
    shape = [flat.size if k == axis else d for k, d in enumerate(x.shape)]
    return slice_(x, [start if k == axis else 0 for k in range(x.rank)], shape, step)


@op(
    "GatherElements",
    samples=lambda: [
        sample(floats(5, 17), ints(3, 17, low=-5, high=5, dtype=np.int64), axis=0, symbolic=False),
        sample(floats(5, 17), ints(5, 4, low=-17, high=17), axis=1),
        sample(ints(5), ints(7, low=0, high=5, dtype=np.int64)),
    ],
)
def gather_elements(node: OpNode) -> Tensor:
    x, indices = node.input(0), node.input(1)
    axis = node.axis(node.attr("axis", 0), x.rank)
    known = node.constant(1)

    def index(i: Sequence[Expr]) -> tuple[Expr, ...]:
        return (*i[:axis], _in_range(load(indices, i), x.shape[axis], known), *i[axis + 1 :])

    return index_map(x, indices.shape, index, indices)


@op(
    "GatherND",
    samples=lambda: [
        sample(floats(5, 3, 7), ints(4, 2, low=-3, high=3, dtype=np.int64), fixed=[1], symbolic=False),
        sample(floats(5, 3, 7), ints(4, 3, low=-3, high=3, dtype=np.int64), symbolic=False),
        sample(floats(5, 3, 7), ints(5, 2, 1, low=-3, high=3, dtype=np.int64), batch_dims=1),
        sample(floats(5, 3, 7), ints(1, low=0, high=5, dtype=np.int64)),
    ],
)
def gather_nd(node: OpNode) -> Tensor:
    x, indices, batch = node.input(0), node.input(1), node.attr("batch_dims", 0)
    depth = indices.shape[-1]
    if not isinstance(depth, int):
        raise NotSupported("the last size of the indices must be known at compile time")
    lead = indices.rank - 1
    shape = (*indices.shape[:-1], *x.shape[batch + depth :])

    def index(i: Sequence[Expr]) -> tuple[Expr, ...]:
        at = [load(indices, (*i[:lead], size(k))) for k in range(depth)]
        inside = [_in_range(a, x.shape[batch + k], None) for k, a in enumerate(at)]
        return (*i[:batch], *inside, *i[lead:])

    return index_map(x, shape, index, indices)


@op(
    "OneHot",
    samples=lambda: [
        sample(ints(3, 4, low=-5, high=6, dtype=np.int64), scalar(5, np.int64), floats(2), constants=[1]),
        sample(ints(3, 4, low=0, high=5, dtype=np.int64), int64(5), int64(3, 4), axis=1, constants=[1, 2]),
        sample(ints(13, low=0, high=5), scalar(5, np.int32), floats(2), axis=0, constants=[1], reference="onnx"),
        sample(ints(3, dtype=np.int64), scalar(5, np.int64), floats(2)),
    ],
)
def one_hot(node: OpNode) -> Tensor:
    """values[1] where the new axis' index is the given one, values[0] elsewhere."""
    indices, values, depth = node.input(0), node.input(2), node.dims(1)
    if depth is None:
        depth = measure_sizes(node, items(node.input(1))[:1], node.input(1))
    rank = indices.rank + 1
    axis = node.axis(node.attr("axis", -1), rank)
    position = generate([depth[0] if k == axis else 1 for k in range(rank)], lambda i: i[axis])
    given = reshape(indices, (*indices.shape[:axis], 1, *indices.shape[axis:]))
    off, on = (reshape(slice_(values, (k,), (1,), (1,)), ()) for k in (0, 1))

    def element(i: Expr, wanted: Expr, off: Expr, on: Expr) -> Expr:
        wanted = E.cast(wanted, I64)
        wrapped = E.where(wanted < 0, wanted + size(depth[0]), wanted)
        return E.where(E.equal(i, wrapped), on, off)

    return map_(element, position, given, off, on)
