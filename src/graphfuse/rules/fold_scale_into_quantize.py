"""Scales behind an integer product and the one in front of quantisation are one factor: requantisation."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir
from onnxscript.rewriter import MatchResult

from graphfuse.rules.rule import Rule, no, yes
from graphfuse.rules.values import Array, array, input_of, name_of, producer

STAGE = "simplify"
ERROR_CLASS = "folded"
ORDER = 60

_INTEGERS = (ir.DataType.INT32,)


class FoldScale(Rule):
    """What the forms share. onnxruntime requantises by the same factor."""

    keeps = "y"
    reason = "its scale is part of the factor of the requantisation"
    commute = True

    def check(self, context: Any, x: ir.Value, c: ir.Value, s: ir.Value, y: ir.Value, **more: Any) -> MatchResult:
        cast = producer(x, "Cast")
        if cast is None or cast.inputs[0] is None or cast.inputs[0].dtype not in _INTEGERS:
            return no()
        bias, scale = more.get("b"), array(s)
        if array(c) is None or scale is None or (bias is not None and array(bias) is None):
            return no()
        if scale.size != 1 or float(scale.reshape(())) == 1.0 or scale.dtype != np.float32:
            return no()
        return yes()

    def quantized(self, op: Any, value: ir.Value, s: ir.Value, y: ir.Value) -> ir.Value:
        node = y.producer()
        assert node is not None
        one = _float(op, np.ones((), np.float32), name_of(s, "one"))
        zero = input_of(node, 2)
        operands = [value, one] if zero is None else [value, one, zero]
        result: ir.Value = op.QuantizeLinear(*operands, **dict(node.attributes))
        return result


# QuantizeLinear(Cast(i) * c, s, z) -> QuantizeLinear(Cast(i) * (c / s), 1, z)
class FoldFactor(FoldScale):
    """Without a bias."""

    def pattern(self, op: Any, x: Any, c: Any, s: Any) -> Any:
        return op.QuantizeLinear(op.Mul(x, c), s, _allow_other_inputs=True, _outputs=["y"])

    def rewrite(self, op: Any, x: ir.Value, c: ir.Value, s: ir.Value, y: ir.Value, **_: Any) -> ir.Value:
        return self.quantized(op, op.Mul(x, _divided(op, c, s)), s, y)


# QuantizeLinear(Cast(i) * c + b, s, z) -> QuantizeLinear(Cast(i) * (c / s) + b / s, 1, z)
class FoldFactorAndBias(FoldScale):
    """With a bias."""

    def pattern(self, op: Any, x: Any, c: Any, b: Any, s: Any) -> Any:
        return op.QuantizeLinear(op.Add(op.Mul(x, c), b), s, _allow_other_inputs=True, _outputs=["y"])

    def rewrite(self, op: Any, x: ir.Value, c: ir.Value, b: ir.Value, s: ir.Value, y: ir.Value, **_: Any) -> ir.Value:
        total = op.Add(op.Mul(x, _divided(op, c, s)), _divided(op, b, s))
        return self.quantized(op, total, s, y)


def _divided(op: Any, value: ir.Value, s: ir.Value) -> ir.Value:
    elements, scale = array(value), array(s)
    assert elements is not None
    assert scale is not None
    quotient = elements.astype(np.float64) / np.float64(scale.reshape(()))
    return _float(op, quotient.astype(np.float32), name_of(value, "folded"))


def _float(op: Any, elements: Array, name: str) -> ir.Value:
    value: ir.Value = op.initializer(ir.tensor(elements, name=name), name=name)
    return value


RULES = (FoldFactor, FoldFactorAndBias)

_CONSTANTS = "c = Constant<value = float[4] {0.5, 0.25, 2., 1.}>() s = Constant<value = float {0.5}>()"
HITS = (
    f"""g (int32[N, 4] i) => (uint8[N, 4] y) {{
        {_CONSTANTS} x = Cast<to = 1>(i) m = Mul(x, c) y = QuantizeLinear(m, s) }}""",
    f"""g (int32[N, 4] i) => (int8[N, 4] y) {{
        {_CONSTANTS} z = Constant<value = int8 {{3}}>() b = Constant<value = float[4] {{0.5, 1.5, -2., 7.}}>()
        x = Cast<to = 1>(i) m = Mul(c, x) a = Add(m, b) y = QuantizeLinear(a, s, z) }}""",
)
NEAR_MISSES = ()
