"""Direct convolution: an implicit matrix product line by line, any window.

Lines that need a border, or whose channels are not contiguous, pass through scratch with their zeros around them; so
the tile that multiplies has no branches.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from graphfuse.codegen.vector import Scope
from graphfuse.codegen.writer import Writer
from graphfuse.graph.dims import Dim, add, ceildiv, estimate, mul, product
from graphfuse.graph.dtypes import DType, c_type, item_bytes, suffix
from graphfuse.plan.site import ContractionSite, KernelCode, Packed
from graphfuse.target import Target

from .function import Function, affine, times
from .tile import Lanes, Tile, choose_tile, declare_accumulators, finish_tile, multiply_add, panels, row_variants
from .window import Geometry, ScratchLines, geometry, input_rows, line_variables, refusal, taps_in_range

# A one-dimensional convolution has one line per item: it is cut into segments of so many tiles, for threads to share.
_TILES_PER_SEGMENT = 8


class ConvDirect:
    """`conv_direct`: any convolution with constant weights."""

    name = "conv_direct"

    def accepts(self, site: ContractionSite, target: Target) -> str | None:
        return refusal(site, "conv")

    def cost(self, site: ContractionSite, target: Target) -> float:
        """Microseconds on one thread: padded multiply-adds at 70 % of two vectors a cycle and 3 GHz, and the copies."""
        p = _Plan(site, target)
        g = p.g
        columns = g.groups * -(-p.group_out // p.lanes) * p.lanes
        products = estimate(product([g.lines, g.out[2], columns, p.k]))
        lanes = target.lanes * 4 / item_bytes(p.dtype)
        copied = 0.0 if p.direct else estimate(product([g.batch, *g.size, g.channels])) / 8e3
        return products / (0.7 * 2 * lanes * 3e3) + copied + 1.0

    def rows_in(self, site: ContractionSite, r0: int, r1: int) -> tuple[Dim, Dim]:
        """The lines of one input image that lines [r0, r1) of one output image need, borders not cut off."""
        return input_rows(r0, r1, geometry(site))

    def emit(self, site: ContractionSite, target: Target) -> KernelCode:
        return _Plan(site, target).emit()


class _Plan:
    """Everything decided about one convolution before it is written."""

    def __init__(self, site: ContractionSite, target: Target) -> None:
        self.site, self.target = site, target
        self.dtype: DType = site.contraction.dtype
        self.lanes = target.lanes
        self.g: Geometry = geometry(site)
        g = self.g
        self.group_in, self.group_out = g.channels // g.groups, g.out_channels // g.groups
        self.k = g.kernel[0] * g.kernel[1] * g.kernel[2] * self.group_in
        vectors = -(-self.group_out // self.lanes)
        self.direct = g.x_channel == 1 and isinstance(g.x_space[2], int) and not g.is_padded(2)
        self.tile: Tile = choose_tile(target, self.dtype, g.out[2], vectors)
        self.width = self.tile.vectors * self.lanes
        self.variants = row_variants(g.out[2], self.tile.rows)
        self.segment = self._segment()
        self.pixel_stride: int = g.x_space[2] if self.direct else g.channels  # type: ignore[assignment]

    def _segment(self) -> int:
        """Pixels of a line that make one row of work, 0 for all."""
        g = self.g
        if g.axes[1] is not None or (isinstance(g.out[2], int) and g.out[2] <= self.tile.rows):
            return 0
        return self.tile.rows * _TILES_PER_SEGMENT

    @property
    def segments(self) -> Dim:
        return ceildiv(self.g.out[2], self.segment) if self.segment else 1

    @property
    def pixels(self) -> Dim:
        """Input pixels under one line (or segment) of output, borders included."""
        out = self.segment or self.g.out[2]
        return add(mul(add(out, -1), self.g.strides[2]), self.g.extent(2))

    @property
    def strip(self) -> int:
        """Output lines whose input lines take a third of L2: every panel of weights passes over them in turn."""
        g = self.g
        if self.segment:
            return 1
        line = g.kernel[0] * estimate(self.pixels) * g.channels * item_bytes(self.dtype)
        lines = self.target.l2 // 3 // max(1, line)
        return max(1, (lines - g.extent(1)) // g.strides[1] + 1)

    @property
    def strip_lines(self) -> Dim:
        """Input lines under a strip."""
        g = self.g
        lines = (self.strip - 1) * g.strides[1] + g.extent(1)
        return min(lines, g.size[1]) if isinstance(g.size[1], int) else lines

    @property
    def panels_per_group(self) -> int:
        return -(-self.group_out // self.width)

    def emit(self) -> KernelCode:
        g = self.g
        fn = Function(self.site, self.site.index[1])
        _Writer(self, fn).write(fn.body)
        scratch: Dim = 0
        if not self.direct:
            scratch = product([g.kernel[0], self.strip_lines, self.pixels, g.channels * item_bytes(self.dtype)])
        window = "x".join(map(str, self.site.prim.attrs.kernel))
        return KernelCode(
            hint=f"conv{window}_{suffix(self.dtype)}_{self.tile.rows}x{self.width}",
            source=fn.source(),
            pointers=fn.params.pointers,
            dims=fn.params.dims,
            rows=mul(g.lines, self.segments),
            work=product([2, g.lines, g.out[2], g.out_channels, self.k]),
            columns=g.groups * self.panels_per_group,
            scratch=scratch,
            describe=f"direct convolution {self.tile.rows}x{self.width} tiles, "
            + ("lines in place" if self.direct else "lines through scratch"),
        )

    def packed(self) -> Packed:
        groups, vectors, lanes = self.g.groups, self.tile.vectors, self.lanes

        def arrange(w: np.ndarray) -> np.ndarray:
            # (O, C, taps...) -> per group (taps, C) by O
            parts = np.split(w, groups)
            matrices = [np.moveaxis(part, 1, -1).reshape(part.shape[0], -1).T for part in parts]
            return np.concatenate([panels(m, vectors, lanes) for m in matrices])

        return Packed(self.site.prim.args[1], arrange, self.dtype, f"conv {groups} groups, panels of {vectors}x{lanes}")


class _Writer:
    """Writes the loops of one convolution."""

    def __init__(self, plan: _Plan, fn: Function) -> None:
        self.p, self.fn, self.g = plan, fn, plan.g
        self.c = c_type(plan.dtype)
        self.x = fn.params.pointer(plan.site.view(plan.site.prim.args[0]), plan.dtype, "x")
        self.b = fn.params.pointer(plan.packed(), plan.dtype, "b")
        self.lines = ScratchLines(fn, self.g, plan.dtype, self.x, plan.strip_lines, plan.pixels)

    # ------------------------------------------------------------------ strips of lines

    def write(self, w: Writer) -> None:
        p, g, fn = self.p, self.g, self.fn
        if not p.direct:
            w.line(f"{self.c} *const lines = ({self.c} *)scratch;")
        with w.block("for (int64_t r = r0; r < r1;)"):
            if p.segment:
                self.segment_range(w)
            else:
                self.strip_range(w)
            w.line(f"const int64_t image = plane / {fn.dim(g.out[0])}, oz = plane % {fn.dim(g.out[0])};")
            w.line(f"const int64_t z = oz * {g.strides[0]} - {fn.dim(g.before[0])};")
            w.line(f"const int64_t top = gf_max64(0, top_line * {g.strides[1]} - {fn.dim(g.before[1])});")
            w.line("(void)image, (void)z, (void)top;")
            self.first_tap, self.last_tap = taps_in_range(fn, w, g, 0, "z")
            start = affine([("image", g.x_batch)], fn.params)
            w.line(f"const {self.c} *const picture = {self.x} + {start};")
            if not p.direct:
                self.fill_scratch(w)
            known = {p.site.index[0]: "image"} | line_variables(g, p.site.index, ("oz", None, None))
            scope = fn.root.child(known, w.section())
            self.panels(w, scope)

    def strip_range(self, w: Writer) -> None:
        height = self.fn.dim(self.g.out[1])
        w.line(f"const int64_t plane = r / {height}, top_line = r % {height};")
        w.line(f"const int64_t end_line = gf_min64({height}, top_line + gf_min64({self.p.strip}, r1 - r));")
        w.line("r += end_line - top_line;")

    def segment_range(self, w: Writer) -> None:
        p, fn = self.p, self.fn
        segments = fn.dim(p.segments)
        w.line(f"const int64_t plane = r / {segments}, left = r % {segments} * {p.segment};")
        w.line(f"const int64_t right = gf_min64({fn.dim(self.g.out[2])}, left + {p.segment});")
        w.line("const int64_t top_line = 0, end_line = 1;")
        w.line("++r;")

    def fill_scratch(self, w: Writer) -> None:
        """Copy the input lines under the strip, of the groups that the column range touches."""
        p, g, fn = self.p, self.g, self.fn
        height = fn.dim(g.size[1])
        last = f"(end_line - 1) * {g.strides[1]} - {fn.dim(g.before[1])} + {g.extent(1)}"
        w.line(f"const int64_t bottom = gf_min64({height}, {last});")
        left = f"left * {g.strides[2]}" if p.segment else "0"
        w.line(f"const int64_t first_pixel = {left} - {fn.dim(g.before[2])};")
        channels = ("0", str(g.channels))
        if g.groups > 1:
            w.line(f"const int64_t channel = c0 / {p.panels_per_group} * {p.group_in};")
            w.line(f"const int64_t channels = ((c1 - 1) / {p.panels_per_group} + 1) * {p.group_in} - channel;")
            channels = ("channel", "channels")
        with w.loop("kz", self.first_tap, self.last_tap), w.loop("y", "top", "bottom"):
            plane = affine([(f"(z + kz * {g.dilations[0]})", g.x_space[0]), ("y", g.x_space[1])], fn.params)
            place = affine([("kz", self.lines.plane_stride), ("(y - top)", self.lines.line_stride)], fn.params)
            source = w.let(f"{self.c} *", f"picture + {plane}", "line")
            self.lines.copy_line(w, source, f"lines + {place}", "first_pixel", channels)

    # ------------------------------------------------------------------ columns

    def panels(self, w: Writer, scope: Scope) -> None:
        """Panels [c0, c1) of output channels: full ones, and the last of each group as wide as needed."""
        p = self.p
        full, rest = divmod(p.group_out, p.width)
        with w.loop("panel", "c0", "c1"):
            group_columns = full * p.width + -(-rest // p.lanes) * p.lanes
            per_group = p.panels_per_group
            w.line(f"const int64_t group = panel / {per_group}, column = panel % {per_group} * {p.width};")
            w.line(f"const int64_t channel_in = group * {p.group_in}, n = group * {p.group_out} + column;")
            w.line(f"const {self.c} *const b = {self.b} + (group * {group_columns} + column) * {p.k};")
            w.line("(void)channel_in, (void)n;")
            if not rest or not full:
                self.panel(w, scope, -(-(rest or p.width) // p.lanes), rest % p.lanes)
                return
            with w.block(f"if (column < {full * p.width})"):
                self.panel(w, scope, p.tile.vectors, 0)
            with w.block("else"):
                self.panel(w, scope, -(-rest // p.lanes), rest % p.lanes)

    def panel(self, w: Writer, scope: Scope, vectors: int, tail: int) -> None:
        p, g, fn = self.p, self.g, self.fn
        lanes = Lanes.of_panel(scope, w.section(), p.site.index[1], "n", vectors, p.lanes, tail)
        with w.loop("oy", "top_line", "end_line"):
            w.line(f"const int64_t y = oy * {g.strides[1]} - {fn.dim(g.before[1])};")
            w.line("(void)y;")
            first, last = taps_in_range(fn, w, g, 1, "y")
            inside = lanes.child(line_variables(g, p.site.index, (None, "oy", None)), w.section())
            start, stop = ("left", "right") if p.segment else ("0", fn.dim(g.out[2]))
            w.line(f"int64_t ox = {start};")
            for height in p.variants:
                with w.block(f"for (; ox + {height} <= {stop}; ox += {height})"):
                    self.tile(w, inside, Tile(height, vectors), lambda body, t: self.taps(body, t, first, last))

    # ------------------------------------------------------------------ one tile

    def tile(self, w: Writer, lanes: Lanes, tile: Tile, taps: Callable[[Writer, Tile], None]) -> None:
        p, g = self.p, self.g
        declare_accumulators(w, tile, p.dtype)
        taps(w, tile)
        axis = g.axes[2]
        assert axis is not None
        finish_tile(p.site, w, lanes, tile, lambda m: {p.site.index[axis]: f"(ox + {m})"})

    def taps(self, w: Writer, tile: Tile, first: str, last: str) -> None:
        """Multiply every tap in range: over planes and lines, then over what is contiguous in a line."""
        p, g = self.p, self.g
        width = tile.vectors * p.lanes
        per_line = g.kernel[2] * p.group_in
        joined = g.dilations[2] == 1 and p.pixel_stride == p.group_in
        with w.loop("kz", self.first_tap, self.last_tap), w.loop("ky", first, last):
            w.line(f"const {self.c} *x = {self.line_start()};")
            w.line(f"const {self.c} *weights = b + (kz * {g.kernel[1]} + ky) * {per_line * width};")
            if joined:
                self.multiply(w, tile, per_line)
                return
            with w.loop("kx", "0", str(g.kernel[2])):
                self.multiply(w, tile, p.group_in)
                w.line(f"x += {g.dilations[2] * p.pixel_stride - p.group_in};")

    def line_start(self) -> str:
        p, g, fn = self.p, self.g, self.fn
        line = f"(y + ky * {g.dilations[1]})"
        if p.direct:
            terms: list[tuple[str, Dim]] = [(f"(z + kz * {g.dilations[0]})", g.x_space[0]), (line, g.x_space[1])]
            base, pixel = "picture", "ox"
        else:
            terms = [("kz", self.lines.plane_stride), (f"({line} - top)", self.lines.line_stride)]
            base, pixel = "lines", "(ox - left)" if p.segment else "ox"
        terms += [(pixel, g.strides[2] * p.pixel_stride), ("channel_in", 1)]
        return f"{base} + {affine(terms, fn.params)}"

    def multiply(self, w: Writer, tile: Tile, count: int) -> None:
        p = self.p
        step = self.g.strides[2] * p.pixel_stride
        with w.loop("k", "0", str(count)):
            multiply_add(w, tile, p.dtype, lambda m: f"x[{times(m, step, self.fn.params)}]", "weights", p.lanes)
            w.line(f"++x, weights += {tile.vectors * p.lanes};")


KERNEL = ConvDirect()
