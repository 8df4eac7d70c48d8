"""A transpose of a transpose is one transpose, or none."""

from __future__ import annotations

from typing import Any

import onnx_ir as ir
from onnxscript.rewriter import MatchResult

from graphfuse.graph.dims import Dim, same_shape
from graphfuse.rules.eliminate_transpose import permutation
from graphfuse.rules.reshapes import RESHAPES, asks_for_ones, reshape_target
from graphfuse.rules.rule import Rule, for_ops, no, yes
from graphfuse.rules.values import dims, ints

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


# Transpose(Reshape(Transpose(x))) -> Reshape(Transpose(x)), when the reshape only adds and drops axes of size one
class TransposeOfReshape(Rule):
    """Which brings two transposes together."""

    exclusive = False

    def pattern(self, op: Any, x: Any) -> Any:
        moved = op.Transpose(x, _outputs=["inner"])
        middle = getattr(op, self.op_type)(moved, _allow_other_inputs=True, _outputs=["middle"])
        return op.Transpose(middle, _outputs=["y"])

    def check(self, context: Any, inner: ir.Value, middle: ir.Value, y: ir.Value, **_: Any) -> MatchResult:
        return yes() if _swapped(inner, middle, y) is not None else no()

    def rewrite(self, op: Any, inner: ir.Value, middle: ir.Value, y: ir.Value, **_: Any) -> ir.Value:
        found = _swapped(inner, middle, y)
        assert found is not None
        perm, target = found
        result: ir.Value = op.Reshape(op.Transpose(inner, perm=perm), ints(op, target, f"{y.name}.shape"))
        return result


def _swapped(inner: ir.Value, middle: ir.Value, y: ir.Value) -> tuple[list[int], list[int]] | None:
    """The axes by which to transpose first, and the constant to reshape to then."""
    node, before, after = y.producer(), dims(inner), dims(middle)
    assert node is not None
    perm = permutation(node)
    if perm is None or before is None or after is None or asks_for_ones(middle.producer()):
        return None
    source, result = _long(before), _long(after)
    if not same_shape([before[axis] for axis in source], [after[axis] for axis in result]):
        return None
    order = [source[result.index(axis)] for axis in perm if axis in result]
    ones = [axis for axis in range(len(before)) if axis not in source]
    places = iter(order)
    in_place = [next(places) if axis in source else axis for axis in range(len(before))]
    for first in (in_place, order + ones):
        target = reshape_target([before[axis] for axis in first], [after[axis] for axis in perm])
        if target is not None:
            return first, target
    return None


def _long(shape: tuple[Dim, ...]) -> list[int]:
    return [axis for axis, d in enumerate(shape) if not (isinstance(d, int) and d == 1)]


RULES = (SimplifyTranspose, *for_ops(TransposeOfReshape, *RESHAPES))

HITS = (
    """g (float[A, B, C] x) => (float[A, B, C] y) {
        a = Transpose<perm = [2, 0, 1]>(x) b = Transpose<perm = [1, 2, 0]>(a) y = Relu(b) }""",
    """g (float[A, B, C] x) => (float[B, A, C] y, float[C, A, B] z) {
        a = Transpose<perm = [2, 0, 1]>(x) y = Transpose<perm = [2, 1, 0]>(a) z = Relu(a) }""",
    """g (float[A, B, C] x) => (float[A, B, C, 1] y) {
        k = Constant<value = int64[1] {3}>() a = Transpose<perm = [0, 2, 1]>(x) b = Unsqueeze(a, k)
        y = Transpose<perm = [0, 2, 1, 3]>(b) }""",
    """g (float[A, 1, B, C] x) => (float[B, A, C] y) {
        k = Constant<value = int64[1] {0}>() a = Transpose<perm = [1, 3, 0, 2]>(x) b = Squeeze(a, k)
        y = Transpose<perm = [2, 1, 0]>(b) }""",
)
NEAR_MISSES = ()
