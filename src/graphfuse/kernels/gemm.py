"""Matrix product: packed weights or an operand packed at run time, register tiles, epilogue on the accumulators.

Also every 1x1 convolution without padding or groups: its pixels are the rows.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from graphfuse.codegen.vector import Scope
from graphfuse.codegen.writer import Writer
from graphfuse.graph.dims import Dim, ceildiv, estimate, mul, product, same
from graphfuse.graph.dtypes import F32, F64, I32, I64, U32, U64, DType, c_type, item_bytes, suffix
from graphfuse.ops.tensor import Tensor, Window
from graphfuse.plan.site import ContractionSite, KernelCode, Lines, Packed
from graphfuse.target import Target

from .function import Function, affine, times
from .rowspace import RowSpace, Strides, row_space
from .tile import (
    PREFETCH_STEP,
    Lanes,
    Tile,
    choose_tile,
    declare_accumulators,
    declare_prefetch,
    finish_tile,
    fits,
    multiply_add,
    panels,
    row_variants,
)

_DTYPES = (F32, F64, I32, U32, I64, U64)
# More rows than this need more address registers than there are when their distance is not a constant.
_ROWS_OF_UNKNOWN_STRIDE = 8
# Independent sums that keep two adders of four cycles busy.
_LEAST_SUMS = 8


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


class Gemm:
    """`gemm`: M x K times K x N in tiles of registers."""

    name = "gemm"
    error_class = "reassociated"
    in_place = True

    def accepts(self, site: ContractionSite, target: Target) -> str | None:
        prim = site.prim
        if prim.kind not in ("matmul", "conv"):
            return f"{prim.kind} is not a matrix product"
        if site.contraction.dtype not in _DTYPES:
            return f"no multiply-add for {site.contraction.dtype.name}"
        if prim.kind == "conv" and (reason := _not_pointwise(prim.attrs)) is not None:
            return reason
        if prim.kind == "matmul" and min(a.rank for a in prim.args) < 2:
            return "an operand has less than two dimensions"
        return None

    def cost(self, site: ContractionSite, target: Target) -> float:
        """Microseconds on one thread at 80 % of two vector multiply-adds a cycle and 3 GHz."""
        plan = _Plan(site, target)
        multiplications = estimate(product([plan.rows.total, plan.operands.k, plan.operands.n]))
        lanes = target.lanes * 4 / item_bytes(plan.dtype)
        return multiplications / (0.8 * 2 * lanes * 3e3) + 0.5

    def lines(self, site: ContractionSite, target: Target) -> Lines | None:
        """The rows of a 1x1 convolution of images are their pixels, line by line."""
        out = site.contraction.shape
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
        return _Plan(site, target, any_rows).emit()


def _not_pointwise(window: Window) -> str | None:
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


class _Plan:
    """Everything decided about one product before it is written."""

    def __init__(self, site: ContractionSite, target: Target, any_rows: bool = False) -> None:
        self.site = site
        self.target = target
        self.dtype: DType = site.contraction.dtype
        self.operands = operands_of(site)
        o = self.operands
        self.constant = _constant_matrix(site, o)
        strides = [o.a_rows] if self.constant else [o.a_rows, o.b_rows]
        self.rows: RowSpace = row_space(site, o.row_axes, strides)
        self.lanes = target.lanes
        vectors = ceildiv(o.n, self.lanes)
        k_bytes = estimate(o.k) * self.lanes * item_bytes(self.dtype)
        self.a_step = self.rows.row_stride(o.a_rows)
        most_rows = 32 if isinstance(self.a_step, int) else _ROWS_OF_UNKNOWN_STRIDE
        self.tile: Tile = choose_tile(
            target, self.dtype, self.rows.count, vectors, most_rows=most_rows, wide_k=k_bytes * 2 > target.l1
        )
        self.ways = _ways(o.k, self.rows.count, vectors)
        if self.ways > 1:
            self.tile = _split_tile(self.ways, vectors, target, self.dtype)
        self.width = self.tile.vectors * self.lanes
        # Tiles start anew in every item: where they do not fill it, a range of rows begins and ends anywhere in one.
        uneven = bool(self.rows.outer) and not same(self.rows.count % self.tile.rows, 0)
        self.variants = row_variants(self.rows.count, self.tile.rows, any_rows or uneven)

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

    def emit(self) -> KernelCode:
        o, dims = self.operands, self.rows
        fn = Function(self.site, self.site.index[o.lane_axis])
        a = fn.params.pointer(self.site.view(o.a), self.dtype, "a")
        b = fn.params.pointer(self._packed(), self.dtype, "b") if self.constant else None
        writer = _Writer(self, fn, a, b)
        writer.rows(fn.body)
        columns = ceildiv(o.n, self.width)
        scratch: Dim = 0 if self.constant else product([columns, o.k, self.width * item_bytes(self.dtype)])
        kind = "packed weights" if self.constant else "second operand packed at run time"
        return KernelCode(
            hint=f"gemm_{suffix(self.dtype)}_{self.tile.rows}x{self.width}",
            source=fn.source(),
            pointers=fn.params.pointers,
            dims=fn.params.dims,
            rows=dims.total,
            work=mul(2, product([dims.total, o.k, o.n])),
            row_grain=self.tile.rows,
            columns=columns,
            scratch=scratch,
            describe=f"gemm {self.tile.rows}x{self.width} tiles, {kind}",
        )

    def _packed(self) -> Packed:
        conv, vectors, lanes = self.site.prim.kind == "conv", self.tile.vectors, self.lanes

        def arrange(w: np.ndarray) -> np.ndarray:
            matrix = w.reshape(w.shape[0], w.shape[1]).T if conv else w.reshape(w.shape[-2:])
            return panels(matrix, vectors, lanes)

        key = f"gemm {'oc' if conv else 'kn'} panels of {vectors}x{lanes}"
        return Packed(self.operands.b, arrange, self.dtype, key)


def _ways(k: Dim, rows: Dim, vectors: Dim) -> int:
    """Into how many parts the sums of a small product are split: eight additions fill the time that one takes."""
    sums = estimate(rows) * vectors if isinstance(vectors, int) else _LEAST_SUMS
    ways = _LEAST_SUMS // sums
    return min(4, ways) if isinstance(k, int) and k >= 16 and isinstance(sums, int) and ways > 0 else 1


def _split_tile(ways: int, vectors: Dim, target: Target, dtype: DType) -> Tile:
    """The tallest tile whose sums, each in `ways` parts, stay in registers."""
    assert isinstance(vectors, int)
    heights = [r for r in range(1, 9) if fits(Tile(r, ways * vectors), target, dtype)]
    return Tile(max(heights, default=1), vectors)


def _constant_matrix(site: ContractionSite, o: Operands) -> bool:
    """Whether the second operand is one matrix known at compile time."""
    value = site.constants(o.b)
    if site.prim.kind == "conv":
        return value is not None
    return value is not None and value.size == value.shape[-1] * value.shape[-2]


class _Writer:
    """Writes the loops of one product."""

    def __init__(self, plan: _Plan, fn: Function, a: str, b: str | None) -> None:
        self.plan = plan
        self.fn = fn
        self.a = a
        self.b = b

    # ------------------------------------------------------------------ rows

    def rows(self, w: Writer) -> None:
        p, fn = self.plan, self.fn
        known = (*p.rows.outer, *p.rows.inner, p.operands.lane_axis)
        scope = fn.root.child({v: "0" for axis, v in enumerate(p.site.index) if axis not in known})
        if self.b is None:
            w.line(f"{c_type(p.dtype)} *const packed = ({c_type(p.dtype)} *)scratch;")
        once = all(p.operands.b_rows.get(axis, 0) == 0 for axis in p.rows.outer)
        if self.b is None and once:
            self.pack(w, {})
        if not p.rows.outer:
            self.blocks(w, scope, self.a, "r0", "r1")
            return
        m = fn.dim(p.rows.count, "m")
        with w.block("for (int64_t r = r0; r < r1;)"):
            item = w.let("int64_t", f"r / {m}", "item")
            start = w.let("int64_t", f"r % {m}", "start")
            stop = w.let("int64_t", f"gf_min64({m}, {start} + r1 - r)", "stop")
            w.line(f"r += {stop} - {start};")
            names = p.rows.decode(fn, w, item)
            if self.b is None and not once:
                self.pack(w, names)
            terms = [(names[axis], p.operands.a_rows.get(axis, 0)) for axis in p.rows.outer]
            a = w.let(f"{c_type(p.dtype)} *", f"{self.a} + {affine(terms, fn.params)}", "a")
            inside = scope.child({p.site.index[axis]: name for axis, name in names.items()}, w.section())
            self.blocks(w, inside, a, start, stop)

    def blocks(self, w: Writer, scope: Scope, a: str, start: str, stop: str) -> None:
        """Rows in blocks that stay in L2 while every panel of the second operand passes over them."""
        height = self.plan.block_rows
        if isinstance(self.plan.rows.count, int) and self.plan.rows.count <= height:
            self.panels(w, lambda *panel: self.all_rows(w, scope, a, start, stop, *panel))
            return
        block = w.fresh("block")
        with w.loop(block, start, stop, str(height)):
            end = w.let("int64_t", f"gf_min64({block} + {height}, {stop})", "end")
            self.panels(w, lambda *panel: self.all_rows(w, scope, a, block, end, *panel))

    # ------------------------------------------------------------------ columns

    def panels(self, w: Writer, body: Callable[[str, int, int | str], None]) -> None:
        """Panels [c0, c1): `body(first column, vectors, valid lanes of the last vector or 0 for all)`."""
        p = self.plan
        n, width = p.operands.n, p.width
        if not isinstance(n, int):
            self.unknown_panels(w, body)
            return
        full, rest = divmod(n, width)
        if full:
            c = w.fresh("panel")
            with w.loop(c, "c0", f"gf_min64(c1, {full})" if rest else "c1"):
                body(w.let("int64_t", f"{c} * {width}", "n"), p.tile.vectors, 0)
        if rest:
            with w.block(f"if (c1 > {full})" if full else ""):
                body(w.let("int64_t", str(full * width), "n"), -(-rest // p.lanes), rest % p.lanes)

    def unknown_panels(self, w: Writer, body: Callable[[str, int, int | str], None]) -> None:
        """Full panels, then what is left one vector at a time."""
        p = self.plan
        n = self.fn.dim(p.operands.n, "n")
        full = w.let("int64_t", f"{n} / {p.width}", "full")
        c = w.fresh("panel")
        with w.loop(c, "c0", f"gf_min64(c1, {full})"):
            body(w.let("int64_t", f"{c} * {p.width}", "n"), p.tile.vectors, 0)
        with w.block(f"if (c1 > {full})"):
            column = w.fresh("n")
            w.line(f"int64_t {column} = {full} * {p.width};")
            with w.block(f"for (; {column} + {p.lanes} <= {n}; {column} += {p.lanes})"):
                body(column, 1, 0)
            with w.block(f"if ({column} < {n})"):
                body(column, 1, w.let("int64_t", f"{n} - {column}", "count"))

    def panel_base(self, w: Writer, column: str) -> str:
        """The packed panel that starts at a column: columns lie one after another, K elements each."""
        k = self.fn.dim(self.plan.operands.k, "k")
        if self.b is not None:
            return w.let(f"{c_type(self.plan.dtype)} *", f"{self.b} + {column} * {k}", "b")
        name = w.fresh("b")
        w.line(f"{c_type(self.plan.dtype)} *const {name} = packed + ({column} - c0 * {self.plan.width}) * {k};")
        return name

    # ------------------------------------------------------------------ tiles

    def all_rows(
        self, w: Writer, scope: Scope, a: str, start: str, stop: str, column: str, vectors: int, tail: int | str
    ) -> None:
        """Rows [start, stop) against the vectors from `column` on."""
        p, fn = self.plan, self.fn
        b = self.panel_base(w, column)
        lane = p.site.index[p.operands.lane_axis]
        lanes = Lanes.of_panel(scope, w.section(), lane, column, vectors, p.lanes, tail)
        row = w.fresh("row")
        w.line(f"int64_t {row} = {start};")
        if p.prefetch:
            size = vectors * p.lanes * item_bytes(p.dtype)
            following = f"{b} + {vectors * p.lanes} * {fn.dim(p.operands.k, 'k')}"
            declare_prefetch(w, following, size, f"({stop} - {start} + {p.tile.rows - 1}) / {p.tile.rows}")
        for height in p.variants:
            with w.block(f"for (; {row} + {height} <= {stop}; {row} += {height})"):
                self.tile(w, lanes, a, b, Tile(height, vectors), row)

    def tile(self, w: Writer, lanes: Lanes, a: str, b: str, tile: Tile, row: str) -> None:
        p, fn = self.plan, self.fn
        x, y, k = w.fresh("x"), w.fresh("y"), w.fresh("k")
        w.line(f"const {c_type(p.dtype)} *{x} = {a} + {affine([(row, p.a_step)], fn.params)}, *{y} = {b};")
        if p.ways > 1:
            self.split_sums(w, tile, x, y)
            finish_tile(p.site, w, lanes, tile, lambda m: p.rows.variables(p.site.index, f"({row} + {m})"))
            return
        declare_accumulators(w, tile, p.dtype)
        with w.loop(k, "0", fn.dim(p.operands.k, "k")):
            multiply_add(w, tile, p.dtype, lambda m: f"{x}[{times(m, p.a_step, fn.params)}]", y, p.lanes)
            if p.prefetch:
                w.line(PREFETCH_STEP)
            w.line(f"{x} += {fn.dim(p.operands.a_k, 's')}, {y} += {tile.vectors * p.lanes};")
        finish_tile(p.site, w, lanes, tile, lambda m: p.rows.variables(p.site.index, f"({row} + {m})"))

    def split_sums(self, w: Writer, tile: Tile, x: str, y: str) -> None:
        """Every sum in `ways` parts of every so manieth term, for a tile so small that it would wait for itself."""
        p, fn = self.plan, self.fn
        assert isinstance(p.operands.k, int)
        step = fn.dim(p.operands.a_k, "s")
        whole, rest = divmod(p.operands.k, p.ways)
        parts = Tile(tile.rows, tile.vectors * p.ways)
        declare_accumulators(w, parts, p.dtype)
        k = w.fresh("k")
        with w.loop(k, "0", str(whole)):
            self.split_step(w, tile, x, y, p.ways)
            w.line(f"{x} += {p.ways} * {step}, {y} += {parts.vectors * p.lanes};")
        if rest:
            with w.block():
                self.split_step(w, tile, x, y, rest)
        name = suffix(p.dtype)
        for m in range(tile.rows):
            for v in range(tile.vectors):
                for u in range(1, p.ways):
                    w.line(f"c{m}_{v} = gf_add_{name}(c{m}_{v}, c{m}_{u * tile.vectors + v});")

    def split_step(self, w: Writer, tile: Tile, x: str, y: str, terms: int) -> None:
        """One k step for each of the first `terms` parts."""
        p, fn = self.plan, self.fn
        for u in range(terms):

            def a(m: int, u: int = u) -> str:
                offset = affine([(str(m), p.a_step), (str(u), p.operands.a_k)], fn.params)
                return f"{x}[{offset}]"

            with w.block():
                place = f"{y} + {u * tile.vectors * p.lanes}"
                multiply_add(w, tile, p.dtype, a, place, p.lanes, first=u * tile.vectors)

    # ------------------------------------------------------------------ packing at run time

    def pack(self, w: Writer, names: Mapping[int, str]) -> None:
        """Copy panels [c0, c1) of the second operand to scratch; `names` = C variables of the outer axes."""
        p, fn = self.plan, self.fn
        o = p.operands
        pointer = fn.params.pointer(p.site.view(o.b), p.dtype, "b")
        terms = [(name, o.b_rows.get(axis, 0)) for axis, name in names.items()]
        source = w.let(f"{c_type(p.dtype)} *", f"{pointer} + {affine(terms, fn.params)}", "from")
        self.panels(w, lambda *panel: self.pack_panel(w, source, *panel))

    def pack_panel(self, w: Writer, source: str, column: str, vectors: int, tail: int | str) -> None:
        full = vectors - 1 if tail else vectors
        base = self.panel_base(w, column)
        if full:
            self.pack_vectors(w, source, base, column, vectors, range(full))
        if tail:
            self.pack_vectors(w, source, base, column, vectors, range(full, vectors), tail)

    def pack_vectors(
        self, w: Writer, source: str, base: str, column: str, vectors: int, some: range, tail: int | str = 0
    ) -> None:
        """Copy some vectors of a panel, all of them with `tail` valid lanes."""
        p, fn = self.plan, self.fn
        o, name = p.operands, suffix(p.dtype)
        size, width, step = fn.dim(o.k, "k"), vectors * p.lanes, fn.dim(o.b_n, "s")
        k = w.fresh("k")
        places = {v: affine([(k, o.b_k), (f"({column} + {v * p.lanes})", o.b_n)], fn.params) for v in some}
        with w.block():
            w.line(f"int64_t {k} = 0;")
            if o.b_k == 1 and o.b_n != 1 and p.dtype == F32 and not tail:
                # K runs along the lanes in memory: whole squares are turned over in registers.
                with w.block(f"for (; {k} + {p.lanes} <= {size}; {k} += {p.lanes})"):
                    for v, place in places.items():
                        to = f"{base} + {k} * {width} + {v * p.lanes}"
                        w.line(f"gf_transpose_f32({source} + {place}, {step}, {to}, {width});")
            with w.block(f"for (; {k} < {size}; ++{k})"):
                for v, place in places.items():
                    kind, part = ("_part", f", {tail}") if tail else ("", "")
                    load = f"gf_load{kind}_{name}({source} + {place}{part})"
                    if o.b_n != 1:
                        load = f"gf_loads{kind}_{name}({source} + {place}, {step}{part})"
                    w.line(f"gf_store_{name}({base} + {k} * {width} + {v * p.lanes}, {load});")


KERNEL = Gemm()
