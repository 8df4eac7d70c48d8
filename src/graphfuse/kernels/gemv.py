"""Product of a few rows, or a few columns, with a matrix that is read as it lies, once: packing it would read it twice.

Where elements of a sum lie side by side lanes run along the sum: a vector of sums for each of GF_W columns, summed up
across lanes together. Where columns lie side by side lanes run along them, as in `gemm`.
"""

from __future__ import annotations

from collections.abc import Mapping

from graphfuse.codegen.writer import Writer
from graphfuse.graph.dims import Dim, ceildiv, estimate, mul, product
from graphfuse.graph.dtypes import F32, item_bytes, suffix
from graphfuse.plan.site import ContractionSite, KernelCode, Lines
from graphfuse.target import Target

from .function import Function, affine, times
from .gemm import Gemm
from .gemm_loops import Loops
from .product import Operands, Product, constant_matrix, operands_of, split_tile, sum_parts
from .tile import Tile

# With more rows the packed product may be as fast: measured, with lanes along columns and along sums.
_MOST_ROWS, _MOST_ROWS_OF_SUMS = 16, 8
# Columns read side by side where lanes run along sums: enough chains of two sums each, few lines of one cache set.
_GROUP = 4
# Vectors of a sum that are written out; longer ones are loops.
_UNROLLED = 4
# Cycles that summing up a block across lanes and storing it take beside the products.
_FINISH = 30


class Gemv(Gemm):
    """`gemv`: few rows times a matrix known at run time."""

    name = "gemv"

    def accepts(self, site: ContractionSite, target: Target) -> str | None:
        if (reason := super().accepts(site, target)) is not None:
            return reason
        if site.prim.kind != "matmul":
            return f"{site.prim.kind} is not a matrix product"
        if constant_matrix(site, site.prim.args[1]):
            return "weights known at compile time are packed then"
        plan = DirectProduct(site, target)
        o = plan.operands
        if not isinstance(plan.rows.count, int):
            return "how many rows there are is not known"
        if plan.rows.count > (_MOST_ROWS_OF_SUMS if plan.along_sums else _MOST_ROWS):
            return f"{plan.rows.count} rows: packing the other operand pays"
        if not plan.along_sums and o.b_n != 1:
            return "neither columns of the matrix nor elements of its sums lie side by side"
        return None

    def cost(self, site: ContractionSite, target: Target) -> float:
        """Microseconds on one thread at 80 % of two vector multiply-adds a cycle and 3 GHz."""
        plan = DirectProduct(site, target)
        lanes = target.lanes * 4 / item_bytes(plan.dtype)
        blocks = estimate(product([plan.rows.total, ceildiv(plan.operands.n, target.lanes)]))
        finish = blocks * _FINISH if plan.along_sums else 0
        return (plan.multiplications / (0.8 * 2 * lanes) + finish) / 3e3 + 0.5

    def lines(self, site: ContractionSite, target: Target) -> Lines | None:
        return None

    def emit(self, site: ContractionSite, target: Target, any_rows: bool = False) -> KernelCode:
        p = DirectProduct(site, target, any_rows)
        o = p.operands
        fn = Function(site, site.index[o.lane_axis])
        a = fn.params.pointer(site.view(o.a), p.dtype, "a")
        b = fn.params.pointer(site.view(o.b), p.dtype, "b")
        (SumLoops if p.along_sums else ColumnLoops)(p, fn, a, b).rows(fn.body)
        form = "lanes along sums" if p.along_sums else f"{p.tile.rows}x{p.width} tiles"
        return KernelCode(
            hint=f"gemv_{suffix(p.dtype)}_{'dot' if p.along_sums else p.width}",
            source=fn.source(),
            pointers=fn.params.pointers,
            dims=fn.params.dims,
            rows=p.rows.total,
            work=mul(2, product([p.rows.total, o.k, o.n])),
            row_grain=p.tile.rows,
            columns=ceildiv(o.n, p.width),
            columns_first=True,
            describe=f"gemv, {form}, the matrix is read as it lies",
        )


