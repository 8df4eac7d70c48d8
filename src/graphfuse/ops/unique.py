"""The different elements or slices of a tensor, where they are, and how often."""

from __future__ import annotations

import numpy as np

from graphfuse.graph import dims as D
from graphfuse.graph.dtypes import I64
from graphfuse.ops import expr as E
from graphfuse.ops.expr import Const, Expr
from graphfuse.ops.gather import _in_range
from graphfuse.ops.loops import Builder, at, either
from graphfuse.ops.registry import OpNode, op
from graphfuse.ops.samples import Sample, floats, ints, sample
from graphfuse.ops.sorting import Sorter, key_type, sort_key
from graphfuse.ops.tensor import Tensor, index_map, reshape, size, slice_, transpose


def _samples() -> list[Sample]:
    x, wide = ints(40, low=0, high=9), ints(7, 3, low=0, high=2)
    return [
        sample(x, outputs=4),
        sample(x, outputs=4, sorted=0),
        sample(floats(3, 5), outputs=4),
        sample(ints(3, 50, low=0, high=4, dtype=np.int64), outputs=4, sorted=0),
        sample(wide, outputs=4, axis=0),
        sample(wide, outputs=4, axis=0, sorted=0),
        sample(ints(2, 6, 2, low=0, high=2).astype(np.float32), outputs=4, axis=1),
        sample(floats(1), outputs=4),
    ]


@op("Unique", samples=_samples)
def unique(node: OpNode) -> list[Tensor]:
    """Sorted, or in the order in which they come first; NaN are equal here, and the largest."""
    x, axis = node.input(0), node.attr("axis", None)
    if axis is None:
        x, axis = reshape(x, (D.product(x.shape),)), 0
    axis = node.axis(axis, x.rank)
    n = x.shape[axis]
    rest = [k for k in range(x.rank) if k != axis]
    slices = reshape(transpose(x, (axis, *rest)), (n, D.product(x.shape[k] for k in rest)))
    firsts, numbers, counts, count = _grouped(slices, bool(node.attr("sorted", 1)))
    (total,) = node.measure(count)
    firsts, counts = (slice_(t, (0,), (total,), (1,)) for t in (firsts, counts))
    shape = [total if k == axis else d for k, d in enumerate(x.shape)]

    def index(i: tuple[Expr, ...]) -> tuple[Expr, ...]:
        return (*i[:axis], _in_range(at(firsts, i[axis]), n, None), *i[axis + 1 :])

    return [index_map(x, shape, lambda i: index(tuple(i)), firsts), firsts, numbers, counts]


def _grouped(x: Tensor, in_order: bool) -> list[Tensor]:
    """Of the slices x[k]: where each different one is first, which one each is, how often, and how many there are."""
    n, width = x.shape
    b = Builder("grouping")
    firsts, numbers, counts = (b.result((n,), I64) for _ in range(3))
    total = b.result((), I64)
    with b.phase():
        line = Sorter(b, n, key_type(x.dtype), shared=True)
        with b.loop(0, size(n)) as i:
            line.put(i, Const(0, line.keys.dtype), i)
        # Column by column, the last one first: what is equal stays in order.
        with b.loop(0, size(width)) as column:
            k = size(D.add(width, -1)) - column
            with b.loop(0, size(n)) as i:
                number = b.let(line.number(i))
                line.put(i, sort_key(at(x, number, k)), number)
            line.sort(size(n))
        group = b.variable(Const(-1, I64))
        with b.loop(0, size(n)) as i:
            number = b.let(line.number(i))
            new = b.variable(E.equal(i, 0))
            before = b.let(line.number(E.maximum(i - 1, 0)))
            with b.loop(0, size(width)) as k:
                differ = E.compare("ne", sort_key(at(x, number, k)), sort_key(at(x, before, k)))
                b.assign(new, either(new, differ))
            with b.when(new):
                b.assign(group, group + 1)
                b.store(firsts, (group,), number)
                b.store(counts, (group,), 0)
            b.store(counts, (group,), at(counts, group) + 1)
            b.store(numbers, (number,), group)
        b.store(total, (), group + 1)
        if not in_order:
            _by_first_place(b, (firsts, numbers, counts), n, group + 1)
    return b.tensors(D.mul(D.mul(n, width), 16))


def _by_first_place(b: Builder, results: tuple[Tensor, Tensor, Tensor], n: D.Dim, groups: Expr) -> None:
    """The groups in the order in which they come first instead."""
    firsts, numbers, counts = results
    old_firsts, old_counts, new = (b.scratch((n,), I64, shared=True) for _ in range(3))
    with b.loop(0, E.minimum(groups, size(n))) as g:
        b.store(old_firsts, (g,), at(firsts, g))
        b.store(old_counts, (g,), at(counts, g))
    found = b.variable(Const(0, I64))
    with b.loop(0, size(n)) as i:
        group = b.let(at(numbers, i))
        with b.when(E.equal(at(old_firsts, group), i)):
            b.store(new, (group,), found)
            b.store(firsts, (found,), i)
            b.store(counts, (found,), at(old_counts, group))
            b.assign(found, found + 1)
        b.store(numbers, (i,), at(new, group))
