"""A reshape of a reshape is one reshape."""

from __future__ import annotations

import itertools
from typing import Any, ClassVar

import onnx_ir as ir
from onnxscript.rewriter import MatchResult

from graphfuse.graph.dims import product, same
from graphfuse.graph.origins import label
from graphfuse.rules.reshapes import RESHAPES, asks_for_ones, target_of
from graphfuse.rules.rule import Rule, no, yes
from graphfuse.rules.values import dims, ints

STAGE = "simplify"
ERROR_CLASS = "exact"
ORDER = 40


# Reshape(Reshape(x)) -> Reshape(x), the same with Flatten, Squeeze, Unsqueeze
class SimplifyReshape(Rule):
    """The elements keep their order in memory, only the last shape counts."""

    exclusive = False
    inner_type: ClassVar[str] = ""

    def pattern(self, op: Any, x: Any) -> Any:
        inner = getattr(op, self.inner_type)(x, _allow_other_inputs=True)
        return getattr(op, self.op_type)(inner, _allow_other_inputs=True, _outputs=["y"])

    def check(self, context: Any, x: ir.Value, y: ir.Value, **_: Any) -> MatchResult:
        outer = y.producer()
        assert outer is not None
        assert outer.inputs[0] is not None
        if asks_for_ones(outer) or asks_for_ones(outer.inputs[0].producer()):
            return no()
        before, after, target = dims(x), dims(y), target_of(x, y)
        if before is None or after is None:
            return no()
        if target is None:
            return no(f"{label(outer)} has more than one dimension that is neither known nor its input's", outer)
        if -1 in target and not same(product(before), product(after)):
            return no("that sizes fit is known only to the reshapes one by one", x)
        return yes()

    def rewrite(self, op: Any, x: ir.Value, y: ir.Value, **_: Any) -> ir.Value:
        target = target_of(x, y)
        assert target is not None
        result: ir.Value = op.Reshape(x, ints(op, target, f"{y.name}.shape"))
        return result


RULES = tuple(
    type(f"{outer}Of{inner}", (SimplifyReshape,), {"op_type": outer, "inner_type": inner})
    for outer, inner in itertools.product(RESHAPES, RESHAPES)
)

HITS = (
    """g (float[N, 3, 4] x) => (float[N, 12, 1] y) {
        k = Constant<value = int64[1] {2}>() a = Flatten(x) y = Unsqueeze(a, k) }""",
    """g (float[N, 3, 1] x) => (float[N, 3] y, float[N, 3, 1] z) {
        k = Constant<value = int64[1] {0}>() j = Constant<value = int64[2] {0, 3}>()
        a = Unsqueeze(x, k) y = Squeeze(a, j) b = Squeeze(a, k) z = Relu(b) }""",
)
NEAR_MISSES = (
    (
        """g (float[A, B, 4] x) => (float[P, Q, 1] y) {
            s = Constant<value = int64[3] {2, -1, 0}>() k = Constant<value = int64[1] {-1}>()
            t = Transpose<perm = [2, 1, 0]>(x) a = Flatten<axis = 2>(t) y = Unsqueeze(a, k) }""",
        "more than one dimension",
    ),
    (
        """g (float[A, 3, B] x) => (float[1, A, 3] y) {
            j = Constant<value = int64[1] {2}>() k = Constant<value = int64[1] {0}>()
            s = Squeeze(x, j) y = Unsqueeze(s, k) }""",
        "one by one",
    ),
)
