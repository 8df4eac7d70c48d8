"""The rewritten model as portable ONNX: standard operators only, the oldest opset that has them all as they are."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import onnx
import onnx_ir as ir

from graphfuse import __version__
from graphfuse.artifact.fused_model import LARGEST_INLINE, drop_scaffolding
from graphfuse.compiler import Job, run_stages
from graphfuse.errors import ArtifactError, UnsupportedModelError
from graphfuse.graph.bodies import graphs
from graphfuse.graph.lists import carry_lists, return_lists
from graphfuse.graph.origins import all_nodes, dim_names, label
from graphfuse.graph.shape_rules import OPSET
from graphfuse.importers.source import Source
from graphfuse.options import CompileOptions
from graphfuse.toolchain.files import disk_errors

OLDEST = 17  # the first with LayerNormalization
# Rules whose result needs an opset that few runtimes have: the spelling with older operators is as good to them.
_TOO_NEW = frozenset({"recognize_swish", "recognize_rms_norm"})
# Rules that take apart pairs of QuantizeLinear and DequantizeLinear, which runtimes have integer kernels for.
_QUANTISED = frozenset(
    {"fold_dequantize", "fold_scale_into_quantize", "recognize_integer_product", "simplify_dequantized_move"}
)
# Operators whose meaning changed although their signature did not: the first opset of today's.
_CHANGED = {"GroupNormalization": 21, "Resize": 19, "Pad": 19, "AveragePool": 19}


def portable_model(source: Source | Path, options: CompileOptions) -> ir.Model:
    """The model behind its rewrite rules, at the oldest opset that means the same: see `rewritten_model`."""
    left_out = dict.fromkeys([*options.disabled_rules, *sorted(_TOO_NEW | _QUANTISED)])
    portable = rewritten_model(source, replace(options, disabled_rules=tuple(left_out)))
    _keep_sums_ahead_of_norms(portable)
    _lower_opset(portable)
    return portable


def rewritten_model(source: Source | Path, options: CompileOptions) -> ir.Model:
    """The model behind its rewrite rules: folds and recognitions applied, the user's names for nodes and sizes.

    Raises GraphfuseError; UnsupportedModelError names the nodes that the standard has no operator for.
    """
    job = Job(source, options)
    model: ir.Model = run_stages(job, stop_after="recognize").results["recognize"]
    foreign = [(n.op_type, label(n), f"it is of {n.domain}") for n in all_nodes(model.graph) if n.domain]
    if foreign:
        remedy = "portable ONNX holds only the standard's operators"
        raise UnsupportedModelError(foreign, where=job.where, remedy=remedy, task="exported")
    graph = model.graph.clone()
    drop_scaffolding(graph)
    _name_as_the_user(graph, dim_names(model))
    graph.opset_imports.clear()
    graph.opset_imports[""] = OPSET
    rewritten = ir.Model(graph, ir_version=10, producer_name="graphfuse", producer_version=__version__)
    carry_lists(model, rewritten)
    return rewritten


def write_portable(model: ir.Model, path: Path) -> None:
    """Write the model, whole or not at all; weights beyond LARGEST_INLINE go to `<path>.data`.

    Raises ArtifactError, UnsupportedModelError for a list of no tensors among its results.
    """
    model = return_lists(model)
    weights = [value.const_value for value in model.graph.initializers.values() if value.const_value is not None]
    remedy = "name a file in a folder that can be written"
    with (
        disk_errors(ArtifactError, path, remedy),
        tempfile.TemporaryDirectory(dir=path.parent, prefix=".gf-") as folder,
    ):
        place, data = Path(folder) / path.name, f"{path.name}.data"
        outside = sum(int(weight.nbytes) for weight in weights) > LARGEST_INLINE
        ir.save(model, place, external_data=data if outside else None)
        if outside:
            os.replace(Path(folder) / data, path.with_name(data))
        os.replace(place, path)


def _keep_sums_ahead_of_norms(model: ir.Model) -> None:
    """Spell a residual sum that only a layer norm reads as Sum.

    onnxruntime fuses an Add there into its SkipLayerNormalization, whose CPU kernel takes six times as long as Sum
    and LayerNormalization do (1.31, 128 rows of 384: 217 against 34 microseconds).
    """
    for node in all_nodes(model.graph):
        total = node.inputs[0] if node.op_type == "LayerNormalization" else None
        add = total.producer() if total is not None else None
        if add is None or total is None or add.op_type != "Add" or len(total.uses()) != 1 or total.is_graph_output():
            continue
        if total.dtype == ir.DataType.FLOAT:
            add.op_type = "Sum"


def _name_as_the_user(graph: ir.Graph, dims: dict[str, str]) -> None:
    """Names of nodes and of sizes as the user's file has them, and no notes of ours."""
    taken: set[str] = set()
    for node in all_nodes(graph):
        node.name = _fresh(label(node), taken)
        node.metadata_props.clear()
    spelled = {ours: theirs for ours, theirs in dims.items() if not theirs.startswith("dimension ")}
    for each in graphs(graph):
        for value in (*each.inputs, *each.outputs):
            if value.shape is not None:
                value.shape = ir.Shape([_dim(d, spelled) for d in value.shape])


