"""Winograd convolution F(my x mx, 3 x 3): a 3x3 convolution of stride 1 or 2 with fewer multiplications.

An output tile of my x mx pixels and its input tile are transformed so that the convolution is a product at each of some
positions, (my+2) x (mx+2) for stride 1, for which all tiles of a block and all channels are one matrix product.
With my = 1 only lines are transformed, and the three taps along y stay sums of the product: fewer weights, which pays
where there are few tiles to share them. The weights are transformed at compile time, in float64.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from graphfuse.graph.dims import Dim, ceildiv, estimate, is_static, mul, product
from graphfuse.graph.dtypes import F32
from graphfuse.plan.site import ContractionSite, KernelCode, Lines, Packed
from graphfuse.target import Target

from .function import Function
from .tile import Tile, fits, panels, with_weights
from .window import Geometry, geometry, lines_of, refusal
from .winograd import identity, transforms
from .winograd_writer import WinogradWriter

TAPS = 3
# Output tiles to choose from, (lines, pixels).
SIZES = ((4, 4), (2, 4), (2, 2), (1, 2))
STRIDES = ((1, 1), (2, 2))


class ConvWinograd:
    """`conv_winograd`: 3x3, stride 1 or 2, channels last in memory."""

    name = "conv_winograd"
    error_class = "winograd"
    in_place = True

    def __init__(self, sizes: Sequence[tuple[int, int]] = SIZES) -> None:
        self._sizes = sizes

    def plan(self, site: ContractionSite, target: Target) -> WinogradPlan:
        """The size of tiles that costs least."""
        g = geometry(site)
        lines_only = isinstance(g.out[2], int) and g.strides[1] == 1
        sizes = [size for size in self._sizes if lines_only or size[0] > 1]
        return min((WinogradPlan(site, target, size) for size in sizes), key=WinogradPlan.cost)

    def accepts(self, site: ContractionSite, target: Target) -> str | None:
        reason = refusal(site, "conv", (F32,))
        if reason is not None:
            return reason
        g = geometry(site)
        if g.kernel != (1, TAPS, TAPS) or g.axes[0] is not None:
            return f"the window is {'x'.join(map(str, site.prim.attrs.kernel))}, not 3x3"
        if g.strides[1:] not in STRIDES or g.dilations != (1, 1, 1) or g.groups != 1:
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
        return self.plan(site, target).cost()

    def lines(self, site: ContractionSite, target: Target) -> Lines | None:
        """Rows are output lines, a row of tiles each."""
        return lines_of(site, self.plan(site, target).my)

    def emit(self, site: ContractionSite, target: Target, any_rows: bool = False) -> KernelCode:
        return self.plan(site, target).emit()


class WinogradPlan:
    """Everything decided about one convolution and size of tiles before it is written."""

    def __init__(self, site: ContractionSite, target: Target, size: tuple[int, int]) -> None:
        self.site, self.target = site, target
        self.lanes = target.lanes
        g: Geometry = geometry(site)
        self.g = g
        self.my, self.mx = size
        self.keeps_lines = self.my == 1
        # Per axis: output pixels x positions, positions x taps, positions x input pixels. With lines kept, the taps
        # along y stay sums of the product.
        one = identity(1)
        self.stride = g.strides[1]
        self.along_y = (one, identity(TAPS), one) if self.keeps_lines else transforms(self.my, TAPS, self.stride)
        self.along_x = transforms(self.mx, TAPS, self.stride)
        self.taps_y = TAPS if self.keeps_lines else 1
        (self.ay, self.pixels_y), (self.ax, self.pixels_x) = (
            (len(data), len(data[0])) for _, _, data in (self.along_y, self.along_x)
        )
        self.positions = self.ay * self.ax
        self.tiles_y, self.tiles_x = ceildiv(g.out[1], self.my), ceildiv(g.out[2], self.mx)
        self.channels = -(-g.channels // self.lanes) * self.lanes
        self.k = self.taps_y * g.channels
        self.vectors = -(-g.out_channels // self.lanes)
        self.by_position, self.block = self._order()
        # Narrow panels are many, and so are shared evenly among threads.
        vectors = self.vectors if self.vectors <= 3 else 2
        rows = max(rows for rows in range(1, 32) if fits(Tile(rows, vectors), target, F32))
        self.tile = Tile(min(rows, self.block), vectors)
        self.width = self.tile.vectors * self.lanes
        self.panels = -(-self.vectors // self.tile.vectors)

    @property
    def tiles(self) -> Dim:
        """Tiles of one image."""
        return mul(self.tiles_y, self.tiles_x)

    @property
    def weight_bytes(self) -> int:
        return 4 * self.positions * self.k * self.vectors * self.lanes

    def _order(self) -> tuple[bool, int]:
        """Whether all panels pass at one position before the next, and how many tiles are multiplied together.

        Panel by panel, a block's transformed input and the sums of a panel stay in L2, and every block streams all
        weights. Where those are many, larger blocks whose sums lie in L3 move less.
        """
        columns = self.vectors * self.lanes
        narrow, wide = (4 * self.positions * (self.channels + n) for n in (2 * self.lanes, columns))
        block = self._blocks_of(narrow, self.target.l2 * 4 // 5)
        large = self._blocks_of(wide, self.target.l3 // 4)
        tiles = self.all_tiles
        streamed = (-(-tiles // block) - 1) * self.weight_bytes
        streamed_by_position = (-(-tiles // large) - 1) * self.weight_bytes + 2 * tiles * wide
        return (True, large) if streamed_by_position < streamed else (False, block)

    def _blocks_of(self, tile_bytes: int, cache: int) -> int:
        """Tiles of a block, all blocks about equal and none larger than the cache."""
        most = max(4, cache // tile_bytes)
        if self.keeps_lines:
            assert isinstance(self.tiles_x, int)
            most = max(1, most // self.tiles_x - (TAPS - 1))
            height = estimate(self.tiles_y)
            return -(-height // -(-height // most)) * self.tiles_x
        whole = self.all_tiles if is_static(self.tiles) else most
        return -(-whole // -(-whole // most))

    @property
    def all_tiles(self) -> int:
        """Tiles of all images, roughly where sizes are unknown."""
        return estimate(mul(self.tiles, self.g.batch))

    @property
    def input_plane(self) -> int:
        """Floats from one position of the transformed input to the next."""
        tiles = self.block
        if self.keeps_lines:
            assert isinstance(self.tiles_x, int)
            tiles += (TAPS - 1) * self.tiles_x
        # A line more than the tiles need: planes a power of two apart would fall on the same lines of L1.
        return tiles * self.channels + self.lanes

    @property
    def output_plane(self) -> int:
        return self.block * self.width * (self.panels if self.by_position else 1) + self.lanes

    @property
    def is_padded(self) -> bool:
        """Whether a tile may reach outside the image."""
        g = self.g

        def fits_in(axis: int, m: int, pixels: int) -> bool:
            out, size = g.out[axis], g.size[axis]
            if g.before[axis] != 0 or not isinstance(out, int) or not isinstance(size, int):
                return False
            return (-(-out // m) - 1) * m * self.stride + pixels <= size

        lines = self.pixels_y + self.taps_y - 1
        return not (fits_in(1, self.my, lines) and fits_in(2, self.mx, self.pixels_x))

    def cost(self) -> float:
        """Microseconds on one thread: the products, or the weights where they take longer; and the transforms."""
        tiles, columns = self.all_tiles, self.vectors * self.lanes
        products = self.positions * tiles * self.k * columns / (0.8 * 2 * self.lanes * 3e3)
        again = (-(-tiles // self.block) - 1) * self.weight_bytes
        if self.by_position:
            again += 16 * tiles * self.positions * (self.channels + columns)  # written and read, by each thread
        transformed = tiles * self.positions * (self.channels + columns) / self.lanes * 4.7 / 3e3
        return with_weights(products, self.weight_bytes) + again / 50e3 + transformed + 1.0

    def emit(self) -> KernelCode:
        g = self.g
        fn = Function(self.site, self.site.index[1])
        WinogradWriter(self, fn).write(fn.body)
        size = f"f{self.my}x{self.mx}" + (f"_s{self.stride}" if self.stride > 1 else "")
        return KernelCode(
            hint=f"conv_winograd_{size}_f32_{self.tile.rows}x{self.width}",
            source=fn.source(),
            pointers=fn.params.pointers,
            dims=fn.params.dims,
            rows=mul(g.batch, self.tiles_y),
            work=mul(2, product([g.batch, self.tiles, self.positions, self.k, g.out_channels])),
            columns=self.panels,
            columns_first=self.by_position,
            scratch=4 * (self.positions * (self.input_plane + self.output_plane) + self.channels),
            describe=f"winograd {size.upper()}, blocks of {self.block} tiles, {self.tile.rows}x{self.width} products",
        )

    def packed(self) -> Packed:
        """The transformed weights, panel after panel: a panel holds positions x k x its output channels. By position:
        panels of k x their output channels, position after position."""
        along_y, along_x = self.along_y[1], self.along_x[1]
        vectors, lanes, taps_y, positions = self.tile.vectors, self.lanes, self.taps_y, self.positions
        by_position = self.by_position

        def arrange(w: np.ndarray) -> np.ndarray:
            both = np.kron(np.array(along_y, np.float64), np.array(along_x, np.float64))
            taps = w.reshape(*w.shape[:2], -1).transpose(1, 0, 2).astype(np.float64)
            # (C, O, taps y or positions, positions x), rounded once -> (positions, taps y, C, O)
            moved = (taps @ both.T).astype(np.float32).reshape(*taps.shape[:2], taps_y, positions)
            matrix = moved.transpose(3, 2, 0, 1).reshape(-1, w.shape[0])
            parts = np.split(matrix, positions if by_position else 1)
            return np.concatenate([panels(part, vectors, lanes) for part in parts])

        order = "positions of panels" if by_position else "panels"
        key = f"winograd F({self.my}, {self.mx}) stride {self.stride} {order} of {vectors}x{lanes}"
        return Packed(self.site.prim.args[1], arrange, F32, key)


KERNEL = ConvWinograd()
