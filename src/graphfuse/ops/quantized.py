"""com.microsoft's quantised operators: what onnxruntime's quantiser and optimiser leave in a model.

Products are exact in int32 (`ops/integer.py`). The others are computed in float32 between the bytes and rounded once;
onnxruntime folds scales and zero points before it rounds, so that a result right between two steps may be the other.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from graphfuse.graph.dtypes import F32, I32, U8
from graphfuse.ops import expr as E
from graphfuse.ops.activation import leaky_relu
from graphfuse.ops.expr import Expr
from graphfuse.ops.integer import BYTES, Operand, bytes_of, factor, product_of_any_rank, zero_of
from graphfuse.ops.pool import window_fold
from graphfuse.ops.quantize import along, dequantized, dynamic_scale, known_zero, quantized, requantized, single
from graphfuse.ops.registry import NotSupported, OpNode, op
from graphfuse.ops.samples import Sample, floats, ints, sample, scalar
from graphfuse.ops.tensor import Tensor, concat, count, map_, reduce, size, transpose
from graphfuse.ops.windows import sliding

DOMAIN = "com.microsoft"
_S, _T, _Y = scalar(0.021), scalar(0.033), scalar(0.047)
_NINE, _SEVEN = scalar(9, np.uint8), scalar(7, np.uint8)


def _real(node: OpNode, k: int) -> Tensor:
    """Input k as float32; its scale and its zero point are the two inputs behind it."""
    zero = known_zero(node, k + 2)
    scale = single(node.input(k + 1), "the scale")
    return dequantized(node.input(k), scale, None if zero is None else single(zero, "the zero point"))


def _bytes(node: OpNode, y: Tensor, scale: int, like: Tensor) -> Tensor:
    """y in the type of another tensor of bytes; its scale is an input, the next one its zero point."""
    return quantized(y, single(node.input(scale), "the scale"), zero_of(node, scale + 1), like.dtype)


# ---------------------------------------------------------------- products


@op(
    "MatMulIntegerToFloat",
    domain=DOMAIN,
    samples=lambda: [
        sample(bytes_of(13, 17), bytes_of(17, 5, signed=True), _S, _T, _NINE, constants=[1, 2, 3, 4]),
        sample(bytes_of(2, 13, 17), bytes_of(17, 5), _S, floats(5, low=0.01, high=0.1), _NINE, bytes_of(5), floats(5)),
        sample(bytes_of(13, 17), bytes_of(17, 5, signed=True), _S, _T),
    ],
)
def matmul_integer_to_float(node: OpNode) -> Tensor:
    y = product_of_any_rank(Operand.of(node, 0, 4), Operand.of(node, 1, 5))
    scale = factor(node, 2, 3, None, y.rank, (y.rank - 2, y.rank - 1))
    return _with_bias(map_(lambda v, s: E.cast(v, F32) * s, y, scale), node.optional(6))


@op(
    "DynamicQuantizeMatMul",
    domain=DOMAIN,
    samples=lambda: [
        sample(floats(13, 17), bytes_of(17, 5, signed=True), _T, constants=[1, 2]),
        sample(floats(2, 13, 17), bytes_of(17, 5), floats(5, low=0.01, high=0.1), bytes_of(5), floats(5)),
    ],
)
def dynamic_quantize_matmul(node: OpNode) -> Tensor:
    x, b = node.input(0), Operand.of(node, 1, 3)
    scale, zero = dynamic_scale(x)
    a = Operand(quantized(x, scale, zero, U8), None, map_(lambda z: E.cast(z, I32), zero))
    y = product_of_any_rank(a, b)
    columns = along(node.input(2), Tensor((1,) * y.rank, F32), y.rank - 1)
    return _with_bias(map_(lambda v, s, c: E.cast(v, F32) * (s * c), y, scale, columns), node.optional(4))


def _with_bias(y: Tensor, bias: Tensor | None) -> Tensor:
    return y if bias is None else map_(lambda v, b: v + b, y, bias)


@op(
    "QGemm",
    domain=DOMAIN,
    samples=lambda: [
        sample(bytes_of(13, 17), _S, _NINE, bytes_of(5, 17, signed=True), _T, scalar(0, np.int8), ints(5), _Y, _NINE,
               transB=1, constants=[1, 2, 3, 4, 5, 6, 7, 8]),
        sample(bytes_of(13, 17), _S, _NINE, bytes_of(17, 5), floats(5, low=0.01, high=0.1), bytes_of(5), None, _Y,
               _NINE, constants=[3, 4, 5]),
        sample(bytes_of(17, 13), _S, _NINE, bytes_of(17, 5), _T, _SEVEN, ints(1, 5), transA=1, alpha=0.5),
    ],
)  # fmt: skip
def qgemm(node: OpNode) -> Tensor:
    """alpha * a_scale * b_scale * (A B + C), C being int32; quantised where there is a scale for it."""
    a, b = Operand.of(node, 0, 2), Operand.of(node, 3, 5)
    if node.attr("transA", 0):
        a = Operand(transpose(a.tensor, (1, 0)), None, a.zero)
    if node.attr("transB", 0):
        known = None if b.known is None else np.ascontiguousarray(b.known.T)
        b = Operand(transpose(b.tensor, (1, 0)), known, b.zero)
    y, alpha = product_of_any_rank(a, b), float(node.attr("alpha", 1.0))
    bias = node.optional(6)
    if bias is not None:
        y = map_(lambda v, c: v + c, y, bias)
    if node.optional(7) is None:
        scale = factor(node, 1, 4, None, 2, (0, 1))
        return map_(lambda v, s: E.cast(v, F32) * (s * alpha), y, scale)
    scale = map_(lambda s: s * alpha, factor(node, 1, 4, 7, 2, (0, 1)))
    return requantized(y, scale, zero_of(node, 8), node.input(8).dtype)


# ---------------------------------------------------------------- elementwise


def _binary(name: str, function: Callable[[Expr, Expr], Expr]) -> None:
    def lower(node: OpNode) -> Tensor:
        y = map_(function, _real(node, 0), _real(node, 3))
        return _bytes(node, y, 6, node.input(0))

    def samples() -> list[Sample]:
        a, b = bytes_of(3, 13, 17), bytes_of(13, 17, seed=1)
        signed = (bytes_of(13, 17, signed=True), _S, scalar(-3, np.int8))
        return [
            sample(a, _S, _NINE, b, _T, _SEVEN, _Y, _NINE, constants=[1, 2, 4, 5, 6, 7]),
            sample(a, _S, _NINE, b[:1], _T, _SEVEN, _Y, _NINE),
            sample(*signed, bytes_of(13, 17, signed=True, seed=2), _T, scalar(5, np.int8), _Y, scalar(1, np.int8)),
        ]

    op(name, domain=DOMAIN, samples=samples)(lower)


_binary("QLinearAdd", lambda a, b: a + b)
_binary("QLinearMul", lambda a, b: a * b)


def _unary(name: str, function: Callable[[OpNode, Expr], Expr], **attributes: Any) -> None:
    def lower(node: OpNode) -> Tensor:
        y = map_(lambda v: function(node, v), _real(node, 0))
        return _bytes(node, y, 3, node.input(0))

    def samples() -> list[Sample]:
        x, signed = bytes_of(13, 17), bytes_of(13, 17, signed=True)
        fine = scalar(1 / 256)
        return [
            sample(x, _S, scalar(128, np.uint8), fine, _NINE, constants=[1, 2, 3, 4], **attributes),
            sample(signed, _S, scalar(3, np.int8), fine, scalar(-128, np.int8), constants=[1, 2, 3, 4], **attributes),
        ]

    op(name, domain=DOMAIN, samples=samples)(lower)


_unary("QLinearSigmoid", lambda _, x: E.sigmoid(x))
_unary("QLinearLeakyRelu", lambda node, x: leaky_relu(x, node.attr("alpha", 0.01)), alpha=0.2)


@op(
    "QLinearConcat",
    domain=DOMAIN,
    samples=lambda: [
        sample(_Y, _NINE, bytes_of(3, 5), _S, _SEVEN, bytes_of(3, 4, seed=1), _T, _NINE, axis=1,
               constants=[0, 1, 3, 4, 6, 7]),
    ],
)  # fmt: skip
def qlinear_concat(node: OpNode) -> Tensor:
    """Y_scale, Y_zero_point, then a tensor, its scale and its zero point each."""
    first = range(2, len(node.inputs), 3)
    axis = node.axis(node.attr("axis"), node.input(2).rank)
    return concat([_bytes(node, _real(node, k), 0, node.input(k)) for k in first], axis)


@op(
    "QLinearSoftmax",
    domain=DOMAIN,
    samples=lambda: [
        # Steps this coarse hide that onnxruntime takes its exponentials from a table.
        sample(bytes_of(13, 17), _S, _NINE, scalar(0.05), scalar(0, np.uint8), opset=13, axis=-1,
               constants=[1, 2, 3, 4]),
        *(
            sample(bytes_of(3, 4, 5), _S, _NINE, scalar(0.05), scalar(0, np.uint8), opset=12, constants=[1, 2, 3, 4],
                   axis=axis)
            for axis in (1, 2, -1)
        ),
    ],
)  # fmt: skip
def qlinear_softmax(node: OpNode) -> Tensor:
    x = node.input(0)
    first = node.axis(node.attr("axis", -1), x.rank)
    # Up to opset 12 a softmax is over all axes from one on.
    axes = range(first, x.rank) if node.attr("opset", 13) < 13 else (first,)
    real = _real(node, 0)
    e = map_(lambda v, m: E.exp(v - m), real, reduce("max", real, axes))
    return _bytes(node, map_(lambda v, s: v / s, e, reduce("sum", e, axes)), 3, x)


# ---------------------------------------------------------------- pooling


@op(
    "QLinearGlobalAveragePool",
    domain=DOMAIN,
    samples=lambda: [
        sample(bytes_of(2, 5, 7, 9), _S, _NINE, _Y, _SEVEN, constants=[1, 2, 3, 4]),
        sample(bytes_of(2, 7, 9, 5), _S, _NINE, _Y, _SEVEN, constants=[1, 2, 3, 4], channels_last=1),
    ],
)
def qlinear_global_average_pool(node: OpNode) -> Tensor:
    x = node.input(0)
    if x.dtype not in BYTES or x.rank < 3:
        raise NotSupported(f"pooling of {x.dtype.name.lower()} of rank {x.rank}")
    axes = range(1, x.rank - 1) if node.attr("channels_last", 0) else range(2, x.rank)
    total, scale = reduce("sum", map_(lambda v: E.cast(v, I32), x), axes), single(node.input(1), "the scale")
    number = E.cast(size(count(x, axes)), I32)
    zero = known_zero(node, 2)
    if zero is not None:
        shift = map_(lambda z: E.cast(z, I32) * number, single(zero, "the zero point"))
        total = map_(lambda v, z: v - z, total, shift)
    mean = map_(lambda v, s: E.cast(v, F32) * s / E.cast(number, F32), total, scale)
    return _bytes(node, mean, 3, x)


@op(
    "QLinearAveragePool",
    domain=DOMAIN,
    samples=lambda: [
        sample(bytes_of(2, 5, 7, 9), _S, _NINE, scalar(0.04371), _SEVEN, constants=[1, 2, 3, 4], kernel_shape=[3, 3],
               pads=[1, 1, 1, 1]),
        sample(bytes_of(2, 5, 8, 9), _S, _NINE, scalar(0.04371), _SEVEN, constants=[1, 2, 3, 4], kernel_shape=[2, 3],
               strides=[2, 2], count_include_pad=1),
        sample(bytes_of(2, 5, 7, 9), _S, _NINE, _Y, _SEVEN, kernel_shape=[2, 2], channels_last=1, rejected="last"),
    ],
)  # fmt: skip
def qlinear_average_pool(node: OpNode) -> Tensor:
    """The mean of the dequantised elements of each window."""
    x, kernel = node.input(0), tuple(node.attr("kernel_shape"))
    if node.attr("channels_last", 0) or x.rank < 3 or len(kernel) != x.rank - 2:
        raise NotSupported("channels that come last, or a window of another rank")
    window, out = sliding(node, x.shape[2:], kernel, count_include_pad=bool(node.attr("count_include_pad", 0)))
    return _bytes(node, window_fold("average_pool", _real(node, 0), out, window), 3, x)
