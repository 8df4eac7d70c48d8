"""Tensors from nothing, and conversions of element types."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from graphfuse.importers.torchscript.builder import FOLDED_ELEMENTS, Builder
from graphfuse.importers.torchscript.registry import op
from graphfuse.importers.torchscript.values import Number, Tensor, Unspellable


def _filled(b: Builder, size: Sequence[Any], value: Any, dtype: torch.dtype) -> Tensor:
    if not isinstance(value, Tensor) and all(isinstance(d, int) for d in size):
        if any(d < 0 for d in size):
            raise Unspellable("a size is negative")
        total = 1
        for d in size:
            total *= d
        if total <= FOLDED_ELEMENTS:
            return b.const(torch.full(tuple(size), value, dtype=dtype))
    return b.expand(b.as_tensor(value, dtype), size) if size else b.as_tensor(value, dtype)


@op("zeros", "new_zeros", "new_empty", "empty", folds=False)
def zeros(b: Builder, size: Sequence[Any], dtype: Any = None, self: Tensor | None = None) -> Tensor:
    return _filled(b, size, 0, b.dtype_of(dtype, b.torch_dtype(self) if self is not None else None))


@op("ones", "new_ones", folds=False)
def ones(b: Builder, size: Sequence[Any], dtype: Any = None, self: Tensor | None = None) -> Tensor:
    return _filled(b, size, 1, b.dtype_of(dtype, b.torch_dtype(self) if self is not None else None))


@op("full", "new_full", folds=False)
def full(b: Builder, size: Sequence[Any], fill_value: Any, dtype: Any = None, self: Tensor | None = None) -> Tensor:
    default = b.torch_dtype(self) if self is not None else _natural(b, fill_value)
    return _filled(b, size, fill_value, b.dtype_of(dtype, default))


def _natural(b: Builder, value: Any) -> torch.dtype:
    """The element type of a tensor made from this number."""
    if isinstance(value, Tensor):
        dtype = b.torch_dtype(value)
        return torch.get_default_dtype() if isinstance(value, Number) and dtype == torch.float64 else dtype
    return torch.tensor(value).dtype


def _alike(names: tuple[str, ...], value: Any) -> None:
    @op(*names)
    def spell(b: Builder, self: Tensor, dtype: Any = None) -> Tensor:
        return _filled(b, b.sizes(self), value, b.dtype_of(dtype, b.torch_dtype(self)))


_alike(("zeros_like", "empty_like"), 0)
_alike(("ones_like",), 1)


@op("full_like")
def full_like(b: Builder, self: Tensor, fill_value: Any, dtype: Any = None) -> Tensor:
    return _filled(b, b.sizes(self), fill_value, b.dtype_of(dtype, b.torch_dtype(self)))


@op("fill")
def fill(b: Builder, self: Tensor, value: Any) -> Tensor:
    return _filled(b, b.sizes(self), value, b.torch_dtype(self))


@op("zero")
def zero(b: Builder, self: Tensor) -> Tensor:
    return _filled(b, b.sizes(self), 0, b.torch_dtype(self))


@op("copy")
def copy(b: Builder, self: Tensor, src: Any) -> Tensor:
    return b.expand(b.as_tensor(src, b.torch_dtype(self)), b.sizes(self))


@op("arange", folds=False)
def arange(b: Builder, end: Any, start: Any = 0, step: Any = 1, dtype: Any = None) -> Tensor:
    given = [start, end, step]
    floats = any(x.is_float if isinstance(x, Tensor) else isinstance(x, float) for x in given)
    chosen = b.dtype_of(dtype, torch.get_default_dtype() if floats else torch.int64)
    if not any(isinstance(x, Tensor) for x in given) and (end - start) / step <= FOLDED_ELEMENTS:
        return b.const(torch.arange(start, end, step, dtype=chosen))
    counted = torch.float64 if floats else torch.int64
    made = b("Range", *(b.as_tensor(x, counted) for x in given))
    return b.cast(made, chosen)


@op("linspace", folds=False)
def linspace(b: Builder, start: Any, end: Any, steps: int, dtype: Any = None) -> Tensor:
    if any(isinstance(x, Tensor) for x in (start, end, steps)) or steps > FOLDED_ELEMENTS:
        raise Unspellable("a linspace that depends on data is not supported")
    return b.const(torch.linspace(start, end, steps, dtype=b.dtype_of(dtype)))


@op("eye", folds=False)
def eye(b: Builder, n: Any, m: Any = None, dtype: Any = None) -> Tensor:
    m = n if m is None else m
    if isinstance(n, Tensor) or isinstance(m, Tensor) or n * m > 1 << 20:
        raise Unspellable("an identity matrix of a size that depends on data is not supported")
    return b.const(torch.eye(n, m, dtype=b.dtype_of(dtype)))


def _window(name: str) -> None:
    @op(name, folds=False)
    def spell(b: Builder, window_length: int, periodic: bool = True, dtype: Any = None) -> Tensor:
        if isinstance(window_length, Tensor) or window_length > FOLDED_ELEMENTS:
            raise Unspellable("a window of this length is not supported")
        return b.const(getattr(torch, name)(window_length, periodic=periodic, dtype=b.dtype_of(dtype)))


_window("hann_window")
_window("hamming_window")


@op("scalar_tensor", folds=False)
def scalar_tensor(b: Builder, s: Any, dtype: Any = None) -> Tensor:
    return b.as_tensor(s, b.dtype_of(dtype))


@op("tensor", "as_tensor", folds=False)
def tensor(b: Builder, data: Any = None, dtype: Any = None, t: Any = None, requires_grad: bool = False) -> Tensor:
    values = data if data is not None else t
    if isinstance(values, list):
        flat = _flat(values)
        if not any(isinstance(x, Tensor) for x in flat):
            return b.const(torch.tensor(_plain(values), dtype=None if dtype is None else b.dtype_of(dtype)))
        chosen = b.dtype_of(dtype, max((_natural(b, x) for x in flat), key=lambda d: (d.is_floating_point, d.itemsize)))
        parts = [b("Unsqueeze", b.as_tensor(x, chosen), [0]) for x in flat]
        if any(isinstance(x, list) for x in values):
            raise Unspellable("a nested list that depends on data is not supported")
        return parts[0] if len(parts) == 1 else b("Concat", *parts, axis=0)
    made = b.as_tensor(values, b.dtype_of(dtype, _natural(b, values)))
    return Tensor(made.plain, b.touch)


def _flat(values: Any) -> list[Any]:
    values = values.items if hasattr(values, "items") else values
    return [x for v in values for x in (_flat(v) if isinstance(v, list) or hasattr(v, "items") else [v])]


def _plain(values: Any) -> Any:
    values = values.items if hasattr(values, "items") and not isinstance(values, list) else values
    return [_plain(v) if isinstance(v, list) or hasattr(v, "items") else v for v in values]


@op("to", "_to_copy", "type_as", folds=False)
def to(b: Builder, self: Tensor, dtype: Any = None, other: Any = None, copy: bool = False) -> Tensor:
    if other is not None:
        wanted = b.torch_dtype(other)
    elif dtype is not None:
        wanted = b.dtype_of(dtype)
    else:
        wanted = b.torch_dtype(self)
    if wanted == b.torch_dtype(self):
        return Tensor(self.plain, b.touch) if copy else self
    return b.cast(self, wanted)


def _conversion(name: str, dtype: torch.dtype) -> None:
    @op(name, folds=False)
    def spell(b: Builder, self: Tensor) -> Tensor:
        return b.cast(self, dtype)


for _name, _dtype in {
    "float": torch.float32, "double": torch.float64, "half": torch.float16, "bfloat16": torch.bfloat16,
    "int": torch.int32, "long": torch.int64, "short": torch.int16, "char": torch.int8, "byte": torch.uint8,
    "bool": torch.bool,
    "_cast_Float": torch.float32, "_cast_Long": torch.int64, "_cast_Int": torch.int32,
}.items():  # fmt: skip
    _conversion(_name, _dtype)


@op("cpu", "cuda", "pin_memory", "requires_grad_", folds=False)
def stay(b: Builder, self: Tensor, requires_grad: bool = False) -> Tensor:
    return self


@op("_shape_as_tensor", folds=False)
def shape_as_tensor(b: Builder, self: Tensor) -> Tensor:
    return b.vector(b.sizes(self))
