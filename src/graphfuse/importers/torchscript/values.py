"""What a TorchScript program's variables hold while it is read.

Python's own values (None, bool, int, float, str, lists, tuples, dicts) are as the program has them while they are
known. What depends on data is a Tensor, or a Number: a Tensor of rank 0 that the program has as an int, float or bool.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import onnx_ir as ir
import torch

from graphfuse.importers.spelling import Array

Dim = int | str | None

_serial = itertools.count(1)


def now() -> int:
    """A place in the order in which things are made."""
    return next(_serial)


class Unspellable(Exception):
    """Something that has no spelling: the reason, and what the user can do."""

    def __init__(self, reason: str, remedy: str = "") -> None:
        super().__init__(reason)
        self.reason, self.remedy = reason, remedy


class NeedsInteger(Unspellable):
    """A tensor that has to be of integers here."""

    def __init__(self, plain: Plain) -> None:
        super().__init__(
            "an index has to be an integer", "give the input's element type, as in --shape NAME=1x16:int64"
        )
        self.plain = plain


class Box(Protocol):
    """Something that a program changes in place. born: its place in the order in which such things were made."""

    born: int

    def state(self) -> Any:
        """What it holds."""
        ...

    def restore(self, state: Any) -> None:
        """Hold that again."""
        ...


Touch = Callable[[Box], None]


class Plain:
    """An ONNX value, or a constant that becomes one when it is first asked for. dim: the size that it is, by name."""

    __slots__ = ("_value", "const", "dim", "make")

    def __init__(
        self,
        value: ir.Value | None = None,
        const: torch.Tensor | None = None,
        make: Callable[[], ir.Value] | None = None,
    ) -> None:
        self._value, self.const, self.make = value, const, make
        self.dim: str | None = None

    @property
    def value(self) -> ir.Value:
        if self._value is None:
            assert self.make is not None
            self._value = self.make()
        return self._value

    @property
    def dtype(self) -> ir.DataType:
        if self.const is not None:
            return DTYPES[self.const.dtype]
        assert self._value is not None
        if self._value.dtype is None:
            raise Unspellable("the element type of an argument is not known")
        return self._value.dtype

    @property
    def shape(self) -> tuple[Dim, ...]:
        if self.const is not None:
            return tuple(self.const.shape)
        assert self._value is not None
        if self._value.shape is None:
            raise Unspellable("the rank of an argument is not known")
        return tuple(dim if isinstance(dim, int) else dim.value for dim in self._value.shape)


class Lost(Plain):
    """What a tensor holds that was written to in a way that cannot be followed: any use is an error."""

    __slots__ = ("reason",)

    def __init__(self, reason: str) -> None:
        super().__init__()
        self.reason = reason

    def _refuse(self) -> Any:
        raise Unspellable(self.reason)

    value = property(_refuse)  # type: ignore[assignment]
    dtype = property(_refuse)  # type: ignore[assignment]
    shape = property(_refuse)  # type: ignore[assignment]
    const = property(_refuse, lambda self, _: None)  # type: ignore[assignment]


@dataclass(frozen=True)
class Alias:
    """What a view shows of another tensor.

    read: base -> view; write: (base, new view) -> new base, None where that is not supported; sure: whether torch makes
    a view here at all, or perhaps a copy, depending on how the tensor lies in memory; how: the operator.
    """

    base: Tensor
    read: Callable[[Tensor], Tensor]
    write: Callable[[Tensor, Tensor], Tensor] | None
    how: str
    sure: bool = True


class Tensor:
    """A tensor of the program. In-place operators give it another value, which its views then show as well.

    path: the weight's name; wrapped: whether it is a number that the program holds as a tensor, which in torch's rules
    of promotion counts as a number: TorchScript takes all constants of rank 0 for such.
    """

    wrapped = False

    def __init__(self, plain: Plain, touch: Touch, alias: Alias | None = None, path: str = "") -> None:
        self._plain, self._touch, self.alias, self.path = plain, touch, alias, path
        self.born = self.version = next(_serial)
        self._seen = alias.base.version if alias else 0

    @property
    def plain(self) -> Plain:
        """What it holds now."""
        alias = self.alias
        if alias is not None:
            shown = alias.base.plain  # of a view of a view, this looks at its base in turn
            if self._seen != alias.base.version:
                if not alias.sure and not isinstance(shown, Lost):
                    raise Unspellable(f"{alias.how} may be a view or a copy of a tensor that is written to")
                self._touch(self)
                self._plain = alias.read(Tensor(shown, self._touch)).plain
                self._seen, self.version = alias.base.version, next(_serial)
        return self._plain

    def assign(self, new: Tensor) -> None:
        """Give it another value, and the tensor that it is a view of. Raises Unspellable."""
        alias = self.alias
        if alias is not None:
            if alias.write is None or not alias.sure:
                alias.base.lose(f"it was written to in place through {alias.how}, which is not supported")
            else:
                alias.base.assign(alias.write(Tensor(alias.base.plain, self._touch), new))
        self._touch(self)
        self._plain, self.version = new.plain, next(_serial)
        self._seen = alias.base.version if alias is not None else 0

    def lose(self, reason: str) -> None:
        """Say that what it holds, and what it is a view of, is not known any more."""
        self._touch(self)
        self._plain, self.version = Lost(reason), next(_serial)
        if self.alias is not None:
            self.alias.base.lose(reason)
            self._seen = self.alias.base.version

    def state(self) -> Any:
        return self._plain, self._seen, self.version

    def restore(self, state: Any) -> None:
        self._plain, self._seen, self.version = state

    @property
    def value(self) -> ir.Value:
        return self.plain.value

    @property
    def const(self) -> torch.Tensor | None:
        """Its value, where that is known and small enough to compute with."""
        return self.plain.const

    @property
    def dtype(self) -> ir.DataType:
        return self.plain.dtype

    @property
    def shape(self) -> tuple[Dim, ...]:
        return self.plain.shape

    @property
    def rank(self) -> int:
        return len(self.shape)

    def axis(self, dim: int) -> int:
        """An axis counted from the front. Raises Unspellable for one that is not there."""
        rank = max(1, self.rank)
        if not -rank <= dim < rank:
            raise Unspellable(f"there is no axis {dim} in a tensor of rank {self.rank}")
        return dim % rank

    @property
    def is_float(self) -> bool:
        return self.dtype.is_floating_point()


class Number(Tensor):
    """An int, float or bool that depends on data."""

    @property
    def dim(self) -> str | None:
        """The name of the size that it is, where it is one."""
        return self.plain.dim


@dataclass(frozen=True)
class OpenList:
    """An ONNX sequence of tensors; shape: of each of them, None where the rank differs."""

    value: ir.Value
    dtype: ir.DataType
    shape: tuple[Dim, ...] | None

    def appended(self, b: Any, item: Tensor) -> OpenList:
        """The same with one tensor more behind it."""
        longer = b.speller("SequenceInsert", self.value, item.value)
        longer.type = self.value.type
        return OpenList(longer, self.dtype, joined_shape(self.shape, item.shape))


def joined_shape(one: tuple[Dim, ...] | None, two: tuple[Dim, ...] | None) -> tuple[Dim, ...] | None:
    """What two shapes have in common; None where that is not even the rank."""
    if one is None or two is None or len(one) != len(two):
        return None
    return tuple(a if a == b else None for a, b in zip(one, two, strict=True))


class ListBox:
    """A list of the program, which is changed in place.

    sequence: its contents where only the data says how long it is.
    """

    def __init__(self, items: list[Any] | None, touch: Touch, sequence: OpenList | None = None) -> None:
        self.born, self._items, self.sequence, self._touch = next(_serial), items, sequence, touch

    @property
    def items(self) -> list[Any]:
        """To be read only. Raises Unspellable where its length depends on data."""
        if self._items is None:
            raise Unspellable("how long a list is depends on data, which is not supported here")
        return self._items

    def change(self, items: list[Any] | None, sequence: OpenList | None = None) -> None:
        self._touch(self)
        self._items, self.sequence = items, sequence

    def copy(self) -> ListBox:
        """Another list of the same contents."""
        return ListBox(self._items, self._touch, self.sequence)

    def become(self, other: ListBox) -> None:
        """Take the contents of another."""
        self.change(other._items, other.sequence)

    def state(self) -> Any:
        return self._items, self.sequence

    def restore(self, state: Any) -> None:
        self._items, self.sequence = state


@dataclass(eq=False)
class Slot:
    """An attribute of a module: what it held in the file, and what it holds now."""

    path: str
    initial: Any
    touch: Touch
    now: Any = None
    written: bool = False
    first: Plain | None = None
    born: int = 0  # before all else, wherever the program first asks for it

    def __post_init__(self) -> None:
        if isinstance(self.now, Tensor | ListBox):
            self.now.born = 0
        self.first = self.now.plain if isinstance(self.now, Tensor) else None

    @property
    def changed(self) -> bool:
        """Whether the program wrote to it, or to the tensor in it."""
        return self.written or (self.first is not None and self.now.plain is not self.first)

    def assign(self, value: Any) -> None:
        self.touch(self)
        self.now, self.written = value, True

    def state(self) -> Any:
        return self.now, self.written

    def restore(self, state: Any) -> None:
        self.now, self.written = state


@dataclass(frozen=True)
class Module:
    """A module: its path in the model, and torch's own object."""

    path: str
    object: Any

    def inside(self, name: str) -> str:
        return f"{self.path}.{name}" if self.path else name


