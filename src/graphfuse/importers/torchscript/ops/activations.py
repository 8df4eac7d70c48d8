"""Activations, softmax, dropout."""

from __future__ import annotations

from typing import Any

import torch

from graphfuse.importers.torchscript.builder import Builder
from graphfuse.importers.torchscript.registry import op
from graphfuse.importers.torchscript.values import Tensor, Unspellable


def _constant(b: Builder, value: float, like: Tensor) -> Tensor:
    return b.const(torch.tensor(value, dtype=b.torch_dtype(like)))


def _simple(name: str, op_type: str, **attributes: Any) -> None:
    @op(name)
    def spell(b: Builder, self: Tensor) -> Tensor:
        return b(op_type, self, **attributes)


_simple("hardswish", "HardSwish")
_simple("softsign", "Softsign")
_simple("mish", "Mish")
_simple("selu", "Selu", alpha=1.6732632423543772, gamma=1.0507009873554805)


@op("relu")
def relu(b: Builder, self: Tensor) -> Tensor:
    return b("Relu", self)


@op("relu6")
def relu6(b: Builder, self: Tensor) -> Tensor:
    return hardtanh(b, self, 0.0, 6.0)


@op("hardtanh")
def hardtanh(b: Builder, self: Tensor, min_val: float = -1.0, max_val: float = 1.0) -> Tensor:
    return b("Clip", self, _constant(b, min_val, self), _constant(b, max_val, self))


@op("hardsigmoid")
def hardsigmoid(b: Builder, self: Tensor) -> Tensor:
    return b("HardSigmoid", self, alpha=1 / 6, beta=0.5)


@op("silu", "swish")
def silu(b: Builder, self: Tensor) -> Tensor:
    return b("Mul", self, b("Sigmoid", self))


@op("gelu")
def gelu(b: Builder, self: Tensor, approximate: str = "none") -> Tensor:
    return b("Gelu", self, approximate=approximate)


@op("leaky_relu")
def leaky_relu(b: Builder, self: Tensor, negative_slope: float = 0.01) -> Tensor:
    return b("LeakyRelu", self, alpha=float(negative_slope))


@op("elu")
def elu(b: Builder, self: Tensor, alpha: float = 1.0, scale: float = 1.0, input_scale: float = 1.0) -> Tensor:
    if input_scale != 1:
        raise Unspellable("elu with a scale of its input is not supported")
    x = b("Elu", self, alpha=float(alpha))
    return x if scale == 1 else b("Mul", x, _constant(b, scale, x))


@op("celu")
def celu(b: Builder, self: Tensor, alpha: float = 1.0) -> Tensor:
    return b("Celu", self, alpha=float(alpha))


@op("prelu")
def prelu(b: Builder, self: Tensor, weight: Tensor) -> Tensor:
    if weight.shape != (1,) and self.rank > 1:
        weight = b.reshape(weight, [-1, *[1] * (self.rank - 2)])
    return b("PRelu", self, weight)


@op("rrelu")
def rrelu(b: Builder, self: Tensor, lower: float = 0.125, upper: float = 1 / 3, training: bool = False) -> Tensor:
    _only_in_eval(training, "rrelu")
    return b("LeakyRelu", self, alpha=(lower + upper) / 2)


@op("softplus")
def softplus(b: Builder, self: Tensor, beta: float = 1.0, threshold: float = 20.0) -> Tensor:
    scaled = self if beta == 1 else b("Mul", self, _constant(b, beta, self))
    soft = b("Softplus", scaled)
    soft = soft if beta == 1 else b("Div", soft, _constant(b, beta, self))
    return b("Where", b("Greater", scaled, _constant(b, threshold, self)), self, soft)


@op("log_sigmoid")
def log_sigmoid(b: Builder, self: Tensor) -> Tensor:
    return b("Neg", b("Softplus", b("Neg", self)))


@op("logit")
def logit(b: Builder, self: Tensor, eps: float | None = None) -> Tensor:
    x = self
    if eps is not None:
        x = b("Clip", x, _constant(b, eps, x), _constant(b, 1 - eps, x))
    return b("Log", b("Div", x, b("Sub", _constant(b, 1, x), x)))


@op("threshold")
def threshold(b: Builder, self: Tensor, threshold: Any, value: Any) -> Tensor:
    return b("Where", b("Greater", self, _constant(b, threshold, self)), self, _constant(b, value, self))


@op("hardshrink")
def hardshrink(b: Builder, self: Tensor, lambd: float = 0.5) -> Tensor:
    inside = b("LessOrEqual", b("Abs", self), _constant(b, lambd, self))
    return b("Where", inside, _constant(b, 0, self), self)


@op("softshrink")
def softshrink(b: Builder, self: Tensor, lambd: float = 0.5) -> Tensor:
    return b("Shrink", self, bias=float(lambd), lambd=float(lambd))


@op("tanhshrink")
def tanhshrink(b: Builder, self: Tensor) -> Tensor:
    return b("Sub", self, b("Tanh", self))


@op("glu")
def glu(b: Builder, self: Tensor, dim: int = -1) -> Tensor:
    first, second = b("Split", self, axis=self.axis(dim), num_outputs=2, count=2)
    return b("Mul", first, b("Sigmoid", second))


@op("softmax", "_softmax")
def softmax(b: Builder, self: Tensor, dim: int, dtype: Any = None, half_to_float: bool = False) -> Tensor:
    x = self if dtype is None else b.cast(self, b.dtype_of(dtype))
    return b("Softmax", x, axis=x.axis(dim))


@op("log_softmax", "_log_softmax")
def log_softmax(b: Builder, self: Tensor, dim: int, dtype: Any = None, half_to_float: bool = False) -> Tensor:
    x = self if dtype is None else b.cast(self, b.dtype_of(dtype))
    return b("LogSoftmax", x, axis=x.axis(dim))


def _only_in_eval(training: Any, what: str) -> None:
    if training is True:
        reason = f"{what} in training mode draws random numbers or learns"
        remedy = "save the model after model.eval(), or, if that is what it is for, remove the operator from the model"
        raise Unspellable(reason, remedy)
    if training is not False:
        raise Unspellable(f"whether {what} trains depends on data")


@op("dropout", "feature_dropout", "alpha_dropout", "feature_alpha_dropout")
def dropout(b: Builder, input: Tensor, p: float, train: bool) -> Tensor:
    if p:
        _only_in_eval(train, "dropout")
    return b("Identity", input)


@op("native_dropout")
def native_dropout(b: Builder, input: Tensor, p: float, train: bool | None) -> tuple[Tensor, Tensor]:
    if p:
        _only_in_eval(bool(train), "dropout")
    return b("Identity", input), b.expand(b.const(torch.tensor(True)), b.sizes(input))
