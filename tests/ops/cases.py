"""Every op's samples as one-node ONNX models; the interpreter and the compiled code run over the very same cases."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import onnx
import onnx_ir as ir
from onnx import helper, numpy_helper, shape_inference
from onnx.reference import ReferenceEvaluator
from onnx_shape_inference import infer_symbolic_shapes

import graphfuse.graph.contrib_shapes  # noqa: F401  the shape rules of com.microsoft
from graphfuse.ops.registry import NotSupported, Op, all_ops
from graphfuse.ops.samples import Sample
from graphfuse.ops.shapes import register
from ops.running import lower_model

OPSET = 24
DOMAINS = {"ai.onnx.ml": 5, "com.microsoft": 1}
IR_VERSION = 12


@dataclass(frozen=True, eq=False)
class Case:
    """One sample of one op: `inputs` by name, the model with concrete dimensions, and how to make it symbolic."""

    id: str
    model: onnx.ModelProto
    inputs: dict[str, np.ndarray]
    sample: Sample


def all_cases() -> Iterator[Case]:
    """Every sample of every op that is meant to work, in a fixed order."""
    for op in all_ops():
        for k, sample in enumerate(op.samples()):
            if not sample.rejected:
                yield case_of(op, sample, k)


def rejected_cases() -> Iterator[Case]:
    """Every form that an op declares to refuse."""
    for op in all_ops():
        for k, sample in enumerate(op.samples()):
            if sample.rejected:
                yield case_of(op, sample, k)


def case_of(op: Op, sample: Sample, number: int) -> Case:
    names = ["" if x is None else f"x{k}" for k, x in enumerate(sample.inputs)]
    outputs = [f"y{k}" for k in range(sample.outputs)]
    node = helper.make_node(op.name, names, outputs, name="node", domain=op.domain, **sample.attrs)
    given = {name: x for name, x in zip(names, sample.inputs, strict=True) if x is not None}
    known = {f"x{k}" for k in sample.constants}
    graph = helper.make_graph(
        [node],
        "case",
        [_value_info(name, x) for name, x in given.items() if name not in known],
        [onnx.ValueInfoProto(name=name) for name in outputs],
        [numpy_helper.from_array(x, name) for name, x in given.items() if name in known],
    )
    opsets = [helper.make_opsetid("", _opset(op))]
    if op.domain:
        opsets.append(helper.make_opsetid(op.domain, _domain_version(op)))
    model = helper.make_model(graph, opset_imports=opsets, ir_version=IR_VERSION)
    inputs = {name: x for name, x in given.items() if name not in known}
    name = f"{op.domain}.{op.name}" if op.domain else op.name
    return Case(f"{name}-{number}", _with_output_types(model), inputs, sample)


def _domain_version(op: Op) -> int:
    """The version of DOMAINS, or the last one that has the op."""
    version = DOMAINS[op.domain]
    if op.domain == "com.microsoft":
        return version
    schema = onnx.defs.get_schema(op.name, version, op.domain)
    return schema.since_version - 1 if schema.deprecated else version


def _opset(op: Op) -> int:
    """OPSET, or the one that brought the op where that is later."""
    if op.domain:
        return OPSET
    try:
        onnx.defs.get_schema(op.name, OPSET, op.domain)
        return OPSET
    except onnx.defs.SchemaError:
        return onnx.defs.get_schema(op.name).since_version if onnx.defs.has(op.name) else OPSET


def _value_info(name: str, x: np.ndarray) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(x.dtype), x.shape)


def _with_output_types(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model with its outputs' types inferred; their shapes stay open, for the lowering to find."""
    if model.graph.node[0].domain:
        return _with_lowered_types(model)
    for output, known in zip(model.graph.output, shape_inference.infer_shapes(model).graph.output, strict=True):
        output.type.tensor_type.elem_type = known.type.tensor_type.elem_type
        if not output.type.tensor_type.elem_type:  # ops that are functions: the type of the first input
            output.type.tensor_type.elem_type = model.graph.input[0].type.tensor_type.elem_type
    return model


def _with_lowered_types(model: onnx.ModelProto) -> onnx.ModelProto:
    """The same for an op that ONNX knows too little of; onnxruntime refuses a type that is not the op's."""
    graph = ir.from_proto(model)
    try:
        tensors = lower_model(graph)
    except NotSupported:
        return model
    for output, value in zip(model.graph.output, graph.graph.outputs, strict=True):
        output.type.tensor_type.elem_type = tensors[value].dtype
    return model


def symbolic_model(case: Case) -> tuple[onnx.ModelProto, dict[str, int]]:
    """The model with every input size above 1 replaced by a symbol, equal ones by the same; and the symbols' values."""
    model = onnx.ModelProto()
    model.CopyFrom(case.model)
    env: dict[str, int] = {}
    for value in model.graph.input:
        for axis, d in enumerate(value.type.tensor_type.shape.dim):
            if d.dim_value > 1 and axis not in case.sample.fixed:
                env[f"n{d.dim_value}"] = d.dim_value
                d.dim_param = f"n{d.dim_value}"
    return model, env


def inferred(model: onnx.ModelProto) -> ir.Model:
    """The model as onnx_ir, with symbolic shapes inferred."""
    register()
    graph = ir.from_proto(model)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return infer_symbolic_shapes(graph) or graph


def expected(case: Case) -> list[np.ndarray]:
    """The outputs by an independent oracle."""
    if case.sample.reference == "onnx":
        return reference_outputs(case)
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    try:
        session = ort.InferenceSession(case.model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    except ort.capi.onnxruntime_pybind11_state.NotImplemented:
        return reference_outputs(case)  # no kernel for this element type
    return session.run(None, case.inputs)


def reference_outputs(case: Case) -> list[np.ndarray]:
    with np.errstate(all="ignore"):
        return [np.asarray(y) for y in ReferenceEvaluator(case.model).run(None, case.inputs)]
