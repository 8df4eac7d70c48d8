"""Resize: the sizes and scales of its axes, which may be inputs, and which way each is resampled."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from fractions import Fraction

import numpy as np
import sympy

from graphfuse.graph import dims as D
from graphfuse.graph.dims import Dim
from graphfuse.graph.dtypes import F32, I64, is_float
from graphfuse.ops import expr as E
from graphfuse.ops.expr import Const, Expr
from graphfuse.ops.registry import NotSupported, OpNode, op
from graphfuse.ops.resampling import Axis, antialiased, cubic, linear, nearest
from graphfuse.ops.runtime_sizes import items, measure_sizes
from graphfuse.ops.samples import Sample, floats, int64, ints, sample
from graphfuse.ops.tensor import Tensor, generate, index_map, load, map_, size

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
            y = antialiased(node, y, axis, mode, node.attr("cubic_coeff_a", -0.75), outside)
        elif mode == "linear":
            y = linear(y, axis)
        else:
            y = cubic(y, axis, node.attr("cubic_coeff_a", -0.75), outside)
    return _extrapolate(y, axes, node.attr("extrapolation_value", 0.0))


def _pick(x: Tensor, axes: Sequence[Axis], nearest_mode: str) -> Tensor:
    if nearest_mode not in _NEAREST:
        raise NotSupported(f"nearest_mode = {nearest_mode!r} is unknown")
    if not axes:
        return x
    functions = {axis.number: nearest(axis, nearest_mode) for axis in axes}
    sizes = {axis.number: axis.after for axis in axes}
    shape = [sizes.get(k, d) for k, d in enumerate(x.shape)]
    sources = dict.fromkeys(t for axis in axes for t in axis.sources)

    def place(i: Sequence[Expr]) -> tuple[Expr, ...]:
        return tuple(functions[k](e) if k in functions else e for k, e in enumerate(i))

    return index_map(x, shape, place, *sources)


def _extrapolate(y: Tensor, axes: Sequence[Axis], value: float) -> Tensor:
    for axis in axes:
        if axis.coordinates != "tf_crop_and_resize":
            continue

        def inside(i: Sequence[Expr], axis: Axis = axis) -> Expr:
            x = axis.coordinate(i[axis.number])
            return E.logical("and", x >= 0, x <= E.cast(size(D.add(axis.before, -1)), F32))

        line = generate([axis.after if k == axis.number else 1 for k in range(y.rank)], inside, *axis.sources)
        y = map_(lambda ok, v: E.where(ok, v, value), line, y)
    return y


def _resized_axes(node: OpNode, x: Tensor) -> list[Axis]:
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
        result.append(Axis(k, before[j], after[j], scales[j], coordinates, part, scale, tuple(sources)))
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
        return measure_sizes(node, sizes, node.input(2)), [None] * count, given
    wanted, policy = node.dims(3), node.attr("keep_aspect_ratio_policy", "stretch")
    if policy == "stretch":
        after = measure_sizes(node, items(node.input(3)), node.input(3)) if wanted is None else wanted
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
    return measure_sizes(node, sizes, node.input(3)), [None] * len(before), [scale] * len(before)


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
