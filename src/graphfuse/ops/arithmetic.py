"""Arithmetic and mathematical functions, element by element with broadcasting."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence

import numpy as np

from graphfuse.graph.dtypes import F64, I8, I16, I32, I64, is_float
from graphfuse.ops import expr as E
from graphfuse.ops.expr import Const, Expr
from graphfuse.ops.registry import OpNode, op, pointwise
from graphfuse.ops.samples import Sample, floats, int64, ints, sample, scalar, special
from graphfuse.ops.tensor import Tensor, map_


def unary_samples(low: float = -3.0, high: float = 3.0, reference: str = "onnxruntime") -> list[Sample]:
    """Floats of both sizes on odd shapes; NaN, infinities and halves; rank 0; nothing at all."""
    inputs = [
        floats(1, 13, 17, low=low, high=high),
        floats(5, dtype=np.float64, low=low, high=high),
        scalar(0.75),
        np.zeros((3, 0), np.float32),
    ]
    return [*(sample(x) for x in inputs), sample(special(3, 17), reference=reference)]


def binary_samples() -> list[Sample]:
    """Equal shapes, broadcasting on both sides, integers, a compile-time scalar, nothing at all."""
    return [
        sample(special(2, 13, 17), floats(2, 13, 17, seed=1)),
        sample(floats(2, 1, 17), floats(13, 1, seed=1)),
        sample(floats(13, 17), scalar(1.5), constants=[1]),
        sample(floats(3, 5, dtype=np.float64), floats(5, dtype=np.float64, seed=1)),
        sample(ints(13, 17), ints(17, low=1, seed=1)),
        sample(ints(13, dtype=np.int64), ints(1, low=-9, high=0, dtype=np.int64, seed=1)),
        sample(np.zeros((0, 3), np.float32), floats(3)),
    ]


def _fold_samples() -> list[Sample]:
    return [
        sample(floats(13, 17)),
        sample(floats(13, 1), floats(17, seed=1)),
        sample(special(2, 17), floats(2, 1, seed=1), scalar(0.25)),
        sample(floats(3, dtype=np.float64), floats(3, dtype=np.float64, seed=1)),
    ]


def _integer_fold_samples() -> list[Sample]:
    return [
        *_fold_samples(),
        sample(ints(13, dtype=np.int64), ints(2, 13, dtype=np.int64, seed=1)),
        sample(ints(13), ints(1, seed=1), ints(3, 1, seed=2)),
    ]


pointwise("Add", lambda a, b: a + b, samples=binary_samples)
pointwise("Sub", lambda a, b: a - b, samples=binary_samples)
pointwise("Mul", lambda a, b: a * b, samples=binary_samples)
pointwise("Div", lambda a, b: a / b, samples=binary_samples)  # integers: towards zero


@op(
    "Mod",
    samples=lambda: [
        sample(ints(13, 17), np.array([3, -3, 7] + [5] * 14, np.int32)),
        sample(ints(13, 17), np.array([3, -3, 7] + [5] * 14, np.int32), fmod=1),
        sample(special(13, 17), floats(17, seed=1), fmod=1),
        sample(floats(13, 17), floats(17, seed=1), reference="onnx"),
        sample(
            special(13), np.array([[3.0], [-3.0], [np.inf], [-np.inf], [0.0], [np.nan]], np.float32), reference="onnx"
        ),
    ],
)
def mod(node: OpNode) -> Tensor:
    a, b = node.input(0), node.input(1)
    if node.attr("fmod", 0):
        return map_(lambda x, y: E.binary("fmod", x, y), a, b)
    return map_(_float_mod if is_float(a.dtype) else E.floormod, a, b)


def _float_mod(x: Expr, y: Expr) -> Expr:
    """The remainder that has the divisor's sign, a zero too."""
    rest = E.binary("fmod", x, y)
    away = E.logical("xor", rest < 0, y < 0)
    signed = E.where(E.equal(rest, 0), E.where(y < 0, Const(-0.0, y.dtype), Const(0.0, y.dtype)), rest)
    return E.where(E.logical("and", away, E.compare("ne", rest, 0)), rest + y, signed)


@op(
    "Pow",
    samples=lambda: [
        sample(floats(13, 17, low=0), floats(17, seed=1)),
        *(sample(special(13, 17), scalar(k), constants=[1]) for k in (0, 1, 2, 3, -1, 0.5, 1.7)),
        sample(floats(13, 17, low=0), scalar(2, np.int64), constants=[1]),
        sample(ints(13, low=0), ints(13, low=0, high=4, seed=1)),
        sample(ints(13, low=1), floats(13, low=0, high=2, seed=1)),
        sample(floats(13), ints(13, low=-3, high=4, dtype=np.int64, seed=1)),
        sample(floats(1, 5), np.array([[2.0], [3.0]], np.float32), constants=[1]),
    ],
)
def power(node: OpNode) -> Tensor:
    """The result has the base's type."""
    base, exponent = node.input(0), node.input(1)
    known = node.constant(1)
    if known is not None and known.size == 1 and known.ndim <= base.rank:
        number = float(known.reshape(()))
        return map_(lambda x: constant_power(x, number), base)
    return map_(general_power, base, exponent)


def constant_power(x: Expr, exponent: float) -> Expr:
    """x to a known power, with multiplications where they are exact enough."""
    if exponent == 1:
        return x
    if exponent == 2:
        return x * x
    if exponent == 3:
        return x * x * x
    if not is_float(x.dtype):
        return E.cast(E.binary("pow", E.cast(x, F64), Const(exponent, F64)), x.dtype)
    if exponent == -1:
        return 1.0 / x
    if exponent == 0.5:
        # pow(-0, 1/2) is +0 and pow(-inf, 1/2) is +inf: there the square root differs.
        return E.where(E.equal(x, float("-inf")), float("inf"), E.sqrt(x + 0.0))
    return E.binary("pow", x, exponent)


