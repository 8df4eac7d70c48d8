"""Which of the user's own nodes and dimensions an IR node or symbolic dimension stands for.

Every user's node is either settled in the ledger or carried by exactly one IR node; helper nodes that a rewrite adds
carry none. `check_origins` proves it and is called between stages.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator

import onnx_ir as ir

from graphfuse.errors import InternalError
from graphfuse.ledger import Ledger

ORIGINS_KEY = "graphfuse.origins"
DIMS_KEY = "graphfuse.dims"
# What only dresses up the work of another: where several nodes spell one of the user's, none of these stands for it
# without need.
DRESSING = frozenset(
    {"Cast", "CastLike", "Expand", "Identity", "Pad", "Reshape", "Slice", "Squeeze", "Transpose", "Unsqueeze"}
)


def origins(node: ir.Node) -> tuple[str, ...]:
    """The user's node names that this node stands for; empty for a helper node that a rewrite added."""
    text = node.metadata_props.get(ORIGINS_KEY)
    return tuple(json.loads(text)) if text else ()


def set_origins(node: ir.Node, names: Iterable[str]) -> None:
    """Make this node stand for these of the user's nodes, and for no others."""
    node.metadata_props[ORIGINS_KEY] = json.dumps(list(dict.fromkeys(names)))


def merge_origins(nodes: Iterable[ir.Node]) -> tuple[str, ...]:
    """The origins of several nodes, in order, each once."""
    return tuple(dict.fromkeys(name for node in nodes for name in origins(node)))


def label(node: ir.Node) -> str:
    """The name to show a user for this node: its first origin, else its own name, else its operator type."""
    names = origins(node)
    return names[0] if names else node.name or node.op_type


def all_nodes(graph: ir.Graph) -> Iterator[ir.Node]:
    """Every node of the graph and of the bodies of its control flow, outer nodes first."""
    return iter(ir.traversal.RecursiveGraphIterator(graph))


def dim_names(model: ir.Model) -> dict[str, str]:
    """The symbolic dimensions of the model's inputs: the identifier used inside -> the name in the user's file."""
    text = model.metadata_props.get(DIMS_KEY)
    return dict(json.loads(text)) if text else {}


def check_origins(model: ir.Model, ledger: Ledger, stage: str) -> None:
    """Prove that every user's node is settled or carried by exactly one IR node.

    Raises InternalError, naming `stage`, for the first node that is lost, doubled, or settled and still carried.
    """
    carried: dict[str, str] = {}
    for node in all_nodes(model.graph):
        for name in origins(node):
            if name in carried:
                raise InternalError(f"after {stage}, two nodes stand for one of the user's", where=name)
            if ledger.record(name) is not None:
                raise InternalError(f"after {stage}, a node that is settled is still in the graph", where=name)
            ledger.op_type(name)
            carried[name] = node.op_type
    lost = [name for name in ledger.missing() if name not in carried]
    if lost:
        raise InternalError(f"after {stage}, a node is neither settled nor in the graph", where=lost[0])