def _dim(d: int | ir.SymbolicDim, spelled: dict[str, str]) -> int | str | None:
    if isinstance(d, int):
        return d
    text = str(d.value) if d.value is not None else None
    return None if text is None else spelled.get(text, text if text.isidentifier() else None)


def _fresh(wanted: str, taken: set[str]) -> str:
    name, k = wanted, 2
    while name in taken:
        name, k = f"{wanted}_{k}", k + 1
    taken.add(name)
    return name


def _lower_opset(model: ir.Model) -> None:
    """State the oldest opset, from OLDEST on, at which every node means and takes the same."""
    for node in all_nodes(model.graph):
        if node.op_type in ("Cast", "CastLike"):
            _forget_defaults(node)
    version = max((_oldest(node) for node in all_nodes(model.graph)), default=OLDEST)
    for candidate in range(version, OPSET + 1):
        model.graph.opset_imports[""] = candidate
        if candidate == OPSET or _is_valid(model):
            return


def _forget_defaults(node: ir.Node) -> None:
    """Leave out attributes that are as they are by default: older opsets have no such attribute."""
    for name, attribute in onnx.defs.get_schema(node.op_type, OPSET).attributes.items():
        given = node.attributes.get(name)
        if given is not None and ir.to_proto(given).SerializeToString() == attribute.default_value.SerializeToString():
            del node.attributes[name]


def _oldest(node: ir.Node) -> int:
    today = _signature(node, OPSET)
    version = OPSET
    while version > _CHANGED.get(node.op_type, OLDEST) and _signature(node, version - 1) == today:
        version -= 1
    return version


def _signature(node: ir.Node, version: int) -> Any:
    """What a node's operator takes and gives, types aside, with the attributes that the node states.

    None where there is no such operator, or no such attribute.
    """
    if not onnx.defs.has(node.op_type, max_inclusive_version=version):
        return None
    schema = onnx.defs.get_schema(node.op_type, version)
    if any(name not in schema.attributes for name in node.attributes):
        return None
    ports = [[(p.name, p.option) for p in side] for side in (schema.inputs, schema.outputs)]
    # An attribute that came later does by default what was done before it came.
    old = (
        onnx.defs.get_schema(node.op_type, OLDEST)
        if onnx.defs.has(node.op_type, max_inclusive_version=OLDEST)
        else schema
    )
    attributes = [
        (a.name, a.type, a.required, a.default_value.SerializeToString())
        for a in schema.attributes.values()
        if a.name in old.attributes
    ]
    return schema.deprecated, ports, sorted(map(str, attributes))


def _is_valid(model: ir.Model) -> bool:
    """Whether all element types are allowed at the stated opset."""
    light = ir.to_proto(_without_weights(model))
    try:
        onnx.shape_inference.infer_shapes(light, check_type=True, strict_mode=True)
    except Exception:  # the library's own classes
        return False
    return True


def _without_weights(model: ir.Model) -> ir.Model:
    """The model with its large weights as inputs: what checking types needs."""
    graph = model.graph.clone()
    for value in _large(graph):
        del graph.initializers[value.name or ""]
        value.const_value = None
        graph.inputs.append(value)
    return ir.Model(graph, ir_version=model.ir_version)


def _large(graph: ir.Graph) -> Iterator[ir.Value]:
    yield from [v for v in graph.initializers.values() if v.const_value is not None and v.const_value.size > 1024]
