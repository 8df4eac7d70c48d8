"""Functions of each element: arithmetic, comparisons, logic, activations, conversions."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import reduce
from typing import Any

import torch
import torch.nn.functional as F

from graphfuse.export.torch.call import Call, Refused, Write, op

_UNARY = {
    "Abs": torch.abs, "Acos": torch.acos, "Acosh": torch.acosh, "Asin": torch.asin, "Asinh": torch.asinh,
    "Atan": torch.atan, "Atanh": torch.atanh, "BitwiseNot": torch.bitwise_not, "Ceil": torch.ceil, "Cos": torch.cos,
    "Cosh": torch.cosh, "Erf": torch.erf, "Exp": torch.exp, "Floor": torch.floor, "HardSwish": F.hardswish,
    "IsNaN": torch.isnan, "Log": torch.log, "Mish": F.mish, "Neg": torch.neg, "Not": torch.logical_not,
    "Reciprocal": torch.reciprocal, "Relu": F.relu, "Round": torch.round, "Sigmoid": torch.sigmoid, "Sin": torch.sin,
    "Sinh": torch.sinh, "Softsign": F.softsign, "Sqrt": torch.sqrt, "Tan": torch.tan, "Tanh": torch.tanh,
}  # fmt: skip
_BINARY = {
    "And": torch.logical_and, "BitwiseAnd": torch.bitwise_and, "BitwiseOr": torch.bitwise_or,
    "BitwiseXor": torch.bitwise_xor, "Equal": torch.eq, "Greater": torch.gt, "GreaterOrEqual": torch.ge,
    "Less": torch.lt, "LessOrEqual": torch.le, "Or": torch.logical_or, "Xor": torch.logical_xor,
}  # fmt: skip
_ARITHMETIC: dict[str, Callable[[Any, Any], Any]] = {
    "Add": lambda a, b: a + b,
    "Sub": lambda a, b: a - b,
    "Mul": lambda a, b: a * b,
}


def _pointwise(function: Callable[..., Any], count: int) -> Write:
    return lambda c: function(*[c[k] for k in range(count)])


def _arithmetic(function: Callable[..., Any]) -> Write:
    return lambda c: function(*operands(c))


for _name, _function in _UNARY.items():
    op(_name)(_pointwise(_function, 1))
for _name, _function in _BINARY.items():
    op(_name)(_pointwise(_function, 2))
for _name, _function in _ARITHMETIC.items():
    op(_name)(_arithmetic(_function))


def operands(c: Call) -> tuple[Any, Any]:
    """Both operands, one known scalar as a number where the result is as with a tensor."""
    sizes = [1 if None in c.shape(k) else math.prod(d or 0 for d in c.shape(k)) for k in (0, 1)]
    if c.constant(1) is not None and sizes[1] == 1 and c.rank(1) <= c.rank(0):
        return c[0], c.scalar_or(1)
    if c.constant(0) is not None and sizes[0] == 1 and c.rank(0) <= c.rank(1):
        return c.scalar_or(0), c[1]
    return c[0], c[1]


@op("Identity", "Dropout")
def identity(c: Call) -> Any:
    if c.wants(1):
        raise Refused("its mask is used")
    mode = c.constant(2) if c.has(2) else None
    if c.has(2) and (mode is None or bool(mode)):
        raise Refused("it draws random numbers, as in training")
    return c[0]


@op("Div")
def div(c: Call) -> Any:
    a, b = operands(c)
    return a / b if c.is_float(0) else torch.div(a, b, rounding_mode="trunc")


@op("Mod")
def mod(c: Call) -> Any:
    a, b = operands(c)
    return torch.fmod(a, b) if c.attr("fmod") else torch.remainder(a, b)


@op("Pow")
def power(c: Call) -> Any:
    exponent = c.scalar_or(1) if c.rank(1) == 0 else c[1]
    result = torch.pow(c[0], exponent)
    return result if c.dtype(0) == c.dtype(1) else result.to(c.dtype(0))


@op("BitShift")
def bit_shift(c: Call) -> Any:
    return c[0] << c[1] if c.attr("direction") == "LEFT" else c[0] >> c[1]


@op("Where")
def where(c: Call) -> Any:
    return torch.where(c[0], c[1], c[2])


@op("Max", "Min", "Sum", "Mean")
def variadic(c: Call) -> Any:
    functions = {"Max": torch.maximum, "Min": torch.minimum}
    function = functions.get(c.node.op_type, torch.add)
    result = reduce(lambda a, b: function(a, b), [c[k] for k in range(len(c))])
    return result / len(c) if c.node.op_type == "Mean" else result


@op("Sign")
def sign(c: Call) -> Any:
    return torch.where(torch.isnan(c[0]), c[0], torch.sign(c[0])) if c.is_float(0) else torch.sign(c[0])


@op("IsInf")
def is_inf(c: Call) -> Any:
    positive, negative = bool(c.attr("detect_positive")), bool(c.attr("detect_negative"))
    if positive and negative:
        return torch.isinf(c[0])
    if not positive and not negative:
        return torch.zeros_like(c[0], dtype=torch.bool)
    return torch.isposinf(c[0]) if positive else torch.isneginf(c[0])


# -- activations ---------------------------------------------------------------------------------------------------


@op("LeakyRelu")
def leaky_relu(c: Call) -> Any:
    return F.leaky_relu(c[0], c.attr("alpha"))


@op("Elu")
def elu(c: Call) -> Any:
    return F.elu(c[0], c.attr("alpha"))


@op("Celu")
def celu(c: Call) -> Any:
    return F.celu(c[0], c.attr("alpha"))


@op("Selu")
def selu(c: Call) -> Any:
    alpha, gamma, x = c.attr("alpha"), c.attr("gamma"), c[0]
    return gamma * torch.where(x > 0, x, alpha * torch.expm1(x))


@op("Gelu")
def gelu(c: Call) -> Any:
    return F.gelu(c[0], approximate=c.attr("approximate"))


@op("Swish")
def swish(c: Call) -> Any:
    alpha = c.attr("alpha")
    return F.silu(c[0]) if alpha == 1.0 else c[0] * torch.sigmoid(alpha * c[0])


@op("HardSigmoid")
def hard_sigmoid(c: Call) -> Any:
    alpha, beta = c.attr("alpha"), c.attr("beta")
    if math.isclose(alpha, 1 / 6, rel_tol=1e-6) and beta == 0.5:
        return F.hardsigmoid(c[0])
    return torch.clamp(alpha * c[0] + beta, 0.0, 1.0)


@op("Softplus")
def softplus(c: Call) -> Any:
    return torch.logaddexp(c[0], torch.zeros_like(c[0]))


@op("PRelu")
def prelu(c: Call) -> Any:
    return torch.where(c[0] < 0, c[1] * c[0], c[0])


@op("ThresholdedRelu")
def thresholded_relu(c: Call) -> Any:
    return torch.where(c[0] > c.attr("alpha"), c[0], 0)


@op("Shrink")
def shrink(c: Call) -> Any:
    bias, lambd, x = c.attr("bias"), c.attr("lambd"), c[0]
    return torch.where(x < -lambd, x + bias, torch.where(x > lambd, x - bias, 0))


@op("Clip")
def clip(c: Call) -> Any:
    low, high = (c.scalar_or(k) if c.has(k) else None for k in (1, 2))
    if low is None and high is None:
        return c[0]
    numbers = [v for v in (low, high) if isinstance(v, int | float)]
    tensors = [v for v in (low, high) if v is not None and not isinstance(v, int | float)]
    if not tensors and (low, high) == (0, 6):
        return F.relu6(c[0])
    if numbers and tensors:  # torch.clamp takes either
        low, high = (c[k] if c.has(k) else None for k in (1, 2))
    return torch.clamp(c[0], low, high)


@op("Softmax", "LogSoftmax")
def softmax(c: Call) -> Any:
    function = F.softmax if c.node.op_type == "Softmax" else F.log_softmax
    return function(c[0], dim=c.attr("axis", -1))


@op("Hardmax")
def hardmax(c: Call) -> Any:
    axis = c.attr("axis", -1)
    first = torch.argmax(c[0], dim=axis, keepdim=True)
    return torch.zeros_like(c[0]).scatter(axis, first, 1.0)


# -- conversions ---------------------------------------------------------------------------------------------------


@op("Cast", "CastLike")
def cast(c: Call) -> Any:
    source, target = c.dtype(0), c.out_dtype()
    if source.is_floating_point and target in (torch.int8, torch.uint8, torch.int16):
        return c[0].to(torch.int32).to(target)
    return c[0] if source == target else c[0].to(target)
