"""Softmax spelled with exp and a sum, with the maximum taken off first or not."""

from __future__ import annotations

from typing import Any

import onnx_ir as ir
from onnxscript.rewriter import MatchResult

from graphfuse.graph.origins import label
from graphfuse.rules.algebra import product_of, reduction
from graphfuse.rules.rule import Recognition, for_ops, no, yes
from graphfuse.rules.values import keeps_shape, producer

STAGE = "recognize"
ERROR_CLASS = "reassociated"


# exp(x - max(x)) / sum(exp(x - max(x))) -> Softmax(x)
# exp(x) / sum(exp(x)) -> Softmax(x)
class RecognizeSoftmax(Recognition):
    """Over one axis."""

    def pattern(self, op: Any, a: Any, b: Any) -> Any:
        return getattr(op, self.op_type)(a, b, _outputs=["y"])

    def check(self, context: Any, y: ir.Value, **_: Any) -> MatchResult:
        found = _read(y)
        return found if isinstance(found, MatchResult) else yes()

    def rewrite(self, op: Any, y: ir.Value, **_: Any) -> ir.Value:
        found = _read(y)
        assert isinstance(found, tuple)
        result: ir.Value = op.Softmax(found[0], axis=found[1])
        return result


def _read(y: ir.Value) -> tuple[ir.Value, int] | MatchResult:
    product = product_of(y)
    top, bottom = product.value_with(1.0), product.value_with(-1.0)
    if top is None or bottom is None or len(product.powers) != 2 or product.coefficient != 1 or product.constants:
        return no()
    exponential, total = producer(top, "Exp"), reduction(bottom, "ReduceSum")
    if exponential is None or total is None or total[0] is not top:
        return no()
    if len(total[1]) != 1:
        return no(f"{label(exponential)} is summed over {len(total[1])} axes", bottom)
    x = exponential.inputs[0]
    difference = producer(x, "Sub")
    largest = reduction(difference.inputs[1], "ReduceMax") if difference is not None else None
    if difference is not None and largest is not None and largest[0] is difference.inputs[0] and largest[1] == total[1]:
        x = largest[0]
    if x is None or not keeps_shape(x, y):
        return no()
    return x, total[1][0]


RULES = for_ops(RecognizeSoftmax, "Mul", "Div")

_AXIS = "k = Constant<value = int64[1] {1}>()"
_HEAD = "g (float[N, 5, 4] x) => (float[N, 5, 4] y)"
HITS = (
    f"{_HEAD} {{ {_AXIS} m = ReduceMax(x, k) d = Sub(x, m) e = Exp(d) s = ReduceSum(e, k) y = Div(e, s) }}",
    f"{_HEAD} {{ {_AXIS} e = Exp(x) s = ReduceSum(e, k) i = Reciprocal(s) y = Mul(i, e) }}",
)
NEAR_MISSES = (
    (
        f"""{_HEAD} {{ k = Constant<value = int64[2] {{1, 2}}>() m = ReduceMax(x, k) d = Sub(x, m) e = Exp(d)
            s = ReduceSum(e, k) y = Div(e, s) }}""",
        "summed over 2 axes",
    ),
)
