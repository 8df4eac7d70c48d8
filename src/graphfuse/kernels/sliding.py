"""Windows that slide over each channel by itself: depthwise convolution and pooling.

Vectors run along the channels. A block of channels passes over a strip of lines before the next one, so its taps'
weights stay in registers and its lines in L1. Tiles at the image's border are written out with the taps that exist.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Protocol

from graphfuse.codegen.access import access
from graphfuse.codegen.vector import Scope
from graphfuse.codegen.writer import Writer
from graphfuse.graph.dims import Dim, estimate, mul, product
from graphfuse.graph.dtypes import I64, DType, c_type, item_bytes, suffix, vector_type
from graphfuse.ops.expr import Const
from graphfuse.plan.site import ContractionSite, KernelCode, Packed
from graphfuse.target import Target

from .function import Function, affine, times
from .spans import Span, column_users, line_spans
from .tile import Lanes, Tile, finish_tile, line_sum
from .window import Geometry, geometry, line_variables, taps_in_range, taps_with_padding

# Multiply-adds written out for one tile before lines, then pixels, become loops.
_UNROLLED = 256
_UNROLLED_LINE = 96
_CACHE_LINE = 64
# A border of more tiles than this (a window that hardly fits the image) is done pixel by pixel.
_BORDER_TILES = 4


class Fold(Protocol):
    """How the taps of a window become one value."""

    name: str
    counts: str  # which taps `finish` wants to know the number of: "none", "inside" the image, "padded" image

    @property
    def weights(self) -> Packed | None:
        """One weight for each tap and channel, where there are any."""

    def start(self, dtype: DType) -> str:
        """C text of the value of no taps."""

    def step(self, sum_: str, x: str, weight: str, dtype: DType) -> str:
        """C statement that takes one tap in."""

    def finish(self, w: Writer, sum_: str, taps: str, dtype: DType) -> str:
        """The C variable with the window's value; `taps` = C text of the number of taps."""


