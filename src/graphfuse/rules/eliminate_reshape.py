"""Reshape, Flatten, Squeeze, Unsqueeze, Expand and Tile go where they leave the shape as it is."""

from __future__ import annotations

from typing import Any

import onnx_ir as ir
from onnxscript.rewriter import MatchResult

from graphfuse.rules.reshapes import asks_for_ones
from graphfuse.rules.rule import Rule, for_ops, no, yes
from graphfuse.rules.values import keeps_shape

STAGE = "simplify"
ERROR_CLASS = "exact"
ORDER = 10


# Reshape(x, shape of x) -> x
class EliminateReshape(Rule):
    """The shapes must be provably equal, whatever the symbols are."""

    keeps = ""
    fate = "removed"
    reason = "it leaves the shape as it is"

    def pattern(self, op: Any, x: Any) -> Any:
        return getattr(op, self.op_type)(x, _allow_other_inputs=True, _outputs=["y"])

    def check(self, context: Any, x: ir.Value, y: ir.Value, **_: Any) -> MatchResult:
        return yes() if keeps_shape(x, y) and not asks_for_ones(y.producer()) else no()

    def rewrite(self, op: Any, x: ir.Value, **_: Any) -> ir.Value:
        return x


RULES = for_ops(EliminateReshape, "Reshape", "Flatten", "Squeeze", "Unsqueeze", "Expand", "Tile")

HITS = (
    """g (float[N, 3, 4] x) => (float[N, 3, 4] y) {
        s = Constant<value = int64[3] {0, -1, 4}>() a = Reshape(x, s) y = Relu(a) }""",
    "g (float[N, 3] x) => (float[N, 3] y) { a = Flatten(x) b = Relu(a) c = Shape(b) y = Expand(b, c) }",
    """g (float[N, 3] x) => (float[N, 3] y) {
        s = Constant<value = int64[2] {1, 1}>() a = Relu(x) b = Tile(a, s) y = Expand(b, s) }""",
)
NEAR_MISSES = (("g (float[N, 3] x) => (float[N, 3] y) { a = Squeeze(x) y = Relu(a) }", ""),)
