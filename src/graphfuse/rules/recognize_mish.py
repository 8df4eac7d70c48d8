"""Mish, and the softplus inside it."""

from __future__ import annotations

from typing import Any

import onnx_ir as ir
from onnxscript.rewriter import MatchResult

from graphfuse.rules.rule import Rule, no, yes
from graphfuse.rules.values import is_scalar, keeps_shape

STAGE = "recognize"
ERROR_CLASS = "reassociated"


# log(1 + exp(x)) -> Softplus(x)
class RecognizeSoftplus(Rule):
    """Which does not overflow."""

    exclusive = False
    absorbs = True

    def pattern(self, op: Any, x: Any, one: Any) -> Any:
        return op.Log(op.Add(one, op.Exp(x)), _outputs=["y"])

    def check(self, context: Any, x: ir.Value, one: ir.Value, y: ir.Value, **_: Any) -> MatchResult:
        return yes() if is_scalar(one, 1.0) and keeps_shape(x, y) else no()

    def rewrite(self, op: Any, x: ir.Value, **_: Any) -> ir.Value:
        result: ir.Value = op.Softplus(x)
        return result


# x * tanh(Softplus(x)) -> Mish(x)
class RecognizeMish(Rule):
    """Misra 2019, "Mish: A Self Regularized Non-Monotonic Activation Function"."""

    exclusive = False
    absorbs = True

    def pattern(self, op: Any, x: Any) -> Any:
        return op.Mul(x, op.Tanh(op.Softplus(x)), _outputs=["y"])

    def rewrite(self, op: Any, x: ir.Value, **_: Any) -> ir.Value:
        result: ir.Value = op.Mish(x)
        return result


RULES = (RecognizeSoftplus, RecognizeMish)

HITS = (
    "g (float[N, 3] x) => (float[N, 3] y) { s = Softplus(x) t = Tanh(s) y = Mul(t, x) }",
    """g (float[N, 3] x) => (float[N, 3] y) {
        one = Constant<value = float {1.0}>() e = Exp(x) a = Add(e, one) s = Log(a) t = Tanh(s) y = Mul(x, t) }""",
)
NEAR_MISSES = ()
