"""Hard sigmoid spelled with clip: the clipped line."""

from __future__ import annotations

from typing import Any

import onnx_ir as ir
from onnxscript.rewriter import MatchResult

from graphfuse.rules.algebra import polynomial_of
from graphfuse.rules.rule import Rule, no, yes
from graphfuse.rules.values import input_of, is_floating, keeps_shape, producer, scalar

STAGE = "recognize"
ERROR_CLASS = "reassociated"
ORDER = 40


def clipped_line(value: ir.Value) -> tuple[ir.Value, float, float, float] | None:
    """x, slope, offset and top when the value is Clip(slope * x + offset, 0, top) with slope and top positive."""
    clip = producer(value, "Clip")
    low, high = (input_of(clip, 1), input_of(clip, 2)) if clip is not None else (None, None)
    top = scalar(high)
    if clip is None or scalar(low) != 0 or top is None or top <= 0:
        return None
    line = clip.inputs[0]
    x = _variable(line)
    if x is None or line is None:
        return None
    found = polynomial_of(line, x)
    if found is None or set(found) - {0, 1} or found.get(1, 0) <= 0:
        return None
    return x, found[1], found.get(0, 0.0), top


def _variable(value: ir.Value | None) -> ir.Value | None:
    """What is left of a value when additions of and multiplications with scalars are taken off."""
    for _ in range(4):
        node = producer(value, "Add", "Sub", "Mul", "Div")
        if node is None or scalar(value) is not None:
            break
        others = [v for v in node.inputs if scalar(v) is None]
        if len(others) != 1 or (node.op_type == "Div" and others[0] is not node.inputs[0]):
            break
        value = others[0]
    return value


class RecognizeHardSigmoid(Rule):
    """What the spellings share."""

    exclusive = False
    absorbs = True

    def line(self, y: ir.Value) -> tuple[ir.Value, float, float] | None:
        """x, alpha and beta when y is Clip(alpha * x + beta, 0, 1)."""
        raise NotImplementedError

    def check(self, context: Any, y: ir.Value, **_: Any) -> MatchResult:
        found = self.line(y)
        if found is None:
            return no()
        x, alpha, beta = found
        if (alpha, beta) == (1.0, 0.0):
            return no()  # a plain clip
        return yes() if keeps_shape(x, y) and is_floating(x) else no()

    def rewrite(self, op: Any, y: ir.Value, **_: Any) -> ir.Value:
        found = self.line(y)
        assert found is not None
        result: ir.Value = op.HardSigmoid(found[0], alpha=found[1], beta=found[2])
        return result


# Clip(alpha * x + beta, 0, 1) -> HardSigmoid(x, alpha, beta)
class AsClip(RecognizeHardSigmoid):
    """The line is scaled before it is clipped."""

    def pattern(self, op: Any, u: Any) -> Any:
        return op.Clip(u, _allow_other_inputs=True, _outputs=["y"])

    def line(self, y: ir.Value) -> tuple[ir.Value, float, float] | None:
        found = clipped_line(y)
        return found[:3] if found is not None and found[3] == 1.0 else None


class _Scaled(RecognizeHardSigmoid):
    def line(self, y: ir.Value) -> tuple[ir.Value, float, float] | None:
        node = y.producer()
        assert node is not None
        for value, factor in ((node.inputs[0], node.inputs[1]), (node.inputs[1], node.inputs[0])):
            number = scalar(factor)
            upside_down = node.op_type == "Div" and value is not node.inputs[0]
            if number is None or number == 0 or value is None or upside_down:
                continue
            scale = 1.0 / number if node.op_type == "Div" else number
            found = clipped_line(value)
            if found is not None and abs(found[3] * scale - 1) < 1e-6:
                return found[0], found[1] * scale, found[2] * scale
        return None


# Clip(x + 3, 0, 6) / 6 -> HardSigmoid(x, 1 / 6, 1 / 2)
class AsQuotient(_Scaled):
    """The line is scaled after it is clipped."""

    def pattern(self, op: Any, u: Any, c: Any) -> Any:
        return op.Div(op.Clip(u, _allow_other_inputs=True), c, _outputs=["y"])


# Clip(x + 3, 0, 6) * (1 / 6) -> HardSigmoid(x, 1 / 6, 1 / 2)
class AsProduct(_Scaled):
    """The same with a multiplication."""

    def pattern(self, op: Any, u: Any, c: Any) -> Any:
        return op.Mul(op.Clip(u, _allow_other_inputs=True), c, _outputs=["y"])


RULES = (AsClip, AsQuotient, AsProduct)

_HEAD = "g (float[N, 3] x) => (float[N, 3] y)"
_CONSTANTS = """
    zero = Constant<value = float {0.0}>() one = Constant<value = float {1.0}>() six = Constant<value = float {6.0}>()
    three = Constant<value = float {3.0}>() a = Constant<value = float {0.2}>() b = Constant<value = float {0.5}>()
    sixth = Constant<value = float {0.16666667}>()
"""
HITS = (
    f"{_HEAD} {{ {_CONSTANTS} u = Mul(x, a) v = Add(u, b) y = Clip(v, zero, one) }}",
    f"{_HEAD} {{ {_CONSTANTS} v = Add(three, x) c = Clip(v, zero, six) y = Div(c, six) }}",
    f"{_HEAD} {{ {_CONSTANTS} v = Add(x, three) c = Clip(v, zero, six) y = Mul(sixth, c) }}",
)
NEAR_MISSES = ()
