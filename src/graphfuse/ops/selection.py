"""Selections whose number of results depends on the data: what is not zero, what a mask keeps."""

from __future__ import annotations

import numpy as np

from graphfuse.graph import dims as D
from graphfuse.graph.dims import Dim
from graphfuse.graph.dtypes import I32, I64
from graphfuse.ops import expr as E
from graphfuse.ops.expr import Const, Expr, lift
from graphfuse.ops.gather import _in_range
from graphfuse.ops.loops import Builder, at, inside
from graphfuse.ops.registry import OpNode, op
from graphfuse.ops.samples import Sample, bools, floats, ints, sample
from graphfuse.ops.tensor import Tensor, index_map, reshape, size

# Elements that are counted together; the places of each such piece are known once all are counted.
_PIECE = 4096


def places(node: OpNode, x: Tensor, values: Tensor | None = None) -> Tensor:
    """Where a tensor of rank 1 is not zero: int64, in order, as many as there are; or the values at these places."""
    n = x.shape[0]
    pieces = D.ceildiv(n, _PIECE)
    firsts, count = _counted(x, n, pieces)
    (total,) = node.measure(count)
    b = Builder("selection")
    found = b.result((total,), I64 if values is None else values.dtype)
    with b.phase(pieces) as (piece,):
        own = b.scratch((_PIECE,), I32)
        start = b.let(piece * _PIECE)
        length = b.let(E.minimum(size(n) - start, Const(_PIECE, I64)))
        some = b.variable(Const(0, I64))
        # Every element is put down, and stays where it counts: no branch to guess.
        with b.loop(start, start + length) as i:
            b.store(own, (some,), E.cast(i - start, I32))
            b.assign(some, some + E.cast(_counts(at(x, i)), I64))
        first = b.let(at(firsts, piece))
        with b.loop(0, E.minimum(some, Const(_PIECE, I64))) as i:
            place = start + E.cast(at(own, i), I64)
            b.store(found, (first + i,), place if values is None else at(values, inside(place, values.shape[0])))
    return b.tensors(n)[0]


def _counts(x: Expr) -> Expr:
    return E.compare("ne", x, lift(0, x.dtype))


def _counted(x: Tensor, n: Dim, pieces: Dim) -> list[Tensor]:
    """The number of places ahead of each piece, and of all."""
    b = Builder("count")
    firsts, total = b.result((pieces,), I64), b.result((), I64)
    with b.phase(pieces) as (piece,):
        some = b.variable(Const(0, I32))
        with b.loop(piece * _PIECE, E.minimum((piece + 1) * _PIECE, size(n))) as i:
            b.assign(some, some + E.cast(_counts(at(x, i)), I32))
        b.store(firsts, (piece,), E.cast(some, I64))
    with b.phase():
        before = b.variable(Const(0, I64))
        with b.loop(0, size(pieces)) as piece:
            here = b.let(at(firsts, piece))
            b.store(firsts, (piece,), before)
            b.assign(before, before + here)
        b.store(total, (), before)
    return b.tensors(n)


@op(
    "NonZero",
    samples=lambda: [
        sample(ints(5, 3, 7, low=0, high=2)),
        sample(bools(4100)),
        sample(floats(3, 17) * (floats(3, 17, seed=1) > 0)),
        sample(np.zeros((2, 3), np.int64)),
        sample(floats(0, 3), symbolic=False),
        sample(floats()),
    ],
)
def non_zero(node: OpNode) -> Tensor:
    """For every axis the indices of the elements that are not zero, in row-major order; a scalar counts as a line."""
    x = node.input(0)
    x = reshape(x, (1,)) if x.rank == 0 else x
    found = places(node, reshape(x, (D.product(x.shape),)))
    strides = [D.product(x.shape[k + 1 :]) for k in range(x.rank)]
    b = Builder("coordinates")
    y = b.result((x.rank, found.shape[0]), I64)
    if x.rank == 1:
        return reshape(found, (1, found.shape[0]))
    with b.phase(D.ceildiv(found.shape[0], _PIECE)) as (piece,):
        stop = b.let(E.minimum((piece + 1) * _PIECE, size(found.shape[0])))
        with b.loop(piece * _PIECE, stop) as i:
            rest: Expr = b.let(at(found, i))
            for k, stride in enumerate(strides):
                quotient = rest if k == x.rank - 1 else b.let(_divided(rest, stride))
                b.store(y, (k, i), quotient)
                rest = b.let(rest - quotient * size(stride))
    return b.tensors()[0]


def _divided(e: Expr, d: Dim) -> Expr:
    """By a size, which is 0 only where there is nothing to divide."""
    return E.floordiv(e, size(d) if isinstance(d, int) else E.maximum(size(d), 1))


def _compress_samples() -> list[Sample]:
    x = floats(5, 3, 7)
    return [
        sample(x, bools(5), axis=0),
        sample(x, bools(7, seed=1), axis=-1),
        sample(x, np.array([True, True]), axis=1, symbolic=False),
        sample(x, bools(105)),
        sample(ints(3, 2), np.array([False, True, True, False, True])),
        sample(x, np.zeros(3, bool), axis=1),
        sample(x, np.array([True, False, True]), axis=1, constants=[1], symbolic=False),
    ]


@op("Compress", samples=_compress_samples)
def compress(node: OpNode) -> Tensor:
    """The slices along an axis, or the elements, that a mask keeps; a short mask keeps nothing of the rest."""
    x, mask, axis = node.input(0), node.input(1), node.attr("axis", None)
    if axis is None:
        x, axis = reshape(x, (D.product(x.shape),)), 0
    axis = node.axis(axis, x.rank)
    if x.rank == 1:
        return places(node, mask, x)
    found = places(node, mask)
    shape = (*x.shape[:axis], found.shape[0], *x.shape[axis + 1 :])
    return index_map(
        x, shape, lambda i: (*i[:axis], _in_range(at(found, i[axis]), x.shape[axis], None), *i[axis + 1 :]), found
    )
