"""Matrix product: packed weights or an operand packed at run time, register tiles, epilogue on the accumulators.

Also every 1x1 convolution without padding or groups: its pixels are the rows.
"""

from __future__ import annotations

from graphfuse.graph.dims import Dim, ceildiv, estimate, mul, product, same_shape
from graphfuse.graph.dtypes import F32, F64, I32, I64, U32, U64, item_bytes, suffix
from graphfuse.plan.site import ContractionSite, KernelCode, Lines
from graphfuse.target import Target

from .function import Function
from .gemm_loops import Loops
from .product import Product, no_matrices, no_product

_DTYPES = (F32, F64, I32, U32, I64, U64)


class Gemm:
    """`gemm`: M x K times K x N in tiles of registers."""

    name = "gemm"
    error_class = "reassociated"
    in_place = True

    def accepts(self, site: ContractionSite, target: Target) -> str | None:
        return no_product(site) or self._wrong_types(site) or no_matrices(site)

    def _wrong_types(self, site: ContractionSite) -> str | None:
        if site.contraction.dtype not in _DTYPES:
            return f"no multiply-add for {site.contraction.dtype.name}"
        return "the operands are narrower than their sums" if site.narrow else None

    def cost(self, site: ContractionSite, target: Target) -> float:
        """Microseconds on one thread at 80 % of two vector multiply-adds a cycle and 3 GHz."""
        plan = Product(site, target)
        lanes = target.lanes * 4 / item_bytes(plan.dtype)
        if plan.constant:
            return plan.multiplications / (0.8 * 2 * lanes * 3e3) + 0.5
        whole = plan.multiplications / estimate(plan.operands.n) * plan.packed_columns
        packing = plan.packed_elements / lanes * _packing_cycles(plan)
        return (whole / (0.8 * 2 * lanes) + packing) / 3e3 + 0.5

    def lines(self, site: ContractionSite, target: Target) -> Lines | None:
        """The rows of a 1x1 convolution of images are their pixels, line by line; those of matrices are their lines."""
        out = site.contraction.shape
        if site.prim.kind == "matmul":
            return _matrix_lines(site)
        if site.prim.kind != "conv" or len(out) != 4:
            return None
        x = site.prim.args[0]
        return Lines(
            source=site.view(x),
            images=out[0],
            height=out[2],
            source_height=x.shape[2],
            stride=site.prim.attrs.strides[0],
            rows_per_line=out[3],
        )

    def emit(self, site: ContractionSite, target: Target, any_rows: bool = False) -> KernelCode:
        p = Product(site, target, any_rows)
        o = p.operands
        fn = Function(site, site.index[o.lane_axis])
        a = fn.params.pointer(site.view(o.a), p.dtype, "a")
        b = fn.params.pointer(p.packed(), p.stored, "b") if p.constant else None
        writer = Loops(p, fn, a, b)
        writer.rows(fn.body)
        columns = ceildiv(o.n, p.width)
        scratch: Dim = 0 if p.constant else product([columns, o.k, p.width * item_bytes(p.dtype)])
        kind = "packed weights" if p.constant else "second operand packed at run time"
        kind += f" as {p.stored.name.lower()}" if p.stored != p.dtype else ""
        return KernelCode(
            hint=f"gemm_{suffix(p.dtype)}_{p.tile.rows}x{p.width}",
            source=fn.source(),
            pointers=fn.params.pointers,
            dims=fn.params.dims,
            rows=p.rows.total,
            work=mul(2, product([p.rows.total, o.k, o.n])),
            row_grain=p.tile.rows,
            columns=columns,
            scratch=scratch,
            describe=f"gemm {p.tile.rows}x{p.width} tiles, {kind}",
        )


def _packing_cycles(plan: Product) -> float:
    """Cycles that packing a vector takes: columns side by side, turned over in registers, one by one."""
    o = plan.operands
    if o.b_n == 1:
        return 2.0
    return 6.0 if o.b_k == 1 and plan.dtype == F32 else float(plan.lanes)


def _matrix_lines(site: ContractionSite) -> Lines | None:
    """The rows of a stack of matrices times one matrix that is known at compile time."""
    a, b = site.prim.args
    out = site.contraction.shape
    # A second operand that is packed at run time would be packed again for every strip.
    if a.rank != len(out) or b.rank != 2 or site.constants(b) is None or not same_shape(a.shape[:-1], out[:-1]):
        return None
    axis = len(out) - 2
    return Lines(site.view(a), product(out[:axis]), out[axis], out[axis], axis=axis)


KERNEL = Gemm()
