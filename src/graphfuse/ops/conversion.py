"""Conversion between element types in NumPy, as ONNX's operator Cast has it."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np

from graphfuse.graph.dtypes import BOOL, E8M0, F32, FLOAT8, I2, I4, I32, U2, U4, DType, is_integer, natural


def cast(x: np.ndarray, dtype: DType, saturate: bool = True, round_mode: str = "up") -> np.ndarray:
    """ONNX's Cast. Floats out of an integer's range are held inside it (4 and 2 bits: higher bits are dropped)."""
    x, target = np.asarray(x), dtype.numpy()
    source = DType.from_numpy(x.dtype)
    if natural(source) != source:
        x = x.astype(natural(source).numpy())
    if dtype == BOOL:
        return x != 0
    if dtype == E8M0:
        return _power_of_two(x, saturate, round_mode)
    if x.dtype.kind == "f" and dtype in (I4, U4, I2, U2):
        x = cast(x, I32)
    if x.dtype.kind == "f" and is_integer(dtype):
        return _truncate(x, target)
    if natural(dtype) == F32 and dtype != F32:
        wide = x if x.dtype.kind == "f" else _float_of(x)
        return _to_float8(wide, target, saturate) if dtype in FLOAT8 else _narrowed(wide, target)
    return x.astype(target)


def _truncate(x: np.ndarray, target: np.dtype[Any]) -> np.ndarray:
    limits = np.iinfo(target)
    whole = np.nan_to_num(np.trunc(x.astype(np.float64)), nan=0.0)
    inside = np.where((whole >= limits.min) & (whole < float(limits.max)), whole, 0.0).astype(target)
    return np.where(whole >= float(limits.max), limits.max, np.where(whole < limits.min, limits.min, inside))


def _float_of(x: np.ndarray) -> np.ndarray:
    """Integers in float64. Bits that it cannot hold set the last one that it can: rounded further, the result is the
    one that rounding once gives.
    """
    if x.itemsize < 8:
        return x.astype(np.float64)
    a = x.astype(np.uint64) if x.dtype.kind == "u" else np.abs(x).view(np.uint64)  # that of the least int64 wraps
    low = a & np.uint64(0x7FF)
    held = np.where(a >> np.uint64(53) != 0, (a ^ low) | np.where(low != 0, np.uint64(0x800), np.uint64(0)), a)
    return np.copysign(held.astype(np.float64), np.where(x < 0, -1.0, 1.0))


def _narrowed(x: np.ndarray, target: np.dtype[Any]) -> np.ndarray:
    """Rounded once: what float32 cannot hold is rounded to odd on the way."""
    if target == ml_dtypes.float4_e2m1fn:
        x = np.where(np.isnan(x), np.copysign(x.dtype.type(0), -1), x)  # there is no NaN
    if x.dtype != np.float64 or target == np.float16:
        return x.astype(target)
    r = x.astype(np.float32)
    toward = np.where(np.abs(r.astype(np.float64)) > np.abs(x), np.nextafter(r, np.float32(0)), r)
    inexact = (r.astype(np.float64) != x) & ~np.isnan(x)
    odd = np.where(inexact, (toward.view(np.uint32) | 1).view(np.float32), r)
    return odd.astype(np.float32).astype(target)


def _to_float8(x: np.ndarray, target: np.dtype[Any], saturate: bool) -> np.ndarray:
    limits = ml_dtypes.finfo(target)
    if saturate:
        # NaN stays NaN, and what rounds to the largest number stays below it
        x = np.where(np.isnan(x), x, np.clip(x, float(limits.min), float(limits.max)))
    return _narrowed(x, target)


def _power_of_two(x: np.ndarray, saturate: bool, round_mode: str) -> np.ndarray:
    """|x| as float8e8m0: 2^(code - 127), 255 is NaN."""
    a = np.abs(x.astype(np.float32)).astype(np.float64)
    low = 2.0**-127
    fraction, exponent = np.frexp(np.where((a >= low) & np.isfinite(a), a, 1.0))  # fraction in [1/2, 1)
    up = {"up": fraction > 0.5, "down": np.zeros(a.shape, bool), "nearest": fraction >= 0.75}[round_mode]
    code = exponent + 126 + up
    code = np.where(np.isinf(a) | (code > 254), 254 if saturate else 255, code)
    code = np.where(a < low, 0 if saturate else 255, code)
    return np.where(np.isnan(a), 255, code).astype(np.uint8).view(ml_dtypes.float8_e8m0fnu)
