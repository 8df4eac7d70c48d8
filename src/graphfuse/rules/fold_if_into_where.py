"""An If between a few cheap elementwise results computes both and selects: no branch, and fusion reaches across."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from graphfuse.graph.bodies import inner_first, is_control, splice, supersede
from graphfuse.graph.origins import origins
from graphfuse.ledger import Ledger
from graphfuse.rules.builder import Builder
from graphfuse.rules.certain import cannot_fail
from graphfuse.rules.values import keeps_shape, rank

STAGE = "simplify"
ERROR_CLASS = "exact"
ORDER = 75

# Cheaper than a branch that ends a kernel: one instruction for each element, or next to that.
_CHEAP = frozenset(
    {
        "Abs", "Add", "And", "Cast", "Ceil", "Clip", "Equal", "Floor", "Greater", "GreaterOrEqual", "Identity", "Less",
        "LessOrEqual", "Max", "Min", "Mul", "Neg", "Not", "Or", "Relu", "Sign", "Sub", "Where", "Xor", "LeakyRelu",
        "HardSigmoid", "HardSwish",
    }
)  # fmt: skip
_MOST_NODES = 6  # of both branches, copies apart


def apply(model: ir.Model, ledger: Ledger) -> bool:
    """Replace Ifs, inner ones first; whether any was."""
    found = [node for node in inner_first(model.graph) if is_control(node, "If") and _is_cheap(node)]
    if not found:
        return False
    build = Builder(model)
    for node in found:
        _select(node, build)
    return True


def _is_cheap(node: ir.Node) -> bool:
    branches = [node.attributes[name].as_graph() for name in ("then_branch", "else_branch")]
    work = [inner for branch in branches for inner in branch if inner.op_type != "Identity"]
    if len(work) > _MOST_NODES or any(n.domain or n.op_type not in _CHEAP for branch in branches for n in branch):
        return False
    # Sizes that meet in a branch need not fit where the other one is taken.
    if any(not cannot_fail(n) or value.dtype == ir.DataType.STRING for n in work for value in n.outputs):
        return False
    if rank(node.inputs[0]) is None:
        return False
    pairs = zip(*(branch.outputs for branch in branches), strict=True)
    return all(keeps_shape(a, b) and a.dtype == b.dtype and a.dtype is not None for a, b in pairs)


def _select(node: ir.Node, build: Builder) -> None:
    condition, names = node.inputs[0], origins(node)
    count = len(node.outputs)
    then, other = (splice(node, node.attributes[name].as_graph()) for name in ("then_branch", "else_branch"))
    if rank(condition):
        shape = build.constant(np.zeros(0, np.int64), f"{node.name}.scalar")
        (condition,) = build.node(node, "Reshape", [condition, shape])
    results = []
    for k in range(count):
        results += build.node(node, "Where", [condition, then[k], other[k]], origins=names if k == 0 else ())
    supersede(node, results)


HITS = (
    """g (bool c, float[N, 3] x) => (float[N, 3] y) {
        y = If(c) <then_branch = a () => (float[N, 3] u) { u = Relu(x) },
                   else_branch = b () => (float[N, 3] v) { w = Neg(x) v = Add(w, w) }> }""",
    """g (bool[1] c, float x) => (float y, float z) {
        u, z = If(c) <then_branch = a () => (float p, float q) { p = Identity(x) q = Abs(x) },
                   else_branch = b () => (float r, float s) { r = Neg(x) s = Identity(x) }> y = Exp(u) }""",
)
NEAR_MISSES = (
    (
        """g (bool c, float[N] x, float[K] z, float[1] v) => (float[1] y) {
            y = If(c) <then_branch = a () => (float[1] u) { w = Mul(x, z) k = Equal(w, w) u = Where(k, v, v) },
                       else_branch = b () => (float[1] s) { s = Neg(v) }> }""",
        "",
    ),
    (
        """g (bool c, float[N] x, float[3] z, float[3] v) => (float[3] y) {
            y = If(c) <then_branch = a () => (float[3] u) { u = Mul(x, z) },
                       else_branch = b () => (float[3] s) { s = Neg(v) }> }""",
        "",
    ),
    (
        """g (bool c, float[N, 3] x) => (float[N, 3] y) {
            y = If(c) <then_branch = a () => (float[N, 3] u) { u = Erf(x) },
                       else_branch = b () => (float[N, 3] v) { v = Neg(x) }> }""",
        "",
    ),
    (
        """g (bool c, float[N, 3] x, float[K, 3] z) => (float[M, 3] y) {
            y = If(c) <then_branch = a () => (float[N, 3] u) { u = Relu(x) },
                       else_branch = b () => (float[K, 3] v) { v = Relu(z) }> }""",
        "",
    ),
)