@dataclass(frozen=True)
class Function:
    """A function of the program by its qualified name."""

    name: str


class Nothing:
    """What a variable holds on a path that ends in an exception."""


DTYPES: Mapping[torch.dtype, ir.DataType] = {
    torch.float32: ir.DataType.FLOAT,
    torch.float64: ir.DataType.DOUBLE,
    torch.float16: ir.DataType.FLOAT16,
    torch.bfloat16: ir.DataType.BFLOAT16,
    torch.uint8: ir.DataType.UINT8,
    torch.int8: ir.DataType.INT8,
    torch.int16: ir.DataType.INT16,
    torch.int32: ir.DataType.INT32,
    torch.int64: ir.DataType.INT64,
    torch.bool: ir.DataType.BOOL,
}
TORCH_DTYPES = {ours: theirs for theirs, ours in DTYPES.items()}
# How TorchScript numbers element types (c10/core/ScalarType.h).
CODES: Mapping[int, torch.dtype] = {
    0: torch.uint8, 1: torch.int8, 2: torch.int16, 3: torch.int32, 4: torch.int64, 5: torch.float16,
    6: torch.float32, 7: torch.float64, 11: torch.bool, 15: torch.bfloat16,
}  # fmt: skip
NUMBERS = {ours: code for code, ours in CODES.items()}


def array_of(tensor: torch.Tensor) -> Array:
    """The elements in NumPy, bfloat16 as ml_dtypes has it."""
    tensor = tensor.detach().cpu().contiguous()
    if tensor.dtype == torch.bfloat16:
        return tensor.view(torch.int16).numpy().view(ir.DataType.BFLOAT16.numpy())
    return np.asarray(tensor.numpy())
