"""Adding zero and multiplying with one go, unless they broadcast or change the type."""

from __future__ import annotations

from typing import Any

import onnx_ir as ir
from onnxscript.rewriter import MatchResult

from graphfuse.rules.rule import Rule, for_ops, no, yes
from graphfuse.rules.values import array, keeps_shape

STAGE = "simplify"
ERROR_CLASS = "exact"  # but for the sign of a zero: -0 + 0 is 0
ORDER = 10

_NEUTRAL = {"Add": 0, "Sub": 0, "Mul": 1, "Div": 1, "Pow": 1}


# x + 0 -> x, x - 0 -> x, x * 1 -> x, x / 1 -> x, x ** 1 -> x
class EliminateArithmetic(Rule):
    """The constant may have any shape that does not make the result larger than x."""

    keeps = ""
    fate = "removed"
    reason = "it leaves every element as it is"

    def pattern(self, op: Any, x: Any, c: Any) -> Any:
        return getattr(op, self.op_type)(x, c, _outputs=["y"])

    def check(self, context: Any, x: ir.Value, c: ir.Value, y: ir.Value, **_: Any) -> MatchResult:
        elements = array(c)
        if elements is None or x.dtype != y.dtype or not keeps_shape(x, y):
            return no()
        return yes() if bool((elements == _NEUTRAL[self.op_type]).all()) else no()

    def rewrite(self, op: Any, x: ir.Value, **_: Any) -> ir.Value:
        return x


RULES = for_ops(EliminateArithmetic, *_NEUTRAL)

HITS = (
    """g (float[N, 3] x) => (float[N, 3] y) {
        z = Constant<value = float[3] {0., 0., 0.}>() o = Constant<value = float {1.}>()
        a = Add(z, x) b = Mul(a, o) c = Div(b, o) d = Sub(c, z) e = Pow(d, o) y = Relu(e) }""",
)
NEAR_MISSES = ()
