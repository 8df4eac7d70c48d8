"""Sums over images behind a depthwise convolution, as squeeze-and-excitation begins with one, in two steps: over each
line, whose elements its kernel has at hand, then over the lines.
"""

from __future__ import annotations

from graphfuse.graph.dtypes import is_float
from graphfuse.ops.tensor import Contract, Map, Reduce, Tensor

_SPACE = (2, 3)
_LINE = (3,)


def split_sum(t: Tensor) -> Tensor | None:
    """Make a sum over images one over lines.

    Returns the sums of each line, which it now reads; None where it is no such sum and stays as it is.
    """
    if not isinstance(t.prim, Reduce) or t.prim.kind != "sum" or t.prim.axes != _SPACE or not is_float(t.dtype):
        return None
    [source] = t.prim.args
    if source.rank != 4 or 1 in source.shape[2:] or not _is_of_depthwise(source):
        return None
    lines = Tensor((*source.shape[:3], 1), t.dtype, Reduce((source,), "sum", _LINE))
    t.prim = Reduce((lines,), "sum", _SPACE[:1])
    return lines


def is_line_sum(t: Tensor, contraction: Tensor) -> bool:
    """Whether a tensor sums up each line of what is computed on the accumulators of a contraction that can do that."""
    is_sum = isinstance(t.prim, Reduce) and t.prim.kind == "sum" and t.prim.axes == _LINE and is_float(t.dtype)
    return is_sum and t.rank == 4 and t.args[0].shape[3] != 1 and is_depthwise(contraction)


def is_depthwise(t: Tensor) -> bool:
    """Whether every channel of a convolution's result is made of the one of the same number."""
    if not isinstance(t.prim, Contract) or t.prim.kind != "conv":
        return False
    return t.prim.attrs.groups == t.shape[1] == t.prim.args[0].shape[1]


def _is_of_depthwise(t: Tensor) -> bool:
    """Whether a tensor is computed element by element from one depthwise convolution."""
    found: dict[Tensor, None] = {}
    seen: set[int] = set()
    stack = [t]
    while stack:
        x = stack.pop()
        if id(x) in seen:
            continue
        seen.add(id(x))
        if isinstance(x.prim, Contract):
            found[x] = None
        elif isinstance(x.prim, Map):
            stack += [a for a in x.args if a.shape == t.shape]
        elif x.shape == t.shape:
            return False
    return len(found) == 1 and all(is_depthwise(x) for x in found)
