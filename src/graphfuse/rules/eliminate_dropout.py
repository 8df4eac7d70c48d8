"""Dropout does nothing at inference."""

from __future__ import annotations

from typing import Any

import onnx_ir as ir
from onnxscript.rewriter import MatchResult

from graphfuse.graph.origins import label
from graphfuse.rules.rule import Rule, no, yes
from graphfuse.rules.values import array, input_of, scalar

STAGE = "simplify"
ERROR_CLASS = "exact"
ORDER = 10


# Dropout(x, ratio, training_mode = false) -> x
class EliminateDropout(Rule):
    """Unless training_mode is, or may be, true."""

    keeps = ""
    fate = "removed"
    reason = "dropout does nothing at inference"

    def pattern(self, op: Any, x: Any) -> Any:
        return op.Dropout(x, _allow_other_inputs=True, _outputs=["y"])

    def check(self, context: Any, x: ir.Value, y: ir.Value, **_: Any) -> MatchResult:
        node = y.producer()
        assert node is not None
        training = input_of(node, 2)
        if training is None or (array(training) is not None and scalar(training) == 0):
            return yes()
        if scalar(input_of(node, 1)) == 0 and input_of(node, 1) is not None:
            return yes()
        return no(f"{label(node)} is in training mode: it drops elements at random", training)

    def rewrite(self, op: Any, x: ir.Value, **_: Any) -> ir.Value:
        return x


RULES = (EliminateDropout,)

HITS = (
    "g (float[2, 3] x) => (float[2, 3] y) { a = Dropout(x) y = Relu(a) }",
    """g (float[2, 3] x) => (float[2, 3] y) {
        r = Constant<value = float {0.5}>() t = Constant<value = bool {0}>()
        a, mask = Dropout(x, r, t) y = Relu(a) }""",
    "g (float[2, 3] x) => (float[2, 3] y) { y = Dropout(x) }",
)
NEAR_MISSES = (
    (
        """g (float[2, 3] x) => (float[2, 3] y) {
            r = Constant<value = float {0.5}>() t = Constant<value = bool {1}>() y = Dropout(x, r, t) }""",
        "training mode",
    ),
    ("g (float[2, 3] x) => (float[2, 3] y, bool[2, 3] m) { y, m = Dropout(x) }", "also an output"),
)
