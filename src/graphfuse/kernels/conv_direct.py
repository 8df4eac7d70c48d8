"""Direct convolution: any window, stride, dilation, groups and padding."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np

from graphfuse.codegen.writer import Writer
from graphfuse.graph.dims import Dim, add, estimate, mul, product
from graphfuse.graph.dtypes import item_bytes
from graphfuse.plan.site import ContractionSite, KernelCode, Lines
from graphfuse.target import Target

from .function import Function
from .implicit import ImplicitPlan, ImplicitWriter
from .tile import Lanes, Tile, with_weights
from .window import geometry, lines_of, refusal, taps_in_range


class ConvDirect:
    """`conv_direct`: any convolution with constant weights."""

    name = "conv_direct"
    error_class = "reassociated"
    in_place = True

    def accepts(self, site: ContractionSite, target: Target) -> str | None:
        return refusal(site, "conv")

    def cost(self, site: ContractionSite, target: Target) -> float:
        """Microseconds on one thread: padded multiply-adds at 80 % of two vectors a cycle and 3 GHz, the weights where
        they take longer, and the copies."""
        p = DirectPlan(site, target)
        g = p.g
        columns = g.groups * -(-p.group_out // p.lanes) * p.lanes
        products = estimate(product([g.lines, g.out[2], columns, p.k]))
        lanes = target.lanes * 4 / item_bytes(p.dtype)
        copied = 0.0 if p.direct else estimate(product([g.batch, *g.size, g.channels])) / 8e3
        weights = columns * p.k * item_bytes(p.dtype)
        return with_weights(products / (0.8 * 2 * lanes * 3e3), weights) + copied + 1.0

    def lines(self, site: ContractionSite, target: Target) -> Lines | None:
        """Rows are output lines."""
        return lines_of(site)

    def emit(self, site: ContractionSite, target: Target, any_rows: bool = False) -> KernelCode:
        p = DirectPlan(site, target)
        fn = Function(site, site.index[1])
        DirectWriter(p, fn).write(fn.body)
        return p.code(fn, product([p.g.lines, p.g.out[2], p.g.out_channels, p.k]))


class DirectPlan(ImplicitPlan):
    name = "conv_direct"

    def __init__(self, site: ContractionSite, target: Target) -> None:
        g = geometry(site)
        self.direct = g.x_channel == 1 and isinstance(g.x_space[2], int) and not g.is_padded(2)
        super().__init__(site, target)

    pixel_step = 1

    def tile_runs(self) -> list[Dim]:
        return [self.g.out[2]]

    @property
    def pixels(self) -> Dim:
        out = self.segment or self.g.out[2]
        return add(mul(add(out, -1), self.g.strides[2]), self.g.extent(2))

    def lines_under(self, lines: int) -> int:
        return (lines - 1) * self.g.strides[1] + self.g.extent(1)

    @property
    def pixel_stride(self) -> int:
        stride = self.g.x_space[2] if self.direct else self.g.channels
        assert isinstance(stride, int)
        return stride

    def taps_by_channels(self, weights: np.ndarray) -> list[np.ndarray]:
        # (O, C, taps...) -> per group (taps, C) by O
        parts = np.split(weights, self.g.groups)
        return [np.moveaxis(part, 1, -1).reshape(part.shape[0], -1).T for part in parts]


class DirectWriter(ImplicitWriter):
    def input_range(self, w: Writer) -> None:
        g, fn = self.g, self.fn
        before = fn.dim(g.before[1])
        last = f"(end_line - 1) * {g.strides[1]} - {before} + {g.extent(1)}"
        w.line(f"const int64_t top = gf_max64(0, top_line * {g.strides[1]} - {before});")
        w.line(f"const int64_t bottom = gf_min64({fn.dim(g.size[1])}, {last});")
        w.line(f"const int64_t first_pixel = {self.line_range[0]} * {g.strides[2]} - {fn.dim(g.before[2])};")

    @contextmanager
    def planes(self, w: Writer) -> Iterator[None]:
        with self.taps(w, 0, "kz", "oz", "iz"):
            yield

    @contextmanager
    def window_lines(self, w: Writer) -> Iterator[None]:
        with self.taps(w, 1, "ky", "oy", "iy"):
            yield

    @contextmanager
    def taps(self, w: Writer, axis: int, tap: str, output: str, input_: str) -> Iterator[None]:
        """Loop over the taps of an axis that lie inside the image."""
        g, fn = self.g, self.fn
        origin = w.let("int64_t", f"{output} * {g.strides[axis]} - {fn.dim(g.before[axis])}", "origin")
        first, last = taps_in_range(fn, w, g, axis, origin)
        with w.loop(tap, first, last):
            w.line(f"const int64_t {input_} = {origin} + {tap} * {g.dilations[axis]};")
            w.line(f"(void){input_};")
            yield

    def line(self, w: Writer, lanes: Lanes, vectors: int) -> None:
        start, stop = self.line_range
        w.line(f"int64_t ox = {start};")
        for height in self.p.variants:
            with w.block(f"for (; ox + {height} <= {stop}; ox += {height})"):
                self.tile(w, lanes, Tile(height, vectors))

    def tile(self, w: Writer, lanes: Lanes, tile: Tile) -> None:
        p, g = self.p, self.g
        per_line = g.kernel[2] * p.group_in * tile.vectors * p.lanes
        row_stride = g.strides[2] * p.pixel_stride
        pixel = "(ox - left)" if p.segment and not p.direct else "ox"
        self.declare(w, tile)
        with self.planes(w), self.window_lines(w):
            w.line(f"const {self.c} *x = {self.input_at([(pixel, row_stride)])};")
            w.line(f"const {self.c} *weights = b + (kz * {g.kernel[1]} + ky) * {per_line};")
            if g.dilations[2] == 1 and p.pixel_stride == p.group_in:
                self.multiply(w, tile, g.kernel[2] * p.group_in, row_stride)
            else:
                with w.loop("kx", "0", str(g.kernel[2])):
                    self.multiply(w, tile, p.group_in, row_stride)
                    w.line(f"x += {g.dilations[2] * p.pixel_stride - p.group_in};")
        self.finish(w, lanes, tile)


KERNEL = ConvDirect()
