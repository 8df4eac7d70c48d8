"""Conversion to the one opset that everything after import speaks."""

from __future__ import annotations

import re
from collections.abc import Iterator

import numpy as np
import onnx
import onnx.shape_inference
import onnx.version_converter
import onnx_ir as ir

from graphfuse.errors import ModelFileError, UnsupportedModelError, one_line
from graphfuse.graph.origins import all_nodes, origins, set_origins
from graphfuse.graph.shape_rules import OPSET

# The converter and the checker read small constants (axes, scales); larger ones travel as inputs, so that weights of
# any size cost nothing and the 2 GB limit of a serialised model is never met.
_SMALL_BYTES = 1024
# Names that the converter gives to its own values.
_CONVERTER_PREFIX = "_v_"


def convert_opset(model: ir.Model, where: str) -> ir.Model:
    """The same model at OPSET. Its nodes must be named, its constants be initializers.

    Origins stay with the nodes; where the converter replaces a node by several, the one that makes the node's first
    output carries its origins. `where` names the file in errors.
    Raises ModelFileError: the file is not valid ONNX; UnsupportedModelError: nodes that cannot be converted.
    """
    version = model.opset_imports[""]
    _refuse_unknown_ops(model, version, where)
    _read_small_external(model.graph)
    if version == OPSET:
        _check(_light_proto(model), where)
        return model
    _refuse_unconvertible(model, version, where)
    _spell_out_old_defaults(model, version)
    borders = [[value.name for value in values] for values in (model.graph.inputs, model.graph.outputs)]
    _free_prefix(model)
    by_name = {node.name: origins(node) for node in all_nodes(model.graph)}
    by_output = {node.outputs[0].name: origins(node) for node in all_nodes(model.graph) if node.outputs}
    old_modes = {node.outputs[0].name for node in all_nodes(model.graph) if version <= 10 and _is_resize(node)}
    proto = _light_proto(model)
    _check(proto, where)
    converted = ir.from_proto(_convert(proto, where))
    _restore(converted, model)
    _carry_origins(converted, by_name, by_output)
    for node in all_nodes(converted.graph):
        if _is_resize(node) and node.outputs[0].name in old_modes:
            # Up to opset 10 both ops map y -> floor(y / scale); the converter leaves the later default instead.
            node.attributes["coordinate_transformation_mode"] = ir.AttrString(
                "coordinate_transformation_mode", "asymmetric"
            )
            node.attributes["nearest_mode"] = ir.AttrString("nearest_mode", "floor")
    for values, names in zip((converted.graph.inputs, converted.graph.outputs), borders, strict=True):
        for value, name in zip(values, names, strict=True):
            value.name = name
    _refuse_unknown_ops(converted, OPSET, where)
    _check(_light_proto(converted), where)
    return converted


def _is_resize(node: ir.Node) -> bool:
    return node.domain == "" and node.op_type in ("Resize", "Upsample")


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
    if node.op_type == "Scan" and version == 8:
        return "Scan of opset 8 has a batch axis that later opsets lack"
    if node.op_type == "Resize" and mode == "tf_half_pixel_for_nn":
        return "coordinate_transformation_mode tf_half_pixel_for_nn was withdrawn in opset 13"
    if node.op_type == "GroupNormalization" and 18 <= version < 21 and _group_channels(node) is None:
        return f"opset {version} has one scale for each group, which must be constant here"
    if version <= 10 and _is_resize(node) and _shrinks_to_nearest(node):
        return f"opset {version} does not say which element is nearest when an image gets smaller"
    return ""


def _shrinks_to_nearest(node: ir.Node) -> bool:
    """Whether an Upsample or Resize of opset 10 or less is known to make an axis smaller without interpolation."""
    given = node.attributes.get_floats("scales", ())
    scales = np.asarray(given, np.float32) if given else _constant(node, 1)
    nearest = node.attributes.get_string("mode", "nearest") == "nearest"
    return nearest and scales is not None and bool((scales < 1).any())


def _group_channels(node: ir.Node) -> int | None:
    """The channels of a GroupNormalization whose scale and bias are constants, one for each group; else None."""
    x, groups = node.inputs[0], node.attributes.get_int("num_groups", 1)
    channels = x.shape[1] if x is not None and x.shape is not None and len(x.shape) > 1 else None
    per_group = [_constant(node, k) for k in (1, 2)]
    constant = all(array is not None and array.shape == (groups,) for array in per_group)
    return channels if constant and isinstance(channels, int) and channels % groups == 0 else None


def _spell_out_old_defaults(model: ir.Model, version: int) -> None:
    """Write down, where an op's meaning changed and the converter does not follow, the meaning it has at `version`."""
    for node in all_nodes(model.graph):
        if node.domain != "":
            continue
        if node.op_type == "RoiAlign" and version < 16:
            name = "coordinate_transformation_mode"
            node.attributes.setdefault(name, ir.AttrString(name, "output_half_pixel"))
        if node.op_type == "GroupNormalization" and version < 21:
            _spread_group_scale(node)


def _spread_group_scale(node: ir.Node) -> None:
    """GroupNormalization has one scale and bias for each group before opset 21, one for each channel since."""
    channels = _group_channels(node)
    assert channels is not None
    assert node.graph is not None
    for k, kind in ((1, "scale"), (2, "bias")):
        per_group = _constant(node, k)
        assert per_group is not None
        name = f"{node.name}.{kind}"
        spread = ir.tensor(np.repeat(per_group, channels // len(per_group)), name=name)
        shape, dtype = ir.Shape(spread.shape.numpy()), ir.TensorType(spread.dtype)
        value = ir.Value(name=name, const_value=spread, shape=shape, type=dtype)
        node.graph.register_initializer(value)
        node.replace_input_with(k, value)


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
        onnx.checker.check_model(proto)
        onnx.shape_inference.infer_shapes(_without_output_shapes(proto), check_type=True, strict_mode=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError, RuntimeError) as error:
        why = one_line(re.split(r"==>", str(error))[0], 200)
        raise ModelFileError("not a valid ONNX model", where=where, why=why) from error


def _without_output_shapes(proto: onnx.ModelProto) -> onnx.ModelProto:
    """A copy that claims nothing about the shapes of outputs, which the checker wants stated but files have wrong."""
    copy = onnx.ModelProto()
    copy.CopyFrom(proto)
    graphs = [copy.graph]
    for graph in graphs:
        for output in graph.output:
            output.type.tensor_type.ClearField("shape")
        for attribute in (a for node in graph.node for a in node.attribute):
            graphs += [attribute.g] if attribute.HasField("g") else []
            graphs += attribute.graphs
    return copy


def _convert(proto: onnx.ModelProto, where: str) -> onnx.ModelProto:
    try:
        return _convert_quietly(proto)
    except RuntimeError as error:
        raise UnsupportedModelError(
            _culprits(proto, one_line(str(error))), where=where, remedy=f"export the model at opset {OPSET}"
        ) from error


def _convert_quietly(proto: onnx.ModelProto) -> onnx.ModelProto:
    return onnx.version_converter.convert_version(proto, OPSET)


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
