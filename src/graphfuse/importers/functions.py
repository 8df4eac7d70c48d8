"""Operators that the standard defines by others: nodes without a lowering of their own become their function's body."""

from __future__ import annotations

from typing import Any

import onnx
import onnx_ir as ir
import onnx_ir.passes.common as passes

from graphfuse.graph.origins import DRESSING, all_nodes, label, origins, set_origins
from graphfuse.ops.registry import find

# Calls get a domain of their own while they are inlined: whatever the user's functions are called, none is meant.
_DOMAIN = "graphfuse.standard"
# The domains that ONNX itself defines with functions.
_STANDARD = ("", "ai.onnx.preview")


def expand_functions(model: ir.Model) -> bool:
    """Replace nodes that have no lowering and a function in the standard by the nodes of that function.

    The types of their inputs must be inferred. Of the new nodes one carries the origins of the user's node, all have
    its name in theirs. Returns whether there was any: bodies may hold such nodes again, and their types are to infer.
    """
    bodies = [(node, _body(node, model)) for node in all_nodes(model.graph) if find(node) is None]
    calls = [(node, body) for node, body in bodies if body is not None]
    if not calls:
        return False
    owners = {_result(node): (*origins(node), *_of_bodies(node)) for node, _ in calls}
    known = set(all_nodes(model.graph)).difference(node for node, _ in calls)
    for number, (node, body) in enumerate(calls):
        _make_call(model, node, body, f"{node.op_type}_{number}")
    passes.InlinePass()(model)
    passes.NameFixPass()(model)
    made = [node for node in all_nodes(model.graph) if node not in known]
    makers = {value.name: node for node in made for value in node.outputs}
    for node in made:
        set_origins(node, ())
    for name, names in owners.items():
        worker = _worker(makers[name], made)
        set_origins(worker, (*origins(worker), *names))
    return True


def _body(node: ir.Node, model: ir.Model) -> onnx.FunctionProto | None:
    """The function of a node's operator at the model's opset, for the types that its inputs have; None without one."""
    version = model.opset_imports.get(node.domain, 0)
    if node.domain not in _STANDARD or not onnx.defs.has(node.op_type, version, node.domain):
        return None
    schema: Any = onnx.defs.get_schema(node.op_type, version, node.domain)  # its stubs lack what is asked for here
    data = b""
    if schema.has_function:
        data = schema.get_function_with_opset_version(version)
    elif schema.has_context_dependent_function:
        types = [_type(value).SerializeToString() for value in node.inputs]
        proto = ir.to_proto(node).SerializeToString()
        latest = max((v for v in schema.context_dependent_function_opset_versions if v <= version), default=version)
        data = schema.get_context_dependent_function_with_opset_version(latest, proto, types)
    return onnx.FunctionProto.FromString(data) if data else None


def _type(value: ir.Value | None) -> onnx.TypeProto:
    if value is None or value.type is None:
        return onnx.TypeProto()
    return ir.serde.serialize_value(value).type


def _make_call(model: ir.Model, node: ir.Node, body: onnx.FunctionProto, name: str) -> None:
    """Make the node a call of a function of the model, which is added."""
    body.domain, body.name = _DOMAIN, name
    for inner in body.node:
        inner.name = f"{label(node)}/{inner.op_type}"
    _pass_captured(model, node, body)
    for entry in body.opset_import:
        entry.version = model.opset_imports.get(entry.domain, entry.version)
    function = ir.serde.deserialize_function(body)
    defaults = onnx.defs.get_schema(node.op_type, model.opset_imports[node.domain], node.domain).attributes
    for key, attribute in defaults.items():
        if key not in node.attributes and attribute.default_value.type:
            node.attributes[key] = ir.serde.deserialize_attribute(attribute.default_value)
    for key in [a.name for a in node.attributes.values() if a.type == ir.AttributeType.GRAPH]:
        del node.attributes[key]  # a function that depends on one has it in its body already
    node.domain, node.op_type = _DOMAIN, name
    model.functions[function.identifier()] = function


def _pass_captured(model: ir.Model, node: ir.Node, body: onnx.FunctionProto) -> None:
    """What the node's own graphs take from around them is handed to the function as further inputs."""
    made = {*body.input, *(name for inner in body.node for name in inner.output)}
    free = dict.fromkeys(name for inner in body.node for name in inner.input if name and name not in made)
    if not free:
        return
    around = [*model.graph.inputs, *model.graph.initializers.values()]
    around += [value for outer in all_nodes(model.graph) for value in outer.outputs]
    by_name = {value.name: value for value in around}
    first = len(body.input)
    body.input.extend(free)
    node.resize_inputs(first + len(free))
    for k, name in enumerate(free):
        node.replace_input_with(first + k, by_name[name])


def _of_bodies(node: ir.Node) -> tuple[str, ...]:
    """What the nodes in a node's own graphs stand for: the function has those graphs within it."""
    graphs = [a.as_graph() for a in node.attributes.values() if a.type == ir.AttributeType.GRAPH]
    return tuple(name for graph in graphs for inner in all_nodes(graph) for name in origins(inner))


def _result(node: ir.Node) -> str:
    """The name of the first value that a node makes."""
    return next(value.name for value in node.outputs if value.name)


def _worker(node: ir.Node, made: list[ir.Node]) -> ir.Node:
    """The node that does the work behind a result: the one that makes it, or what that one only dresses up."""
    worker: ir.Node | None = node
    while worker is not None and worker.op_type in DRESSING:
        worker = worker.inputs[0].producer() if worker.inputs and worker.inputs[0] is not None else None
    return worker if worker is not None and worker in made else node
