"""Matrix products."""

from __future__ import annotations

from graphfuse.graph.dims import is_static
from graphfuse.graph.dtypes import is_float
from graphfuse.ops.expr import Expr
from graphfuse.ops.registry import NotSupported, OpNode, op
from graphfuse.ops.samples import floats, ints, sample, scalar
from graphfuse.ops.tensor import Tensor, broadcast, contract, map_, reshape, transpose


def matrix_product(a: Tensor, b: Tensor) -> Tensor:
    """a[..., M, K] times b[..., K, N], batch dimensions broadcast."""
    if is_static(a.shape[-1], b.shape[-2]) and a.shape[-1] != b.shape[-2]:
        raise NotSupported(f"the product of {list(a.shape)} and {list(b.shape)} is not defined")
    batch = broadcast(a.shape[:-2], b.shape[:-2])
    return contract("matmul", (a, b), (*batch, a.shape[-2], b.shape[-1]))


@op(
    "MatMul",
    samples=lambda: [
        sample(floats(13, 17), floats(17, 5, seed=1)),
        sample(floats(2, 3, 13, 17), floats(17, 5, seed=1), constants=[1]),
        sample(floats(2, 1, 13, 17), floats(3, 17, 5, seed=1)),
        sample(floats(17), floats(17, 5, seed=1)),
        sample(floats(2, 13, 17), floats(17, seed=1)),
        sample(floats(17), floats(17, seed=1)),
        sample(floats(17), floats(3, 17, 5, seed=1)),
        sample(floats(1, 1), floats(1, 1, seed=1)),
        sample(floats(0, 17), floats(17, 5, seed=1)),
        sample(floats(3, 4, dtype=float), floats(4, 5, dtype=float, seed=1)),
        sample(ints(3, 4), ints(4, 5, seed=1)),
        sample(floats(3, 4), floats(5, 6), rejected="is not defined", reference="onnx"),
    ],
)
def matmul(node: OpNode) -> Tensor:
    """A vector on the left is one row, on the right one column, and its size leaves the result."""
    a, b = node.input(0), node.input(1)
    if a.rank == 0 or b.rank == 0:
        raise NotSupported("a product with a tensor of rank 0")
    row, column = a.rank == 1, b.rank == 1
    a = reshape(a, (1, *a.shape)) if row else a
    b = reshape(b, (*b.shape, 1)) if column else b
    y = matrix_product(a, b)
    kept = [d for k, d in enumerate(y.shape) if not (row and k == y.rank - 2) and not (column and k == y.rank - 1)]
    return reshape(y, kept)


@op(
    "Gemm",
    samples=lambda: [
        sample(floats(13, 17), floats(17, 5, seed=1)),
        sample(floats(13, 17), floats(17, 5, seed=1), floats(5), constants=[1, 2]),
        sample(floats(17, 13), floats(5, 17, seed=1), floats(13, 1), transA=1, transB=1),
        sample(floats(13, 17), floats(17, 5, seed=1), floats(13, 5), alpha=0.5, beta=2.0),
        sample(floats(13, 17), floats(17, 5, seed=1), scalar(2.0), beta=0.25),
        sample(floats(13, 17), floats(5, 17, seed=1), floats(1, 5), transB=1, alpha=1.5),
        sample(ints(3, 4), ints(4, 5, seed=1), ints(5), beta=3.0, reference="onnx"),
    ],
)
def gemm(node: OpNode) -> Tensor:
    """alpha * A B + beta * C."""
    a, b, c = node.input(0), node.input(1), node.optional(2)
    a = transpose(a, (1, 0)) if node.attr("transA", 0) else a
    b = transpose(b, (1, 0)) if node.attr("transB", 0) else b
    alpha, beta = node.attr("alpha", 1.0), node.attr("beta", 1.0)
    y = matrix_product(a, b)
    if alpha != 1:
        y = map_(lambda v: _scaled(v, alpha), y)
    if c is not None and beta != 0:
        y = map_(lambda v, w: v + _scaled(w, beta), y, c)
    return y


def _scaled(v: Expr, factor: float) -> Expr:
    if factor == 1:
        return v
    if not is_float(v.dtype) and factor != int(factor):
        raise NotSupported(f"integers times {factor}")
    return v * factor
