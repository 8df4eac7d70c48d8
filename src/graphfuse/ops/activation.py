"""Activation functions."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from graphfuse.ops import expr as E
from graphfuse.ops.arithmetic import unary_samples
from graphfuse.ops.expr import Expr
from graphfuse.ops.registry import NotSupported, OpNode, Samples, op, pointwise
from graphfuse.ops.samples import floats, ints, sample, special
from graphfuse.ops.tensor import Tensor, map_


def _activation(name: str, formula: Callable[..., Expr], samples: Samples = unary_samples, **defaults: float) -> None:
    """Declare `formula(x, **attributes)`."""

    def lower(node: OpNode) -> Tensor:
        attributes = {key: node.attr(key, default) for key, default in defaults.items()}
        return map_(lambda x: formula(x, **attributes), node.input(0))

    op(name, samples=samples)(lower)


def _both(**attributes: Any) -> Samples:
    """Samples with the default attributes and with others."""
    return lambda: [*unary_samples(), sample(floats(13, 17), **attributes)]


def relu(x: Expr) -> Expr:
    return E.unary("relu", x)


def leaky_relu(x: Expr, alpha: float) -> Expr:
    return E.where(x < 0, x * alpha, x)


def elu(x: Expr, alpha: float) -> Expr:
    return E.where(x < 0, E.unary("expm1", x) * alpha, x)


def selu(x: Expr, alpha: float, gamma: float) -> Expr:
    return elu(x, alpha) * gamma


def celu(x: Expr, alpha: float) -> Expr:
    return E.maximum(x, 0) + E.minimum(E.unary("expm1", x / alpha) * alpha, 0)


def hard_sigmoid(x: Expr, alpha: float, beta: float) -> Expr:
    return E.maximum(E.minimum(x * alpha + beta, 1), 0)


def hard_swish(x: Expr) -> Expr:
    return x * hard_sigmoid(x, 1 / 6, 0.5)


def swish(x: Expr, alpha: float) -> Expr:
    return x * E.sigmoid(x if alpha == 1 else x * alpha)


def shrink(x: Expr, lambd: float, bias: float) -> Expr:
    return E.where(x < -lambd, x + bias, E.where(x > lambd, x - bias, 0))


def gelu(x: Expr) -> Expr:
    """x * Phi(x), Phi the normal distribution's."""
    return x * 0.5 * (E.erf(x * math.sqrt(0.5)) + 1)


def gelu_tanh(x: Expr) -> Expr:
    """Hendrycks & Gimpel's approximation with tanh."""
    return x * 0.5 * (E.tanh((x + x * x * x * 0.044715) * math.sqrt(2 / math.pi)) + 1)


pointwise("Relu", relu, samples=lambda: [*unary_samples(), sample(ints(13, 17))])
pointwise("Sigmoid", E.sigmoid, samples=unary_samples)
pointwise("Tanh", E.tanh, samples=unary_samples)
pointwise("Softplus", lambda x: E.unary("softplus", x), samples=unary_samples)
pointwise("Softsign", lambda x: x / (E.unary("abs", x) + 1), samples=unary_samples)
pointwise("Mish", lambda x: x * E.tanh(E.unary("softplus", x)), samples=lambda: unary_samples(reference="onnx"))
pointwise("HardSwish", hard_swish, samples=lambda: unary_samples(reference="onnx"))
_activation("LeakyRelu", leaky_relu, _both(alpha=0.3), alpha=0.01)
_activation("ThresholdedRelu", lambda x, alpha: E.where(x > alpha, x, 0), _both(alpha=0.5), alpha=1.0)
_activation("Elu", elu, _both(alpha=0.7), alpha=1.0)
_activation("Selu", selu, _both(alpha=2.0, gamma=3.0), alpha=1.67326319217681884765625, gamma=1.05070102214813232421875)
_activation("Celu", celu, lambda: [sample(special(3, 17)), sample(floats(13, 17), alpha=0.7)], alpha=1.0)
_activation("HardSigmoid", hard_sigmoid, _both(alpha=0.3, beta=0.4), alpha=0.2, beta=0.5)
_activation("Swish", swish, _both(alpha=1.7), alpha=1.0)
_activation("Shrink", shrink, _both(lambd=1.0, bias=0.5), lambd=0.5, bias=0.0)


@op(
    "Gelu",
    samples=lambda: [*unary_samples(reference="onnx"), sample(floats(13, 17), approximate="tanh")],
)
def gelu_op(node: OpNode) -> Tensor:
    approximate = node.attr("approximate", "none")
    if approximate not in ("none", "tanh"):
        raise NotSupported(f"approximate = {approximate!r} is unknown")
    return map_(gelu if approximate == "none" else gelu_tanh, node.input(0))


@op(
    "PRelu",
    samples=lambda: [
        sample(special(2, 3, 13), floats(3, 1, seed=1), constants=[1]),
        sample(floats(2, 3, 13), floats(1, seed=1)),
        sample(ints(13, 17), ints(13, 17, seed=1)),
    ],
)
def prelu(node: OpNode) -> Tensor:
    return map_(lambda x, slope: E.where(x < 0, x * slope, x), node.input(0), node.input(1))
