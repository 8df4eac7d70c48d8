"""Conversion to the one opset that everything after import speaks."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import onnx
import onnx.shape_inference
import onnx.version_converter
import onnx_ir as ir

from graphfuse.errors import ModelFileError, UnsupportedModelError, one_line
from graphfuse.graph.origins import all_nodes, origins, set_origins
from graphfuse.graph.shape_rules import OPSET
from graphfuse.importers.scans import scan_batches, set_scans_apart

# The converter and the checker read small constants (axes, scales); larger ones travel as inputs, so that weights of
# any size cost nothing and the 2 GB limit of a serialised model is never met.
_SMALL_BYTES = 1024
# onnx's inference reads the type of their first input without asking whether it has one: the process would end.
_FATAL = {"DictVectorizer": "ai.onnx.ml", "TreeEnsemble": "ai.onnx.ml", "RegexFullMatch": ""}
_HIDDEN = "graphfuse.not_inferred"
# Names that the converter gives to its own values.
_CONVERTER_PREFIX = "_v_"


def convert_opset(model: ir.Model, where: str) -> ir.Model:
    """The same model at OPSET, or at its own where that is later.

    Its nodes must be named, its constants be initializers.
    Origins stay with the nodes; where the converter replaces a node by several, the one that makes the node's first
    output carries its origins. `where` names the file in errors.
    Raises ModelFileError: the file is not valid ONNX; UnsupportedModelError: nodes that cannot be converted.
    """
    version = model.opset_imports[""]
    _refuse_unknown_ops(model, version, where)
    _read_small_external(model.graph)
    if version >= OPSET:  # later opsets add operators, attributes and element types, and mean by the old ones the same
        _check(_light_proto(model), where)
        return model
    _refuse_unconvertible(model, version, where)
    borders = [[value.name for value in values] for values in (model.graph.inputs, model.graph.outputs)]
    _free_prefix(model)
    if version < 7:
        _align_slopes(model)
    by_name = {node.name: origins(node) for node in all_nodes(model.graph)}
    by_output = {node.outputs[0].name: origins(node) for node in all_nodes(model.graph) if node.outputs}
    defaults = {node.outputs[0].name: _old_defaults(node, version) for node in all_nodes(model.graph) if node.outputs}
    proto = _light_proto(model)
    _check(proto, where)
    scans = set_scans_apart(proto) if version == 8 else []
    proto = _convert(proto, where)
    scan_batches(proto, scans)
    converted = ir.from_proto(proto)
    _restore(converted, model)
    _carry_origins(converted, by_name, by_output)
    for node in all_nodes(converted.graph):
        for key, text in defaults.get(node.outputs[0].name, {}).items() if node.outputs else ():
            node.attributes[key] = ir.AttrString(key, text)
    for values, names in zip((converted.graph.inputs, converted.graph.outputs), borders, strict=True):
        for value, name in zip(values, names, strict=True):
            value.name = name
    _refuse_unknown_ops(converted, OPSET, where)
    _check(_light_proto(converted), where)
    return converted


def _is_resize(node: ir.Node) -> bool:
    return node.domain == "" and node.op_type in ("Resize", "Upsample")


def _old_defaults(node: ir.Node, version: int) -> dict[str, str]:
    """What an op means at `version` where a later default says otherwise and the converter does not write it down."""
    if version <= 10 and _is_resize(node):
        # Both ops map y -> floor(y / scale) up to opset 10.
        return {"coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
    if version < 16 and node.domain == "" and node.op_type == "RoiAlign":
        return {"coordinate_transformation_mode": "output_half_pixel"}
    return {}


def _align_slopes(model: ir.Model) -> None:
    """Up to opset 6 PRelu has a slope for each channel, which later opsets would meet with the last axis."""
    inferred = onnx.shape_inference.infer_shapes(_with_output_shapes(_light_proto(model), present=False))
    graph = inferred.graph
    ranks = {v.name: len(v.type.tensor_type.shape.dim) for v in (*graph.value_info, *graph.input, *graph.output)}
    ranks |= {t.name: len(t.dims) for t in graph.initializer}
    for node in list(all_nodes(model.graph)):
        if node.op_type != "PRelu" or node.domain != "" or node.graph is None:
            continue
        x, slope = node.inputs
        if x is None or slope is None:
            continue
        rank = ranks.get(x.name, 0)
        if rank <= 2 or ranks.get(slope.name, 1) != 1:
            continue
        aligned = ir.node("Unsqueeze", [slope], {"axes": list(range(1, rank - 1))}, name=f"{node.name}/slope")
        aligned.outputs[0].name = f"{node.outputs[0].name}/slope"
        node.graph.insert_before(node, [aligned])
        node.replace_input_with(1, aligned.outputs[0])


def _refuse_unknown_ops(model: ir.Model, version: int, where: str) -> None:
    """Raise UnsupportedModelError listing the nodes whose op the standard does not hold at this version."""
    unknown = []
    for node in all_nodes(model.graph):
        if node.domain == "" and not onnx.defs.has(node.op_type, version, ""):
            reason = f"opset {version} of ONNX has no such operator"
            unknown.append((node.op_type, (origins(node) or (node.name or "",))[0], reason))
    if unknown:
        raise UnsupportedModelError(unknown, where=where)


def _refuse_unconvertible(model: ir.Model, version: int, where: str) -> None:
    """Raise UnsupportedModelError for forms that the converter would silently change the meaning of."""
    refused = []
    for node in all_nodes(model.graph):
        reason = _unconvertible(node, version) if node.domain == "" else ""
        if reason:
            refused.append((node.op_type, origins(node)[0], reason))
    if refused:
        raise UnsupportedModelError(refused, where=where, remedy=f"export the model at opset {OPSET}")


def _unconvertible(node: ir.Node, version: int) -> str:
    mode = node.attributes.get_string("coordinate_transformation_mode", "")
    if node.op_type == "Resize" and mode == "tf_half_pixel_for_nn":
        return "coordinate_transformation_mode tf_half_pixel_for_nn was withdrawn in opset 13"
    if node.op_type == "GroupNormalization" and 18 <= version < 21:
        return "GroupNormalization of opset 18 to 20, with a scale for each group, was withdrawn in opset 21"
    if node.op_type == "Hardmax" and version < 13:
        return "Hardmax up to opset 12 flattens its input, later ones do not"
    if version <= 10 and _is_resize(node) and _shrinks_to_nearest(node):
        return f"opset {version} does not say which element is nearest when an image gets smaller"
    return ""


def _shrinks_to_nearest(node: ir.Node) -> bool:
    """Whether an Upsample or Resize of opset 10 or less is known to make an axis smaller without interpolation."""
    given = node.attributes.get_floats("scales", ())
    scales = np.asarray(given, np.float32) if given else _constant(node, 1)
    nearest = node.attributes.get_string("mode", "nearest") == "nearest"
    return nearest and scales is not None and bool((scales < 1).any())


def _constant(node: ir.Node, k: int) -> np.ndarray | None:
    value = node.inputs[k] if k < len(node.inputs) else None
    tensor = value.const_value if value is not None else None
    return None if tensor is None else tensor.numpy()


def _values(graph: ir.Graph) -> Iterator[ir.Value]:
    yield from graph.inputs
    yield from graph.initializers.values()
    for node in graph:
        yield from node.outputs
        for attribute in node.attributes.values():
            if attribute.type == ir.AttributeType.GRAPH:
                yield from _values(attribute.as_graph())
            elif attribute.type == ir.AttributeType.GRAPHS:
                for body in attribute.as_graphs():
                    yield from _values(body)


def _free_prefix(model: ir.Model) -> None:
    """Rename the user's values that look like the converter's own, which does not look for clashes in bodies."""
    values = list(dict.fromkeys(_values(model.graph)))
    taken = {value.name for value in values}
    for value in values:
        if not value.name or not value.name.startswith(_CONVERTER_PREFIX):
            continue
        name = "u" + value.name
        while name in taken:
            name = "u" + name
        taken.add(name)
        value.name = name


def _heavy(tensor: ir.TensorProtocol | None) -> bool:
    return tensor is not None and (tensor.nbytes > _SMALL_BYTES or isinstance(tensor, ir.ExternalTensor))


def _read_small_external(graph: ir.Graph) -> None:
    """Take small external data into memory: the converter may have to read it."""
    for value in graph.initializers.values():
        tensor = value.const_value
        if isinstance(tensor, ir.ExternalTensor) and tensor.nbytes <= _SMALL_BYTES:
            value.const_value = ir.tensor(tensor.numpy().copy(), dtype=tensor.dtype, name=tensor.name)


def _light_proto(model: ir.Model) -> onnx.ModelProto:
    """The model serialised with its large initializers as plain inputs."""
    graph = model.graph
    heavy = [v for v in graph.initializers.values() if _heavy(v.const_value)]
    for value in heavy:
        assert value.const_value is not None
        assert value.name is not None
        value.shape, value.dtype = ir.Shape(value.const_value.shape.numpy()), value.const_value.dtype
        del graph.initializers[value.name]
    graph.inputs.extend(heavy)
    try:
        return ir.to_proto(model)
    finally:
        del graph.inputs[len(graph.inputs) - len(heavy) :]
        for value in heavy:
            graph.register_initializer(value)


def _check(proto: onnx.ModelProto, where: str) -> None:
    """Refuse what breaks ONNX's rules: structure, attributes, element types, axes out of range."""
    try:
        onnx.checker.check_model(_with_output_shapes(proto, present=True))
        onnx.shape_inference.infer_shapes(_with_output_shapes(proto, present=False), check_type=True, strict_mode=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError, RuntimeError) as error:
        why = one_line(re.split(r"==>", str(error))[0], 200)
        remedy = "export the model again; onnx.checker.check_model tells more"
        raise ModelFileError("not a valid ONNX model", where=where, why=why, remedy=remedy) from error


