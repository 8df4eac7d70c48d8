"""Winograd convolution F(m x m, 3 x 3): a 3x3 convolution of stride 1 with fewer multiplications.

An output tile of m x m pixels needs an input tile of (m+2) x (m+2). Both are transformed so that the convolution is a
product at each of the (m+2)^2 positions, for which all tiles of a block and all channels are one matrix product.
The transforms follow A. Lavin and S. Gray, "Fast Algorithms for Convolutional Neural Networks" (2015), for the
interpolation points given below; the weights are transformed at compile time, in float64.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction

import numpy as np

from graphfuse.codegen.vector import Scope
from graphfuse.codegen.writer import Writer
from graphfuse.graph.dims import Dim, ceildiv, estimate, is_static, mul, product
from graphfuse.graph.dtypes import F32
from graphfuse.ops.expr import cost
from graphfuse.plan.site import ContractionSite, KernelCode, Lines, Packed
from graphfuse.target import Target

from .function import Function, affine
from .tile import (
    PREFETCH_STEP,
    Lanes,
    Tile,
    choose_tile,
    declare_accumulators,
    declare_prefetch,
    finish,
    multiply_add,
    panels,
    row_variants,
)
from .window import Geometry, geometry, line_variables, lines_of, refusal

# Finite interpolation points; infinity is the last. In pairs of opposite sign, so that the two of a pair share their
# sums. Those of F(4) were chosen for the least error: a quarter of what 0, 1, -1, 2, -2 give.
POINTS = {2: (0, 1, -1), 4: (0, Fraction(3, 4), Fraction(-3, 4), Fraction(3, 2), Fraction(-3, 2))}
_TAPS = 3
# Above this many vector instructions the outputs of a tile are finished in a loop and not in straight-line code.
_INLINE = 320

# Fewer tiles than this (of the larger size) do not fill the rows of a product.
_FEW_TILES = 12
# What memory feeds one core.
_BYTES_PER_CYCLE = 6.5

Matrix = list[list[Fraction]]


def transforms(m: int) -> tuple[Matrix, Matrix, Matrix]:
    """(output m x a, weights a x 3, input a x a) transforms of F(m, 3), a = m + 2, by Cook and Toom's construction.

    Row i of the input transform is scaled so that floats hold it exactly, its largest number from 1 to 2; the weights
    carry the factor.
    """
    points = [Fraction(p) for p in POINTS[m]]
    a = m + _TAPS - 1
    output = [[p**i for p in points] + [Fraction(int(i == m - 1))] for i in range(m)]
    weights = [[p**j for j in range(_TAPS)] for p in points] + [[Fraction(0), Fraction(0), Fraction(1)]]
    # The input transform is the transpose of interpolation: row i holds the coefficients of prod_{k != i}(x - p_k).
    data: Matrix = []
    for i, p in enumerate(points):
        others = [q for k, q in enumerate(points) if k != i]
        row = _expand(others)
        scale = Fraction(1)
        for q in others:
            scale *= p - q
        data.append([c / scale for c in row] + [Fraction(0)] * (a - len(row)))
    data.append(_expand(points))
    for i in range(a):
        whole = math.lcm(*(c.denominator for c in data[i]))
        largest = max(int(abs(c) * whole) for c in data[i])
        factor = Fraction(whole, 1 << (largest.bit_length() - 1))
        data[i] = [c * factor for c in data[i]]
        weights[i] = [c / factor for c in weights[i]]
    return output, weights, data


def _expand(roots: Sequence[Fraction]) -> list[Fraction]:
    """Coefficients of prod(x - root), lowest power first."""
    row = [Fraction(1)]
    for r in roots:
        shifted = [Fraction(0), *row]
        row = [s - r * c for s, c in zip(shifted, [*row, Fraction(0)], strict=True)]
    return row


class ConvWinograd:
    """`conv_winograd`: 3x3, stride 1, channels last in memory."""

    name = "conv_winograd"
    error_class = "winograd"

    def accepts(self, site: ContractionSite, target: Target) -> str | None:
        reason = refusal(site, "conv", (F32,))
        if reason is not None:
            return reason
        g = geometry(site)
        if g.kernel != (1, _TAPS, _TAPS) or g.axes[0] is not None:
            return f"the window is {'x'.join(map(str, site.prim.attrs.kernel))}, not 3x3"
        if g.strides != (1, 1, 1) or g.dilations != (1, 1, 1) or g.groups != 1:
            return "stride, dilation or groups"
        if g.x_channel != 1:
            return "the channels are not the innermost axis"
        if g.channels < target.lanes or g.out_channels < target.lanes:
            return "fewer channels than lanes"
        # An infinite tap would be infinity minus infinity in the transformed weights, and its whole channel NaN.
        weights = site.constants(site.prim.args[1])
        assert weights is not None, "checked by refusal()"
        if not np.isfinite(weights).all():
            return "a weight is NaN or infinite"
        return None

    def cost(self, site: ContractionSite, target: Target) -> float:
        return _Plan(site, target).cost()

    def lines(self, site: ContractionSite, target: Target) -> Lines | None:
        """Rows are output lines, a row of tiles each."""
        return lines_of(site, tile_size(geometry(site)))

    def emit(self, site: ContractionSite, target: Target) -> KernelCode:
        return _Plan(site, target).emit()


def tile_size(g: Geometry) -> int:
    """m: 4, but 2 where so few tiles of 4 would make a product of too few rows."""
    tiles = estimate(product([g.batch, ceildiv(g.out[1], 4), ceildiv(g.out[2], 4)]))
    return 4 if tiles >= _FEW_TILES else 2


class _Plan:
    """Everything decided about one convolution before it is written."""

    def __init__(self, site: ContractionSite, target: Target) -> None:
        self.site, self.target = site, target
        self.lanes = target.lanes
        g = self.g = geometry(site)
        m = self.m = tile_size(g)
        self.a = m + _TAPS - 1
        self.positions = self.a * self.a
        self.tiles_y, self.tiles_x = ceildiv(g.out[1], m), ceildiv(g.out[2], m)
        self.channels = -(-g.channels // self.lanes) * self.lanes
        self.vectors = -(-g.out_channels // self.lanes)
        self.block = self._block()
        self.tile: Tile = choose_tile(target, F32, self.block, self.vectors)
        self.width = self.tile.vectors * self.lanes
        self.panels = -(-self.vectors // self.tile.vectors)

    @property
    def tiles(self) -> Dim:
        """Tiles of one image."""
        return mul(self.tiles_y, self.tiles_x)

    def _block(self) -> int:
        """Tiles that are transformed and multiplied together: both sides stay in L2 beside a panel of weights."""
        per_tile = 4 * self.positions * (self.channels + self.vectors * self.lanes)
        most = max(4, self.target.l2 * 5 // 8 // per_tile)
        tiles = self.tiles
        whole = estimate(mul(tiles, self.g.batch)) if is_static(tiles) else most
        blocks = max(1, -(-whole // most))
        return max(1, min(most, -(-whole // blocks)))

    @property
    def input_plane(self) -> int:
        # A line more than the tiles need: planes a power of two apart would fall on the same lines of L1.
        return self.block * self.channels + self.lanes

    @property
    def output_plane(self) -> int:
        return self.block * self.panels * self.width + self.lanes

    def cost(self) -> float:
        """Microseconds on one thread at 3 GHz: the products, the transforms, and the weights, streamed for each block.

        Weights come from memory first (in a network they were last used a run ago), then from L2 or L3.
        """
        g = self.g
        tiles = estimate(mul(self.tiles, g.batch))
        blocks = -(-tiles // self.block)
        columns = self.vectors * self.lanes
        products = self.positions * tiles * g.channels * columns / (0.8 * 2 * self.lanes)
        weights = 4 * self.positions * self.channels * columns
        again = 20 if weights > self.target.l2 // 2 else 60
        streamed = weights / _BYTES_PER_CYCLE + (blocks - 1) * weights / again
        transformed = tiles * self.positions * (self.channels / self.lanes * 5.4 + self.vectors * 4.3)
        return (products + streamed + transformed) / 3e3 + 1.0

    def emit(self) -> KernelCode:
        g = self.g
        fn = Function(self.site, self.site.index[1])
        _Writer(self, fn).write(fn.body)
        size = f"f{self.m}x{self.m}"
        return KernelCode(
            hint=f"conv_winograd_{size}_f32_{self.tile.rows}x{self.width}",
            source=fn.source(),
            pointers=fn.params.pointers,
            dims=fn.params.dims,
            rows=mul(g.batch, self.tiles_y),
            work=mul(2, product([g.batch, self.tiles, self.positions, g.channels, g.out_channels])),
            columns=self.panels,
            scratch=4 * self.positions * (self.input_plane + self.output_plane),
            describe=f"winograd {size.upper()}, blocks of {self.block} tiles, {self.tile.rows}x{self.width} products",
        )

    def packed(self) -> Packed:
        _, weights, _ = transforms(self.m)
        vectors, lanes = self.tile.vectors, self.lanes

        def arrange(w: np.ndarray) -> np.ndarray:
            g = np.array(weights, np.float64)
            # (O, C, 3, 3) -> (a * a, C, O); rounded once, at the end
            taps = w.reshape(*w.shape[:2], -1).transpose(1, 0, 2).astype(np.float64)
            matrices = np.moveaxis(taps @ np.kron(g, g).T, -1, 0).astype(np.float32)
            return np.concatenate([panels(matrix, vectors, lanes) for matrix in matrices])

        return Packed(self.site.prim.args[1], arrange, F32, f"winograd F{self.m} panels of {vectors}x{lanes}")


class _Writer:
    """Writes the loops. Names in the C: t = tile of the block, s = tile of the call, at (ty, tx) of `image`."""

    def __init__(self, plan: _Plan, fn: Function) -> None:
        self.p, self.fn, self.g = plan, fn, plan.g
        site = plan.site
        self.x = fn.params.pointer(site.view(site.prim.args[0]), F32, "x")
        self.b = fn.params.pointer(plan.packed(), F32, "b")
        self.output, _, self.input = transforms(plan.m)

    def write(self, w: Writer) -> None:
        p, fn = self.p, self.fn
        across = fn.dim(p.tiles_x)
        w.line("float *const data = (float *)scratch;")
        w.line(f"float *const sums = data + {p.positions * p.input_plane};")
        with w.loop("first", f"r0 * {across}", f"r1 * {across}", str(p.block)):
            w.line(f"const int64_t count = gf_min64({p.block}, r1 * {across} - first);")
            with w.loop("t", "0", "count"):
                self._decode(w)
                self._transform_input(w)
            self._multiply(w)
            self._finish(w)

    def _decode(self, w: Writer) -> None:
        across, down = self.fn.dim(self.p.tiles_x), self.fn.dim(self.p.tiles_y)
        w.line("const int64_t s = first + t;")
        w.line(f"const int64_t image = s / {across} / {down}, ty = s / {across} % {down}, tx = s % {across};")
        w.line("(void)image;")

    # ------------------------------------------------------------------ input

    def _transform_input(self, w: Writer) -> None:
        p, g, fn = self.p, self.g, self.fn
        top, left = fn.dim(g.before[1]), fn.dim(g.before[2])
        w.line(f"const int64_t iy = ty * {p.m} - {top}, ix = tx * {p.m} - {left};")
        place = affine([("image", g.x_batch), ("iy", g.x_space[1]), ("ix", g.x_space[2])], fn.params)
        w.line(f"const float *const corner = {self.x} + ({place});")
        inside = f"iy >= 0 && ix >= 0 && iy + {p.a} <= {fn.dim(g.size[1])} && ix + {p.a} <= {fn.dim(g.size[2])}"
        w.line(f"float *const to = data + t * {p.channels};")
        full = g.channels // p.lanes * p.lanes
        with w.block(f"if ({inside})"):
            with w.loop("c", "0", str(full), str(p.lanes)):
                self._input_tile(w, "", border=False)
            self._input_tail(w, full, border=False)
        with w.block("else"):
            with w.loop("c", "0", str(full), str(p.lanes)):
                self._input_tile(w, "", border=True)
            self._input_tail(w, full, border=True)

    def _input_tail(self, w: Writer, full: int, border: bool) -> None:
        rest = self.g.channels - full
        if rest:
            with w.block():
                w.line(f"const int64_t c = {full};")
                self._input_tile(w, str(rest), border)

    def _input_tile(self, w: Writer, part: str, border: bool) -> None:
        """Load an a x a tile of one vector of channels, transform its columns, then its rows."""
        p, g, fn = self.p, self.g, self.fn
        a = p.a
        w.line(f"gf_f32 h[{a}][{a}];")
        with w.loop("j", "0", str(a)):
            names = []
            for i in range(a):
                place = affine([(str(i), g.x_space[1]), ("j", g.x_space[2])], fn.params)
                at = f"corner + {place} + c"
                load = f"gf_load_part_f32({at}, {part})" if part else f"gf_load_f32({at})"
                if border:
                    down, across = _within(f"iy + {i}", fn.dim(g.size[1])), _within("ix + j", fn.dim(g.size[2]))
                    load = f"{down} && {across} ? {load} : (gf_f32){{0}}"
                w.line(f"const gf_f32 d{i} = {load};")
                names.append(f"d{i}")
            for i, text in enumerate(combine(w, self.input, names)):
                w.line(f"h[{i}][j] = {text};")
        with w.loop("i", "0", str(a)):
            names = [f"h[i][{j}]" for j in range(a)]
            for j, text in enumerate(combine(w, self.input, names)):
                w.line(f"gf_store_f32(to + (i * {a} + {j}) * {p.input_plane} + c, {text});")

    # ------------------------------------------------------------------ products

    def _multiply(self, w: Writer) -> None:
        p = self.p
        columns = p.panels * p.width
        with w.loop("place", "0", str(p.positions)), w.loop("panel", "c0", "c1"):
            size = p.vectors * p.lanes * self.g.channels
            w.line(f"const float *const weights = {self.b} + place * {size} + panel * {p.width * self.g.channels};")
            w.line(f"const float *const from = data + place * {p.input_plane};")
            w.line(f"float *const to = sums + place * {p.output_plane} + panel * {p.width};")
            last = p.vectors - (p.panels - 1) * p.tile.vectors
            if last == p.tile.vectors:
                self._panel(w, p.tile.vectors, columns)
            else:
                with w.block(f"if (panel < {p.panels - 1})"):
                    self._panel(w, p.tile.vectors, columns)
                with w.block("else"):
                    self._panel(w, last, columns)

    def _panel(self, w: Writer, vectors: int, columns: int) -> None:
        p = self.p
        w.line("int64_t t = 0;")
        heights = self._heights()
        step = vectors * p.lanes
        tiles = f"(count + {heights[0] - 1}) / {heights[0]}"
        declare_prefetch(w, f"weights + {step * self.g.channels}", 4 * step, tiles)
        for height in heights:
            tile = Tile(height, vectors)
            with w.block(f"for (; t + {height} <= count; t += {height})"):
                declare_accumulators(w, tile, F32)
                w.line(f"const float *a = from + t * {p.channels};")
                w.line("const float *wk = weights;")
                with w.loop("k", "0", str(self.g.channels)):
                    multiply_add(w, tile, F32, lambda m: f"a[{m * p.channels}]", "wk", p.lanes)
                    w.line(f"++a, wk += {step};")
                    w.line(PREFETCH_STEP)
                for m in range(height):
                    for v in range(vectors):
                        w.line(f"gf_store_f32(to + (t + {m}) * {columns} + {v * p.lanes}, c{m}_{v});")

    def _heights(self) -> list[int]:
        p = self.p
        total = mul(p.tiles, self.g.batch)
        if isinstance(total, int) and total <= p.block:
            return sorted({*row_variants(total, p.tile.rows), *_halves(p.tile.rows)}, reverse=True)
        return sorted({*row_variants(p.block, p.tile.rows), *_halves(p.tile.rows)}, reverse=True)

    # ------------------------------------------------------------------ output

    def _finish(self, w: Writer) -> None:
        """Transform the sums of each tile back, and store its pixels through the epilogue."""
        p, site = self.p, self.p.site
        tail = self.g.out_channels % p.lanes
        full = self.g.out_channels // p.lanes * p.lanes
        root = self.fn.root
        w.line(f"const int64_t n_first = c0 * {p.width}, n_end = gf_min64({full}, c1 * {p.width});")
        with w.loop("n", "n_first", "n_end", str(p.lanes)):
            self._finish_vector(w, Lanes.of_panel(root, w.section(), site.index[1], "n", 1, p.lanes)[0])
        if tail:
            with w.block(f"if (c1 == {p.panels})"):
                w.line(f"const int64_t n = {full};")
                self._finish_vector(w, Lanes.of_panel(root, w.section(), site.index[1], "n", 1, p.lanes, tail)[0])

    def _finish_vector(self, w: Writer, scope: Scope) -> None:
        p = self.p
        a, m = p.a, p.m
        with w.loop("t", "0", "count"):
            self._decode(w)
            w.line(f"const int64_t oy = ty * {m}, ox = tx * {m};")
            w.line(f"const float *const from = sums + t * {p.panels * p.width} + n;")
            w.line(f"gf_f32 h[{m}][{a}], y[{m}][{m}];")
            with w.loop("j", "0", str(a)):
                names = []
                for i in range(a):
                    w.line(f"const gf_f32 s{i} = gf_load_f32(from + ({i * a} + j) * {p.output_plane});")
                    names.append(f"s{i}")
                for i, text in enumerate(combine(w, self.output, names)):
                    w.line(f"h[{i}][j] = {text};")
            with w.loop("i", "0", str(m)):
                for j, text in enumerate(combine(w, self.output, [f"h[i][{j}]" for j in range(a)])):
                    w.line(f"y[i][{j}] = {text};")
            self._store(w, scope)

    def _store(self, w: Writer, scope: Scope) -> None:
        p, g = self.p, self.g
        m = p.m

        def place(i: str, j: str) -> Scope:
            lines = line_variables(g, p.site.index, (None, f"(oy + {i})", f"(ox + {j})"))
            return scope.child({p.site.index[0]: "image"} | lines, writer=w)

        outside = [not (isinstance(size, int) and size % m == 0) for size in g.out[1:]]
        work = sum(cost(e) + 1 for _, e in p.site.outputs) * m * m
        if work <= _INLINE and not any(outside):
            for i in range(m):
                for j in range(m):
                    finish(p.site, place(str(i), str(j)), f"y[{i}][{j}]")
            return
        rows = f"gf_min64({m}, {self.fn.dim(g.out[1])} - oy)" if outside[0] else str(m)
        columns = f"gf_min64({m}, {self.fn.dim(g.out[2])} - ox)" if outside[1] else str(m)
        with w.loop("i", "0", rows), w.loop("j", "0", columns):
            finish(p.site, place("i", "j"), "y[i][j]")


def _within(position: str, size: str) -> str:
    return f"{position} >= 0 && {position} < {size}"


def _halves(rows: int) -> list[int]:
    found = []
    while rows:
        found.append(rows)
        rows //= 2
    return found


def combine(w: Writer, matrix: Matrix, names: Sequence[str]) -> list[str]:
    """C text of matrix times the vector of registers; two rows that differ in signs only share their sums."""
    texts: list[str] = []
    done = 0
    while done < len(matrix):
        row = matrix[done]
        following = matrix[done + 1] if done + 1 < len(matrix) else None
        pair = following is not None and all(abs(x) == abs(y) for x, y in zip(row, following, strict=True))
        if not pair or following is None:
            texts.append(_sum(row, names))
            done += 1
            continue
        same = [c if c == d else Fraction(0) for c, d in zip(row, following, strict=True)]
        other = [c if c == -d else Fraction(0) for c, d in zip(row, following, strict=True)]
        even, odd = w.let("gf_f32", _sum(same, names), "even"), w.let("gf_f32", _sum(other, names), "odd")
        texts += [f"{even} + {odd}", f"{even} - {odd}"]
        done += 2
    return texts


def _sum(row: Sequence[Fraction], names: Sequence[str]) -> str:
    parts: list[str] = []
    for c, name in zip(row, names, strict=True):
        if c == 0:
            continue
        sign = "-" if c < 0 else "+" if parts else ""
        factor = "" if abs(c) == 1 else f"gf_splat_f32({float(abs(c))!r}f) * "
        parts.append(f"{sign} {factor}{name}" if parts else f"{sign}{factor}{name}")
    return " ".join(parts) or "(gf_f32){0}"


KERNEL = ConvWinograd()
