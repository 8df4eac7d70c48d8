"""Reshapes whose target is a constant also where dimensions are symbolic."""

from __future__ import annotations

from collections.abc import Sequence

import onnx_ir as ir

from graphfuse.graph.dims import Dim
from graphfuse.rules.values import dims, same_dim

# Ops that only regroup the dimensions: the elements keep their order in memory.
RESHAPES = ("Reshape", "Flatten", "Squeeze", "Unsqueeze")


def asks_for_ones(node: ir.Node | None) -> bool:
    """Whether a node is a Squeeze without axes, right only as long as no unknown size is 1: it stays to see to that."""
    if node is None or node.op_type != "Squeeze" or (len(node.inputs) > 1 and node.inputs[1] is not None):
        return False
    shape = dims(node.inputs[0])
    return shape is None or not all(isinstance(d, int) for d in shape)


def reshape_target(source: Sequence[Dim], target: Sequence[Dim]) -> list[int] | None:
    """The constant that makes Reshape turn one shape into the other for every value of the symbols.

    A dimension equal to the source's at the same place is spelled 0, one other unknown is spelled -1; None when more
    than one would be unknown.
    """
    spelled: list[int] = []
    for axis, d in enumerate(target):
        if isinstance(d, int):
            if d == 0:
                return None  # 0 means "as in the source"
            spelled.append(d)
        elif axis < len(source) and same_dim(source[axis], d):
            spelled.append(0)
        else:
            spelled.append(-1)
    return spelled if spelled.count(-1) <= 1 else None


def target_of(source: ir.Value | None, result: ir.Value | None) -> list[int] | None:
    """As `reshape_target`, for two values; None also when a shape is unknown."""
    before, after = dims(source), dims(result)
    return None if before is None or after is None else reshape_target(before, after)