def _with_output_shapes(proto: onnx.ModelProto, *, present: bool) -> onnx.ModelProto:
    """A copy whose outputs all state some shape, which the checker wants, or none, as files have them wrong.

    Without shapes it is for inference, from which the operators are hidden that it cannot survive.
    """
    copy = onnx.ModelProto()
    copy.CopyFrom(proto)
    if not present:
        _hide(copy)
    for graph in _graphs(copy):
        for node in graph.node:
            _spell_defaults(node, copy.opset_import)
        for output in (v for v in graph.output if v.type.WhichOneof("value") in (None, "tensor_type")):
            output.type.tensor_type.ClearField("shape")
            if present:
                output.type.tensor_type.shape.SetInParent()
    return copy


def _graphs(proto: onnx.ModelProto) -> list[onnx.GraphProto]:
    """The main graph and every body."""
    graphs = [proto.graph]
    for graph in graphs:
        for attribute in (a for node in graph.node for a in node.attribute):
            graphs += [attribute.g] if attribute.HasField("g") else []
            graphs += attribute.graphs
    return graphs


def _hide(proto: onnx.ModelProto) -> None:
    """Move the operators of _FATAL, in place, to a domain that onnx knows nothing of."""
    for node in (node for graph in _graphs(proto) for node in graph.node):
        if _FATAL.get(node.op_type) == ("" if node.domain == "ai.onnx" else node.domain):
            node.domain = _HIDDEN
    proto.opset_import.append(onnx.helper.make_opsetid(_HIDDEN, 1))


