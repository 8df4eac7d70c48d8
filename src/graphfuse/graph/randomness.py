"""Which nodes draw random numbers: such nodes are never computed at compile time, merged, or compared by value."""

from __future__ import annotations

from collections.abc import Iterable

import onnx_ir as ir

from graphfuse.graph.origins import all_nodes, label
from graphfuse.ledger import Ledger

RANDOM_OPS = frozenset(
    {
        "Bernoulli",
        "Multinomial",
        "RandomNormal",
        "RandomNormalLike",
        "RandomUniform",
        "RandomUniformLike",
    }
)


def is_random(node: ir.Node) -> bool:
    """Whether the node draws numbers; dropout does in training mode, which may be known only at run time."""
    if node.domain not in ("", "ai.onnx"):
        return False
    return node.op_type in RANDOM_OPS or (node.op_type == "Dropout" and _may_train(node))


def _may_train(node: ir.Node) -> bool:
    mode = node.inputs[2] if len(node.inputs) > 2 else None
    if mode is None:
        return False
    known = ir.convenience.get_const_tensor(mode)
    return known is None or bool(known.numpy().reshape(()))


def random_values(model: ir.Model) -> set[str]:
    """The names of the main graph's values that depend on a draw, in whatever way."""
    found: set[ir.Value] = set()

    def visit(graph: ir.Graph) -> bool:
        drawn = False
        for node in graph:
            bodies = [visit(body) for body in _bodies(node)]
            if is_random(node) or any(bodies) or any(value in found for value in node.inputs):
                found.update(node.outputs)
                drawn = True
        return drawn

    visit(model.graph)
    return {value.name for value in found if value.name}


def _bodies(node: ir.Node) -> Iterable[ir.Graph]:
    for attribute in node.attributes.values():
        if attribute.type == ir.AttributeType.GRAPH:
            yield attribute.as_graph()
        elif attribute.type == ir.AttributeType.GRAPHS:
            yield from attribute.as_graphs()


def give_seeds(model: ir.Model, seed: int, ledger: Ledger) -> None:
    """Give every random node that has no seed this one, and say so in the ledger."""
    for node in all_nodes(model.graph):
        if not is_random(node) or "seed" in node.attributes:
            continue
        # ONNX's seeds are floats, but for dropout's.
        node.attributes.add(ir.Attr("seed", *_seed_of(node, seed)))
        text = f"has no seed of its own: it draws from seed {seed}, the same numbers in every run (option seed)"
        ledger.note("import", label(node), text)


def _seed_of(node: ir.Node, seed: int) -> tuple[ir.AttributeType, float]:
    return (ir.AttributeType.INT, seed) if node.op_type == "Dropout" else (ir.AttributeType.FLOAT, float(seed))
