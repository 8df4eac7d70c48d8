"""Reductions, extremes and running sums along axes."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import onnx_ir as ir

from graphfuse.importers.tflite.call import Call
from graphfuse.importers.tflite.quantized import kept, multiplied_by, multiplier, real, single, stored
from graphfuse.importers.tflite.registry import NotSpelled, operator

_ONNX = {
    "MEAN": "ReduceMean",
    "SUM": "ReduceSum",
    "REDUCE_PROD": "ReduceProd",
    "REDUCE_MAX": "ReduceMax",
    "REDUCE_MIN": "ReduceMin",
}
INT32, INT64 = ir.DataType.INT32, ir.DataType.INT64


def _axes(call: Call) -> tuple[ir.Value, bool]:
    """The axes as int64, and whether they stay. None at all reduce nothing."""
    s = call.s
    axes = s.ints(call.x(1))
    known = call.known(1)
    if known is not None:
        rank = s.rank(call.x(0))
        axes = s.constant(sorted({int(k) % rank for k in known.ravel()}) if rank else [], np.int64)
    elif s.rank(axes) == 0:
        axes = s.reshape(axes, [1])
    return axes, bool(call.options("ReducerOptions").KeepDims())


@operator(*_ONNX)
def reduction(call: Call) -> ir.Value:
    s = call.s
    axes, keep = _axes(call)
    attrs: dict[str, Any] = {"keepdims": int(keep), "noop_with_empty_axes": 1}
    kind = _ONNX[call.type]
    if not call.is_quantized:
        if call.type == "MEAN" and call.x(0).dtype in (INT32, INT64):
            total = s("ReduceSum", call.x(0), axes, **attrs)
            return s("Div", total, s.cast(_count(call, axes), call.out_dtype()))  # type: ignore[no-any-return]
        return s(kind, call.x(0), axes, **attrs)  # type: ignore[no-any-return]
    if call.type in ("MEAN", "SUM"):
        return _quantized_sum(call, axes, attrs)
    if call.type == "REDUCE_PROD":
        return kept(call, s(kind, real(call, 0), axes, **attrs))
    x = call.x(0)
    if x.dtype == ir.DataType.INT16:
        return s.cast(s(kind, s.cast(x, INT32), axes, **attrs), call.out_dtype())
    return s(kind, x, axes, **attrs)  # type: ignore[no-any-return]


def _count(call: Call, axes: ir.Value) -> ir.Value:
    s = call.s
    return s("ReduceProd", s("Gather", s("Shape", call.x(0)), axes), keepdims=0)  # type: ignore[no-any-return]


def _quantized_sum(call: Call, axes: ir.Value, attrs: dict[str, Any]) -> ir.Value:
    """The sum of what is stored, rescaled; the multiplier of a mean holds 1 / count (QuantizedMeanOrSum)."""
    s, q, result = call.s, single(call.quantized(0), "the input"), single(call.out_quantized(), "the result")
    x, known = call.x(0), call.known(1)
    sizes = [] if known is None else [s.shape(x)[int(k)] for k in known.ravel()]
    told = [d for d in sizes if isinstance(d, int)]
    if known is None or len(told) < len(sizes):
        if call.type == "MEAN":
            return kept(call, s(_ONNX[call.type], real(call, 0), axes, **attrs))
        raise NotSpelled("a quantised sum of a number of elements that is known at run time only")
    count = math.prod(told)
    total = s("Sub", s("ReduceSum", s.cast(x, INT32), axes, **attrs), s.const(count * int(q.zero[0]), INT32))
    m, e = multiplier(float(q.scale[0]) / float(result.scale[0]))
    if call.type == "MEAN":
        shift = min(count.bit_length() - 1, 32, 31 + e)
        m, e = (m << shift) // max(count, 1), e - shift
    return stored(s, multiplied_by(s, total, [(m, e)]), result, call.out_dtype())


@operator("REDUCE_ANY", "REDUCE_ALL")
def logical_reduction(call: Call) -> ir.Value:
    s = call.s
    axes, keep = _axes(call)
    x = s.cast(call.x(0), INT32)
    kind = "ReduceMax" if call.type == "REDUCE_ANY" else "ReduceMin"
    return s.cast(s(kind, x, axes, keepdims=int(keep), noop_with_empty_axes=1), ir.DataType.BOOL)


@operator("ARG_MAX", "ARG_MIN")
def arg_extreme(call: Call) -> ir.Value:
    s, x = call.s, call.x(0)
    axis = call.numbers(1, "its axes")[0]
    if x.dtype == ir.DataType.BOOL:
        x = s.cast(x, INT32)
    y = s("ArgMax" if call.type == "ARG_MAX" else "ArgMin", x, axis=axis, keepdims=0)
    return s.cast(y, call.out_dtype())


@operator("CUMSUM")
def cumsum(call: Call) -> ir.Value:
    o, s = call.options("CumsumOptions"), call.s
    axis = s.ints(call.x(1))
    axis = s.reshape(axis, []) if s.rank(axis) else axis
    return s("CumSum", call.x(0), axis, exclusive=int(o.Exclusive()), reverse=int(o.Reverse()))  # type: ignore[no-any-return]


@operator("TOPK_V2")
def top_k(call: Call) -> tuple[ir.Value, ir.Value]:
    s = call.s
    count = s.reshape(s.ints(call.x(1)), [1])
    values, indices = s("TopK", call.x(0), count, axis=-1, count=2)
    return values, s.cast(indices, call.out_dtype(1))
