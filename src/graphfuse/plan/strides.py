"""Views and placements as strides: where a tensor is that another one is a piece, or another form, of."""

from __future__ import annotations

from graphfuse.graph.dims import Dim, same
from graphfuse.ops.tensor import Concat, Expand, Pad, Slice, Tensor, Transpose
from graphfuse.plan.view import View


def resolve(t: Tensor, source: View) -> View | None:
    """The view that a view primitive is of its argument's, or None when strides can't say it."""
    if isinstance(t.prim, Transpose):
        return source.transposed(t.prim.perm)
    if isinstance(t.prim, Slice):
        return source.sliced(t.prim.starts, t.prim.steps, t.shape)
    if isinstance(t.prim, Expand):
        return source.expanded(t.shape)
    return source.reshaped(t.shape)


def parts(t: Tensor, view: View) -> list[tuple[Tensor, View]]:
    """The arguments of a concat or pad, each with the piece of the result's memory that is its place."""
    if isinstance(t.prim, Pad):
        inside = t.args[0]
        return [(inside, view.sliced(t.prim.before, (1,) * t.rank, inside.shape))]
    assert isinstance(t.prim, Concat)
    found: list[tuple[Tensor, View]] = []
    start: Dim = 0
    for a in t.args:
        starts = tuple(start if k == t.prim.axis else 0 for k in range(t.rank))
        found.append((a, view.sliced(starts, (1,) * t.rank, a.shape)))
        start = start + a.shape[t.prim.axis]
    return found


def borders(t: Tensor, view: View) -> list[View]:
    """The slabs around the argument of a pad."""
    assert isinstance(t.prim, Pad)
    inside = t.args[0]
    slabs: list[View] = []
    steps = (1,) * t.rank
    for axis in range(t.rank):
        before, after = t.prim.before[axis], t.prim.after[axis]
        for start, size in ((0, before), (before + inside.shape[axis], after)):
            if isinstance(size, int) and size == 0:
                continue
            starts = tuple(start if k == axis else 0 for k in range(t.rank))
            shape = tuple(size if k == axis else d for k, d in enumerate(t.shape))
            slabs.append(view.sliced(starts, steps, shape))
    return slabs


def same_place(a: View, b: View) -> bool:
    """Whether two views of the same shape are the same memory (axes of size 1 aside)."""
    return (
        a.buffer is b.buffer
        and same(a.offset, b.offset)
        and all(d == 1 or same(s, t) for d, s, t in zip(a.shape, a.strides, b.strides, strict=True))
    )
