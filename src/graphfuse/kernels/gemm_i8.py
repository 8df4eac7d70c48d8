"""Matrix product of bytes: sums of four products in each lane of 32 bits, epilogue on the accumulators.

Also every 1x1 convolution without padding or groups: its pixels are the rows.
"""

from __future__ import annotations

import numpy as np

from graphfuse.codegen.writer import Writer
from graphfuse.graph.dims import Dim, add, ceildiv, estimate, mul, product
from graphfuse.graph.dtypes import I8
from graphfuse.plan.site import ContractionSite, KernelCode, Packed
from graphfuse.target import Target

from .dot import QUAD, Dot, has_instruction, most_rows, products_per_cycle, quads, turned_sum
from .function import Function, affine, times
from .gemm import Gemm
from .gemm_loops import Loops
from .product import Product
from .tile import Tile


class GemmI8(Gemm):
    """`gemm_i8`: M x K times K x N, uint8 or int8 times int8."""

    name = "gemm_i8"
    error_class = "exact"

    def accepts(self, site: ContractionSite, target: Target) -> str | None:
        if (reason := super().accepts(site, target)) is not None:
            return reason
        if site.prim.kind == "conv" and site.constants(site.prim.args[1]) is None:
            return "the weights are not known at compile time"
        return None

    def _wrong_types(self, site: ContractionSite) -> str | None:
        return None if site.narrow and site.prim.args[1].dtype == I8 else "the operands are no bytes"

    def cost(self, site: ContractionSite, target: Target) -> float:
        """Microseconds on one thread at 80 % of two vector instructions a cycle and 3 GHz."""
        plan = ByteProduct(site, target)
        return plan.multiplications / (0.8 * products_per_cycle(target) * 3e3) + 0.5

    def emit(self, site: ContractionSite, target: Target, any_rows: bool = False) -> KernelCode:
        p = ByteProduct(site, target, any_rows)
        o = p.operands
        fn = Function(site, site.index[o.lane_axis])
        a = fn.params.pointer(site.view(o.a), o.a.dtype, "a")
        b = fn.params.pointer(p.packed(), I8, "b") if p.constant else None
        ByteLoops(p, fn, a, b).rows(fn.body)
        columns = ceildiv(o.n, p.width)
        scratch: Dim = 0 if p.constant else product([columns, p.width, p.column])
        kind = "packed weights" if p.constant else "second operand packed at run time"
        return KernelCode(
            hint=f"gemm_i8_{p.tile.rows}x{p.width}",
            source=fn.source(),
            pointers=fn.params.pointers,
            dims=fn.params.dims,
            rows=p.rows.total,
            # In the time of one operation on float32 the instruction does four.
            work=product([2 if not has_instruction(target) else 1, p.rows.total, ceildiv(o.k, 2), o.n]),
            row_grain=p.tile.rows,
            columns=columns,
            scratch=scratch,
            describe=f"gemm of bytes, {p.tile.rows}x{p.width} tiles, {kind}",
        )


class ByteProduct(Product):
    """Everything decided about one product of bytes."""

    def _widest(self) -> int:
        return most_rows(self.target, super()._widest())

    def __init__(self, site: ContractionSite, target: Target, any_rows: bool = False) -> None:
        self.dot = Dot(site.prim.args[0].dtype, target)
        super().__init__(site, target, any_rows)
        self.dtype = self.stored = I8

    @property
    def column(self) -> Dim:
        """Bytes of a packed column: what its sum starts with, and its weights in fours."""
        return add(mul(ceildiv(self.operands.k, QUAD), QUAD), self.dot.head)

    @property
    def lane_bytes(self) -> int:
        return QUAD

    @property
    def k_bytes(self) -> int:
        return estimate(self.operands.k) * self.lanes

    @property
    def prefetch(self) -> bool:
        return super().prefetch and self.operands.a_k == 1

    def _forms(self, vectors: Dim) -> None:
        """One accumulator for each row and vector, always."""

    def packed(self) -> Packed:
        conv, vectors, lanes = self.site.prim.kind == "conv", self.tile.vectors, self.lanes
        start = turned_sum(self.target) if self.dot.turned else 0

        def arrange(w: np.ndarray) -> np.ndarray:
            matrix = w.reshape(w.shape[0], w.shape[1]).T if conv else w.reshape(w.shape[-2:])
            return quads(matrix, vectors, lanes, start)

        return Packed(
            self.operands.b, arrange, I8, f"gemm {'oc' if conv else 'kn'} quads of {vectors}x{lanes}, {start}"
        )


