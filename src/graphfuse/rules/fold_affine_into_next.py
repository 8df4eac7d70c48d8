"""Per-channel constants applied to the input of a contraction become part of its weights and bias."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir
from onnxscript.rewriter import MatchResult

from graphfuse.graph.origins import label
from graphfuse.rules.contraction import Contraction, contraction, fits, per_channel
from graphfuse.rules.rule import Rule, for_ops, no
from graphfuse.rules.values import Array, array, constant, exact, keeps_shape, rank

STAGE = "recognize"  # after the ops that it would take apart, such as hardswish with its division by six, are whole
ERROR_CLASS = "folded"
ORDER = 90

_OPS = ("Conv", "Gemm", "MatMul")


class FoldIntoNext(Rule):
    """What the spellings share: contraction(x * scale + shift, w, b)."""

    keeps = "y"
    reason = "its constant is part of the weights that follow"

    def affine(self, c: Array, channels: int) -> tuple[Array, Array]:
        """The constant of each channel as scale and shift."""
        raise NotImplementedError

    def next(self, op: Any, inner: Any) -> Any:
        """The pattern of the contraction, whatever its bias."""
        return getattr(op, self.op_type)(inner, _allow_other_inputs=True, _outputs=["y"])

    def check(self, context: Any, x: ir.Value, c: ir.Value, y: ir.Value, **_: Any) -> MatchResult:
        node, count = y.producer(), rank(x)
        assert node is not None
        if array(c) is None or array(x) is not None or count is None or not keeps_shape(x, node.inputs[0]):
            return no()
        product = contraction(node)
        if isinstance(product, MatchResult):
            return product
        if self.op_type == "MatMul" and rank(product.weight) != 2:
            return no()
        values = per_channel(c, count, 1 if self.op_type == "Conv" else count - 1, _input_channels(product))
        if isinstance(values, MatchResult):
            return values
        with np.errstate(divide="ignore"):
            scale, shift = self.affine(values, len(values))
        if shift.any() and self.op_type == "Conv" and _pads(product.node):
            return no(f"{label(product.node)} pads with zeros, which the constant is not added to", c)
        return fits(product.weight, *_folded(product, scale, shift))

    def rewrite(self, op: Any, x: ir.Value, c: ir.Value, y: ir.Value, **_: Any) -> ir.Value:
        product, count = contraction(y.producer()), rank(x)
        assert isinstance(product, Contraction)
        assert count is not None
        values = per_channel(c, count, 1 if self.op_type == "Conv" else count - 1, _input_channels(product))
        assert not isinstance(values, MatchResult)
        scale, shift = self.affine(values, len(values))
        factor, bias = _folded(product, scale, shift)
        if product.has_bias or not shift.any():
            return product.rebuild(op, factor, bias if product.bias is not None or shift.any() else None, x)
        added = constant(op, bias, product.weight, f"{label(product.node)}.bias")
        result: ir.Value = op.Add(product.rebuild(op, factor, None, x), added)
        return result


def _input_channels(product: Contraction) -> int:
    tensor = product.weight.const_value
    assert tensor is not None
    shape = tensor.shape.numpy()
    return shape[1] * product.node.attributes.get_int("group", 1) if product.node.op_type == "Conv" else shape[-2]


def _pads(node: ir.Node) -> bool:
    auto = node.attributes.get_string("auto_pad", "NOTSET")
    return auto not in ("NOTSET", "VALID") or any(node.attributes.get_ints("pads", ()))


def _folded(product: Contraction, scale: Array, shift: Array) -> tuple[Array, Array]:
    """The factor of the weights and the bias that make the contraction of x that of x * scale + shift."""
    if product.node.op_type != "Conv":
        added = shift @ exact(product.weight) if shift.any() else np.zeros(product.channels)
        return scale[:, None], product.bias_or_zero() + added
    groups, shape = product.node.attributes.get_int("group", 1), product.weight.shape
    assert shape is not None
    spatial = [1] * (len(shape) - 2)
    repeats = product.channels // groups
    factor = np.repeat(scale.reshape(groups, -1), repeats, axis=0).reshape(product.channels, -1, *spatial)
    if not shift.any():
        return factor, product.bias_or_zero()
    shifts = np.repeat(shift.reshape(groups, -1), repeats, axis=0).reshape(product.channels, -1, *spatial)
    return factor, product.bias_or_zero() + (exact(product.weight) * shifts).reshape(product.channels, -1).sum(axis=1)


# contraction(x * c, w, b) -> contraction(x, w * c, b)
class FoldMul(FoldIntoNext):
    """Scale."""

    def pattern(self, op: Any, x: Any, c: Any) -> Any:
        return self.next(op, op.Mul(x, c))

    def affine(self, c: Array, channels: int) -> tuple[Array, Array]:
        return c, np.zeros(channels)


# contraction(x / c, w, b) -> contraction(x, w / c, b)
class FoldDiv(FoldIntoNext):
    """Inverse scale."""

    def pattern(self, op: Any, x: Any, c: Any) -> Any:
        return self.next(op, op.Div(x, c))

    def affine(self, c: Array, channels: int) -> tuple[Array, Array]:
        return 1.0 / c, np.zeros(channels)


# contraction(x + c, w, b) -> contraction(x, w, b + sum(w * c))
class FoldAdd(FoldIntoNext):
    """Shift."""

    def pattern(self, op: Any, x: Any, c: Any) -> Any:
        return self.next(op, op.Add(x, c))

    def affine(self, c: Array, channels: int) -> tuple[Array, Array]:
        return np.ones(channels), c


# contraction(x - c, w, b) -> contraction(x, w, b - sum(w * c))
class FoldSub(FoldIntoNext):
    """Negative shift."""

    def pattern(self, op: Any, x: Any, c: Any) -> Any:
        return self.next(op, op.Sub(x, c))

    def affine(self, c: Array, channels: int) -> tuple[Array, Array]:
        return np.ones(channels), -c


RULES = tuple(rule for spelling in (FoldMul, FoldDiv, FoldAdd, FoldSub) for rule in for_ops(spelling, *_OPS))

_W = "w = Constant<value = float[2, 4, 1, 1] {1., 2., 3., 4., 5., 6., 7., 8.}>()"
_C = "c = Constant<value = float[4, 1, 1] {0.5, -1.5, 2.0, 3.0}>()"
_HEAD = "g (float[N, 4, 5, 5] x) => (float[N, 2, 5, 5] y)"
HITS = (
    f"{_HEAD} {{ {_W} {_C} a = Mul(x, c) b = Add(a, c) d = Conv(b, w) y = Relu(d) }}",
    f"{_HEAD} {{ {_W} {_C} a = Sub(x, c) b = Div(a, c) d = Conv(b, w) y = Relu(d) }}",
    """g (float[N, 4, 5, 5] x) => (float[N, 4, 5, 5] y) {
        w = Constant<value = float[4, 2, 1, 1] {1., 2., 3., 4., 5., 6., 7., 8.}>()
        c = Constant<value = float[4, 1, 1] {0.5, -1.5, 2.0, 3.0}>()
        a = Mul(x, c) b = Add(c, a) y = Conv<group = 2>(b, w) }""",
    """g (float[N, 4, 5, 5] x) => (float[N, 4, 5, 5] y) {
        w = Constant<value = float[4, 1, 3, 3] {1., 2., 3., 4., 5., 6., 7., 8., 9., 1., 2., 3., 4., 5., 6., 7., 8., 9.,
            1., 2., 3., 4., 5., 6., 7., 8., 9., 1., 2., 3., 4., 5., 6., 7., 8., 9.}>()
        c = Constant<value = float[4, 1, 1] {0.5, -1.5, 2.0, 3.0}>()
        a = Mul(x, c) y = Conv<group = 4, pads = [1, 1, 1, 1]>(a, w) }""",
    """g (float[3, 5, 4] x) => (float[3, 5, 2] y) {
        w = Constant<value = float[4, 2] {1., 2., 3., 4., 5., 6., 7., 8.}>()
        c = Constant<value = float[4] {0.5, -1.5, 2.0, 3.0}>() a = Mul(x, c) b = Add(a, c) y = MatMul(b, w) }""",
    """g (float[3, 4] x) => (float[3, 2] y) {
        w = Constant<value = float[4, 2] {1., 2., 3., 4., 5., 6., 7., 8.}>() z = Constant<value = float[2] {1., 2.}>()
        c = Constant<value = float[4] {0.5, -1.5, 2.0, 3.0}>() a = Mul(x, c) b = Add(a, c) y = Gemm(b, w, z) }""",
)
NEAR_MISSES = (
    (
        f"""g (float[N, 1, 5, 5] x) => (float[N, 2, 5, 5] y) {{ {_W} {_C} a = Mul(x, c) y = Conv(a, w) }}""",
        "",
    ),
    (
        """g (float[3, 5, 4] x) => (float[3, 5, 2] y) {
            w = Constant<value = float[1, 4, 2] {1., 2., 3., 4., 5., 6., 7., 8.}>()
            c = Constant<value = float[4] {0.5, -1.5, 2.0, 3.0}>() a = Add(x, c) y = MatMul(a, w) }""",
        "",
    ),
    (
        """g (float[N, 1, 5, 5] x) => (float[N, 1, 5, 5] y) {
            w = Constant<value = float[1, 1, 3, 3] {1., 2., 3., 4., 5., 6., 7., 8., 9.}>()
            c = Constant<value = float {0.5}>() a = Add(x, c) y = Conv<pads = [1, 1, 1, 1]>(a, w) }""",
        "pads with zeros",
    ),
    (f"{_HEAD} {{ {_W} {_C} a = Mul(x, c) b = Conv(a, w) s = ReduceSum(a) y = Add(b, s) }}", "is also used by"),
    (
        f"""{_HEAD} {{ {_W} c = Constant<value = float[5] {{0.5, -1.5, 2.0, 3.0, 1.0}}>()
            a = Mul(x, c) y = Conv(a, w) }}""",
        "not the same along axis 3",
    ),
)
