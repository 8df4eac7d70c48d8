"""What the windowed contractions (convolutions, pooling) have in common: geometry, taps in range, lines in scratch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from graphfuse.codegen.writer import Writer
from graphfuse.graph.dims import Dim, add, mul, product
from graphfuse.graph.dtypes import F32, F64, I32, I64, U32, U64, DType, c_type
from graphfuse.ops.expr import Var
from graphfuse.ops.tensor import Window
from graphfuse.plan.site import ContractionSite, Lines

from .function import Function, affine

ARITHMETIC_TYPES = (F32, F64, I32, U32, I64, U64)


@dataclass(frozen=True)
class Geometry:
    """A windowed contraction over three spatial axes (depth, height, width); axes that are missing have size 1.

    Strides of x count elements. `axes` gives the output axis of each spatial axis, None for a missing one.
    `may_round_up`: the output may be larger than the windows that fit (pooling with ceil_mode).
    """

    kernel: tuple[int, ...]
    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    before: tuple[Dim, ...]
    after: tuple[Dim, ...]
    groups: int
    batch: Dim
    channels: int
    out_channels: int
    size: tuple[Dim, ...]
    out: tuple[Dim, ...]
    x_batch: Dim
    x_channel: Dim
    x_space: tuple[Dim, ...]
    axes: tuple[int | None, ...]
    may_round_up: bool

    @property
    def lines(self) -> Dim:
        """Output rows: one line of pixels each."""
        return product([self.batch, self.out[0], self.out[1]])

    def is_padded(self, axis: int) -> bool:
        """Whether a window may reach outside the image along an axis."""
        if any(p != 0 for p in (self.before[axis], self.after[axis])):
            return True
        return self.may_round_up and not fits(self.end(axis), self.size[axis])

    def end(self, axis: int) -> Dim:
        """The input position after the last tap of the last window."""
        last = mul(add(self.out[axis], -1), self.strides[axis])
        return add(add(last, mul(-1, self.before[axis])), self.extent(axis))

    def extent(self, axis: int) -> int:
        """Input positions from the first tap to the last."""
        return self.dilations[axis] * (self.kernel[axis] - 1) + 1


def fits(end: Dim, size: Dim) -> bool:
    """Whether a position is surely not beyond a size."""
    return isinstance(end, int) and isinstance(size, int) and end <= size


def geometry(site: ContractionSite) -> Geometry:
    x = site.prim.args[0]
    view = site.view(x)
    window: Window = site.prim.attrs
    out = site.contraction.shape
    spatial = _spatial_axes(x.shape, out, window)
    missing = 3 - len(spatial)

    def three(values: Sequence[Dim], fill: Dim) -> tuple[Dim, ...]:
        return (fill,) * missing + tuple(values[k] for k in spatial)

    def ints(values: Sequence[int]) -> tuple[int, ...]:
        return (1,) * missing + tuple(values[k] for k in spatial)

    return Geometry(
        kernel=ints(window.kernel),
        strides=ints(window.strides),
        dilations=ints(window.dilations),
        before=three(window.pads_before, 0),
        after=three(window.pads_after, 0),
        groups=window.groups,
        batch=out[0],
        channels=_known(x.shape[1]),
        out_channels=_known(out[1]),
        size=three(x.shape[2:], 1),
        out=three(out[2:], 1),
        x_batch=view.strides[0],
        x_channel=view.strides[1],
        x_space=three(view.strides[2:], 0),
        axes=(None,) * missing + tuple(k + 2 for k in spatial),
        may_round_up="pool" in site.prim.kind,
    )


def _spatial_axes(size: Sequence[Dim], out: Sequence[Dim], window: Window) -> list[int]:
    """The spatial axes that the window moves or reaches along; a sequence kept as an image one pixel wide has one.

    Tiles run along the last of them, so one that is only there for the shape must not be it.
    """
    idle = [
        size[k + 2] == out[k + 2] == window.kernel[k] == 1 and window.pads_before[k] == window.pads_after[k] == 0
        for k in range(len(window.kernel))
    ]
    return [k for k, is_idle in enumerate(idle) if not is_idle] or [len(idle) - 1]


def _known(d: Dim) -> int:
    assert isinstance(d, int), "checked by refusal()"
    return d


def refusal(
    site: ContractionSite, kind: str, types: Sequence[DType] = ARITHMETIC_TYPES, narrow: bool = False
) -> str | None:
    """Why no windowed kernel takes a site, or none for narrow operands; None if nothing stands against it."""
    prim = site.prim
    if prim.kind != kind:
        return f"{prim.kind} is not {kind}"
    if site.contraction.dtype not in types:
        return f"no {kind} of {site.contraction.dtype.name}"
    if site.narrow != narrow:
        return "the operands are no bytes" if narrow else "the operands are narrower than their sums"
    x = prim.args[0]
    if x.rank not in (3, 4, 5):
        return f"{x.rank - 2} spatial dimensions"
    if not isinstance(x.shape[1], int) or not isinstance(site.contraction.shape[1], int):
        return "the number of channels is not known at compile time"
    pads = (*prim.attrs.pads_before, *prim.attrs.pads_after)
    if any(isinstance(p, int) and p < 0 for p in pads):
        return "negative padding"
    if len(prim.args) > 1 and site.constants(prim.args[1]) is None:
        return "the weights are not known at compile time"
    return None


def lines_of(site: ContractionSite, lines_per_row: int = 1) -> Lines | None:
    """The rows of a windowed kernel whose rows are output lines, or so many of them each."""
    g = geometry(site)
    if g.axes[0] is not None or g.axes[1] is None:
        return None
    return Lines(
        source=site.view(site.prim.args[0]),
        images=g.batch,
        height=g.out[1],
        source_height=g.size[1],
        stride=g.strides[1],
        before=g.before[1],
        extent=g.extent(1),
        lines_per_row=lines_per_row,
    )


def taps_in_range(fn: Function, w: Writer, g: Geometry, axis: int, origin: str) -> tuple[str, str]:
    """C text of the first tap and the end of the taps whose position origin + tap * dilation lies inside the input."""
    taps = g.kernel[axis]
    if not g.is_padded(axis):
        return "0", str(taps)
    size, dilation = fn.dim(g.size[axis]), g.dilations[axis]
    if dilation == 1:
        first = w.let("int64_t", f"gf_max64(0, -{origin})", "first")
        last = w.let("int64_t", f"gf_min64({taps}, {size} - {origin})", "last")
    else:
        first = w.let("int64_t", f"gf_max64(0, gf_floordiv({dilation - 1} - {origin}, {dilation}))", "first")
        beyond = f"gf_floordiv({size} - {origin} + {dilation - 1}, {dilation})"
        last = w.let("int64_t", f"gf_min64({taps}, {beyond})", "last")
    return first, last


def taps_with_padding(fn: Function, w: Writer, g: Geometry, axis: int, origin: str) -> str:
    """C text of how many taps lie on the image or its padding: a rounded-up output may reach beyond both."""
    taps, dilation = g.kernel[axis], g.dilations[axis]
    padded = add(g.size[axis], g.after[axis])
    if fits(g.end(axis), padded):
        return str(taps)
    beyond = f"gf_floordiv({fn.dim(padded)} - {origin} + {dilation - 1}, {dilation})"
    return w.let("int64_t", f"gf_min64({taps}, {beyond})", "taps")


class ScratchLines:
    """Input lines copied to scratch: channels last, `pixels` wide, zero where the image ends, `lines` to a plane."""

    def __init__(self, fn: Function, g: Geometry, dtype: DType, lines: Dim, pixels: Dim) -> None:
        self.fn, self.g, self.dtype = fn, g, dtype
        self.pixels = pixels
        self.line_stride = mul(pixels, g.channels)
        self.plane_stride = mul(self.line_stride, lines)

    def place(self, plane: str, line: str) -> list[tuple[str, Dim]]:
        """Where a line lies: C texts and the strides they are multiplied by."""
        return [(plane, self.plane_stride if self.g.kernel[0] > 1 else 0), (line, self.line_stride)]

    def copy_line(
        self, w: Writer, source: str, target: str, first_pixel: str, channels: tuple[str, str] | None
    ) -> None:
        """Copy the pixels from `first_pixel` (may be outside the image) of the line at `source`.

        `channels`: C text of the first channel and the number of channels, None for all.
        """
        g, fn = self.g, self.fn
        width, pixels = fn.dim(g.size[2]), fn.dim(self.pixels)
        left = w.let("int64_t", f"gf_clamp64(-{first_pixel}, 0, {pixels})", "skip")
        right = w.let("int64_t", f"gf_clamp64({width} - {first_pixel}, {left}, {pixels})", "until")
        c = c_type(self.dtype)
        channel, count = channels or ("0", str(g.channels))
        start = affine([(f"({first_pixel} + {left})", g.x_space[2]), (channel, g.x_channel)], fn.params)
        w.line(f"const {c} *from = {source} + {start};")
        w.line(f"{c} *to = {target} + {channel};")
        if channels is None:
            w.line(f"memset(to, 0, (size_t)({left} * {g.channels}) * sizeof({c}));")
            w.line(f"to += {left} * {g.channels};")
            self._copy_pixels(w, f"{right} - {left}")
            rest = f"(size_t)(({pixels} - {right}) * {g.channels}) * sizeof({c})"
            w.line(f"memset(to + ({right} - {left}) * {g.channels}, 0, {rest});")
            return
        with w.loop("q", "0", pixels):
            w.line(f"const int inside = q >= {left} && q < {right};")
            place = affine([(f"(q - {left})", g.x_space[2]), ("j", g.x_channel)], fn.params)
            with w.loop("j", "0", count):
                w.line(f"to[q * {g.channels} + j] = inside ? from[{place}] : 0;")

    def _copy_pixels(self, w: Writer, count: str) -> None:
        g, fn = self.g, self.fn
        c = c_type(self.dtype)
        if g.x_channel == 1 and g.x_space[2] == g.channels:
            w.line(f"memcpy(to, from, (size_t)(({count}) * {g.channels}) * sizeof({c}));")
            return

        def element(j: str) -> str:
            source = affine([("q", g.x_space[2]), (j, g.x_channel)], fn.params)
            return f"to[q * {g.channels} + {j}] = from[{source}];"

        with w.loop("q", "0", count):
            if g.x_channel == 1:
                source = affine([("q", g.x_space[2])], fn.params)
                w.line(f"memcpy(to + q * {g.channels}, from + {source}, {g.channels} * sizeof({c}));")
            elif g.channels <= 4:
                for j in range(g.channels):
                    w.line(element(str(j)))
            else:
                with w.loop("j", "0", str(g.channels)):
                    w.line(element("j"))


def line_variables(g: Geometry, index: Sequence[Var], names: Sequence[str | None]) -> dict[Var, str]:
    """Loop variables of the spatial axes that exist; None leaves one out."""
    pairs = zip(g.axes, names, strict=True)
    return {index[axis]: name for axis, name in pairs if axis is not None and name is not None}