class DirectProduct(Product):
    """Everything decided about one product whose matrix is not packed.

    Few columns of a matrix product are few rows of its transpose. along_sums: lanes run along the sum.
    """

    def _operands(self) -> Operands:
        o = operands_of(self.site)
        rows = o.a.shape[-2]
        few = isinstance(o.n, int) and o.n <= _MOST_ROWS_OF_SUMS
        return _turned(o) if few and (not isinstance(rows, int) or rows > estimate(o.n)) else o

    def _is_constant(self) -> bool:
        return False

    @property
    def along_sums(self) -> bool:
        o = self.operands
        return self.dtype == F32 and o.b_k == 1 and estimate(o.k) >= self.lanes

    def _forms(self, vectors: Dim) -> None:
        self.ways, self.halved = 1, False
        if self.along_sums:
            self.tile = Tile(1, 1)
            return
        if self.rows.count == 1 and isinstance(vectors, int):
            self.tile = Tile(1, _even_parts(vectors, self.target.vector_registers * 3 // 4))
        if not self.site.sum_block:
            self.ways = sum_parts(self.operands.k, self.rows.count, vectors)
        if self.ways > 1:
            self.tile = split_tile(self.ways, vectors, self.target, self.dtype)

    def b_step(self, tile: Tile) -> Dim:
        return self.operands.b_k


def _even_parts(vectors: int, most: int) -> int:
    """The size of parts of at most so many vectors, an even number of parts, for two threads, unless one will do."""
    parts = -(-vectors // most)
    return -(-vectors // (parts + parts % 2 if parts > 1 else 1))


def _turned(o: Operands) -> Operands:
    """The operands of the transposed product."""
    columns = max(o.row_axes) + 1
    rows = columns - 1
    return Operands(
        a=o.b,
        b=o.a,
        a_rows={**o.b_rows, columns: o.b_n},
        a_k=o.b_k,
        b_rows={axis: step for axis, step in o.a_rows.items() if axis != rows},
        b_k=o.a_k,
        b_n=o.a_rows[rows],
        row_axes=(*range(rows), columns),
        lane_axis=rows,
        k=o.k,
        n=o.a.shape[-2],
    )


class ColumnLoops(Loops):
    """Lanes along columns: the loops of `gemm` with panels that lie apart, line by line."""

    packed = False
    source = ""  # the C variable that points to the item's matrix

    def item(self, w: Writer, names: Mapping[int, str]) -> None:
        p, fn = self.plan, self.fn
        terms = [(name, p.operands.b_rows.get(axis, 0)) for axis, name in names.items()]
        self.source = w.let(f"{self.b_type} *", f"{self.b} + {affine(terms, fn.params)}", "from")

    def panel_base(self, w: Writer, column: str) -> str:
        step = affine([(column, self.plan.operands.b_n)], self.fn.params)
        if step == "0":
            w.line(f"(void){column};")  # the one column that a vector is
        return w.let(f"{self.b_type} *", f"{self.source} + {step}", "b")


class SumLoops(ColumnLoops):
    """Lanes along the sum: d{j} and e{j} = the sums of column j of a group, one in each lane, of every other vector."""

    def sums(self, w: Writer, tile: Tile, x: str, y: str, tail: int | str) -> None:
        lanes = self.plan.lanes
        places = [self._column(w, y, j, tail) for j in range(tail if isinstance(tail, int) and tail else lanes)]
        w.line("gf_f32 sums[GF_W] = {{0}};")
        for first in range(0, len(places), _GROUP):
            with w.block():
                self._group(w, x, places[first : first + _GROUP], first)
        w.line("const gf_f32 c0_0 = gf_sums_f32(sums);")

    def _column(self, w: Writer, y: str, j: int, tail: int | str) -> str:
        """Where column j begins; behind the last one that one again, whose sums are dropped."""
        step = self.plan.operands.b_n
        if j and isinstance(tail, str):
            return w.let("float *", f"{y} + {affine([(f'gf_min64({j}, {tail} - 1)', step)], self.fn.params)}", "y")
        return f"{y} + {times(j, step, self.fn.params)}" if j else y

    def _group(self, w: Writer, x: str, places: list[str], first: int) -> None:
        """The sums of some columns, in strict numerics in blocks of so many terms that a lane adds up `sum_block`."""
        p, k = self.plan, self.fn.dim(self.plan.operands.k, "k")
        if not p.site.sum_block:
            self._block(w, x, places, first, "0", k)
            return
        start, block = w.fresh("start"), p.site.sum_block * p.lanes
        with w.loop(start, "0", k, str(block)):
            self._block(w, x, places, first, start, f"gf_min64({start} + {block}, {k})")

    def _block(self, w: Writer, x: str, places: list[str], first: int, start: str, stop: str) -> None:
        """The terms from `start` on: vectors two by two, then what is left ahead of `stop`."""
        lanes = self.plan.lanes
        for name in "de":
            w.line(f"gf_f32 {', '.join(f'{name}{j} = {{0}}' for j in range(len(places)))};")
        if start == "0" and stop.isdigit() and int(stop) <= _UNROLLED * lanes:
            for v in range(int(stop) // lanes):
                self._step(w, "de"[v % 2], x, places, str(v * lanes))
            if rest := int(stop) % lanes:
                self._step(w, "d", x, places, str(int(stop) - rest), str(rest))
        else:
            end = w.let("int64_t", stop, "end")
            w.line(f"int64_t k = {start};")
            with w.block(f"for (; k + {2 * lanes} <= {end}; k += {2 * lanes})"):
                self._step(w, "d", x, places, "k")
                self._step(w, "e", x, places, f"(k + {lanes})")
            with w.block(f"if (k + {lanes} <= {end})"):
                self._step(w, "d", x, places, "k")
                w.line(f"k += {lanes};")
            with w.block(f"if (k < {end})"):
                self._step(w, "d", x, places, "k", f"{end} - k")
        w.line(" ".join(f"sums[{first + j}] += d{j} + e{j};" for j in range(len(places))))

    def _step(self, w: Writer, sums: str, x: str, places: list[str], k: str, part: str = "") -> None:
        """One vector of terms of every column; `part`: those that exist."""
        kind, count = ("_part", f", {part}") if part else ("", "")
        apart = self.plan.operands.a_k
        step = "" if apart == 1 else f", {self.fn.dim(apart, 's')}"
        at = affine([(k, apart)], self.fn.params)
        with w.block():
            w.line(f"const gf_f32 v = gf_load{'s' * bool(step)}{kind}_f32({x} + {at}{step}{count});")
            for j, place in enumerate(places):
                w.line(f"{sums}{j} += v * gf_load{kind}_f32({place} + {k}{count});")


KERNEL = Gemv()
