"""Reductions that drop their axes, only for a reshape to put them back, keep them."""

from __future__ import annotations

import onnx_ir as ir

from graphfuse.graph.bodies import graphs
from graphfuse.graph.infer import Inference
from graphfuse.graph.origins import origins
from graphfuse.ledger import Ledger
from graphfuse.rules.values import array, dims, input_of, keeps_shape, scalar

STAGE = "simplify"
ERROR_CLASS = "exact"
ORDER = 45

_POINTWISE = frozenset(
    {"Mul", "Add", "Sub", "Div", "Max", "Min", "Sqrt", "Reciprocal", "Exp", "Log", "Neg", "Abs", "Pow", "Clip", "Erf"}
)


# Reshape(f(ReduceX(x, keepdims = 0))) -> f(ReduceX(x, keepdims = 1)), with f pointwise
def apply(model: ir.Model, ledger: Ledger) -> bool:
    """Applies where everything between the reductions and the reshapes is pointwise, on scalars besides."""
    changed = False
    for graph in graphs(model.graph):
        for node in list(graph):
            if node.graph is graph and _is_reduction(node):
                changed = _keep(model, ledger, graph, node) or changed
    return changed


def _is_reduction(node: ir.Node) -> bool:
    named = node.op_type.startswith("Reduce") and node.domain == ""
    return named and not node.attributes.get_int("keepdims", 1)


def _keep(model: ir.Model, ledger: Ledger, graph: ir.Graph, start: ir.Node) -> bool:
    restored = _restored_shape(start)
    if restored is None:
        return False
    inside, exits = [start], []
    for node in inside:
        for value in node.outputs:
            if value.is_graph_output():
                return False
            for user, _ in value.uses():
                if user in inside or user in exits:
                    continue
                if _restores(user, restored):
                    exits.append(user)
                elif user.graph is graph and _joins(user, start):
                    inside += [n for n in (user, *_reductions(user)) if n not in inside]
                else:
                    return False
    if not exits:
        return False
    inference = Inference(model)
    order = {node: k for k, node in enumerate(graph)}
    for node in sorted(inside, key=order.__getitem__):
        if _is_reduction(node):
            node.attributes["keepdims"] = ir.AttrInt64("keepdims", 1)
        for value in node.outputs:
            value.shape = None
        inference.node(node)
    for node in exits:
        source = node.inputs[0]
        assert source is not None
        ir.convenience.replace_all_uses_with(node.outputs[0], source)
        graph.remove(node, safe=True)
        reason = "the reduction before it keeps the axes it put back"
        ledger.settle(origins(node), "removed", by="simplify_keepdims", reason=reason)
    return True


def _restored_shape(node: ir.Node) -> ir.Value | None:
    """A stand-in value with the shape that the reduction's result has when it keeps its axes."""
    source, axes = node.inputs[0], array(input_of(node, 1))
    shape = dims(source)
    if source is None or source.shape is None or shape is None or axes is None or axes.size == 0:
        return None
    reduced = {int(a) % len(shape) for a in axes.ravel()}
    return ir.Value(shape=ir.Shape([1 if k in reduced else d for k, d in enumerate(source.shape)]))


def _restores(node: ir.Node, restored: ir.Value) -> bool:
    reshapes = node.domain == "" and node.op_type in ("Reshape", "Unsqueeze") and not node.outputs[0].is_graph_output()
    return reshapes and keeps_shape(node.outputs[0], restored)


def _joins(node: ir.Node, start: ir.Node) -> bool:
    """Whether the node is pointwise on reductions over the same axes and scalars."""
    if node.domain != "" or node.op_type not in _POINTWISE:
        return False
    return all(_is_scalar_or_same(value, start, 6) for value in node.inputs if value is not None)


def _is_scalar_or_same(value: ir.Value, start: ir.Node, depth: int) -> bool:
    if scalar(value) is not None:
        return True
    node = value.producer()
    if node is None or node.domain != "" or depth == 0:
        return False
    if _is_reduction(node):
        restored, own = _restored_shape(node), _restored_shape(start)
        return restored is not None and own is not None and keeps_shape(restored, own)
    pointwise = node.op_type in _POINTWISE
    return pointwise and all(_is_scalar_or_same(v, start, depth - 1) for v in node.inputs if v is not None)


def _reductions(node: ir.Node) -> list[ir.Node]:
    """The nodes above a pointwise one that keep their axes together with it."""
    found: list[ir.Node] = []
    for value in node.inputs:
        above = value.producer() if value is not None and scalar(value) is None else None
        if above is not None:
            found += [above] if _is_reduction(above) else [above, *_reductions(above)]
    return found


HITS = (
    """g (float[N, 5, 4] x) => (float[N, 5, 4] y) {
        k = Constant<value = int64[1] {1}>() c = Constant<value = float {0.25}>() z = Constant<value = float {0.0}>()
        s = ReduceSum<keepdims = 0>(x, k) m = Mul(s, c) a = Unsqueeze(m, k) q = Mul(x, x)
        t = ReduceSum<keepdims = 0>(q, k) u = Mul(t, c) v = Sub(u, m) w = Max(z, v) b = Unsqueeze(w, k)
        d = Sub(x, a) y = Mul(d, b) }""",
)
NEAR_MISSES = ()
