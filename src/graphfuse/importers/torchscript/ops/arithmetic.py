"""Arithmetic, element by element."""

from __future__ import annotations

from typing import Any

import torch

from graphfuse.importers.torchscript.builder import Builder
from graphfuse.importers.torchscript.registry import op
from graphfuse.importers.torchscript.values import Number, Tensor, Unspellable


def _floats(b: Builder, *args: Any) -> tuple[Tensor, ...]:
    """Operands of an operator whose result is never an integer."""
    dtype = b.promoted(*args)
    if not dtype.is_floating_point:
        numbers = all(isinstance(x, Number) or not isinstance(x, Tensor) for x in args)
        dtype = torch.float64 if numbers else torch.get_default_dtype()
    return tuple(b.as_tensor(x, dtype) for x in args)


def _scaled(b: Builder, other: Any, alpha: Any) -> Any:
    if not isinstance(alpha, Tensor) and alpha == 1:
        return other
    if not isinstance(other, Tensor) and not isinstance(alpha, Tensor):
        return other * alpha
    return b("Mul", *b.operands(other, alpha))


@op("add")
def add(b: Builder, self: Any, other: Any, alpha: Any = 1) -> Tensor:
    x, y = b.operands(self, _scaled(b, other, alpha))
    if b.torch_dtype(x) == torch.bool:
        return b("Or", x, y)
    return b("Add", x, y)


@op("sub", "subtract")
def sub(b: Builder, self: Any, other: Any, alpha: Any = 1) -> Tensor:
    return b("Sub", *b.operands(self, _scaled(b, other, alpha)))


@op("rsub")
def rsub(b: Builder, self: Any, other: Any, alpha: Any = 1) -> Tensor:
    return b("Sub", *b.operands(other, _scaled(b, self, alpha)))


@op("mul", "multiply")
def mul(b: Builder, self: Any, other: Any) -> Tensor:
    x, y = b.operands(self, other)
    if b.torch_dtype(x) == torch.bool:
        return b("And", x, y)
    return b("Mul", x, y)


@op("div", "divide", "true_divide")
def div(b: Builder, self: Any, other: Any, rounding_mode: str | None = None) -> Tensor:
    if rounding_mode is None:
        return b("Div", *_floats(b, self, other))
    x, y = b.operands(self, other)
    if rounding_mode == "floor":
        return floordiv(b, x, y)
    quotient = b("Div", x, y)
    return trunc(b, quotient)


@op("floor_divide", "floordiv")
def floordiv(b: Builder, self: Any, other: Any) -> Tensor:
    x, y = b.operands(self, other)
    if x.is_float:
        # As C10's div_floor does, which is exact: (x - x mod y) / y, rounded.
        rest = b("Mod", x, y, fmod=1)
        zero = b.const(torch.zeros((), dtype=b.torch_dtype(x)))
        apart = b("And", b("Not", b("Equal", rest, zero)), b("Xor", b("Less", rest, zero), b("Less", y, zero)))
        one = b.const(torch.ones((), dtype=b.torch_dtype(x)))
        quotient = b("Div", b("Sub", x, rest), y)
        whole = b("Round", b("Where", apart, b("Sub", quotient, one), quotient))
        infinite = b("Equal", y, zero)
        return b("Where", infinite, b("Div", x, y), whole)
    rest = b("Mod", x, y)  # with the sign of y
    return b("Div", b("Sub", x, rest), y)


@op("remainder")
def remainder(b: Builder, self: Any, other: Any) -> Tensor:
    x, y = b.operands(self, other)
    if not x.is_float:
        return b("Mod", x, y)
    rest = b("Mod", x, y, fmod=1)
    zero = b.const(torch.zeros((), dtype=b.torch_dtype(x)))
    apart = b("And", b("Not", b("Equal", rest, zero)), b("Xor", b("Less", rest, zero), b("Less", y, zero)))
    return b("Where", apart, b("Add", rest, y), rest)


@op("fmod")
def fmod(b: Builder, self: Any, other: Any) -> Tensor:
    return b("Mod", *b.operands(self, other), fmod=1)


@op("pow")
def pow_(b: Builder, self: Any, exponent: Any) -> Tensor:
    x, y = b.operands(self, exponent)
    return b("Pow", x, y)


