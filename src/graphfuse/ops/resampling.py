"""Resampling along one axis of images: nearest, linear and cubic, and filters for images that get smaller.

An output index i falls on the input coordinate x(i). Where x is a ratio of integers, as with every integer scale, index
and weight come from integer arithmetic, otherwise from float32 in onnxruntime's order.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction

import numpy as np

from graphfuse.graph import dims as D
from graphfuse.graph.dims import Dim
from graphfuse.graph.dtypes import F32, I64
from graphfuse.ops import expr as E
from graphfuse.ops.expr import Const, Expr
from graphfuse.ops.interpret import evaluate
from graphfuse.ops.registry import OpNode
from graphfuse.ops.runtime_sizes import measure_sizes
from graphfuse.ops.tensor import Tensor, generate, index_map, map_, reduce, reshape, size

# Scales that are not ratios of integers this small are left to float32.
_LARGEST_TERM = 64


@dataclass(frozen=True)
class Axis:
    """One resized axis: sizes, scale (None where it is only known at run time), and region of interest.

    given: the scale where it is an input; sources: the inputs that its expressions load from.
    """

    number: int
    before: Dim
    after: Dim
    scale: np.float32 | None
    coordinates: str
    roi: tuple[float | Expr, float | Expr]
    given: Expr | None = None
    sources: tuple[Tensor, ...] = ()

    @property
    def factor(self) -> Expr:
        """The scale in float32."""
        if self.given is not None:
            return self.given
        if self.scale is None:
            return E.cast(size(self.after), F32) / E.cast(size(self.before), F32)
        return Const(float(self.scale), F32)

    def ratio(self) -> Fraction | None:
        """The scale as a small fraction, exactly."""
        if self.scale is None:
            return None
        near = Fraction(float(self.scale)).limit_denominator(_LARGEST_TERM)
        return near if near.numerator <= _LARGEST_TERM and np.float32(float(near)) == self.scale else None

    def rational(self) -> tuple[int, int, int] | None:
        """(a, b, c) with x(i) = (a i + b) / c, where there are such integers."""
        if self.coordinates == "align_corners":
            if not D.is_static(self.before, self.after):
                return None
            return (int(self.before) - 1, 0, int(self.after) - 1) if self.after != 1 else (0, 0, 1)
        ratio = self.ratio()
        if ratio is None:
            return None
        p, q = ratio.numerator, ratio.denominator
        if self.coordinates == "asymmetric":
            return q, 0, p
        if self.coordinates == "tf_half_pixel_for_nn":
            return 2 * q, q, 2 * p
        if self.coordinates == "pytorch_half_pixel":
            if not isinstance(self.after, int):
                return None
            return (2 * q, q - p, 2 * p) if self.after > 1 else (0, 0, 1)
        if self.coordinates == "half_pixel_symmetric":
            fits = D.same(D.mul(self.before, p), D.mul(self.after, q))
            return (2 * q, q - p, 2 * p) if fits else None
        return (2 * q, q - p, 2 * p) if self.coordinates == "half_pixel" else None

    def coordinate(self, i: Expr) -> Expr:
        """x(i) in float32."""
        x, before, after = E.cast(i, F32), E.cast(size(self.before), F32), E.cast(size(self.after), F32)
        scale = self.factor
        if self.coordinates == "asymmetric":
            return x / scale
        if self.coordinates == "tf_half_pixel_for_nn":
            return (x + 0.5) / scale
        if self.coordinates == "align_corners":
            return E.where(after > 1, x * (before - 1) / E.maximum(after - 1, 1), 0)
        if self.coordinates == "tf_crop_and_resize":
            start, end = self.roi
            stretched = (before - 1) * start + x * ((before - 1) * (end - start)) / E.maximum(after - 1, 1)
            return E.where(after > 1, stretched, (before - 1) * (0.5 * (start + end)))
        half = (x + 0.5) / scale - 0.5
        if self.coordinates == "pytorch_half_pixel":
            return E.where(after > 1, half, 0)
        if self.coordinates == "half_pixel_symmetric":
            return before / 2 * (1 - after / (scale * before)) + half
        return half

    def clamped(self, i: Expr) -> Expr:
        return E.maximum(E.minimum(i, size(D.add(self.before, -1))), 0)


def _nearest_float(axis: Axis, mode: str) -> Callable[[Expr], Expr]:
    def index(i: Expr) -> Expr:
        x = axis.coordinate(i)
        rounded = {
            "round_prefer_floor": lambda: E.unary("ceil", x - 0.5),
            "round_prefer_ceil": lambda: E.unary("floor", x + 0.5),
            "floor": lambda: E.unary("floor", x),
            "ceil": lambda: E.unary("ceil", x),
        }[mode]()
        return axis.clamped(E.cast(rounded, I64))

    return index


def _nearest_terms(a: int, b: int, c: int, mode: str) -> tuple[int, int, int]:
    """(a, b, c) such that the nearest index is floor((a i + b) / c), reduced."""
    if mode == "round_prefer_floor":
        a, b, c = 2 * a, 2 * b + c - 1, 2 * c
    elif mode == "round_prefer_ceil":
        a, b, c = 2 * a, 2 * b + c, 2 * c
    elif mode == "ceil":
        b = b + c - 1
    # floor((a i + b) / c) only sees multiples of g = gcd(a, c) in a i, so b counts by whole g.
    g = int(np.gcd(a, c))
    return a // g, b // g, c // g


def nearest(axis: Axis, mode: str) -> Callable[[Expr], Expr]:
    by_float, terms = _nearest_float(axis, mode), axis.rational()
    if terms is None:
        return by_float
    a, b, c = _nearest_terms(*terms, mode)

    def by_integers(i: Expr) -> Expr:
        at = E.floordiv(i * a + b, c)
        inside = b >= 0 and _last_is_inside(axis, a, b, c)
        return at if inside else axis.clamped(at)

    return by_integers if _agree(axis, by_integers, by_float) else by_float


def _agree(axis: Axis, by_integers: Callable[[Expr], Expr], by_float: Callable[[Expr], Expr]) -> bool:
    """Whether float32, which decides where the coordinate is halfway between two pixels, gives the same indices."""
    if D.is_static(axis.before, axis.after):
        line = (axis.after,)
        exact, wanted = evaluate(
            [generate(line, lambda i: by_integers(i[0])), generate(line, lambda i: by_float(i[0]))], {}
        )
        return np.array_equal(exact, wanted)
    # Exact scales give correctly rounded quotients, and halfway points are exact.
    ratio = axis.ratio()
    return ratio is not None and ratio.denominator & (ratio.denominator - 1) == 0


def _last_is_inside(axis: Axis, a: int, b: int, c: int) -> bool:
    if D.is_static(axis.before, axis.after):
        return (a * (int(axis.after) - 1) + b) // c < int(axis.before)
    # after = before * c / a: the last index is below (a * after) / c = before where b < a.
    return b < a and D.same(D.mul(axis.before, c), D.mul(axis.after, a))


def _split(axis: Axis) -> Callable[[Expr], tuple[Expr, Expr]]:
    """Output index -> whole and fractional part of the input coordinate."""
    terms = axis.rational()

    def by_integers(i: Expr) -> tuple[Expr, Expr]:
        assert terms is not None
        a, b, c = terms
        n = i * a + b
        return E.floordiv(n, c), E.cast(E.floormod(n, c), F32) / float(c)

    def by_float(i: Expr) -> tuple[Expr, Expr]:
        x = axis.coordinate(i)
        whole = E.unary("floor", x)
        return E.cast(whole, I64), x - whole

    return by_float if terms is None else by_integers


def _taps(x: Tensor, axis: Axis, weights: Sequence[Callable[[Expr], Expr]], first: int) -> Tensor:
    """The weighted sum of neighbours floor(x) + first, + first + 1, ... along an axis; edges are repeated."""
    k, split = axis.number, _split(axis)
    shape = [axis.after if j == k else d for j, d in enumerate(x.shape)]
    line = [axis.after if j == k else 1 for j in range(x.rank)]

    def neighbour(offset: int) -> Tensor:
        place = axis.clamped
        return index_map(x, shape, lambda i: (*i[:k], place(split(i[k])[0] + offset), *i[k + 1 :]), *axis.sources)

    def weight(of: Callable[[Expr], Expr]) -> Tensor:
        return generate(line, lambda i: E.cast(of(i[k]), x.dtype), *axis.sources)

    total = map_(lambda v, w: v * w, neighbour(first), weight(weights[0]))
    for j in range(1, len(weights)):
        total = map_(lambda t, v, w: t + v * w, total, neighbour(first + j), weight(weights[j]))
    return total


def linear(x: Tensor, axis: Axis) -> Tensor:
    split = _split(axis)
    return _taps(x, axis, [lambda i: 1.0 - split(i)[1], lambda i: split(i)[1]], 0)


def cubic(x: Tensor, axis: Axis, a: float, exclude_outside: bool) -> Tensor:
    """Keys' convolution kernel with parameter a (IEEE Trans. ASSP 29, 1981)."""
    split = _split(axis)

    def near(t: Expr) -> Expr:
        return ((t * (a + 2) - (a + 3)) * t) * t + 1

    def far(t: Expr) -> Expr:
        return ((t * a - 5 * a) * t + 8 * a) * t - 4 * a

    def raw(k: int, i: Expr) -> Expr:
        whole, t = split(i)
        w = [lambda: far(t + 1), lambda: near(t), lambda: near(1 - t), lambda: far(2 - t)][k]()
        if not exclude_outside:
            return w
        at = whole + (k - 1)
        inside = E.logical("and", at >= 0, at < size(axis.before))
        return E.where(inside, w, 0)

    def weight(k: int) -> Callable[[Expr], Expr]:
        if not exclude_outside:
            return lambda i: raw(k, i)
        return lambda i: raw(k, i) / (raw(0, i) + raw(1, i) + raw(2, i) + raw(3, i))

    return _taps(x, axis, [weight(k) for k in range(4)], -1)


