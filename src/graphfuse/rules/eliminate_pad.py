"""Pad goes where it adds nothing."""

from __future__ import annotations

from typing import Any

import onnx_ir as ir
from onnxscript.rewriter import MatchResult

from graphfuse.rules.rule import Rule, no, yes
from graphfuse.rules.values import array, input_of

STAGE = "simplify"
ERROR_CLASS = "exact"
ORDER = 10


# Pad(x, 0, 0, ...) -> x
class EliminatePad(Rule):
    """All amounts are zero; equal shapes alone would not do, one side may be cropped and the other padded."""

    keeps = ""
    fate = "removed"
    reason = "it adds nothing"

    def pattern(self, op: Any, x: Any) -> Any:
        return op.Pad(x, _allow_other_inputs=True, _outputs=["y"])

    def check(self, context: Any, x: ir.Value, y: ir.Value, **_: Any) -> MatchResult:
        node = y.producer()
        assert node is not None
        amounts = array(input_of(node, 1))
        return yes() if amounts is not None and not amounts.any() else no()

    def rewrite(self, op: Any, x: ir.Value, **_: Any) -> ir.Value:
        return x


RULES = (EliminatePad,)

HITS = (
    "g (float[N, 3] x) => (float[N, 3] y) { p = Constant<value = int64[4] {0, 0, 0, 0}>() a = Pad(x, p) y = Relu(a) }",
)
NEAR_MISSES = ()
