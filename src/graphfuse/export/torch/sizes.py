"""Sizes while a graph is written down: integers that are known, and those that the module takes from its inputs.

What a graph computes of shapes is computed here, on arrays of `int` and `Size`, and leaves `x.size(0) * 2` in the code
where ONNX has tensors. An array of other things stays a tensor.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

Array = np.ndarray[Any, Any]


class Size:
    """A size known when the module runs: `proxy` stands for a Python integer."""

    def __init__(self, proxy: Any) -> None:
        self.proxy = proxy

    def __add__(self, other: Any) -> Any:
        return self if _is(other, 0) else Size(self.proxy + _raw(other))

    def __sub__(self, other: Any) -> Any:
        return self if _is(other, 0) else Size(self.proxy - _raw(other))

    def __rsub__(self, other: Any) -> Any:
        return Size(_raw(other) - self.proxy)

    def __mul__(self, other: Any) -> Any:
        if _is(other, 0):
            return 0
        return self if _is(other, 1) else Size(self.proxy * _raw(other))

    def __floordiv__(self, other: Any) -> Any:
        return self if _is(other, 1) else Size(self.proxy // _raw(other))

    def __rfloordiv__(self, other: Any) -> Any:
        return Size(_raw(other) // self.proxy)

    def __mod__(self, other: Any) -> Any:
        return Size(self.proxy % _raw(other))

    def __neg__(self) -> Any:
        return Size(-self.proxy)

    __radd__, __rmul__ = __add__, __mul__


def _is(other: Any, value: int) -> bool:
    return not isinstance(other, Size) and other == value


def _raw(value: Any) -> Any:
    return value.proxy if isinstance(value, Size) else int(value)


def raw(values: Array | Sequence[Any]) -> list[Any]:
    """The integers and proxies of an array of sizes, in order."""
    flat = values.reshape(-1).tolist() if isinstance(values, np.ndarray) else values
    return [_raw(value) for value in flat]


def as_sizes(values: Sequence[Any]) -> Array:
    """An array of rank 1 of integers and Sizes."""
    array = np.empty(len(values), object)
    for k, value in enumerate(values):
        array[k] = value
    return array


def _extreme(pick: Callable[..., Any], symbolic: Any) -> Callable[[Any, Any], Any]:
    def of(a: Any, b: Any) -> Any:
        if not isinstance(a, Size) and not isinstance(b, Size):
            return pick(a, b)
        proxy = a.proxy if isinstance(a, Size) else b.proxy
        return Size(proxy.tracer.create_proxy("call_function", symbolic, (_raw(a), _raw(b)), {}))

    return of


def _elementwise(function: Callable[[Any, Any], Any]) -> Callable[..., Array]:
    return lambda _, *args: np.asarray(np.frompyfunc(function, 2, 1)(*args), object)


def _axes(values: Array) -> tuple[int, ...]:
    return tuple(int(v) for v in np.atleast_1d(values))


def _squeeze(_: Any, x: Array, axes: Array | None = None) -> Array:
    return np.squeeze(x, axis=None if axes is None else _axes(axes))


def _slice(
    _: Any, x: Array, starts: Array, ends: Array, axes: Array | None = None, steps: Array | None = None
) -> Array:
    start, end, step = int(starts.item()), int(ends.item()), 1 if steps is None else int(steps.item())
    return x[start : end if step > 0 or end > -(2**31) else None : step]


def _quotient(a: Any, b: Any) -> Any:
    """Sizes are not negative, so that rounding toward zero is rounding down."""
    return a // b


# op -> what it does: attributes by name, then arrays of integers and Sizes.
ON_SIZES: dict[str, Callable[..., Array]] = {
    "Add": _elementwise(lambda a, b: a + b),
    "Sub": _elementwise(lambda a, b: a - b),
    "Mul": _elementwise(lambda a, b: a * b),
    "Div": _elementwise(_quotient),
    "Max": _elementwise(_extreme(max, torch.sym_max)),
    "Min": _elementwise(_extreme(min, torch.sym_min)),
    "Identity": lambda _, x: x,
    "Gather": lambda a, x, i: np.asarray(np.take(x, i.astype(np.int64), axis=a.get("axis", 0)), object),
    "Concat": lambda a, *xs: np.concatenate(xs, axis=a["axis"]),
    "Squeeze": _squeeze,
    "Unsqueeze": lambda _, x, axes: np.expand_dims(x, _axes(axes)),
    "Slice": _slice,
    "Reshape": lambda _, x, shape: x.reshape(_axes(shape)),
    "ReduceProd": lambda a, x, axes=None: np.asarray(np.prod(x, keepdims=bool(a.get("keepdims", 1))), object),
}
