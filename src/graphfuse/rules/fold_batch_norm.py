"""Batch norm after a convolution or matrix product becomes part of its weights and bias."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir
from onnxscript.rewriter import MatchResult

from graphfuse.graph.origins import label
from graphfuse.rules.contraction import OPS, Contraction, contraction, fits
from graphfuse.rules.rule import Rule, for_ops, no
from graphfuse.rules.values import Array, array, constant, exact, input_of

STAGE = "simplify"
ERROR_CLASS = "folded"
ORDER = 20


def scale_and_shift(node: ir.Node) -> tuple[Array, Array] | MatchResult:
    """An inference BatchNormalization as y = x * scale + shift for each channel, in float64."""
    if node.attributes.get_int("training_mode", 0):
        return no(f"{label(node)} is in training mode: it normalises by the batch it is given", node)
    parameters = [input_of(node, k) for k in range(1, 5)]
    for value in parameters:
        if value is None or array(value) is None:
            return no(f"a parameter of {label(node)} is computed at run time", value)
    gamma, beta, mean, variance = (exact(value) for value in parameters if value is not None)
    # y = (x - mean) / sqrt(variance + epsilon) * gamma + beta, ONNX BatchNormalization-15
    epsilon = float(np.float32(node.attributes.get_float("epsilon", 1e-5)))
    scale = gamma / np.sqrt(variance + epsilon)
    return scale, beta - mean * scale


# BatchNormalization(contraction(x, w, b)) -> contraction(x, w * scale, b * scale + shift)
class FoldBatchNorm(Rule):
    """For the ops that hold a bias; a plain matrix product gets an Add for the shift."""

    keeps = "y"
    reason = "its scale and shift are part of the weights"

    def pattern(self, op: Any, x: Any, gamma: Any, beta: Any, mean: Any, variance: Any) -> Any:
        y = getattr(op, self.op_type)(x, _allow_other_inputs=True, _outputs=["y"])
        return op.BatchNormalization(y, gamma, beta, mean, variance, _outputs=["out"])

    def check(self, context: Any, y: ir.Value, out: ir.Value, **_: Any) -> MatchResult:
        product, norm = contraction(y.producer()), out.producer()
        assert norm is not None
        if isinstance(product, MatchResult):
            return product
        if product.axis != 1:
            return no(f"{label(norm)} normalises axis 1, the channels of {label(product.node)} are the last", norm)
        affine = scale_and_shift(norm)
        if isinstance(affine, MatchResult):
            return affine
        if len(affine[0]) != product.channels:
            return no(f"{label(norm)} has {len(affine[0])} channels, {label(product.node)} {product.channels}", norm)
        return fits(product.weight, affine[0], product.bias_or_zero() * affine[0] + affine[1])

    def rewrite(self, op: Any, y: ir.Value, out: ir.Value, **_: Any) -> ir.Value:
        product, norm = contraction(y.producer()), out.producer()
        assert isinstance(product, Contraction)
        assert norm is not None
        affine = scale_and_shift(norm)
        assert isinstance(affine, tuple)
        scale, shift = affine
        if product.has_bias:
            return product.rebuild(op, product.output_factor(scale), product.bias_or_zero() * scale + shift)
        bias = constant(op, shift, product.weight, f"{label(norm)}.shift")
        added: ir.Value = op.Add(product.rebuild(op, product.output_factor(scale), None), bias)
        return added


RULES = for_ops(FoldBatchNorm, *OPS)

_PARAMETERS = """
    g = Constant<value = float[4] {1.5, 0.5, -2.0, 0.0}>()
    b = Constant<value = float[4] {0.1, -0.2, 0.3, 0.4}>()
    m = Constant<value = float[4] {0.5, 0.25, -1.0, 2.0}>()
    v = Constant<value = float[4] {1.0, 0.5, 2.0, 0.1}>()
"""
_WEIGHT = "w = Constant<value = float[4, 2, 1, 1] {1., 2., 3., 4., 5., 6., 7., 8.}>()"

HITS = (
    f"""g (float[N, 2, 5, 5] x) => (float[N, 4, 5, 5] y) {{
        {_PARAMETERS} {_WEIGHT} c = Conv(x, w) y = BatchNormalization(c, g, b, m, v) }}""",
    f"""g (float[2, 4, 7] x) => (float[2, 4, 5] y) {{
        {_PARAMETERS} w = Constant<value = float[4, 1, 3] {{1., 2., 3., 4., 5., 6., 7., 8., 9., 10., 11., 12.}}>()
        c = Conv<group = 4>(x, w, b) y = BatchNormalization<epsilon = 0.01>(c, g, b, m, v) }}""",
    f"""g (float[1, 4, 3, 3, 3] x) => (float[1, 4, 3, 3, 3] y) {{
        {_PARAMETERS} w = Constant<value = float[4, 1, 1, 1, 1] {{1., 2., 3., 4.}}>()
        c = Conv<group = 4>(x, w) y = BatchNormalization(c, g, b, m, v) }}""",
    f"""g (float[1, 4, 3, 3] x) => (float[1, 4, 6, 6] y) {{
        {_PARAMETERS} w = Constant<value = float[4, 2, 2, 2] {{
            1., 2., 3., 4., 5., 6., 7., 8., 9., 10., 11., 12., 13., 14., 15., 16.,
            1., 2., 3., 4., 5., 6., 7., 8., 9., 10., 11., 12., 13., 14., 15., 16.}}>()
        c = ConvTranspose<group = 2, strides = [2, 2]>(x, w) y = BatchNormalization(c, g, b, m, v) }}""",
    f"""g (float[N, 2] x) => (float[N, 4] y) {{
        {_PARAMETERS} w = Constant<value = float[2, 4] {{1., 2., 3., 4., 5., 6., 7., 8.}}>()
        c = Gemm(x, w, b) y = BatchNormalization(c, g, b, m, v) }}""",
    f"""g (float[N, 2] x) => (float[N, 4] y) {{
        {_PARAMETERS} w = Constant<value = float[2, 4] {{1., 2., 3., 4., 5., 6., 7., 8.}}>()
        c = MatMul(x, w) y = BatchNormalization(c, g, b, m, v) }}""",
)
NEAR_MISSES = (
    (
        f"""g (float[N, 2, 5, 5] x) => (float[N, 4, 5, 5] y, float[N, 4, 5, 5] c) {{
            {_PARAMETERS} {_WEIGHT} c = Conv(x, w) y = BatchNormalization(c, g, b, m, v) }}""",
        "also an output of the model",
    ),
    (
        f"""g (float[N, 2, 5, 5] x) => (float[N, 4, 5, 5] z) {{
            {_PARAMETERS} {_WEIGHT} c = Conv(x, w) y = BatchNormalization(c, g, b, m, v) z = Add(c, y) }}""",
        "is also used by",
    ),
    (
        f"""g (float[N, 2, 5, 5] x, float[4, 2, 1, 1] w) => (float[N, 4, 5, 5] y) {{
            {_PARAMETERS} c = Conv(x, w) y = BatchNormalization(c, g, b, m, v) }}""",
        "computed at run time",
    ),
    (
        f"""g (float[2, 4, 3] x) => (float[2, 4, 4] y) {{
            {_PARAMETERS} w = Constant<value = float[3, 4] {{1., 2., 3., 4., 5., 6., 7., 8., 9., 1., 2., 3.}}>()
            c = MatMul(x, w) y = BatchNormalization(c, g, b, m, v) }}""",
        "normalises axis 1",
    ),
)
