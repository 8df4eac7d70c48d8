"""A scale on an operand of a matrix product moves behind it, where it is computed on the accumulators."""

from __future__ import annotations

from typing import Any

import onnx_ir as ir
from onnxscript.rewriter import MatchResult

from graphfuse.rules.rule import Rule, no, yes
from graphfuse.rules.values import array, is_floating, keeps_shape, scalar

STAGE = "recognize"  # after scales that belong to weights are in them
ERROR_CLASS = "reassociated"
ORDER = 95

# Beyond this a scale may be what keeps the sums inside the range of their type.
_LARGEST = 2.0**10
# Products of fewer terms would be scaled as often as they are added to.
_LEAST_TERMS = 8


class ScaledMatMul(Rule):
    """What both sides share. Attention is spelled so: (q * a) (k * b), transposed or not, with a b = 1 / sqrt(d)."""

    reason = "scaled behind the product"

    def check(self, context: Any, x: ir.Value, other: ir.Value, c: ir.Value, scaled: ir.Value) -> MatchResult:
        factor = scalar(c)
        if factor is None or not is_floating(x) or array(x) is not None or array(other) is not None:
            return no()
        if x.shape is None or len(x.shape) < 2 or not keeps_shape(x, scaled):
            return no()
        if not 1 / _LARGEST <= abs(factor) <= _LARGEST:
            return no(f"a scale of {factor:g} may keep the sums in range", c)
        terms = x.shape[self.axis()]
        if isinstance(terms, int) and terms < _LEAST_TERMS:
            return no(f"only {terms} terms are added up", x)
        return yes()

    def axis(self) -> int:
        """The axis of the scaled operand that is summed over."""
        raise NotImplementedError


# (x * c) @ y -> (x @ y) * c
class ScaledLeft(ScaledMatMul):
    """The first operand is scaled."""

    def pattern(self, op: Any, x: Any, other: Any, c: Any) -> Any:
        return op.MatMul(op.Mul(x, c, _outputs=["scaled"]), other)

    def rewrite(self, op: Any, x: ir.Value, other: ir.Value, c: ir.Value, **_: Any) -> ir.Value:
        result: ir.Value = op.Mul(op.MatMul(x, other), c)
        return result

    def axis(self) -> int:
        return -1


# x @ (y * c) -> (x @ y) * c
class ScaledRight(ScaledMatMul):
    """The second operand is scaled."""

    def pattern(self, op: Any, x: Any, other: Any, c: Any) -> Any:
        return op.MatMul(other, op.Mul(x, c, _outputs=["scaled"]))

    def rewrite(self, op: Any, x: ir.Value, other: ir.Value, c: ir.Value, **_: Any) -> ir.Value:
        result: ir.Value = op.Mul(op.MatMul(other, x), c)
        return result

    def axis(self) -> int:
        return -2


RULES = (ScaledLeft, ScaledRight)

_C = "c = Constant<value = float {0.25}>()"
HITS = (
    f"g (float[N, 5, 16] x, float[N, 16, 7] z) => (float[N, 5, 7] y) {{ {_C} s = Mul(x, c) y = MatMul(s, z) }}",
    f"g (float[N, 5, 16] x, float[N, 16, 7] z) => (float[N, 5, 7] y) {{ {_C} s = Mul(c, z) y = MatMul(x, s) }}",
    f"""g (float[N, 5, 16] x, float[N, 16, 7] z) => (float[N, 5, 7] y)
        {{ {_C} s = Mul(x, c) t = Mul(z, c) y = MatMul(s, t) }}""",
)
NEAR_MISSES = (
    (
        """g (float[N, 5, 16] x, float[N, 16, 7] z) => (float[N, 5, 7] y)
           { c = Constant<value = float {1e-20}>() s = Mul(x, c) y = MatMul(s, z) }""",
        "may keep the sums in range",
    ),
    (
        f"g (float[N, 5, 4] x, float[N, 4, 7] z) => (float[N, 5, 7] y) {{ {_C} s = Mul(x, c) y = MatMul(s, z) }}",
        "only 4 terms",
    ),
    (
        f"""g (float[N, 5, 16] x, float[N, 16, 7] z) => (float[N, 5, 7] y, float[N, 5, 16] s)
            {{ {_C} s = Mul(x, c) y = MatMul(s, z) }}""",
        "also an output",
    ),
)
