"""Reductions, sums along axes, sorting."""

from __future__ import annotations

from typing import Any

import torch

from graphfuse.importers.torchscript.builder import Builder
from graphfuse.importers.torchscript.registry import op
from graphfuse.importers.torchscript.values import Tensor, Unspellable


def _axes(x: Tensor, dim: Any) -> list[int]:
    """The axes that are reduced: all of them for None and an empty list."""
    if dim is None or dim == []:
        return list(range(x.rank))
    return [x.axis(d) for d in (dim if isinstance(dim, list | tuple) else [dim])]


def reduce(b: Builder, op_type: str, x: Tensor, dim: Any, keepdim: bool) -> Tensor:
    """A reduction of ONNX over one axis, several, or all for None; a tensor of rank 0 as it is."""
    axes = _axes(x, dim)
    if x.rank == 0:
        return x
    return b(op_type, x, axes, keepdims=int(keepdim))


def _summed(b: Builder, x: Tensor, dtype: Any) -> Tensor:
    """The operand of a sum: integers are added up as int64."""
    if dtype is not None:
        return b.cast(x, b.dtype_of(dtype))
    return x if x.is_float else b.cast(x, torch.int64)


@op("sum")
def sum_(b: Builder, self: Tensor, dim: Any = None, keepdim: bool = False, dtype: Any = None) -> Tensor:
    return reduce(b, "ReduceSum", _summed(b, self, dtype), dim, keepdim)


@op("mean")
def mean(b: Builder, self: Tensor, dim: Any = None, keepdim: bool = False, dtype: Any = None) -> Tensor:
    return reduce(b, "ReduceMean", _summed(b, self, dtype), dim, keepdim)


@op("prod")
def prod(b: Builder, self: Tensor, dim: Any = None, keepdim: bool = False, dtype: Any = None) -> Tensor:
    return reduce(b, "ReduceProd", _summed(b, self, dtype), dim, keepdim)


@op("logsumexp")
def logsumexp(b: Builder, self: Tensor, dim: Any, keepdim: bool = False) -> Tensor:
    return reduce(b, "ReduceLogSumExp", self, dim, keepdim)


@op("amax")
def amax(b: Builder, self: Tensor, dim: Any = None, keepdim: bool = False) -> Tensor:
    return reduce(b, "ReduceMax", self, dim, keepdim)


@op("amin")
def amin(b: Builder, self: Tensor, dim: Any = None, keepdim: bool = False) -> Tensor:
    return reduce(b, "ReduceMin", self, dim, keepdim)


@op("aminmax")
def aminmax(b: Builder, self: Tensor, dim: Any = None, keepdim: bool = False) -> tuple[Tensor, Tensor]:
    return amin(b, self, dim, keepdim), amax(b, self, dim, keepdim)


def _extreme(names: str, reduction: str, argument: str, pairwise: str) -> None:
    @op(names)
    def spell(b: Builder, self: Tensor, dim: Any = None, keepdim: bool = False, other: Any = None) -> Any:
        if other is not None:
            return b(pairwise, *b.operands(self, other))
        if dim is None:
            return reduce(b, reduction, self, None, False)
        return reduce(b, reduction, self, dim, keepdim), _arg(b, argument, self, dim, keepdim)


_extreme("max", "ReduceMax", "ArgMax", "Max")
_extreme("min", "ReduceMin", "ArgMin", "Min")


def _arg(b: Builder, op_type: str, x: Tensor, dim: Any, keepdim: bool) -> Tensor:
    if dim is None:
        return b(op_type, b.reshape(x, [-1]), axis=0, keepdims=0)
    if x.rank == 0:
        return b.const(torch.tensor(0))
    x = b.cast(x, torch.int32) if b.torch_dtype(x) == torch.bool else x
    return b(op_type, x, axis=x.axis(dim), keepdims=int(keepdim))


@op("argmax")
def argmax(b: Builder, self: Tensor, dim: Any = None, keepdim: bool = False) -> Tensor:
    return _arg(b, "ArgMax", self, dim, keepdim)


