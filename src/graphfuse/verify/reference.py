"""Independent references: the original in onnxruntime without optimisations, and in float64 where that can be had."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.reference
import onnxruntime
from onnx import helper, numpy_helper

from graphfuse.errors import InputError
from graphfuse.graph.shape_rules import OPSET
from graphfuse.runtime.interrupt import interruptible
from graphfuse.verify.reference_ops import FAST_OPS

Array = np.ndarray[Any, Any]
FLOAT, DOUBLE = onnx.TensorProto.FLOAT, onnx.TensorProto.DOUBLE
_DOUBLED = (FLOAT, onnx.TensorProto.FLOAT16, onnx.TensorProto.BFLOAT16)

# What the slow Python evaluator is trusted with: it takes a few seconds for models of this size.
_MOST_NODES, _MOST_PARAMETERS, _MOST_INPUTS = 600, 20_000_000, 500_000
# Element types that onnxruntime's arrays cannot have, and those that few of its kernels are for.
_NOT_IN_NUMPY = r"bfloat16|float[48]e|int[24]\b"
_RARE = r"^(bfloat16|u?int16|uint32|uint64|u?int[248]|float[48]e.*)$"
# What to do where the original does not load, and where it does not take the inputs.
UNVERIFIED = "mend the model; compile --no-verify (verify=False) does without"
OTHERS = "give other inputs or sizes; compile --no-verify (verify=False) does without"
_SLOW_OPS = frozenset({"Resize", "Upsample", "NonMaxSuppression", "ConvTranspose", "LRN", "GridSample", "Loop", "Scan"})


class Reference:
    """The original model in onnxruntime, every optimisation off; small models of element types or of an opset that it
    lacks in ONNX's own evaluator. Raises InputError when onnxruntime refuses the model for another reason.

    `name` is what computes, and `version` its version.
    """

    def __init__(self, model: str | Path | onnx.ModelProto) -> None:
        self.name, self.version = "onnxruntime", onnxruntime.__version__
        self._evaluator: onnx.reference.ReferenceEvaluator | None = None
        self._model: onnx.ModelProto | None = None
        options = onnxruntime.SessionOptions()
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        options.log_severity_level = 4
        source = model.SerializeToString() if isinstance(model, onnx.ModelProto) else str(model)
        try:
            self._session = onnxruntime.InferenceSession(source, options, ["CPUExecutionProvider"])
        except Exception as error:  # onnxruntime's exceptions share no base class
            if not self._evaluates(model):
                raise InputError(
                    "onnxruntime does not load this model", why=_first_line(error), remedy=UNVERIFIED
                ) from error
            return
        self.outputs = [output.name for output in self._session.get_outputs()]
        ports = [*self._session.get_inputs(), *self._session.get_outputs()]
        if any(re.search(_NOT_IN_NUMPY, port.type) for port in ports):
            self._evaluates(model)

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """All outputs by name. Raises InputError when onnxruntime refuses the inputs."""
        if self._evaluator is not None:
            return self._evaluate(inputs)
        try:
            values = self._run(dict(inputs))
        except Exception as error:
            raise InputError("onnxruntime refuses these inputs", why=_first_line(error), remedy=OTHERS) from error
        return dict(zip(self.outputs, values, strict=True))

    def _run(self, inputs: dict[str, Array]) -> Any:
        """onnxruntime's results; it ends when the user interrupts it."""
        options = onnxruntime.RunOptions()

        def stop() -> None:
            options.terminate = True

        return interruptible(lambda: self._session.run(self.outputs, inputs, options), stop)

    def _evaluates(self, model: str | Path | onnx.ModelProto) -> bool:
        """Whether ONNX's evaluator takes the model, which has what onnxruntime (or NumPy) may lack."""
        proto = model if isinstance(model, onnx.ModelProto) else onnx.load(model)
        if not _has_rare_types(proto) and not _is_new(proto):
            return False
        try:
            self._evaluator = onnx.reference.ReferenceEvaluator(proto)
        except Exception:  # whatever it lacks
            return False
        self._model, self.name, self.version = proto, "onnx.reference", onnx.__version__
        self.outputs = [output.name for output in proto.graph.output]
        return True

    def _evaluate(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        assert self._evaluator is not None
        assert self._model is not None
        if not _is_small(self._model, inputs):
            what = "onnxruntime lacks what the model has, and for ONNX's own evaluator it is too large"
            raise InputError(what, remedy=UNVERIFIED)
        try:
            with np.errstate(all="ignore"):
                values = self._evaluator.run(self.outputs, dict(inputs))
        except Exception as error:
            raise InputError("ONNX's evaluator refuses these inputs", why=_first_line(error), remedy=OTHERS) from error
        return {name: np.asarray(value) for name, value in zip(self.outputs, values, strict=True)}


def _is_new(model: onnx.ModelProto) -> bool:
    """Whether the model is of an opset that onnxruntime may not know yet."""
    return any(entry.domain in ("", "ai.onnx") and entry.version > OPSET for entry in model.opset_import)


def _has_rare_types(model: onnx.ModelProto) -> bool:
    """Whether a graph's port or constant has a type that onnxruntime computes little with."""
    names = [onnx.TensorProto.DataType.Name(tensor.data_type) for tensor in model.graph.initializer]
    for port in (*model.graph.input, *model.graph.output, *model.graph.value_info):
        names.append(onnx.TensorProto.DataType.Name(port.type.tensor_type.elem_type))
    return any(re.search(_RARE, name.lower()) for name in names)


def intermediate_values(model: onnx.ModelProto, names: Sequence[str], inputs: Mapping[str, Array]) -> dict[str, Array]:
    """The values that the main graph of `model` gives these names, computed by onnxruntime.

    Raises InputError for a name that the graph does not compute.
    """
    computed = {output for node in model.graph.node for output in node.output}
    if unknown := [name for name in names if name not in computed]:
        raise InputError(f"the model computes no value called {unknown[0]!r}")
    probed = onnx.ModelProto()
    probed.CopyFrom(model)
    del probed.graph.output[:]
    probed.graph.output.extend(onnx.ValueInfoProto(name=name) for name in dict.fromkeys(names))
    return Reference(probed).run(inputs)


def run_double(model: onnx.ModelProto, inputs: Mapping[str, Array]) -> dict[str, Array] | None:
    """All outputs of the model computed in float64 instead of narrower floats, or None where no reference can do that.

    onnxruntime is tried first; small models whose ops it lacks in float64 go to onnx's reference evaluator.
    """
    doubled, feeds = to_double(model), doubled_inputs(inputs)
    try:
        return Reference(doubled).run(feeds)
    except InputError:
        pass
    if not _is_small(model, inputs):
        return None
    names = [output.name for output in doubled.graph.output]
    try:
        evaluator = onnx.reference.ReferenceEvaluator(doubled, new_ops=list(FAST_OPS))
        with np.errstate(all="ignore"):
            values = evaluator.run(names, feeds)
    except Exception:  # whatever it lacks: the float64 run is an extra
        return None
    return dict(zip(names, values, strict=True))


def doubled_inputs(inputs: Mapping[str, Array]) -> dict[str, Array]:
    """The inputs for `to_double`'s model."""
    floats = [helper.tensor_dtype_to_np_dtype(kind) for kind in _DOUBLED]
    return {name: value.astype(np.float64) if value.dtype in floats else value for name, value in inputs.items()}


def to_double(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model with float64 wherever it says float32, float16 or bfloat16: types, constants, casts, in all its graphs
    and functions.
    """
    doubled = onnx.ModelProto()
    doubled.CopyFrom(model)
    for graph in every_graph(doubled.graph):
        for value in (*graph.input, *graph.output, *graph.value_info):
            if value.type.tensor_type.elem_type in _DOUBLED:
                value.type.tensor_type.elem_type = DOUBLE
        for tensor in graph.initializer:
            _double_tensor(tensor)
        for node in graph.node:
            _double_node(node)
    for function in doubled.functions:
        for node in function.node:
            _double_node(node)
    return doubled


def every_graph(graph: onnx.GraphProto) -> Iterator[onnx.GraphProto]:
    """The graph and every body inside it."""
    yield graph
    for node in graph.node:
        for attribute in node.attribute:
            for inner in (attribute.g, *attribute.graphs) if attribute.g.node or attribute.graphs else ():
                yield from every_graph(inner)


def _double_tensor(tensor: onnx.TensorProto) -> None:
    if tensor.data_type in _DOUBLED:
        array = numpy_helper.to_array(tensor).astype(np.float64)
        tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))


def _double_node(node: onnx.NodeProto) -> None:
    names = {attribute.name for attribute in node.attribute}
    if node.op_type == "ConstantOfShape" and "value" not in names:
        node.attribute.append(helper.make_attribute("value", numpy_helper.from_array(np.zeros(1))))
    for attribute in node.attribute:
        if attribute.type == onnx.AttributeProto.TENSOR:
            _double_tensor(attribute.t)
        if attribute.name in ("to", "dtype", "output_dtype", "stash_type") and attribute.i in _DOUBLED:
            attribute.i = DOUBLE
    # A Constant may also be spelled as a plain float, which always means float32.
    if node.op_type == "Constant" and names & {"value_float", "value_floats"}:
        value = node.attribute[0]
        data = np.array(list(value.floats) if value.name == "value_floats" else value.f, np.float64)
        value.CopyFrom(helper.make_attribute("value", numpy_helper.from_array(data)))


def _is_small(model: onnx.ModelProto, inputs: Mapping[str, Array]) -> bool:
    parameters = sum(int(np.prod(tensor.dims)) for tensor in model.graph.initializer)
    slow = any(node.op_type in _SLOW_OPS for graph in every_graph(model.graph) for node in graph.node)
    elements = sum(value.size for value in inputs.values())
    small = len(model.graph.node) <= _MOST_NODES and parameters <= _MOST_PARAMETERS and elements <= _MOST_INPUTS
    return small and not slow


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0]
