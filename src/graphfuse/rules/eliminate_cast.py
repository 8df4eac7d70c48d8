"""Cast goes where the element type stays."""

from __future__ import annotations

from typing import Any

import onnx_ir as ir
from onnxscript.rewriter import MatchResult

from graphfuse.rules.rule import Rule, for_ops, no, yes

STAGE = "simplify"
ERROR_CLASS = "exact"
ORDER = 10


# Cast(x, to = type of x) -> x
class EliminateCast(Rule):
    """CastLike as well."""

    keeps = ""
    fate = "removed"
    reason = "it leaves the element type as it is"

    def pattern(self, op: Any, x: Any) -> Any:
        return getattr(op, self.op_type)(x, _allow_other_inputs=True, _outputs=["y"])

    def check(self, context: Any, x: ir.Value, y: ir.Value, **_: Any) -> MatchResult:
        return yes() if x.dtype is not None and x.dtype == y.dtype else no()

    def rewrite(self, op: Any, x: ir.Value, **_: Any) -> ir.Value:
        return x


RULES = for_ops(EliminateCast, "Cast", "CastLike")

HITS = (
    "g (float[N, 3] x) => (float[N, 3] y) { a = Cast<to = 1>(x) y = Relu(a) }",
    "g (float[N, 3] x, float z) => (float[N, 3] y) { a = CastLike(x, z) y = Relu(a) }",
)
NEAR_MISSES = ()
