"""Lower a one-node (or any) graph with the registry and evaluate it with the interpreter."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from graphfuse.errors import UnsupportedModelError
from graphfuse.fusion.program import lower_graph
from graphfuse.graph.dims import shape_of
from graphfuse.ops.interpret import evaluate
from graphfuse.ops.measured import Measures
from graphfuse.ops.registry import NotSupported, lower
from graphfuse.ops.tensor import Tensor


def lower_model(model: ir.Model, measures: Measures | None = None) -> dict[ir.Value, Tensor]:
    """The tensor program of a whole graph: every value with its tensor."""
    measures = Measures() if measures is None else measures
    tensors: dict[ir.Value, Tensor] = {}
    for value in [*model.graph.inputs, *model.graph.initializers.values()]:
        tensors[value] = Tensor(shape_of(value), value.dtype, None, value)
    for node in model.graph:
        inputs = [None if v is None else tensors[v] for v in node.inputs]
        for value, tensor in zip(node.outputs, lower(node, inputs, measures), strict=False):
            if tensor is not None:
                tensors[value] = tensor
    return tensors


def interpret(model: ir.Model, inputs: dict[str, np.ndarray], env: dict[str, int] | None = None) -> list[np.ndarray]:
    """The model's outputs by lowering and interpreting. Raises NotSupported where it cannot be lowered."""
    try:
        program = lower_graph(model.graph)
    except UnsupportedModelError as error:
        raise NotSupported(str(error)) from error
    leaves = {program.of_value[v]: inputs[v.name] for v in model.graph.inputs if v.name in inputs}
    return evaluate(program.outputs, leaves, env, program.measures)
