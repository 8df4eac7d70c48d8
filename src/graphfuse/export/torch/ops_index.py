"""Elements by index: gathers, scatters, sorting, selection."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import nn

from graphfuse.export.torch.call import Call, Refused, op

_REDUCTIONS = {"add": "sum", "mul": "prod", "max": "amax", "min": "amin"}


def at(axis: int, place: Any) -> tuple[Any, ...]:
    """The index that takes `place` of one axis and all of those before it."""
    return (*[slice(None)] * axis, place)


@op("Gather")
def gather(c: Call) -> Any:
    axis, known = c.axis(), c.constant(1)
    if known is not None and known.ndim == 0:
        return c[0][at(axis, int(known))]
    table = c.weight(0)
    read = c.node.inputs[1]
    # Embeddings take no negative indices: those that come right from the user are ids.
    ids = read is not None and (read.is_graph_input() or (read.producer() or c.node).op_type == "Cast")
    if table is not None and table.ndim == 2 and axis == 0 and ids:
        layer = nn.Embedding(*table.shape, dtype=c.dtype(0))
        return c.module(layer, 0, c[1], weight=table)
    if known is not None:
        if known.ndim == 1 and len(known) > 1 and (np.diff(known) == 1).all() and known[0] >= 0:
            return c[0][at(axis, slice(int(known[0]), int(known[-1]) + 1))]
        return c[0][at(axis, c.buffer(known.astype(np.int64), "index"))]
    return c[0][at(axis, c[1].long() if c.dtype(1) != torch.int64 else c[1])]


def _from_front(c: Call, k: int, axis: int) -> Any:
    """Indices along an axis of operand 0, none of them negative."""
    known = c.constant(k)
    if known is not None and (known >= 0).all():
        return c.buffer(known.astype(np.int64), "index")
    index = c[k].to(torch.int64)
    return torch.where(index < 0, index + c.size(0, axis), index)


@op("GatherElements")
def gather_elements(c: Call) -> Any:
    axis = c.axis()
    return torch.gather(c[0], axis, _from_front(c, 1, axis))


@op("GatherND")
def gather_nd(c: Call) -> Any:
    return c[0][_places(c, int(c.attr("batch_dims")))]


def _places(c: Call, batch: int = 0) -> tuple[Any, ...]:
    """An index for each axis that the last axis of operand 1 speaks of."""
    shape = c.shape(1)
    if shape[-1] is None:
        raise Refused("how many axes it indexes is known only at run time")
    index = c[1].to(torch.int64) if c.dtype(1) != torch.int64 else c[1]
    rows = []
    for k in range(batch):
        ahead = [1] * (len(shape) - 1)
        ahead[k] = -1
        rows.append(c.call(torch.arange, c.size(0, k)).reshape(ahead))
    return (*rows, *[index[..., k] for k in range(shape[-1])])


@op("ScatterElements", "Scatter")
def scatter_elements(c: Call) -> Any:
    axis, how = c.axis(), c.attr("reduction") or "none"
    index = _from_front(c, 1, axis)
    if how == "none":
        return c[0].scatter(axis, index, c[2])
    return c[0].scatter_reduce(axis, index, c[2], reduce=_REDUCTIONS[how])


@op("ScatterND")
def scatter_nd(c: Call) -> Any:
    how = c.attr("reduction") or "none"
    if how not in ("none", "add"):
        raise Refused(f"PyTorch's index_put has no reduction {how!r}")
    return c[0].index_put(_places(c), c[2], accumulate=how == "add")


@op("OneHot")
def one_hot(c: Call) -> Any:
    depth = int(c.known(1, "its depth").item())
    rank = c.rank(0)
    axis = int(c.attr("axis"))
    axis += rank + 1 if axis < 0 else 0
    index = c[0].to(torch.int64)
    index = torch.where(index < 0, index + depth, index).unsqueeze(axis)
    shape = [1] * (rank + 1)
    shape[axis] = depth
    off, on = c[2][0], c[2][1]
    return torch.where(index == c.call(torch.arange, depth).reshape(shape), on, off)


@op("TopK")
def top_k(c: Call) -> Any:
    """Sorted stably, as among equal values the standard wants the first."""
    axis, [count] = c.axis(), c.integers(1, "how many it takes")
    found = torch.sort(c[0], dim=axis, descending=bool(c.attr("largest")), stable=True)
    return found[0].narrow(axis, 0, count), found[1].narrow(axis, 0, count)


@op("NonZero")
def non_zero(c: Call) -> Any:
    if c.rank(0) == 0:
        raise Refused("its operand is a scalar")
    return torch.nonzero(c[0]).T


@op("Compress")
def compress(c: Call) -> Any:
    axis = c.attr("axis")
    taken = torch.nonzero(c[1])[:, 0]
    return torch.index_select(c[0].reshape(-1) if axis is None else c[0], axis or 0, taken)


@op("ReverseSequence")
def reverse_sequence(c: Call) -> Any:
    batch, time = int(c.attr("batch_axis")), int(c.attr("time_axis"))
    rank = c.rank(0)
    steps, lengths = [1] * rank, [1] * rank
    steps[time], lengths[batch] = -1, -1
    t = c.call(torch.arange, c.size(0, time)).reshape(steps)
    n = c[1].reshape(lengths)
    return torch.gather(c[0], time, torch.where(t < n, n - 1 - t, t).expand_as(c[0]))
