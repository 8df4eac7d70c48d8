"""Resampling of images: Resize in all its modes.

One axis at a time. An output index i falls on the input coordinate x(i). Where x is a ratio of integers, as with every
integer scale, index and weight come from integer arithmetic, otherwise from float32 in onnxruntime's order.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
import sympy

from graphfuse.graph import dims as D
from graphfuse.graph.dims import Dim
from graphfuse.graph.dtypes import F32, I64, is_float
from graphfuse.ops import expr as E
from graphfuse.ops.expr import Const, Expr
from graphfuse.ops.interpret import evaluate
from graphfuse.ops.registry import NotSupported, OpNode, op
from graphfuse.ops.samples import Sample, floats, int64, ints, sample
from graphfuse.ops.tensor import Tensor, generate, index_map, map_, size

# Scales that are not ratios of integers this small are left to float32.
_LARGEST_TERM = 64

_MODES = ("nearest", "linear", "cubic")
_NEAREST = ("round_prefer_floor", "round_prefer_ceil", "floor", "ceil")
_COORDINATES = (
    "half_pixel",
    "half_pixel_symmetric",
    "pytorch_half_pixel",
    "align_corners",
    "asymmetric",
    "tf_half_pixel_for_nn",
    "tf_crop_and_resize",
)


@dataclass(frozen=True)
class _Axis:
    """One resized axis: sizes, scale (None where it is only known at run time), and region of interest."""

    number: int
    before: Dim
    after: Dim
    scale: np.float32 | None
    coordinates: str
    roi: tuple[float, float]

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
        scale = after / before if self.scale is None else Const(float(self.scale), F32)
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


# ---------------------------------------------------------------- the three modes, along one axis


def _nearest_float(axis: _Axis, mode: str) -> Callable[[Expr], Expr]:
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


def _nearest(axis: _Axis, mode: str) -> Callable[[Expr], Expr]:
    by_float, terms = _nearest_float(axis, mode), axis.rational()
    if terms is None:
        return by_float
    a, b, c = _nearest_terms(*terms, mode)

    def by_integers(i: Expr) -> Expr:
        at = E.floordiv(i * a + b, c)
        inside = b >= 0 and _last_is_inside(axis, a, b, c)
        return at if inside else axis.clamped(at)

    return by_integers if _agree(axis, by_integers, by_float) else by_float


def _agree(axis: _Axis, by_integers: Callable[[Expr], Expr], by_float: Callable[[Expr], Expr]) -> bool:
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


def _last_is_inside(axis: _Axis, a: int, b: int, c: int) -> bool:
    if D.is_static(axis.before, axis.after):
        return (a * (int(axis.after) - 1) + b) // c < int(axis.before)
    # after = before * c / a: the last index is below (a * after) / c = before where b < a.
    return b < a and D.same(D.mul(axis.before, c), D.mul(axis.after, a))


def _split(axis: _Axis) -> Callable[[Expr], tuple[Expr, Expr]]:
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


def _taps(x: Tensor, axis: _Axis, weights: Sequence[Callable[[Expr], Expr]], first: int) -> Tensor:
    """The weighted sum of neighbours floor(x) + first, + first + 1, ... along an axis; edges are repeated."""
    k, split = axis.number, _split(axis)
    shape = [axis.after if j == k else d for j, d in enumerate(x.shape)]
    line = [axis.after if j == k else 1 for j in range(x.rank)]

    def neighbour(offset: int) -> Tensor:
        return index_map(x, shape, lambda i: (*i[:k], axis.clamped(split(i[k])[0] + offset), *i[k + 1 :]))

    def weight(of: Callable[[Expr], Expr]) -> Tensor:
        return generate(line, lambda i: E.cast(of(i[k]), x.dtype))

    total = map_(lambda v, w: v * w, neighbour(first), weight(weights[0]))
    for j in range(1, len(weights)):
        total = map_(lambda t, v, w: t + v * w, total, neighbour(first + j), weight(weights[j]))
    return total


def _linear(x: Tensor, axis: _Axis) -> Tensor:
    split = _split(axis)
    return _taps(x, axis, [lambda i: 1.0 - split(i)[1], lambda i: split(i)[1]], 0)


def _cubic(x: Tensor, axis: _Axis, a: float, exclude_outside: bool) -> Tensor:
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


# ---------------------------------------------------------------- the op


def _samples() -> list[Sample]:
    image = floats(1, 2, 5, 7)

    def scaled(h: float, w: float, **attrs: object) -> Sample:
        scales = np.array([1, 1, h, w], np.float32)
        return sample(image, None, scales, constants=[2], **attrs)  # type: ignore[arg-type]

    def sized(h: int, w: int, **attrs: object) -> Sample:
        return sample(image, None, None, int64(1, 2, h, w), constants=[3], fixed=[1], **attrs)  # type: ignore[arg-type]

    plain = _COORDINATES[:5]
    return [
        *(scaled(2, 3, mode="nearest", coordinate_transformation_mode=c) for c in plain),
        *(scaled(2, 2, coordinate_transformation_mode="asymmetric", nearest_mode=n) for n in _NEAREST),
        *(scaled(2, 3, nearest_mode=n) for n in _NEAREST),
        *(scaled(0.5, 0.6, nearest_mode=n) for n in _NEAREST),
        *(sized(8, 3, mode="nearest", coordinate_transformation_mode=c) for c in plain),
        *(scaled(2, 3, mode="linear", coordinate_transformation_mode=c) for c in plain),
        *(sized(8, 3, mode="linear", coordinate_transformation_mode=c) for c in plain),
        *(scaled(2, 1.5, mode="cubic", coordinate_transformation_mode=c) for c in plain),
        sized(8, 3, mode="cubic", cubic_coeff_a=-0.5),
        sized(8, 3, mode="cubic", exclude_outside=1),
        sized(1, 1, mode="linear", coordinate_transformation_mode="pytorch_half_pixel"),
        sized(1, 1, mode="linear", coordinate_transformation_mode="align_corners"),
        sample(
            image,
            np.array([0, 0, 0.1, 0.2, 1, 1, 0.8, 1.2], np.float32),
            None,
            int64(1, 2, 4, 6),
            constants=[1, 3],
            fixed=[1],
            mode="linear",
            coordinate_transformation_mode="tf_crop_and_resize",
            extrapolation_value=7.0,
        ),
        sample(image, None, np.array([2, 0.5], np.float32), constants=[2], axes=[3, 2]),
        sample(
            image,
            None,
            None,
            int64(8, 9),
            constants=[3],
            axes=[2, 3],
            keep_aspect_ratio_policy="not_larger",
            symbolic=False,
        ),
        sample(
            image,
            None,
            None,
            int64(8, 9),
            constants=[3],
            axes=[2, 3],
            keep_aspect_ratio_policy="not_smaller",
            symbolic=False,
        ),
        sample(ints(1, 2, 5, 7), None, np.array([1, 1, 2, 2], np.float32), constants=[2]),
        sample(floats(1, 2, 7), None, np.array([1, 1, 2], np.float32), constants=[2], mode="linear"),
        sample(floats(1, 1, 3, 4, 5), None, np.array([1, 1, 2, 2, 2], np.float32), constants=[2], mode="linear"),
        scaled(0.5, 0.5, mode="linear", antialias=1, rejected="antialias"),
        sample(image, None, np.array([1, 1, 2, 2], np.float32), rejected="must be known"),
    ]


@op("Resize", samples=_samples)
def resize(node: OpNode) -> Tensor:
    x, mode = node.input(0), node.attr("mode", "nearest")
    if mode not in _MODES:
        raise NotSupported(f"mode = {mode!r} is unknown")
    if mode != "nearest" and node.attr("antialias", 0):
        raise NotSupported("antialias is not supported")
    if mode != "nearest" and not is_float(x.dtype):
        raise NotSupported(f"{mode} interpolation of {x.dtype.name}")
    axes = _resized_axes(node, x)
    y = x
    if mode == "nearest":
        y = _pick(x, axes, node.attr("nearest_mode", "round_prefer_floor"))
    for axis in axes if mode != "nearest" else []:
        if mode == "linear":
            y = _linear(y, axis)
        else:
            y = _cubic(y, axis, node.attr("cubic_coeff_a", -0.75), bool(node.attr("exclude_outside", 0)))
    return _extrapolate(y, axes, node.attr("extrapolation_value", 0.0))


def _pick(x: Tensor, axes: Sequence[_Axis], nearest_mode: str) -> Tensor:
    if nearest_mode not in _NEAREST:
        raise NotSupported(f"nearest_mode = {nearest_mode!r} is unknown")
    if not axes:
        return x
    functions = {axis.number: _nearest(axis, nearest_mode) for axis in axes}
    sizes = {axis.number: axis.after for axis in axes}
    shape = [sizes.get(k, d) for k, d in enumerate(x.shape)]
    return index_map(x, shape, lambda i: tuple(functions[k](e) if k in functions else e for k, e in enumerate(i)))


def _extrapolate(y: Tensor, axes: Sequence[_Axis], value: float) -> Tensor:
    for axis in axes:
        if axis.coordinates != "tf_crop_and_resize":
            continue

        def inside(i: Sequence[Expr], axis: _Axis = axis) -> Expr:
            x = axis.coordinate(i[axis.number])
            return E.logical("and", x >= 0, x <= E.cast(size(D.add(axis.before, -1)), F32))

        line = generate([axis.after if k == axis.number else 1 for k in range(y.rank)], inside)
        y = map_(lambda ok, v: E.where(ok, v, value), line, y)
    return y


def _resized_axes(node: OpNode, x: Tensor) -> list[_Axis]:
    """The axes that change, with their sizes and scales."""
    coordinates = node.attr("coordinate_transformation_mode", "half_pixel")
    if coordinates not in _COORDINATES:
        raise NotSupported(f"coordinate_transformation_mode = {coordinates!r} is unknown")
    numbers = [node.axis(a, x.rank) for a in node.attr("axes", None) or range(x.rank)]
    before = [x.shape[k] for k in numbers]
    after, scales = _targets(node, before)
    roi = [0.0] * len(numbers) + [1.0] * len(numbers)
    if coordinates == "tf_crop_and_resize":
        roi = node.required_constant(1, "the region of interest").tolist()
    result = []
    for j, k in enumerate(numbers):
        if coordinates != "tf_crop_and_resize" and D.same(before[j], after[j]) and scales[j] in (None, 1):
            continue
        result.append(_Axis(k, before[j], after[j], scales[j], coordinates, (roi[j], roi[len(numbers) + j])))
    return result


def _targets(node: OpNode, before: Sequence[Dim]) -> tuple[list[Dim], list[np.float32 | None]]:
    """Output sizes and scales of the given axes."""
    sizes = node.optional(3)
    if sizes is None or D.same(sizes.shape[0], 0):
        given = node.required_constant(2, "the scales").astype(np.float32)
        return [_scaled(d, s) for d, s in zip(before, given, strict=True)], list(given)
    wanted = node.dims(3)
    if wanted is None:
        raise NotSupported("the sizes must be known at compile time")
    policy = node.attr("keep_aspect_ratio_policy", "stretch")
    if policy == "stretch":
        return wanted, [_scale(d, o) for d, o in zip(before, wanted, strict=True)]
    if not D.is_static(*before, *wanted):
        raise NotSupported(f"keep_aspect_ratio_policy = {policy!r} with sizes known at run time")
    ratios = [np.float32(int(o)) / np.float32(int(d)) for d, o in zip(before, wanted, strict=True)]
    scale = min(ratios) if policy == "not_larger" else max(ratios)
    return [int(np.floor(scale * np.float32(int(d)) + np.float32(0.5))) for d in before], [scale] * len(before)


def _scaled(d: Dim, scale: np.float32) -> Dim:
    if isinstance(d, int):
        return int(scale * np.float32(d))
    near = Fraction(float(scale)).limit_denominator(1 << 16)
    return D.floordiv(D.mul(d, near.numerator), near.denominator)


def _scale(before: Dim, after: Dim) -> np.float32 | None:
    if isinstance(before, int) and isinstance(after, int):
        return np.float32(after) / np.float32(before)
    ratio = sympy.cancel(sympy.sympify(after) / before)
    return np.float32(float(ratio)) if ratio.is_Rational else None
