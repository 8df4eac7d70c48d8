"""Swish, also called silu: x * sigmoid(x), with a factor on the argument or without."""

from __future__ import annotations

from typing import Any

import onnx_ir as ir
from onnxscript.rewriter import MatchResult

from graphfuse.rules.algebra import polynomial_of
from graphfuse.rules.rule import Rule, no, yes
from graphfuse.rules.values import keeps_shape

STAGE = "recognize"
ERROR_CLASS = "exact"


# x * Sigmoid(alpha * x) -> Swish(x, alpha)
class RecognizeSwish(Rule):
    """alpha is 1 for silu, 1.702 for the quick gelu."""

    exclusive = False
    absorbs = True

    def pattern(self, op: Any, x: Any, u: Any) -> Any:
        return op.Mul(x, op.Sigmoid(u), _outputs=["y"])

    def check(self, context: Any, x: ir.Value, u: ir.Value, y: ir.Value, **_: Any) -> MatchResult:
        return yes() if _alpha(x, u) is not None and keeps_shape(x, y) else no()

    def rewrite(self, op: Any, x: ir.Value, u: ir.Value, **_: Any) -> ir.Value:
        result: ir.Value = op.Swish(x, alpha=_alpha(x, u))
        return result


def _alpha(x: ir.Value, u: ir.Value) -> float | None:
    found = polynomial_of(u, x, depth=2)
    return found[1] if found is not None and set(found) == {1} else None


RULES = (RecognizeSwish,)

HITS = (
    "g (float[N, 3] x) => (float[N, 3] y) { s = Sigmoid(x) y = Mul(x, s) }",
    """g (float[N, 3] x) => (float[N, 3] y) {
        k = Constant<value = float {1.702}>() u = Mul(k, x) s = Sigmoid(u) y = Mul(s, x) }""",
    "g (float[N, 3] x) => (float[N, 3] y, float[N, 3] s) { s = Sigmoid(x) y = Mul(x, s) }",
)
NEAR_MISSES = ()
