"""Convolution to few channels: lanes run along the window, over taps and input channels, not over output channels.

The taps of a line of the window are one contiguous run of the input, channels innermost, and a product with weights in
the same order. Each output element has a vector of its own to add into; at the end a block of such vectors is summed up
across lanes together. With one output channel the direct kernel leaves all lanes but one idle, this one none.
"""

from __future__ import annotations

import numpy as np

from graphfuse.codegen.vector import Scope
from graphfuse.codegen.writer import Writer
from graphfuse.graph.dims import estimate, mul, product
from graphfuse.graph.dtypes import F32
from graphfuse.plan.site import ContractionSite, KernelCode, Lines, Packed
from graphfuse.target import Target

from .conv_direct import DirectPlan, DirectWriter
from .function import Function, times
from .tile import Lanes, finish
from .window import lines_of, refusal

# Cycles that summing a block up across lanes and storing it take beside the products.
_FINISH = 40
# Vectors of a run that are written out; longer runs are loops.
_UNROLLED = 4


class ConvDot:
    """`conv_dot`: at most half as many channels out as there are lanes."""

    name = "conv_dot"
    error_class = "reassociated"

    def accepts(self, site: ContractionSite, target: Target) -> str | None:
        if (reason := refusal(site, "conv", (F32,))) is not None:
            return reason
        window = site.prim.attrs
        if window.groups != 1:
            return f"{window.groups} groups"
        if 2 * site.contraction.shape[1] > target.lanes:
            return f"{site.contraction.shape[1]} channels out: enough for the lanes"
        plan = _Plan(site, target)
        if plan.g.kernel[0] != 1 or plan.g.dilations[2] != 1:
            return "the taps of a line are not next to each other"
        if plan.run < target.lanes:
            return f"a line of the window has {plan.run} elements, fewer than lanes"
        return None

    def cost(self, site: ContractionSite, target: Target) -> float:
        """Microseconds on one thread at 3 GHz: two multiply-adds a cycle, or fewer where loads take longer."""
        p = _Plan(site, target)
        loads = 1.5 * p.pixels_per_block + p.g.out_channels  # a run may begin anywhere: every other load is two
        step = max(p.pixels_per_block * p.g.out_channels / 2, loads / 2)
        blocks = estimate(product([p.g.lines, -(-estimate(p.g.out[2]) // p.pixels_per_block)]))
        return blocks * (p.g.kernel[1] * p.run_vectors * step / 0.9 + _FINISH) / 3e3 + 1.0

    def lines(self, site: ContractionSite, target: Target) -> Lines | None:
        """Rows are output lines."""
        return lines_of(site)

    def emit(self, site: ContractionSite, target: Target, any_rows: bool = False) -> KernelCode:
        p = _Plan(site, target)
        fn = Function(site, p.lane)
        _Writer(p, fn).write(fn.body)
        window = "x".join(map(str, site.prim.attrs.kernel))
        return KernelCode(
            hint=f"conv_dot{window}_f32_{p.pixels_per_block}x{p.g.out_channels}",
            source=fn.source(),
            pointers=fn.params.pointers,
            dims=fn.params.dims,
            rows=mul(p.g.lines, p.segments),
            work=product([2, p.g.lines, p.g.out[2], p.g.out_channels, p.k]),
            scratch=p.scratch,
            describe=f"conv dot {window}, {p.pixels_per_block} pixels by {p.g.out_channels} channels, "
            f"lanes along {p.run} taps",
        )


class _Plan(DirectPlan):
    name = "conv_dot"

    def __init__(self, site: ContractionSite, target: Target) -> None:
        super().__init__(site, target)
        g = self.g
        if self.pixel_stride != g.channels:
            self.direct = False  # a run would have gaps: the lines pass through scratch
        self.run = g.kernel[2] * g.channels
        self.run_vectors = -(-self.run // self.lanes)
        self.pixels_per_block = self.lanes // g.out_channels
        # With one channel the vector of sums holds pixels, with more the channels of one pixel after another.
        axis = g.axes[2]
        assert axis is not None
        self.lane = site.index[axis if g.out_channels == 1 else 1]

    def packed(self) -> Packed:
        lanes, vectors, run = self.lanes, self.run_vectors, self.run

        def arrange(weights: np.ndarray) -> np.ndarray:
            # (O, C, taps...) -> (lines of taps, vectors of the run, O, lanes), zeros behind the run
            out = weights.shape[0]
            lines = np.moveaxis(weights, 1, -1).reshape(out, -1, run)
            padded = np.zeros((out, lines.shape[1], vectors * lanes), weights.dtype)
            padded[:, :, :run] = lines
            return np.moveaxis(padded.reshape(out, -1, vectors, lanes), 0, 2).copy()

        return Packed(self.site.prim.args[1], arrange, self.dtype, f"conv_dot runs of {vectors}x{lanes}")


class _Writer(DirectWriter):
    """Names in the C: c{m}_{o} = the sums of pixel m of the block and channel o, one in each lane."""

    p: _Plan

    def __init__(self, plan: _Plan, fn: Function) -> None:
        super().__init__(plan, fn)
        self.p = plan

    def panels(self, w: Writer, scope: Scope) -> None:
        """All lines of the strip, for the only panel."""
        pixels = self.p.pixels_per_block
        w.line(f"const {self.c} *const b = {self.b};")
        start, stop = self.line_range
        with w.loop("oy", "top_line", "end_line"), w.loop("ox", start, stop, str(pixels)):
            w.line(f"const int64_t count = gf_min64({pixels}, {stop} - ox);")
            with w.block(f"if (count == {pixels})"):
                self.block(w, pixels)
            with w.block("else"):
                self.short_block(w)

    def short_block(self, w: Writer) -> None:
        """What is left of a line, a pixel at a time."""
        with w.loop("left_over", "0", "count"):
            w.line("const int64_t first_left = ox + left_over;")
            with w.block():
                w.line("const int64_t ox = first_left;")
                self.block(w, 1)

    def block(self, w: Writer, pixels: int) -> None:
        p, g = self.p, self.g
        names = [f"c{m}_{o}" for m in range(pixels) for o in range(g.out_channels)]
        for m in range(pixels):
            w.line("gf_f32 " + ", ".join(f"c{m}_{o} = {{0}}" for o in range(g.out_channels)) + ";")
        with self.planes(w), self.window_lines(w):
            pixel = "(ox - left)" if p.segment and not p.direct else "ox"
            w.line("const int64_t channel_in = 0;")
            w.line(f"const float *x = {self.input_at([(pixel, g.strides[2] * p.pixel_stride)])};")
            w.line(f"const float *weights = b + ky * {p.run_vectors * g.out_channels * p.lanes};")
            self.multiply_run(w, pixels)
        rest = p.lanes - len(names)
        w.line(f"gf_f32 sums[GF_W] = {{{', '.join(names)}{', {0}' if rest else ''}}};")
        w.line("float of_pixel[GF_W + GF_W];")
        w.line("gf_store_f32(of_pixel, gf_sums_f32(sums));")
        self.finish_block(w, pixels)

    def multiply_run(self, w: Writer, pixels: int) -> None:
        p = self.p
        whole, rest = divmod(p.run, p.lanes)
        step = p.lanes * self.g.out_channels
        if whole > _UNROLLED:
            with w.loop("k", "0", str(whole)):
                self.step(w, pixels, "")
                w.line(f"x += {p.lanes}, weights += {step};")
        else:
            for _ in range(whole):
                self.step(w, pixels, "")
                w.line(f"x += {p.lanes}, weights += {step};")
        if rest:
            self.step(w, pixels, str(rest))

    def step(self, w: Writer, pixels: int, part: str) -> None:
        """One vector of the run of every pixel, times that of every channel's weights; `part`: its elements."""
        p, g = self.p, self.g
        apart = g.strides[2] * p.pixel_stride
        with w.block():
            for o in range(g.out_channels):
                w.line(f"const gf_f32 w{o} = gf_load_f32(weights + {o * p.lanes});")
            for m in range(pixels):
                at = f"x + {times(m, apart, self.fn.params)}" if m else "x"
                load = f"gf_load_part_f32({at}, {part})" if part else f"gf_load_f32({at})"
                adds = " ".join(f"c{m}_{o} += v * w{o};" for o in range(g.out_channels))
                w.line(f"{{ const gf_f32 v = {load}; {adds} }}")

    def finish_block(self, w: Writer, pixels: int) -> None:
        """The epilogue: with one channel on a vector of pixels, else on the channels of each pixel."""
        p, g, site = self.p, self.g, self.p.site
        channels = g.out_channels
        axis = g.axes[2]
        assert axis is not None
        lines = {site.index[0]: "image"}
        if g.axes[0] is not None:
            lines[site.index[g.axes[0]]] = "oz"
        if g.axes[1] is not None:
            lines[site.index[g.axes[1]]] = "oy"
        if channels == 1:
            known = {**lines, site.index[1]: "0", site.index[axis]: "ox"}
            count = None if pixels == p.lanes else str(pixels)
            scope = self.fn.root.child(known, writer=w, count=count)
            finish(site, scope, w.let("gf_f32", "gf_load_f32(of_pixel)", "sum"))
            return
        with w.loop("m", "0", str(pixels)):
            known = {**lines, site.index[axis]: "(ox + m)"}
            lanes = Lanes.of_panel(self.fn.root.child(known, writer=w), w, site.index[1], "0", 1, p.lanes, channels)
            finish(site, lanes[0], w.let("gf_f32", f"gf_load_part_f32(of_pixel + m * {channels}, {channels})", "sum"))


KERNEL = ConvDot()
