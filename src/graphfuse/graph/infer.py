"""Element types and shapes of every value, from the graph's inputs alone."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable

import onnx_ir as ir
import sympy
from onnx_shape_inference import (  # type: ignore[import-untyped]
    SYM_DATA_KEY,
    OpUsageError,
    ShapeInferenceContext,
    ShapeInferenceError,
    infer_symbolic_shapes,
    registry,
)
from onnx_shape_inference._symbolic_shapes import ALLOWED_FUNCTIONS  # type: ignore[import-untyped]

import graphfuse.graph.contrib_shapes  # noqa: F401  registers its rules
import graphfuse.graph.shape_rules as shape_rules
from graphfuse.graph.bodies import bodies, graphs, inner_first
from graphfuse.graph.body_shapes import forget
from graphfuse.graph.origins import all_nodes

# It writes sizes that are rounded up (Range, pooling) and does not read them.
ALLOWED_FUNCTIONS.setdefault("ceiling", sympy.ceiling)

ShapeError = (ShapeInferenceError, OpUsageError)


def infer_shapes(model: ir.Model) -> None:
    """Infer the element type and shape of every value anew; what the nodes' outputs declared is forgotten.

    Dimensions are sums, products and floors over the inputs' symbols, or fresh symbols where the data decides.
    Raises ShapeError (a tuple of classes) when a node cannot take what it is given.
    """
    forget(model.graph)
    # The names of sizes that a branch or loop makes equal mean nothing where it does not run.
    adopt = len(graphs(model.graph)) == 1
    infer_symbolic_shapes(model, warn_on_missing=False, adopt_declared_symbols=adopt)


class Inference:
    """Infers single nodes while a graph is being rewritten; fresh symbols differ from all that the model has."""

    def __init__(self, model: ir.Model) -> None:
        registry.collect()
        self._graph = model.graph
        self._context = ShapeInferenceContext(model.opset_imports)
        names = (
            name
            for node in all_nodes(model.graph)
            for value in node.outputs
            for dim in value.shape or ()
            if isinstance(dim, ir.SymbolicDim) and dim.value
            for name in re.findall(r"[A-Za-z_]\w*", dim.value)
        )
        self._context.reserve_symbol_names(names)

    def node(self, node: ir.Node) -> None:
        """Infer the outputs of one node from its inputs; nothing happens for an op without a shape rule."""
        rule = registry.get(node.domain, node.op_type, version=self._context.get_opset_version(node.domain))
        if rule is not None:
            rule(self._context, node)

    def refine(self, values: Iterable[ir.Value]) -> None:
        """Infer again what depends on these values, which are now better known, as far as anything changes."""
        waiting: set[ir.Node | ir.Value] = {user for value in values for user, _ in value.uses()}
        for node in inner_first(self._graph):
            ends = [value for body in bodies(node) for value in body.outputs]
            if node not in waiting and not any(value in waiting for value in ends):
                continue
            inside = [value for body in bodies(node) for value in (*body.inputs, *ends)]
            before = [_facts(value) for value in (*node.outputs, *inside)]
            self.node(node)
            now = [*node.outputs, *inside]
            changed = [v for v, facts in zip(now, before, strict=True) if _facts(v) != facts]
            waiting |= {user for value in changed for user, _ in value.uses()}
            waiting |= set(changed)


def _facts(value: ir.Value) -> tuple[str, str | None, bool]:
    return str(value.shape), value.metadata_props.get(SYM_DATA_KEY), value.const_value is not None


def elements(value: ir.Value | None) -> list[shape_rules.SymDim] | None:
    """The elements of an integer tensor of rank 0 or 1, each known as a number or as an expression; else None."""
    if value is None:
        return None
    tensor = ir.convenience.get_const_tensor(value)
    if tensor is not None and tensor.dtype.is_integer() and len(tensor.shape) <= 1:
        return [int(x) for x in tensor.numpy().ravel()]
    text = value.metadata_props.get(SYM_DATA_KEY)
    integer = value.dtype is not None and value.dtype.is_integer()
    if text is None or not integer or value.shape is None or len(value.shape) > 1:
        return None
    return [e if isinstance(e, int) else ir.SymbolicDim(e) for e in json.loads(text)]
