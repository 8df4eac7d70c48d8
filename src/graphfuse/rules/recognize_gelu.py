"""Gelu, spelled with erf or with tanh."""

from __future__ import annotations

import math
from typing import Any

import onnx_ir as ir
from onnxscript.rewriter import MatchResult

from graphfuse.rules.algebra import is_polynomial, polynomial_of, product_of
from graphfuse.rules.rule import Recognition, for_ops, no, yes
from graphfuse.rules.values import is_floating, keeps_shape, producer

STAGE = "recognize"
ERROR_CLASS = "reassociated"

_ERF = {1: 1 / math.sqrt(2)}
# Hendrycks and Gimpel 2016, "Gaussian Error Linear Units", equation 2
_TANH = {1: math.sqrt(2 / math.pi), 3: math.sqrt(2 / math.pi) * 0.044715}


# 0.5 * x * (1 + erf(x / sqrt(2))) -> Gelu(x)
# 0.5 * x * (1 + tanh(sqrt(2 / pi) * (x + 0.044715 * x^3))) -> Gelu(x, approximate = tanh)
class RecognizeGelu(Recognition):
    """In any order of the factors, the polynomials spelled in any way."""

    def pattern(self, op: Any, a: Any, b: Any) -> Any:
        return getattr(op, self.op_type)(a, b, _outputs=["y"])

    def check(self, context: Any, y: ir.Value, **_: Any) -> MatchResult:
        found = _read(y)
        return yes() if isinstance(found, tuple) else found

    def rewrite(self, op: Any, y: ir.Value, **_: Any) -> ir.Value:
        found = _read(y)
        assert isinstance(found, tuple)
        result: ir.Value = op.Gelu(found[0], approximate=found[1])
        return result


def _read(y: ir.Value) -> tuple[ir.Value, str] | MatchResult:
    """x and the approximation when y is a gelu of x."""
    product = product_of(y)
    if product.constants or len(product.powers) != 2 or set(product.powers.values()) != {1.0}:
        return no()
    values = list(product.powers)
    for x, factor in (values, values[::-1]):
        inner = _squashed(factor)
        if inner is None:
            continue
        half = 0.5 / product.coefficient
        if not is_polynomial(polynomial_of(factor, inner), {0: half, 1: half}):
            return no()
        node = producer(inner, "Erf", "Tanh")
        assert node is not None
        argument = node.inputs[0]
        assert argument is not None
        expected = _ERF if node.op_type == "Erf" else _TANH
        found = polynomial_of(argument, x)
        if not is_polynomial(found, expected):
            return no("the argument is not that of a gelu", argument) if found and set(found) == set(expected) else no()
        if not is_floating(x) or x.dtype != y.dtype:
            return no()
        if not keeps_shape(x, y):
            return no("a constant in it broadcasts", y)
        return x, "none" if node.op_type == "Erf" else "tanh"
    return no()


def _squashed(factor: ir.Value) -> ir.Value | None:
    """The erf or tanh inside 1 + erf(...), however it is scaled."""
    waiting = [factor]
    for value in waiting:
        if producer(value, "Erf", "Tanh") is not None:
            return value
        node = producer(value, "Add", "Mul", "Div")
        if node is not None and len(waiting) < 8:
            waiting += [v for v in node.inputs if v is not None]
    return None


RULES = for_ops(RecognizeGelu, "Mul", "Div")

_HEAD = "g (float[N, 7] x) => (float[N, 7] y)"
_CONSTANTS = """
    half = Constant<value = float {0.5}>() one = Constant<value = float[1] {1.0}>()
    root = Constant<value = float {1.4142135381698608}>() inverse = Constant<value = float {0.7071067811865476}>()
    k = Constant<value = float {0.7978845608028654}>() c = Constant<value = float {0.044715}>()
    three = Constant<value = float {3.0}>()
"""
HITS = (
    f"{_HEAD} {{ {_CONSTANTS} a = Div(x, root) e = Erf(a) s = Add(e, one) p = Mul(x, s) y = Mul(p, half) }}",
    f"{_HEAD} {{ {_CONSTANTS} a = Mul(inverse, x) e = Erf(a) s = Add(one, e) h = Mul(half, x) y = Mul(h, s) }}",
    f"{_HEAD} {{ {_CONSTANTS} a = Mul(x, inverse) e = Erf(a) h = Mul(half, e) s = Add(h, half) y = Mul(s, x) }}",
    f"""{_HEAD} {{ {_CONSTANTS} q = Pow(x, three) w = Mul(c, q) v = Add(x, w) u = Mul(v, k) t = Tanh(u)
        s = Add(t, one) h = Mul(half, x) y = Mul(h, s) }}""",
    f"""{_HEAD} {{ {_CONSTANTS} q = Mul(c, x) w = Mul(x, q) v = Add(one, w) r = Mul(k, x) u = Mul(r, v) t = Tanh(u)
        s = Add(one, t) h = Mul(s, half) y = Mul(x, h) }}""",
)
NEAR_MISSES = (
    (
        f"""{_HEAD} {{ {_CONSTANTS} z = Constant<value = float {{1.5}}>() a = Div(x, z) e = Erf(a) s = Add(e, one)
            p = Mul(x, s) y = Mul(p, half) }}""",
        "not that of a gelu",
    ),
    (
        f"""g (float[3, 1] x) => (float[3, 2] y) {{ {_CONSTANTS} z = Constant<value = float[2] {{1.5, 2.0}}>()
            o = Constant<value = float[1, 1, 1] {{1.0}}>() a = Div(x, root) e = Erf(a) s = Add(e, o) p = Mul(x, s)
            y3 = Mul(p, half) k0 = Constant<value = int64[1] {{0}}>() y2 = Squeeze(y3, k0) y = Mul(y2, z) }}""",
        "broadcasts",
    ),
)
