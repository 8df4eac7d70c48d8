"""Operators of two operands, element by element."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from graphfuse.importers.tflite.call import Call
from graphfuse.importers.tflite.quantized import kept, multiplied, real, requantized, single, stored
from graphfuse.importers.tflite.registry import NotSpelled, operator
from graphfuse.importers.tflite.windows import activated

_ONNX = {"ADD": "Add", "SUB": "Sub", "MUL": "Mul", "DIV": "Div"}
_OPTIONS = {"ADD": "AddOptions", "SUB": "SubOptions", "MUL": "MulOptions", "DIV": "DivOptions"}
INT16, INT32, INT64 = ir.DataType.INT16, ir.DataType.INT32, ir.DataType.INT64


@operator("ADD", "SUB")
def add(call: Call) -> ir.Value:
    activation = call.options(_OPTIONS[call.type]).FusedActivationFunction()
    if not call.is_quantized:
        return activated(call.s, call.s(_ONNX[call.type], call.x(0), call.x(1)), activation)
    return _quantized_sum(call, activation)


def _quantized_sum(call: Call, activation: int) -> ir.Value:
    """Both operands in steps of their larger scale / 2^19 (2^14 of words), added, and rescaled."""
    s, dtype = call.s, call.out_dtype()
    qa, qb = single(call.quantized(0), "an operand"), single(call.quantized(1), "an operand")
    result = single(call.out_quantized(), "the result")
    digits = 15 if dtype == INT16 else 20
    widest = 2.0 * float(max(qa.scale[0], qb.scale[0]))
    terms = [
        multiplied(s, _steps(call, k, q.zero[0], 1 << digits), np.float64(float(q.scale[0]) / widest))
        for k, q in enumerate((qa, qb))
    ]
    total = s(_ONNX[call.type], *terms)
    out = np.float32(1 << digits) * result.scale[0]
    return requantized(s, total, np.float64(widest / float(out)), result, dtype, activation)


def _steps(call: Call, k: int, zero: int, factor: int = 1) -> ir.Value:
    """Operand k, less its zero point, in int64."""
    s = call.s
    x = s.cast(call.x(k), INT64)
    x = s("Sub", x, s.const(zero, x)) if zero else x
    return s("Mul", x, s.const(factor, x)) if factor != 1 else x


@operator("MUL")
def mul(call: Call) -> ir.Value:
    s, activation = call.s, call.options("MulOptions").FusedActivationFunction()
    if not call.is_quantized:
        return activated(s, s("Mul", call.x(0), call.x(1)), activation)
    qa, qb = single(call.quantized(0), "an operand"), single(call.quantized(1), "an operand")
    result, dtype = single(call.out_quantized(), "the result"), call.out_dtype()
    factor = np.float64(qa.scale[0] * qb.scale[0] / result.scale[0])
    product = s("Mul", _steps(call, 0, qa.zero[0]), _steps(call, 1, qb.zero[0]))
    return requantized(s, product, factor, result, dtype, activation)


@operator("DIV")
def div(call: Call) -> ir.Value:
    y = call.s("Div", real(call, 0), real(call, 1))
    return kept(call, activated(call.s, y, call.options("DivOptions").FusedActivationFunction()))


@operator("MAXIMUM", "MINIMUM")
def extreme(call: Call) -> ir.Value:
    kind = "Max" if call.type == "MAXIMUM" else "Min"
    if call.is_quantized and not _alike(call):
        return kept(call, call.s(kind, real(call, 0), real(call, 1)))
    return call.s(kind, call.x(0), call.x(1))  # type: ignore[no-any-return]


def _alike(call: Call) -> bool:
    """Whether operands and result have the same scale and zero point."""
    every = [single(q, "an operand") for q in (call.quantized(0), call.quantized(1), call.out_quantized())]
    return all(q.scale[0] == every[0].scale[0] and q.zero[0] == every[0].zero[0] for q in every)


@operator("POW")
def power(call: Call) -> ir.Value:
    return kept(call, call.s("Pow", real(call, 0), real(call, 1)))


@operator("SQUARED_DIFFERENCE")
def squared_difference(call: Call) -> ir.Value:
    s = call.s
    if not call.is_quantized:
        d = s("Sub", call.x(0), call.x(1))
        return s("Mul", d, d)  # type: ignore[no-any-return]
    # In steps of the larger scale / 2^6, squared.
    qa, qb = single(call.quantized(0), "an operand"), single(call.quantized(1), "an operand")
    result = single(call.out_quantized(), "the result")
    widest = 2.0 * float(max(qa.scale[0], qb.scale[0]))
    a, b = (
        multiplied(s, _steps(call, k, q.zero[0], 1 << 7), np.float64(float(q.scale[0]) / widest))
        for k, q in enumerate((qa, qb))
    )
    d = s("Sub", a, b)
    factor = widest * widest / float(np.float32(1 << 14) * result.scale[0])
    return stored(s, multiplied(s, s("Mul", d, d), np.float64(factor)), result, call.out_dtype())


@operator("FLOOR_DIV", "FLOOR_MOD")
def floor_division(call: Call) -> ir.Value:
    """Rounded down, and with the sign of the divisor."""
    s, x, y = call.s, real(call, 0), real(call, 1)
    integer = x.dtype is not None and x.dtype.is_integer()
    if call.type == "FLOOR_DIV":
        if not integer:
            return kept(call, s("Floor", s("Div", x, y)))
        # (x - floormod(x, y)) / y is exact.
        return s("Div", s("Sub", x, s("Mod", x, y)), y)  # type: ignore[no-any-return]
    if integer:
        return s("Mod", x, y)  # type: ignore[no-any-return]
    r = s("Mod", x, y, fmod=1)
    zero = s.const(0, r)
    differs = s("Xor", s("Less", r, zero), s("Less", y, zero))
    moved = s("And", differs, s("Not", s("Equal", r, zero)))
    return kept(call, s("Where", moved, s("Add", r, y), r))


@operator("ATAN2")
def atan2(call: Call) -> ir.Value:
    """The angle of (x, y), by the quadrant."""
    s, y, x = call.s, call.x(0), call.x(1)
    zero, pi = s.const(0, x), s.const(np.pi, x)
    half = s.const(np.pi / 2, x)
    base = s("Atan", s("Div", y, x))
    left = s("Where", s("Less", y, zero), s("Sub", base, pi), s("Add", base, pi))
    upright = s("Where", s("Greater", y, zero), half, s("Where", s("Less", y, zero), s("Neg", half), zero))
    beside = s("Where", s("Less", x, zero), left, base)
    return s("Where", s("Equal", x, zero), upright, beside)  # type: ignore[no-any-return]


@operator("ADD_N")
def add_n(call: Call) -> ir.Value:
    s, operands = call.s, call.every()
    if call.is_quantized:
        raise NotSpelled("a sum of quantised operands")
    y = operands[0]
    for x in operands[1:]:
        y = s("Add", y, x)
    return s("Identity", y) if len(operands) == 1 else y


# ---------------------------------------------------------------- comparisons and logic

_COMPARISONS = {
    "EQUAL": "Equal",
    "NOT_EQUAL": "Equal",
    "LESS": "Less",
    "LESS_EQUAL": "LessOrEqual",
    "GREATER": "Greater",
    "GREATER_EQUAL": "GreaterOrEqual",
}
_LOGIC = {"LOGICAL_AND": "And", "LOGICAL_OR": "Or", "LOGICAL_NOT": "Not"}


@operator(*_COMPARISONS)
def comparison(call: Call) -> ir.Value:
    y = call.s(_COMPARISONS[call.type], real(call, 0), real(call, 1))
    return call.s("Not", y) if call.type == "NOT_EQUAL" else y  # type: ignore[no-any-return]


@operator(*_LOGIC)
def logic(call: Call) -> ir.Value:
    return call.s(_LOGIC[call.type], *call.every())  # type: ignore[no-any-return]


@operator("BITWISE_XOR")
def bitwise_xor(call: Call) -> ir.Value:
    kind = "Xor" if call.x(0).dtype == ir.DataType.BOOL else "BitwiseXor"
    return call.s(kind, call.x(0), call.x(1))  # type: ignore[no-any-return]


@operator("RIGHT_SHIFT")
def right_shift(call: Call) -> ir.Value:
    """Arithmetic: of a negative number, the bits of what is turned, turned."""
    s, x, y = call.s, call.x(0), call.x(1)
    dtype = x.dtype
    assert dtype is not None
    unsigned = {1: ir.DataType.UINT8, 2: ir.DataType.UINT16, 4: ir.DataType.UINT32}[int(dtype.itemsize)]
    bits = 8 * int(dtype.itemsize)
    by = s.cast(s("Min", s("Max", y, s.const(0, y)), s.const(bits - 1, y)), unsigned)
    if dtype == unsigned:
        return s("BitShift", x, by, direction="RIGHT")  # type: ignore[no-any-return]
    negative = s("Less", x, s.const(0, x))
    turned = s("Where", negative, s("BitwiseNot", x), x)
    y = s.cast(s("BitShift", s.cast(turned, unsigned), by, direction="RIGHT"), dtype)
    return s("Where", negative, s("BitwiseNot", y), y)  # type: ignore[no-any-return]
