"""Element types and shapes of every value, from the graph's inputs alone."""

from __future__ import annotations

import json

import onnx_ir as ir
from onnx_shape_inference import (  # type: ignore[import-untyped]
    SYM_DATA_KEY,
    OpUsageError,
    ShapeInferenceContext,
    ShapeInferenceError,
    infer_symbolic_shapes,
    registry,
)

import graphfuse.graph.shape_rules as shape_rules
from graphfuse.graph.origins import all_nodes

ShapeError = (ShapeInferenceError, OpUsageError)


def infer_shapes(model: ir.Model) -> None:
    """Infer the element type and shape of every value anew; what the nodes' outputs declared is forgotten.

    Dimensions are sums, products and floors over the inputs' symbols, or fresh symbols where the data decides.
    Raises ShapeError (a tuple of classes) when a node cannot take what it is given.
    """
    for node in all_nodes(model.graph):
        for value in node.outputs:
            value.shape = None
            value.metadata_props.pop(SYM_DATA_KEY, None)
            value.const_value = None
    infer_symbolic_shapes(model, warn_on_missing=False)


def infer_node(node: ir.Node, opset_imports: dict[str, int]) -> None:
    """Infer the outputs of one node from its inputs; nothing happens for an op without a shape rule."""
    rule = registry.get(node.domain, node.op_type, version=opset_imports.get(node.domain, 1))
    if rule is not None:
        rule(ShapeInferenceContext(opset_imports), node)


def elements(value: ir.Value | None) -> list[shape_rules.SymDim] | None:
    """The elements of an integer tensor of rank 0 or 1, each known as a number or as an expression; else None."""
    if value is None:
        return None
    tensor = ir.convenience.get_const_tensor(value)
    if tensor is not None and tensor.dtype.is_integer() and len(tensor.shape) <= 1:
        return [int(x) for x in tensor.numpy().ravel()]
    text = value.metadata_props.get(SYM_DATA_KEY)
    if text is None or value.shape is None or len(value.shape) > 1:
        return None
    return [e if isinstance(e, int) else ir.SymbolicDim(e) for e in json.loads(text)]
