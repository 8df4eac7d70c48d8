"""What goes in and out of graphs: optional inputs are taken as given, and the results of bodies are their own."""

from __future__ import annotations

import itertools

import onnx_ir as ir

from graphfuse.errors import UnsupportedModelError
from graphfuse.graph.bodies import graphs
from graphfuse.ledger import Ledger


def take_optional_inputs(model: ir.Model, where: str, ledger: Ledger) -> None:
    """Make tensors of the inputs that may be left out; a compiled model is always given all of its inputs.

    Raises UnsupportedModelError for an input that is a sequence: how many tensors it holds decides what is computed.
    """
    refused = []
    for value in model.graph.inputs:
        kind = value.type
        if isinstance(kind, ir.OptionalType) and isinstance(kind.elem_type, ir.TensorType):
            value.type = kind.elem_type
            ledger.note("import", value.name or "", "an optional input: the compiled model always takes it")
        elif not isinstance(kind, ir.TensorType | None):
            refused.append(("Input", value.name or "?", "it is a sequence, of a length that the model does not state"))
    if refused:
        remedy = "give the model the tensors of the sequence as inputs, and a SequenceConstruct of them"
        raise UnsupportedModelError(refused, where=where, remedy=remedy)


def own_results(model: ir.Model) -> None:
    """Let every result of a body be made by a node of that body, and be its result once: by copies where need be."""
    everywhere = graphs(model.graph)
    taken = {value.name for graph in everywhere for node in graph for value in node.outputs}
    taken |= {value.name for graph in everywhere for value in (*graph.inputs, *graph.initializers.values())}
    for body in everywhere[1:]:
        seen: set[ir.Value] = set()
        for k, value in enumerate(list(body.outputs)):
            maker = value.producer()
            if maker is not None and maker.graph is body and value not in seen:
                seen.add(value)
                continue
            name = next(n for n in (f"{value.name}.copy{i or ''}" for i in itertools.count()) if n not in taken)
            taken.add(name)
            copy = ir.node("Identity", [value], name=name)
            copy.outputs[0].name, copy.outputs[0].type = name, value.type
            body.append(copy)
            body.outputs[k] = copy.outputs[0]
