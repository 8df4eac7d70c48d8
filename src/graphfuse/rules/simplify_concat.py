"""A concat of concats along the same axis is one concat."""

from __future__ import annotations

from typing import Any

import onnx_ir as ir
from onnxscript.rewriter import MatchResult

from graphfuse.rules.rule import Rule, no, yes
from graphfuse.rules.values import axis_of, producer

STAGE = "simplify"
ERROR_CLASS = "exact"
ORDER = 40


# Concat(Concat(x, y), z) -> Concat(x, y, z)
class SimplifyConcat(Rule):
    """Inner ones that are used elsewhere as well stay whole: their result has to exist anyway."""

    exclusive = False
    absorbs = True

    def pattern(self, op: Any) -> Any:
        return op.Concat(_allow_other_inputs=True, _outputs=["y"])

    def check(self, context: Any, y: ir.Value, **_: Any) -> MatchResult:
        node = y.producer()
        assert node is not None
        return yes() if len(_flattened(node)) > len(node.inputs) else no()

    def rewrite(self, op: Any, y: ir.Value, **_: Any) -> ir.Value:
        node = y.producer()
        assert node is not None
        result: ir.Value = op.Concat(*_flattened(node), axis=node.attributes["axis"])
        return result


def _flattened(node: ir.Node) -> list[ir.Value]:
    axis = axis_of(node.outputs[0], node.attributes.get_int("axis", 0))
    values: list[ir.Value] = []
    for value in node.inputs:
        assert value is not None
        inner = producer(value, "Concat")
        alone = len(value.uses()) == 1 and not value.is_graph_output()
        if inner is None or inner.graph is not node.graph or not alone or axis is None:
            values.append(value)
        elif axis_of(value, inner.attributes.get_int("axis", 0)) == axis:
            values += [v for v in inner.inputs if v is not None]
        else:
            values.append(value)
    return values


RULES = (SimplifyConcat,)

HITS = (
    """g (float[N, 2] x, float[N, 3] z) => (float[N, 8] y) {
        a = Concat<axis = 1>(x, z) b = Concat<axis = -1>(z, a) y = Relu(b) }""",
)
NEAR_MISSES = ()
