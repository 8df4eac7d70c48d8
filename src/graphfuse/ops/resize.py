"""Resampling of images: Resize in all its modes.

One axis at a time. An output index i falls on the input coordinate x(i). Where x is a ratio of integers, as with every
integer scale, index and weight come from integer arithmetic, otherwise from float32 in onnxruntime's order.
"""

from __future__ import annotations

import functools
import math
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
from graphfuse.ops.runtime_sizes import items, measured
from graphfuse.ops.samples import Sample, floats, int64, ints, sample
from graphfuse.ops.tensor import Tensor, generate, index_map, load, map_, reduce, reshape, size

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
        place = axis.clamped
        return index_map(x, shape, lambda i: (*i[:k], place(split(i[k])[0] + offset), *i[k + 1 :]), *axis.sources)

    def weight(of: Callable[[Expr], Expr]) -> Tensor:
        return generate(line, lambda i: E.cast(of(i[k]), x.dtype), *axis.sources)

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


def _antialiased(node: OpNode, x: Tensor, axis: _Axis, mode: str, a: float, exclude_outside: bool) -> Tensor:
    """Where an image gets smaller the filter gets wider by as much, so that every pixel counts."""
    k, split, radius = axis.number, _split(axis), 1 if mode == "linear" else 2
    scale = E.minimum(axis.factor, 1)
    reach: Dim  # the farthest pixel on either side that counts
    if axis.scale is not None:
        reach = math.ceil(radius / float(axis.scale)) - 1
    else:
        far = E.cast(E.unary("ceil", Const(float(radius), F32) / scale), I64) - 1
        (reach,) = measured(node, [far], *axis.sources)
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


# ---------------------------------------------------------------- the op


def _antialias_samples(image: np.ndarray) -> list[Sample]:
    def case(scales: Sequence[float], **attrs: object) -> Sample:
        given = np.array([1, 1, *scales], np.float32)
        return sample(image, None, given, constants=[2], antialias=1, reference="onnx", **attrs)  # type: ignore[arg-type]

    return [
        case([0.6, 0.6], mode="linear", symbolic=False),
        case([0.6, 0.6], mode="cubic", symbolic=False),
        case([0.4, 2], mode="cubic", exclude_outside=1, symbolic=False),
        case([0.5, 0.5], mode="linear"),
    ]


def _run_time_samples(image: np.ndarray) -> list[Sample]:
    """Scales, sizes and regions that are inputs."""
    scales, sizes = np.array([1, 1, 2, 0.7], np.float32), int64(1, 2, 8, 3)
    region = np.array([0, 0, 0.1, 0.2, 1, 1, 0.8, 1.2], np.float32)
    crop = {"coordinate_transformation_mode": "tf_crop_and_resize", "mode": "linear", "extrapolation_value": 7.0}
    plain = _COORDINATES[:5]

    def case(*inputs: np.ndarray | None, **attrs: object) -> Sample:
        return sample(image, *inputs, fixed=[0, 1], **attrs)  # type: ignore[arg-type]

    return [
        *(case(None, scales, mode="nearest", coordinate_transformation_mode=c) for c in plain),
        *(case(None, scales, mode="linear", coordinate_transformation_mode=c) for c in plain),
        case(None, scales, mode="cubic"),
        *(case(None, None, sizes, mode="linear", coordinate_transformation_mode=c) for c in plain),
        case(None, None, sizes, mode="cubic", exclude_outside=1),
        case(region, None, int64(1, 2, 4, 6), **crop),
        case(None, None, int64(8, 9), axes=[2, 3], keep_aspect_ratio_policy="not_larger"),
        case(None, None, int64(8, 9), axes=[2, 3], keep_aspect_ratio_policy="not_smaller"),
        case(None, np.array([1, 1, 0.6, 0.6], np.float32), mode="linear", antialias=1, reference="onnx"),
    ]


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
        *_antialias_samples(image),
        *_run_time_samples(image),
    ]


@op("Resize", samples=_samples)
def resize(node: OpNode) -> Tensor:
    x, mode = node.input(0), node.attr("mode", "nearest")
    if mode not in _MODES:
        raise NotSupported(f"mode = {mode!r} is unknown")
    if mode != "nearest" and not is_float(x.dtype):
        raise NotSupported(f"{mode} interpolation of {x.dtype.name}")
    axes = _resized_axes(node, x)
    y = x
    if mode == "nearest":
        y = _pick(x, axes, node.attr("nearest_mode", "round_prefer_floor"))
    outside = bool(node.attr("exclude_outside", 0))
    for axis in axes if mode != "nearest" else []:
        if node.attr("antialias", 0) and (axis.scale is None or axis.scale < 1):
            y = _antialiased(node, y, axis, mode, node.attr("cubic_coeff_a", -0.75), outside)
        elif mode == "linear":
            y = _linear(y, axis)
        else:
            y = _cubic(y, axis, node.attr("cubic_coeff_a", -0.75), outside)
    return _extrapolate(y, axes, node.attr("extrapolation_value", 0.0))


