"""The loops of a matrix product: items, blocks of rows, panels, tiles, and the packing of an operand at run time."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from graphfuse.codegen.vector import Scope
from graphfuse.codegen.writer import Writer
from graphfuse.graph.dtypes import F32, c_type, suffix

from .function import Function, affine
from .gemm_sums import block_sums, halved_sums, plain_sums, split_sums
from .product import Product
from .tile import Lanes, Tile, declare_prefetch, finish_tile


class Loops:
    """Writes the loops of one product.

    packed: the second operand is packed, with zeros where a panel's last vector has no columns.
    """

    packed = True

    def __init__(self, plan: Product, fn: Function, a: str, b: str | None) -> None:
        self.plan = plan
        self.fn = fn
        self.a = a
        self.b = b
        self.a_type = c_type(plan.operands.a.dtype)
        self.b_type = c_type(plan.stored)

    @property
    def column(self) -> str:
        """Elements that a column of the second operand takes in a packed panel."""
        return self.fn.dim(self.plan.operands.k, "k")

    # ------------------------------------------------------------------ rows

    def rows(self, w: Writer) -> None:
        p, fn = self.plan, self.fn
        known = (*p.rows.outer, *p.rows.inner, p.operands.lane_axis)
        scope = fn.root.child({v: "0" for axis, v in enumerate(p.site.index) if axis not in known})
        if self.b is None:
            w.line(f"{self.b_type} *const packed = ({self.b_type} *)scratch;")
        once = all(p.operands.b_rows.get(axis, 0) == 0 for axis in p.rows.outer)
        if once:
            self.item(w, {})
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
            if not once:
                self.item(w, names)
            terms = [(names[axis], p.operands.a_rows.get(axis, 0)) for axis in p.rows.outer]
            a = w.let(f"{self.a_type} *", f"{self.a} + {affine(terms, fn.params)}", "a")
            inside = scope.child({p.site.index[axis]: name for axis, name in names.items()}, w.section())
            self.blocks(w, inside, a, start, stop)

    def item(self, w: Writer, names: Mapping[int, str]) -> None:
        """Makes the second operand ready, or that of one item; `names` = C variables of the outer axes."""
        if self.b is None:
            self.pack(w, names)

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
        if self.b is not None:
            return w.let(f"{self.b_type} *", f"{self.b} + {column} * {self.column}", "b")
        name = w.fresh("b")
        w.line(f"{self.b_type} *const {name} = packed + ({column} - c0 * {self.plan.width}) * {self.column};")
        return name

    # ------------------------------------------------------------------ tiles

    def all_rows(
        self, w: Writer, scope: Scope, a: str, start: str, stop: str, column: str, vectors: int, tail: int | str
    ) -> None:
        """Rows [start, stop) against the vectors from `column` on."""
        p = self.plan
        b = self.panel_base(w, column)
        lane = p.site.index[p.operands.lane_axis]
        lanes = Lanes.of_panel(scope, w.section(), lane, column, vectors, p.lanes, tail)
        row = w.fresh("row")
        w.line(f"int64_t {row} = {start};")
        if p.prefetch:
            size = vectors * p.lanes * p.lane_bytes
            following = f"{b} + {vectors * p.lanes} * {self.column}"
            declare_prefetch(w, following, size, f"({stop} - {start} + {p.tile.rows - 1}) / {p.tile.rows}")
        for height in p.variants:
            with w.block(f"for (; {row} + {height} <= {stop}; {row} += {height})"):
                self.tile(w, lanes, a, b, Tile(height, vectors), row, 0 if self.packed else tail)

    def tile(self, w: Writer, lanes: Lanes, a: str, b: str, tile: Tile, row: str, tail: int | str) -> None:
        p, fn = self.plan, self.fn
        x, y = w.fresh("x"), w.fresh("y")
        w.line(f"const {self.a_type} *{x} = {a} + {affine([(row, p.a_step)], fn.params)};")
        w.line(f"const {self.b_type} *{y} = {b};")
        self.sums(w, tile, x, y, tail)
        finish_tile(p.site, w, lanes, tile, lambda m: p.rows.variables(p.site.index, f"({row} + {m})"))

    def sums(self, w: Writer, tile: Tile, x: str, y: str, tail: int | str) -> None:
        """The sums of a tile, from the C variables that point to its rows of A and its panel of B.

        tail: lanes of the last vector that may be read, 0 for all.
        """
        p, fn = self.plan, self.fn
        if p.site.sum_block:
            block_sums(w, p, fn, tile, x, y, tail)
        elif p.halved:
            halved_sums(w, p, fn, tile, x, y)
        else:
            (split_sums if p.ways > 1 else plain_sums)(w, p, fn, tile, x, y, tail)

    # ------------------------------------------------------------------ packing at run time

    def pack(self, w: Writer, names: Mapping[int, str]) -> None:
        """Copy panels [c0, c1) of the second operand to scratch."""
        p, fn = self.plan, self.fn
        o = p.operands
        pointer = fn.params.pointer(p.site.view(o.b), p.dtype, "b")
        terms = [(name, o.b_rows.get(axis, 0)) for axis, name in names.items()]
        source = w.let(f"{self.b_type} *", f"{pointer} + {affine(terms, fn.params)}", "from")
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
                        w.line(f"gf_turn_32({source} + {place}, {step}, {to}, {width});")
            with w.block(f"for (; {k} < {size}; ++{k})"):
                for v, place in places.items():
                    kind, part = ("_part", f", {tail}") if tail else ("", "")
                    load = f"gf_load{kind}_{name}({source} + {place}{part})"
                    if o.b_n != 1:
                        load = f"gf_loads{kind}_{name}({source} + {place}, {step}{part})"
                    w.line(f"gf_store_{name}({base} + {k} * {width} + {v * p.lanes}, {load});")