@op("maximum", "fmax")
def maximum(b: Builder, self: Any, other: Any) -> Tensor:
    return _extreme(b, "Max", self, other)


@op("minimum", "fmin")
def minimum(b: Builder, self: Any, other: Any) -> Tensor:
    return _extreme(b, "Min", self, other)


def _extreme(b: Builder, op_type: str, self: Any, other: Any) -> Tensor:
    x, y = b.operands(self, other)
    if b.torch_dtype(x) == torch.bool:
        return b("Or" if op_type == "Max" else "And", x, y)
    return b(op_type, x, y)


@op("atan2", "arctan2")
def atan2(b: Builder, self: Any, other: Any) -> Tensor:
    y, x = _floats(b, self, other)
    dtype = b.torch_dtype(x)
    zero, pi = b.const(torch.zeros((), dtype=dtype)), b.const(torch.tensor(torch.pi, dtype=dtype))
    half = b.const(torch.tensor(torch.pi / 2, dtype=dtype))
    down = b("Less", y, zero)
    on_axis = b("Where", down, b("Neg", half), half)
    turned = b("Where", down, b("Neg", pi), pi)
    angle = b("Atan", b("Div", y, x))
    left = b("Add", angle, turned)
    plain = b("Where", b("Less", x, zero), left, angle)
    both = b("And", b("Equal", x, zero), b("Equal", y, zero))
    return b("Where", both, zero, b("Where", b("Equal", x, zero), on_axis, plain))


@op("addcmul")
def addcmul(b: Builder, self: Tensor, tensor1: Tensor, tensor2: Tensor, value: Any = 1) -> Tensor:
    return add(b, self, mul(b, tensor1, tensor2), value)


@op("addcdiv")
def addcdiv(b: Builder, self: Tensor, tensor1: Tensor, tensor2: Tensor, value: Any = 1) -> Tensor:
    return add(b, self, div(b, tensor1, tensor2), value)


@op("lerp")
def lerp(b: Builder, self: Tensor, end: Tensor, weight: Any) -> Tensor:
    return add(b, self, mul(b, sub(b, end, self), weight))


@op("clamp", "clip")
def clamp(b: Builder, self: Tensor, min: Any = None, max: Any = None) -> Tensor:
    given = [x for x in (min, max) if x is not None]
    if not given:
        raise Unspellable("a clamp needs a minimum or a maximum")
    x, *rest = b.operands(self, *given)
    low = rest.pop(0) if min is not None else None
    high = rest.pop(0) if max is not None else None
    if all(bound is None or bound.rank == 0 for bound in (low, high)):
        return b("Clip", x, low, high)
    x = b("Max", x, low) if low is not None else x
    return b("Min", x, high) if high is not None else x


@op("clamp_min")
def clamp_min(b: Builder, self: Tensor, min: Any) -> Tensor:
    return clamp(b, self, min)


@op("clamp_max")
def clamp_max(b: Builder, self: Tensor, max: Any) -> Tensor:
    return clamp(b, self, None, max)


@op("neg", "negative")
def neg(b: Builder, self: Any) -> Tensor:
    return b("Neg", self)


@op("abs", "absolute")
def abs_(b: Builder, self: Any) -> Tensor:
    return b("Abs", self)


@op("sign", "sgn")
def sign(b: Builder, self: Any) -> Tensor:
    return b("Sign", self)


@op("square")
def square(b: Builder, self: Tensor) -> Tensor:
    return b("Mul", self, self)


@op("reciprocal")
def reciprocal(b: Builder, self: Tensor) -> Tensor:
    [x] = _floats(b, self)
    return b("Reciprocal", x)


@op("rsqrt")
def rsqrt(b: Builder, self: Tensor) -> Tensor:
    [x] = _floats(b, self)
    return b("Reciprocal", b("Sqrt", x))


_FLOAT_FUNCTIONS = {
    "sqrt": "Sqrt", "exp": "Exp", "log": "Log", "sin": "Sin", "cos": "Cos", "tan": "Tan", "asin": "Asin",
    "acos": "Acos", "atan": "Atan", "sinh": "Sinh", "cosh": "Cosh", "asinh": "Asinh", "acosh": "Acosh",
    "atanh": "Atanh", "erf": "Erf", "tanh": "Tanh", "sigmoid": "Sigmoid", "arcsin": "Asin",
    "arccos": "Acos", "arctan": "Atan",
}  # fmt: skip


