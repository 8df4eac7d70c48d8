"""Identity goes, unless it gives an input, a constant or an output of the model a second name."""

from __future__ import annotations

from typing import Any

import onnx_ir as ir
from onnxscript.rewriter import MatchResult

from graphfuse.rules.rule import Rule, no, yes

STAGE = "simplify"
ERROR_CLASS = "exact"
ORDER = 10


# Identity(x) -> x
class EliminateIdentity(Rule):
    """The graph's own outputs keep their names."""

    keeps = ""
    fate = "removed"
    reason = "it copies its input"

    def pattern(self, op: Any, x: Any) -> Any:
        return op.Identity(x, _outputs=["y"])

    def check(self, context: Any, x: ir.Value, y: ir.Value, **_: Any) -> MatchResult:
        if y.is_graph_output() and (x.is_graph_input() or x.is_graph_output() or x.is_initializer()):
            return no(f"{y.name} must be a value of its own to be an output of the model", x)
        if x.graph is not y.graph and y.is_graph_output():
            return no()  # a body's output must be computed in the body
        return yes()

    def rewrite(self, op: Any, x: ir.Value, **_: Any) -> ir.Value:
        return x


RULES = (EliminateIdentity,)

HITS = (
    "g (float[2, 3] x) => (float[2, 3] y) { a = Identity(x) y = Relu(a) }",
    "g (float[2, 3] x) => (float[2, 3] y) { a = Relu(x) y = Identity(a) }",
)
NEAR_MISSES = (("g (float[2, 3] x) => (float[2, 3] y) { y = Identity(x) }", "value of its own"),)
