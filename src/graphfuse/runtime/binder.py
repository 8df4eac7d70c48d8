"""From the shapes of given inputs to the values of the model's symbolic dimensions, with every mismatch told."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from graphfuse.artifact.dims import evaluate, symbols_of
from graphfuse.errors import InputError

Shape = tuple[int, ...]


class Sized(Protocol):
    """An input as the manifest or a module has it: its name, and its dims as numbers or expressions over symbols."""

    @property
    def name(self) -> str: ...
    @property
    def shape(self) -> Sequence[int | str]: ...


def bind_symbols(inputs: Sequence[Sized], shapes: Sequence[Shape], symbols: Sequence[str]) -> dict[str, int]:
    """The value of every symbol, from the shapes of the inputs in their order.

    A symbol that is a dim by itself takes its value there; one that occurs only inside an expression is solved for, if
    the expression is linear in it. Raises InputError naming the input, the dimension and both values when a shape does
    not fit, or two inputs disagree.
    """
    values: dict[str, int] = {}
    origin: dict[str, str] = {}
    for tensor, shape in zip(inputs, shapes, strict=True):
        if len(shape) != len(tensor.shape):
            raise _misfit(tensor, shape, f"it has {len(shape)} dimensions instead of {len(tensor.shape)}")
        for axis, (dim, size) in enumerate(zip(tensor.shape, shape, strict=True)):
            if dim in symbols and values.setdefault(str(dim), size) != size:
                why = f"{dim} is {size} in dimension {axis}, and {values[str(dim)]} in {origin[str(dim)]}"
                raise _misfit(tensor, shape, why)
            origin.setdefault(str(dim), f"dimension {axis} of {tensor.name!r}")
    for tensor, shape in zip(inputs, shapes, strict=True):
        for axis, (dim, size) in enumerate(zip(tensor.shape, shape, strict=True)):
            if dim not in symbols:
                _check_dim(tensor, shape, axis, dim, size, values)
    return values


def check_ranges(
    values: Mapping[str, int], inputs: Sequence[Sized], ranges: Mapping[str, tuple[int, int | None]]
) -> None:
    """Raises InputError for a symbol's value outside of what the model was made for; None: there is no largest."""
    for name, (least, most) in ranges.items():
        if values[name] >= least and (most is None or values[name] <= most):
            continue
        where = next((f"input {x.name!r}, dimension {x.shape.index(name)}" for x in inputs if name in x.shape), "")
        limits = f"at least {least}" if most is None else f"from {least} to {most}"
        why, remedy = f"the model was exported for {limits}", "export it for a wider range, or give another size"
        raise InputError(f"{name} is {values[name]}", where=where, why=why, remedy=remedy)


def dims_array(sizes: Mapping[str, int], symbols: Sequence[str], measured: Sequence[str]) -> np.ndarray[Any, Any]:
    """The argument `dims` of a compiled model: int64 values of its symbols, and room for the measured sizes of outputs.

    It is never empty, so it has an address.
    """
    return np.array([*(sizes[name] for name in symbols), *([0] * (1 + len(measured)))], np.int64)


def _check_dim(tensor: Sized, shape: Shape, axis: int, dim: int | str, size: int, values: dict[str, int]) -> None:
    """Compares one fixed or computed dim with the size given; the one unknown symbol in it is solved for first."""
    expected = dim if isinstance(dim, int) else _expected(dim, size, values)
    if expected is None:
        raise _misfit(tensor, shape, f"dimension {axis} is {size}, which no {dim} can be")
    if expected != size:
        used = "" if isinstance(dim, int) else f" = {expected} for {_listed(dim, values)}"
        raise _misfit(tensor, shape, f"dimension {axis} is {size} instead of {dim}{used}")


def _expected(dim: str, size: int, values: dict[str, int]) -> int | None:
    unknown = [symbol for symbol in symbols_of(dim) if symbol not in values]
    if len(unknown) == 1:
        values[unknown[0]] = _solve(dim, unknown[0], size, values)
    try:
        return evaluate(dim, values)
    except (KeyError, ValueError):
        return None


def _solve(dim: str, symbol: str, size: int, values: Mapping[str, int]) -> int:
    """The symbol's value that gives a linear expression the value `size`; a misfit shows when it is evaluated."""
    try:
        at_1, at_2 = (evaluate(dim, {**values, symbol: k}) for k in (1, 2))
    except (KeyError, ValueError):
        return 1
    slope = at_2 - at_1
    return 1 + (size - at_1) // slope if slope else 1


def _listed(dim: str, values: Mapping[str, int]) -> str:
    return ", ".join(f"{symbol} = {values[symbol]}" for symbol in symbols_of(dim))


def _misfit(tensor: Sized, shape: Shape, why: str) -> InputError:
    expected = "(" + ", ".join(map(str, tensor.shape)) + ("," if len(tensor.shape) == 1 else "") + ")"
    return InputError(f"the shape is {shape}, expected {expected}", where=f"input {tensor.name!r}", why=why)
