"""Quantisation: float tensors to narrow integers and back, by scale and zero point.

y = saturate(round(x / scale) + zero point), halves to even; back: (y - zero point) * scale. A scale is one number, one
for each index of an axis, or one for each block of an axis.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from graphfuse.graph.dims import estimate, product, same_shape
from graphfuse.graph.dtypes import (
    E2M1,
    E4M3FN,
    E5M2,
    F32,
    FLOAT8,
    I2,
    I4,
    I8,
    I16,
    U2,
    U4,
    U8,
    U16,
    DType,
    is_float,
    is_integer,
)
from graphfuse.ops import expr as E
from graphfuse.ops.expr import Arg, Call, Const, Expr
from graphfuse.ops.registry import NotSupported, OpNode, op
from graphfuse.ops.samples import Sample, floats, ints, sample, scalar, special
from graphfuse.ops.tensor import Map, Tensor, index_map, map_, reduce, reshape

SATURATED = (I8, U8, I16, U16)
# Types narrower than a byte, which conversion does not hold inside their range.
_RANGES = {I4: (-8.0, 7.0), U4: (0.0, 15.0), I2: (-2.0, 1.0), U2: (0.0, 3.0)}


def quantized(x: Tensor, scale: Tensor, zero: Tensor | None, dtype: DType) -> Tensor:
    """round(x / scale) + zero; scale and zero broadcast against x, a zero of None is 0."""
    if zero is None:
        return map_(lambda v, s: _stored(_f32(v) / _f32(s), None, dtype), x, scale)
    return map_(lambda v, s, z: _stored(_f32(v) / _f32(s), z, dtype), x, scale, zero)


def rounded(x: Tensor, zero: Tensor | None, dtype: DType) -> Tensor:
    """round(x) + zero: `quantized` by the scale 1."""
    if zero is None:
        return map_(lambda v: _stored(_f32(v), None, dtype), x)
    return map_(lambda v, z: _stored(_f32(v), z, dtype), x, zero)


def requantized(x: Tensor, scale: Tensor, zero: Tensor | None, dtype: DType) -> Tensor:
    """round(x * scale) + zero: `quantized` with a factor in place of the divisor."""
    if zero is None:
        return map_(lambda v, s: _stored(_f32(v) * s, None, dtype), x, scale)
    return map_(lambda v, s, z: _stored(_f32(v) * s, z, dtype), x, scale, zero)


def _stored(v: Expr, zero: Expr | None, dtype: DType) -> Expr:
    """The nearest integer plus the zero point, held inside the range; `saturate` rounds what is not whole yet."""
    if zero is not None:
        v = E.unary("round", v) + _f32(zero)
    if dtype in SATURATED:
        return E.saturate(v, dtype)
    least, most = _RANGES[dtype]
    return E.cast(E.minimum(E.maximum(E.unary("round", v), least), most), dtype)


def dequantized(x: Tensor, scale: Tensor, zero: Tensor | None) -> Tensor:
    """(x - zero) * scale in float32."""
    if zero is None:
        return map_(lambda v, s: _f32(v) * _f32(s), x, scale)
    return map_(lambda v, s, z: _shifted(v, z) * _f32(s), x, scale, zero)


def _shifted(v: Expr, zero: Expr) -> Expr:
    # A difference of narrow integers is exact in float32; that of wider ones is not, and is taken before.
    wide = is_integer(v.dtype) and v.dtype not in SATURATED
    return _f32(v - zero) if wide else _f32(v) - _f32(zero)


def _f32(v: Expr) -> Expr:
    return E.cast(v, F32)


def known_zero(node: OpNode, k: int) -> Tensor | None:
    """The k-th input, a zero point, or None where it is absent or known to be 0."""
    value = node.constant(k)
    return None if value is not None and not np.any(value) else node.optional(k)


def single(x: Tensor, what: str) -> Tensor:
    """A tensor of one element as one of rank 0."""
    if any(d != 1 for d in x.shape):
        raise NotSupported(f"{what} has the shape {list(x.shape)}, not that of one number")
    return reshape(x, ())


def along(t: Tensor, x: Tensor, axis: int) -> Tensor:
    """A vector, or one number, broadcast against x along one of its axes."""
    if t.rank == 0 or (t.rank == 1 and t.shape[0] == 1):
        return reshape(t, ())
    if t.rank != 1:
        raise NotSupported(f"a scale or zero point of shape {list(t.shape)} for a tensor of rank {x.rank}")
    return reshape(t, [t.shape[0] if k == axis else 1 for k in range(x.rank)])


def _spread(node: OpNode, t: Tensor, x: Tensor) -> Tensor:
    """A scale or zero point broadcast against x, as `axis` and `block_size` say."""
    block = node.attr("block_size", 0)
    if t.rank == 0 or (t.rank == 1 and t.shape[0] == 1 and not block):
        return reshape(t, ())
    axis = node.axis(node.attr("axis", 1), x.rank)
    if not block:
        return along(t, x, axis)
    if t.rank != x.rank:
        raise NotSupported(f"scales of blocks have the rank of the input, {x.rank}, not {t.rank}")
    return index_map(t, x.shape, lambda i: tuple(E.floordiv(e, block) if k == axis else e for k, e in enumerate(i)))


def _target(node: OpNode) -> DType:
    zero = node.optional(2)
    if zero is not None:
        return zero.dtype
    return ir.DataType(node.attr("output_dtype", 0) or U8)


def _quantize_samples() -> list[Sample]:
    halves = np.array([0.5, 1.5, 2.5, -0.5, -1.5, 127.5, 128.5, -128.5, 254.5, 255.5, 1e9, -1e9, np.inf, -np.inf])
    x, zeros = floats(13, 17, low=-300, high=300), [0, 3, -128, 127, 1]
    return [
        sample(halves.astype(np.float32), scalar(1.0), scalar(0, np.uint8)),
        sample(halves.astype(np.float32), scalar(1.0), scalar(3, np.int8)),
        sample(halves.astype(np.float32), scalar(0.5)),
        sample(special(13, 17), scalar(0.37), scalar(7, np.uint8)),
        sample(x, scalar(2.3), scalar(7, np.int16)),
        sample(x * 300, scalar(1.7), scalar(700, np.uint16)),
        sample(x, floats(17, low=0.1, high=3, seed=1), ints(17, low=0, high=255, dtype=np.uint8, seed=2)),
        sample(floats(3, 5, 7, low=-99, high=99), floats(5, low=0.1, high=3), np.array(zeros, np.int8), axis=-2),
        sample(x, floats(13, low=0.1, high=3, seed=1), axis=0, constants=[1]),
        sample(floats(3, 10, low=-99, high=99), floats(3, 5, low=0.1, high=3),
               ints(3, 5, low=0, high=255, dtype=np.uint8), axis=1, block_size=2, symbolic=False),
        sample(x, scalar(2.0), output_dtype=int(I8)),
        sample(ints(13, 17, low=-900, high=900), scalar(3.0), scalar(1, np.int8)),
        sample(floats(0, 3), scalar(2.0), scalar(1, np.int8)),
        sample(scalar(3.7), scalar(0.5), scalar(1, np.int8)),
        *(sample(x / 20, scalar(1.5), scalar(1, kind.numpy()), reference="onnx") for kind in _RANGES),
        *(sample(x, scalar(1.5), output_dtype=int(kind), reference="onnx") for kind in (E4M3FN, E5M2, E2M1)),
    ]  # fmt: skip


@op("QuantizeLinear", samples=_quantize_samples)
def quantize_linear(node: OpNode) -> Tensor:
    x, scale = node.input(0), node.input(1)
    target = _target(node)
    if target in (*FLOAT8, E2M1):
        # Floats are scaled and converted; their zero point is 0.
        saturate = bool(node.attr("saturate", 1))
        return map_(lambda v, s: E.cast(_f32(v) / _f32(s), target, saturate), x, _spread(node, scale, x))
    if target not in (*SATURATED, *_RANGES):
        raise NotSupported(f"quantisation to {target.name.lower()}")
    zero = known_zero(node, 2)
    known = node.constant(1)
    if known is not None and np.all(known == 1):
        return rounded(x, None if zero is None else _spread(node, zero, x), target)
    return quantized(x, _spread(node, scale, x), None if zero is None else _spread(node, zero, x), target)


def _dequantize_samples() -> list[Sample]:
    x = floats(5, 7)
    bytes_, words = ints(13, 17, low=0, high=255, dtype=np.uint8), ints(5, 7, low=-9999, high=9999, dtype=np.int16)
    return [
        sample(bytes_, scalar(0.37)),
        sample(bytes_, scalar(0.37), scalar(200, np.uint8)),
        sample(bytes_, floats(17, low=0.1, high=3), ints(17, low=0, high=255, dtype=np.uint8, seed=2), constants=[1]),
        sample(bytes_, floats(13, low=0.1, high=3), axis=0),
        sample(ints(3, 5, 7, low=-128, high=127, dtype=np.int8), floats(5, low=0.1, high=3), axis=-2),
        sample(words, scalar(0.01), scalar(-7, np.int16)),
        sample(words.astype(np.uint16), scalar(0.01), scalar(7, np.uint16)),
        sample(ints(13, low=-(2**30), high=2**30), scalar(0.001)),
        sample(bytes_[:4, :6], floats(4, 3), ints(4, 3, low=0, high=255, dtype=np.uint8), axis=1, block_size=2,
               symbolic=False),
        sample(ints(0, 3, dtype=np.int8), scalar(2.0)),
        *(
            sample(floats(5, 7, low=low, high=high).astype(kind.numpy()), scalar(0.5), scalar(1, kind.numpy()),
                   reference="onnx")
            for kind, (low, high) in _RANGES.items()
        ),
        *(sample(x.astype(kind.numpy()), scalar(0.5), reference="onnx") for kind in (E4M3FN, E5M2, E2M1)),
        sample(bytes_, floats(13, 17, 1), rejected="of shape"),
    ]  # fmt: skip


@op("DequantizeLinear", samples=_dequantize_samples)
def dequantize_linear(node: OpNode) -> Tensor:
    x, scale, zero = node.input(0), node.input(1), known_zero(node, 2)
    y = dequantized(x, _spread(node, scale, x), None if zero is None else _spread(node, zero, x))
    target = ir.DataType(node.attr("output_dtype", 0) or scale.dtype)
    return y if target == F32 else map_(lambda v: E.cast(v, target), y)


_LARGE = 1 << 17  # elements from which on one thread takes too long
# Functions that grow with their argument: the largest value is that of the largest argument.
_GROWING = ("tanh", "sigmoid", "erf", "exp", "relu")


def _extremes(x: Tensor) -> tuple[Tensor, Tensor]:
    """The largest and the smallest element, of rank 0."""
    body = x.prim.body if isinstance(x.prim, Map) else None
    if isinstance(body, Call) and body.fn in _GROWING and isinstance(body.args[0], Arg):
        inner = _extremes(x.args[body.args[0].position])
        most, least = (map_(lambda v: Call(body.fn, (v,), body.dtype), y) for y in inner)
        return most, least
    source = _again(x)
    most, least = (reshape(reduce(kind, _by_rows(kind, source), range(x.rank)), ()) for kind in ("max", "min"))
    return most, least


def _by_rows(kind: str, x: Tensor) -> Tensor:
    """Of a large tensor the extremes of each part along the first axis, which threads can share."""
    large = x.rank > 1 and estimate(product(x.shape)) >= _LARGE
    return reduce(kind, x, range(1, x.rank)) if large else x


def _again(x: Tensor) -> Tensor:
    """x computed once more where all that it is made of is smaller: less work than to write and read it."""
    if not isinstance(x.prim, Map) or any(same_shape(a.shape, x.shape) for a in x.args) or E.cost(x.prim.body) > 2:
        return x
    return Tensor(x.shape, x.dtype, Map(x.args, x.prim.body))


def dynamic_scale(x: Tensor) -> tuple[Tensor, Tensor]:
    """Scale and zero point (both float32) with which x fills the range of uint8, zero included, as onnxruntime has it.

    Formulas from ONNX's DynamicQuantizeLinear; a tensor of zeros has the scale 1.
    """
    largest, smallest = _extremes(x)
    most, least = map_(lambda v: E.maximum(v, 0.0), largest), map_(lambda v: E.minimum(v, 0.0), smallest)
    scale = map_(lambda a, b: E.where(E.equal(a, b), 1.0, (a - b) / Const(255.0, F32)), most, least)
    # Inside 0..255 but for rounding; what is exactly between two goes to the even one.
    zero = map_(lambda b, s: E.minimum(E.maximum(E.unary("round", -b / s), 0.0), 255.0), least, scale)
    return scale, zero


def dynamically_quantized(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """x as uint8, its scale (float32) and its zero point (uint8), both of rank 0."""
    scale, zero = dynamic_scale(x)
    return quantized(x, scale, zero, U8), scale, map_(lambda z: E.saturate(z, U8), zero)


@op(
    "DynamicQuantizeLinear",
    samples=lambda: [
        sample(floats(13, 17), outputs=3),
        sample(floats(2, 3, 5, low=1, high=7), outputs=3),
        sample(floats(7, low=-9, high=-2), outputs=3),
        sample(floats(3, 210, 230, low=-1, high=9), outputs=3),
        sample(np.zeros((3, 2), np.float32), outputs=3),
        sample(np.array([0, 255, 0.5, 1.5, 2.5, 254.5], np.float32), outputs=3),
        sample(scalar(3.0), outputs=3),
    ],
)
def dynamic_quantize_linear(node: OpNode) -> list[Tensor]:
    x = node.input(0)
    if not is_float(x.dtype):
        raise NotSupported(f"dynamic quantisation of {x.dtype.name.lower()}")
    return list(dynamically_quantized(x))
