"""Element types and shapes of the com.microsoft operators that the library of shape rules lacks or has wrong."""

from __future__ import annotations

import onnx_ir as ir
from onnx_shape_inference import ShapeInferenceContext, broadcast_shapes, registry  # type: ignore[import-untyped]

DOMAIN = "com.microsoft"


def _dtype(value: ir.Value | None, otherwise: ir.DataType) -> ir.DataType:
    return otherwise if value is None or value.dtype is None else value.dtype


@registry.register(DOMAIN, "DynamicQuantizeLSTM", since_version=1)
def _lstm(ctx: ShapeInferenceContext, node: ir.Node) -> None:
    x, units = node.inputs[0], node.attributes.get_int("hidden_size", 0)
    if x is None or x.shape is None or len(x.shape) != 3 or not units:
        return
    directions = 2 if node.attributes.get_string("direction", "forward") == "bidirectional" else 1
    last = [directions, x.shape[1], units]
    for value, shape in zip(node.outputs, ([x.shape[0], *last], last, last), strict=False):
        ctx.set_shape_and_dtype(value, ir.Shape(shape), x.dtype)


@registry.register(DOMAIN, "DynamicQuantizeMatMul", since_version=1)
@registry.register(DOMAIN, "MatMulIntegerToFloat", since_version=1)
def _product(ctx: ShapeInferenceContext, node: ir.Node) -> None:
    a, b = node.inputs[0], node.inputs[1]
    if a is None or b is None or a.shape is None or b.shape is None or min(len(a.shape), len(b.shape)) < 2:
        return
    batch = broadcast_shapes(ir.Shape(a.shape[:-2]), ir.Shape(b.shape[:-2]))
    shape = ir.Shape([*batch, a.shape[-2], b.shape[-1]])
    scale = node.inputs[2] if len(node.inputs) > 2 else None
    ctx.set_shape_and_dtype(node.outputs[0], shape, _dtype(scale, ir.DataType.FLOAT))


@registry.register(DOMAIN, "QGemm", since_version=1)
def _gemm(ctx: ShapeInferenceContext, node: ir.Node) -> None:
    a, b = node.inputs[0], node.inputs[3]
    if a is None or b is None or a.shape is None or b.shape is None or len(a.shape) != 2 or len(b.shape) != 2:
        return
    rows = a.shape[1 if node.attributes.get_int("transA", 0) else 0]
    columns = b.shape[0 if node.attributes.get_int("transB", 0) else 1]
    zero = node.inputs[8] if len(node.inputs) > 8 else None
    ctx.set_shape_and_dtype(node.outputs[0], ir.Shape([rows, columns]), _dtype(zero, ir.DataType.FLOAT))


@registry.register(DOMAIN, "QLinearGlobalAveragePool", since_version=1)
def _global_pool(ctx: ShapeInferenceContext, node: ir.Node) -> None:
    x = node.inputs[0]
    if x is None or x.shape is None or len(x.shape) < 3:
        return
    ones = [1] * (len(x.shape) - 2)
    shape = [x.shape[0], *ones, x.shape[-1]] if node.attributes.get_int("channels_last", 0) else [*x.shape[:2], *ones]
    ctx.set_shape_and_dtype(node.outputs[0], ir.Shape(shape), x.dtype)