class SlidingPlan:
    """Everything decided about one sliding window before it is written."""

    def __init__(self, site: ContractionSite, target: Target, fold: Callable[[SlidingPlan], Fold]) -> None:
        self.site, self.target = site, target
        self.dtype: DType = site.contraction.dtype
        self.lanes = target.lanes
        self.g: Geometry = geometry(site)
        channel_vectors = -(-self.g.channels // self.lanes)
        bytes_per_vector = self.lanes * item_bytes(self.dtype)
        self.vectors = max(1, min(channel_vectors, _CACHE_LINE // bytes_per_vector))
        self.width = self.vectors * self.lanes
        self.pixels = self._pixels()
        taps = self.g.kernel[1] * self.g.kernel[2]
        self.unroll_lines = taps * self.pixels * self.vectors <= _UNROLLED
        self.unroll_pixels = self.g.kernel[2] * self.pixels * self.vectors <= _UNROLLED_LINE
        self.fold: Fold = fold(self)

    def _pixels(self) -> int:
        """Output pixels of a tile: a short line in one or two, else enough sums to keep the multiply-adds busy."""
        most = 8 if self.target.vector_registers > 16 and self.vectors == 1 else 4 if self.vectors <= 2 else 2
        out = self.g.out[2]
        if isinstance(out, int) and out <= 2 * most:
            return -(-out // -(-out // most))
        return most if self.g.kernel[2] >= 7 else min(6, most)

    @property
    def columns(self) -> int:
        return -(-self.g.channels // self.width)

    @property
    def strip(self) -> int:
        """Output lines per strip: those whose input lines of one channel block take twice L1, at least four."""
        g = self.g
        line = estimate(g.size[2]) * _CACHE_LINE * g.strides[1]
        return max(4, 2 * self.target.l1 // max(1, line))

    def spans(self) -> list[Span] | None:
        """The line as tiles known at compile time; None when sizes are unknown or the border has too many tiles."""
        spans = line_spans(self.g, self.pixels)
        return spans if spans and len(spans) <= _BORDER_TILES + 1 else None

    def emit(self) -> KernelCode:
        g = self.g
        fn = Function(self.site, self.site.index[1])
        _SlidingWriter(self, fn).write(fn.body)
        window = "x".join(map(str, self.site.prim.attrs.kernel))
        return KernelCode(
            hint=f"{self.fold.name}{window}_{suffix(self.dtype)}",
            source=fn.source(),
            pointers=fn.params.pointers,
            dims=fn.params.dims,
            rows=g.lines,
            work=product([2, g.lines, g.out[2], g.channels, *g.kernel]),
            columns=self.columns,
            describe=f"{self.fold.name.replace('_', ' ')} {window}, {self.pixels} pixels by {self.width} channels",
        )

    def microseconds(self) -> float:
        """Predicted time on one thread: the larger of one tap a cycle and 30 GB/s of input and output, at 3 GHz."""
        g = self.g
        vectors = -(-g.channels // self.lanes)
        taps = estimate(product([g.lines, g.out[2], vectors, *g.kernel]))
        moved = estimate(product([g.batch, *g.size, g.channels])) + estimate(product([g.lines, g.out[2], g.channels]))
        return max(taps / 3e3, moved * item_bytes(self.dtype) / 30e3) + 0.5


class _SlidingWriter:
    """Writes the loops of one sliding window."""

    def __init__(self, plan: SlidingPlan, fn: Function) -> None:
        self.p, self.fn, self.g = plan, fn, plan.g
        self.c, self.name = c_type(plan.dtype), suffix(plan.dtype)
        self.x = fn.params.pointer(plan.site.view(plan.site.prim.args[0]), plan.dtype, "x")
        weights = plan.fold.weights
        self.b = None if weights is None else fn.params.pointer(weights, plan.dtype, "b")
        self.vectors, self.tail = plan.vectors, 0
        self.planes = ("0", "1")
        self.count_of = ["1", "1"]  # C text of the window's planes and lines that count

    def write(self, w: Writer) -> None:
        p, g, fn = self.p, self.g, self.fn
        height, depth = fn.dim(g.out[1]), fn.dim(g.out[0])
        with w.block("for (int64_t r = r0; r < r1;)"):
            w.line(f"const int64_t plane = r / {height}, top_line = r % {height};")
            w.line(f"const int64_t end_line = gf_min64({height}, top_line + gf_min64({p.strip}, r1 - r));")
            w.line("r += end_line - top_line;")
            w.line(f"const int64_t image = plane / {depth}, oz = plane % {depth};")
            w.line(f"const int64_t z = oz * {g.strides[0]} - {fn.dim(g.before[0])};")
            w.line("(void)image, (void)z;")
            self.planes = taps_in_range(fn, w, g, 0, "z")
            self.count_of[0] = self.counted(w, 0, "z", self.planes)
            start = affine([("image", g.x_batch), ("z", g.x_space[0])], fn.params)
            w.line(f"const {self.c} *const picture = {self.x} + {start};")
            known = {p.site.index[0]: "image"} | line_variables(g, p.site.index, ("oz", None, None))
            scope = fn.root.child(known, w.section())
            full, rest = divmod(g.channels, p.width)
            if full:
                with w.loop("panel", "c0", f"gf_min64(c1, {full})" if rest else "c1"):
                    w.line(f"const int64_t n = panel * {p.width};")
                    self.panel(w, scope, p.vectors, 0)
            if rest:
                with w.block(f"if (c1 > {full})"):
                    w.line(f"const int64_t n = {full * p.width};")
                    w.line("(void)n;")
                    self.panel(w, scope, -(-rest // p.lanes), rest % p.lanes)

    def panel(self, w: Writer, scope: Scope, vectors: int, tail: int) -> None:
        """One block of channels over the lines of the strip."""
        p, g, fn = self.p, self.g, self.fn
        self.vectors, self.tail = vectors, tail
        lanes = Lanes.of_panel(scope, w.section(), p.site.index[1], "n", vectors, p.lanes, tail)
        taps = product(g.kernel)
        if self.b is not None:
            w.line(f"const {self.c} *const b = {self.b} + n * {taps};")
            w.line("(void)b;")
        with w.loop("oy", "top_line", "end_line"):
            w.line(f"const int64_t y = oy * {g.strides[1]} - {fn.dim(g.before[1])};")
            w.line("(void)y;")
            first, last = taps_in_range(fn, w, g, 1, "y")
            self.count_of[1] = self.counted(w, 1, "y", (first, last))
            start = affine([("y", g.x_space[1]), ("n", g.x_channel)], fn.params)
            w.line(f"const {self.c} *const line = picture + {start};")
            w.line("(void)line;")
            known = line_variables(g, p.site.index, (None, "oy", None))
            inside = lanes.child(known, w.section())
            self.start_sums(w)
            everywhere = ("0", str(g.kernel[1]))
            if (first, last) == everywhere and p.unroll_lines:
                self.line(w, inside, None)
            elif p.unroll_lines:
                with w.block(f"if ({first} == 0 && {last} == {g.kernel[1]})"):
                    self.line(w, inside, None)
                with w.block("else"):
                    self.line(w, inside, (first, last))
            else:
                self.line(w, inside, (first, last))
            self.store_sums(w, inside)

    def start_sums(self, w: Writer) -> None:
        for k in range(len(self.p.site.line_sums)):
            names = ", ".join(f"{line_sum(k, v)} = {{0}}" for v in range(self.vectors))
            w.line(f"{vector_type(self.p.dtype)} {names};")

    def store_sums(self, w: Writer, lanes: Lanes) -> None:
        """The sums of a line, which is computed from left to right wherever threads meet: the same bits every time."""
        site = self.p.site
        index = (*site.index[:-1], Const(0, I64))
        for k, (t, _) in enumerate(site.line_sums):
            view = site.view(t)
            for v in range(self.vectors):
                lanes[v].child({}, w).store(view, access(view, index), line_sum(k, v))

    # ------------------------------------------------------------------ one line

    def line(self, w: Writer, lanes: Lanes, lines: tuple[str, str] | None) -> None:
        """One output line; `lines` = range of the window's lines that exist, None when all do."""
        p = self.p
        if not p.unroll_pixels:
            with w.loop("ox", "0", self.fn.dim(self.g.out[2])):
                self.pixel(w, lanes, lines)
            return
        spans = p.spans()
        if spans is None:
            self.unknown_line(w, lanes, lines)
            return
        for span in spans:
            if span.stop - span.start == span.width:
                with w.block():
                    w.line(f"const int64_t ox = {span.start};")
                    w.line("(void)ox;")
                    self.tile(w, lanes, lines, span.width, span.columns)
            else:
                with w.loop("ox", str(span.start), str(span.stop), str(span.width)):
                    self.tile(w, lanes, lines, span.width, span.columns)

    def unknown_line(self, w: Writer, lanes: Lanes, lines: tuple[str, str] | None) -> None:
        """Tiles where the whole window is inside, single pixels elsewhere."""
        p, g, fn = self.p, self.g, self.fn
        pad, size, out = fn.dim(g.before[2]), fn.dim(g.size[2]), fn.dim(g.out[2])
        step = g.strides[2]
        w.line(f"const int64_t begin = gf_min64({out}, ({pad} + {step - 1}) / {step});")
        w.line(f"const int64_t room = {size} + {pad} - {g.extent(2)};")
        w.line(f"const int64_t end = room < 0 ? begin : gf_clamp64(room / {step} + 1, begin, {out});")
        w.line("int64_t ox = 0;")
        with w.block("for (; ox < begin; ++ox)"):
            self.pixel(w, lanes, lines)
        with w.block(f"for (; ox + {p.pixels} <= end; ox += {p.pixels})"):
            self.tile(w, lanes, lines, p.pixels, None)
        with w.block(f"for (; ox < {out}; ++ox)"):
            self.pixel(w, lanes, lines)

    # ------------------------------------------------------------------ tiles

    def tile(
        self, w: Writer, lanes: Lanes, lines: tuple[str, str] | None, pixels: int, columns: frozenset[int] | None
    ) -> None:
        """`pixels` output pixels from ox on, the window's columns written out."""
        g = self.g
        self.start(w, pixels)
        origin = f"(ox * {g.strides[2]} - {self.fn.dim(g.before[2])})"
        with self.over_planes(w):
            if lines is None:
                for ky in range(g.kernel[1]):
                    with w.block():
                        self.line_of_taps(w, str(ky), origin, pixels, columns)
            else:
                with w.loop("ky", *lines):
                    self.line_of_taps(w, "ky", origin, pixels, columns)
        counts = [self.columns_counted(w, pixel, columns) for pixel in range(pixels)]
        self.finish(w, lanes, counts)

    def line_of_taps(self, w: Writer, ky: str, origin: str, pixels: int, columns: frozenset[int] | None) -> None:
        p, g, fn = self.p, self.g, self.fn
        users = column_users(g, pixels, columns)
        if not users:
            return
        w.line(f"const {self.c} *q = line + {self.tap_place(ky, origin)};")
        if self.b is not None:
            plane = f"(kz * {g.kernel[1]} + {ky})" if g.kernel[0] > 1 else ky
            width = self.vectors * p.lanes
            w.line(f"const {self.c} *f = b + {plane} * {g.kernel[2] * width};")
            for kx in sorted({kx for group in users.values() for _, kx in group}):
                for v in range(self.vectors):
                    offset = kx * width + v * p.lanes
                    w.line(f"const {vector_type(p.dtype)} w{kx}_{v} = gf_load_{self.name}(f + {offset});")
        for j, group in users.items():
            for v in range(self.vectors):
                steps = [p.fold.step(f"c{pixel}_{v}", "s", f"w{kx}_{v}", p.dtype) for pixel, kx in group]
                source = f"q + {times(j, g.x_space[2], fn.params)}"
                w.line(f"{{ const {vector_type(p.dtype)} s = {self.load(source, v)}; {' '.join(steps)} }}")

    def pixel(self, w: Writer, lanes: Lanes, lines: tuple[str, str] | None) -> None:
        """One output pixel from ox on, taps as loops over those that exist."""
        p, g, fn = self.p, self.g, self.fn
        w.line(f"const int64_t column = ox * {g.strides[2]} - {fn.dim(g.before[2])};")
        first, last = taps_in_range(fn, w, g, 2, "column")
        self.start(w, 1)
        with self.over_planes(w), w.loop("ky", *(lines or ("0", str(g.kernel[1])))), w.loop("kx", first, last):
            place = self.tap_place("ky", f"(column + kx * {g.dilations[2]})")
            w.line(f"const {self.c} *q = line + {place};")
            if self.b is not None:
                plane = f"(kz * {g.kernel[1]} + ky)" if g.kernel[0] > 1 else "ky"
                w.line(f"const {self.c} *f = b + ({plane} * {g.kernel[2]} + kx) * {self.vectors * p.lanes};")
            for v in range(self.vectors):
                weight = f"gf_load_{self.name}(f + {v * p.lanes})"
                w.line(p.fold.step(f"c0_{v}", self.load("q", v), weight, p.dtype))
        self.finish(w, lanes, [self.counted(w, 2, "column", (first, last))])

    def tap_place(self, ky: str, column: str) -> str:
        """C text of the distance of a tap in plane kz from the line pointer."""
        g = self.g
        plane: Dim = mul(g.dilations[0], g.x_space[0]) if g.kernel[0] > 1 else 0
        terms: list[tuple[str, Dim]] = [("kz", plane), (ky, mul(g.dilations[1], g.x_space[1])), (column, g.x_space[2])]
        return affine(terms, self.fn.params)

    def over_planes(self, w: Writer) -> AbstractContextManager[None]:
        """The loop over the window's planes, where there are several."""
        if self.g.kernel[0] > 1:
            return w.loop("kz", *self.planes)
        return w.block(f"if ({self.planes[0]} < {self.planes[1]})") if self.planes != ("0", "1") else w.block()

    def start(self, w: Writer, pixels: int) -> None:
        for pixel in range(pixels):
            names = ", ".join(f"c{pixel}_{v} = {self.p.fold.start(self.p.dtype)}" for v in range(self.vectors))
            w.line(f"{vector_type(self.p.dtype)} {names};")

    def load(self, pointer: str, v: int) -> str:
        p, g = self.p, self.g
        place = pointer if v == 0 else f"{pointer} + {times(v * p.lanes, g.x_channel, self.fn.params)}"
        part = f", {self.tail}" if self.tail and v == self.vectors - 1 else ""
        kind = "_part" if part else ""
        if g.x_channel == 1:
            return f"gf_load{kind}_{self.name}({place}{part})"
        return f"gf_loads{kind}_{self.name}({place}, {self.fn.dim(g.x_channel, 's')}{part})"

    # ------------------------------------------------------------------ how many taps count

    def counted(self, w: Writer, axis: int, origin: str, inside: tuple[str, str]) -> str:
        """C text of the number of taps along an axis that count for a window whose first tap is at `origin`."""
        counts = self.p.fold.counts
        if counts == "padded":
            return taps_with_padding(self.fn, w, self.g, axis, origin)
        return f"({inside[1]} - {inside[0]})" if counts == "inside" else "1"

    def columns_counted(self, w: Writer, pixel: int, columns: frozenset[int] | None) -> str:
        """The same along a line, for one pixel of a tile."""
        g, counts = self.g, self.p.fold.counts
        if counts == "padded":
            w.line(f"const int64_t column{pixel} = (ox + {pixel}) * {g.strides[2]} - {self.fn.dim(g.before[2])};")
            w.line(f"(void)column{pixel};")
            return taps_with_padding(self.fn, w, g, 2, f"column{pixel}")
        reach = [pixel * g.strides[2] + kx * g.dilations[2] for kx in range(g.kernel[2])]
        return str(sum(columns is None or j in columns for j in reach))

    def finish(self, w: Writer, lanes: Lanes, counts: Sequence[str]) -> None:
        """Store `len(counts)` pixels; counts = taps that count along the line, for each."""
        p, g = self.p, self.g
        for pixel, count in enumerate(counts):
            taps = " * ".join(x for x in (*self.count_of, count) if x != "1") or "1"
            for v in range(self.vectors):
                name = f"c{pixel}_{v}"
                value = p.fold.finish(w, name, taps, p.dtype)
                if value != name:
                    w.line(f"{name} = {value};")
        axis = g.axes[2]
        assert axis is not None
        finish_tile(p.site, w, lanes, Tile(len(counts), self.vectors), lambda m: {p.site.index[axis]: f"(ox + {m})"})
