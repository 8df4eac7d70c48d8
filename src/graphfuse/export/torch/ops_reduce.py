"""Reductions, and running sums."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from graphfuse.export.torch.call import Call, Refused, op


def _prod(x: Any, axes: tuple[int, ...], keep: bool, dtype: Any) -> Any:
    for axis in sorted(axes, reverse=True):
        x = torch.prod(x, dim=axis, keepdim=keep, dtype=dtype)
    return x


def _extreme(function: Any) -> Callable[..., Any]:
    return lambda x, axes, keep, _: function(x, dim=axes, keepdim=keep)


_REDUCE: dict[str, Callable[[Any, tuple[int, ...], bool, Any], Any]] = {
    "ReduceSum": lambda x, axes, keep, dtype: torch.sum(x, dim=axes, keepdim=keep, dtype=dtype),
    "ReduceMean": lambda x, axes, keep, _: torch.mean(x, dim=axes, keepdim=keep),
    "ReduceMax": _extreme(torch.amax),
    "ReduceMin": _extreme(torch.amin),
    "ReduceProd": _prod,
    "ReduceL1": lambda x, axes, keep, dtype: torch.sum(torch.abs(x), dim=axes, keepdim=keep, dtype=dtype),
    "ReduceL2": lambda x, axes, keep, _: torch.sqrt(torch.sum(x * x, dim=axes, keepdim=keep)),
    "ReduceLogSum": lambda x, axes, keep, _: torch.log(torch.sum(x, dim=axes, keepdim=keep)),
    "ReduceLogSumExp": lambda x, axes, keep, _: torch.logsumexp(x, dim=axes, keepdim=keep),
    "ReduceSumSquare": lambda x, axes, keep, dtype: torch.sum(x * x, dim=axes, keepdim=keep, dtype=dtype),
}
_FLOAT_ONLY = ("ReduceMean", "ReduceL2", "ReduceLogSum", "ReduceLogSumExp")


@op(*_REDUCE)
def reduction(c: Call) -> Any:
    rank, name = c.rank(0), c.node.op_type
    axes = [int(a) % max(rank, 1) for a in c.integers(1, "which axes are reduced")] if c.has(1) else []
    if not axes and c.attr("noop_with_empty_axes"):
        if name in ("ReduceSum", "ReduceMean", "ReduceMax", "ReduceMin", "ReduceProd"):
            return c[0]
        raise Refused("it reduces no axis")
    if rank == 0:
        return _REDUCE[name](c[0].reshape(1), (0,), False, c.out_dtype())
    if name in _FLOAT_ONLY and not c.is_float(0):
        raise Refused(f"PyTorch has it for floating point only, not {c.dtype(0)}")
    chosen = tuple(axes) or tuple(range(rank))
    return _REDUCE[name](c[0], chosen, bool(c.attr("keepdims")), c.out_dtype())


@op("ArgMax", "ArgMin")
def arg_extreme(c: Call) -> Any:
    function = torch.argmax if c.node.op_type == "ArgMax" else torch.argmin
    axis, keep, x = c.axis(), bool(c.attr("keepdims")), c[0]
    if not c.attr("select_last_index"):
        return function(x, dim=axis, keepdim=keep)
    return c.size(0, axis) - 1 - function(torch.flip(x, [axis]), dim=axis, keepdim=keep)


@op("CumSum", "CumProd")
def running(c: Call) -> Any:
    axis = int(c.known(1, "its axis"))
    axis += c.rank(0) if axis < 0 else 0
    function, start = (torch.cumsum, 0) if c.node.op_type == "CumSum" else (torch.cumprod, 1)
    x = torch.flip(c[0], [axis]) if c.attr("reverse") else c[0]
    if c.attr("exclusive"):
        first, rest = x.narrow(axis, 0, 1), x.narrow(axis, 0, c.size(0, axis) - 1)
        x = torch.cat([torch.full_like(first, start), rest], dim=axis)
    y = function(x, dim=axis, dtype=c.out_dtype())
    return torch.flip(y, [axis]) if c.attr("reverse") else y
