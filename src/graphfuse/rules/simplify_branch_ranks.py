"""Branches of different ranks get the same one where nobody cares: axes of size 1 in front, as broadcasting adds."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from graphfuse.graph.bodies import inner_first, is_control
from graphfuse.ledger import Ledger
from graphfuse.rules.builder import Builder
from graphfuse.rules.engine import infer_again
from graphfuse.rules.values import rank

STAGE = "simplify"
ERROR_CLASS = "exact"
ORDER = 10

_BROADCASTING = frozenset(
    {
        "Add", "And", "Div", "Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual", "Max", "Mean", "Min", "Mod",
        "Mul", "Or", "Pow", "Sub", "Sum", "Where", "Xor",
    }
)  # fmt: skip


def apply(model: ir.Model, ledger: Ledger) -> bool:
    """Widen results of branches; whether any was."""
    found = [(node, k) for node in inner_first(model.graph) if is_control(node, "If") for k in _differing(node)]
    if not found:
        return False
    build = Builder(model)
    for node, k in found:
        branches = [node.attributes[name].as_graph() for name in ("then_branch", "else_branch")]
        ranks = [rank(branch.outputs[k]) or 0 for branch in branches]
        low = branches[ranks.index(min(ranks))]
        axes = build.constant(np.arange(max(ranks) - min(ranks)), f"{node.name}.axes")
        low.outputs[k] = build.last(low, "Unsqueeze", [low.outputs[k], axes])
    infer_again(model)
    return True


def _differing(node: ir.Node) -> list[int]:
    """The outputs whose rank depends on the branch, and whose readers do not care."""
    branches = [node.attributes[name].as_graph() for name in ("then_branch", "else_branch")]
    found = []
    for k, value in enumerate(node.outputs):
        a, b = (rank(branch.outputs[k]) for branch in branches)
        if a is None or b is None or a == b or value.is_graph_output():
            continue
        if all(_is_wide(user, value, max(a, b)) for user, _ in value.uses()):
            found.append(k)
    return found


def _is_wide(user: ir.Node, value: ir.Value, least: int) -> bool:
    """Whether a node broadcasts the value to a rank that another operand has."""
    if user.op_type == "CastLike" and user.inputs[0] is not value:
        return True  # only its element type counts
    others = [rank(x) for x in user.inputs if x is not value]
    return not user.domain and user.op_type in _BROADCASTING and any(r is not None and r >= least for r in others)


HITS = (
    """g (bool c, float[3] x, float[1] z) => (float[3] y) {
        u = If(c) <then_branch = a () => (float p) { k = Constant<value = float {2.0}>() p = Abs(k) },
                   else_branch = b () => (float[1] q) { q = Exp(z) }> y = Mul(x, u) }""",
)
NEAR_MISSES = (
    (
        """g (bool c, float x, float[1] z) => (float[1] y) { k = Constant<value = int64[1] {1}>()
            u = If(c) <then_branch = a () => (float p) { p = Abs(x) },
                       else_branch = b () => (float[1] q) { q = Exp(z) }> v = Mul(x, u) y = Reshape(v, k) }""",
        "",
    ),
)
