"""What is the same of a value on several paths through a program: its spec, by which it is handed on."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import onnx_ir as ir
import torch

from graphfuse.importers.torchscript.values import (
    TORCH_DTYPES,
    Dim,
    ListBox,
    Module,
    Nothing,
    Number,
    OpenList,
    Tensor,
    Unspellable,
    joined_shape,
)

if TYPE_CHECKING:
    from graphfuse.importers.torchscript.builder import Builder


class Spec:
    """values: what is handed on for a value; inside: the value in a loop's body; made: what comes out in the end."""

    def values(self, b: Builder, value: Any) -> list[ir.Value]:
        raise NotImplementedError

    def inside(self, b: Builder, graph: ir.Graph, value: Any) -> Any:
        """The value in a body, which gets inputs for it; value: what the first iteration starts from."""
        taken: list[ir.Value] = []
        for start in self.values(b, value):
            held = ir.Value(name=None, type=start.type)
            graph.inputs.append(b.speller.called(held, "carried"))
            taken.append(held)
        return self.made(b, iter(taken))

    def made(self, b: Builder, results: Iterator[ir.Value]) -> Any:
        raise NotImplementedError


@dataclass(frozen=True)
class Fixed(Spec):
    """The same value on all paths."""

    value: Any

    def values(self, b: Builder, value: Any) -> list[ir.Value]:
        return []

    def made(self, b: Builder, results: Iterator[ir.Value]) -> Any:
        return self.value

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Fixed) and _same(self.value, other.value)

    def __hash__(self) -> int:
        return 0


@dataclass(frozen=True)
class Tensors(Spec):
    """A tensor; number: which the program has as an int, float or bool."""

    dtype: ir.DataType
    shape: tuple[Dim, ...] | None
    number: bool = False

    def values(self, b: Builder, value: Any) -> list[ir.Value]:
        if isinstance(value, Nothing):
            size = [d if isinstance(d, int) else 1 for d in self.shape or ()]
            return [b.const(torch.zeros(size, dtype=TORCH_DTYPES[self.dtype])).value]
        return [b.as_tensor(value, TORCH_DTYPES[self.dtype]).value]

    def made(self, b: Builder, results: Iterator[ir.Value]) -> Any:
        value = next(results)
        value.type = ir.TensorType(self.dtype)
        value.shape = None if self.shape is None else ir.Shape(self.shape)
        tensor = b.tensor(value)
        return b.number(tensor) if self.number else tensor


@dataclass(frozen=True)
class Listed(Spec):
    """A list, or a tuple, of known length."""

    parts: tuple[Spec, ...]
    is_list: bool

    def values(self, b: Builder, value: Any) -> list[ir.Value]:
        items = value.items if isinstance(value, ListBox) else value
        if isinstance(value, Nothing):
            items = [value] * len(self.parts)
        return [v for spec, item in zip(self.parts, items, strict=True) for v in spec.values(b, item)]

    def made(self, b: Builder, results: Iterator[ir.Value]) -> Any:
        items = [spec.made(b, results) for spec in self.parts]
        return ListBox(items, b.touch) if self.is_list else tuple(items)


@dataclass(frozen=True)
class Sequences(Spec):
    """A list of tensors of unknown length."""

    dtype: ir.DataType
    shape: tuple[Dim, ...] | None

    def values(self, b: Builder, value: Any) -> list[ir.Value]:
        if isinstance(value, ListBox) and value.sequence is not None:
            return [value.sequence.value]
        items = value.items
        made: ir.Value
        if items:
            made = b.speller("SequenceConstruct", *(item.value for item in items))
        else:
            made = b.speller("SequenceEmpty", dtype=int(self.dtype))
        made.type = ir.SequenceType(ir.TensorType(self.dtype))
        return [made]

    def made(self, b: Builder, results: Iterator[ir.Value]) -> Any:
        value = next(results)
        value.type = ir.SequenceType(ir.TensorType(self.dtype))
        return ListBox(None, b.touch, OpenList(value, self.dtype, self.shape))


def spec_of(value: Any) -> Any:
    """A value's own spec."""
    if isinstance(value, Number) and value.const is None:
        return Tensors(value.dtype, (), True)
    if isinstance(value, Tensor):
        try:
            return Tensors(value.dtype, value.shape)
        except Unspellable:
            return Tensors(value.dtype, None)
    if isinstance(value, ListBox) and value.sequence is not None:
        return Sequences(value.sequence.dtype, value.sequence.shape)
    if isinstance(value, tuple):
        return Listed(tuple(spec_of(item) for item in value), False)
    return Fixed(value)


