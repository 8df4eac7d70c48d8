"""Sigmoid spelled with exp."""

from __future__ import annotations

from typing import Any

import onnx_ir as ir
from onnxscript.rewriter import MatchResult

from graphfuse.rules.rule import Rule, no, yes
from graphfuse.rules.values import is_scalar, keeps_shape, scalar

STAGE = "recognize"
ERROR_CLASS = "reassociated"
ORDER = 40


class RecognizeSigmoid(Rule):
    """What the spellings share."""

    exclusive = False
    absorbs = True

    def check(self, context: Any, x: ir.Value, one: ir.Value, y: ir.Value, **_: Any) -> MatchResult:
        return yes() if is_scalar(one, 1.0) and keeps_shape(x, y) else no()

    def rewrite(self, op: Any, x: ir.Value, **_: Any) -> ir.Value:
        result: ir.Value = op.Sigmoid(x)
        return result


# 1 / (1 + exp(-x)) -> Sigmoid(x)
class AsQuotient(RecognizeSigmoid):
    """With a division."""

    def pattern(self, op: Any, x: Any, one: Any, top: Any) -> Any:
        return op.Div(top, op.Add(one, op.Exp(op.Neg(x))), _outputs=["y"])

    def check(self, context: Any, x: ir.Value, one: ir.Value, y: ir.Value, **others: Any) -> MatchResult:
        top = scalar(others["top"])
        if not is_scalar(one, 1.0) or top is None:
            return no()
        if top != 1.0:
            return no(f"its numerator is {top}, not 1", others["top"])
        return yes() if keeps_shape(x, y) else no()


# reciprocal(1 + exp(-x)) -> Sigmoid(x)
class AsReciprocal(RecognizeSigmoid):
    """With a reciprocal."""

    def pattern(self, op: Any, x: Any, one: Any) -> Any:
        return op.Reciprocal(op.Add(one, op.Exp(op.Neg(x))), _outputs=["y"])


# x / (1 + exp(-x)) -> x * Sigmoid(x)
class AsSwish(Rule):
    """Which the rule for swish then takes."""

    exclusive = False
    absorbs = True

    def pattern(self, op: Any, x: Any, one: Any) -> Any:
        return op.Div(x, op.Add(one, op.Exp(op.Neg(x))), _outputs=["y"])

    def check(self, context: Any, x: ir.Value, one: ir.Value, y: ir.Value, **_: Any) -> MatchResult:
        return yes() if is_scalar(one, 1.0) and keeps_shape(x, y) else no()

    def rewrite(self, op: Any, x: ir.Value, **_: Any) -> ir.Value:
        result: ir.Value = op.Mul(x, op.Sigmoid(x))
        return result


RULES = (AsQuotient, AsReciprocal, AsSwish)

_ONE = "one = Constant<value = float {1.0}>()"
HITS = (
    f"g (float[N, 3] x) => (float[N, 3] y) {{ {_ONE} n = Neg(x) e = Exp(n) s = Add(e, one) y = Div(one, s) }}",
    f"g (float[N, 3] x) => (float[N, 3] y) {{ {_ONE} n = Neg(x) e = Exp(n) s = Add(one, e) y = Reciprocal(s) }}",
    f"g (float[N, 3] x) => (float[N, 3] y) {{ {_ONE} n = Neg(x) e = Exp(n) s = Add(one, e) y = Div(x, s) }}",
)
NEAR_MISSES = (
    (
        f"""g (float[N, 3] x) => (float[N, 3] y) {{ {_ONE} two = Constant<value = float {{2.0}}>()
            n = Neg(x) e = Exp(n) s = Add(e, one) y = Div(two, s) }}""",
        "numerator is 2.0",
    ),
)
