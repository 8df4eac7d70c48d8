"""Quantised models as exporters write them: what becomes an integer kernel, and that onnxruntime agrees."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from graphfuse.compiler import Compiled, compile_model
from graphfuse.options import CompileOptions

RNG = np.random.default_rng(3)


class Net:
    """A graph in the making: every value between two operators is quantised and dequantised, as quantisers do."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []

    def node(self, op: str, *inputs: str, **attributes: Any) -> str:
        name = f"{op.lower()}{len(self.nodes)}"
        self.nodes.append(helper.make_node(op, inputs, [name], name=name, **attributes))
        return name

    def constant(self, value: Any, dtype: Any = np.float32) -> str:
        name = f"c{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(np.asarray(value, dtype), name))
        return name

    def through_bytes(self, x: str, scale: float, zero: int, dtype: Any = np.uint8) -> str:
        s, z = self.constant(scale), self.constant(zero, dtype)
        return self.node("DequantizeLinear", self.node("QuantizeLinear", x, s, z), s, z)

    def weights(self, *shape: int, axis: int, dtype: Any = np.int8) -> str:
        low, high, zero = (-127, 128, 0) if dtype == np.int8 else (0, 256, 128)
        w = self.constant(RNG.integers(low, high, shape), dtype)
        s = self.constant(RNG.uniform(0.001, 0.004, shape[axis]))
        z = self.constant(np.full(shape[axis], zero), dtype)
        return self.node("DequantizeLinear", w, s, z, axis=axis)

    def model(self, inputs: dict[str, Sequence[int | str]], output: str) -> onnx.ModelProto:
        graph = helper.make_graph(
            self.nodes,
            "g",
            [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in inputs.items()],
            [onnx.ValueInfoProto(name=output)],
            self.constants,
        )
        graph.output[0].type.tensor_type.elem_type = TensorProto.FLOAT
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)


def perceptron(dtype: Any = np.uint8, weights: Any = np.int8) -> onnx.ModelProto:
    net = Net()
    zero = 0 if dtype == np.int8 else 113
    x = net.through_bytes("x", 0.03, zero, dtype)
    h = net.node("MatMul", x, net.weights(37, 50, axis=1, dtype=weights))
    h = net.node("Add", net.through_bytes(h, 0.05, zero, dtype), net.constant(RNG.standard_normal(50)))
    h = net.through_bytes(net.node("Relu", h), 0.04, zero, dtype)
    y = net.node("MatMul", h, net.weights(50, 9, axis=1, dtype=weights))
    return net.model({"x": ["N", 37]}, net.through_bytes(y, 0.1, zero, dtype))


def convolutions(zero: int = 7) -> onnx.ModelProto:
    net = Net()
    x = net.through_bytes("x", 0.03, zero)
    for groups, outputs, channels, strides in ((1, 16, 3, 2), (16, 16, 1, 1), (2, 12, 8, 1)):
        bias = net.constant(RNG.integers(-999, 999, outputs), np.int32)
        bias = net.node("DequantizeLinear", bias, net.constant(0.0001))
        w = net.weights(outputs, channels, 3, 3, axis=0)
        x = net.node("Conv", x, w, bias, pads=[1] * 4, strides=[strides] * 2, group=groups)
        x = net.through_bytes(net.node("Relu", x), 0.02, zero)
    return net.model({"x": [1, 3, 18, 22]}, x)


def attention() -> onnx.ModelProto:
    net = Net()
    q, k, v = (net.through_bytes(name, 0.03, zero) for name, zero in (("q", 120), ("k", 131), ("v", 99)))
    scores = net.through_bytes(net.node("MatMul", q, net.node("Transpose", k, perm=[0, 2, 1])), 0.05, 127)
    p = net.through_bytes(net.node("Softmax", scores, axis=-1), 1 / 256, 0)
    y = net.node("MatMul", p, v)
    return net.model({name: ["N", 21, 16] for name in "qkv"}, y)


MODELS = {
    "perceptron": perceptron(),
    "perceptron of int8": perceptron(np.int8),
    "perceptron with unsigned weights": perceptron(np.uint8, np.uint8),
    "convolutions": convolutions(),
    "convolutions, zero at zero": convolutions(0),
    "attention": attention(),
}


def compiled(model: onnx.ModelProto, folder: Path, **options: Any) -> Compiled:
    onnx.save(model, folder / "m.onnx")
    return compile_model(folder / "m.onnx", folder / "m.gf", CompileOptions(verify=False, **options))


