"""Slice goes where it takes everything."""

from __future__ import annotations

from typing import Any

import onnx_ir as ir
from onnxscript.rewriter import MatchResult

from graphfuse.rules.rule import Rule, no, yes
from graphfuse.rules.values import array, input_of, keeps_shape

STAGE = "simplify"
ERROR_CLASS = "exact"
ORDER = 10


# Slice(x, 0, size of x) -> x
class EliminateSlice(Rule):
    """A slice as long as its input takes everything, in order unless it steps backwards."""

    keeps = ""
    fate = "removed"
    reason = "it takes everything"

    def pattern(self, op: Any, x: Any) -> Any:
        return op.Slice(x, _allow_other_inputs=True, _outputs=["y"])

    def check(self, context: Any, x: ir.Value, y: ir.Value, **_: Any) -> MatchResult:
        node = y.producer()
        assert node is not None
        given = input_of(node, 4)
        steps = array(given)
        forward = given is None or (steps is not None and bool((steps > 0).all()))
        return yes() if forward and keeps_shape(x, y) else no()

    def rewrite(self, op: Any, x: ir.Value, **_: Any) -> ir.Value:
        return x


RULES = (EliminateSlice,)

HITS = (
    """g (float[N, 3, 4] x) => (float[N, 3, 4] y) {
        s = Constant<value = int64[2] {0, 0}>() e = Constant<value = int64[2] {9223372036854775807, 7}>()
        a = Slice(x, s, e) y = Relu(a) }""",
)
NEAR_MISSES = ()
