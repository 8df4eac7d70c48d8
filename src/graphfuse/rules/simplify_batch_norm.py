"""A batch norm that nothing before it can take becomes a multiplication and an addition for each channel."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir
from onnxscript.rewriter import MatchResult

from graphfuse.graph.origins import label
from graphfuse.rules.fold_batch_norm import scale_and_shift
from graphfuse.rules.rule import Rule, no, yes
from graphfuse.rules.values import constant, overflows, rank

STAGE = "simplify"
ERROR_CLASS = "folded"
ORDER = 30


# BatchNormalization(x) -> x * scale + shift
class SimplifyBatchNorm(Rule):
    """Pointwise, so that it joins whatever is before or after it."""

    def pattern(self, op: Any, x: Any, gamma: Any, beta: Any, mean: Any, variance: Any) -> Any:
        return op.BatchNormalization(x, gamma, beta, mean, variance, _outputs=["y"])

    def check(self, context: Any, x: ir.Value, y: ir.Value, **_: Any) -> MatchResult:
        node = y.producer()
        assert node is not None
        affine = scale_and_shift(node)
        if isinstance(affine, MatchResult):
            return affine
        if rank(x) is None or x.dtype is None:
            return no(f"the rank of {x.name} is unknown", x)
        if any(overflows(elements, x) for elements in affine):
            return no(f"scale and shift of {label(node)} leave the range of {x.dtype}", node)
        return yes()

    def rewrite(self, op: Any, x: ir.Value, y: ir.Value, **_: Any) -> ir.Value:
        node, count = y.producer(), rank(x)
        assert node is not None
        assert count is not None
        affine = scale_and_shift(node)
        assert isinstance(affine, tuple)
        shape = (-1, *[1] * max(0, count - 2))
        scale = constant(op, np.reshape(affine[0], shape), x, f"{label(node)}.scale")
        shift = constant(op, np.reshape(affine[1], shape), x, f"{label(node)}.shift")
        result: ir.Value = op.Add(op.Mul(x, scale), shift)
        return result


RULES = (SimplifyBatchNorm,)

_PARAMETERS = """
    g = Constant<value = float[3] {1.5, 0.5, -2.0}>()
    b = Constant<value = float[3] {0.1, -0.2, 0.3}>()
    m = Constant<value = float[3] {0.5, 0.25, -1.0}>()
    v = Constant<value = float[3] {1.0, 0.5, 2.0}>()
"""
HITS = (
    f"g (float[N, 3, 5, 5] x) => (float[N, 3, 5, 5] y) {{ {_PARAMETERS} y = BatchNormalization(x, g, b, m, v) }}",
    f"g (float[N, 3] x) => (float[N, 3] y) {{ {_PARAMETERS} r = Relu(x) y = BatchNormalization(r, g, b, m, v) }}",
)
NEAR_MISSES = (
    (
        """g (float[N, 3, 5, 5] x, float[3] g) => (float[N, 3, 5, 5] y) {
            m = Constant<value = float[3] {0.5, 0.25, -1.0}>()
            v = Constant<value = float[3] {1.0, 0.5, 2.0}>()
            y = BatchNormalization(x, g, g, m, v) }""",
        "computed at run time",
    ),
    (
        f"""g (float[2, 3, 5, 5] x) => (float[2, 3, 5, 5] y) {{
            {_PARAMETERS} y, m2, v2 = BatchNormalization<training_mode = 1>(x, g, b, m, v) }}""",
        "training mode",
    ),
)
