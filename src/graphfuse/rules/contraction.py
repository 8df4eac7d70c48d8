"""Convolutions and matrix products with constant weights, as things that a scale and a shift can be folded into."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import onnx_ir as ir
from onnxscript.rewriter import MatchResult

from graphfuse.graph.origins import label
from graphfuse.rules.rule import no, yes
from graphfuse.rules.values import (
    Array,
    array,
    constant,
    exact,
    input_of,
    name_of,
    overflows,
    rank,
    scaled,
    scaling_overflows,
)

OPS = ("Conv", "ConvTranspose", "Gemm", "MatMul")


@dataclasses.dataclass(frozen=True)
class Contraction:
    """A node of OPS with constant weights.

    channels: output channels; axis: their axis in the output, whose rank is `rank`; inputs: input channels.
    """

    node: ir.Node
    weight: ir.Value
    bias: ir.Value | None
    rank: int
    axis: int
    channels: int

    @property
    def has_bias(self) -> bool:
        """Whether the op can hold a bias at all."""
        return self.node.op_type != "MatMul"

    def per_channel(self, value: ir.Value) -> Array | MatchResult:
        """A constant that is broadcast against the output, as one float64 number for each output channel."""
        return per_channel(value, self.rank, self.axis, self.channels)

    def output_factor(self, scale: Array) -> Array:
        """One number for each output channel in a shape that is broadcast against the weights."""
        weight = self.weight.shape
        assert weight is not None
        if self.node.op_type == "Conv":
            return scale.reshape(-1, *[1] * (len(weight) - 1))
        if self.node.op_type == "ConvTranspose":
            # Weights are C x M/g: each group of input channels has output channels of its own.
            groups, inputs = self.node.attributes.get_int("group", 1), weight[0]
            assert isinstance(inputs, int)
            spread = np.repeat(scale.reshape(groups, -1), inputs // groups, axis=0)
            return spread.reshape(*spread.shape, *[1] * (len(weight) - 2))
        return scale

    def bias_or_zero(self) -> Array:
        """The bias in float64, zeros where there is none."""
        return np.zeros(self.channels) if self.bias is None else exact(self.bias)

    def rebuild(self, op: Any, factor: Array, bias: Array | None, x: ir.Value | None = None) -> ir.Value:
        """A copy of the node, its weights times `factor`, with another bias (None: none), reading `x` if given."""
        source = self.node.inputs[0] if x is None else x
        operands = [source, scaled(op, self.weight, factor, name_of(self.weight, "folded"))]
        if bias is not None:
            name = f"{label(self.node)}.bias" if self.bias is None else name_of(self.bias, "folded")
            operands.append(constant(op, bias, self.weight, name))
        result: ir.Value = op.op(self.node.op_type, *operands, **dict(self.node.attributes))
        return result


def contraction(node: ir.Node | None) -> Contraction | MatchResult:
    """The node as a contraction, or why it is not one that constants can be folded into."""
    if node is None or node.op_type not in OPS or node.domain != "":
        return no()
    weight, bias = input_of(node, 1), input_of(node, 2)
    if weight is None or weight.dtype is None or not weight.dtype.is_floating_point():
        return no()
    elements = array(weight)
    if elements is None and node.op_type == "MatMul":
        return no()  # a product of two activations
    if elements is None:
        return no(f"the weights of {label(node)} are computed at run time", weight)
    if bias is not None and array(bias) is None:
        return no(f"the bias of {label(node)} is computed at run time", bias)
    if node.op_type in ("Conv", "ConvTranspose"):
        groups = node.attributes.get_int("group", 1)
        channels = elements.shape[0] if node.op_type == "Conv" else elements.shape[1] * groups
        return Contraction(node, weight, bias, elements.ndim, 1, channels)
    if node.op_type == "Gemm" and not is_plain_gemm(node):
        return no()
    out_rank = rank(node.outputs[0])
    if out_rank is None or elements.ndim < 2:
        return no()
    return Contraction(node, weight, bias, out_rank, out_rank - 1, elements.shape[-1])


def is_plain_gemm(node: ir.Node) -> bool:
    """Whether a Gemm is x W + b with nothing transposed or scaled and one bias for each column, or none."""
    get = node.attributes
    factors = (get.get_float("alpha", 1.0), get.get_float("beta", 1.0))
    turned = get.get_int("transA", 0) + get.get_int("transB", 0)
    if factors != (1.0, 1.0) or turned:
        return False
    bias, weight = input_of(node, 2), array(input_of(node, 1))
    if bias is None or weight is None:
        return weight is not None
    elements = array(bias)
    return elements is not None and elements.shape == weight.shape[1:]


def per_channel(value: ir.Value, out_rank: int, axis: int, channels: int) -> Array | MatchResult:
    """A constant broadcast against a tensor of this rank, as one float64 number for each index of `axis`."""
    if array(value) is None:
        return no()
    elements = exact(value)
    if elements.ndim > out_rank:
        return no(f"{value.name} has more dimensions than the tensor it is applied to", value)
    shape = (1,) * (out_rank - elements.ndim) + elements.shape
    varying = [k for k, d in enumerate(shape) if d != 1 and k != axis]
    if varying:
        return no(f"{value.name} is not the same along axis {varying[0]}", value)
    if shape[axis] not in (1, channels):
        return no(f"{value.name} has {shape[axis]} elements along axis {axis}, not {channels}", value)
    return np.ascontiguousarray(np.broadcast_to(elements.reshape(-1), (channels,)))


def fits(weight: ir.Value, factor: Array, bias: Array) -> MatchResult:
    """Refuses folded numbers that leave the range of the weights' element type."""
    if not np.isfinite(factor).all() or scaling_overflows(weight, factor) or overflows(bias, weight):
        return no(f"the folded weights of {weight.name} leave the range of {weight.dtype}", weight)
    return yes()
