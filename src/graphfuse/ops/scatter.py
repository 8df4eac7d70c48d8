"""Scatters: a copy of the data in which updates are stored, or combined with what is there, at given indices.

ONNX leaves indices that are out of range undefined; data must not decide which memory is written, so they are held
inside their axis.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from graphfuse.graph import dims as D
from graphfuse.graph.dims import Dim
from graphfuse.graph.dtypes import BOOL, I64
from graphfuse.ops import expr as E
from graphfuse.ops.expr import Expr
from graphfuse.ops.loops import Builder, at, wrapped
from graphfuse.ops.registry import NotSupported, OpNode, op
from graphfuse.ops.runtime_sizes import some
from graphfuse.ops.samples import Sample, bools, floats, int64, ints, sample
from graphfuse.ops.tensor import Tensor

Combine = Callable[[Expr, Expr], Expr]
_COMBINE: dict[str, Combine | None] = {
    "none": None,
    "add": lambda old, new: E.Call("or", (old, new), BOOL) if old.dtype == BOOL else old + new,
    "mul": lambda old, new: E.Call("and", (old, new), BOOL) if old.dtype == BOOL else old * new,
    "max": E.maximum,
    "min": E.minimum,
}


def _combine(node: OpNode) -> Combine | None:
    name = node.attr("reduction", "none")
    if name not in _COMBINE:
        raise NotSupported(f"reduction = {name}")
    return _COMBINE[name]


def _elements_samples() -> list[Sample]:
    x, rows = floats(5, 17), ints(3, 17, low=-5, high=5, dtype=np.int64)
    same = ints(2, 4, low=0, high=2, dtype=np.int64)
    return [
        sample(x, np.argsort(floats(5, 17), axis=0), floats(5, 17, seed=1), axis=0),
        sample(x, np.argsort(floats(5, 17), axis=1).astype(np.int32) - 17, floats(5, 17, seed=1), axis=1),
        *(sample(x, rows, floats(3, 17, seed=1), reduction=r, symbolic=False) for r in ("add", "mul", "max", "min")),
        sample(floats(4, 3, 6), ints(4, 3, 6, low=0, high=3), floats(4, 3, 6, seed=1), axis=1, reduction="add"),
        sample(ints(3, 5), same, ints(2, 4, seed=1), axis=1, reduction="add", symbolic=False),
        sample(
            ints(4, dtype=np.int64),
            ints(9, low=0, high=4, dtype=np.int64),
            ints(9, dtype=np.int64, seed=1),
            reduction="max",
        ),
        sample(bools(4, 3), int64(2, 0).reshape(2, 1), bools(2, 1, seed=1), symbolic=False),
        sample(floats(4, 3), ints(0, 3, dtype=np.int64), floats(0, 3), symbolic=False),
    ]


@op("ScatterElements", samples=_elements_samples)
def scatter_elements(node: OpNode) -> Tensor:
    """out[..., indices[i], ...] takes updates[i] along one axis; for equal indices in the order of i."""
    data, indices, updates = (node.input(k) for k in range(3))
    if data.rank == 0:
        raise NotSupported("data of rank 0 has no axis")
    axis, combine = node.axis(node.attr("axis", 0), data.rank), _combine(node)
    b = Builder("scatter")
    for k, (n, d) in enumerate(zip(indices.shape, data.shape, strict=True)):
        if k != axis:
            b.at_most(n, d, f"indices of {n} along axis {k} of data of {d}")
    b.at_most(some(D.product(indices.shape)), data.shape[axis], "indices into data without elements")
    out = b.result(data.shape, data.dtype, start=data)
    # What differs ahead of the axis never meets.
    with b.phase(*indices.shape[:axis]) as outer, b.each(indices.shape[axis:]) as inner:
        i = (*outer, *inner)
        index = wrapped(E.cast(at(indices, *i), I64), data.shape[axis])
        place = (*i[:axis], b.let(index), *i[axis + 1 :])
        new = at(updates, *i)
        b.store(out, place, new if combine is None else combine(at(out, *place), new))
    return b.tensors()[0]


def _nd_samples() -> list[Sample]:
    x, some = floats(5, 3, 7), ints(6, 2, low=-3, high=3, dtype=np.int64)
    apart = np.array([[0, 1], [2, -1], [-1, 0]], np.int64)
    return [
        sample(x, apart, floats(3, 7, seed=1), fixed=[1], symbolic=False),
        sample(x, int64(4, 0, -3).reshape(3, 1), floats(3, 3, 7, seed=1), symbolic=False),
        *(sample(x, some, floats(6, 7, seed=1), reduction=r, symbolic=False) for r in ("add", "mul", "max", "min")),
        sample(x, ints(2, 3, 3, low=0, high=3, dtype=np.int64), floats(2, 3, seed=1), reduction="add", symbolic=False),
        sample(ints(9), int64(7, 1).reshape(2, 1), ints(2, seed=1), symbolic=False),
        sample(x, int64(1), floats(3, 7, seed=1), symbolic=False),
        sample(bools(4), int64(1, 2).reshape(2, 1), bools(2, seed=1), symbolic=False),
    ]


@op("ScatterND", samples=_nd_samples)
def scatter_nd(node: OpNode) -> Tensor:
    """out[indices[i]] takes updates[i], elements or whole slices; for equal indices in the order of i."""
    data, indices, updates = (node.input(k) for k in range(3))
    depth, combine = indices.shape[-1], _combine(node)
    if not isinstance(depth, int):
        raise NotSupported("the last size of the indices must be known at compile time")
    if depth > data.rank:
        raise NotSupported(f"indices of {depth} axes into data of rank {data.rank}")
    rows, slices = indices.shape[:-1], data.shape[depth:]
    b = Builder("scatter")
    for d in data.shape[:depth]:
        b.at_most(some(D.product(rows)), d, "indices into data without elements")
    out = b.result(data.shape, data.dtype, start=data)
    # Parts of slices never meet.
    shared: tuple[Dim, ...] = slices[:-1]
    with b.phase(*shared) as outer, b.each(rows) as i:
        head = [b.let(wrapped(E.cast(at(indices, *i, k), I64), data.shape[k])) for k in range(depth)]
        with b.each(slices[len(shared) :]) as inner:
            rest = (*outer, *inner)
            new = at(updates, *i, *rest)
            place = (*head, *rest)
            b.store(out, place, new if combine is None else combine(at(out, *place), new))
    return b.tensors()[0]
