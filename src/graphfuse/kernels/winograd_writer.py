"""Writes the loops of a Winograd convolution: input transform, products, output transform, block by block."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from graphfuse.codegen.vector import Scope
from graphfuse.codegen.writer import Writer
from graphfuse.graph.dtypes import F32
from graphfuse.ops.expr import cost

from .function import Function, affine
from .tile import PREFETCH_STEP, Lanes, Tile, declare_accumulators, declare_prefetch, finish, multiply_add
from .window import line_variables
from .winograd import Matrix, by_columns, by_rows, row_groups

if TYPE_CHECKING:
    from .conv_winograd import WinogradPlan

# Above this many vector instructions the outputs of a tile are finished in a loop and not in straight-line code.
_INLINE = 320
# Registers of the output transform's first half that are held at once, of 32.
_HELD = 24


class WinogradWriter:
    """Names in the C: t = tile of the block, at (ty, tx) of `image`; data = transformed input, sums = products."""

    def __init__(self, plan: WinogradPlan, fn: Function) -> None:
        self.p, self.fn, self.g = plan, fn, plan.g
        site = plan.site
        self.x = fn.params.pointer(site.view(site.prim.args[0]), F32, "x")
        self.b = fn.params.pointer(plan.packed(), F32, "b")
        self.output_y, _, self.input_y = plan.along_y
        self.output_x, _, self.input_x = plan.along_x

    def write(self, w: Writer) -> None:
        p = self.p
        w.line("float *const data = (float *)scratch;")
        w.line(f"float *const sums = data + {p.positions * p.input_plane};")
        if p.is_padded:
            w.line(f"float *const zeros = sums + {p.positions * p.output_plane};")
            w.line(f"memset(zeros, 0, {p.channels} * sizeof(float));")
        if p.keeps_lines:
            self._strips(w)
        else:
            self._blocks(w)

    def _blocks(self, w: Writer) -> None:
        """Blocks of tiles, line after line, image after image."""
        p = self.p
        across = self.fn.dim(p.tiles_x)
        with w.loop("first", f"r0 * {across}", f"r1 * {across}", str(p.block)):
            w.line(f"const int64_t count = gf_min64({p.block}, r1 * {across} - first);")
            with w.loop("t", "0", "count"):
                self._decode(w)
                self._transform_input(w)
            self._panels(w)

    def _strips(self, w: Writer) -> None:
        """Blocks of whole lines of one image; of the input two lines more."""
        p, fn = self.p, self.fn
        height, across = fn.dim(p.tiles_y), fn.dim(p.tiles_x)
        with w.block("for (int64_t r = r0; r < r1;)"):
            w.line(f"const int64_t image = r / {height}, top = r % {height};")
            most = f"gf_min64({p.block} / {across}, r1 - r)"
            w.line(f"const int64_t held = gf_min64({height} - top, {most}), count = held * {across};")
            w.line("r += held;")
            with w.loop("t", "0", f"(held + {p.taps_y - 1}) * {across}"):
                w.line(f"const int64_t ty = top + t / {across}, tx = t % {across};")
                self._transform_input(w)
            self._panels(w)

    def _decode(self, w: Writer) -> None:
        across, down = self.fn.dim(self.p.tiles_x), self.fn.dim(self.p.tiles_y)
        if self.p.keeps_lines:
            w.line(f"const int64_t ty = top + t / {across}, tx = t % {across};")
            return
        w.line("const int64_t s = first + t;")
        w.line(f"const int64_t image = s / {across} / {down}, ty = s / {across} % {down}, tx = s % {across};")
        w.line("(void)image;")

    # ------------------------------------------------------------------ input

    def _transform_input(self, w: Writer) -> None:
        p, g, fn = self.p, self.g, self.fn
        top, left = fn.dim(g.before[1]), fn.dim(g.before[2])
        w.line(f"const int64_t iy = ty * {p.my * p.stride} - {top}, ix = tx * {p.mx * p.stride} - {left};")
        place = affine([("image", g.x_batch), ("iy", g.x_space[1]), ("ix", g.x_space[2])], fn.params)
        w.line(f"const float *const corner = {self.x} + ({place});")
        w.line(f"float *const to = data + t * {p.channels};")

        def pixel(i: int, j: int) -> str:
            return affine([(str(i), g.x_space[1]), (str(j), g.x_space[2])], fn.params)

        def inner(i: int, j: int) -> str:
            return f"corner + {pixel(i, j)} + c"

        if not p.is_padded:
            self._vectors(w, inner)
            return
        height, width = fn.dim(g.size[1]), fn.dim(g.size[2])
        with w.block(f"if (iy >= 0 && ix >= 0 && iy + {p.pixels_y} <= {height} && ix + {p.pixels_x} <= {width})"):
            self._vectors(w, inner)
        with w.block("else"):
            w.line(f"const float *from[{p.pixels_y * p.pixels_x}];")
            for i in range(p.pixels_y):
                inside = w.let("int", f"iy + {i} >= 0 && iy + {i} < {height}", "inside")
                for j in range(p.pixels_x):
                    within = f"{inside} && ix + {j} >= 0 && ix + {j} < {width}"
                    w.line(f"from[{i * p.pixels_x + j}] = {within} ? corner + {pixel(i, j)} : zeros;")
            self._vectors(w, lambda i, j: f"from[{i * p.pixels_x + j}] + c")

    def _vectors(self, w: Writer, address: Callable[[int, int], str]) -> None:
        """Transform a tile, one vector of channels after another; `address` = C text of channel c of a pixel."""
        full = self.g.channels // self.p.lanes * self.p.lanes
        if full:
            with w.loop("c", "0", str(full), str(self.p.lanes)):
                self._input_tile(w, lambda i, j: f"gf_load_f32({address(i, j)})")
        rest = self.g.channels - full
        if rest:
            with w.block():
                w.line(f"const int64_t c = {full};")
                self._input_tile(w, lambda i, j: f"gf_load_part_f32({address(i, j)}, {rest})")

    def _input_tile(self, w: Writer, load: Callable[[int, int], str]) -> None:
        """Some rows of the transform along y at a time, those that share sums: so all stays in registers."""
        p = self.p
        for group in row_groups(self.input_y):
            rows: Matrix = [self.input_y[i] for i in group]
            used = [i for i in range(p.pixels_y) if any(row[i] for row in rows)]
            with w.block():
                halves: list[list[str]] = [[] for _ in group]
                for j in range(p.pixels_x):
                    names = ["" for _ in range(p.pixels_y)]
                    for i in used:
                        names[i] = w.let("gf_f32", load(i, j), "x")
                    for half, text in zip(halves, by_rows(w, rows, names), strict=True):
                        half.append(w.let("gf_f32", text, "h"))
                for i, half in zip(group, halves, strict=True):
                    for j, text in enumerate(by_rows(w, self.input_x, half)):
                        w.line(f"gf_store_f32(to + {(i * p.ax + j) * p.input_plane} + c, {text});")

    # ------------------------------------------------------------------ products

    def _panels(self, w: Writer) -> None:
        """Products and outputs of a block."""
        p = self.p
        if p.by_position:
            with w.loop("place", "0", str(p.positions)), w.loop("panel", "c0", "c1"):
                size = p.k * p.vectors * p.lanes
                w.line(f"const float *const weights = {self.b} + place * {size} + panel * {p.width * p.k};")
                w.line("const int is_last = panel + 1 == c1;")
                skip = f"({self.b} + (place + 1) * {size} + c0 * {p.width * p.k})"
                w.line(f"const float *const following = is_last ? {skip} : weights + {p.width * p.k};")
                self._each_width(w, self._position)
            with w.loop("panel", "c0", "c1"):
                self._each_width(w, self._finish)
            return
        with w.loop("panel", "c0", "c1"):
            w.line(f"const float *const first_weights = {self.b} + panel * {p.width * p.positions * p.k};")
            self._each_width(w, self._all_positions)
            self._each_width(w, self._finish)

    def _each_width(self, w: Writer, write: Callable[[Writer, int, int], None]) -> None:
        """`write(w, vectors, tail)` for full panels and for the last one; tail = lanes of its last vector, 0: all."""
        p = self.p
        last = p.vectors - (p.panels - 1) * p.tile.vectors
        tail = self.g.out_channels % p.lanes
        if p.panels == 1 or (last == p.tile.vectors and not tail):
            write(w, last, tail)
            return
        with w.block(f"if (panel < {p.panels - 1})"):
            write(w, p.tile.vectors, 0)
        with w.block("else"):
            write(w, last, tail)

    def _all_positions(self, w: Writer, vectors: int, tail: int) -> None:
        p = self.p
        with w.loop("place", "0", str(p.positions)):
            size = p.k * vectors * p.lanes
            w.line(f"const float *const weights = first_weights + place * {size}, *const following = weights + {size};")
            self._position(w, vectors, tail)

    def _sums(self, place: str) -> str:
        """C text of where the sums of a panel lie."""
        p = self.p
        panel = f" + (panel - c0) * {p.block * p.width}" if p.by_position else ""
        return f"sums + {place} * {p.output_plane}{panel}"

    def _position(self, w: Writer, vectors: int, tail: int) -> None:
        """Products at one position for `vectors` vectors of output channels, whose weights are at `weights`; those at
        `following` are the next to be used."""
        p = self.p
        step = vectors * p.lanes
        w.line(f"const float *const from = data + place * {p.input_plane};")
        w.line(f"float *const to = {self._sums('place')};")
        # Parts of about equal height, so that none is too low to keep the multiply-adds busy.
        w.line(f"const int64_t parts = (count + {p.tile.rows - 1}) / {p.tile.rows};")
        declare_prefetch(w, "following", 4 * step, "parts")
        with w.loop("part", "0", "parts"):
            w.line("const int64_t t = count * part / parts;")
            with w.block("switch (count * (part + 1) / parts - t)"):
                for height in range(p.tile.rows, 0, -1):
                    with w.block(f"case {height}:"):
                        self._product(w, Tile(height, vectors))
                        w.line("break;")

    def _product(self, w: Writer, tile: Tile) -> None:
        p = self.p
        declare_accumulators(w, tile, F32)
        w.line("const float *wk = weights;")
        if p.taps_y == 1:
            w.line(f"const float *a = from + t * {p.channels};")
            self._sum_channels(w, tile)
        else:
            with w.loop("ky", "0", str(p.taps_y)):
                w.line(f"const float *a = from + (t + ky * {p.tiles_x}) * {p.channels};")
                self._sum_channels(w, tile)
        for m in range(tile.rows):
            for v in range(tile.vectors):
                w.line(f"gf_store_f32(to + (t + {m}) * {p.width} + {v * p.lanes}, c{m}_{v});")

    def _sum_channels(self, w: Writer, tile: Tile) -> None:
        p = self.p
        with w.loop("k", "0", str(self.g.channels)):
            multiply_add(w, tile, F32, lambda m: f"a[{m * p.channels}]", "wk", p.lanes)
            w.line(f"++a, wk += {tile.vectors * p.lanes};")
            w.line(PREFETCH_STEP)

    # ------------------------------------------------------------------ output

    def _finish(self, w: Writer, vectors: int, tail: int) -> None:
        """Transform the sums of each tile back, and store its pixels through the epilogue."""
        p, axis = self.p, self.p.site.index[1]
        full = vectors - 1 if tail else vectors
        w.line(f"const int64_t n = panel * {p.width};")
        if full:
            with w.loop("v", "0", str(full)):
                w.line(f"const int64_t o = n + v * {p.lanes};")
                lanes = Lanes.of_panel(self.fn.root, w.section(), axis, "o", 1, p.lanes)
                self._finish_vector(w, lanes[0], f"v * {p.lanes}")
        if tail:
            with w.block():
                w.line(f"const int64_t o = n + {full * p.lanes};")
                lanes = Lanes.of_panel(self.fn.root, w.section(), axis, "o", 1, p.lanes, tail)
                self._finish_vector(w, lanes[0], str(full * p.lanes))

    def _finish_vector(self, w: Writer, scope: Scope, offset: str) -> None:
        p, g, fn = self.p, self.g, self.fn
        with w.loop("t", "0", "count"):
            self._decode(w)
            w.line(f"const int64_t oy = ty * {p.my}, ox = tx * {p.mx};")
            w.line(f"const float *const from = {self._sums('0')} + t * {p.width} + {offset};")
            work = sum(cost(e) + 1 for _, e in p.site.outputs) * p.my * p.mx
            height, width = g.out[1], g.out[2]
            within = [
                f"{o} + {m} <= {fn.dim(size)}"
                for o, m, size in (("oy", p.my, height), ("ox", p.mx, width))
                if not (isinstance(size, int) and size % m == 0)
            ]
            if work > _INLINE:
                self._finish_in_a_loop(w, scope)
            elif not within:
                self._finish_inline(w, scope)
            else:
                with w.block(f"if ({' && '.join(within)})"):
                    self._finish_inline(w, scope)
                with w.block("else"):
                    self._finish_in_a_loop(w, scope)

    def _finish_inline(self, w: Writer, scope: Scope) -> None:
        for i, j, text in self._output_tile(w):
            value = w.let("gf_f32", text, "y")
            finish(self.p.site, self._place(w, scope, str(i), str(j)), value)

    def _finish_in_a_loop(self, w: Writer, scope: Scope) -> None:
        p, g = self.p, self.g
        w.line(f"gf_f32 y[{p.my}][{p.mx}];")
        for i, j, text in self._output_tile(w):
            w.line(f"y[{i}][{j}] = {text};")
        rows = f"gf_min64({p.my}, {self.fn.dim(g.out[1])} - oy)"
        columns = f"gf_min64({p.mx}, {self.fn.dim(g.out[2])} - ox)"
        with w.loop("i", "0", rows), w.loop("j", "0", columns):
            finish(p.site, self._place(w, scope, "i", "j"), "y[i][j]")

    def _place(self, w: Writer, scope: Scope, i: str, j: str) -> Scope:
        lines = line_variables(self.g, self.p.site.index, (None, f"(oy + {i})", f"(ox + {j})"))
        return scope.child({self.p.site.index[0]: "image"} | lines, writer=w)

    def _output_tile(self, w: Writer) -> Iterator[tuple[int, int, str]]:
        """C text of each pixel (i, j) of a tile; no more rows at a time than registers hold."""
        p = self.p
        held = _HELD * p.target.vector_registers // 32
        whole = p.my * p.ax <= held
        # Powers of a pair of points are sums in every other row, and differences in the others.
        groups = [range(p.my)] if whole else [range(0, p.my, 2), range(1, p.my, 2)]
        for group in groups:
            rows = [self.output_y[i] for i in group]
            halves: list[list[str]] = [[] for _ in group]
            for j in range(p.ax):
                names = ["" for _ in range(p.ay)]
                for i in range(p.ay):
                    if any(row[i] for row in rows):
                        names[i] = w.let("gf_f32", f"gf_load_f32(from + {(i * p.ax + j) * p.output_plane})", "s")
                for half, text in zip(halves, by_columns(w, rows, names), strict=True):
                    half.append(w.let("gf_f32", text, "h"))
            for i, half in zip(group, halves, strict=True):
                for j, text in enumerate(by_columns(w, self.output_x, half)):
                    yield i, j, text
