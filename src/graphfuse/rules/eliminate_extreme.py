"""The maximum with -inf and the minimum with inf go."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir
from onnxscript.rewriter import MatchResult

from graphfuse.rules.rule import Rule, for_ops, no, yes
from graphfuse.rules.values import array, keeps_shape

STAGE = "simplify"
ERROR_CLASS = "exact"
ORDER = 10

_NEUTRAL = {"Max": -np.inf, "Min": np.inf}


# Max(x, -inf) -> x, Min(x, inf) -> x
class EliminateExtreme(Rule):
    """The constant may have any shape that does not make the result larger than x; NaN stays NaN."""

    keeps = ""
    fate = "removed"
    reason = "it leaves every element as it is"

    def pattern(self, op: Any, x: Any, c: Any) -> Any:
        return getattr(op, self.op_type)(x, c, _outputs=["y"])

    def check(self, context: Any, x: ir.Value, c: ir.Value, y: ir.Value, **_: Any) -> MatchResult:
        elements = array(c)
        if elements is None or not keeps_shape(x, y):
            return no()
        return yes() if bool((elements == _NEUTRAL[self.op_type]).all()) else no()

    def rewrite(self, op: Any, x: ir.Value, **_: Any) -> ir.Value:
        return x


RULES = for_ops(EliminateExtreme, *_NEUTRAL)

HITS = (
    """g (float[N, 3] x) => (float[N, 3] y) {
        m = Constant<value = float {-inf}>() p = Constant<value = float[1] {inf}>() a = Max(m, x) b = Min(a, p)
        y = Relu(b) }""",
)
NEAR_MISSES = ()
