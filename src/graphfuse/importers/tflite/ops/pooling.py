"""Poolings and normalisations over windows and channels."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import onnx_ir as ir

from graphfuse.importers.tflite.call import Call
from graphfuse.importers.tflite.quantized import activation_range, kept, real, single
from graphfuse.importers.tflite.registry import NotSpelled, operator
from graphfuse.importers.tflite.windows import activated, padding

FLOAT = ir.DataType.FLOAT


def _window(call: Call, x: ir.Value) -> tuple[dict[str, Any], int]:
    """The attributes of a pooling and its activation."""
    o = call.options("Pool2DOptions")
    kernel, strides = [o.FilterHeight(), o.FilterWidth()], [o.StrideH(), o.StrideW()]
    pads = padding(o.Padding(), call.s.shape(x)[2:], kernel, strides, [1, 1])
    return {"kernel_shape": kernel, "strides": strides, **pads}, o.FusedActivationFunction()


@operator("AVERAGE_POOL_2D")
def average_pool(call: Call) -> ir.Value:
    s = call.s
    x = s.channels_first(call.x(0))
    window, activation = _window(call, x)
    if call.is_quantized:
        return s.channels_last(_quantized_average(call, x, window, activation))
    return s.channels_last(activated(s, s("AveragePool", x, **window), activation))


def _quantized_average(call: Call, x: ir.Value, window: dict[str, Any], activation: int) -> ir.Value:
    """The sum over the number of elements, halves away from zero, of the stored numbers."""
    s, dtype = call.s, call.out_dtype()
    size = math.prod(window["kernel_shape"])
    reals = s.cast(x, FLOAT)
    mean = s("AveragePool", reals, count_include_pad=1, **window)
    total = s("Round", s("Mul", mean, s.constant(float(size))))
    count: ir.Value = s.constant(float(size))
    if len(window) > 2:
        ones = s("Add", s("Mul", reals, s.constant(0.0)), s.constant(1.0))
        sizes = [d for d in s.shape(x)[2:] if isinstance(d, int)]
        if len(sizes) == 2:
            ones = s.constant(np.ones((1, 1, *sizes), np.float32))
        share = s("AveragePool", ones, count_include_pad=1, **window)
        count = s("Round", s("Mul", share, s.constant(float(size))))
    half = s("Mul", s("Floor", s("Mul", count, s.constant(0.5))), s("Sign", total))
    # Conversion cuts the digits behind the point.
    y = s.cast(s("Div", s("Add", total, half), count), ir.DataType.INT32)
    least, most = activation_range(activation, single(call.out_quantized(), "the result"), dtype)
    return s.cast(s.clip(y, least, most), dtype)


@operator("MAX_POOL_2D")
def max_pool(call: Call) -> ir.Value:
    s = call.s
    x = s.channels_first(call.x(0))
    window, activation = _window(call, x)
    if not call.is_quantized:
        return s.channels_last(activated(s, s("MaxPool", x, **window), activation))
    dtype = call.out_dtype()
    narrow = dtype in (ir.DataType.INT8, ir.DataType.UINT8)
    y = s("MaxPool", x if narrow else s.cast(x, FLOAT), **window)
    if activation:
        y = s.clip(s.cast(y, FLOAT), *activation_range(activation, single(call.out_quantized(), "the result"), dtype))
    return s.channels_last(s.cast(y, dtype))


@operator("L2_POOL_2D")
def l2_pool(call: Call) -> ir.Value:
    s = call.s
    x = s.channels_first(call.x(0))
    window, activation = _window(call, x)
    if call.is_quantized:
        raise NotSpelled("a quantised L2 pooling")
    return s.channels_last(activated(s, s("Sqrt", s("AveragePool", s("Mul", x, x), **window)), activation))


@operator("L2_NORMALIZATION")
def l2_normalization(call: Call) -> ir.Value:
    """Over the last axis; the norm is at least 1e-6."""
    s, x = call.s, real(call, 0)
    total = s("ReduceSum", s("Mul", x, x), s.constant([-1]), keepdims=1)
    y = s("Div", x, s("Max", s("Sqrt", total), s.constant(1e-6)))
    return kept(call, activated(s, y, call.options("L2NormOptions").FusedActivationFunction()))


@operator("LOCAL_RESPONSE_NORMALIZATION")
def local_response_normalization(call: Call) -> ir.Value:
    """alpha is that of each element in TFLite, of the window in ONNX."""
    o, s = call.options("LocalResponseNormalizationOptions"), call.s
    size = 2 * o.Radius() + 1
    if size < 1:
        raise NotSpelled(f"a radius of {o.Radius()}")
    x = s.channels_first(call.x(0))
    return s.channels_last(s("LRN", x, size=size, alpha=o.Alpha() * size, beta=o.Beta(), bias=o.Bias()))
