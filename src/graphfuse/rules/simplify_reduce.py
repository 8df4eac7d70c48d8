"""A sum, product, mean, maximum or minimum over axes of size 1 only drops the axes."""

from __future__ import annotations

from typing import Any

import onnx_ir as ir
from onnxscript.rewriter import MatchResult

from graphfuse.rules.rule import Rule, for_ops, no, yes
from graphfuse.rules.values import array, dims, input_of, ints

STAGE = "simplify"
ERROR_CLASS = "exact"
ORDER = 20


# ReduceMean(x, axes of size 1) -> Squeeze(x, axes)
class SimplifyReduce(Rule):
    """Of one element each of them is the element itself."""

    def pattern(self, op: Any, x: Any) -> Any:
        return getattr(op, self.op_type)(x, _allow_other_inputs=True, _outputs=["y"])

    def check(self, context: Any, x: ir.Value, y: ir.Value, **_: Any) -> MatchResult:
        shape, axes = dims(x), _axes(x, y)
        return yes() if shape and axes and all(shape[a] == 1 for a in axes) else no()

    def rewrite(self, op: Any, x: ir.Value, y: ir.Value, **_: Any) -> ir.Value:
        node, axes = y.producer(), _axes(x, y)
        assert node is not None
        assert axes is not None
        if node.attributes.get_int("keepdims", 1):
            kept: ir.Value = op.Identity(x)
            return kept
        dropped: ir.Value = op.Squeeze(x, ints(op, axes, f"{y.name}.axes"))
        return dropped


def _axes(x: ir.Value, y: ir.Value) -> list[int] | None:
    """The axes that are reduced, counted from the front; None when they are not known."""
    node, shape = y.producer(), dims(x)
    if node is None or shape is None:
        return None
    given = input_of(node, 1)
    found = array(given)
    if given is not None and found is None:
        return None
    if found is None or found.size == 0:
        return None if node.attributes.get_int("noop_with_empty_axes", 0) else list(range(len(shape)))
    return sorted({int(a) % len(shape) for a in found})


RULES = for_ops(SimplifyReduce, "ReduceMean", "ReduceSum", "ReduceMax", "ReduceMin", "ReduceProd")

HITS = (
    """g (float[N, 1, 3] x) => (float[N, 3] y) { k = Constant<value = int64[1] {-2}>()
        a = ReduceMean<keepdims = 0>(x, k) y = Relu(a) }""",
    """g (float[N, 1, 3] x) => (float[N, 1, 3] y) { k = Constant<value = int64[1] {1}>()
        a = ReduceMax(x, k) y = Relu(a) }""",
    "g (float[1, 1] x) => (float y) { a = ReduceSum<keepdims = 0>(x) y = Relu(a) }",
)
NEAR_MISSES = (
    (
        """g (float[N, 1, 3] x) => (float[N, 1] y) { k = Constant<value = int64[1] {2}>()
            a = ReduceMean<keepdims = 0>(x, k) y = Relu(a) }""",
        "",
    ),
)
