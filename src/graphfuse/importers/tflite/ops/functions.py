"""Functions of one operand. Of bytes they are tables of 256 entries, as in LiteRT's own kernels (LUTPopulate)."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import onnx_ir as ir

from graphfuse.importers.tflite.call import Call
from graphfuse.importers.tflite.quantized import (
    Array,
    activation_range,
    kept,
    limits,
    multiplied,
    real,
    requantized,
    single,
)
from graphfuse.importers.tflite.registry import NotSpelled, operator
from graphfuse.importers.tflite.windows import RELU, RELU6, RELU_N1_TO_1

BYTES = (ir.DataType.INT8, ir.DataType.UINT8)
FLOAT = ir.DataType.FLOAT

_SIMPLE = {
    "ABS": "Abs",
    "CEIL": "Ceil",
    "COS": "Cos",
    "EXP": "Exp",
    "FLOOR": "Floor",
    "LOG": "Log",
    "LOGISTIC": "Sigmoid",
    "NEG": "Neg",
    "RELU": "Relu",
    "ROUND": "Round",
    "SIGN": "Sign",
    "SIN": "Sin",
    "SQRT": "Sqrt",
    "TANH": "Tanh",
}
_TABLES: dict[str, Callable[[Array], Array]] = {
    "COS": np.cos,
    "EXP": np.exp,
    "FLOOR": np.floor,
    "LOG": np.log,
    "LOGISTIC": lambda x: 1 / (1 + np.exp(-x)),
    "NEG": np.negative,
    "SIN": np.sin,
    "SQRT": np.sqrt,
    "TANH": np.tanh,
    "ABS": np.abs,
    "CEIL": np.ceil,
    "ROUND": np.round,
    "SIGN": np.sign,
    "RSQRT": lambda x: 1 / np.sqrt(x),
    "SQUARE": np.square,
    "ELU": lambda x: np.where(x < 0, np.expm1(x), x),
    "HARD_SWISH": lambda x: x * np.clip(x + 3, 0, 6) / 6,
}


@operator(*_SIMPLE)
def function(call: Call) -> ir.Value:
    if call.is_quantized:
        return _relu(call, RELU) if call.type == "RELU" else _of_bytes(call, _TABLES[call.type])
    return call.s(_SIMPLE[call.type], call.x(0))  # type: ignore[no-any-return]


def _of_bytes(call: Call, f: Callable[[Array], Array]) -> ir.Value:
    """A table for bytes; words are reals for a moment."""
    x = call.x(0)
    q, result = single(call.quantized(0), "the input"), single(call.out_quantized(), "the result")
    if x.dtype not in BYTES:
        return kept(call, _real_function(call, real(call, 0)))
    assert x.dtype is not None
    stored = np.arange(*_ends(x.dtype))
    with np.errstate(all="ignore"):
        y = np.asarray(f((stored - q.zero[0]).astype(np.float32) * q.scale[0]), np.float32)
        scaled = (y * (np.float32(1) / result.scale[0])).astype(np.float64)
    steps = np.nan_to_num(scaled, posinf=1e9, neginf=-1e9)
    rounded = np.floor(np.abs(steps) + 0.5) * np.sign(steps) + result.zero[0]
    return looked_up(call, x, np.clip(rounded, *limits(call.out_dtype())).astype(call.out_dtype().numpy()))


def _ends(dtype: ir.DataType) -> tuple[int, int]:
    least, most = limits(dtype)
    return least, most + 1


def looked_up(call: Call, x: ir.Value, table: Array) -> ir.Value:
    """The entry of a table for each byte."""
    s = call.s
    index = s.cast(x, ir.DataType.INT32)
    if x.dtype == ir.DataType.INT8:
        index = s("Add", index, s.const(128, index))
    return s("Gather", s.constant(table), index)  # type: ignore[no-any-return]


def _real_function(call: Call, x: ir.Value) -> ir.Value:
    s = call.s
    if call.type in _SIMPLE:
        return s(_SIMPLE[call.type], x)  # type: ignore[no-any-return]
    if call.type == "RSQRT":
        return s("Reciprocal", s("Sqrt", x))  # type: ignore[no-any-return]
    if call.type == "SQUARE":
        return s("Mul", x, x)  # type: ignore[no-any-return]
    if call.type == "ELU":
        return s("Elu", x)  # type: ignore[no-any-return]
    if call.type == "HARD_SWISH":
        return s("HardSwish", x)  # type: ignore[no-any-return]
    raise NotSpelled(f"{call.type} of this type")


@operator("RSQRT", "SQUARE", "ELU", "HARD_SWISH")
def composed(call: Call) -> ir.Value:
    return _of_bytes(call, _TABLES[call.type]) if call.is_quantized else _real_function(call, call.x(0))


@operator("GELU")
def gelu(call: Call) -> ir.Value:
    how = "tanh" if call.options("GeluOptions").Approximate() else "none"
    if not call.is_quantized or call.x(0).dtype not in BYTES:
        return kept(call, call.s("Gelu", real(call, 0), approximate=how))
    if how == "tanh":
        return _of_bytes(call, lambda x: x * 0.5 * (1 + np.tanh(0.7978845608 * (x + 0.044715 * x**3))))
    return _of_bytes(call, lambda x: x * 0.5 * (1 + np.vectorize(math.erf)(x * np.sqrt(0.5))))


@operator("RELU6", "RELU_N1_TO_1", "RELU_0_TO_1")
def clipped(call: Call) -> ir.Value:
    low, high = {"RELU6": (0, 6), "RELU_N1_TO_1": (-1, 1), "RELU_0_TO_1": (0, 1)}[call.type]
    if not call.is_quantized:
        return call.s.clip(call.x(0), low, high)
    if call.type == "RELU_0_TO_1":
        return _of_bytes(call, lambda x: np.clip(x, 0, 1))
    return _relu(call, RELU6 if call.type == "RELU6" else RELU_N1_TO_1)


def _relu(call: Call, activation: int) -> ir.Value:
    """The input in the scale of the result, held inside its range (QuantizedReluX)."""
    s, q, result = call.s, single(call.quantized(0), "the input"), single(call.out_quantized(), "the result")
    steps = _from_zero(call, q.zero[0])
    factor = np.float64(np.float32(q.scale[0] / result.scale[0]))
    return requantized(s, steps, factor, result, call.out_dtype(), activation)


def _from_zero(call: Call, zero: int) -> ir.Value:
    s = call.s
    x = s.cast(call.x(0), ir.DataType.INT64)
    return s("Sub", x, s.const(zero, x)) if zero else x


@operator("LEAKY_RELU")
def leaky_relu(call: Call) -> ir.Value:
    s, alpha = call.s, call.options("LeakyReluOptions").Alpha()
    if not call.is_quantized:
        return s("LeakyRelu", call.x(0), alpha=alpha)  # type: ignore[no-any-return]
    q, result = single(call.quantized(0), "the input"), single(call.out_quantized(), "the result")
    x = _from_zero(call, q.zero[0])
    same = multiplied(s, x, np.float64(q.scale[0] / result.scale[0]))
    less = multiplied(s, x, np.float64(q.scale[0] * np.float32(alpha) / result.scale[0]))
    y = s("Where", s("GreaterOrEqual", x, s.const(0, x)), same, less)
    y = s("Add", y, s.const(int(result.zero[0]), y))
    return s.cast(s.clip(y, *activation_range(0, result, call.out_dtype())), call.out_dtype())


@operator("PRELU")
def prelu(call: Call) -> ir.Value:
    return kept(call, call.s("PRelu", real(call, 0), real(call, 1)))


@operator("SOFTMAX")
def softmax(call: Call) -> ir.Value:
    """Over the last axis, of the input times beta."""
    s, beta, x = call.s, call.options("SoftmaxOptions").Beta(), real(call, 0)
    x = x if beta == 1 else s("Mul", x, s.const(beta, x))
    return kept(call, s("Softmax", x, axis=-1))


@operator("LOG_SOFTMAX")
def log_softmax(call: Call) -> ir.Value:
    return kept(call, call.s("LogSoftmax", real(call, 0), axis=-1))


@operator("ZEROS_LIKE")
def zeros_like(call: Call) -> ir.Value:
    s, x = call.s, call.x(0)
    return s("Expand", s.const(0, x), s("Shape", x))  # type: ignore[no-any-return]


# ---------------------------------------------------------------- types


@operator("CAST")
def cast(call: Call) -> ir.Value:
    x, to = call.x(0), call.out_dtype()
    return call.s("Identity", x) if x.dtype == to else call.s("Cast", x, to=int(to))  # type: ignore[no-any-return]


@operator("BITCAST")
def bitcast(call: Call) -> ir.Value:
    """The same bits as another type of the same size."""
    x, to = call.x(0), call.out_dtype()
    if x.dtype is None or x.dtype.itemsize != to.itemsize:
        raise NotSpelled("to a type of another size")
    if x.dtype == to:
        return call.s("Identity", x)  # type: ignore[no-any-return]
    if x.dtype.is_integer() and to.is_integer():
        return call.s("Cast", x, to=int(to))  # type: ignore[no-any-return]
    raise NotSpelled("between floats and integers")


@operator("DEQUANTIZE")
def dequantize(call: Call) -> ir.Value:
    s, x = call.s, call.x(0)
    known = call.known(0)
    if call.quantized(0) is None:
        if known is not None:  # weights of 16 bits
            return s.weight(known.astype(np.float32), call.name)
        return s("Cast", x, to=int(FLOAT))  # type: ignore[no-any-return]
    return real(call, 0)


@operator("QUANTIZE")
def quantize(call: Call) -> ir.Value:
    s, q, result = call.s, call.quantized(0), single(call.out_quantized(), "the result")
    if q is None:
        return kept(call, call.x(0))
    one = single(q, "the input")
    steps = _from_zero(call, one.zero[0])
    factor = np.float64(one.scale[0]) / np.float64(result.scale[0])
    return requantized(s, steps, np.float64(factor), result, call.out_dtype())


@operator("FAKE_QUANT")
def fake_quant(call: Call) -> ir.Value:
    """Rounded to the steps of a quantisation that is nudged so that zero is one of them."""
    o, s = call.options("FakeQuantOptions"), call.s
    low, high = np.float32(o.Min()), np.float32(o.Max())
    least, most = np.float32(1 if o.NarrowRange() else 0), np.float32((1 << max(o.NumBits(), 1)) - 1)
    if not low < high:
        raise NotSpelled(f"a range from {low} to {high}")
    scale = (high - low) / (most - least)
    zero = np.float32(np.clip(np.floor(np.abs(least - low / scale) + 0.5) * np.sign(least - low / scale), least, most))
    bottom, top = (least - zero) * scale, (most - zero) * scale
    x = s("Sub", s.clip(call.x(0), bottom, top), s.constant(bottom))
    # TfLiteRound of what is not negative.
    steps = s("Floor", s("Add", s("Mul", x, s.constant(np.float32(1) / scale)), s.constant(0.5)))
    return s("Add", s("Mul", steps, s.constant(scale)), s.constant(bottom))  # type: ignore[no-any-return]


@operator("DENSIFY")
def densify(call: Call) -> ir.Value:
    """Sparse constants are dense as soon as they are read."""
    known = call.constant(0, "sparse weights")
    return call.s.weight(known, call.name)
