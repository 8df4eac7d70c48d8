"""Direct convolution of bytes: any window, stride, dilation, groups and padding; sums of four products in each lane."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from graphfuse.codegen.writer import Writer
from graphfuse.graph.dims import estimate, product
from graphfuse.graph.dtypes import I8, I32
from graphfuse.plan.site import ContractionSite, KernelCode, Lines, Packed
from graphfuse.target import Target

from .conv_direct import DirectPlan, DirectWriter
from .dot import QUAD, Dot, has_instruction, products_per_cycle, quads, turned_sum
from .function import Function
from .tile import Lanes, Tile, with_weights
from .window import lines_of, refusal


class ConvI8:
    """`conv_i8`: a convolution of uint8 or int8 with constant int8 weights."""

    name = "conv_i8"
    error_class = "exact"

    def accepts(self, site: ContractionSite, target: Target) -> str | None:
        reason = refusal(site, "conv", (I32,), narrow=True)
        if reason is None and site.prim.args[1].dtype != I8:
            return "the weights are not int8"
        return reason

    def cost(self, site: ContractionSite, target: Target) -> float:
        """Microseconds on one thread: padded products at 80 % of two vector instructions a cycle and 3 GHz, the weights
        where they take longer, and the copies."""
        p = _Plan(site, target)
        g = p.g
        columns = g.groups * -(-p.group_out // p.lanes) * p.lanes
        products = estimate(product([g.lines, g.out[2], columns, p.k]))
        copied = 0.0 if p.direct else estimate(product([g.batch, *g.size, g.channels])) / 32e3
        return with_weights(products / (0.8 * products_per_cycle(target) * 3e3), columns * p.k) + copied + 1.0

    def lines(self, site: ContractionSite, target: Target) -> Lines | None:
        """Rows are output lines."""
        return lines_of(site)

    def emit(self, site: ContractionSite, target: Target, any_rows: bool = False) -> KernelCode:
        p = _Plan(site, target)
        fn = Function(site, site.index[1])
        _Writer(p, fn).write(fn.body)
        share = QUAD if has_instruction(target) else 1
        code = p.code(fn, product([p.g.lines, p.g.out[2], p.g.out_channels, -(-p.k // share)]))
        return replace(code, describe=code.describe + ", sums of bytes")


class _Plan(DirectPlan):
    name = "conv_i8"

    def __init__(self, site: ContractionSite, target: Target) -> None:
        super().__init__(replace(site, sum_block=0), target)  # sums are exact in any order
        self.dtype = site.prim.args[0].dtype
        self.dot = Dot(self.dtype, target)
        kernel = self.g.kernel
        # Bytes next to each other under a line of the window: of all its taps, or of one after another.
        joined = self.g.dilations[2] == 1 and self.pixel_stride == self.group_in
        self.runs, self.run = (1, kernel[2] * self.group_in) if joined else (kernel[2], self.group_in)
        self.line_bytes = self.dot.head + self.runs * -(-self.run // QUAD) * QUAD
        self.k = kernel[0] * kernel[1] * self.line_bytes  # bytes of packed weights for each channel out

    @property
    def lane_bytes(self) -> int:
        return QUAD

    def packed(self) -> Packed:
        vectors, lanes, runs, run = self.tile.vectors, self.lanes, self.runs, self.run
        start = turned_sum(self.target) if self.dot.turned else 0
        matrices, width = self.taps_by_channels, self.tile.vectors * self.lanes
        lines = self.g.kernel[0] * self.g.kernel[1]

        def arrange(weights: np.ndarray) -> np.ndarray:
            parts = []
            for matrix in matrices(weights):
                for first in range(0, matrix.shape[1], width):
                    panel = matrix[:, first : first + width]
                    parts += [_line(part, runs, run, vectors, lanes, start) for part in np.split(panel, lines)]
            return np.concatenate(parts).view(self.dtype.numpy())

        key = f"conv_i8 {self.g.groups} groups, panels of {vectors}x{lanes}, {runs} runs of {run}, {start}"
        return Packed(self.site.prim.args[1], arrange, self.dtype, key)


def _line(part: np.ndarray, runs: int, run: int, vectors: int, lanes: int, start: int) -> np.ndarray:
    """The weights of one line of the window, (runs * run, channels out): what sums start with, then run by run."""
    packed = [quads(p, vectors, lanes) for p in np.split(part, runs)]
    if start:
        sums = np.zeros(-(-part.shape[1] // lanes) * lanes, np.int32)
        sums[: part.shape[1]] = part.astype(np.int32).sum(0, dtype=np.int32) * np.int32(start)
        packed = [sums.view(np.int8), *packed]
    return np.concatenate(packed)


class _Writer(DirectWriter):
    p: _Plan

    def __init__(self, plan: _Plan, fn: Function) -> None:
        super().__init__(plan, fn)
        self.p = plan

    def tile(self, w: Writer, lanes: Lanes, tile: Tile) -> None:
        p, g = self.p, self.g
        columns = tile.vectors * p.lanes
        row_stride = g.strides[2] * p.pixel_stride
        pixel = "(ox - left)" if p.segment and not p.direct else "ox"
        for m in range(tile.rows):
            w.line(f"gf_i32 {', '.join(f'c{m}_{v} = {{0}}' for v in range(tile.vectors))};")
        with self.planes(w), self.window_lines(w):
            w.line(f"const {self.c} *x = {self.input_at([(pixel, row_stride)])};")
            w.line(f"const {self.c} *weights = b + (kz * {g.kernel[1]} + ky) * {p.line_bytes * columns};")
            if p.dot.turned:
                # Lines that the image has not are left out, and so is their share.
                p.dot.add_head(w, tile, "weights")
            with w.block() if p.runs == 1 else w.loop("kx", "0", str(p.runs)):
                p.dot.run(w, tile, self.row(row_stride), "weights", p.run, fetch=True)
                if p.runs > 1:
                    w.line(f"x += {g.dilations[2] * p.pixel_stride};")
        self.finish(w, lanes, tile)

    def row(self, stride: int) -> Callable[[int, str], str]:
        return lambda m, i: f"x + {m * stride} + {i}"


KERNEL = ConvI8()
