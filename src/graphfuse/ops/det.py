"""Determinants of square matrices."""

from __future__ import annotations

import numpy as np

from graphfuse.graph import dims as D
from graphfuse.ops import expr as E
from graphfuse.ops.expr import Const, Expr, lift
from graphfuse.ops.loops import Builder, at
from graphfuse.ops.registry import NotSupported, OpNode, op
from graphfuse.ops.samples import floats, sample
from graphfuse.ops.tensor import Tensor, size


def _magnitude(x: Expr) -> Expr:
    return E.where(x < 0, -x, x)


@op(
    "Det",
    samples=lambda: [
        sample(floats(2, 2)),
        sample(floats(3, 4, 4)),
        sample(floats(2, 3, 7, 7), fixed=[2, 3]),
        sample(floats(5, 5, dtype=np.float64)),
        sample(np.array([[0, 1, 2], [0, 3, 4], [0, 5, 6]], np.float32)),
        sample(np.array([[0, 2, 0], [0, 0, 3], [4, 0, 0]], np.float32)),
        sample(floats(2, 3), rejected="2 x 3"),
    ],
)
def det(node: OpNode) -> Tensor:
    """The product of the pivots of Gaussian elimination, rows exchanged for the largest pivot of each column."""
    x = node.input(0)
    if x.rank < 2:
        raise NotSupported(f"an input of rank {x.rank} is no matrix")
    n, columns = x.shape[-2:]
    if D.is_static(n, columns) and n != columns:
        raise NotSupported(f"a matrix of {n} x {columns}")
    b = Builder("determinant")
    y = b.result(x.shape[:-2], x.dtype)
    with b.phase(*x.shape[:-2]) as r:
        a = b.scratch((n, n), x.dtype)
        with b.each((n, n)) as (i, j):
            b.store(a, (i, j), at(x, *r, i, j))
        product = b.variable(lift(1, x.dtype))
        with b.loop(0, size(n)) as c:
            pivot = b.variable(c + Const(0, c.dtype))
            with b.loop(c + 1, size(n)) as i, b.when(_magnitude(at(a, i, c)) > _magnitude(at(a, pivot, c))):
                b.assign(pivot, i)
            with b.when(E.compare("ne", pivot, c)):
                b.assign(product, -product)
                with b.loop(c, size(n)) as j:
                    other = b.let(at(a, pivot, j))
                    b.store(a, (pivot, j), at(a, c, j))
                    b.store(a, (c, j), other)
            head = b.let(at(a, c, c))
            b.assign(product, product * head)
            with b.when(E.equal(head, 0.0)):
                b.leave()
            with b.loop(c + 1, size(n)) as i:
                factor = b.let(at(a, i, c) / head)
                with b.loop(c + 1, size(n)) as j:
                    b.store(a, (i, j), at(a, i, j) - factor * at(a, c, j))
        b.store(y, r, product)
    return b.tensors()[0]
