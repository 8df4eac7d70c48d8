"""What a model's method is called with: tensors are inputs of the graph, all else is known."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir
import torch

from graphfuse.errors import InputError
from graphfuse.importers.torchscript.values import DTYPES, ListBox, Nothing, Tensor
from graphfuse.options import Hints

Array = np.ndarray[Any, Any]
_EXAMPLE = "1x3x224x224"


@dataclass(frozen=True)
class Input:
    """A tensor among the arguments; assumed: whether nobody said its element type."""

    name: str
    dtype: ir.DataType
    shape: tuple[int | str, ...]
    assumed: bool = False


@dataclass(frozen=True)
class Value:
    """An argument that is known when the model is read."""

    name: str
    value: Any


@dataclass(frozen=True)
class Several:
    """A list or tuple of arguments."""

    parts: tuple[Input | Value | Several, ...]
    is_list: bool


Argument = Input | Value | Several


def arguments_of(method: Any, hints: Hints, integers: frozenset[str], where: str) -> tuple[Argument, ...]:
    """The arguments of a method, self left out, by its types and what the user says of them.

    integers: inputs that turned out to be indices. Raises InputError for what nobody says.
    """
    arguments = method.schema.arguments[1:]
    values = list(method.graph.inputs())[1:]
    names = [argument.name for argument in arguments]
    for given in (*hints.shapes, *hints.values):
        if given.partition(".")[0] not in names:
            remedy = f"its arguments are {', '.join(map(repr, names))}" if names else "it has none"
            raise InputError(f"the model has no argument {given!r}", where=where, remedy=remedy)
    missing: list[str] = []
    found = tuple(
        _argument(argument.name, argument, value.type(), hints, integers, missing)
        for argument, value in zip(arguments, values, strict=True)
    )
    if missing:
        raise InputError(
            f"the file does not say what its arguments are like: {', '.join(names)}", where=where,
            remedy=f"say it, as in {' '.join(missing)} (letters, as in Nx512, are sizes left open; :int64 behind a "
            "shape is the element type)",
        )  # fmt: skip
    return found


def _argument(
    name: str, schema: Any, kind: Any, hints: Hints, integers: frozenset[str], missing: list[str]
) -> Argument:
    if name in hints.values:
        return Value(name, hints.values[name])
    inner = kind.getElementType() if kind.kind() == "OptionalType" else kind
    if inner.kind() == "TensorType":
        return _tensor(name, schema, kind, inner, hints, integers, missing)
    if inner.kind() == "TupleType":
        parts = inner.elements()
        return Several(
            tuple(_argument(f"{name}.{k}", None, p, hints, integers, missing) for k, p in enumerate(parts)), False
        )
    if inner.kind() == "ListType" and inner.getElementType().kind() == "TensorType":
        count = len([given for given in hints.shapes if given.startswith(f"{name}.")])
        if count:
            part = inner.getElementType()
            parts = [_argument(f"{name}.{k}", None, part, hints, integers, missing) for k in range(count)]
            return Several(tuple(parts), True)
        missing.append(f"--shape {name}.0={_EXAMPLE}")
        return Value(name, Nothing())
    if schema is not None and schema.has_default_value():
        return Value(name, schema.default_value)
    if kind.kind() == "OptionalType":
        return Value(name, None)
    examples = {"IntType": "16000", "FloatType": "0.5", "BoolType": "true", "StringType": "text"}
    missing.append(f"--value {name}={examples.get(inner.kind(), '...')}")
    return Value(name, Nothing())


def _tensor(
    name: str, schema: Any, kind: Any, inner: Any, hints: Hints, integers: frozenset[str], missing: list[str]
) -> Argument:
    recorded = inner.dtype()
    known = DTYPES.get(recorded, ir.DataType.FLOAT)
    if name in hints.dtypes:
        known = ir.DataType.from_numpy(np.dtype(hints.dtypes[name]))
    elif name in integers:
        known = ir.DataType.INT64
    assumed = name not in hints.dtypes and recorded is None
    shape = hints.shapes.get(name) or (() if name in hints.shapes else inner.sizes())
    if shape is not None:
        return Input(name, known, tuple(shape), assumed)
    if schema is not None and schema.has_default_value():
        return Value(name, schema.default_value)
    if kind.kind() == "OptionalType":
        return Value(name, None)
    missing.append(f"--shape {name}={_EXAMPLE}")
    return Value(name, Nothing())


def inputs_of(arguments: tuple[Argument, ...]) -> Iterator[Input]:
    """The tensors among the arguments, in order."""
    for argument in arguments:
        if isinstance(argument, Several):
            yield from inputs_of(argument.parts)
        elif isinstance(argument, Input):
            yield argument


def built(argument: Argument, tensor: Callable[[Input], Any], known: Callable[[Any], Any], listed: Any) -> Any:
    """An argument put together: tensors by `tensor`, what is known by `known`, lists by `listed`."""
    if isinstance(argument, Input):
        return tensor(argument)
    if isinstance(argument, Value):
        return known(argument.value)
    parts = [built(part, tensor, known, listed) for part in argument.parts]
    return listed(parts) if argument.is_list else tuple(parts)


def leaves(result: Any, name: str = "output") -> Iterator[tuple[str, Any]]:
    """The tensors and numbers of a result, of torch's or of ours, by name; the only one has `name`."""
    items: Any = None
    if isinstance(result, ListBox) and result.sequence is None:
        items = list(enumerate(result.items))
    elif isinstance(result, dict):
        items = list(result.items())
    elif isinstance(result, list | tuple):
        items = list(enumerate(result))
    if items is None:
        if isinstance(result, Tensor | torch.Tensor | ListBox | bool | int | float):
            yield name, result
        return
    for key, value in items:
        prefix = str(key) if isinstance(key, str) and name == "output" else f"{name}_{key}"
        yield from leaves(value, prefix)


def torch_value(array: Array) -> torch.Tensor:
    """NumPy's array as torch's; bfloat16 too."""
    array = np.ascontiguousarray(array)
    if array.dtype == ir.DataType.BFLOAT16.numpy():
        return torch.from_numpy(array.view(np.int16).copy()).view(torch.bfloat16)
    return torch.from_numpy(array.copy())


def call_with(arguments: tuple[Argument, ...], arrays: Mapping[str, Array]) -> list[Any]:
    """The arguments for torch's own module."""
    return [built(a, lambda i: torch_value(arrays[i.name]).reshape(arrays[i.name].shape), lambda v: v, list)
            for a in arguments]  # fmt: skip
