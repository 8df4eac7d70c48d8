"""Convolutions of images with few channels, as a network's first layer is: read in place, in whatever layout they come.

A tile is some pixels of an output line by some vectors of channels. Its sums stay in registers over all taps, and the
weights of a line of taps beside them: each input element is fetched once and multiplied for every pixel that it is
under. Tiles at the image's border are written out with the taps that exist.
"""

from __future__ import annotations

import numpy as np

from graphfuse.codegen.writer import Writer
from graphfuse.graph.dims import Dim, estimate, product
from graphfuse.graph.dtypes import DType, c_type, is_float, item_bytes, suffix, vector_type
from graphfuse.plan.site import ContractionSite, KernelCode, Lines, Packed
from graphfuse.target import Target

from .function import Function, affine, times
from .spans import Span, column_users, line_spans
from .tile import Lanes, Tile, declare_accumulators, finish_tile, panels, registers_per_vector
from .window import Geometry, geometry, line_variables, lines_of, refusal, taps_in_range

_MOST_CHANNELS = 4
# Multiply-adds written out for one line of taps; wider windows are left to the direct kernel.
_UNROLLED = 256
_CACHE_LINE = 64
# Different tiles along a line: each is code of its own.
_MOST_SPANS = 5
# Output lines that one panel of channels passes over before the next.
_STRIP = 8


