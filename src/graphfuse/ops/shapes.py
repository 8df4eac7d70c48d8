"""Shape inference for operators of other domains: their lowering knows what comes out."""

from __future__ import annotations

import functools

import onnx_ir as ir
import sympy
from onnx_shape_inference import ShapeInferenceContext, registry  # type: ignore[import-untyped]

from graphfuse.graph import dims
from graphfuse.graph.dims import Dim, shape_of
from graphfuse.ops.measured import Measures
from graphfuse.ops.registry import NotSupported, all_ops, lower
from graphfuse.ops.tensor import Tensor


@functools.cache
def register() -> None:
    """Let the inference of shapes ask the lowerings of operators that are not the standard's."""
    registry.collect()
    for op in all_ops():
        if op.domain:
            registry.register(op.domain, op.name, since_version=1)(_infer)


def _infer(ctx: ShapeInferenceContext, node: ir.Node) -> None:
    """The shapes and types of what the node lowers to; sizes that depend on data become symbols of their own."""
    inputs: list[Tensor | None] = []
    for value in node.inputs:
        if value is None:
            inputs.append(None)
        elif value.shape is None or value.dtype is None:
            return
        else:
            inputs.append(Tensor(shape_of(value), value.dtype, None, value))
    measures = Measures()
    try:
        outputs = lower(node, inputs, measures)
    except (NotSupported, ValueError):
        return
    for value, tensor in zip(node.outputs, outputs, strict=False):
        if tensor is None:
            continue
        shape = [_spelled(ctx, d, set(measures.sources)) for d in tensor.shape]
        ctx.set_shape_and_dtype(value, ir.Shape(shape), tensor.dtype)


def _spelled(ctx: ShapeInferenceContext, d: Dim, measured: set[str]) -> int | ir.SymbolicDim:
    if isinstance(d, int):
        return d
    if measured.intersection(dims.symbols([d])):
        return ctx.new_symbolic_dim()
    return ir.SymbolicDim(d.replace(dims.Max, sympy.Max).replace(dims.Min, sympy.Min))
