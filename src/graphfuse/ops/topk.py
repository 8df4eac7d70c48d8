"""The k largest or smallest elements of each line."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from graphfuse.graph import dims as D
from graphfuse.graph.dims import Dim
from graphfuse.graph.dtypes import I64, DType, item_bytes
from graphfuse.ops import expr as E
from graphfuse.ops.expr import Const, Expr, lift
from graphfuse.ops.loops import Builder, at, both, either
from graphfuse.ops.registry import NotSupported, OpNode, op
from graphfuse.ops.samples import Sample, floats, int64, ints, sample
from graphfuse.ops.sorting import Sorter, key_type, sort_key
from graphfuse.ops.tensor import Tensor, reshape, size

# Up to so many of the best are kept in order while they come.
_FEW = 32
# Lines beside each other of which the keys are made together, and how many keys may wait in the caches.
_STRIP = 16
_WAITING = 1 << 18


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

    What is worse than the last of the best so far is passed over, a block at a time. Better elements are put in their
    places one by one where k is small. Else they gather in a buffer of k and some more; when it is full, it is sorted
    and the best k stay: however the data lie, the time is linear in their number.
    """
    outer, n, inner = D.product(x.shape[:axis]), x.shape[axis], D.product(x.shape[axis + 1 :])
    lines = reshape(x, (outer, n, inner))
    b = Builder("selection")
    b.at_most(k, n, f"the best {k} of {n}")
    values, indices = b.result((outer, k, inner), x.dtype), b.result((outer, k, inner), I64)
    few = isinstance(k, int) and 0 < k <= _FEW
    dtype = key_type(x.dtype)

    def line(o: Expr, key: Callable[[Expr], Expr], c: Expr | int) -> None:
        """Select from the line at an outer and an inner index."""
        best: _Best = _Inserted(b, k, dtype) if few else _Sorted(b, k, n, dtype)
        _scan(b, best, key, n)
        with b.loop(0, size(k)) as j:
            index = b.let(E.cast(at(best.order, j), I64))
            b.store(values, (o, j, c), at(lines, o, index, c))
            b.store(indices, (o, j, c), index)

    if isinstance(inner, int) and inner == 1:
        with b.phase(outer) as (o,):
            line(o, lambda i: sort_key(at(lines, o, i, 0), largest), 0)
    else:
        # Memory is read along the inner axis: the keys of some lines side by side, then line by line.
        lanes = _strip(n, inner)
        keys = b.scratch((lanes, n), dtype)
        with b.phase(outer, D.ceildiv(inner, lanes)) as (o, strip):
            start = b.let(strip * lanes)
            width = b.let(E.minimum(Const(lanes, I64), size(inner) - start))
            with b.loop(0, size(n)) as i, b.loop(0, width) as c:
                b.store(keys, (c, i), sort_key(at(lines, o, i, start + c), largest))
            with b.loop(0, width) as c:
                line(o, lambda i: at(keys, c, i), start + c)
    shape = [k if a == axis else d for a, d in enumerate(x.shape)]
    return [reshape(t, shape) for t in b.tensors()]


def _strip(n: Dim, inner: Dim) -> int:
    """Of how many lines the keys are made together."""
    most = min(_STRIP, inner) if isinstance(inner, int) and inner > 0 else _STRIP
    return max(1, min(most, _WAITING // n)) if isinstance(n, int) and n > 0 else most


def _scan(b: Builder, best: _Best, key: Callable[[Expr], Expr], n: Dim) -> None:
    """Offer every element that may be among the best."""
    blocks = D.ceildiv(n, best.block)
    keys = b.scratch((best.block,), best.limit.dtype)
    with b.loop(0, size(blocks)) as block:
        start = b.let(block * best.block)
        length = b.let(E.minimum(Const(best.block, I64), size(n) - start))
        better = b.variable(lift(0, best.limit.dtype))
        with b.loop(0, length) as i:
            b.store(keys, (i,), key(start + i))
            b.assign(better, E.binary("bitor", better, E.cast(at(keys, i) < best.limit, better.dtype)))
        with b.when(either(better > 0, best.count < size(best.k))), b.loop(0, length) as i:
            own = b.let(at(keys, i))
            with b.when(either(own < best.limit, best.count < size(best.k))):
                best.put(own, start + i)
        best.end_block(E.equal(block, size(D.add(blocks, -1))))


class _Best:
    """The best so far: their keys and numbers, how many there are, and the last of k keys, which has to be beaten."""

    block = 64  # elements looked at together: most blocks of a long line hold none of the best

    def __init__(self, b: Builder, k: Dim, dtype: DType) -> None:
        self.b = b
        self.k = k
        self.count = b.variable(Const(0, I64))
        self.limit = b.variable(Const((1 << 8 * item_bytes(dtype)) - 1, dtype))
        self.order: Tensor

    def put(self, key: Expr, number: Expr) -> None:
        """One more."""
        raise NotImplementedError

    def end_block(self, last: Expr) -> None:
        """A block has been looked at; behind the last one the best lie in order."""


class _Inserted(_Best):
    """In order at all times."""

    block = 16

    def __init__(self, b: Builder, k: Dim, dtype: DType) -> None:
        super().__init__(b, k, dtype)
        self.keys, self.order = b.scratch((k,), dtype), b.scratch((k,), I64)

    def put(self, key: Expr, number: Expr) -> None:
        b, keys, order = self.b, self.keys, self.order
        j = b.variable(E.minimum(self.count, size(self.k) - 1))
        with b.repeat(both(j > 0, at(keys, E.maximum(j - 1, 0)) > key), size(self.k)):
            b.store(keys, (j,), at(keys, j - 1))
            b.store(order, (j,), at(order, j - 1))
            b.assign(j, j - 1)
        b.store(keys, (j,), key)
        b.store(order, (j,), number + Const(0, I64))
        b.assign(self.count, E.minimum(self.count + 1, size(self.k)))
        with b.when(self.count >= size(self.k)):
            b.assign(self.limit, at(keys, size(self.k) - 1))


class _Sorted(_Best):
    """In order at the end of a block where enough of them have come."""

    def __init__(self, b: Builder, k: Dim, n: Dim, dtype: DType) -> None:
        super().__init__(b, k, dtype)
        self.enough = D.add(k, D.maximum(k, self.block))
        room = D.add(self.enough, self.block)
        self.sorter = Sorter(b, min(room, n) if D.is_static(room, n) else room, dtype)  # type: ignore[type-var]
        self.order = self.sorter.order

    def put(self, key: Expr, number: Expr) -> None:
        self.sorter.put(self.count, key, number)
        self.b.assign(self.count, self.count + 1)

    def end_block(self, last: Expr) -> None:
        b = self.b
        with b.when(either(self.count >= size(self.enough), last)):
            self.sorter.sort(self.count)
            b.assign(self.count, E.minimum(self.count, size(self.k)))
            with b.when(self.count >= size(self.k)):
                b.assign(self.limit, at(self.sorter.keys, E.maximum(size(self.k) - 1, 0)))
