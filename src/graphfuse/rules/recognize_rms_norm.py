"""RMS norm: x divided by the root of its mean square."""

from __future__ import annotations

from typing import Any

import onnx_ir as ir
from onnxscript.rewriter import MatchResult

from graphfuse.rules.algebra import constant_term, mean_of, product_of, square_of
from graphfuse.rules.recognize_layer_norm import can_be_one_op, normalized, scale_of
from graphfuse.rules.rule import Recognition, for_ops, no, yes
from graphfuse.rules.values import Array, keeps_shape

STAGE = "recognize"
ERROR_CLASS = "reassociated"
ORDER = 46


# x / sqrt(mean(x^2) + epsilon) -> RMSNormalization(x)
class RecognizeRmsNorm(Recognition):
    """The scale that follows is absorbed as that of a layer norm is."""

    def pattern(self, op: Any, a: Any, b: Any) -> Any:
        return getattr(op, self.op_type)(a, b, _outputs=["y"])

    def check(self, context: Any, y: ir.Value, **_: Any) -> MatchResult:
        found = _read(y)
        return found if isinstance(found, MatchResult) else yes()

    def rewrite(self, op: Any, y: ir.Value, **_: Any) -> ir.Value:
        found = _read(y)
        assert not isinstance(found, MatchResult)
        return normalized(op, "RMSNormalization", *found, y)


def _read(y: ir.Value) -> tuple[ir.Value, tuple[int, ...], float, Array | None] | MatchResult:
    product = product_of(y)
    x, root = product.value_with(1.0), product.value_with(-0.5)
    if x is None or root is None or len(product.powers) != 2 or product.coefficient != 1.0:
        return no()
    shifted = constant_term(root)
    mean = mean_of(shifted[0]) if shifted is not None else None
    if shifted is None or mean is None or square_of(mean[0]) is not x:
        return no()
    fit = can_be_one_op(x, mean[1])
    if not fit:
        return fit
    scale = scale_of(product.constants, x, mean[1])
    if isinstance(scale, MatchResult):
        return scale
    return (x, mean[1], shifted[1], scale) if keeps_shape(x, y) else no()


RULES = for_ops(RecognizeRmsNorm, "Mul", "Div")

_CONSTANTS = """
    two = Constant<value = float {2.0}>() eps = Constant<value = float {0.00001}>()
    k = Constant<value = int64[1] {-1}>()
    g = Constant<value = float[4] {1.0, 2.0, -1.0, 0.5}>()
"""
_HEAD = "g (float[N, H, 4] x) => (float[N, H, 4] y)"
HITS = (
    f"""{_HEAD} {{ {_CONSTANTS} q = Pow(x, two) m = ReduceMean(q, k) e = Add(m, eps) r = Sqrt(e) i = Reciprocal(r)
        n = Mul(x, i) y = Mul(g, n) }}""",
    f"{_HEAD} {{ {_CONSTANTS} q = Mul(x, x) m = ReduceMean(q, k) e = Add(m, eps) r = Sqrt(e) y = Div(x, r) }}",
)
NEAR_MISSES = (
    (
        f"""g (float[N, H, W] x) => (float[N, H, W] y) {{ {_CONSTANTS}
            q = Mul(x, x) m = ReduceMean(q, k) e = Add(m, eps) r = Sqrt(e) y = Div(x, r) }}""",
        "known only at run time",
    ),
)
