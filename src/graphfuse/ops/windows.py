"""The geometry of sliding windows: attributes of convolution and pooling nodes -> `Window` and output sizes."""

from __future__ import annotations

from collections.abc import Sequence

from graphfuse.graph import dims as D
from graphfuse.graph.dims import Dim
from graphfuse.ops.registry import NotSupported, OpNode
from graphfuse.ops.tensor import Window


def per_axis(node: OpNode, name: str, rank: int, default: int) -> tuple[int, ...]:
    """An attribute with one integer per spatial axis."""
    values = tuple(node.attr(name, None) or (default,) * rank)
    if len(values) != rank:
        raise NotSupported(f"{name} = {list(values)} has not one value for each of {rank} spatial axes")
    return values


def _extent(kernel: int, dilation: int) -> int:
    return (kernel - 1) * dilation + 1


def explicit_pads(node: OpNode, rank: int) -> tuple[tuple[Dim, ...], tuple[Dim, ...]]:
    """The attribute pads: ahead of each spatial axis, and behind."""
    pads = tuple(node.attr("pads", None) or (0,) * (2 * rank))
    if len(pads) != 2 * rank:
        raise NotSupported(f"pads = {list(pads)} has not two values for each of {rank} spatial axes")
    return pads[:rank], pads[rank:]


def _halves(total: Dim, larger_first: bool) -> tuple[Dim, Dim]:
    small, large = D.floordiv(total, 2), D.ceildiv(total, 2)
    return (large, small) if larger_first else (small, large)


def auto_pad(node: OpNode) -> str:
    mode = node.attr("auto_pad", "NOTSET")
    if mode not in ("NOTSET", "VALID", "SAME_UPPER", "SAME_LOWER"):
        raise NotSupported(f"auto_pad = {mode!r} is unknown")
    return mode


def sliding(
    node: OpNode, spatial: Sequence[Dim], kernel: Sequence[int], groups: int = 1, count_include_pad: bool = False
) -> tuple[Window, tuple[Dim, ...]]:
    """The window of a convolution or pooling over spatial sizes, and the sizes of its output."""
    rank = len(spatial)
    strides, dilations = per_axis(node, "strides", rank, 1), per_axis(node, "dilations", rank, 1)
    extents = [_extent(k, d) for k, d in zip(kernel, dilations, strict=True)]
    mode = auto_pad(node)
    if mode.startswith("SAME"):
        out = tuple(D.ceildiv(n, s) for n, s in zip(spatial, strides, strict=True))
        pads = [
            _halves(_missing(n, o, s, e), mode == "SAME_LOWER")
            for n, o, s, e in zip(spatial, out, strides, extents, strict=True)
        ]
        before, after = tuple(p[0] for p in pads), tuple(p[1] for p in pads)
    else:
        before, after = explicit_pads(node, rank) if mode == "NOTSET" else ((0,) * rank, (0,) * rank)
        ceil = bool(node.attr("ceil_mode", 0))
        out = tuple(
            _out_size(n, b, a, s, e, ceil)
            for n, b, a, s, e in zip(spatial, before, after, strides, extents, strict=True)
        )
    if any(isinstance(o, int) and o <= 0 for o in out):
        raise NotSupported(f"the window {extents} is larger than the padded input {list(spatial)}")
    return Window(tuple(kernel), strides, dilations, before, after, groups, count_include_pad), out


def _missing(size: Dim, out: Dim, stride: int, extent: int) -> Dim:
    """The padding with which the windows of `out` outputs just fit."""
    return D.maximum(0, D.add(D.add(D.mul(D.add(out, -1), stride), extent), D.mul(-1, size)))


def _out_size(size: Dim, before: Dim, after: Dim, stride: int, extent: int, ceil: bool) -> Dim:
    room = D.add(D.add(D.add(size, before), after), -extent)
    if not ceil:
        return D.add(D.floordiv(room, stride), 1)
    # A window that would start in the padding behind the input is left out.
    return D.minimum(D.add(D.ceildiv(room, stride), 1), D.ceildiv(D.add(size, before), stride))


def transposed(
    node: OpNode, spatial: Sequence[Dim], kernel: Sequence[int], groups: int
) -> tuple[Window, tuple[Dim, ...]]:
    """The window of a transposed convolution, and the output's spatial sizes."""
    rank = len(spatial)
    strides, dilations = per_axis(node, "strides", rank, 1), per_axis(node, "dilations", rank, 1)
    extra = per_axis(node, "output_padding", rank, 0)
    # The size of the output without any padding cut off.
    full = [
        D.add(D.mul(D.add(n, -1), s), _extent(k, d) + e)
        for n, s, k, d, e in zip(spatial, strides, kernel, dilations, extra, strict=True)
    ]
    mode, wanted = auto_pad(node), node.attr("output_shape", None)
    if wanted or mode.startswith("SAME"):
        out = tuple(wanted)[-rank:] if wanted else tuple(D.mul(n, s) for n, s in zip(spatial, strides, strict=True))
        cut = [D.maximum(0, D.add(f, D.mul(-1, o))) for f, o in zip(full, out, strict=True)]
        pads = [_halves(total, mode != "SAME_UPPER") for total in cut]
        before, after = tuple(p[0] for p in pads), tuple(p[1] for p in pads)
    else:
        before, after = explicit_pads(node, rank) if mode == "NOTSET" else ((0,) * rank, (0,) * rank)
        out = tuple(D.add(f, D.mul(-1, D.add(b, a))) for f, b, a in zip(full, before, after, strict=True))
    return Window(tuple(kernel), strides, dilations, before, after, groups), out