def general_power(x: Expr, y: Expr) -> Expr:
    """x to the power y, in x's type; integers by way of float64, exact up to 2^53."""
    if is_float(x.dtype):
        return E.binary("pow", x, E.cast(y, x.dtype))
    return E.cast(E.binary("pow", E.cast(x, F64), E.cast(y, F64)), x.dtype)


def _variadic(name: str, combine: Callable[[Expr, Expr], Expr], samples: Callable[[], Sequence[Sample]]) -> None:
    pointwise(name, lambda *xs: functools.reduce(combine, xs), samples=samples)


_variadic("Sum", lambda a, b: a + b, _fold_samples)
_variadic("Max", E.maximum, _integer_fold_samples)
_variadic("Min", E.minimum, _integer_fold_samples)
pointwise("Mean", lambda *xs: functools.reduce(lambda a, b: a + b, xs) / len(xs), samples=_fold_samples)


def _function(name: str, fn: str, low: float = -3.0, high: float = 3.0, reference: str = "onnxruntime") -> None:
    pointwise(name, lambda x: E.unary(fn, x), samples=lambda: unary_samples(low, high, reference))


_function("Abs", "abs")
_function("Neg", "neg")
_function("Sign", "sign", reference="onnx")  # of NaN: NaN
_function("Floor", "floor")
_function("Ceil", "ceil")
_function("Round", "round")
_function("Sqrt", "sqrt", low=0)
_function("Reciprocal", "reciprocal")
_function("Exp", "exp")
_function("Log", "log", low=0.01)
_function("Erf", "erf")
_function("Sin", "sin")
_function("Cos", "cos")
_function("Tan", "tan", low=-1.4, high=1.4)
_function("Asin", "asin", low=-1, high=1)
_function("Acos", "acos", low=-1, high=1)
_function("Atan", "atan")
_function("Sinh", "sinh")
_function("Cosh", "cosh")
_function("Asinh", "asinh")
_function("Acosh", "acosh", low=1)
_function("Atanh", "atanh", low=-0.99, high=0.99)


@op(
    "Clip",
    samples=lambda: [
        sample(special(13, 17), scalar(-1.0), scalar(2.0), constants=[1, 2], reference="onnx"),
        sample(floats(13, 17), None, scalar(1.0), constants=[2]),
        sample(floats(13, 17), scalar(0.0), constants=[1]),
        sample(floats(13, 17)),
        sample(floats(13, 17), scalar(-1.0), scalar(2.0)),
        sample(floats(13, 17), scalar(2.0), scalar(-1.0), constants=[1, 2]),
        sample(ints(13, 17), scalar(-3, np.int32), scalar(4, np.int32), constants=[1, 2]),
    ],
)
def clip(node: OpNode) -> Tensor:
    """min(max(x, low), high): where low > high, everything is high."""
    x = node.input(0)
    for k, bound in ((1, E.maximum), (2, E.minimum)):
        limit, known = node.optional(k), node.constant(k)
        if known is not None:
            number = known.reshape(()).item()
            x = map_(lambda v, bound=bound, number=number: bound(v, number), x)
        elif limit is not None:
            x = map_(bound, x, limit)
    return x


@op(
    "BitShift",
    samples=lambda: [
        sample(ints(13, low=0, high=99, dtype=np.uint8), ints(13, low=0, high=7, dtype=np.uint8), direction="LEFT"),
        sample(
            ints(2, 13, low=0, high=999, dtype=np.uint32),
            ints(13, low=0, high=7, dtype=np.uint32),
            direction="RIGHT",
        ),
        *(
            sample(
                ints(5, 1, low=-99, high=99, dtype=dtype),
                np.array([-99, -1, 0, 3, 7, 8, 31, 32, 63, 64, 99], dtype),
                direction=direction,
                reference="onnx",
            )
            for dtype in ("int8", "int32", "int64")
            for direction in ("LEFT", "RIGHT")
        ),
    ],
)
def bit_shift(node: OpNode) -> Tensor:
    """Signed integers keep their sign bit to the right; a shift out of range leaves nothing else."""
    fn, x, y = "shl" if node.attr("direction") == "LEFT" else "shr", node.input(0), node.input(1)
    if fn == "shl" or x.dtype not in (I8, I16, I32, I64):
        return map_(lambda v, n: E.binary(fn, v, n), x, y)
    most = x.dtype.itemsize * 8 - 1
    return map_(lambda v, n: E.binary(fn, v, E.where(E.logical("or", n < 0, n > most), most, n)), x, y)


def _bitwise_samples() -> list[Sample]:
    return [
        sample(ints(13, 17), ints(17, seed=1)),
        sample(ints(13, 1, low=0, dtype=np.uint8), ints(17, low=0, dtype=np.uint8, seed=1)),
        sample(int64(5, -7, 1 << 40), int64(3)),
    ]


pointwise("BitwiseAnd", lambda a, b: E.binary("bitand", a, b), samples=_bitwise_samples)
pointwise("BitwiseOr", lambda a, b: E.binary("bitor", a, b), samples=_bitwise_samples)
pointwise("BitwiseXor", lambda a, b: E.binary("bitxor", a, b), samples=_bitwise_samples)
pointwise(
    "BitwiseNot",
    lambda a: E.unary("bitnot", a),
    samples=lambda: [sample(ints(13, 17)), sample(ints(5, low=0, dtype=np.uint8))],
)
