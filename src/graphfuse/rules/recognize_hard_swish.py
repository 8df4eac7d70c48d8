"""Hard swish: x times the hard sigmoid of x."""

from __future__ import annotations

from typing import Any

import onnx_ir as ir
from onnxscript.rewriter import MatchResult

from graphfuse.rules.algebra import product_of
from graphfuse.rules.recognize_hard_sigmoid import clipped_line
from graphfuse.rules.rule import Recognition, for_ops, no, yes
from graphfuse.rules.values import is_floating, keeps_shape, producer

STAGE = "recognize"
ERROR_CLASS = "reassociated"

# Howard et al. 2019, "Searching for MobileNetV3", section 5.2; ONNX HardSwish fixes the same numbers.
_SLOPE, _OFFSET = 1 / 6, 0.5


# x * Clip(x + 3, 0, 6) / 6 -> HardSwish(x)
# x * HardSigmoid(x, 1 / 6, 1 / 2) -> HardSwish(x)
class RecognizeHardSwish(Recognition):
    """In any order of the factors."""

    def pattern(self, op: Any, a: Any, b: Any) -> Any:
        return getattr(op, self.op_type)(a, b, _outputs=["y"])

    def check(self, context: Any, y: ir.Value, **_: Any) -> MatchResult:
        found = _read(y)
        return yes() if isinstance(found, ir.Value) else found

    def rewrite(self, op: Any, y: ir.Value, **_: Any) -> ir.Value:
        result: ir.Value = op.HardSwish(_read(y))
        return result


def _read(y: ir.Value) -> ir.Value | MatchResult:
    """x when y is a hard swish of x."""
    product = product_of(y)
    if product.constants or len(product.powers) != 2 or set(product.powers.values()) != {1.0}:
        return no()
    values = list(product.powers)
    for x, factor in (values, values[::-1]):
        line = _line(factor)
        if line is None or line[0] is not x:
            continue
        slope, offset, top = (number * product.coefficient for number in line[1:])
        if abs(top - 1) > 1e-5:
            return no()  # a factor of the formula is still to come
        if abs(slope - _SLOPE) > 1e-5 or abs(offset - _OFFSET) > 1e-5:
            return no(f"its hard sigmoid is {slope:.4g} x + {offset:.4g}, not x / 6 + 1 / 2", factor)
        return x if keeps_shape(x, y) and is_floating(x) else no()
    return no()


def _line(factor: ir.Value) -> tuple[ir.Value, float, float, float] | None:
    node = producer(factor, "HardSigmoid")
    if node is None or node.inputs[0] is None:
        return clipped_line(factor)
    return node.inputs[0], node.attributes.get_float("alpha", 0.2), node.attributes.get_float("beta", 0.5), 1.0


RULES = for_ops(RecognizeHardSwish, "Mul", "Div")

_HEAD = "g (float[N, 3] x) => (float[N, 3] y)"
_CONSTANTS = """
    zero = Constant<value = float {0.0}>() three = Constant<value = float[1] {3.0}>()
    six = Constant<value = float {6.0}>() sixth = Constant<value = float {0.16666667}>()
"""
HITS = (
    f"{_HEAD} {{ {_CONSTANTS} v = Add(x, three) c = Clip(v, zero, six) p = Mul(x, c) y = Div(p, six) }}",
    f"{_HEAD} {{ {_CONSTANTS} v = Add(three, x) c = Clip(v, zero, six) d = Div(c, six) y = Mul(d, x) }}",
    f"{_HEAD} {{ {_CONSTANTS} v = Add(x, three) c = Clip(v, zero, six) p = Mul(c, x) y = Mul(p, sixth) }}",
    f"{_HEAD} {{ {_CONSTANTS} v = Add(x, three) c = Clip(v, zero, six) h = Mul(x, sixth) y = Mul(h, c) }}",
    f"{_HEAD} {{ s = HardSigmoid<alpha = 0.16666667, beta = 0.5>(x) y = Mul(x, s) }}",
)
NEAR_MISSES = (
    (f"{_HEAD} {{ s = HardSigmoid<alpha = 0.2, beta = 0.5>(x) y = Mul(x, s) }}", "its hard sigmoid is 0.2 x"),
)
