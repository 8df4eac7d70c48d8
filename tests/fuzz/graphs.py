"""Cutting models down."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import onnx
from onnx import helper


def pruned(model: onnx.ModelProto, outputs: Sequence[str] = ()) -> onnx.ModelProto:
    """The model without the nodes, constants and inputs that its outputs, or those given, do not need."""
    small = onnx.ModelProto()
    small.CopyFrom(model)
    if outputs:
        chosen = [
            onnx.ValueInfoProto.FromString(y.SerializeToString()) for y in model.graph.output if y.name in outputs
        ]
        del small.graph.output[:]
        small.graph.output.extend(chosen)
    needed = {y.name for y in small.graph.output}
    kept = []
    for node in reversed(small.graph.node):
        if any(name in needed for name in node.output):
            kept.append(onnx.NodeProto.FromString(node.SerializeToString()))
            needed |= {name for name in node.input if name} | captured(node)
    del small.graph.node[:]
    small.graph.node.extend(reversed(kept))
    for field in (small.graph.initializer, small.graph.input):
        entries = [type(e).FromString(e.SerializeToString()) for e in field if e.name in needed]
        del field[:]
        field.extend(entries)
    return small


def read_by(nodes: Iterable[onnx.NodeProto]) -> set[str]:
    """Names that the nodes read, in bodies too."""
    return {x for node in nodes for x in (*node.input, *captured(node)) if x}


def opsets(nodes: Iterable[onnx.NodeProto], version: int) -> list[onnx.OperatorSetIdProto]:
    """The imports that nodes need: the standard domain at a version, others at the newest there is."""
    domains = dict.fromkeys(node.domain for node in nodes if node.domain)
    newest = {
        d: max((s.since_version for s in onnx.defs.get_all_schemas() if s.domain == d), default=1) for d in domains
    }
    return [helper.make_opsetid("", version), *(helper.make_opsetid(d, v) for d, v in newest.items())]


def captured(node: onnx.NodeProto) -> set[str]:
    """Names that the bodies of a node read, their own included."""
    names: set[str] = set()
    for attribute in node.attribute:
        for graph in [attribute.g] if attribute.HasField("g") else list(attribute.graphs):
            for inner in graph.node:
                names |= set(inner.input) | captured(inner)
            names |= {y.name for y in graph.output}
    return names
