"""Convolutions as matrix products: for weights that are known only at run time, which no kernel can pack ahead."""

from __future__ import annotations

import math
from collections.abc import Sequence

import onnx_ir as ir

from graphfuse.graph.dims import Dim, product
from graphfuse.ops import expr as E
from graphfuse.ops.expr import Const, Expr
from graphfuse.ops.tensor import Tensor, Window, contract, index_map, reshape, size, transpose


def is_unpackable(w: Tensor, window: Window, kind: str) -> bool:
    """Whether weights are known only at run time, and the convolution is more than a product of pixels with them."""
    if w.prim is None and w.value is not None and ir.convenience.get_const_tensor(w.value) is not None:
        return False
    pads = (*window.pads_before, *window.pads_after)
    plain = window.groups == 1 and all(k == 1 for k in window.kernel) and all(p == 0 for p in pads)
    return kind != "conv" or not plain


def unfolded(kind: str, x: Tensor, w: Tensor, out: Sequence[Dim], window: Window) -> Tensor:
    """The contraction "conv" or "conv_transpose" of x[N, C, *spatial] with w: every window a column of a matrix.

    out: the result's shape [N, O, *spatial].
    """
    rank, groups, taps = len(window.kernel), window.groups, math.prod(window.kernel)
    per_group = int(w.shape[1]) if kind == "conv" else int(w.shape[0]) // groups
    outputs = int(out[1])  # type: ignore[arg-type]  # Conv's own weights are static

    def places(i: Sequence[Expr]) -> list[tuple[Expr, Expr]]:
        """For each spatial axis the input position of a tap of an output, and whether it is one."""
        spots: list[tuple[Expr, Expr]] = []
        for k in range(rank):
            tap, o = i[3 + k] * window.dilations[k], i[3 + rank + k]
            if kind == "conv":
                at, whole = o * window.strides[k] + tap - size(window.pads_before[k]), None
            else:
                before = o + size(window.pads_before[k]) - tap
                at, whole = E.floordiv(before, window.strides[k]), E.equal(E.floormod(before, window.strides[k]), 0)
            inside = E.logical("and", at >= 0, at < size(x.shape[2 + k]))
            spots.append((at, inside if whole is None else E.logical("and", inside, whole)))
        return spots

    def index(i: Sequence[Expr]) -> tuple[Expr, ...]:
        return (i[0], i[1] * per_group + i[2], *(at for at, _ in places(i)))

    def guard(i: Sequence[Expr]) -> Expr | None:
        total, *rest = (inside for _, inside in places(i))
        for inside in rest:
            total = E.logical("and", total, inside)
        return total

    spread = (out[0], groups, per_group, *window.kernel, *out[2:])
    zero = Const(0.0 if x.dtype.is_floating_point() else 0, x.dtype)
    columns = index_map(x, spread, index, guard=guard, fill=zero)
    columns = reshape(columns, (out[0], groups, per_group * taps, product(out[2:])))
    if kind == "conv":
        rows = reshape(w, (groups, outputs // groups, per_group * taps))
    else:
        rows = transpose(reshape(w, (groups, per_group, outputs // groups, taps)), (0, 2, 1, 3))
        rows = reshape(rows, (groups, outputs // groups, per_group * taps))
    product_shape = (out[0], groups, outputs // groups, columns.shape[-1])
    return reshape(contract("matmul", (rows, columns), product_shape), out)
