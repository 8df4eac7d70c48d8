"""Shapes that a model computes with tensors are known as dimensions, and so its reshapes work for every size."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime as ort
import pytest

from graphfuse.ops.symbolic import known_dims
from ops.cases import inferred
from ops.running import interpret, lower_model

HEADER = '<ir_version: 10, opset_import: ["" : 24]>\n'

MODELS = {
    "shape, gather, concat, reshape": """
        g (float[n, 6, m] x) => (float[a, b, c] y) {
            two = Constant<value = int64[1] {2}>()
            zero = Constant<value = int64[1] {0}>()
            minus = Constant<value = int64[1] {-1}>()
            s = Shape(x)
            n = Gather(s, zero)
            m = Gather(s, two)
            half = Mul(m, two)
            shape = Concat<axis = 0>(n, half, minus)
            y = Reshape(x, shape)
        }""",
    "division of shapes through floats": """
        g (float[n, 8, m] x) => (float[a, b, c] y) {
            s = Shape(x)
            f = Cast<to = 1>(s)
            h = Constant<value = float[3] {1.0, 0.5, 2.0}>()
            scaled = Mul(f, h)
            shape = Cast<to = 7>(scaled)
            y = Reshape(x, shape)
        }""",
    "slice of a shape, product, expand": """
        g (float[n, m] x) => (float[a, b] y) {
            s = Shape(x)
            one = Constant<value = int64[1] {1}>()
            nine = Constant<value = int64[1] {9}>()
            tail = Slice(s, one, nine)
            all = ReduceProd<keepdims = 1>(s)
            shape = Concat<axis = 0>(all, tail)
            row = Constant<value = float[1, 1] {2.0}>()
            wide = Expand(row, shape)
            first = Constant<value = int64[2] {1, -1}>()
            flat = Reshape(x, first)
            column = Transpose(flat)
            y = Add(wide, column)
        }""",
    "range, constant of shape, minimum of sizes": """
        g (float[n, m] x) => (float[a] y) {
            s = Shape(x)
            zero = Constant<value = int64 {0}>()
            one = Constant<value = int64 {1}>()
            n = Gather(s, zero)
            m = Gather(s, one)
            least = Min(n, m)
            r = Range(zero, least, one)
            f = Cast<to = 1>(r)
            axis = Constant<value = int64[1] {0}>()
            count = Unsqueeze(least, axis)
            c = ConstantOfShape<value = float[1] {0.5}>(count)
            y = Add(f, c)
        }""",
    "pad to a multiple": """
        g (float[n] x) => (float[a] y) {
            s = Shape(x)
            eight = Constant<value = int64[1] {8}>()
            seven = Constant<value = int64[1] {7}>()
            zero = Constant<value = int64[1] {0}>()
            up = Add(s, seven)
            blocks = Div(up, eight)
            total = Mul(blocks, eight)
            missing = Sub(total, s)
            pads = Concat<axis = 0>(zero, missing)
            y = Pad(x, pads)
        }""",
}


@pytest.mark.parametrize("text", MODELS.values(), ids=MODELS)
@pytest.mark.parametrize("n, m", [(2, 5), (1, 1), (13, 17)])
def test_computed_shapes(text: str, n: int, m: int) -> None:
    model = onnx.parser.parse_model(HEADER + text)
    dims = [d.dim_value or {"n": n, "m": m}[d.dim_param] for d in model.graph.input[0].type.tensor_type.shape.dim]
    x = np.random.default_rng(0).uniform(-1, 1, dims).astype(np.float32)
    (wanted,) = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"]).run(None, {"x": x})
    (actual,) = interpret(inferred(model), {"x": x}, {"n": n, "m": m})
    np.testing.assert_array_equal(actual, wanted)


def test_data_is_not_a_shape() -> None:
    text = """
        g (int64[2] x) => (int64[2] y) {
            y = Add(x, x)
        }"""
    model = inferred(onnx.parser.parse_model(HEADER + text))
    tensors = lower_model(model)
    assert known_dims(tensors[model.graph.outputs[0]]) is None