def join(spec: Spec, value: Any) -> Spec:
    """A spec for what has `spec` and for `value`. Raises Unspellable."""
    if isinstance(value, Nothing):
        return spec
    if isinstance(spec, Fixed):
        return _join_fixed(spec, value)
    if isinstance(spec, Tensors):
        return _join_tensors(spec, value)
    if isinstance(spec, Sequences):
        return _join_sequences(spec, value)
    assert isinstance(spec, Listed)
    if isinstance(value, ListBox) and value.sequence is not None:
        return _join_sequences(_sequence_of([*_tensors(spec)], value.sequence), value)
    items = value.items if isinstance(value, ListBox) else value
    if isinstance(items, tuple | list) and len(items) == len(spec.parts):
        return Listed(tuple(join(s, item) for s, item in zip(spec.parts, items, strict=True)), spec.is_list)
    return _sequence(_tensors(spec), items)


def _tensors(spec: Listed) -> list[Tensors]:
    return [part for part in spec.parts if isinstance(part, Tensors)]


def _join_sequences(spec: Sequences, value: Any) -> Spec:
    other = value.sequence or _sequence([], value.items)
    if other.dtype != spec.dtype:
        raise Unspellable("a list holds tensors of one type on one path and of another on the other")
    return Sequences(spec.dtype, joined_shape(spec.shape, other.shape))


def _sequence_of(parts: list[Tensors], other: OpenList) -> Sequences:
    shape = other.shape
    for part in parts:
        shape = joined_shape(shape, part.shape)
    return Sequences(other.dtype, shape)


def _join_fixed(spec: Fixed, value: Any) -> Spec:
    known = spec.value
    if isinstance(known, Nothing):
        found = spec_of(value)
        return _as_number(value) if isinstance(found, Fixed) and _is_scalar(value) else found
    if _same(known, value):
        return spec
    if _is_scalar(known) and (_is_scalar(value) or isinstance(value, Number)):
        number = _as_number(known)
        if isinstance(value, Number) and value.dtype != number.dtype:
            raise Unspellable("a number is of one type on one path and of another on the other")
        return number
    if isinstance(known, ListBox) and isinstance(value, ListBox):
        parts = [spec_of(item) for item in known.items]
        if value.sequence is not None:
            return _sequence_of(parts, value.sequence)
        if len(known.items) == len(value.items):
            return Listed(tuple(join(s, item) for s, item in zip(parts, value.items, strict=True)), True)
        return _sequence(parts, value.items)
    raise Unspellable("a value is known on one path and of another kind on the other, such as None and a tensor")


def _join_tensors(spec: Tensors, value: Any) -> Spec:
    if _is_scalar(value) and spec.number:
        return spec
    if not isinstance(value, Tensor) or value.dtype != spec.dtype:
        raise Unspellable("a value has one type on one path and another on the other")
    other = spec_of(value).shape if not isinstance(value, Number) else ()
    if spec.shape is None or other is None or len(other) != len(spec.shape):
        return Tensors(spec.dtype, None, spec.number)
    return Tensors(
        spec.dtype, tuple(a if a == b else None for a, b in zip(spec.shape, other, strict=True)), spec.number
    )


def _sequence(parts: list[Any], items: Any) -> Sequences:
    """What a list of tensors is whose length differs: `parts` before, `items` now."""
    tensors = [item for item in items if isinstance(item, Tensor) and not isinstance(item, Number)]
    specs = [*(part for part in parts if isinstance(part, Tensors)), *(spec_of(item) for item in tensors)]
    if len(tensors) != len(items) or len({spec.dtype for spec in specs}) != 1:
        raise Unspellable("how long a list of other than tensors is depends on data, which is not supported")
    shape = specs[0].shape
    for spec in specs[1:]:
        shape = joined_shape(shape, spec.shape)
    return Sequences(specs[0].dtype, shape)


def _as_number(value: Any) -> Tensors:
    kinds = {bool: ir.DataType.BOOL, int: ir.DataType.INT64, float: ir.DataType.DOUBLE}
    return Tensors(kinds[type(value)], (), True)


def _is_scalar(value: Any) -> bool:
    return isinstance(value, bool | int | float)


def _same(a: Any, b: Any) -> bool:
    if isinstance(a, Tensor | ListBox | Module) or isinstance(b, Tensor | ListBox | Module):
        return a is b or (isinstance(a, Module) and a == b)
    if isinstance(a, Sequence) and not isinstance(a, str) and isinstance(b, Sequence) and not isinstance(b, str):
        return len(a) == len(b) and all(_same(x, y) for x, y in zip(a, b, strict=True))
    return type(a) is type(b) and (a == b or a is b)
