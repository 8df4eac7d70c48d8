"""Random weights for a graph whose trained ones were stripped: of plausible size, the same values every time."""

from __future__ import annotations

import math
import zlib

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

Array = NDArray[np.float32]
# An initializer that only passes through these is what the node behind them consumes.
_PASS_THROUGH = ("Identity", "Transpose")


def is_stripped(tensor: onnx.TensorProto) -> bool:
    """Whether a float32 initializer has a shape but no values."""
    return tensor.data_type == onnx.TensorProto.FLOAT and not tensor.raw_data and not tensor.float_data


def fill(model: onnx.ModelProto, seed: int, conv_gain: float) -> None:
    """Give every stripped initializer values, in place.

    Each tensor has a generator of its own, seeded by `seed` and its name. `conv_gain` multiplies the variance of
    convolution weights, so that a signal keeps its size through the whole network.
    """
    consumer_of = _first_consumers(model.graph)
    for tensor in model.graph.initializer:
        if not is_stripped(tensor):
            continue
        generator = np.random.Generator(np.random.PCG64([seed, zlib.crc32(tensor.name.encode())]))
        values = _values(tuple(tensor.dims), consumer_of[tensor.name], conv_gain, generator)
        tensor.CopyFrom(numpy_helper.from_array(values.astype(np.float32, copy=False), tensor.name))


def _first_consumers(graph: onnx.GraphProto) -> dict[str, tuple[onnx.NodeProto, int]]:
    found: dict[str, tuple[onnx.NodeProto, int]] = {}
    for node in reversed(graph.node):  # consumers stand behind producers: a pass-through finds its own consumer known
        if node.op_type == "Shape":  # asks for no values
            continue
        for index, name in enumerate(node.input):
            through = node.op_type in _PASS_THROUGH and node.output[0] in found
            found[name] = found[node.output[0]] if through else (node, index)
    return found


def _values(
    shape: tuple[int, ...], use: tuple[onnx.NodeProto, int], conv_gain: float, random: np.random.Generator
) -> Array:
    node, index = use

    def normal(deviation: float) -> Array:
        return random.standard_normal(shape, dtype=np.float32) * np.float32(deviation)

    def uniform(low: float, high: float) -> Array:
        return random.random(shape, dtype=np.float32) * np.float32(high - low) + np.float32(low)

    match node.op_type, index:
        case "Conv", 1:  # He et al. 2015: variance 2 / fan-in keeps the second moment through a ReLU
            return normal(math.sqrt(2 * conv_gain / math.prod(shape[1:])))
        case (("Gemm" | "MatMul"), 1):  # nearly square: which of the two axes is summed over does not matter here
            return normal(math.sqrt(2 / sum(shape[-2:])))
        case "BatchNormalization", 1:
            return uniform(0.5, 1.0)
        case "BatchNormalization", 4:
            return uniform(0.5, 1.5)
        case "LayerNormalization", 1:
            return uniform(0.5, 1.5)
        case _:  # biases, means, embeddings
            return normal(0.1)