class ConvFirst:
    """`conv_first`: few channels in, images of known size."""

    name = "conv_first"
    error_class = "reassociated"

    def accepts(self, site: ContractionSite, target: Target) -> str | None:
        if (reason := refusal(site, "conv")) is not None:
            return reason
        g = geometry(site)
        if g.groups > 1 or g.channels > _MOST_CHANNELS:
            return f"{g.channels} channels in {g.groups} groups: only 1 to {_MOST_CHANNELS} channels in one"
        if g.axes[0] is not None or g.axes[1] is None:
            return "not two spatial dimensions"
        if line_spans(g, 1) is None:
            return "the length of a line is not known at compile time"
        plan = _Plan(site, target)
        if plan.chosen is None or len(plan.spans) > _MOST_SPANS:
            return f"a window of {g.kernel[2]} taps along the line is too wide"
        return None

    def cost(self, site: ContractionSite, target: Target) -> float:
        """Microseconds on one thread: multiply-adds at 80 % of two vectors a cycle and 3 GHz, 65 % in small tiles."""
        p = _Plan(site, target)
        share = 0.8 if target.vector_registers > 16 else 0.65
        g = p.g
        columns = -(-g.out_channels // p.lanes) * p.lanes
        products = estimate(product([g.lines, g.out[2], columns, *g.kernel, g.channels]))
        return products / (share * 2 * target.lanes * 4 / item_bytes(p.dtype) * 3e3) + 1.0

    def lines(self, site: ContractionSite, target: Target) -> Lines | None:
        """Rows are output lines."""
        return lines_of(site)

    def emit(self, site: ContractionSite, target: Target, any_rows: bool = False) -> KernelCode:
        p = _Plan(site, target)
        g = p.g
        fn = Function(site, site.index[1])
        _Writer(p, fn).write(fn.body)
        window = "x".join(map(str, site.prim.attrs.kernel))
        return KernelCode(
            hint=f"conv_first{window}_{suffix(p.dtype)}_{p.tile.rows}x{p.width}",
            source=fn.source(),
            pointers=fn.params.pointers,
            dims=fn.params.dims,
            rows=g.lines,
            work=product([2, g.lines, g.out[2], g.out_channels, g.channels, *g.kernel]),
            columns=-(-g.out_channels // p.width),
            describe=f"conv first {window}, {p.tile.rows}x{p.width} tiles, lines in place",
        )


class _Plan:
    """Everything decided about one convolution before it is written."""

    def __init__(self, site: ContractionSite, target: Target) -> None:
        self.site, self.target = site, target
        self.dtype: DType = site.contraction.dtype
        self.lanes = target.lanes
        self.g: Geometry = geometry(site)
        self.chosen = self._choose_tile()
        self.tile = self.chosen or Tile(1, 1)
        self.width = self.tile.vectors * self.lanes
        self.spans: list[Span] = line_spans(self.g, self.tile.rows) or []

    def _choose_tile(self) -> Tile | None:
        """The tile that takes the fewest cycles for a line of output; None when the registers hold none."""
        out, vectors = self.g.out[2], -(-self.g.out_channels // self.lanes)
        assert isinstance(out, int)
        tiles = [Tile(r, v) for v in range(1, min(4, vectors) + 1) for r in range(1, min(32, out) + 1)]
        return min(filter(self._fits, tiles), key=lambda t: self._line_cycles(t, out, vectors), default=None)

    def _fits(self, tile: Tile) -> bool:
        """Whether the sums, the weights of a line of taps and an input element stay in registers."""
        need = (tile.rows + self.g.kernel[2]) * tile.vectors + 1
        unrolled = self.g.kernel[2] * tile.rows * tile.vectors
        registers = self.target.vector_registers // registers_per_vector(self.target, self.dtype)
        return need <= registers and unrolled <= _UNROLLED

    def _line_cycles(self, tile: Tile, out: int, vectors: int) -> float:
        total = 0.0
        for rows, row_count in ((tile.rows, out // tile.rows), (out % tile.rows, 1)):
            for v, column_count in ((tile.vectors, vectors // tile.vectors), (vectors % tile.vectors, 1)):
                if rows and v:
                    total += row_count * column_count * self._tile_cycles(Tile(rows, v))
        return total

    def _tile_cycles(self, tile: Tile) -> float:
        """Two multiply-adds and two loads a cycle, four cycles until a sum can be added to again; memory takes two
        cache lines as easily as one."""
        g, taps = self.g, self.g.kernel[2]
        columns = (tile.rows - 1) * g.strides[2] + taps
        line = max(tile.rows * tile.vectors * taps / 2, 0.54 * (columns + taps * tile.vectors), 4.0 * taps) + 1
        stored = max(tile.vectors * self.lanes * item_bytes(self.dtype), 2 * _CACHE_LINE)
        return g.channels * g.kernel[1] * line + 2 * tile.rows * stored / _CACHE_LINE

    def packed(self) -> Packed:
        vectors, lanes = self.tile.vectors, self.lanes

        def arrange(w: np.ndarray) -> np.ndarray:
            # (O, C, taps...) -> panels of (C, taps, O)
            return panels(w.reshape(w.shape[0], -1).T, vectors, lanes)

        return Packed(self.site.prim.args[1], arrange, self.dtype, f"conv_first panels of {vectors}x{lanes}")


class _Writer:
    """Writes the loops. Names in the C: image, oy, ox = place in the output; c, ky = channel and line of taps."""

    def __init__(self, plan: _Plan, fn: Function) -> None:
        self.p, self.fn, self.g = plan, fn, plan.g
        self.c = c_type(plan.dtype)
        self.x = fn.params.pointer(plan.site.view(plan.site.prim.args[0]), plan.dtype, "x")
        self.b = fn.params.pointer(plan.packed(), plan.dtype, "b")

    def write(self, w: Writer) -> None:
        p, g, fn = self.p, self.g, self.fn
        height = fn.dim(g.out[1])
        with w.block("for (int64_t r = r0; r < r1;)"):
            w.line(f"const int64_t image = r / {height}, top_line = r % {height};")
            w.line(f"const int64_t end_line = gf_min64({height}, top_line + gf_min64({_STRIP}, r1 - r));")
            w.line("r += end_line - top_line;")
            w.line(f"const {self.c} *const picture = {self.x} + {affine([('image', g.x_batch)], fn.params)};")
            scope = fn.root.child({p.site.index[0]: "image"}, w.section())
            full, rest = divmod(g.out_channels, p.width)
            if full:
                with w.loop("panel", "c0", f"gf_min64(c1, {full})" if rest else "c1"):
                    w.line(f"const int64_t n = panel * {p.width};")
                    lanes = Lanes.of_panel(scope, w.section(), p.site.index[1], "n", p.tile.vectors, p.lanes)
                    self.panel(w, lanes)
            if rest:
                with w.block(f"if (c1 > {full})"):
                    w.line(f"const int64_t n = {full * p.width};")
                    vectors = -(-rest // p.lanes)
                    tail = rest % p.lanes
                    lanes = Lanes.of_panel(scope, w.section(), p.site.index[1], "n", vectors, p.lanes, tail)
                    self.panel(w, lanes)

    def panel(self, w: Writer, lanes: Lanes) -> None:
        p, g, fn = self.p, self.g, self.fn
        w.line(f"const {self.c} *const b = {self.b} + n * {product([g.channels, *g.kernel])};")
        with w.loop("oy", "top_line", "end_line"):
            w.line(f"const int64_t y = oy * {g.strides[1]} - {fn.dim(g.before[1])};")
            first, last = taps_in_range(fn, w, g, 1, "y")
            start = affine([("y", g.x_space[1])], fn.params)
            w.line(f"const {self.c} *const line = picture + {start};")
            inside = lanes.child(line_variables(g, p.site.index, (None, "oy", None)), w.section())
            for span in p.spans:
                with w.loop("ox", str(span.start), str(span.stop), str(span.width)):
                    self.tile(w, inside, span, (first, last))

    def tile(self, w: Writer, lanes: Lanes, span: Span, lines: tuple[str, str]) -> None:
        p, g, fn = self.p, self.g, self.fn
        tile = Tile(span.width, len(lanes))
        declare_accumulators(w, tile, p.dtype)
        origin = f"(ox * {g.strides[2]} - {fn.dim(g.before[2])})"
        width = len(lanes) * p.lanes
        with w.loop("c", "0", str(g.channels)), w.loop("ky", *lines):
            terms: list[tuple[str, Dim]] = [
                ("c", g.x_channel),
                (f"ky * {g.dilations[1]}", g.x_space[1]),
                (origin, g.x_space[2]),
            ]
            w.line(f"const {self.c} *const q = line + {affine(terms, fn.params)};")
            w.line(f"const {self.c} *const f = b + (c * {g.kernel[1]} + ky) * {g.kernel[2] * width};")
            self.prefetch(w, tile)
            self.line_of_taps(w, tile, span)
        axis = g.axes[2]
        assert axis is not None
        finish_tile(p.site, w, lanes, tile, lambda m: {p.site.index[axis]: f"(ox + {m})"})

    def prefetch(self, w: Writer, tile: Tile) -> None:
        """Fetch what the next output line has under this tile: every line of an image is a stream of its own, and too
        short for the machine to see where it leads."""
        g, fn = self.g, self.fn
        reach = (tile.rows - 1) * g.strides[2] + g.extent(2) - 1
        down = times(g.strides[1], g.x_space[1], fn.params)
        for column in (0, reach):
            place = f"({down} + {times(column, g.x_space[2], fn.params)}) * (int64_t)sizeof({self.c})"
            w.line(f"__builtin_prefetch((const void *)((uintptr_t)q + (uintptr_t)({place})), 0, 3);")

    def line_of_taps(self, w: Writer, tile: Tile, span: Span) -> None:
        g = self.g
        for kx in range(g.kernel[2]):
            self.weights(w, tile, kx)
        for j, pairs in column_users(g, tile.rows, span.columns).items():
            self.multiply(w, tile, j, pairs)

    def weights(self, w: Writer, tile: Tile, kx: int) -> None:
        name, vector = suffix(self.p.dtype), vector_type(self.p.dtype)
        for v in range(tile.vectors):
            w.line(f"const {vector} w{kx}_{v} = gf_load_{name}(f + {(kx * tile.vectors + v) * self.p.lanes});")
            w.line(f"(void)w{kx}_{v};")

    def multiply(self, w: Writer, tile: Tile, column: int, pairs: list[tuple[int, int]]) -> None:
        """Add the products of an input column and the weights of (pixel, tap) pairs."""
        name, vector = suffix(self.p.dtype), vector_type(self.p.dtype)
        steps = []
        for m, kx in pairs:
            for v in range(tile.vectors):
                c, b = f"c{m}_{v}", f"w{kx}_{v}"
                product_ = f"{c} += s * {b};" if is_float(self.p.dtype) else ""
                steps.append(product_ or f"{c} = gf_add_{name}({c}, gf_mul_{name}(s, {b}));")
        x = f"q[{times(column, self.g.x_space[2], self.fn.params)}]"
        w.line(f"{{ const {vector} s = gf_splat_{name}({x}); {' '.join(steps)} }}")


KERNEL = ConvFirst()