def _unhide(proto: onnx.ModelProto) -> None:
    """Undo `_hide`."""
    for node in (node for graph in _graphs(proto) for node in graph.node):
        if node.domain == _HIDDEN:
            node.domain = _FATAL[node.op_type]
    kept = [entry for entry in proto.opset_import if entry.domain != _HIDDEN]
    del proto.opset_import[:]
    proto.opset_import.extend(kept)


def _spell_defaults(node: onnx.NodeProto, imports: Iterable[onnx.OperatorSetIdProto]) -> None:
    """Write down the attributes that a node leaves to their defaults: inference inside functions does not know them."""
    version = next((entry.version for entry in imports if entry.domain == node.domain), 0)
    if not onnx.defs.has(node.op_type, version, node.domain):
        return
    schema: Any = onnx.defs.get_schema(node.op_type, version, node.domain)
    given = {attribute.name for attribute in node.attribute}
    if schema.has_function:
        for name, attribute in schema.attributes.items():
            if name not in given and attribute.default_value.type:
                node.attribute.append(attribute.default_value)


def _convert(proto: onnx.ModelProto, where: str) -> onnx.ModelProto:
    try:
        return _convert_quietly(proto)
    except RuntimeError as error:
        raise UnsupportedModelError(
            _culprits(proto, one_line(str(error))), where=where, remedy=f"export the model at opset {OPSET}"
        ) from error


