"""A matrix product before it is written: its operands as strides, its tile, how its second operand is packed."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from graphfuse.graph.dims import Dim, ceildiv, estimate, mul, product, same
from graphfuse.graph.dtypes import BF16, F32, DType, item_bytes
from graphfuse.ops.tensor import Tensor, Window
from graphfuse.plan.site import ContractionSite, Packed
from graphfuse.target import Target

from .rowspace import RowSpace, Strides, row_space
from .tile import Tile, choose_tile, fits, panels, row_variants

# More rows than this need more address registers than there are when their distance is not a constant.
_ROWS_OF_UNKNOWN_STRIDE = 8
# Independent sums that keep two adders of four cycles busy.
_LEAST_SUMS = 8
# Sums of a tile with half a vector; measured: more only make its first and last cycles longer.
_MOST_HALVED = 20
_ENOUGH_ROWS = 32
# With so few rows products wait for their weights.
_FEW_ROWS = 16


@dataclass(frozen=True)
class Operands:
    """out[rows, n] = sum over k of a[rows, k] * b[batch, k, n]; strides in elements by output axis."""

    a: Tensor
    b: Tensor
    a_rows: Strides
    a_k: Dim
    b_rows: Strides
    b_k: Dim
    b_n: Dim
    row_axes: tuple[int, ...]
    lane_axis: int
    k: Dim
    n: Dim


def no_product(site: ContractionSite) -> str | None:
    """Why a contraction is no sum of products of two operands; None if it is."""
    kind = site.prim.kind
    return None if kind in ("matmul", "conv") else f"{kind} is not a matrix product"


def no_matrices(site: ContractionSite) -> str | None:
    """Why the operands of a product or convolution are not rows of elements and a matrix; None if they are."""
    if site.prim.kind == "conv":
        return _not_pointwise(site.prim.attrs)
    return "an operand has less than two dimensions" if min(a.rank for a in site.prim.args) < 2 else None


def _not_pointwise(window: Window) -> str | None:
    """Why a convolution is not a product of its pixels with a matrix; None if it is."""
    if any(k != 1 for k in window.kernel):
        return f"the window is {'x'.join(map(str, window.kernel))}, not 1x1"
    if window.groups != 1:
        return f"{window.groups} groups"
    if any(p != 0 for p in (*window.pads_before, *window.pads_after)):
        return "padding"
    return None


def operands_of(site: ContractionSite) -> Operands:
    """The operands of a matrix product or 1x1 convolution, as strides by output axis."""
    a, b = site.prim.args
    va, vb = site.view(a), site.views.get(b)
    rank = site.contraction.rank
    if site.prim.kind == "conv":
        steps = site.prim.attrs.strides
        a_rows = {0: va.strides[0]} | {2 + s: mul(va.strides[2 + s], steps[s]) for s in range(rank - 2)}
        bs = (0, 0) if vb is None else (vb.strides[1], vb.strides[0])
        axes = (0, *range(2, rank))
        return Operands(a, b, a_rows, va.strides[1], {}, *bs, axes, 1, a.shape[1], b.shape[0])

    def batch(t: Tensor, strides: tuple[Dim, ...]) -> dict[int, Dim]:
        lead = rank - t.rank
        return {lead + j: strides[j] for j in range(t.rank - 2) if t.shape[j] != 1}

    a_rows = batch(a, va.strides) | {rank - 2: va.strides[-2]}
    b_rows = {} if vb is None else batch(b, vb.strides)
    bs = (0, 0) if vb is None else (vb.strides[-2], vb.strides[-1])
    return Operands(
        a, b, a_rows, va.strides[-1], b_rows, *bs, tuple(range(rank - 1)), rank - 1, a.shape[-1], b.shape[-1]
    )


class Product:
    """Everything decided about one product.

    ways: parts that every sum is split into, 1 for most; halved: the last vector holds two rows, each half of it.
    """

    def __init__(self, site: ContractionSite, target: Target, any_rows: bool = False) -> None:
        self.site = site
        self.target = target
        self.dtype: DType = site.contraction.dtype
        self.operands = o = self._operands()
        self.constant = self._is_constant()
        self.stored: DType = self.dtype
        strides = [o.a_rows] if self.constant else [o.a_rows, o.b_rows]
        self.rows: RowSpace = row_space(site, o.row_axes, strides)
        self.lanes = target.lanes
        vectors = ceildiv(o.n, self.lanes)
        self.a_step = self.rows.row_stride(o.a_rows)
        self.stored = self._stored()
        self.tile: Tile = choose_tile(
            target, self.dtype, self.rows.count, vectors, most_rows=self._widest(), wide_k=self.k_bytes * 2 > target.l1
        )
        self.ways, self.halved = 1, False
        self._forms(vectors)
        self.width = self.tile.vectors * self.lanes
        # Tiles start anew in every item: where they do not fill it, a range of rows begins and ends anywhere in one.
        uneven = bool(self.rows.outer) and not same(self.rows.count % self.tile.rows, 0)
        self.variants = row_variants(self.rows.count, self.tile.rows, any_rows or uneven)

    def _operands(self) -> Operands:
        return operands_of(self.site)

    def _is_constant(self) -> bool:
        return constant_matrix(self.site, self.operands.b)

    def _widest(self) -> int:
        """The most rows of a tile."""
        return 32 if isinstance(self.a_step, int) else _ROWS_OF_UNKNOWN_STRIDE

    def _stored(self) -> DType:
        """The type of the packed weights: a narrow one that loses nothing, where more time goes into reading them."""
        few = estimate(self.rows.total) <= _FEW_ROWS
        size = estimate(self.operands.k) * estimate(self.operands.n) * item_bytes(self.dtype)
        if self.dtype != F32 or not self.constant or not few or size < self.target.l2:
            return self.dtype
        narrow = self.site.held_by(self.operands.b)
        return narrow if narrow == BF16 or self.target.converts_f16 else self.dtype

    def _forms(self, vectors: Dim) -> None:
        """Sums in parts, or a vector shared by two rows, where the tile would do no good."""
        o, site, target = self.operands, self.site, self.target
        self.ways = 1 if site.sum_block or not isinstance(o.k, int) else sum_parts(o.k, self.rows.count, vectors)
        self.halved = (
            not site.sum_block
            and self.constant
            and self.ways == 1
            and _is_halved(o.n, self.rows.count, self.lanes, self.dtype)
        )
        if self.ways > 1:
            self.tile = split_tile(self.ways, vectors, target, self.dtype)
        elif self.halved:
            self.tile = _halved_tile(vectors, target)

    @property
    def multiplications(self) -> int:
        return estimate(product([self.rows.total, self.operands.k, self.operands.n]))

    @property
    def packed_columns(self) -> int:
        """Columns of the second operand as packed: whole vectors."""
        return estimate(ceildiv(self.operands.n, self.lanes)) * self.lanes

    @property
    def packed_elements(self) -> int:
        """Elements of the second operand as packed at run time: those of every item that has one of its own."""
        own = [axis for axis in self.rows.outer if self.operands.b_rows.get(axis, 0) != 0]
        return estimate(product([*(self.rows.sizes[axis] for axis in own), self.operands.k])) * self.packed_columns

    @property
    def k_bytes(self) -> int:
        """Bytes of a vector's column of packed B."""
        return estimate(self.operands.k) * self.lanes * self.lane_bytes

    @property
    def lane_bytes(self) -> int:
        """Bytes of packed B that one lane is fed with in a step of k."""
        return item_bytes(self.stored)

    def b_step(self, tile: Tile) -> Dim:
        """Elements from one step of k to the next in the second operand."""
        return tile.vectors * self.lanes

    @property
    def prefetch(self) -> bool:
        """Weights come from memory, but a single tile uses them up as fast as they can be fetched."""
        single = isinstance(self.rows.count, int) and self.rows.count <= self.tile.rows
        return self.constant and not single and self.ways == 1

    @property
    def block_rows(self) -> int:
        """Rows of the first operand that take a third of L2."""
        per_row = max(1, estimate(self.operands.k) * item_bytes(self.dtype))
        return max(1, self.target.l2 // 3 // per_row // self.tile.rows) * self.tile.rows

    def packed(self) -> Packed:
        """The second operand as panels."""
        conv, vectors, lanes = self.site.prim.kind == "conv", self.tile.vectors, self.lanes
        halved, kind = self.halved, self.stored.numpy()

        def arrange(w: np.ndarray) -> np.ndarray:
            matrix = w.reshape(w.shape[0], w.shape[1]).T if conv else w.reshape(w.shape[-2:])
            packed = panels(_with_both_halves(matrix, lanes) if halved else matrix, vectors, lanes)
            return packed.astype(kind, copy=False)

        key = f"gemm {'oc' if conv else 'kn'} panels of {vectors}x{lanes}{', halved' * halved} {kind}"
        return Packed(self.operands.b, arrange, self.stored, key)


def sum_parts(k: Dim, rows: Dim, vectors: Dim) -> int:
    """Into how many parts the sums of a small product are split: eight additions fill the time that one takes."""
    sums = estimate(rows) * vectors if isinstance(vectors, int) else _LEAST_SUMS
    ways = _LEAST_SUMS // sums
    return min(4, ways) if estimate(k) >= 16 and ways > 0 else 1


def split_tile(ways: int, vectors: Dim, target: Target, dtype: DType) -> Tile:
    """The tallest tile whose sums, each in `ways` parts, stay in registers."""
    assert isinstance(vectors, int)
    heights = [r for r in range(1, 9) if fits(Tile(r, ways * vectors), target, dtype)]
    return Tile(max(heights, default=1), vectors)


def _is_halved(n: Dim, rows: Dim, lanes: int, dtype: DType) -> bool:
    """Whether half of the last vector would go unused, in a product that is one panel wide and many rows high."""
    if not isinstance(n, int) or dtype != F32 or lanes < 8 or estimate(rows) < _ENOUGH_ROWS:
        return False
    return lanes < n < 4 * lanes and 0 < n % lanes <= lanes // 2


def _halved_tile(vectors: Dim, target: Target) -> Tile:
    """As many pairs of rows as fit: both rows' full vectors, one that they share, B, and three for elements of A."""
    assert isinstance(vectors, int)
    room = min(_MOST_HALVED, target.vector_registers - vectors - 3)
    return Tile(max(2, room // (2 * vectors - 1) * 2), vectors)


def _with_both_halves(matrix: np.ndarray, lanes: int) -> np.ndarray:
    """The matrix with the columns of its last half vector twice, for the two rows that share one."""
    k, n = matrix.shape
    full = n // lanes * lanes
    result = np.zeros((k, full + lanes), matrix.dtype)
    result[:, :n] = matrix
    result[:, full + lanes // 2 : n + lanes // 2] = matrix[:, full:]
    return result


def constant_matrix(site: ContractionSite, t: Tensor) -> bool:
    """Whether an operand is one matrix known at compile time."""
    value = site.constants(t)
    if site.prim.kind == "conv":
        return value is not None
    return value is not None and value.size == value.shape[-1] * value.shape[-2]
