"""Sampling an image at places that data says: GridSample, and the grid of an affine map."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from itertools import product as cartesian
from typing import TypeAlias

import numpy as np

from graphfuse.graph.dims import Dim
from graphfuse.graph.dtypes import F32, I64, is_float
from graphfuse.ops import expr as E
from graphfuse.ops.expr import Const, Expr, Load
from graphfuse.ops.registry import NotSupported, OpNode, op
from graphfuse.ops.samples import Sample, floats, int64, ints, sample
from graphfuse.ops.tensor import Tensor, generate, load, map_, reshape, size, slice_

_MODES = {"nearest": 1, "linear": 2, "bilinear": 2, "cubic": 4, "bicubic": 4}  # taps along an axis
_PADDINGS = ("zeros", "border", "reflection")
_CUBIC = -0.75  # Keys' coefficient, as in PyTorch
# A pixel along one axis: its index, whether it is inside (None: it always is), its weight (None: 1).
Tap: TypeAlias = "tuple[Expr, Expr | None, Expr | None]"
_FAR = np.array([[[[1e30, -1e30], [5.0, -7.0]]]], np.float32)


def _grid_samples() -> list[Sample]:
    image, grid = floats(2, 3, 5, 7), floats(2, 4, 6, 2, low=-1.6, high=1.6)
    volume, places = floats(1, 2, 3, 4, 5), floats(1, 2, 3, 2, 3, low=-1.4, high=1.4)
    forms = [(p, a) for p in _PADDINGS for a in (0, 1)]
    return [
        *(
            sample(image, grid, mode=mode, padding_mode=p, align_corners=a, fixed=[3] if mode == "cubic" else [])
            for mode in ("linear", "cubic", "nearest")
            for p, a in forms
        ),
        *(sample(volume, places, mode="linear", padding_mode=p, align_corners=a) for p, a in forms),
        sample(volume, places, mode="nearest", padding_mode="reflection"),
        sample(floats(1, 1, 1, 1), grid[:1], padding_mode="reflection", align_corners=1),
        sample(floats(1, 2, 3, 3), _FAR, padding_mode="border", reference="onnx"),
        sample(ints(2, 3, 5, 7), grid, mode="nearest", reference="onnx"),
        sample(floats(2, 1, 5, 7, dtype=float), grid.astype(float), mode="linear"),
        sample(ints(2, 3, 5, 7), grid, rejected="integers", reference="onnx"),
        sample(image, floats(2, 4, 6, 3), rejected="coordinates", reference="onnx"),
        sample(image, grid, padding_mode="wrap", rejected="wrap", reference="onnx"),
    ]


@op("GridSample", samples=_grid_samples)
def grid_sample(node: OpNode) -> Tensor:
    x, grid = node.input(0), node.input(1)
    mode, padding = node.attr("mode", "linear"), node.attr("padding_mode", "zeros")
    rank, align = x.rank - 2, bool(node.attr("align_corners", 0))
    if mode not in _MODES or padding not in _PADDINGS:
        raise NotSupported(f"mode = {mode!r}, padding_mode = {padding!r}")
    if grid.rank != x.rank or (isinstance(grid.shape[-1], int) and grid.shape[-1] != rank):
        raise NotSupported(f"{grid.shape[-1]} coordinates of a place in {rank} dimensions")
    taps = _MODES[mode]
    if taps > 1 and not is_float(x.dtype):
        raise NotSupported("interpolation between integers")
    places = [_place(grid, axis, x.shape[2 + axis], taps, padding, align) for axis in range(rank)]
    sampled = sample_at(x, places, taps, padding, align)
    return generate((*x.shape[:2], *grid.shape[1:-1]), sampled, x, *places)


def _place(grid: Tensor, axis: int, extent: Dim, taps: int, padding: str, align: bool) -> Tensor:
    """The coordinate along an axis of the image, [N, 1, *places], as far as the padding moves it."""
    rank = grid.rank - 2
    component = slice_(grid, [*(0,) * (grid.rank - 1), rank - 1 - axis], [*grid.shape[:-1], 1], [1] * grid.rank)
    flat = reshape(component, (grid.shape[0], 1, *grid.shape[1:-1]))

    def coordinate(v: Expr) -> Expr:
        if v.dtype.itemsize < 4:
            v = E.cast(v, F32)
        n = E.cast(size(extent), v.dtype)
        x = (v + 1) / 2.0 * (n - 1) if align else ((v + 1) * n - 1) / 2.0
        x = E.unary("round", x) if taps == 1 else x
        low, high = Const(0.0 if align else -0.5, v.dtype), n - (1 if align else 0.5)
        if padding == "border" and taps < 4:  # of a cubic's neighbours each is held inside, as in PyTorch
            outside = E.logical("or", x < low, x > high)
            return E.where(outside, E.minimum(E.maximum(x, 0), n - 1), x)
        return _reflected(x, low, high) if padding == "reflection" else x

    return map_(coordinate, flat)


def _reflected(x: Expr, low: Expr, high: Expr) -> Expr:
    """x mirrored at the borders until it lies between them."""
    span = high - low
    beyond = E.maximum(E.maximum(low - x, x - high), 0)
    turns = E.unary("trunc", beyond / E.maximum(span, 1e-3))
    rest = beyond - turns * span
    even = E.equal(turns - E.unary("floor", turns * 0.5) * 2, 0)
    from_low = E.equal(E.cast(x < low, x.dtype), E.cast(even, x.dtype))
    return E.where(beyond > 0, E.where(from_low, low + rest, high - rest), x)


def sample_at(
    x: Tensor, places: Sequence[Tensor], taps: int, padding: str, align: bool
) -> Callable[[Sequence[Expr]], Expr]:
    """What x[N, C, *spatial] is at an index [n, c, *place]; the coordinates are places[axis][n, 0, *place]."""

    def element(i: Sequence[Expr]) -> Expr:
        near: list[list[Tap]] = []
        for axis, place in enumerate(places):
            at = load(place, (i[0], Const(0, I64), *i[2:]))
            near.append(taps_around(at, x.shape[2 + axis], taps, padding, align))
        terms = [tap(x, i[:2], choice) for choice in cartesian(*near)]
        return functools.reduce(lambda a, b: a + b, terms)

    return element


def tap(x: Tensor, item: Sequence[Expr], choice: Sequence[Tap]) -> Expr:
    """One pixel times its weights, zero where it lies outside."""
    guards = [inside for _, inside, _ in choice if inside is not None]
    guard = functools.reduce(lambda a, b: E.logical("and", a, b), guards) if guards else None
    pixel: Expr = Load(x, (*item, *(at for at, _, _ in choice)), guard, None if guard is None else E.lift(0, x.dtype))
    for _, _, weight in choice:
        pixel = pixel if weight is None else pixel * E.cast(weight, x.dtype)
    return pixel


def taps_around(at: Expr, extent: Dim, taps: int, padding: str, align: bool) -> list[Tap]:
    """The pixels around a coordinate of one axis."""
    n = size(extent)
    # Far outside nothing changes any more, but a number too large for an integer would; NaN lies outside, too.
    held = E.maximum(E.minimum(E.where(E.equal(at, at), at, -8.0), E.cast(n, at.dtype) + 8), -8.0)
    base = E.unary("floor", held)
    part = held - base
    first = E.cast(base, I64)
    weights: list[Expr | None]
    if taps == 1:
        offsets, weights = [0], [None]
    elif taps == 2:
        offsets, weights = [0, 1], [1 - part, part]
    else:
        offsets, weights = [-1, 0, 1, 2], [*cubic_weights(part)]
    found = []
    for offset, weight in zip(offsets, weights, strict=True):
        index = first + offset
        inside = E.logical("and", index >= 0, index < n) if padding == "zeros" else None
        if padding == "reflection":
            last = n * 2 - (2 if align else 1)
            index = E.where(index < 0, (-index if align else -1 - index), E.where(index >= n, last - index, index))
        found.append((E.maximum(E.minimum(index, n - 1), 0), inside, weight))
    return found


def cubic_weights(t: Expr) -> list[Expr]:
    """The weights of the four neighbours of a point a part t behind the second (Keys, 1981)."""

    def outer(d: Expr) -> Expr:
        return ((d * _CUBIC - 5 * _CUBIC) * d + 8 * _CUBIC) * d - 4 * _CUBIC

    def inner(d: Expr) -> Expr:
        return (d * (_CUBIC + 2) - (_CUBIC + 3)) * d * d + 1

    return [outer(t + 1), inner(t), inner(1 - t), outer(2 - t)]


@op(
    "AffineGrid",
    samples=lambda: [
        *(sample(floats(2, 2, 3), int64(2, 3, 5, 7), constants=[1], align_corners=a, fixed=[1, 2]) for a in (0, 1)),
        *(sample(floats(1, 3, 4), int64(1, 2, 3, 4, 5), constants=[1], align_corners=a, fixed=[1, 2]) for a in (0, 1)),
        sample(floats(2, 2, 3), int64(2, 3, 5, 7), symbolic=False),
        sample(floats(2, 2, 4), int64(2, 3, 5, 7), constants=[1], rejected="2 x 4", reference="onnx"),
    ],
)
def affine_grid(node: OpNode) -> Tensor:
    """theta times the places of an image's pixels, the corners at -1 and 1."""
    theta, align = node.input(0), bool(node.attr("align_corners", 0))
    if theta.rank != 3 or theta.shape[1:] not in ((2, 3), (3, 4)):
        raise NotSupported(f"matrices of {' x '.join(map(str, theta.shape[1:]))}")
    sizes = node.dims(1) or node.measure(node.input(1))
    spatial = sizes[2:]
    if len(spatial) != theta.shape[1]:
        raise NotSupported(f"a size of {len(sizes)} numbers for matrices of {theta.shape[1]} rows")

    def centre(i: Expr, n: Dim) -> Expr:
        step, extent = E.cast(i, theta.dtype), E.cast(size(n), theta.dtype)
        if align:
            return step * 2 / E.maximum(extent - 1, 1) - 1
        return (step * 2 + 1) / extent - 1

    def element(i: Sequence[Expr]) -> Expr:
        n, *pixel, row = i
        total: Expr = load(theta, (n, row, size(len(spatial))))
        for k, (at, extent) in enumerate(zip(pixel, spatial, strict=True)):
            total = total + load(theta, (n, row, size(len(spatial) - 1 - k))) * centre(at, extent)
        return total

    return generate((theta.shape[0], *spatial, len(spatial)), element, theta)
