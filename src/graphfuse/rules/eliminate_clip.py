"""Clip without bounds goes."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir
from onnxscript.rewriter import MatchResult

from graphfuse.rules.rule import Rule, no, yes
from graphfuse.rules.values import array, input_of, scalar

STAGE = "simplify"
ERROR_CLASS = "exact"
ORDER = 10


# Clip(x, -inf, inf) -> x
class EliminateClip(Rule):
    """Absent or infinite bounds; the largest finite number is a bound, infinities are clipped to it."""

    keeps = ""
    fate = "removed"
    reason = "its bounds are beyond every number"

    def pattern(self, op: Any, x: Any) -> Any:
        return op.Clip(x, _allow_other_inputs=True, _outputs=["y"])

    def check(self, context: Any, x: ir.Value, y: ir.Value, **_: Any) -> MatchResult:
        node = y.producer()
        assert node is not None
        low, high = input_of(node, 1), input_of(node, 2)
        return yes() if _beyond(low, -np.inf) and _beyond(high, np.inf) else no()

    def rewrite(self, op: Any, x: ir.Value, **_: Any) -> ir.Value:
        return x


def _beyond(bound: ir.Value | None, limit: float) -> bool:
    return bound is None or (array(bound) is not None and scalar(bound) == limit)


RULES = (EliminateClip,)

HITS = ("g (float[N, 3] x) => (float[N, 3] y) { a = Clip(x) y = Relu(a) }",)
NEAR_MISSES = ()