def inputs_of(model: onnx.ModelProto) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(5)
    shapes = {v.name: [d.dim_value or 3 for d in v.type.tensor_type.shape.dim] for v in model.graph.input}
    return {name: rng.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}


def expected(model: onnx.ModelProto, inputs: dict[str, np.ndarray]) -> np.ndarray:
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    return onnxruntime.InferenceSession(model.SerializeToString(), options).run(None, inputs)[0]


@pytest.mark.parametrize("numerics", ["default", "strict"])
@pytest.mark.parametrize("name", MODELS)
def test_agrees_with_onnxruntime(name: str, numerics: str, tmp_path: Path) -> None:
    """Most elements are equal; those that a rounding tips are a step away, and a step of a later value after that."""
    model = MODELS[name]
    inputs = inputs_of(model)
    result = compiled(model, tmp_path, numerics=numerics)
    one, two = (result.session(threads=t).run(None, inputs)[0] for t in (1, 2))
    assert one.tobytes() == two.tobytes()
    wanted = expected(model, inputs)
    distance = np.abs(one - wanted)
    assert distance.max() <= 0.1 + 1e-6
    assert (distance > 1e-5).mean() < 0.02


@pytest.mark.parametrize("name", MODELS)
def test_products_are_integer_kernels(name: str, tmp_path: Path) -> None:
    planned = compiled(MODELS[name], tmp_path).job.results["plan"]
    kernels = [call.kernel for call in planned.steps if call.kernel not in ("", "rows")]
    # A product of one channel with each, exact in float32, is no sum of fours.
    depthwise = [k for k in kernels if k == "conv_depthwise"]
    assert set(kernels) - {"conv_depthwise"} <= {"gemm_i8", "conv_i8"}
    assert len(kernels) - len(depthwise) >= 2


def test_a_layer_is_one_call(tmp_path: Path) -> None:
    """Requantisation, bias and activation are computed on the sums."""
    planned = compiled(MODELS["perceptron"], tmp_path).job.results["plan"]
    assert [call.kernel for call in planned.steps] == ["rows", "gemm_i8", "gemm_i8"]


def test_weights_without_integer_products_are_floats(tmp_path: Path) -> None:
    net = Net()
    y = net.node("MatMul", "x", net.weights(37, 50, axis=1))
    model = net.model({"x": ["N", 37]}, y)
    result = compiled(model, tmp_path)
    assert [call.kernel for call in result.job.results["plan"].steps] == ["gemm"]
    inputs = inputs_of(model)
    np.testing.assert_allclose(result.session().run(None, inputs)[0], expected(model, inputs), rtol=1e-5, atol=1e-5)


def test_a_growing_function_is_quantised_by_its_argument(tmp_path: Path) -> None:
    """The range of tanh is that of the largest and smallest argument: the sum is taken twice, tanh once."""
    net = Net()
    y = net.node("Tanh", net.node("Add", "a", "b"))
    net.nodes.append(helper.make_node("DynamicQuantizeLinear", [y], ["q", "s", "z"]))
    model = net.model({"a": [1, 90, 200], "b": [70, 1, 200]}, net.node("DequantizeLinear", "q", "s", "z"))
    result = compiled(model, tmp_path)
    inputs = inputs_of(model)
    one, two = (result.session(threads=t).run(None, inputs)[0] for t in (1, 2))
    assert one.tobytes() == two.tobytes()
    wanted = expected(model, inputs)
    distance = np.abs(one - wanted)
    assert distance.max() <= 2 / 255 + 1e-6
    assert (distance > 1e-5).mean() < 0.01
    assert max(call.code.rows for call in result.job.results["plan"].steps) > 1


def test_pooling_of_an_open_number_of_channels(tmp_path: Path) -> None:
    proto = onnx.parser.parse_model("""<ir_version: 8, opset_import: ["": 18, "com.microsoft": 1]>
        g (uint8[N, C, 7, 9] x) => (uint8[N, C, 5, 7] y) <float s = {0.031}, uint8 z = {9}> {
            y = com.microsoft.QLinearAveragePool<kernel_shape = [3, 3]>(x, s, z, s, z) }""")
    onnx.save(proto, tmp_path / "m.onnx")
    options = CompileOptions(verify=False, cache=False)
    session = compile_model(tmp_path / "m.onnx", tmp_path / "m.gf", options).session(threads=1)
    peer = onnxruntime.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    for channels in (1, 3, 17):
        feeds = {"x": RNG.integers(0, 256, (2, channels, 7, 9)).astype(np.uint8)}
        np.testing.assert_array_equal(session.run(None, feeds)[0], peer.run(None, feeds)[0])
