"""Reshapes whose target is a constant also where dimensions are symbolic."""

from __future__ import annotations

from collections.abc import Sequence

import onnx_ir as ir

from graphfuse.graph.dims import Dim
from graphfuse.rules.values import dims, same_dim

# Ops that only regroup the dimensions: the elements keep their order in memory.
RESHAPES = ("Reshape", "Flatten", "Squeeze", "Unsqueeze")


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
