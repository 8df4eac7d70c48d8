"""New nodes and constants for passes that no pattern can say, under names that nothing else has."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx_ir as ir

from graphfuse.graph.bodies import bodies, graphs, inner_first, splice
from graphfuse.graph.infer import Inference
from graphfuse.graph.origins import set_origins
from graphfuse.rules.values import Array


class Builder:
    """Puts nodes in front of others, infers their shapes, and names them and their results."""

    def __init__(self, model: ir.Model) -> None:
        self._model = model
        self._inference = Inference(model)
        self._values = {value.name for graph in graphs(model.graph) for value in _values(graph)}
        self._nodes = {node.name for graph in graphs(model.graph) for node in graph}

    def constant(self, elements: Array, name: str) -> ir.Value:
        """A new constant of the model."""
        tensor = ir.tensor(np.asarray(elements), name=self.value_name(name))
        shape = ir.Shape([d for d in tensor.shape if isinstance(d, int)])
        value = ir.Value(name=tensor.name, shape=shape, type=ir.TensorType(tensor.dtype), const_value=tensor)
        self._model.graph.register_initializer(value)
        return value

    def node(
        self,
        before: ir.Node,
        op_type: str,
        inputs: Sequence[ir.Value | None],
        attributes: dict[str, Any] | None = None,
        *,
        outputs: int = 1,
        origins: Sequence[str] = (),
    ) -> list[ir.Value]:
        """A new node in front of another, standing for these of the user's; its results."""
        assert before.graph is not None
        base = origins[0] if origins else f"{before.name}.{op_type}"
        node = ir.node(op_type, inputs, attributes, num_outputs=outputs, name=self.node_name(base))
        set_origins(node, origins)
        for k, value in enumerate(node.outputs):
            value.name = self.value_name(f"{node.name}.{k}")
        before.graph.insert_before(before, node)
        self._inference.node(node)
        return list(node.outputs)

    def end(self, graph: ir.Graph, value: ir.Value) -> ir.Value:
        """A copy of a value, as the result of a graph: a result has one place and is made in the graph itself."""
        return self.last(graph, "Identity", [value])

    def last(self, graph: ir.Graph, op_type: str, inputs: Sequence[ir.Value]) -> ir.Value:
        """The result of a new node behind all others of a graph."""
        base = f"{inputs[0].name}.{'copy' if op_type == 'Identity' else op_type}"
        node = ir.node(op_type, inputs, name=self.node_name(base))
        node.outputs[0].name = self.value_name(base)
        graph.append(node)
        self._inference.node(node)
        if op_type == "Identity":  # also of what has no shape rule: sequences
            node.outputs[0].shape, node.outputs[0].type = inputs[0].shape, inputs[0].type
        return node.outputs[0]

    def copy(self, node: ir.Node, body: ir.Graph, inputs: Sequence[ir.Value | None], number: int) -> list[ir.Value]:
        """The nodes of a body once more, in front of the node that owns it, reading `inputs`; the body's results.

        Copy 0 stands for the user's nodes and has their names.
        """
        clone = body.clone(allow_outer_scope_values=True)
        for inner in inner_first(clone):
            if number:
                inner.name = self.node_name(f"{inner.name}.{number}")
                set_origins(inner, ())
            for value in (*inner.outputs, *(v for b in bodies(inner) for v in b.inputs)) if number else ():
                value.name = self.value_name(f"{value.name}.{number}") if value.name else value.name
        for old, new in zip(clone.inputs, inputs, strict=True):
            assert new is not None
            ir.convenience.replace_all_uses_with(old, new, replace_graph_outputs=True)
        return splice(node, clone)

    def value_name(self, wanted: str) -> str:
        """A name like the wanted one that no value of the model has."""
        return _fresh(self._values, wanted)

    def node_name(self, wanted: str) -> str:
        """A name like the wanted one that no node of the model has."""
        return _fresh(self._nodes, wanted)


def _values(graph: ir.Graph) -> Sequence[ir.Value]:
    made = [value for node in graph for value in node.outputs]
    return [*graph.inputs, *graph.initializers.values(), *made]


def _fresh(taken: set[str | None], wanted: str) -> str:
    names = itertools.chain([wanted], (f"{wanted}_{k}" for k in itertools.count(2)))
    name = next(name for name in names if name not in taken)
    taken.add(name)
    return name
