"""The softmax over the last axis of a flattened tensor, which opset 12 and earlier spell so, without the flattening."""

from __future__ import annotations

from typing import Any

import onnx_ir as ir
from onnxscript.rewriter import MatchResult

from graphfuse.rules.rule import Rule, for_ops, no, yes
from graphfuse.rules.values import keeps_shape, rank

STAGE = "simplify"
ERROR_CLASS = "exact"
ORDER = 12


# Reshape(Softmax(Flatten(x, axis = last)), shape of x) -> Softmax(x)
class SimplifySoftmax(Rule):
    """The rows of the flattened tensor are those of x, when only its last axis stays apart."""

    def pattern(self, op: Any, x: Any) -> Any:
        flat = op.Flatten(x, _outputs=["flat"])
        rows = getattr(op, self.op_type)(flat, _outputs=["rows"])
        return op.Reshape(rows, _allow_other_inputs=True, _outputs=["y"])

    def check(self, context: Any, x: ir.Value, flat: ir.Value, rows: ir.Value, y: ir.Value, **_: Any) -> MatchResult:
        node, inner, count = rows.producer(), flat.producer(), rank(x)
        assert node is not None
        assert inner is not None
        if count is None or not keeps_shape(x, y) or node.attributes.get_int("axis", -1) not in (-1, 1):
            return no()
        return yes() if inner.attributes.get_int("axis", 1) % max(1, count) == count - 1 else no()

    def rewrite(self, op: Any, x: ir.Value, **_: Any) -> ir.Value:
        result: ir.Value = op.op(self.op_type, x, axis=-1)
        return result


RULES = for_ops(SimplifySoftmax, "Softmax", "LogSoftmax", "Hardmax")

HITS = (
    """g (float[N, 3, 4] x) => (float[N, 3, 4] y) {
        s = Shape(x) f = Flatten<axis = 2>(x) r = Softmax<axis = -1>(f) y = Reshape(r, s) }""",
)
NEAR_MISSES = ()
