"""Transposed convolution, phase by phase: output pixels a stride apart take the same taps of neighbouring inputs.

So each phase of a line is a small direct convolution of stride 1, and nothing is multiplied by the zeros that a
scattered input would have.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np

from graphfuse.codegen.writer import Writer
from graphfuse.graph.dims import Dim, add, ceildiv, estimate, floordiv, mul, product
from graphfuse.graph.dtypes import item_bytes
from graphfuse.plan.site import ContractionSite, KernelCode, Lines
from graphfuse.target import Target

from .function import Function
from .implicit import ImplicitPlan, ImplicitWriter
from .tile import Lanes, Tile
from .window import refusal


class ConvTranspose:
    """`conv_transpose`: any transposed convolution with constant weights."""

    name = "conv_transpose"
    error_class = "reassociated"
    in_place = True

    def accepts(self, site: ContractionSite, target: Target) -> str | None:
        return refusal(site, "conv_transpose")

    def cost(self, site: ContractionSite, target: Target) -> float:
        """Microseconds on one thread: multiply-adds at 60 % of two vectors a cycle and 3 GHz, and the copies."""
        p = _Plan(site, target)
        columns = p.g.groups * -(-p.group_out // p.lanes) * p.lanes
        lanes = target.lanes * 4 / item_bytes(p.dtype)
        products = estimate(mul(p.products, columns)) / p.g.out_channels
        return products / (0.6 * 2 * lanes * 3e3) + estimate(product([*p.g.size, p.g.channels])) / 8e3 + 1.0

    def lines(self, site: ContractionSite, target: Target) -> Lines | None:
        """Its rows are not lines of one output after the other."""
        return None

    def emit(self, site: ContractionSite, target: Target, any_rows: bool = False) -> KernelCode:
        p = _Plan(site, target)
        fn = Function(site, site.index[1])
        _Writer(p, fn).write(fn.body)
        return p.code(fn, p.products)


class _Plan(ImplicitPlan):
    name = "conv_transpose"

    @property
    def pixel_step(self) -> int:
        return self.g.strides[2]

    @property
    def products(self) -> Dim:
        """Multiply-adds: every input pixel times every tap."""
        return product([self.g.batch, *self.g.size, self.k, self.g.out_channels])

    def tile_runs(self) -> list[Dim]:
        out, step = self.g.out[2], self.g.strides[2]
        if not isinstance(out, int):
            return [ceildiv(out, step)]
        # Every phase that has pixels: the first ones may have one more than the last.
        return sorted({-(-(out - phase) // step) for phase in range(min(step, out))}, reverse=True)

    @property
    def pixels(self) -> Dim:
        # One more than a segment's share: its first pixel rounds down.
        out = self.segment or self.g.out[2]
        first = floordiv(add(self.g.before[2], 1 - self.g.extent(2)), self.g.strides[2])
        last = floordiv(add(add(out, -1), self.g.before[2]), self.g.strides[2])
        return add(add(last, mul(-1, first)), 1)

    def lines_under(self, lines: int) -> int:
        return (lines - 1 + self.g.extent(1) - 1) // self.g.strides[1] + 1

    def taps_by_channels(self, weights: np.ndarray) -> list[np.ndarray]:
        # (C, O, taps...) -> per group (taps, C) by O
        parts = np.split(weights, self.g.groups)
        return [np.moveaxis(part, (0, 1), (-2, -1)).reshape(-1, part.shape[1]) for part in parts]


class _Writer(ImplicitWriter):
    def input_range(self, w: Writer) -> None:
        g, fn = self.g, self.fn
        before, step = fn.dim(g.before[1]), g.strides[1]
        first = f"gf_floordiv(top_line + {before} - {g.extent(1) - 1} + {step - 1}, {step})"
        w.line(f"const int64_t top = gf_max64(0, {first});")
        w.line(f"const int64_t bottom = gf_min64({fn.dim(g.size[1])}, (end_line - 1 + {before}) / {step} + 1);")
        start = f"{self.line_range[0]} + {fn.dim(g.before[2])} - {g.extent(2) - 1}"
        w.line(f"const int64_t first_pixel = gf_floordiv({start}, {g.strides[2]});")

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
        """Loop over the taps of an axis that an input position meets."""
        g, fn = self.g, self.fn
        step = g.strides[axis]
        with w.loop(tap, "0", str(g.kernel[axis])):
            at = w.let("int64_t", f"{output} + {fn.dim(g.before[axis])} - {tap} * {g.dilations[axis]}", "at")
            misses = f" || {at} % {step} != 0" if step > 1 else ""
            w.line(f"if ({at} < 0{misses} || {at} / {step} >= {fn.dim(g.size[axis])}) continue;")
            w.line(f"const int64_t {input_} = {at} / {step};")
            w.line(f"(void){input_};")
            yield

    def line(self, w: Writer, lanes: Lanes, vectors: int) -> None:
        p, g = self.p, self.g
        start, stop = self.line_range
        step = g.strides[2]
        with w.loop("phase", "0", str(step)):
            w.line(f"int64_t ox = {start} + phase;")
            for height in p.variants:
                reach = (height - 1) * step
                with w.block(f"for (; ox + {reach} < {stop}; ox += {height * step})"):
                    self.tile(w, lanes, Tile(height, vectors))

    def tile(self, w: Writer, lanes: Lanes, tile: Tile) -> None:
        p, g, fn = self.p, self.g, self.fn
        step = g.strides[2]
        width = tile.vectors * p.lanes
        self.declare(w, tile)
        with self.planes(w), self.window_lines(w), w.loop("kx", "0", str(g.kernel[2])):
            w.line(f"const int64_t at = ox + {fn.dim(g.before[2])} - kx * {g.dilations[2]};")
            if step > 1:
                w.line(f"if (gf_floormod(at, {step}) != 0) continue;")
            pixel = f"(gf_floordiv(at, {step}) - first_pixel)"
            w.line(f"const {self.c} *x = {self.input_at([(pixel, p.pixel_stride)])};")
            tap = f"((kz * {g.kernel[1]} + ky) * {g.kernel[2]} + kx)"
            w.line(f"const {self.c} *weights = b + {tap} * {p.group_in * width};")
            self.multiply(w, tile, p.group_in, p.pixel_stride)
        self.finish(w, lanes, tile)


KERNEL = ConvTranspose()
