"""Nodes that compute the same from the same inputs become one."""

from __future__ import annotations

from collections.abc import Hashable

import onnx_ir as ir

from graphfuse.graph.bodies import bodies, supersede
from graphfuse.graph.randomness import is_random
from graphfuse.ledger import Ledger
from graphfuse.rules.engine import account_for

STAGE = "simplify"
ERROR_CLASS = "exact"
ORDER = 80

# Larger tensors among a node's attributes are not compared.
_MOST_ELEMENTS = 16

_Key = tuple[Hashable, ...]


def apply(model: ir.Model, ledger: Ledger) -> bool:
    """Merge equal nodes; whether any were."""
    return account_for(model, ledger, lambda: _merge(model.graph, {}), "eliminate_duplicates", _why)


def _merge(graph: ir.Graph, outside: dict[_Key, ir.Node]) -> None:
    """Let the first of equal nodes stand for all; what a body computes may have been computed around it before."""
    first = dict(outside)
    for node in list(graph):
        for body in bodies(node):
            _merge(body, first)
        key = _key(node)
        if key is None:
            continue
        same = first.setdefault(key, node)
        if same is not node:
            supersede(node, same.outputs)


def _key(node: ir.Node) -> _Key | None:
    """What tells a node from one that computes something else; None for a node that is like no other."""
    if is_random(node):
        return None
    attributes = []
    for name, attribute in sorted(node.attributes.items()):
        value = attribute.value
        if attribute.type == ir.AttributeType.TENSOR:
            if value.size > _MOST_ELEMENTS or value.dtype == ir.DataType.STRING:
                return None
            value = (value.dtype, tuple(value.shape), value.numpy().tobytes())
        elif attribute.type in (ir.AttributeType.INTS, ir.AttributeType.FLOATS, ir.AttributeType.STRINGS):
            value = tuple(value)
        elif attribute.type not in (ir.AttributeType.INT, ir.AttributeType.FLOAT, ir.AttributeType.STRING):
            return None
        attributes.append((name, attribute.type, value))
    # An Identity may be there for the sake of the result's place: copies of one value are as good apart.
    if node.op_type == "Identity" and any(value.is_graph_output() for value in node.outputs):
        return None
    inputs = tuple(id(value) if value is not None else None for value in node.inputs)
    return (node.domain, node.op_type, node.overload, len(node.outputs), inputs, tuple(attributes))


def _why(node: ir.Node) -> str:
    return "another node computes the same"


HITS = (
    "g (float[2, 3] x) => (float[2, 3] y) { a = Exp(x) b = Exp(x) y = Add(a, b) }",
    """g (float[2, 3] x) => (float[2, 3] y, float[2, 3] z, float[2, 3] v) {
        y = Exp(x) z = Exp(x) w = Exp(x) v = Abs(w) }""",
    """g (bool c, float[2, 3] x) => (float[2, 3] y, float[2, 3] z) { z = Exp(x)
        y = If(c) <then_branch = a () => (float[2, 3] p) { u = Exp(x) v = Exp(u) w = Exp(u) p = Add(v, w) },
                   else_branch = b () => (float[2, 3] q) { q = Exp(x) }> }""",
)
NEAR_MISSES = ()