def _pick(x: Tensor, axes: Sequence[_Axis], nearest_mode: str) -> Tensor:
    if nearest_mode not in _NEAREST:
        raise NotSupported(f"nearest_mode = {nearest_mode!r} is unknown")
    if not axes:
        return x
    functions = {axis.number: _nearest(axis, nearest_mode) for axis in axes}
    sizes = {axis.number: axis.after for axis in axes}
    shape = [sizes.get(k, d) for k, d in enumerate(x.shape)]
    sources = dict.fromkeys(t for axis in axes for t in axis.sources)

    def place(i: Sequence[Expr]) -> tuple[Expr, ...]:
        return tuple(functions[k](e) if k in functions else e for k, e in enumerate(i))

    return index_map(x, shape, place, *sources)


def _extrapolate(y: Tensor, axes: Sequence[_Axis], value: float) -> Tensor:
    for axis in axes:
        if axis.coordinates != "tf_crop_and_resize":
            continue

        def inside(i: Sequence[Expr], axis: _Axis = axis) -> Expr:
            x = axis.coordinate(i[axis.number])
            return E.logical("and", x >= 0, x <= E.cast(size(D.add(axis.before, -1)), F32))

        line = generate([axis.after if k == axis.number else 1 for k in range(y.rank)], inside, *axis.sources)
        y = map_(lambda ok, v: E.where(ok, v, value), line, y)
    return y


def _resized_axes(node: OpNode, x: Tensor) -> list[_Axis]:
    """The axes that change, with their sizes and scales."""
    coordinates = node.attr("coordinate_transformation_mode", "half_pixel")
    if coordinates not in _COORDINATES:
        raise NotSupported(f"coordinate_transformation_mode = {coordinates!r} is unknown")
    numbers = [node.axis(a, x.rank) for a in node.attr("axes", None) or range(x.rank)]
    before = [x.shape[k] for k in numbers]
    after, scales, given = _targets(node, before)
    roi: list[float | Expr] = [*[0.0] * len(numbers), *[1.0] * len(numbers)]
    sources = [node.input(2)] if given is not None and _by_scales(node) else []
    sources += [node.input(3)] if given is not None and not _by_scales(node) else []
    if coordinates == "tf_crop_and_resize":
        known = node.constant(1)
        if known is not None:
            roi = known.tolist()
        else:
            roi = [*_floats(node.input(1))]
            sources.append(node.input(1))
    result = []
    for j, k in enumerate(numbers):
        if coordinates != "tf_crop_and_resize" and D.same(before[j], after[j]) and scales[j] in (None, 1):
            continue
        part = roi[j], roi[len(numbers) + j]
        scale = None if given is None else given[j]
        result.append(_Axis(k, before[j], after[j], scales[j], coordinates, part, scale, tuple(sources)))
    return result


def _floats(x: Tensor) -> list[Expr]:
    """The elements of a tensor of floats of rank 1, in float32."""
    if x.rank != 1 or not D.is_static(*x.shape):
        raise NotSupported("how many axes it resizes must be known at compile time")
    return [E.cast(load(x, (Const(k, I64),)), F32) for k in range(int(x.shape[0]))]  # type: ignore[arg-type]


def _by_scales(node: OpNode) -> bool:
    sizes = node.optional(3)
    return sizes is None or D.same(sizes.shape[0], 0)


def _targets(node: OpNode, before: Sequence[Dim]) -> tuple[list[Dim], list[np.float32 | None], list[Expr] | None]:
    """Output sizes and scales of the given axes; the scales as expressions where they depend on an input's elements."""
    count = len(before)
    if _by_scales(node):
        known = node.constant(2)
        if known is not None:
            return [_scaled(d, s) for d, s in zip(before, known.astype(np.float32), strict=True)], list(known), None
        given = _floats(node.input(2))
        sizes = [E.cast(E.unary("floor", E.cast(size(d), F32) * s), I64) for d, s in zip(before, given, strict=True)]
        return measured(node, sizes, node.input(2)), [None] * count, given
    wanted, policy = node.dims(3), node.attr("keep_aspect_ratio_policy", "stretch")
    if policy == "stretch":
        after = measured(node, items(node.input(3)), node.input(3)) if wanted is None else wanted
        return after, [_scale(d, o) for d, o in zip(before, after, strict=True)], None
    if wanted is None or not D.is_static(*before, *wanted):
        return _kept_ratio(node, before, policy)
    ratios = [np.float32(int(o)) / np.float32(int(d)) for d, o in zip(before, wanted, strict=True)]
    scale = min(ratios) if policy == "not_larger" else max(ratios)
    return [int(np.floor(scale * np.float32(int(d)) + np.float32(0.5))) for d in before], [scale] * count, None


def _kept_ratio(
    node: OpNode, before: Sequence[Dim], policy: str
) -> tuple[list[Dim], list[np.float32 | None], list[Expr] | None]:
    """Sizes given at run time of which one is kept: all axes get its scale."""
    wanted = items(node.input(3))
    ratios = [E.cast(o, F32) / E.cast(size(d), F32) for d, o in zip(before, wanted, strict=True)]
    scale = functools.reduce(E.minimum if policy == "not_larger" else E.maximum, ratios)
    sizes = [E.cast(E.unary("floor", E.cast(size(d), F32) * scale + 0.5), I64) for d in before]
    return measured(node, sizes, node.input(3)), [None] * len(before), [scale] * len(before)


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
