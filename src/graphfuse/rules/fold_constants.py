"""Nodes whose inputs are all known are computed at compile time, shape computations included."""

from __future__ import annotations

import math

import numpy as np
import onnx_ir as ir
from onnx.reference import ReferenceEvaluator

from graphfuse.graph.bodies import graphs
from graphfuse.graph.infer import Inference
from graphfuse.graph.origins import origins
from graphfuse.graph.randomness import RANDOM_OPS
from graphfuse.graph.shape_rules import OPSET
from graphfuse.ledger import Ledger
from graphfuse.rules.builder import Builder
from graphfuse.rules.values import Array, array

STAGE = "simplify"
ERROR_CLASS = "reassociated"  # the reference computes in the same types, its exp and log may round otherwise
ORDER = 5

# A result may be this large, or this many times as large as the constants that go into it: otherwise an Expand or
# ConstantOfShape of a few bytes would fill the memory.
_MOST_BYTES = 1 << 20
_MOST_GROWTH = 2
# Not folded: results differ each time, or the quantised form of the weights would be lost.
_NEVER = RANDOM_OPS | {"DequantizeLinear", "QuantizeLinear", "DynamicQuantizeLinear", "Dropout"}


def apply(model: ir.Model, ledger: Ledger) -> bool:
    """Fold what can be folded, in the graph and in the bodies of its control flow; whether anything was."""
    folded = []
    inference: Inference | None = None
    build: Builder | None = None
    for graph in graphs(model.graph):
        for node in list(graph):
            results = None if _is_bound(node, model.graph) else _results(node)
            if results is None:
                continue
            if any(value.is_graph_output() for value in node.outputs):
                build = build or Builder(model)
                _give_copies(node, build)
            new = [_replace(model, value, elements) for value, elements in zip(node.outputs, results, strict=True)]
            graph.remove(node, safe=True)
            ledger.settle(origins(node), "folded", by="fold_constants", reason="computed at compile time")
            if any(not _is_settled(user) for value in new for user, _ in value.uses()):
                inference = inference or Inference(model)
                inference.refine(new)
            folded.append(node)
    return bool(folded)


def _is_settled(node: ir.Node) -> bool:
    return all(value.shape is not None and value.shape.is_static() for value in node.outputs)


def _replace(model: ir.Model, value: ir.Value, elements: Array) -> ir.Value:
    name = value.name
    value.name = None
    tensor = ir.tensor(elements, dtype=value.dtype, name=name)
    folded = ir.Value(name=name, shape=ir.Shape(elements.shape), type=value.type, const_value=tensor)
    model.graph.register_initializer(folded)
    ir.convenience.replace_all_uses_with(value, folded)
    return folded


def _is_bound(node: ir.Node, graph: ir.Graph) -> bool:
    """Whether a result of the node has to stay: as one of the model, or as the copy that is a body's result."""
    outside = any(value.is_graph_output() for value in node.outputs)
    return outside and (node.graph is graph or node.op_type == "Identity")


def _give_copies(node: ir.Node, build: Builder) -> None:
    """Let copies be the results of the body, whose results are made in the body itself."""
    body = node.graph
    assert body is not None
    for k, value in enumerate(list(body.outputs)):
        if value.producer() is node:
            body.outputs[k] = build.end(body, value)


def _results(node: ir.Node) -> list[Array] | None:
    """The elements of all outputs of the node, or None when they are not known or not worth storing."""
    if node.domain != "" or node.op_type in _NEVER:
        return None
    if any(a.type in (ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS) for a in node.attributes.values()):
        return None
    known = [array(value) for value in node.outputs]
    if all(elements is not None for elements in known):  # shape inference knows them
        return [elements for elements in known if elements is not None]
    inputs = {value.name or "": array(value) for value in node.inputs if value is not None}
    if any(elements is None for elements in inputs.values()) or not _worth_storing(node):
        return None
    return _evaluate(node, {name: elements for name, elements in inputs.items() if elements is not None})


def _worth_storing(node: ir.Node) -> bool:
    total = 0
    for value in node.outputs:
        if value.shape is None or value.dtype is None or not value.shape.is_static():
            return False
        total += math.prod(value.shape.numpy()) * value.dtype.bitwidth // 8
    given = sum(v.const_value.nbytes for v in node.inputs if v is not None and v.const_value is not None)
    return total <= max(_MOST_BYTES, _MOST_GROWTH * given)


def _evaluate(node: ir.Node, inputs: dict[str, Array]) -> list[Array] | None:
    try:
        with np.errstate(all="ignore"):
            evaluator = ReferenceEvaluator(ir.to_proto(node), opsets={"": OPSET})
            results = evaluator.run(None, inputs)
    except Exception:  # whatever the reference cannot compute stays in the graph
        return None
    assert isinstance(results, list)
    for value, elements in zip(node.outputs, results, strict=True):
        if not isinstance(elements, np.ndarray | np.generic) or value.dtype is None or value.shape is None:
            return None
        if elements.dtype != value.dtype.numpy() or elements.shape != value.shape.numpy():
            return None
    return [np.asarray(elements) for elements in results]


HITS = (
    """g (float[2, 3] x) => (float[2, 3] y) {
        a = Constant<value = float[3] {1., 2., 3.}>() b = Constant<value = float[3] {4., 5., 6.}>()
        c = Add(a, b) y = Mul(x, c) }""",
    """g (float[2, 3] x) => (float[6] y) {
        s = Shape(x) n = ReduceProd<keepdims = 1>(s) y = Reshape(x, n) }""",
    """g (bool c, float[2, 3] x) => (int64[2] y) {
        y = If(c) <then_branch = a () => (int64[2] u) { u = Shape(x) },
                   else_branch = b () => (int64[2] v) { s = Shape(x) v = Add(s, s) }> }""",
)
NEAR_MISSES = ()
