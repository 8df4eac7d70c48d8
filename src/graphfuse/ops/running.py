"""Running sums and products along an axis."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from graphfuse.graph import dims as D
from graphfuse.graph.dims import Dim
from graphfuse.graph.dtypes import I64
from graphfuse.ops import expr as E
from graphfuse.ops.expr import Const, Expr, lift
from graphfuse.ops.loops import Builder, at
from graphfuse.ops.registry import NotSupported, OpNode, op
from graphfuse.ops.samples import Sample, floats, ints, sample, scalar
from graphfuse.ops.tensor import Tensor, reshape, size

# Elements of a line that a thread runs along the axis with at a time: a line and the one before it lie in L1.
_STRIP = 1024


def _samples() -> list[Sample]:
    x = floats(5, 3, 7, low=0.5, high=1.5)
    return [
        sample(floats(17, low=0.5, high=1.5), scalar(0, np.int64), constants=[1]),
        *(sample(x, scalar(axis, np.int64), constants=[1], exclusive=axis % 2) for axis in (0, 1, -1)),
        *(sample(x, scalar(axis, np.int32), constants=[1], reverse=1, exclusive=axis % 2) for axis in (-3, 1, 2)),
        sample(ints(4, 1030), scalar(0, np.int64), constants=[1], reverse=1),
        sample(ints(3, 4, dtype=np.int64), scalar(1, np.int64)),
        sample(floats(3, 5, dtype=np.float64), scalar(-2, np.int64), exclusive=1),
        sample(floats(0, 3), scalar(0, np.int64), constants=[1], symbolic=False),
        sample(floats(3), scalar(1, np.int64), constants=[1], rejected="axis 1"),
    ]


Combine = Callable[[Expr, Expr], Expr]


@dataclass(frozen=True)
class _Form:
    """What an op computes: the first value, how the next one comes from it, and in which order."""

    combine: Combine
    nothing: int
    exclusive: bool
    reverse: bool

    def place(self, k: Expr, n: Dim) -> Expr:
        """Where the k-th element on the way is."""
        return size(D.add(n, -1)) - k if self.reverse else k


def _declare(name: str, combine: Combine, nothing: int) -> None:
    # Opset 26 brings the running product, which onnxruntime does not know.
    @op(name, samples=lambda: [replace(s, reference="onnx") for s in _samples()] if nothing else _samples())
    def lower(node: OpNode) -> Tensor:
        x, known = node.input(0), node.constant(1)
        if x.rank == 0:
            raise NotSupported("an input of rank 0 has no axis")
        form = _Form(combine, nothing, bool(node.attr("exclusive", 0)), bool(node.attr("reverse", 0)))
        b = Builder("running product" if nothing else "running sum")
        if known is None:
            return _along_any(b, x, node.input(1), form)
        axis = node.axis(int(known.reshape(()).item()), x.rank)
        return _along_last(b, x, form) if axis == x.rank - 1 else _along(b, x, axis, form)


def _along_last(b: Builder, x: Tensor, form: _Form) -> Tensor:
    y = b.result(x.shape, x.dtype)
    with b.phase(*x.shape[:-1]) as r:
        _line(b, x, y, x.rank - 1, r, form)
    return b.tensors()[0]


def _line(b: Builder, x: Tensor, y: Tensor, axis: int, others: Sequence[Expr], form: _Form) -> None:
    """One line along an axis, element by element."""
    total = b.variable(lift(form.nothing, x.dtype))
    with b.loop(0, size(x.shape[axis])) as k:
        i = (*others[:axis], form.place(k, x.shape[axis]), *others[axis:])
        if form.exclusive:
            b.store(y, i, total)
        b.assign(total, form.combine(total, at(x, *i)))
        if not form.exclusive:
            b.store(y, i, total)


def _along(b: Builder, x: Tensor, axis: int, form: _Form) -> Tensor:
    """All lines of a strip side by side: each result is the one before it on the way, and one element more."""
    outer, n, inner = D.product(x.shape[:axis]), x.shape[axis], D.product(x.shape[axis + 1 :])
    lines = reshape(x, (outer, n, inner))
    y = b.result(lines.shape, x.dtype)
    with b.phase(outer, D.ceildiv(inner, _STRIP)) as (o, strip):
        stop = b.let(E.minimum((strip + 1) * _STRIP, size(inner)))
        first = form.place(Const(0, I64), n)
        with b.when(size(n) > 0), b.loop(strip * _STRIP, stop) as i:
            b.store(y, (o, first, i), lift(form.nothing, x.dtype) if form.exclusive else at(lines, o, first, i))
        with b.loop(1, size(n)) as k, b.loop(strip * _STRIP, stop) as i:
            here, before = form.place(k, n), form.place(k - 1, n)
            more = at(lines, o, before if form.exclusive else here, i)
            b.store(y, (o, here, i), form.combine(at(y, o, before, i), more))
    return reshape(b.tensors()[0], x.shape)


def _along_any(b: Builder, x: Tensor, axis: Tensor, form: _Form) -> Tensor:
    """Along an axis that only the data know: the loops of every axis, of which one is taken."""
    y = b.result(x.shape, x.dtype)
    given = E.cast(at(axis, *(0 for _ in axis.shape)), I64)
    for k in range(x.rank):
        others = [d for a, d in enumerate(x.shape) if a != k]
        with b.phase(*others) as r, b.when(E.logical("or", E.equal(given, k), E.equal(given, k - x.rank))):
            _line(b, x, y, k, r, form)
    return b.tensors()[0]


_declare("CumSum", lambda a, b: a + b, 0)
_declare("CumProd", lambda a, b: a * b, 1)
