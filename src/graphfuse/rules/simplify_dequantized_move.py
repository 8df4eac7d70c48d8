"""What only moves elements moves bytes, and dequantisation comes behind it: closer to the product that takes bytes."""

from __future__ import annotations

from typing import Any

import onnx_ir as ir
from onnxscript.rewriter import MatchResult

from graphfuse.rules.rule import Rule, for_ops, no, yes
from graphfuse.rules.values import array, input_of

STAGE = "simplify"
ERROR_CLASS = "exact"
ORDER = 10  # ahead of recognize_integer_product


# Transpose(DequantizeLinear(x, s, z)) -> DequantizeLinear(Transpose(x), s, z), and other moves
class SimplifyDequantizedMove(Rule):
    """For one scale, whatever its zero point."""

    exclusive = False
    commute = False

    def pattern(self, op: Any, x: Any, s: Any) -> Any:
        inner = op.DequantizeLinear(x, s, _allow_other_inputs=True, _outputs=["d"])
        return getattr(op, self.op_type)(inner, _allow_other_inputs=True, _outputs=["y"])

    def check(self, context: Any, x: ir.Value, s: ir.Value, d: ir.Value, **_: Any) -> MatchResult:
        scale = array(s)
        if scale is None or scale.size != 1 or array(x) is not None:
            return no()
        # A value that others read as floats would be computed twice.
        return yes() if len(d.uses()) == 1 and not d.is_graph_output() else no()

    def rewrite(self, op: Any, x: ir.Value, s: ir.Value, d: ir.Value, y: ir.Value, **_: Any) -> ir.Value:
        inner, outer = d.producer(), y.producer()
        assert inner is not None
        assert outer is not None
        zero = input_of(inner, 2)
        moved = op.op(self.op_type, x, *outer.inputs[1:], **dict(outer.attributes))
        scales = [s] if zero is None else [s, zero]
        attributes = {name: a for name, a in inner.attributes.items() if name not in ("axis", "block_size")}
        result: ir.Value = op.DequantizeLinear(moved, *scales, **attributes)
        return result


RULES = for_ops(SimplifyDequantizedMove, "Transpose", "Reshape", "Flatten", "Squeeze", "Unsqueeze")

_SCALE = "s = Constant<value = float {0.05}>() z = Constant<value = uint8 {7}>()"
HITS = (
    f"""g (uint8[N, 3, 4] q) => (float[N, 4, 3] y) {{
        {_SCALE} d = DequantizeLinear(q, s, z) y = Transpose<perm = [0, 2, 1]>(d) }}""",
    f"""g (uint8[2, 3, 4] q) => (float[4, 6] y) {{
        {_SCALE} n = Constant<value = int64[2] {{6, 4}}>() d = DequantizeLinear(q, s) r = Reshape(d, n)
        y = Transpose(r) }}""",
)
NEAR_MISSES = ()
