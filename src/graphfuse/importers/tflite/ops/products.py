"""Matrix products."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from graphfuse.importers.tflite.call import Call
from graphfuse.importers.tflite.ops.convolution import INT16, INT64
from graphfuse.importers.tflite.quantized import dequantized, requantized, single
from graphfuse.importers.tflite.registry import NotSpelled, operator
from graphfuse.importers.tflite.schema import Quantization
from graphfuse.importers.tflite.windows import activated

DOUBLE = ir.DataType.DOUBLE


@operator("FULLY_CONNECTED")
def fully_connected(call: Call) -> ir.Value:
    """x [..., K] times w [N, K] transposed; x is taken as a matrix of rows of K unless keep_num_dims."""
    o, s, x = call.options("FullyConnectedOptions"), call.s, call.x(0)
    if o.WeightsFormat():
        raise NotSpelled("shuffled weights")
    depth = s.sizes(call.x(1))[1]
    keep = o.KeepNumDims()
    if not keep and (s.rank(x) != 2 or s.shape(x)[1] != depth):
        x = s.reshape(x, [-1, depth])
    activation = o.FusedActivationFunction()
    bias = call.x(2) if call.has(2) else None
    if call.quantized(0) is None:
        return _of_floats(call, x, bias, activation)
    q, weights, result = call.quantized(0), call.quantized(1), single(call.out_quantized(), "the result")
    if weights is None:
        raise NotSpelled("weights that are not quantised, of a quantised input")
    y = _integer_product(call, x, s.transpose(call.x(1), [1, 0]), single(q, "the input"), weights)
    if bias is not None:
        y = s("Add", y, s.cast(bias, y.dtype or ir.DataType.INT32))
    one = single(q, "the input")
    if len(weights.scale) == 1:
        real = np.asarray(np.float64(one.scale[0] * weights.scale[0]) / np.float64(result.scale[0]))
    else:
        real = one.scale.astype(np.float64) * weights.scale.astype(np.float64) / result.scale.astype(np.float64)
    # Unlike convolutions, also of words with the whole multiplier.
    return requantized(s, y, real, result, call.out_dtype(), activation)


def _of_floats(call: Call, x: ir.Value, bias: ir.Value | None, activation: int) -> ir.Value:
    s, w, q = call.s, call.x(1), call.quantized(1)
    if q is not None:
        w = dequantized(s, w, q)
    if s.rank(x) == 2:
        return activated(s, s("Gemm", x, w, bias, transB=1), activation)
    y = s("MatMul", x, s.transpose(w, [1, 0]))
    return activated(s, y if bias is None else s("Add", y, bias), activation)


def _integer_product(call: Call, a: ir.Value, b: ir.Value, qa: Quantization, qb: Quantization) -> ir.Value:
    """Exact sums of products of what is stored less the zero points: int32 of bytes, int64 of words."""
    s = call.s
    if INT16 not in (a.dtype, b.dtype):
        zero_b = s.const(qb.zero[0], b) if qb.zero.any() else None
        return s("MatMulInteger", a, b, s.const(qa.zero[0], a), zero_b)  # type: ignore[no-any-return]
    if qa.zero.any() or qb.zero.any():
        raise NotSpelled("words with a zero point")
    # Sums of fewer than 2^23 products are exact in double.
    return s.cast(s("MatMul", s.cast(a, DOUBLE), s.cast(b, DOUBLE)), INT64)


@operator("BATCH_MATMUL")
def batch_matmul(call: Call) -> ir.Value:
    o, s = call.options("BatchMatMulOptions"), call.s
    a, b = call.x(0), call.x(1)
    swap_a, swap_b = o.AdjX(), o.AdjY()
    qa, qb = call.quantized(0), call.quantized(1)
    if qa is None and qb is not None:
        b, qb = dequantized(s, b, qb), None
    a = _swapped(call, a) if swap_a else a
    b = _swapped(call, b) if swap_b else b
    if qa is None:
        return s("MatMul", a, b)  # type: ignore[no-any-return]
    one, other, result = single(qa, "an operand"), single(qb, "an operand"), single(call.out_quantized(), "the result")
    y = _integer_product(call, a, b, one, other)
    if call.out_dtype() == ir.DataType.INT32:
        return y
    real = np.float64(one.scale[0] * other.scale[0]) / np.float64(result.scale[0])
    return requantized(s, y, np.asarray(real), result, call.out_dtype(), wide=y.dtype == INT64)


def _swapped(call: Call, x: ir.Value) -> ir.Value:
    rank = call.s.rank(x)
    return call.s.transpose(x, [*range(rank - 2), rank - 1, rank - 2])
