"""Tensors made of nothing but their index: shapes, ranges, constants, masks."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from graphfuse.graph import dims as D
from graphfuse.graph.dims import Dim
from graphfuse.graph.dtypes import F64, I64, is_float
from graphfuse.ops import expr as E
from graphfuse.ops.expr import Const, Expr, lift
from graphfuse.ops.registry import NotSupported, OpNode, op
from graphfuse.ops.runtime_sizes import IMPOSSIBLE, items, measure_sizes, quotient_up
from graphfuse.ops.samples import bools, floats, int64, ints, sample, scalar
from graphfuse.ops.tensor import Tensor, generate, load, map_, size


def vector_of(dims: Sequence[Dim]) -> Tensor:
    """Dimensions as a 1-D int64 tensor."""

    def element(i: Sequence[Expr]) -> Expr:
        value: Expr = size(dims[-1]) if dims else Const(0, I64)
        for k in range(len(dims) - 2, -1, -1):
            value = E.where(E.equal(i[0], k), size(dims[k]), value)
        return value

    return generate((len(dims),), element)


@op(
    "Shape",
    samples=lambda: [
        sample(floats(13, 1, 17)),
        sample(floats(2, 3, 5, 7), start=1, end=-1),
        sample(ints(2, 3), start=-1),
        sample(floats()),
        sample(floats(2, 3), start=-9, end=9),
    ],
)
def shape(node: OpNode) -> Tensor:
    x = node.input(0)
    return vector_of(x.shape[slice(node.attr("start", 0), node.attr("end", None))])


@op("Size", samples=lambda: [sample(floats(13, 17)), sample(floats()), sample(floats(0, 3))])
def size_op(node: OpNode) -> Tensor:
    total = D.product(node.input(0).shape)
    return generate((), lambda _: size(total))


@op("Constant", samples=lambda: [sample(value_floats=[1.0, 2.5]), sample(value_int=7)])
def constant(node: OpNode) -> Tensor:
    """A leaf, like an initialiser."""
    value = node.node.outputs[0]
    tensor = ir.convenience.get_const_tensor(value)
    if tensor is None:
        raise NotSupported("a constant without a dense numeric value")
    return Tensor(tuple(int(d) for d in tensor.numpy().shape), tensor.dtype, None, value)


def _tensor_attribute(node: OpNode, name: str) -> np.ndarray | None:
    value = node.attr(name)
    return None if value is None else value.numpy()


@op(
    "ConstantOfShape",
    samples=lambda: [
        sample(int64(2, 3), constants=[0]),
        sample(int64(2, 0), constants=[0]),
        sample(int64(), constants=[0]),
        sample(int64(2, 3), fixed=[0]),
        sample(int64(13), constants=[0], value=_one(7, np.int64)),
        sample(int64(3), constants=[0], value=_one(True, bool)),
    ],
)
def constant_of_shape(node: OpNode) -> Tensor:
    wanted, value = node.dims(0), _tensor_attribute(node, "value")
    if value is None:
        value = np.zeros(1, np.float32)
    fill = lift(value.reshape(()).item(), ir.DataType.from_numpy(value.dtype))
    if wanted is None:
        wanted = measure_sizes(node, items(node.input(0)), node.input(0))
    return generate(wanted, lambda _: fill)


def _one(value: float | bool, dtype: type) -> object:
    from onnx import numpy_helper

    return numpy_helper.from_array(np.array([value], dtype))


@op(
    "Range",
    samples=lambda: [
        sample(scalar(2, np.int64), scalar(17, np.int64), scalar(3, np.int64), constants=[0, 1, 2]),
        sample(scalar(9, np.int32), scalar(-4, np.int32), scalar(-2, np.int32), constants=[0, 1, 2]),
        sample(scalar(0.5), scalar(3.0), scalar(0.25), constants=[0, 1, 2]),
        sample(scalar(5, np.int64), scalar(2, np.int64), scalar(1, np.int64), constants=[0, 1, 2]),
        sample(scalar(5.0), scalar(2.0), scalar(1.0)),
        sample(scalar(0.5), scalar(3.0), scalar(0.25)),
        sample(scalar(9, np.int32), scalar(-4, np.int32), scalar(-2, np.int32)),
        sample(scalar(2, np.int64), scalar(17, np.int64), scalar(4, np.int64)),
    ],
)
def range_op(node: OpNode) -> Tensor:
    """start + i * delta."""
    start, delta = node.input(0), node.input(2)
    n = _range_count(node)
    known = [node.constant(k) for k in (0, 2)]
    more = [x for x, value in zip((start, delta), known, strict=True) if value is None]

    def element(i: Sequence[Expr]) -> Expr:
        first, step = (
            _only(x) if value is None else lift(value.reshape(()).item(), x.dtype)
            for x, value in zip((start, delta), known, strict=True)
        )
        return first + E.cast(i[0], start.dtype) * step

    return generate((n,), element, *more)


def _range_count(node: OpNode) -> Dim:
    values = [node.constant(k) for k in range(3)]
    if all(v is not None for v in values):
        start, limit, delta = (v.reshape(()).item() for v in values if v is not None)
        if delta == 0:
            raise NotSupported("a range with a step of 0")
        return max(0, math.ceil((limit - start) / delta))
    bounds = [None if is_float(node.input(0).dtype) else node.dims(k) for k in range(3)]
    if all(b is not None for b in bounds):
        first, beyond, step = (b[0] for b in bounds if b is not None)
        if isinstance(step, int) and step > 0:
            return D.maximum(0, D.ceildiv(D.add(beyond, D.mul(-1, first)), step))
    start, limit, delta = (node.input(k) for k in range(3))
    return measure_sizes(node, [_count(_only(start), _only(limit), _only(delta))], start, limit, delta)[0]


def _only(x: Tensor) -> Expr:
    """The element of a scalar, which models also write as a tensor of one element."""
    return load(x, (Const(0, I64),) * x.rank)


def _count(start: Expr, limit: Expr, delta: Expr) -> Expr:
    """How many numbers a range holds; a step of 0 is an error."""
    still = E.equal(delta, 0)
    if is_float(delta.dtype):
        exact = E.unary("ceil", E.cast(limit - start, F64) / E.cast(E.where(still, 1, delta), F64))
        count = E.cast(exact, I64)
    else:
        count = quotient_up(E.cast(limit, I64) - E.cast(start, I64), E.cast(E.where(still, 1, delta), I64))
    return E.where(still, IMPOSSIBLE, E.maximum(count, 0))


@op(
    "EyeLike",
    samples=lambda: [
        sample(floats(5, 7)),
        sample(ints(5, 3), k=1),
        sample(floats(5, 3), k=-2, dtype=int(I64)),
    ],
)
def eye_like(node: OpNode) -> Tensor:
    x, k = node.input(0), node.attr("k", 0)
    dtype = ir.DataType(node.attr("dtype", x.dtype))
    one, zero = lift(1, dtype), lift(0, dtype)
    return generate(x.shape, lambda i: E.where(E.equal(i[1] - i[0], k), one, zero))


@op(
    "Trilu",
    samples=lambda: [
        sample(floats(5, 7)),
        sample(floats(2, 5, 3), upper=0),
        sample(floats(5, 7), scalar(-1, np.int64), constants=[1], upper=0),
        sample(ints(5, 7), scalar(2, np.int64), constants=[1]),
        sample(ints(5, 7), scalar(-2, np.int64)),
        sample(floats(0, 5, 7), int64(1), upper=0, symbolic=False),
        sample(bools(5, 5)),
    ],
)
def trilu(node: OpNode) -> Tensor:
    x = node.input(0)
    known, given, upper = node.constant(1), node.optional(1), node.attr("upper", 1)
    more = () if given is None or known is not None else (given,)

    def kept(i: Sequence[Expr]) -> Expr:
        first: int | Expr = items(more[0])[0] if more else 0 if known is None else int(known.reshape(()))
        return E.compare("ge" if upper else "le", i[1] - i[0], first)

    keep = generate(x.shape[-2:], kept, *more)
    return map_(lambda inside, v: E.where(inside, v, 0), keep, x)
