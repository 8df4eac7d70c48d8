"""Conversions between element types as vector C: widened to what is computed in, converted, narrowed."""

from __future__ import annotations

from graphfuse.graph.dtypes import (
    BF16,
    BOOL,
    E8M0,
    F16,
    F32,
    I2,
    I4,
    I8,
    I16,
    I32,
    NARROW,
    U2,
    U4,
    U8,
    U16,
    DType,
    code_name,
    is_float,
    natural,
    register,
    suffix,
)
from graphfuse.ops.expr import CASTS, Call

# What is added to the mantissa before the exponent is taken as a power of two.
_STEPS = {"up": "0x7fffff", "nearest": "0x400000", "down": "0"}


def conversion_text(e: Call, text: str) -> str:
    """A register converted to the call's type; `e.fn` is one of CASTS."""
    source, target = e.args[0].dtype, e.dtype
    value = _widened(source, text)
    held = natural(source)
    if target in (I4, U4, I2, U2):
        return _low_bits(held, target, value)
    if natural(target) != F32 or target == F32:
        return value if held == target else f"gf_cast_{suffix(held)}_{suffix(target)}({value})"
    if target == E8M0:  # by way of float32 rounded to nearest, as ONNX's own evaluator
        single = value if held == F32 else f"gf_cast_{suffix(held)}_f32({value})"
    else:
        single = value if held == F32 else f"gf_odd_{suffix(held)}({value})"
    if target in NARROW:
        return single if _fits(source, target) else f"gf_round_{suffix(target)}({single})"
    saturate, mode = CASTS[e.fn]
    if target == E8M0:
        return f"gf_to_e8m0({single}, {_STEPS[mode]}, {int(not saturate)})"
    return f"gf_{'to' if saturate else 'open'}_{code_name(target)}({single})"


def bitcast_text(source: DType, target: DType, text: str) -> str:
    """A register whose elements have the same bits as another type."""
    bits = f"gf_to_{suffix(source)}({text})" if source in NARROW else text
    if source == BOOL:
        bits = f"gf_u8_of_mask({text})"
    if target == BOOL:
        return f"gf_mask_of_u8((gf_u8){bits})"
    if target in NARROW:
        return f"gf_of_{suffix(target)}((gf_u16){bits})"
    return f"(gf_{register(target)}){bits}"


def _widened(source: DType, text: str) -> str:
    name = code_name(source)
    return text if name is None else f"gf_of_{name}({text})"


def _low_bits(held: DType, target: DType, value: str) -> str:
    bits = 4 if target in (I4, U4) else 2
    if held == BOOL:
        return f"gf_cast_bool_u8({value})"
    if is_float(held):
        held, value = I32, f"gf_cast_{suffix(held)}_i32({value})"
    return f"gf_low{bits}_{suffix(held)}({value})"


def _fits(source: DType, target: DType) -> bool:
    """Whether every value of one type is one of the other."""
    if source == target or source in (BOOL, I8, U8, I4, U4, I2, U2):
        return True
    if source in (I16, U16, BF16, F16, F32) or natural(source) != F32:
        return False
    return source != E8M0 or target == BF16
