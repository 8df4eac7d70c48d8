"""TFLite's arithmetic on quantised tensors: integers times a multiplier of 31 bits and a power of two.

Formulas from TensorFlow Lite's kernels (kernels/internal/common.h, quantization_util.cc, kernel_util.cc), with the
double rounding that they are built with. Everything is exact, in int64.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx_ir as ir

from graphfuse.importers.tflite.registry import NotSpelled
from graphfuse.importers.tflite.schema import Quantization
from graphfuse.importers.tflite.speller import ShapedSpeller

if TYPE_CHECKING:
    from graphfuse.importers.tflite.call import Call

Array = np.ndarray[Any, Any]
INT64, UINT64 = ir.DataType.INT64, ir.DataType.UINT64


def multiplier(real: float) -> tuple[int, int]:
    """A number as m * 2^(e - 31) with m of 31 bits (QuantizeMultiplier)."""
    if real == 0:
        return 0, 0
    fraction, exponent = math.frexp(real)
    m = math.floor(abs(fraction) * 2**31 + 0.5) * (1 if real > 0 else -1)
    if m == 2**31:
        m, exponent = m // 2, exponent + 1
    return (0, 0) if exponent < -31 else (m, exponent)


def multiplied(s: ShapedSpeller, x: ir.Value, real: Array) -> ir.Value:
    """x (integers of at most 32 bits) times reals that broadcast against it, rounded twice, as int64."""
    return multiplied_by(s, x, [multiplier(float(r)) for r in np.ravel(real)], np.shape(real))


def multiplied_by(
    s: ShapedSpeller, x: ir.Value, pairs: Sequence[tuple[int, int]], shape: tuple[int, ...] = ()
) -> ir.Value:
    """The same for multipliers and exponents, which together have that shape.

    MultiplyByQuantizedMultiplier: the upper half of the doubled product with the multiplier, rounded to nearest with
    halves up, then divided by a power of two with halves away from zero. ONNX shifts unsigned numbers only, so both
    shifts are of numbers that an offset has made positive.
    """
    left = np.array([m << max(e, 0) for m, e in pairs], np.int64).reshape(shape)
    right = np.array([max(-e, 0) for _, e in pairs], np.uint64).reshape(shape)
    p = s("Mul", s.cast(x, INT64), s.const(left, INT64))
    u = _shifted(s, s("Add", p, s.const((1 << 30) + (1 << 62), INT64)), np.uint64(31))
    # u is the doubled high product + 2^31.
    half = (np.uint64(1) << right) >> np.uint64(1)
    if right.any():
        below = s("Less", u, s.const(1 << 31, UINT64))
        nudge = s("Where", below, s.const(half - np.minimum(right, np.uint64(1)), UINT64), s.const(half, UINT64))
        u = s("BitShift", s("Add", u, nudge), s.const(right, UINT64), direction="RIGHT")
    return s("Sub", s.cast(u, INT64), s.const(np.int64(1) << (31 - right.astype(np.int64)), INT64))  # type: ignore[no-any-return]


def multiplied_wide(s: ShapedSpeller, x: ir.Value, real: Array) -> ir.Value:
    """x (int64, sums of products of words and bytes) times reals: the multiplier has 16 bits, and one rounding."""
    pairs = [multiplier(float(r)) for r in np.ravel(real)]
    shape = np.shape(real)
    reduced = [(m + (1 << 15)) >> 16 if m < 0x7FFF0000 else 0x7FFF for m, _ in pairs]
    shifts = np.array([15 - e for _, e in pairs], np.int64).reshape(shape)
    if (shifts < 1).any() or (shifts > 61).any():
        raise NotSpelled("its scales are too far apart")
    p = s("Mul", s.cast(x, INT64), s.const(np.array(reduced, np.int64).reshape(shape), INT64))
    moved = s("Add", p, s.const((np.int64(1) << (shifts - 1)) + np.int64(1 << 62), INT64))
    u = _shifted(s, moved, shifts.astype(np.uint64))
    return s("Sub", s.cast(u, INT64), s.const(np.int64(1) << (62 - shifts), INT64))  # type: ignore[no-any-return]


def _shifted(s: ShapedSpeller, x: ir.Value, by: Any) -> ir.Value:
    return s("BitShift", s.cast(x, UINT64), s.const(by, UINT64), direction="RIGHT")  # type: ignore[no-any-return]


def limits(dtype: ir.DataType) -> tuple[int, int]:
    """The least and the greatest number of an integer type."""
    info = np.iinfo(dtype.numpy())
    return int(info.min), int(info.max)


def activation_range(activation: int, q: Quantization, dtype: ir.DataType) -> tuple[int, int]:
    """What a fused activation leaves of the range of a type (CalculateActivationRangeQuantized)."""
    least, most = limits(dtype)
    low, high = {0: (None, None), 1: (0.0, None), 2: (-1.0, 1.0), 3: (0.0, 6.0)}.get(activation, (0.0, 0.0))
    if activation not in (0, 1, 2, 3):
        raise NotSpelled(f"activation {activation} of a quantised operator")

    def quantize(x: float) -> int:
        v = float(np.float32(x) / q.scale[0])
        return int(q.zero[0]) + math.floor(abs(v) + 0.5) * (1 if v >= 0 else -1)

    least = least if low is None else max(least, quantize(low))
    return least, most if high is None else min(most, quantize(high))


def requantized(s: ShapedSpeller, x: ir.Value, real: Array, q: Quantization, dtype: ir.DataType, activation: int = 0,
                wide: bool = False) -> ir.Value:  # fmt: skip
    """The bytes or words of a result, from its sums and the scale of those over its own."""
    y = (multiplied_wide if wide else multiplied)(s, x, real)
    return stored(s, y, q, dtype, activation)


def stored(s: ShapedSpeller, y: ir.Value, q: Quantization, dtype: ir.DataType, activation: int = 0) -> ir.Value:
    """Whole steps (int64) from the zero point, held inside the range."""
    least, most = activation_range(activation, q, dtype)
    if q.zero[0]:
        y = s("Add", y, s.const(int(q.zero[0]), y))
    return s.cast(s.clip(y, least, most), dtype)


def single(q: Quantization | None, what: str) -> Quantization:
    """A quantisation with one scale for all elements. Raises NotSpelled for none, and for one of each channel."""
    if q is None or len(q.scale) != 1:
        raise NotSpelled(f"{what} has no single scale")
    return q


# ---------------------------------------------------------------- reals


def real(call: Call, k: int) -> ir.Value:
    """Operand k as the reals that it stands for, float32; itself where it is not quantised."""
    q = call.quantized(k)
    return call.x(k) if q is None else dequantized(call.s, call.x(k), q)


def dequantized(s: ShapedSpeller, x: ir.Value, q: Quantization) -> ir.Value:
    """The reals that bytes or words stand for, float32."""
    per_axis = len(q.scale) > 1
    shape = (-1,) if per_axis else ()
    scale = s.constant(q.scale.reshape(shape))
    zero = s.const(q.zero.reshape(shape), x) if q.zero.any() else None
    return s("DequantizeLinear", x, scale, zero, axis=q.axis if per_axis else None)  # type: ignore[no-any-return]


def quantized(s: ShapedSpeller, x: ir.Value, q: Quantization, dtype: ir.DataType) -> ir.Value:
    """round(x / scale) + zero, halves away from zero, held inside the range (AffineQuantize)."""
    if len(q.scale) != 1:
        raise NotSpelled("a result with a scale for each channel")
    least, most = limits(dtype)
    zero = int(q.zero[0])
    v = s("Div", x, s.constant(q.scale[0]))
    a = s("Abs", v)
    whole = s("Floor", a)
    up = s("GreaterOrEqual", s("Sub", a, whole), s.constant(0.5))
    steps = s("Mul", s("Add", whole, s.cast(up, ir.DataType.FLOAT)), s("Sign", v))
    return s.cast(s.clip(s("Add", steps, s.constant(float(zero))), float(least), float(most)), dtype)


def kept(call: Call, y: ir.Value, k: int = 0) -> ir.Value:
    """Reals as output k has them: themselves, or the bytes that stand for them."""
    q = call.out_quantized(k)
    return y if q is None else quantized(call.s, y, q, call.out_dtype(k))
