"""Gemm in one form: x W + b with constant W and b, nothing transposed, nothing scaled; else MatMul and Add."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir
from onnxscript.rewriter import MatchResult

from graphfuse.rules.contraction import is_plain_gemm
from graphfuse.rules.rule import Rule, no, yes
from graphfuse.rules.values import Array, array, constant, exact, input_of, name_of

STAGE = "simplify"
ERROR_CLASS = "exact"
ORDER = 12


# alpha * A' B' + beta * C -> Gemm(A', B', beta * C), with alpha = 1
# alpha * A' B' + beta * C -> MatMul(A', B') * alpha + C * beta
class SimplifyGemm(Rule):
    """What is constant is transposed and scaled at compile time; what is not gets nodes of its own.

    A power of two goes into the weights whatever they are; another alpha rounds them, which is for fold_affine to do.
    """

    def pattern(self, op: Any, a: Any, b: Any) -> Any:
        return op.Gemm(a, b, _allow_other_inputs=True, _outputs=["y"])

    def check(self, context: Any, a: ir.Value, y: ir.Value, **_: Any) -> MatchResult:
        node = y.producer()
        assert node is not None
        floating = a.dtype is not None and a.dtype.is_floating_point()
        return no() if is_plain_gemm(node) or not floating else yes()

    def rewrite(self, op: Any, a: ir.Value, b: ir.Value, y: ir.Value, **_: Any) -> ir.Value:
        node = y.producer()
        assert node is not None
        attributes, bias = node.attributes, input_of(node, 2)
        alpha, beta = (float(np.float32(attributes.get_float(name, 1.0))) for name in ("alpha", "beta"))
        x = op.Transpose(a, perm=[1, 0]) if attributes.get_int("transA", 0) else a
        transposed = bool(attributes.get_int("transB", 0))
        if array(b) is not None:
            weight = exact(b).T if transposed else exact(b)
            inside = alpha if abs(np.frexp(alpha)[0]) == 0.5 else 1.0
            w = constant(op, np.ascontiguousarray(weight) * inside, a, name_of(b, "folded"))
            alpha /= inside
            row = _row(bias, weight.shape[1])
            if alpha == 1.0 and (bias is None or row is not None):
                operands = [x, w] if row is None else [x, w, constant(op, row * beta, a, f"{y.name}.bias")]
                plain: ir.Value = op.Gemm(*operands)
                return plain
        else:
            w = op.Transpose(b, perm=[1, 0]) if transposed else b
        product: ir.Value = op.MatMul(x, w)
        if alpha != 1.0:
            product = op.Mul(product, constant(op, np.array(alpha), a, f"{y.name}.alpha"))
        if bias is None:
            return product
        if beta != 1.0 and array(bias) is not None:
            bias = constant(op, exact(bias) * beta, a, name_of(bias, "folded"))
        elif beta != 1.0:
            bias = op.Mul(bias, constant(op, np.array(beta), a, f"{y.name}.beta"))
        total: ir.Value = op.Add(product, bias)
        return total


def _row(bias: ir.Value | None, columns: int) -> Array | None:
    """A constant bias as one number for each column; None when it is computed or differs from row to row."""
    if bias is None or array(bias) is None:
        return None
    elements = exact(bias)
    if elements.size != 1 and elements.shape not in ((columns,), (1, columns)):
        return None
    return np.ascontiguousarray(np.broadcast_to(elements.reshape(-1), (columns,)))


RULES = (SimplifyGemm,)

_W = "w = Constant<value = float[2, 3] {1., 2., 3., 4., 5., 6.}>()"
_HEAD = "g (float[N, 3] x) => (float[N, 2] y)"
HITS = (
    f"{_HEAD} {{ {_W} b = Constant<value = float[2] {{0.5, -1.}}>() y = Gemm<transB = 1>(x, w, b) }}",
    f"""{_HEAD} {{ {_W} b = Constant<value = float {{0.5}}>()
        y = Gemm<transB = 1, alpha = 0.5, beta = 2.0>(x, w, b) }}""",
    f"""{_HEAD} {{ {_W} b = Constant<value = float[1, 2] {{0.5, 3.0}}>()
        y = Gemm<transB = 1, alpha = 0.7, beta = 0.3>(x, w, b) }}""",
    """g (float[3, N] x) => (float[N, 2] y) {
        w = Constant<value = float[3, 2] {1., 2., 3., 4., 5., 6.}>() y = Gemm<transA = 1>(x, w) }""",
    """g (float[N, 3] x, float[2, 3] w, float[2] b) => (float[N, 2] y) {
        y = Gemm<transB = 1, alpha = 3.0, beta = 0.5>(x, w, b) }""",
    f"""g (float[2, 3] x) => (float[2, 2] y) {{ {_W} b = Constant<value = float[2, 1] {{0.5, -1.}}>()
        y = Gemm<transB = 1, beta = 3.0>(x, w, b) }}""",
)
NEAR_MISSES = ()
