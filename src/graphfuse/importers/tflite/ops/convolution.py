"""Convolutions: channels last in TFLite, channels first in ONNX.

Each stands between two transposes that undo those of its neighbours (see rules/simplify_layout.py) or are strides.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir

from graphfuse.graph.infer import elements
from graphfuse.importers.tflite.call import Call
from graphfuse.importers.tflite.quantized import dequantized, kept, requantized, single
from graphfuse.importers.tflite.registry import NotSpelled, operator
from graphfuse.importers.tflite.schema import Quantization
from graphfuse.importers.tflite.speller import known_array
from graphfuse.importers.tflite.windows import activated, padding, same_pads

INT8, UINT8, INT16, INT32 = ir.DataType.INT8, ir.DataType.UINT8, ir.DataType.INT16, ir.DataType.INT32
FLOAT, DOUBLE, INT64 = ir.DataType.FLOAT, ir.DataType.DOUBLE, ir.DataType.INT64
# Up to this every integer is a float32.
_EXACT = 1 << 24


@operator("CONV_2D")
def conv_2d(call: Call) -> ir.Value:
    o = call.options("Conv2DOptions")
    strides, dilations = [o.StrideH(), o.StrideW()], [o.DilationHFactor(), o.DilationWFactor()]
    w = call.s.transpose(call.x(1), [0, 3, 1, 2])  # from [O, H, W, I]
    channels, per_group = call.s.shape(call.x(0))[-1], call.s.sizes(w)[1]
    groups = channels // per_group if isinstance(channels, int) and per_group else 1
    return _convolution(call, w, strides, dilations, groups, o)


@operator("DEPTHWISE_CONV_2D")
def depthwise_conv_2d(call: Call) -> ir.Value:
    o = call.options("DepthwiseConv2DOptions")
    strides, dilations = [o.StrideH(), o.StrideW()], [o.DilationHFactor(), o.DilationWFactor()]
    w = call.s.transpose(call.x(1), [3, 0, 1, 2])  # from [1, H, W, C]
    channels, outputs = call.s.shape(call.x(0))[-1], call.s.sizes(w)[0]
    groups = channels if isinstance(channels, int) else outputs // max(o.DepthMultiplier(), 1)
    return _convolution(call, w, strides, dilations, groups, o)


@operator("CONV_3D")
def conv_3d(call: Call) -> ir.Value:
    o = call.options("Conv3DOptions")
    strides = [o.StrideD(), o.StrideH(), o.StrideW()]
    dilations = [o.DilationDFactor(), o.DilationHFactor(), o.DilationWFactor()]
    w = call.s.transpose(call.x(1), [4, 3, 0, 1, 2])  # from [D, H, W, I, O]
    if call.is_quantized:
        raise NotSpelled("a quantised convolution of three dimensions")
    return _convolution(call, w, strides, dilations, 1, o)


def _convolution(call: Call, w: ir.Value, strides: list[int], dilations: list[int], groups: int, o: Any) -> ir.Value:
    s = call.s
    x = s.channels_first(call.x(0))
    kernel = s.sizes(w)[2:]
    window: dict[str, Any] = {"strides": strides, "dilations": dilations, "group": groups, "kernel_shape": kernel}
    window |= padding(o.Padding(), s.shape(x)[2:], kernel, strides, dilations)
    bias = call.x(2) if call.has(2) else None
    activation = o.FusedActivationFunction()
    if call.quantized(0) is None:
        weights = call.quantized(1)
        if weights is not None:
            w = dequantized(s, w, _moved(weights))
        return s.channels_last(activated(s, s("Conv", x, w, bias, **window), activation))
    y = _sums(call, x, w, bias, "Conv", window)
    return s.channels_last(_requantized(call, y, activation))


def _moved(q: Quantization) -> Quantization:
    """The scales of weights whose output channels have come to the front."""
    return Quantization(q.scale, q.zero, 0)


def _sums(call: Call, x: ir.Value, w: ir.Value, bias: ir.Value | None, kind: str, window: dict[str, Any]) -> ir.Value:
    """The exact sums of products, int32 or, of words, int64, with the bias."""
    s, q, weights = call.s, single(call.quantized(0), "the input"), call.quantized(1)
    if weights is None:
        raise NotSpelled("weights that are not quantised, of a quantised input")
    if x.dtype in (INT8, UINT8) and kind == "Conv":
        zero = s.const(q.zero[0], x)
        per_channel = s.const(weights.zero[0], w) if weights.zero.any() else None
        y = s("ConvInteger", x, w, zero, per_channel, **window)
    else:
        y = _in_floats(call, x, w, kind, window, q, weights)
    if bias is None:
        return y
    rank = s.rank(y)
    known = known_array(bias)
    values = s.reshape(bias, [-1] + [1] * (rank - 2)) if known is None or known.ndim == 1 else bias
    return s("Add", y, s.cast(values, y.dtype or INT32))  # type: ignore[no-any-return]


def _in_floats(
    call: Call, x: ir.Value, w: ir.Value, kind: str, window: dict[str, Any], q: Quantization, weights: Quantization
) -> ir.Value:
    """The sums in floats that hold them exactly; int64 of words, int32 of bytes."""
    s = call.s
    known = known_array(w)
    if known is None:
        raise NotSpelled("weights that are computed, of a quantised input")
    values = known.astype(np.float64) - float(weights.zero[0])
    largest = (65535 if x.dtype == INT16 else 255) * np.abs(values).sum()
    dtype = FLOAT if largest < _EXACT else DOUBLE
    zero = float(q.zero[0])
    image = s.cast(x, dtype)
    image = s("Sub", image, s.const(zero, dtype)) if zero else image
    return s.cast(
        s(kind, image, s.constant(values.astype(dtype.numpy())), **window), INT64 if x.dtype == INT16 else INT32
    )


def _requantized(call: Call, y: ir.Value, activation: int) -> ir.Value:
    s, x, weights = call.s, single(call.quantized(0), "the input"), call.quantized(1)
    result, dtype = single(call.out_quantized(), "the result"), call.out_dtype()
    assert weights is not None
    real = product_scale(x, weights, result, dtype)
    if real.ndim:
        real = real.reshape([-1] + [1] * (s.rank(y) - 2))
    return requantized(s, y, real, result, dtype, activation, wide=y.dtype == INT64)


def product_scale(x: Quantization, w: Quantization, y: Quantization, dtype: ir.DataType) -> Any:
    """x_scale * w_scale / y_scale in float64; for a single scale the product is float32, as TFLite has it."""
    if len(w.scale) == 1 and dtype == UINT8:
        return np.asarray(np.float64(x.scale[0] * w.scale[0]) / np.float64(y.scale[0]))
    real = x.scale.astype(np.float64) * w.scale.astype(np.float64) / y.scale.astype(np.float64)
    return real if len(real) > 1 else real.reshape(())


# ---------------------------------------------------------------- transposed


@operator("TRANSPOSE_CONV")
def transpose_conv(call: Call) -> ir.Value:
    o = call.options("TransposeConvOptions")
    w = call.s.transpose(call.x(1), [3, 0, 1, 2])  # from [O, H, W, I]
    strides = [o.StrideH(), o.StrideW()]
    return _transposed(call, w, strides, o.Padding(), call.x(3) if call.has(3) else None, o.FusedActivationFunction())


@operator("CONV_3D_TRANSPOSE")
def conv_3d_transpose(call: Call) -> ir.Value:
    o = call.options("Conv3DOptions")
    if (o.DilationDFactor(), o.DilationHFactor(), o.DilationWFactor()) != (1, 1, 1):
        raise NotSpelled("dilations")
    w = call.s.transpose(call.x(1), [4, 3, 0, 1, 2])  # from [D, H, W, O, I]
    strides = [o.StrideD(), o.StrideH(), o.StrideW()]
    return _transposed(call, w, strides, o.Padding(), call.x(3) if call.has(3) else None, o.FusedActivationFunction())


def _transposed(
    call: Call, w: ir.Value, strides: list[int], pad: int, bias: ir.Value | None, activation: int
) -> ir.Value:
    """The inputs are the result's shape, the weights, the image, and perhaps a bias."""
    s = call.s
    x = s.channels_first(call.x(2))
    kernel = s.sizes(w)[2:]
    padding(pad, [1] * len(kernel), kernel, strides, [1] * len(kernel))  # refuses what cannot be
    wanted, sizes = elements(call.x(0)), s.shape(x)[2:]
    before: list[int] = []
    behind: list[int] = []
    more: list[int] = []
    for k, size in enumerate(sizes):
        out = wanted[1 + k] if wanted is not None else None
        if not isinstance(size, int) or not isinstance(out, int):
            raise NotSpelled("its size is not known before the model runs")
        first = same_pads(out, kernel[k], strides[k])[0] if pad == 0 else 0
        last = (size - 1) * strides[k] + kernel[k] - first - out
        before, behind, more = [*before, first], [*behind, max(last, 0)], [*more, max(-last, 0)]
    window: dict[str, Any] = {"strides": strides, "kernel_shape": kernel, "pads": before + behind}
    if any(more):
        window["output_padding"] = more
    q = call.quantized(2)
    if q is None:
        weights = call.quantized(1)
        if weights is not None:
            w = dequantized(s, w, Quantization(weights.scale, weights.zero, 1))
        y = s("ConvTranspose", x, w, bias, **window)
        return s.channels_last(kept(call, activated(s, y, activation)))
    return s.channels_last(_quantized_transposed(call, x, w, bias, activation, window))


def _quantized_transposed(
    call: Call, x: ir.Value, w: ir.Value, bias: ir.Value | None, activation: int, window: dict[str, Any]
) -> ir.Value:
    s, q, weights = call.s, single(call.quantized(2), "the input"), call.quantized(1)
    result, dtype = single(call.out_quantized(), "the result"), call.out_dtype()
    if weights is None:
        raise NotSpelled("weights that are not quantised, of a quantised input")
    y = _in_floats(call, x, w, "ConvTranspose", window, q, weights)
    if bias is not None:
        y = s("Add", y, s.cast(s.reshape(bias, [-1, 1, 1]), y.dtype or INT32))
    real = product_scale(q, weights, result, dtype)
    real = real.reshape(-1, 1, 1) if real.ndim else real
    return requantized(s, y, real, result, dtype, activation, wide=y.dtype == INT64)
