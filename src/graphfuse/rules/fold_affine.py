"""Per-channel constants multiplied with or added to the result of a contraction become part of its weights and bias."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir
from onnxscript.rewriter import MatchResult

from graphfuse.rules.contraction import OPS, Contraction, contraction, fits
from graphfuse.rules.rule import Rule, for_ops, no
from graphfuse.rules.values import Array, array

STAGE = "simplify"
ERROR_CLASS = "folded"
ORDER = 20


class FoldAffine(Rule):
    """What the spellings share: y * scale + shift with y = contraction(x, w, b)."""

    keeps = "y"
    reason = "its constant is part of the weights"

    def affine(self, c: Array, channels: int) -> tuple[Array, Array]:
        """The constant of each channel as scale and shift."""
        raise NotImplementedError

    def check(self, context: Any, y: ir.Value, c: ir.Value | None = None, **_: Any) -> MatchResult:
        if c is not None and array(c) is None:
            return no()
        product = contraction(y.producer())
        if isinstance(product, MatchResult):
            return product
        values = np.ones(product.channels) if c is None else product.per_channel(c)
        if isinstance(values, MatchResult):
            return values
        with np.errstate(divide="ignore", invalid="ignore"):
            scale, shift = self.affine(values, product.channels)
            bias = product.bias_or_zero() * scale + shift
        if not product.has_bias and shift.any():
            return no()  # a matrix product has nowhere to put it; the Add is its epilogue
        return fits(product.weight, scale, bias)

    def rewrite(self, op: Any, y: ir.Value, c: ir.Value | None = None, **_: Any) -> ir.Value:
        product = contraction(y.producer())
        assert isinstance(product, Contraction)
        values = np.ones(product.channels) if c is None else product.per_channel(c)
        assert not isinstance(values, MatchResult)
        scale, shift = self.affine(values, product.channels)
        bias = product.bias_or_zero() * scale + shift
        plain = product.bias is None and not shift.any()
        return product.rebuild(op, product.output_factor(scale), None if plain else bias)

    def product(self, op: Any, x: Any) -> Any:
        """The pattern of the contraction, whatever its bias."""
        return getattr(op, self.op_type)(x, _allow_other_inputs=True, _outputs=["y"])


# contraction(x, w, b) * c -> contraction(x, w * c, b * c)
class FoldMul(FoldAffine):
    """Scale."""

    def pattern(self, op: Any, x: Any, c: Any) -> Any:
        return op.Mul(self.product(op, x), c)

    def affine(self, c: Array, channels: int) -> tuple[Array, Array]:
        return c, np.zeros(channels)


# contraction(x, w, b) / c -> contraction(x, w / c, b / c)
class FoldDiv(FoldAffine):
    """Inverse scale."""

    def pattern(self, op: Any, x: Any, c: Any) -> Any:
        return op.Div(self.product(op, x), c)

    def affine(self, c: Array, channels: int) -> tuple[Array, Array]:
        return 1.0 / c, np.zeros(channels)


# contraction(x, w, b) + c -> contraction(x, w, b + c)
class FoldAdd(FoldAffine):
    """Shift."""

    def pattern(self, op: Any, x: Any, c: Any) -> Any:
        return op.Add(self.product(op, x), c)

    def affine(self, c: Array, channels: int) -> tuple[Array, Array]:
        return np.ones(channels), c


# contraction(x, w, b) - c -> contraction(x, w, b - c)
class FoldSub(FoldAffine):
    """Negative shift."""

    def pattern(self, op: Any, x: Any, c: Any) -> Any:
        return op.Sub(self.product(op, x), c)

    def affine(self, c: Array, channels: int) -> tuple[Array, Array]:
        return np.ones(channels), -c


# c - contraction(x, w, b) -> contraction(x, -w, c - b)
class FoldSubFrom(FoldAffine):
    """Negated and shifted."""

    def pattern(self, op: Any, x: Any, c: Any) -> Any:
        return op.Sub(c, self.product(op, x))

    def affine(self, c: Array, channels: int) -> tuple[Array, Array]:
        return -np.ones(channels), c


# -contraction(x, w, b) -> contraction(x, -w, -b)
class FoldNeg(FoldAffine):
    """Negated."""

    def pattern(self, op: Any, x: Any) -> Any:
        return op.Neg(self.product(op, x))

    def affine(self, c: Array, channels: int) -> tuple[Array, Array]:
        return -c, np.zeros(channels)


_SPELLINGS = (FoldMul, FoldDiv, FoldAdd, FoldSub, FoldSubFrom, FoldNeg)
RULES = tuple(rule for spelling in _SPELLINGS for rule in for_ops(spelling, *OPS))

_W = "w = Constant<value = float[4, 2, 1, 1] {1., 2., 3., 4., 5., 6., 7., 8.}>()"
_C = "c = Constant<value = float[4, 1, 1] {0.5, -1.5, 2.0, 3.0}>()"
_M = "w = Constant<value = float[2, 4] {1., 2., 3., 4., 5., 6., 7., 8.}>()"
_HEAD = "g (float[N, 2, 5, 5] x) => (float[N, 4, 5, 5] y)"
HITS = (
    f"{_HEAD} {{ {_W} {_C} a = Conv(x, w) y = Mul(a, c) }}",
    f"{_HEAD} {{ {_W} {_C} a = Conv(x, w) y = Add(c, a) }}",
    f"{_HEAD} {{ {_W} {_C} a = Conv(x, w) b = Div(a, c) d = Sub(b, c) y = Sub(c, d) }}",
    f"{_HEAD} {{ {_W} c = Constant<value = float {{0.5}}>() a = Conv(x, w) b = Neg(a) y = Mul(b, c) }}",
    """g (float[1, 4, 3] x) => (float[1, 2, 6] y) {
        w = Constant<value = float[4, 1, 2] {1., 2., 3., 4., 5., 6., 7., 8.}>()
        c = Constant<value = float[1, 2, 1] {0.5, -1.5}>()
        a = ConvTranspose<group = 2, strides = [2]>(x, w) b = Mul(a, c) y = Add(b, c) }""",
    f"""g (float[3, 5, 2] x) => (float[3, 5, 4] y) {{
        {_M} c = Constant<value = float[4] {{0.5, -1.5, 2.0, 3.0}}>() a = MatMul(x, w) y = Mul(a, c) }}""",
)
NEAR_MISSES = (
    (
        f"""{_HEAD} {{ {_W} c = Constant<value = float[5] {{0.5, -1.5, 2.0, 3.0, 1.0}}>()
            a = Conv(x, w) y = Mul(a, c) }}""",
        "not the same along axis 3",
    ),
    (
        f"""g (float[N, 2, 5, 5] x) => (float[2, N, 4, 5, 5] y) {{ {_W}
            c = Constant<value = float[2, 1, 1, 1, 1] {{0.5, -1.5}}>() a = Conv(x, w) y = Mul(a, c) }}""",
        "more dimensions",
    ),
    (f"{_HEAD} {{ {_W} {_C} a = Conv(x, w) b = Mul(a, c) y = Add(a, b) }}", "is also used by"),
    (
        f"{_HEAD} {{ {_W} c = Constant<value = float {{0.0}}>() a = Conv(x, w) y = Div(a, c) }}",
        "leave the range",
    ),
    (
        """g (float[N, 2, 5, 5] x) => (float[N, 3, 5, 5] y) {
            w = Constant<value = float[1, 2, 1, 1] {1., 2.}>()
            c = Constant<value = float[3, 1, 1] {0.5, -1.5, 2.0}>() a = Conv(x, w) y = Mul(a, c) }""",
        "has 3 elements along axis 1, not 1",
    ),
)
