"""Convolutions as implicit matrix products, line by line: what the direct and the transposed one share.

Rows of the product are pixels of an output line, its k runs over the window's taps and the channels. Input lines that
need a border, or whose channels are not contiguous, pass through scratch with their zeros around them; so the tile
that multiplies has no branches.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from contextlib import AbstractContextManager

import numpy as np

from graphfuse.codegen.vector import Scope
from graphfuse.codegen.writer import Writer
from graphfuse.graph.dims import Dim, ceildiv, estimate, mul, product
from graphfuse.graph.dtypes import DType, c_type, item_bytes, suffix
from graphfuse.plan.site import ContractionSite, KernelCode, Packed
from graphfuse.target import Target

from .function import Function, affine, times
from .tile import (
    PREFETCH_STEP,
    Lanes,
    Tile,
    add_to_totals,
    choose_tile,
    declare_accumulators,
    declare_prefetch,
    declare_totals,
    finish_tile,
    load_totals,
    multiply_add,
    panels,
    row_variants,
    step_cycles,
)
from .window import ScratchLines, geometry, line_variables

# A one-dimensional convolution has one line per item: it is cut into segments of so many tiles, for threads to share.
_TILES_PER_SEGMENT = 8


class ImplicitPlan(ABC):
    """Everything decided about one convolution before it is written."""

    name: str
    direct = False  # whether input lines are read in place

    def __init__(self, site: ContractionSite, target: Target) -> None:
        self.site, self.target = site, target
        self.dtype: DType = site.contraction.dtype
        self.lanes = target.lanes
        g = self.g = geometry(site)
        self.group_in, self.group_out = g.channels // g.groups, g.out_channels // g.groups
        self.k = g.kernel[0] * g.kernel[1] * g.kernel[2] * self.group_in
        runs = self.tile_runs()
        self.tile: Tile = self._shared_evenly(choose_tile(target, self.dtype, runs[0], self.group_vectors), runs[0])
        self.width = self.tile.vectors * self.lanes
        heights = {height for run in runs for height in row_variants(run, self.tile.rows)}
        self.variants = sorted(heights, reverse=True)
        self.segment = self._segment()

    @property
    def group_vectors(self) -> int:
        """Vectors of output channels of a group."""
        return -(-self.group_out // self.lanes)

    def _shared_evenly(self, tile: Tile, run: Dim) -> Tile:
        """The tile, or a narrower one as fast where two threads would share neither lines nor panels evenly."""

        def panels_of(t: Tile) -> int:
            return self.g.groups * -(-self.group_vectors // t.vectors)

        if tile.vectors == 1 or estimate(self.g.lines) % 2 == 0 or panels_of(tile) % 2 == 0:
            return tile
        narrow = choose_tile(self.target, self.dtype, run, tile.vectors - 1)
        per_product = [step_cycles(t) / (t.rows * t.vectors) for t in (narrow, tile)]
        return narrow if panels_of(narrow) % 2 == 0 and per_product[0] <= 1.02 * per_product[1] else tile

    def _segment(self) -> int:
        """Pixels of a line that make one row of work, 0 for all."""
        g = self.g
        if g.axes[1] is not None or (isinstance(g.out[2], int) and g.out[2] <= self.tile.rows * self.pixel_step):
            return 0
        return self.tile.rows * self.pixel_step * _TILES_PER_SEGMENT

    @property
    @abstractmethod
    def pixel_step(self) -> int:
        """Output pixels from one tile row to the next."""

    @abstractmethod
    def tile_runs(self) -> list[Dim]:
        """How many tile rows a line (or each of its interleaved parts) has."""

    @property
    @abstractmethod
    def pixels(self) -> Dim:
        """Input pixels under one line (or segment) of output, borders included."""

    @abstractmethod
    def lines_under(self, lines: int) -> int:
        """Input lines that so many output lines need at most."""

    @abstractmethod
    def taps_by_channels(self, weights: np.ndarray) -> list[np.ndarray]:
        """The weights as one (taps * channels in, channels out) matrix for each group."""

    @property
    def segments(self) -> Dim:
        return ceildiv(self.g.out[2], self.segment) if self.segment else 1

    @property
    def strip(self) -> int:
        """Output lines whose input lines take a third of L2: every panel of weights passes over them in turn."""
        g = self.g
        line = g.kernel[0] * estimate(self.pixels) * g.channels * item_bytes(self.dtype)
        most = 1 if self.segment else g.out[1] if isinstance(g.out[1], int) else 1 << 10
        strip = 1
        while strip < most and self.lines_under(strip + 1) * line <= self.target.l2 // 3:
            strip += 1
        return strip

    @property
    def strip_lines(self) -> int:
        """Input lines under a strip."""
        size = self.g.size[1]
        lines = self.lines_under(self.strip)
        return min(lines, size) if isinstance(size, int) else lines

    @property
    def tiles_per_line(self) -> int:
        """Tiles of a line (or segment), roughly: a tile counts for one wherever its taps are."""
        pixels = self.segment or estimate(self.g.out[2])
        return -(-pixels // (self.tile.rows * self.pixel_step))

    @property
    def pixel_stride(self) -> int:
        """Elements from one input pixel to the next, where the tile reads them."""
        return self.g.channels

    @property
    def lane_bytes(self) -> int:
        """Bytes of packed weights that one lane is fed with in a step of k."""
        return item_bytes(self.dtype)

    @property
    def panels_per_group(self) -> int:
        return -(-self.group_out // self.width)

    @property
    def scratch(self) -> Dim:
        if self.direct:
            return 0
        return product([self.g.kernel[0], self.strip_lines, self.pixels, self.g.channels * item_bytes(self.dtype)])

    def packed(self) -> Packed:
        vectors, lanes, matrices = self.tile.vectors, self.lanes, self.taps_by_channels

        def arrange(weights: np.ndarray) -> np.ndarray:
            return np.concatenate([panels(m, vectors, lanes) for m in matrices(weights)])

        key = f"{self.name} {self.g.groups} groups, panels of {vectors}x{lanes}"
        return Packed(self.site.prim.args[1], arrange, self.dtype, key)

    def code(self, fn: Function, products: Dim) -> KernelCode:
        """The finished kernel; `products` = multiply-adds of the whole call."""
        window = "x".join(map(str, self.site.prim.attrs.kernel))
        lines = "in place" if self.direct else "through scratch"
        g = self.g
        return KernelCode(
            hint=f"{self.name}{window}_{suffix(self.dtype)}_{self.tile.rows}x{self.width}",
            source=fn.source(),
            pointers=fn.params.pointers,
            dims=fn.params.dims,
            rows=mul(self.g.lines, self.segments),
            work=mul(2, products),
            columns=self.g.groups * self.panels_per_group,
            columns_first=self.k * self.group_out > estimate(product([g.batch, *g.size, g.channels])),
            scratch=self.scratch,
            describe=f"{self.name.replace('_', ' ')} {window}, {self.tile.rows}x{self.width} tiles, lines {lines}",
        )


class ImplicitWriter(ABC):
    """Writes the loops of one convolution.

    Names in the C: r, plane, image, oz, oy, ox = place in the output; iz, iy = plane and line of the input; [top_line,
    end_line) = output lines of the strip; [top, bottom) = input lines in scratch; kz, ky, kx = taps.
    """

    def __init__(self, plan: ImplicitPlan, fn: Function) -> None:
        self.p, self.fn, self.g = plan, fn, plan.g
        self.c = c_type(plan.dtype)
        self.x = fn.params.pointer(plan.site.view(plan.site.prim.args[0]), plan.dtype, "x")
        self.b = fn.params.pointer(plan.packed(), plan.dtype, "b")
        self.lines = ScratchLines(fn, self.g, plan.dtype, plan.strip_lines, plan.pixels)

    # ------------------------------------------------------------------ what differs

    @abstractmethod
    def input_range(self, w: Writer) -> None:
        """Declare top, bottom and first_pixel: the input under the strip, first_pixel perhaps outside the image."""

    @abstractmethod
    def planes(self, w: Writer) -> AbstractContextManager[None]:
        """Loop over the taps kz whose plane iz of the input exists."""

    @abstractmethod
    def window_lines(self, w: Writer) -> AbstractContextManager[None]:
        """Loop over the taps ky whose line iy of the input exists."""

    @abstractmethod
    def line(self, w: Writer, lanes: Lanes, vectors: int) -> None:
        """All tiles of output line oy."""

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
            depth = fn.dim(g.out[0])
            w.line(f"const int64_t image = plane / {depth}, oz = plane % {depth};")
            w.line("(void)image, (void)oz;")
            w.line(f"const {self.c} *const picture = {self.x} + {affine([('image', g.x_batch)], fn.params)};")
            if not p.direct:
                self.input_range(w)
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
        channels: tuple[str, str] | None = None
        if g.groups > 1:
            w.line(f"const int64_t channel = c0 / {p.panels_per_group} * {p.group_in};")
            w.line(f"const int64_t channels = ((c1 - 1) / {p.panels_per_group} + 1) * {p.group_in} - channel;")
            channels = ("channel", "channels")
        with self.planes(w), w.loop("iy", "top", "bottom"):
            source = affine([("iz", g.x_space[0]), ("iy", g.x_space[1])], fn.params)
            target = affine(self.lines.place("kz", "(iy - top)"), fn.params)
            line = w.let(f"{self.c} *", f"picture + {source}", "line")
            self.lines.copy_line(w, line, f"lines + {target}", "first_pixel", channels)

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
        p, g = self.p, self.g
        lanes = Lanes.of_panel(scope, w.section(), p.site.index[1], "n", vectors, p.lanes, tail)
        step = vectors * p.lanes
        tiles = f"(end_line - top_line) * {p.tiles_per_line}"
        declare_prefetch(w, f"b + {step * p.k}", step * p.lane_bytes, tiles)
        with w.loop("oy", "top_line", "end_line"):
            inside = lanes.child(line_variables(g, p.site.index, (None, "oy", None)), w.section())
            self.line(w, inside, vectors)

    @property
    def line_range(self) -> tuple[str, str]:
        """Output pixels [start, stop) of the line or segment."""
        return ("left", "right") if self.p.segment else ("0", self.fn.dim(self.g.out[2]))

    # ------------------------------------------------------------------ one tile

    def input_at(self, pixel: Sequence[tuple[str, Dim]]) -> str:
        """C text of the pointer to an input pixel of line (iz, iy); `pixel` = terms of its place in the line."""
        g = self.g
        if self.p.direct:
            terms, base = [("iz", g.x_space[0]), ("iy", g.x_space[1])], "picture"
        else:
            terms, base = self.lines.place("kz", "(iy - top)"), "lines"
        return f"{base} + {affine([*terms, *pixel, ('channel_in', 1)], self.fn.params)}"

    def declare(self, w: Writer, tile: Tile) -> None:
        if self.p.site.sum_block:
            declare_totals(w, tile, self.p.dtype)
        else:
            declare_accumulators(w, tile, self.p.dtype)

    def multiply(self, w: Writer, tile: Tile, count: int, row_stride: int) -> None:
        """Multiply `count` steps on from x and weights; tile rows are `row_stride` elements of x apart."""
        block = self.p.site.sum_block
        if not block:
            self.steps(w, tile, "0", str(count), row_stride)
            return
        first = w.fresh("first")
        with w.loop(first, "0", str(count), str(block)):
            declare_accumulators(w, tile, self.p.dtype)
            self.steps(w, tile, first, f"gf_min64({first} + {block}, {count})", row_stride)
            add_to_totals(w, tile, self.p.dtype)

    def steps(self, w: Writer, tile: Tile, start: str, stop: str, row_stride: int) -> None:
        """Steps [start, stop) of the sums in registers."""
        p = self.p
        with w.loop("k", start, stop):
            multiply_add(w, tile, p.dtype, lambda m: f"x[{times(m, row_stride, self.fn.params)}]", "weights", p.lanes)
            w.line(PREFETCH_STEP)
            w.line(f"++x, weights += {tile.vectors * p.lanes};")

    def finish(self, w: Writer, lanes: Lanes, tile: Tile) -> None:
        """Store a tile whose first pixel is ox."""
        if self.p.site.sum_block:
            load_totals(w, tile, self.p.dtype)
        axis, step = self.g.axes[2], self.p.pixel_step
        assert axis is not None
        index = self.p.site.index[axis]
        finish_tile(self.p.site, w, lanes, tile, lambda m: {index: f"(ox + {m}{f' * {step}' if step > 1 else ''})"})
