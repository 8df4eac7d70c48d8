"""Control flow with other inputs and results than before."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import onnx_ir as ir

from graphfuse.graph.bodies import bodies, empty
from graphfuse.graph.origins import origins
from graphfuse.ledger import Ledger


def is_read(value: ir.Value | None) -> bool:
    """Whether a node reads the value, or it is a result of its graph."""
    return value is not None and (value.is_graph_output() or bool(value.uses()))


def sweep(body: ir.Graph, ledger: Ledger, by: str) -> None:
    """Remove the nodes of a body that nothing reads any more."""
    for inner in reversed(list(body)):
        if any(is_read(value) for value in inner.outputs):
            continue
        gone = [node for nested in bodies(inner) for node in empty(nested)]
        body.remove(inner, safe=True)
        for node in (inner, *gone):
            ledger.settle(origins(node), "removed", by=by, reason="its result is not used")


def rebuild(
    node: ir.Node,
    inputs: Sequence[ir.Value | None],
    kept: Sequence[int],
    attributes: Mapping[str, ir.Attr] | None = None,
    more: int = 0,
) -> ir.Node:
    """Put a node with these inputs and only some of the outputs in the place of another, `more` new ones behind them.

    The other outputs must have no readers. Returns the new node.
    """
    given = {**node.attributes, **(attributes or {})}
    new = ir.Node(
        "", node.op_type, inputs, given.values(), num_outputs=len(kept) + more, name=node.name,
        metadata_props=dict(node.metadata_props),
    )  # fmt: skip
    assert node.graph is not None
    node.graph.insert_before(node, new)
    for old, value in zip((node.outputs[k] for k in kept), new.outputs, strict=False):
        name = old.name
        value.type, value.shape = old.type, old.shape
        value.metadata_props.update(old.metadata_props)
        ir.convenience.replace_all_uses_with(old, value, replace_graph_outputs=True)
        old.name, value.name = None, name
    node.graph.remove(node, safe=True)
    return new