class ByteLoops(Loops):
    """The loops, with packed panels of bytes in fours."""

    plan: ByteProduct

    @property
    def column(self) -> str:
        return self.fn.dim(self.plan.column, "column")

    def sums(self, w: Writer, tile: Tile, x: str, y: str, tail: int | str) -> None:
        p, fn = self.plan, self.fn
        k, apart = p.operands.k, p.operands.a_k
        p.dot.declare(w, tile, y)
        if apart == 1:
            p.dot.run(w, tile, lambda m, i: f"{x} + {times(m, p.a_step, fn.params)} + {i}", y, self._k(), p.prefetch)
            return
        # The bytes of a row lie apart: four of every row are brought together first.
        i, size = w.fresh("k"), fn.dim(k, "k")
        with w.loop(i, "0", size, str(QUAD)):
            w.line(f"uint8_t near[{tile.rows}][{QUAD}] = {{{{0}}}};")
            with w.loop("j", "0", f"gf_min64({QUAD}, {size} - {i})"):
                place = affine([("m", p.a_step), (f"({i} + j)", apart)], fn.params)
                w.line(f"for (int m = 0; m < {tile.rows}; m++) near[m][j] = (uint8_t){x}[{place}];")
            p.dot.step(w, tile, lambda m: f"near[{m}]", y)
            w.line(f"{y} += {tile.vectors * p.lanes * QUAD};")

    def _k(self) -> int | str:
        k = self.plan.operands.k
        return k if isinstance(k, int) else self.fn.dim(k, "k")

    # ------------------------------------------------------------------ packing at run time

    def pack_panel(self, w: Writer, source: str, column: str, vectors: int, tail: int | str) -> None:
        """Four bytes of every lane side by side; ahead of them what the sums start with, where bytes are turned."""
        p = self.plan
        base = self.panel_base(w, column)
        head = vectors * p.lanes * p.dot.head
        for v in range(vectors):
            part = tail if v == vectors - 1 else 0
            self._pack_vector(
                w, source, f"{base} + {head + v * p.lanes * QUAD}", f"({column} + {v * p.lanes})", vectors, part
            )
        if p.dot.turned:
            self._start_sums(w, base, vectors)

    def _pack_vector(self, w: Writer, source: str, to: str, column: str, vectors: int, tail: int | str) -> None:
        p, fn = self.plan, self.fn
        o, size = p.operands, fn.dim(p.operands.k, "k")
        width = vectors * p.lanes * QUAD
        k = w.fresh("k")
        with w.block():
            if o.b_k == 1:
                self._pack_columns(w, source, to, column, width, tail)
                return
            w.line(f"int64_t {k} = 0;")
            kind, part = ("_part", f", {tail}") if tail else ("", "")
            step = "" if o.b_n == 1 else f", {fn.dim(o.b_n, 's')}"
            load = f"gf_load{'' if o.b_n == 1 else 's'}{kind}_u8"

            def byte(j: int) -> str:
                place = affine([(f"({k} + {j})", o.b_k), (column, o.b_n)], fn.params)
                value = f"gf_cast_u8_i32({load}((const uint8_t *){source} + {place}{step}{part}))"
                return f"{value} << {8 * j}" if j else value

            def store(count: int) -> None:
                four = " | ".join(byte(j) for j in range(count))
                w.line(f"gf_store_i32((int32_t *)(void *)({to} + {k} / {QUAD} * {width}), {four});")

            with w.block(f"for (; {k} + {QUAD} <= {size}; {k} += {QUAD})"):
                store(QUAD)
            for rest in (1, 2, 3):
                with w.block(f"if ({size} - {k} == {rest})"):
                    store(rest)

    def _pack_columns(self, w: Writer, source: str, to: str, column: str, width: int, tail: int | str) -> None:
        """Columns whose bytes lie side by side: four at a time."""
        p, fn = self.plan, self.fn
        o, size, lanes = p.operands, fn.dim(p.operands.k, "k"), str(p.lanes)
        with w.loop("l", "0", lanes):
            w.line(f"{self.b_type} *into = {to} + l * {QUAD};")
            place = affine([(f"({column} + l)", o.b_n)], fn.params)
            empty = f"l >= {tail} ? 0 : " if tail else ""
            w.line(f"const int64_t there = {empty}{size};")
            w.line(f"const {self.b_type} *from = {source}{' + ' + place if place != '0' else ''};")
            w.line("int64_t k = 0;")
            w.line(f"for (; k + {QUAD} <= there; k += {QUAD}, into += {width}) memcpy(into, from + k, {QUAD});")
            with w.block(f"for (; k < {size}; k += {QUAD}, into += {width})"):
                w.line(f"for (int64_t j = 0; j < {QUAD}; j++) into[j] = (int8_t)(k + j < there ? from[k + j] : 0);")

    def _start_sums(self, w: Writer, base: str, vectors: int) -> None:
        p, fn = self.plan, self.fn
        width = vectors * p.lanes * QUAD
        steps = fn.dim(ceildiv(p.operands.k, QUAD), "steps")
        with w.loop("v", "0", str(vectors)):
            w.line("gf_i32 sum = {0};")
            with w.loop("q", "1", f"{steps} + 1"):
                place = f"{base} + q * {width} + v * {p.lanes * QUAD}"
                w.line(
                    f"sum = {p.dot.function}(sum, gf_splat_i32(0x01010101), "
                    f"gf_load_i32((const int32_t *)(const void *)({place})));"
                )
            start = f"gf_mul_i32(sum, gf_splat_i32({turned_sum(p.target)}))"
            w.line(f"gf_store_i32((int32_t *)(void *)({base} + v * {p.lanes * QUAD}), {start});")


KERNEL = GemmI8()
