"""A line of output pixels as tiles, of which it is known at compile time which input columns they reach."""

from __future__ import annotations

from dataclasses import dataclass

from .window import Geometry


@dataclass(frozen=True)
class Span:
    """Output pixels [start, stop) of a line in tiles of `width` pixels; `columns` = input columns that exist, by their
    distance from the tile's first one, None for all."""

    start: int
    stop: int
    width: int
    columns: frozenset[int] | None


def line_spans(g: Geometry, pixels: int) -> list[Span] | None:
    """The line in tiles of `pixels` and what is left; None when sizes are unknown."""
    step, pad = g.strides[2], g.before[2]
    out, size = g.out[2], g.size[2]
    if not isinstance(out, int) or not isinstance(size, int) or not isinstance(pad, int):
        return None
    spans: list[Span] = []
    for start in range(0, out, pixels):
        width = min(pixels, out - start)
        reach = (width - 1) * step + g.extent(2)
        first = start * step - pad
        existing = frozenset(j for j in range(reach) if 0 <= first + j < size)
        columns = None if len(existing) == reach else existing
        last = spans[-1] if spans else None
        if last and columns is None and last.columns is None and last.width == width:
            spans[-1] = Span(last.start, start + width, width, None)
        else:
            spans.append(Span(start, start + width, width, columns))
    return spans


def column_users(g: Geometry, pixels: int, columns: frozenset[int] | None) -> dict[int, list[tuple[int, int]]]:
    """Input column (distance from the tile's first) -> the (pixel, tap) pairs that use it, of columns that exist."""
    found: dict[int, list[tuple[int, int]]] = {}
    for pixel in range(pixels):
        for kx in range(g.kernel[2]):
            j = pixel * g.strides[2] + kx * g.dilations[2]
            if columns is None or j in columns:
                found.setdefault(j, []).append((pixel, kx))
    return dict(sorted(found.items()))