def _convert_quietly(proto: onnx.ModelProto) -> onnx.ModelProto:
    hidden = onnx.ModelProto()
    hidden.CopyFrom(proto)
    _hide(hidden)
    converted = onnx.version_converter.convert_version(hidden, OPSET)
    _unhide(converted)
    return converted


def _culprits(proto: onnx.ModelProto, message: str) -> list[tuple[str, str, str]]:
    """The nodes that cannot be converted, each tried alone: the converter stops at the first without naming it."""
    reason = re.sub(r"^.*failed: ", "", message)
    found = [(node.op_type, node.name, reason) for node in proto.graph.node if not _converts_alone(proto, node)]
    return found or [("model", proto.graph.name, reason)]


def _converts_alone(proto: onnx.ModelProto, node: onnx.NodeProto) -> bool:
    known = {v.name: v for v in (*proto.graph.input, *proto.graph.value_info)}
    inputs = [known.get(name) or onnx.ValueInfoProto(name=name) for name in dict.fromkeys(node.input) if name]
    for value in inputs:
        if not value.type.HasField("tensor_type"):
            value.type.tensor_type.elem_type = onnx.TensorProto.FLOAT
    outputs = [onnx.ValueInfoProto(name=name) for name in node.output if name]
    graph = onnx.helper.make_graph([node], "alone", inputs, outputs)
    alone = onnx.helper.make_model(graph, opset_imports=proto.opset_import, ir_version=proto.ir_version)
    try:
        _convert_quietly(alone)
    except RuntimeError:
        return False
    return True


def _restore(converted: ir.Model, source: ir.Model) -> None:
    """Give the converted model the initializers that travelled as inputs."""
    travelled = converted.graph.inputs[len(source.graph.inputs) :]
    del converted.graph.inputs[len(source.graph.inputs) :]
    for value in travelled:
        assert value.name is not None
        tensor = source.graph.initializers[value.name].const_value
        assert tensor is not None
        value.const_value = tensor
        value.shape, value.dtype = ir.Shape(tensor.shape.numpy()), tensor.dtype
        converted.graph.register_initializer(value)


def _carry_origins(
    converted: ir.Model, by_name: dict[str | None, tuple[str, ...]], by_output: dict[str | None, tuple[str, ...]]
) -> None:
    waiting = dict.fromkeys(name for names in by_name.values() for name in names)
    unnamed = []
    for node in all_nodes(converted.graph):
        names = by_name.get(node.name, ()) if node.name else ()
        set_origins(node, names)
        for name in names:
            waiting.pop(name, None)
        if not names:
            unnamed.append(node)
    for node in unnamed:
        names = tuple(n for out in node.outputs for n in by_output.get(out.name, ()) if n in waiting)
        set_origins(node, names)
        for name in names:
            del waiting[name]
