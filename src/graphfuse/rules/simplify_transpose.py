"""A transpose of a transpose is one transpose, or none."""

from __future__ import annotations

from typing import Any

import onnx_ir as ir
from onnxscript.rewriter import MatchResult

from graphfuse.rules.eliminate_transpose import permutation
from graphfuse.rules.rule import Rule, no, yes

STAGE = "simplify"
ERROR_CLASS = "exact"
ORDER = 40


# Transpose(Transpose(x, p), q) -> Transpose(x, p[q])
class SimplifyTranspose(Rule):
    """Goes altogether when the two undo each other."""

    fate = "removed"
    reason = "two transposes undo each other"
    exclusive = False

    def pattern(self, op: Any, x: Any) -> Any:
        return op.Transpose(op.Transpose(x, _outputs=["inner"]), _outputs=["y"])

    def check(self, context: Any, inner: ir.Value, y: ir.Value, **_: Any) -> MatchResult:
        return yes() if _composed(inner, y) is not None else no()

    def rewrite(self, op: Any, x: ir.Value, inner: ir.Value, y: ir.Value, **_: Any) -> ir.Value:
        perm = _composed(inner, y)
        assert perm is not None
        result: ir.Value = x if perm == sorted(perm) else op.Transpose(x, perm=perm)
        return result


def _composed(inner: ir.Value, y: ir.Value) -> list[int] | None:
    first, second = inner.producer(), y.producer()
    assert first is not None
    assert second is not None
    p, q = permutation(first), permutation(second)
    return None if p is None or q is None else [p[axis] for axis in q]


RULES = (SimplifyTranspose,)

HITS = (
    """g (float[A, B, C] x) => (float[A, B, C] y) {
        a = Transpose<perm = [2, 0, 1]>(x) b = Transpose<perm = [1, 2, 0]>(a) y = Relu(b) }""",
    """g (float[A, B, C] x) => (float[B, A, C] y, float[C, A, B] z) {
        a = Transpose<perm = [2, 0, 1]>(x) y = Transpose<perm = [2, 1, 0]>(a) z = Relu(a) }""",
)
NEAR_MISSES = ()
