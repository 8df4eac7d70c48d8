"""Comparisons, logic and bits."""

from __future__ import annotations

from typing import Any

import torch

from graphfuse.importers.torchscript.builder import Builder
from graphfuse.importers.torchscript.registry import op
from graphfuse.importers.torchscript.values import Tensor, Unspellable


def _comparison(names: tuple[str, ...], op_type: str, negated: bool = False) -> None:
    @op(*names)
    def spell(b: Builder, self: Any, other: Any) -> Tensor:
        x, y = b.operands(self, other)
        if b.torch_dtype(x) == torch.bool and op_type != "Equal":
            x, y = b.cast(x, torch.int32), b.cast(y, torch.int32)
        found: Tensor = b(op_type, x, y)
        return b("Not", found) if negated else found


_comparison(("eq",), "Equal")
_comparison(("ne", "not_equal"), "Equal", True)
_comparison(("lt", "less"), "Less")
_comparison(("le", "less_equal"), "LessOrEqual")
_comparison(("gt", "greater"), "Greater")
_comparison(("ge", "greater_equal"), "GreaterOrEqual")


def _bool(b: Builder, x: Any) -> Tensor:
    return b.as_tensor(x, torch.bool)


@op("logical_and")
def logical_and(b: Builder, self: Any, other: Any) -> Tensor:
    return b("And", _bool(b, self), _bool(b, other))


@op("logical_or")
def logical_or(b: Builder, self: Any, other: Any) -> Tensor:
    return b("Or", _bool(b, self), _bool(b, other))


@op("logical_xor")
def logical_xor(b: Builder, self: Any, other: Any) -> Tensor:
    return b("Xor", _bool(b, self), _bool(b, other))


@op("logical_not", "__not__")
def logical_not(b: Builder, self: Any) -> Tensor:
    return b("Not", _bool(b, self))


def _bits(names: tuple[str, ...], of_bools: str, of_integers: str) -> None:
    @op(*names)
    def spell(b: Builder, self: Any, other: Any) -> Tensor:
        x, y = b.operands(self, other)
        return b(of_bools if b.torch_dtype(x) == torch.bool else of_integers, x, y)


_bits(("bitwise_and", "__and__", "__iand__"), "And", "BitwiseAnd")
_bits(("bitwise_or", "__or__", "__ior__"), "Or", "BitwiseOr")
_bits(("bitwise_xor", "__xor__", "__ixor__"), "Xor", "BitwiseXor")


@op("bitwise_not")
def bitwise_not(b: Builder, self: Any) -> Tensor:
    return b("Not" if b.torch_dtype(self) == torch.bool else "BitwiseNot", self)


@op("isnan")
def isnan(b: Builder, self: Tensor) -> Tensor:
    if not self.is_float:
        return b.expand(b.const(torch.tensor(False)), b.sizes(self))
    return b("IsNaN", self)


@op("isinf")
def isinf(b: Builder, self: Tensor) -> Tensor:
    if not self.is_float:
        return b.expand(b.const(torch.tensor(False)), b.sizes(self))
    return b("IsInf", self if b.torch_dtype(self) == torch.float64 else b.cast(self, torch.float32))


@op("isfinite")
def isfinite(b: Builder, self: Tensor) -> Tensor:
    return b("Not", b("Or", isnan(b, self), isinf(b, self)))


@op("where")
def where(b: Builder, condition: Tensor, self: Any = None, other: Any = None) -> Any:
    if self is None:
        raise Unspellable("where with a condition alone is not supported", "use nonzero")
    x, y = b.operands(self, other)
    return b("Where", _bool(b, condition), x, y)


@op("masked_fill")
def masked_fill(b: Builder, self: Tensor, mask: Tensor, value: Any) -> Tensor:
    return b("Where", _bool(b, mask), b.as_tensor(value, b.torch_dtype(self)), self)


@op("nan_to_num")
def nan_to_num(
    b: Builder, self: Tensor, nan: float | None = None, posinf: float | None = None, neginf: float | None = None
) -> Tensor:
    dtype = b.torch_dtype(self)
    if not self.is_float:
        return self
    limits = torch.finfo(dtype)
    high, low = limits.max if posinf is None else posinf, limits.min if neginf is None else neginf

    def constant(value: float) -> Tensor:
        return b.const(torch.tensor(value, dtype=dtype))

    x = b("Where", b("IsNaN", self), constant(nan or 0.0), self)
    x = b("Where", b("Equal", x, constant(float("inf"))), constant(high), x)
    return b("Where", b("Equal", x, constant(float("-inf"))), constant(low), x)


@op("isin")
def isin(b: Builder, elements: Tensor, test_elements: Tensor, invert: bool = False) -> Tensor:
    x, y = b.operands(elements, test_elements)
    same = b("Equal", b("Unsqueeze", x, [-1]), b.reshape(y, [-1]))
    found = b("ReduceMax", b.cast(same, torch.int32), [-1], keepdims=0)
    result = b.cast(found, torch.bool)
    return b("Not", result) if invert else result


@op("equal")
def equal(b: Builder, self: Tensor, other: Tensor) -> Any:
    if self.rank != other.rank:
        return False
    if any(isinstance(x, int) and isinstance(y, int) and x != y for x, y in zip(self.shape, other.shape, strict=True)):
        return False
    if None in self.shape or self.shape != other.shape:
        raise Unspellable("equal of tensors of unknown sizes is not supported")
    x, y = b.operands(self, other)
    return b("ReduceMin", b.cast(b("Equal", x, y), torch.int32), keepdims=0)
