"""Quantised weights that no integer product takes are dequantised at compile time."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from graphfuse.graph.bodies import graphs
from graphfuse.graph.origins import origins
from graphfuse.ledger import Ledger
from graphfuse.rules.values import Array, array, axis_of, input_of

STAGE = "recognize"  # when all integer products are found
ERROR_CLASS = "exact"
ORDER = 5


def apply(model: ir.Model, ledger: Ledger) -> bool:
    """Fold the DequantizeLinear nodes of constants; whether there were any."""
    folded = []
    for graph in graphs(model.graph):
        for node in list(graph):
            elements = _dequantized(node) if node.op_type == "DequantizeLinear" and node.domain == "" else None
            if elements is None or node.outputs[0].is_graph_output():
                continue
            value = node.outputs[0]
            name, value.name = value.name, None
            tensor = ir.tensor(elements, dtype=ir.DataType.FLOAT, name=name)
            shape = ir.Shape(elements.shape)
            constant = ir.Value(name=name, shape=shape, type=value.type, const_value=tensor)
            model.graph.register_initializer(constant)
            ir.convenience.replace_all_uses_with(value, constant)
            graph.remove(node, safe=True)
            ledger.settle(origins(node), "folded", by="fold_dequantize", reason="computed at compile time")
            folded.append(node)
    return bool(folded)


def _dequantized(node: ir.Node) -> Array | None:
    """(x - zero) * scale in float32, where all of it is known; None for what this does not know."""
    x, scale, zero = (array(input_of(node, k)) for k in range(3))
    if x is None or scale is None or scale.dtype != np.float32 or x.dtype not in (np.int8, np.uint8, np.int32):
        return None
    output = node.attributes.get_int("output_dtype", 0)
    if (input_of(node, 2) is not None and zero is None) or output not in (0, int(ir.DataType.FLOAT)):
        return None
    value, block = node.inputs[0], node.attributes.get_int("block_size", 0)
    assert value is not None
    axis = axis_of(value, node.attributes.get_int("axis", 1))
    assert axis is not None
    scales = _along(scale, x.ndim, axis, block, x.shape)
    zeros = np.zeros((), np.int64) if zero is None else _along(zero, x.ndim, axis, block, x.shape).astype(np.int64)
    return np.asarray((x.astype(np.int64) - zeros).astype(np.float32) * scales)


def _along(t: Array, count: int, axis: int, block: int, shape: tuple[int, ...]) -> Array:
    if block:
        return np.repeat(t, block, axis)[tuple(slice(n) for n in shape)]
    return t.reshape(()) if t.size == 1 else t.reshape([-1 if k == axis else 1 for k in range(count)])


HITS = (
    """g (float[N, 4] x) => (float[N, 2] y) {
        w = Constant<value = int8[4, 2] {1, -2, 3, 127, -128, 6, 7, 8}>()
        t = Constant<value = float[2] {0.5, 0.25}>() o = Constant<value = int8[2] {0, 3}>()
        d = DequantizeLinear(w, t, o) y = MatMul(x, d) }""",
    """g (float[4, 2] x) => (float[4, 2] y) {
        w = Constant<value = uint8[4, 2] {1, 2, 3, 255, 128, 6, 7, 8}>()
        t = Constant<value = float[2, 2] {0.5, 0.25, 1., 2.}>() d = DequantizeLinear<axis = 0, block_size = 2>(w, t)
        y = Add(x, d) }""",
)
NEAR_MISSES = ()
