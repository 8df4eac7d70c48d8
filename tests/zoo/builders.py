"""Models put together node by node, with weights: small ones whose every node can be named in a test."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

OPSET = 18


def _model(
    name: str,
    nodes: list[onnx.NodeProto],
    inputs: dict[str, list[int | str]],
    outputs: dict[str, list[int | str]],
    weights: dict[str, NDArray[np.float32]],
) -> onnx.ModelProto:
    graph = helper.make_graph(
        nodes,
        name,
        [helper.make_tensor_value_info(key, TensorProto.FLOAT, shape) for key, shape in inputs.items()],
        [helper.make_tensor_value_info(key, TensorProto.FLOAT, shape) for key, shape in outputs.items()],
        [numpy_helper.from_array(value.astype(np.float32), key) for key, value in weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=8)
    onnx.checker.check_model(model, full_check=True)
    return model


def pointwise_chain(seed: int = 0, rows: int = 64, columns: int = 65536) -> onnx.ModelProto:
    """Twelve ops on x (rows, columns): y = clip(relu(s / exp(sqrt(|tanh(s) - x|)))), s = silu(x * scale + bias)."""
    random = np.random.default_rng(seed)
    weights = {
        "scale": random.uniform(0.5, 2, (rows, 1)),
        "bias": random.normal(0, 0.5, (rows, 1)),
        "low": np.array(0.01),
        "high": np.array(0.9),
    }
    steps = [
        ("Mul", ["x", "scale"], "scaled"),
        ("Add", ["scaled", "bias"], "shifted"),
        ("Sigmoid", ["shifted"], "gate"),
        ("Mul", ["shifted", "gate"], "silu"),
        ("Tanh", ["silu"], "tanh"),
        ("Sub", ["tanh", "x"], "difference"),
        ("Abs", ["difference"], "distance"),
        ("Sqrt", ["distance"], "root"),
        ("Exp", ["root"], "exp"),
        ("Div", ["silu", "exp"], "ratio"),
        ("Relu", ["ratio"], "positive"),
        ("Clip", ["positive", "low", "high"], "y"),
    ]
    nodes = [
        helper.make_node(op, inputs, [output], name=f"/chain/{op}_{i}") for i, (op, inputs, output) in enumerate(steps)
    ]
    return _model("pointwise_chain", nodes, {"x": [rows, columns]}, {"y": [rows, columns]}, weights)


def mlp(seed: int = 0, widths: tuple[int, ...] = (64, 128, 128, 10)) -> onnx.ModelProto:
    """Linear layers x (batch, widths[0]) -> y (batch, widths[-1]) with a ReLU between them."""
    random = np.random.default_rng(seed)
    weights, nodes, value = {}, [], "x"
    last = len(widths) - 2
    for i, (wide_in, wide_out) in enumerate(pairwise(widths)):
        weights[f"fc{i}.weight"] = random.normal(0, np.sqrt(2 / wide_in), (wide_out, wide_in))
        weights[f"fc{i}.bias"] = random.normal(0, 0.1, wide_out)
        out = "y" if i == last else f"fc{i}.out"
        nodes.append(
            helper.make_node("Gemm", [value, f"fc{i}.weight", f"fc{i}.bias"], [out], name=f"/fc{i}/Gemm", transB=1)
        )
        value = out
        if i < last:
            value = f"relu{i}.out"
            nodes.append(helper.make_node("Relu", [out], [value], name=f"/relu{i}/Relu"))
    return _model("mlp", nodes, {"x": ["batch", widths[0]]}, {"y": ["batch", widths[-1]]}, weights)


def lstm(seed: int = 0, steps: int = 128, width: int = 256) -> onnx.ModelProto:
    """One LSTM layer, forward, from a state of zeros: x (steps, batch, width) -> y (steps, batch, width)."""
    random = np.random.default_rng(seed)
    reach = 1 / np.sqrt(width)
    weights = {
        "lstm.weight_ih": random.uniform(-reach, reach, (1, 4 * width, width)),
        "lstm.weight_hh": random.uniform(-reach, reach, (1, 4 * width, width)),
        "lstm.bias": random.uniform(-reach, reach, (1, 8 * width)),
    }
    nodes = [
        helper.make_node("LSTM", ["x", *weights], ["hidden"], name="/lstm/LSTM", hidden_size=width),
        helper.make_node("Constant", [], ["axis"], name="/lstm/Constant", value_ints=[1]),
        helper.make_node("Squeeze", ["hidden", "axis"], ["y"], name="/lstm/Squeeze"),
    ]
    shape: list[int | str] = [steps, "batch", width]
    return _model("lstm", nodes, {"x": shape}, {"y": shape}, weights)


def repeated_blocks(seed: int = 0, blocks: int = 143, channels: int = 16) -> onnx.ModelProto:
    """One residual block of 7 nodes again and again on x (batch, channels, 14, 14): 1001 nodes."""
    random = np.random.default_rng(seed)
    weights: dict[str, NDArray[np.float32]] = {}
    nodes: list[onnx.NodeProto] = []

    def add(op: str, block: int, inputs: list[str], name: str, **attributes: object) -> str:
        out = f"/block{block}/{name}_output_0"
        nodes.append(helper.make_node(op, inputs, [out], name=f"/block{block}/{name}", **attributes))
        return out

    def conv_bn(block: int, value: str, index: int) -> str:
        conv, bn = f"block{block}.conv{index}", f"block{block}.bn{index}"
        # The block's share is small, so that a hundred of them do not outgrow float32's comfort.
        weights[f"{conv}.weight"] = random.normal(0, np.sqrt(0.3 / (9 * channels)), (channels, channels, 3, 3))
        weights[f"{bn}.weight"] = random.uniform(0.5, 1, channels)
        weights[f"{bn}.bias"] = random.normal(0, 0.1, channels)
        weights[f"{bn}.running_mean"] = random.normal(0, 0.1, channels)
        weights[f"{bn}.running_var"] = random.uniform(0.5, 1.5, channels)
        value = add(
            "Conv", block, [value, f"{conv}.weight"], f"conv{index}/Conv", kernel_shape=[3, 3], pads=[1, 1, 1, 1]
        )
        statistics = [f"{bn}.{part}" for part in ("weight", "bias", "running_mean", "running_var")]
        return add("BatchNormalization", block, [value, *statistics], f"bn{index}/BatchNormalization")

    value = "x"
    for block in range(blocks):
        inner = add("Relu", block, [conv_bn(block, value, 1)], "relu1/Relu")
        total = add("Add", block, [conv_bn(block, inner, 2), value], "Add")
        value = add("Relu", block, [total], "relu2/Relu")
    nodes[-1].output[0] = "y"
    shape: list[int | str] = ["batch", channels, 14, 14]
    return _model("repeated_blocks", nodes, {"x": shape}, {"y": shape}, weights)
