"""The k largest or smallest elements of each line."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from graphfuse.graph import dims as D
from graphfuse.graph.dims import Dim
from graphfuse.graph.dtypes import I64, item_bytes
from graphfuse.ops import expr as E
from graphfuse.ops.expr import Const, Expr, lift
from graphfuse.ops.loops import Builder, at, either
from graphfuse.ops.registry import NotSupported, OpNode, op
from graphfuse.ops.samples import Sample, floats, int64, ints, sample
from graphfuse.ops.sorting import Sorter, key_type, sort_key
from graphfuse.ops.tensor import Tensor, size

# Elements looked at together: most such blocks of a long line hold none of the best.
_BLOCK = 64


def _samples() -> list[Sample]:
    x = floats(5, 3, 70)
    return [
        sample(x, int64(4), constants=[1], outputs=2),
        sample(x, int64(4), constants=[1], outputs=2, largest=0),
        sample(x, int64(3), constants=[1], outputs=2, axis=0, fixed=[0], symbolic=False),
        sample(x, int64(70), constants=[1], outputs=2, symbolic=False),
        sample(floats(2, 300), int64(40), constants=[1], outputs=2),
        sample(ints(3, 100), int64(20), constants=[1], outputs=2, largest=0),  # ties
        sample(ints(100, dtype=np.int64), int64(33), constants=[1], outputs=2),
        sample(floats(3, 90, dtype=np.float64), int64(5), constants=[1], outputs=2),
        sample(floats(3, 4), int64(0), constants=[1], outputs=2, symbolic=False),
        sample(x, int64(4), constants=[1], outputs=2, axis=3, rejected="axis 3"),
        sample(floats(3, 4), int64(5), constants=[1], outputs=2, rejected="5 of 4"),
    ]


@op("TopK", samples=_samples)
def top_k(node: OpNode) -> list[Tensor]:
    """In order, equal elements by their index; NaN counts as the largest number."""
    x = node.input(0)
    if x.rank == 0:
        raise NotSupported("an input of rank 0 has no axis")
    axis = node.axis(node.attr("axis", -1), x.rank)
    k, n = (node.dims(1) or node.measure(node.input(1)))[0], x.shape[axis]
    if D.is_static(k, n) and k > n:  # type: ignore[operator]
        raise NotSupported(f"the best {k} of {n}")
    return select(x, k, axis, bool(node.attr("largest", 1)))


def select(x: Tensor, k: Dim, axis: int, largest: bool) -> list[Tensor]:
    """Values and indices of the best k along an axis.

    Candidates gather in a buffer of k and some more; when it is full, it is sorted and the best k stay. What is worse
    than the last of them is passed over, a block at a time. However the data lie, the time is linear in their number.
    """
    n = x.shape[axis]
    others = [d for a, d in enumerate(x.shape) if a != axis]
    shape = [k if a == axis else d for a, d in enumerate(x.shape)]
    full = D.add(k, D.maximum(k, _BLOCK))
    room = D.add(full, _BLOCK)
    b = Builder("selection")
    b.at_most(k, n, f"the best {k} of {n}")
    values, indices = b.result(shape, x.dtype), b.result(shape, I64)
    with b.phase(*others) as r:

        def place(i: Expr) -> tuple[Expr, ...]:
            return (*r[:axis], i, *r[axis:])

        def key(i: Expr) -> Expr:
            return sort_key(at(x, *place(i)), largest)

        best = Sorter(b, min(room, n) if D.is_static(room, n) else room, key_type(x.dtype))  # type: ignore[type-var]
        _gather(b, best, key, k, n, full)
        with b.loop(0, size(k)) as j:
            index = b.let(best.number(j))
            b.store(values, place(j), at(x, *place(index)))
            b.store(indices, place(j), index)
    return b.tensors()


def _gather(b: Builder, best: Sorter, key: Callable[[Expr], Expr], k: Dim, n: Dim, full: Dim) -> None:
    """Leave the best k of n in front."""
    dtype = best.keys.dtype
    count = b.variable(Const(0, I64))
    limit = b.variable(Const((1 << 8 * item_bytes(dtype)) - 1, dtype))
    blocks = D.ceildiv(n, _BLOCK)
    with b.loop(0, size(blocks)) as block:
        start = b.let(block * _BLOCK)
        stop = b.let(E.minimum(start + _BLOCK, size(n)))
        better = b.variable(lift(0, dtype))
        with b.loop(start, stop) as i:
            b.assign(better, E.binary("bitor", better, E.cast(key(i) < limit, dtype)))
        with b.when(either(better > 0, count < size(k))), b.loop(start, stop) as i:
            own = b.let(key(i))
            with b.when(either(own < limit, count < size(k))):
                best.put(count, own, i)
                b.assign(count, count + 1)
        with b.when(either(count >= size(full), E.equal(block, size(D.add(blocks, -1))))):
            best.sort(count)
            b.assign(count, E.minimum(count, size(k)))
            with b.when(count >= size(k)):
                b.assign(limit, at(best.keys, E.maximum(size(k) - 1, 0)))
