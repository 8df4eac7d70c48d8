"""Concat of one tensor goes, and empty tensors go from a Concat."""

from __future__ import annotations

from typing import Any

import onnx_ir as ir
from onnxscript.rewriter import MatchResult

from graphfuse.rules.rule import Rule, no, yes
from graphfuse.rules.values import axis_of, dims

STAGE = "simplify"
ERROR_CLASS = "exact"
ORDER = 10


# Concat(x) -> x, Concat(x, empty, y) -> Concat(x, y)
class EliminateConcat(Rule):
    """Inputs of size zero along the axis add nothing."""

    fate = "removed"
    reason = "there is only one tensor to put together"

    def pattern(self, op: Any) -> Any:
        return op.Concat(_allow_other_inputs=True, _outputs=["y"])

    def check(self, context: Any, y: ir.Value, **_: Any) -> MatchResult:
        node = y.producer()
        assert node is not None
        return yes() if len(_inputs(node)) == 1 or len(_inputs(node)) < len(node.inputs) else no()

    def rewrite(self, op: Any, y: ir.Value, **_: Any) -> ir.Value:
        node = y.producer()
        assert node is not None
        inputs = _inputs(node)
        result: ir.Value = inputs[0] if len(inputs) == 1 else op.Concat(*inputs, axis=node.attributes["axis"])
        return result


def _inputs(node: ir.Node) -> list[ir.Value]:
    """The inputs that are not provably empty; the first where all are."""
    axis = axis_of(node.outputs[0], node.attributes.get_int("axis", 0))
    inputs = [value for value in node.inputs if value is not None]
    shapes = [dims(value) for value in inputs]
    if axis is None:
        return inputs
    full = [v for v, shape in zip(inputs, shapes, strict=True) if shape is None or shape[axis] != 0]
    return full or inputs[:1]


RULES = (EliminateConcat,)

HITS = (
    "g (float[N, 3] x) => (float[N, 3] y) { a = Concat<axis = 1>(x) y = Relu(a) }",
    "g (float[N, 3] x, float[N, 0] e) => (float[N, 6] y) { y = Concat<axis = -1>(x, e, x) }",
)
NEAR_MISSES = ()