def _float_function(name: str, op_type: str) -> None:
    @op(name)
    def spell(b: Builder, self: Any) -> Tensor:
        [x] = _floats(b, self)
        return b(op_type, x)


for _name, _type in _FLOAT_FUNCTIONS.items():
    _float_function(_name, _type)


@op("exp2")
def exp2(b: Builder, self: Tensor) -> Tensor:
    [x] = _floats(b, self)
    return b("Pow", b.const(torch.tensor(2, dtype=b.torch_dtype(x))), x)


@op("expm1")
def expm1(b: Builder, self: Tensor) -> Tensor:
    # exp(x) - 1 = tanh(x / 2) * (exp(x) + 1), without cancellation near 0
    [x] = _floats(b, self)
    one, half = (b.const(torch.tensor(v, dtype=b.torch_dtype(x))) for v in (1.0, 0.5))
    near = b("Mul", b("Tanh", b("Mul", x, half)), b("Add", b("Exp", x), one))
    return b("Where", b("Less", b("Abs", x), one), near, b("Sub", b("Exp", x), one))


@op("log1p")
def log1p(b: Builder, self: Tensor) -> Tensor:
    # log(u) * x / (u - 1) with u = 1 + x, or x where u is 1 (Higham, Accuracy and Stability, 1.14.1)
    [x] = _floats(b, self)
    one = b.const(torch.ones((), dtype=b.torch_dtype(x)))
    u = b("Add", x, one)
    infinite = b("IsInf", u) if b.torch_dtype(u) in (torch.float32, torch.float64) else b("Equal", u, x)
    exact = b("Or", b("Equal", u, one), infinite)
    corrected = b("Div", b("Mul", b("Log", u), x), b("Sub", u, one))
    return b("Where", exact, x, corrected)


@op("log2")
def log2(b: Builder, self: Tensor) -> Tensor:
    [x] = _floats(b, self)
    return b("Mul", b("Log", x), b.const(torch.tensor(1.4426950408889634, dtype=b.torch_dtype(x))))


@op("log10")
def log10(b: Builder, self: Tensor) -> Tensor:
    [x] = _floats(b, self)
    return b("Mul", b("Log", x), b.const(torch.tensor(0.4342944819032518, dtype=b.torch_dtype(x))))


@op("erfc", "special_erfc")
def erfc(b: Builder, self: Tensor) -> Tensor:
    [x] = _floats(b, self)
    return b("Sub", b.const(torch.ones((), dtype=b.torch_dtype(x))), b("Erf", x))


def _rounding(name: str, op_type: str) -> None:
    @op(name)
    def spell(b: Builder, self: Tensor) -> Tensor:
        return b(op_type, self) if self.is_float else self


for _name, _type in {"floor": "Floor", "ceil": "Ceil"}.items():
    _rounding(_name, _type)


@op("round")
def round_(b: Builder, self: Tensor, decimals: int = 0) -> Tensor:
    if not self.is_float:
        return self
    if decimals == 0:
        return b("Round", self)
    scale = b.const(torch.tensor(10.0**decimals, dtype=b.torch_dtype(self)))
    return b("Div", b("Round", b("Mul", self, scale)), scale)


@op("trunc", "fix")
def trunc(b: Builder, self: Tensor) -> Tensor:
    return b("Mul", b("Sign", self), b("Floor", b("Abs", self))) if self.is_float else self


@op("frac")
def frac(b: Builder, self: Tensor) -> Tensor:
    return b("Sub", self, trunc(b, self))


@op("logaddexp")
def logaddexp(b: Builder, self: Tensor, other: Tensor) -> Tensor:
    x, y = _floats(b, self, other)
    high = b("Max", x, y)
    return b("Add", high, b("Log", b("Add", b("Exp", b("Sub", x, high)), b("Exp", b("Sub", y, high)))))


@op("hypot")
def hypot(b: Builder, self: Tensor, other: Tensor) -> Tensor:
    x, y = _floats(b, self, other)
    return b("Sqrt", b("Add", b("Mul", x, x), b("Mul", y, y)))