def antialiased(node: OpNode, x: Tensor, axis: Axis, mode: str, a: float, exclude_outside: bool) -> Tensor:
    """Where an image gets smaller the filter gets wider by as much, so that every pixel counts."""
    k, split, radius = axis.number, _split(axis), 1 if mode == "linear" else 2
    scale = E.minimum(axis.factor, 1)
    reach: Dim  # the farthest pixel on either side that counts
    if axis.scale is not None:
        reach = math.ceil(radius / float(axis.scale)) - 1
    else:
        far = E.cast(E.unary("ceil", Const(float(radius), F32) / scale), I64) - 1
        (reach,) = measure_sizes(node, [far], *axis.sources)
    taps = D.add(D.mul(reach, 2), 2)
    shape = [axis.after if j == k else d for j, d in enumerate(x.shape)]
    line = [axis.after if j == k else 1 for j in range(x.rank)]

    def pixel(i: Sequence[Expr]) -> Expr:
        return split(i[k])[0] + i[-1] - size(reach)

    def weight(i: Sequence[Expr]) -> Expr:
        t = E.unary("abs", (E.cast(i[-1] - size(reach), F32) - split(i[k])[1]) * scale)
        if mode == "linear":
            w = E.maximum(1 - t, 0)
        else:
            near, far = ((t * (a + 2) - (a + 3)) * t) * t + 1, ((t * a - 5 * a) * t + 8 * a) * t - 4 * a
            w = E.where(t <= 1, near, E.where(t < 2, far, 0))
        if exclude_outside:
            w = E.where(E.logical("and", pixel(i) >= 0, pixel(i) < size(axis.before)), w, 0)
        return E.cast(w, x.dtype)

    near = index_map(x, (*shape, taps), lambda i: (*i[:k], axis.clamped(pixel(i)), *i[k + 1 : -1]), *axis.sources)
    weights = generate((*line, taps), weight, *axis.sources)
    total = reduce("sum", map_(lambda v, w: v * w, near, weights), (-1,))
    return reshape(map_(lambda v, w: v / w, total, reduce("sum", weights, (-1,))), shape)
