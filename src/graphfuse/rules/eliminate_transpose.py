"""Transpose goes where it moves nothing, and is a reshape where it only moves axes of size one."""

from __future__ import annotations

from typing import Any

import onnx_ir as ir
from onnxscript.rewriter import MatchResult

from graphfuse.rules.reshapes import target_of
from graphfuse.rules.rule import Rule, no, yes
from graphfuse.rules.values import dims, ints, rank

STAGE = "simplify"
ERROR_CLASS = "exact"
ORDER = 10


def permutation(node: ir.Node) -> tuple[int, ...] | None:
    """The axes of a Transpose: output axis -> input axis; None when the rank is unknown."""
    count = rank(node.inputs[0])
    given = node.attributes.get_ints("perm", None)
    if given is not None:
        return tuple(given)
    return None if count is None else tuple(reversed(range(count)))


# Transpose(x, perm = 0, 1, 2, ...) -> x
class EliminateTranspose(Rule):
    """The identity permutation."""

    keeps = ""
    fate = "removed"
    reason = "it moves no axis"

    def pattern(self, op: Any, x: Any) -> Any:
        return op.Transpose(x, _outputs=["y"])

    def check(self, context: Any, x: ir.Value, y: ir.Value, **_: Any) -> MatchResult:
        node = y.producer()
        assert node is not None
        perm = permutation(node)
        return yes() if perm is not None and perm == tuple(range(len(perm))) else no()

    def rewrite(self, op: Any, x: ir.Value, **_: Any) -> ir.Value:
        return x


# Transpose(x) -> Reshape(x), when the axes longer than one keep their order
class TransposeOfOnes(Rule):
    """The elements keep their order in memory, so that no data moves."""

    def pattern(self, op: Any, x: Any) -> Any:
        return op.Transpose(x, _outputs=["y"])

    def check(self, context: Any, x: ir.Value, y: ir.Value, **_: Any) -> MatchResult:
        node, shape = y.producer(), dims(x)
        assert node is not None
        perm = permutation(node)
        if perm is None or shape is None or len(shape) != len(perm):
            return no()
        long = [axis for axis in perm if not (isinstance(shape[axis], int) and shape[axis] == 1)]
        return yes() if long == sorted(long) and target_of(x, y) is not None else no()

    def rewrite(self, op: Any, x: ir.Value, y: ir.Value, **_: Any) -> ir.Value:
        target = target_of(x, y)
        assert target is not None
        result: ir.Value = op.Reshape(x, ints(op, target, f"{y.name}.shape"))
        return result


RULES = (EliminateTranspose, TransposeOfOnes)

HITS = (
    "g (float[N, 3, 4] x) => (float[N, 3, 4] y) { a = Relu(x) y = Transpose<perm = [0, 1, 2]>(a) }",
    "g (float[N, 3, 1, 1] x) => (float[N, 1, 1, 3] y) { y = Transpose<perm = [0, 2, 3, 1]>(x) }",
    "g (float[1, A, B] x) => (float[A, 1, B] y) { y = Transpose<perm = [1, 0, 2]>(x) }",
)
NEAR_MISSES = ()