@op("argmin")
def argmin(b: Builder, self: Tensor, dim: Any = None, keepdim: bool = False) -> Tensor:
    return _arg(b, "ArgMin", self, dim, keepdim)


def _truth(b: Builder, x: Tensor) -> Tensor:
    return b.cast(b.cast(x, torch.bool), torch.int32)


@op("any")
def any_(b: Builder, self: Tensor, dim: Any = None, keepdim: bool = False) -> Tensor:
    return b.cast(reduce(b, "ReduceMax", _truth(b, self), dim, keepdim), torch.bool)


@op("all")
def all_(b: Builder, self: Tensor, dim: Any = None, keepdim: bool = False) -> Tensor:
    return b.cast(reduce(b, "ReduceMin", _truth(b, self), dim, keepdim), torch.bool)


@op("count_nonzero")
def count_nonzero(b: Builder, self: Tensor, dim: Any = None) -> Tensor:
    return reduce(b, "ReduceSum", b.cast(b.cast(self, torch.bool), torch.int64), dim, False)


def _variance(b: Builder, x: Tensor, dim: Any, correction: Any, keepdim: bool) -> Tensor:
    axes = _axes(x, dim)
    apart = b("Sub", x, reduce(b, "ReduceMean", x, axes, True))
    squares = reduce(b, "ReduceSum", b("Mul", apart, apart), axes, keepdim)
    dtype = b.torch_dtype(x)
    known = [x.shape[k] for k in axes]
    if all(isinstance(d, int) for d in known):
        count = 1
        for d in known:
            count *= int(d or 0)
        return b("Div", squares, b.const(torch.tensor(float(max(0, count - correction)), dtype=dtype)))
    sizes = b("ReduceProd", b.vector([b.size(x, k) for k in axes]), keepdims=0)
    return b("Div", squares, b("Sub", b.cast(sizes, dtype), b.const(torch.tensor(float(correction), dtype=dtype))))


@op("var")
def var(
    b: Builder, self: Tensor, dim: Any = None, unbiased: bool = True, keepdim: bool = False, correction: Any = None
) -> Tensor:
    return _variance(b, self, dim, int(unbiased) if correction is None else correction, keepdim)


@op("std")
def std(
    b: Builder, self: Tensor, dim: Any = None, unbiased: bool = True, keepdim: bool = False, correction: Any = None
) -> Tensor:
    return b("Sqrt", var(b, self, dim, unbiased, keepdim, correction))


@op("var_mean")
def var_mean(
    b: Builder, self: Tensor, dim: Any = None, unbiased: bool = True, keepdim: bool = False, correction: Any = None
) -> tuple[Tensor, Tensor]:
    return var(b, self, dim, unbiased, keepdim, correction), reduce(b, "ReduceMean", self, dim, keepdim)


@op("std_mean")
def std_mean(
    b: Builder, self: Tensor, dim: Any = None, unbiased: bool = True, keepdim: bool = False, correction: Any = None
) -> tuple[Tensor, Tensor]:
    return std(b, self, dim, unbiased, keepdim, correction), reduce(b, "ReduceMean", self, dim, keepdim)


@op("norm", "linalg_vector_norm", "frobenius_norm", "linalg_norm")
def norm(
    b: Builder, self: Tensor, p: Any = 2, dim: Any = None, keepdim: bool = False, dtype: Any = None, ord: Any = None
) -> Tensor:
    order = ord if ord is not None else p
    order = 2 if order is None or order == "fro" else order
    x = self if dtype is None else b.cast(self, b.dtype_of(dtype))
    if order == 2:
        return reduce(b, "ReduceL2", x, dim, keepdim)
    if order == 1:
        return reduce(b, "ReduceL1", x, dim, keepdim)
    if order in (float("inf"), float("-inf")):
        return reduce(b, "ReduceMax" if order > 0 else "ReduceMin", b("Abs", x), dim, keepdim)
    if isinstance(order, (str, Tensor)) or order == 0:
        raise Unspellable(f"a norm of order {order!r} is not supported")
    exponent = b.const(torch.tensor(float(order), dtype=b.torch_dtype(x)))
    total = reduce(b, "ReduceSum", b("Pow", b("Abs", x), exponent), dim, keepdim)
    return b("Pow", total, b.const(torch.tensor(1 / float(order), dtype=b.torch_dtype(x))))


