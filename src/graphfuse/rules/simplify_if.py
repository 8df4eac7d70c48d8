"""If goes where its condition is known: the branch that runs takes its place."""

from __future__ import annotations

import onnx_ir as ir

from graphfuse.graph.bodies import empty, inner_first, is_control, splice, supersede, truth
from graphfuse.graph.dims import dim, same
from graphfuse.graph.infer import elements
from graphfuse.graph.origins import label, origins
from graphfuse.ledger import Ledger
from graphfuse.rules.engine import infer_again
from graphfuse.rules.values import array, producer

STAGE = "simplify"
ERROR_CLASS = "exact"
ORDER = 6


def apply(model: ir.Model, ledger: Ledger) -> bool:
    """Put branches in the place of their Ifs, inner ones first; whether any was."""
    changed = False
    for node in list(inner_first(model.graph)):
        if node.graph is None or not is_control(node, "If"):
            continue
        taken, why = _decision(node, ledger)
        if taken is None:
            continue
        _inline(node, taken, why, ledger)
        changed = True
    if changed:
        infer_again(model)
    return changed


def _decision(node: ir.Node, ledger: Ledger) -> tuple[bool | None, str]:
    """Which branch runs, if that can be told, and why."""
    known = truth(node.inputs[0])
    if known is not None:
        return known, f"its condition is {str(known).lower()}"
    axis = _squeezed(node)
    if axis is None:
        return None, ""
    # What torch makes of squeeze(axis): the ranks of the branches differ, so a compiled model can hold one of them.
    ledger.note("simplify", label(node), f"{axis} is taken to be 1; each run checks that it is")
    return True, f"{axis} is taken to be 1, which each run checks"


def _squeezed(node: ir.Node) -> str | None:
    """The axis, in words, that the first branch removes if the condition finds it of size 1; the other keeps it."""
    equal = producer(node.inputs[0], "Equal")
    first, second = (node.attributes[name].as_graph() for name in ("then_branch", "else_branch"))
    ranks = [[None if v.shape is None else len(v.shape) for v in branch.outputs] for branch in (first, second)]
    if equal is None or ranks[0] == ranks[1]:
        return None
    sizes = [elements(value) for value in equal.inputs]
    if [1] not in sizes:
        return None
    found = sizes[1 - sizes.index([1])]
    if found is None or len(found) != 1:
        return None
    for squeeze in (inner for inner in first if inner.op_type == "Squeeze"):
        data = squeeze.inputs[0]
        axes = array(squeeze.inputs[1]) if len(squeeze.inputs) > 1 else None
        if axes is None or axes.size != 1 or data is None or data.shape is None:
            continue
        axis = int(axes.reshape(-1)[0])
        if same(dim(data.shape[axis]), dim(found[0])):
            return f"axis {axis} of {data.name}"
    return None


def _inline(node: ir.Node, taken: bool, why: str, ledger: Ledger) -> None:
    branches = [node.attributes[name].as_graph() for name in ("else_branch", "then_branch")]
    results = splice(node, branches[taken])
    supersede(node, results[: len(node.outputs)])
    ledger.settle(origins(node), "removed", by="simplify_if", reason=why)
    never = f"its branch of {label(node)} never runs: {why}"
    for gone in empty(branches[not taken]):
        ledger.settle(origins(gone), "removed", by="simplify_if", reason=never)


HITS = (
    """g (float[2, 3] x) => (float[2, 3] y) { t = Constant<value = bool {1}>()
        y = If(t)<then_branch = a () => (float[2, 3] u) { u = Relu(x) }, else_branch = b () => (float[2, 3] v) {
            v = Exp(x) }> }""",
    """g (float[2, 3] x) => (float[2, 3] y) { t = Constant<value = bool {0}>() z = Abs(x)
        w = If(t)<then_branch = a () => (float[2, 3] u) { u = Relu(x) }, else_branch = b () => (float[2, 3] v) {
            v = Identity(z) }> y = Neg(w) }""",
    """g (bool c, float[2, 3] x) => (float[2, 3] y) { t = Constant<value = bool {1}>()
        y = If(c)<then_branch = a () => (float[2, 3] p) {
            p = If(t)<then_branch = d () => (float[2, 3] q) { q = Abs(x) }, else_branch = e () => (float[2, 3] r) {
                r = Neg(x) }> },
        else_branch = b () => (float[2, 3] v) { v = Exp(x) }> }""",
)
NEAR_MISSES = ()
