"""Small powers as multiplications and roots."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir
from onnxscript.rewriter import MatchResult

from graphfuse.rules.rule import Rule, no, yes
from graphfuse.rules.values import constant, keeps_shape, name_of, scalar

STAGE = "simplify"
ERROR_CLASS = "exact"
ORDER = 12


# x ** 2 -> x * x, x ** 0.5 -> Sqrt(x), x ** -1 -> Reciprocal(x)
class SimplifyPow(Rule):
    """Roots of negative numbers and of -inf: Pow(-inf, 0.5) is inf where Sqrt gives NaN, no model means it."""

    def pattern(self, op: Any, x: Any, c: Any) -> Any:
        return op.Pow(x, c, _outputs=["y"])

    def check(self, context: Any, x: ir.Value, c: ir.Value, y: ir.Value, **_: Any) -> MatchResult:
        floating = x.dtype is not None and x.dtype.is_floating_point()
        return yes() if floating and scalar(c) in (2.0, 0.5, -1.0) and keeps_shape(x, y) else no()

    def rewrite(self, op: Any, x: ir.Value, c: ir.Value, **_: Any) -> ir.Value:
        power = scalar(c)
        result: ir.Value = op.Mul(x, x) if power == 2.0 else op.Sqrt(x) if power == 0.5 else op.Reciprocal(x)
        return result


# x / 2^k -> x * 2^-k
class SimplifyDiv(Rule):
    """Only where the inverse is exact."""

    def pattern(self, op: Any, x: Any, c: Any) -> Any:
        return op.Div(x, c, _outputs=["y"])

    def check(self, context: Any, x: ir.Value, c: ir.Value, y: ir.Value, **_: Any) -> MatchResult:
        floating = x.dtype is not None and x.dtype.is_floating_point()
        divisor = scalar(c)
        if not floating or divisor is None or divisor == 0 or not np.isfinite(divisor):
            return no()
        mantissa, exponent = np.frexp(divisor)
        return yes() if abs(mantissa) == 0.5 and abs(int(exponent)) < 14 else no()

    def rewrite(self, op: Any, x: ir.Value, c: ir.Value, **_: Any) -> ir.Value:
        divisor, tensor = scalar(c), c.const_value
        assert divisor is not None
        assert tensor is not None
        inverse = np.full(tensor.shape.numpy(), 1.0 / divisor)
        result: ir.Value = op.Mul(x, constant(op, inverse, x, name_of(c, "inverse")))
        return result


RULES = (SimplifyPow, SimplifyDiv)

HITS = (
    "g (float[N, 3] x) => (float[N, 3] y) { c = Constant<value = float[1] {2.0}>() y = Pow(x, c) }",
    "g (float[N, 3] x) => (float[N, 3] y) { c = Constant<value = float {0.5}>() a = Abs(x) y = Pow(a, c) }",
    "g (float[N, 3] x) => (float[N, 3] y) { c = Constant<value = float {-1.0}>() y = Pow(x, c) }",
    "g (float[N, 3] x) => (float[N, 3] y) { c = Constant<value = float {-8.0}>() y = Div(x, c) }",
)
NEAR_MISSES = ()