@op("dist")
def dist(b: Builder, self: Tensor, other: Tensor, p: Any = 2) -> Tensor:
    return norm(b, b("Sub", *b.operands(self, other)), p)


@op("cumsum")
def cumsum(b: Builder, self: Tensor, dim: int, dtype: Any = None) -> Tensor:
    x = _summed(b, self, dtype)
    return x if x.rank == 0 else b("CumSum", x, b.const(torch.tensor(x.axis(dim))))


@op("cumprod")
def cumprod(b: Builder, self: Tensor, dim: int, dtype: Any = None) -> Tensor:
    x = _summed(b, self, dtype)
    axis, size = x.axis(dim), x.shape[x.axis(dim)]
    if not isinstance(size, int) or size > 64:
        raise Unspellable("a cumulative product is supported along known axes of at most 64 elements")
    parts = [b("Slice", x, [k], [k + 1], [axis]) for k in range(size)]
    for k in range(1, size):
        parts[k] = b("Mul", parts[k - 1], parts[k])
    return b("Concat", *parts, axis=axis) if len(parts) > 1 else parts[0]


@op("diff")
def diff(b: Builder, self: Tensor, n: int = 1, dim: int = -1) -> Tensor:
    x = self
    for _ in range(n):
        axis = x.axis(dim)
        x = b("Sub", b("Slice", x, [1], [2**63 - 1], [axis]), b("Slice", x, [0], [-1], [axis]))
    return x


@op("topk")
def topk(
    b: Builder, self: Tensor, k: Any, dim: int = -1, largest: bool = True, sorted: bool = True
) -> tuple[Tensor, Tensor]:
    axis = self.axis(dim)
    found = b("TopK", self, b.vector([k]), axis=axis, largest=int(largest), sorted=1, count=2)
    known = [k if j == axis and isinstance(k, int) else d if j != axis else None for j, d in enumerate(self.shape)]
    return b.shaped(found[0], known), b.shaped(found[1], known)


@op("sort")
def sort(
    b: Builder, self: Tensor, dim: int = -1, descending: bool = False, stable: bool = False
) -> tuple[Tensor, Tensor]:
    if self.rank == 0:
        return self, b.const(torch.tensor(0))
    x = b.cast(self, torch.uint8) if b.torch_dtype(self) == torch.bool else self
    values, places = topk(b, x, b.size(x, dim), dim, descending)
    return b.cast(values, self.dtype), places


@op("argsort")
def argsort(b: Builder, self: Tensor, dim: int = -1, descending: bool = False, stable: bool = False) -> Tensor:
    return sort(b, self, dim, descending)[1]


@op("kthvalue")
def kthvalue(b: Builder, self: Tensor, k: int, dim: int = -1, keepdim: bool = False) -> tuple[Tensor, Tensor]:
    values, places = topk(b, self, k, dim, False)
    place = [k - 1]
    axis = self.axis(dim)
    found = [b("Gather", x, b.const(torch.tensor(place)), axis=axis) for x in (values, places)]
    return (found[0], found[1]) if keepdim else (b("Squeeze", found[0], [axis]), b("Squeeze", found[1], [axis]))


@op("median")
def median(b: Builder, self: Tensor, dim: int | None = None, keepdim: bool = False) -> Any:
    x = b.reshape(self, [-1]) if dim is None else self
    size = x.shape[x.axis(dim or 0)]
    if not isinstance(size, int):
        raise Unspellable("the median of an open number of elements is not supported")
    values, places = kthvalue(b, x, (size + 1) // 2, dim or 0, keepdim)
    return values if dim is None else (values, places)
