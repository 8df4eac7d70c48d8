"""The table of aten operators: name -> what spells it. A file of ops/ adds to it by decorating functions.

A function's parameters are named as in torch's schema of the operator and bound by those names, whichever overload the
program has; the first parameter is the Builder. Operators that end in an underscore need no function of their own.
"""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch

from graphfuse.importers.torchscript.builder import FOLDED_ELEMENTS, Builder
from graphfuse.importers.torchscript.values import Alias, ListBox, Number, Tensor, Unspellable

# What says where a tensor lies in memory, which is nobody's business here.
_IGNORED = frozenset({"device", "layout", "pin_memory", "memory_format", "non_blocking", "copy", "implicit"})
# Operators on lists of which only the data says how long they are.
_OF_SEQUENCES = ("aten::cat", "aten::stack")


@dataclass(frozen=True)
class Op:
    """What spells an operator. folds: whether torch may compute it at once, from known tensors; write: see `view`."""

    name: str
    spell: Callable[..., Any]
    parameters: tuple[str, ...]
    folds: bool = True
    view: bool = False
    sure: bool = True
    write: Callable[..., Tensor] | None = None


_OPS: dict[str, Op] = {}


def op(*names: str, folds: bool = True) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """The decorated function spells these operators, `aten::` left out."""

    def register(spell: Callable[..., Any]) -> Callable[..., Any]:
        for name in names:
            _OPS[f"aten::{name}"] = Op(f"aten::{name}", spell, _parameters(spell), folds)
        return spell

    return register


def view(
    *names: str, sure: bool = True, write: Callable[..., Tensor] | None = None
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """The same for operators whose result shows their first argument's elements.

    write: (builder, base, new, *the other arguments) -> what the base is once the result has been given the value new.
    """

    def register(spell: Callable[..., Any]) -> Callable[..., Any]:
        for name in names:
            _OPS[f"aten::{name}"] = Op(f"aten::{name}", spell, _parameters(spell), True, True, sure, write)
        return spell

    return register


def _parameters(spell: Callable[..., Any]) -> tuple[str, ...]:
    return tuple(inspect.signature(spell).parameters)[1:]


@cache
def all_ops() -> Mapping[str, Op]:
    """Every operator that the files of ops/ spell."""
    from graphfuse.importers.torchscript import ops

    for info in sorted(pkgutil.iter_modules(ops.__path__), key=lambda i: i.name):
        importlib.import_module(f"{ops.__name__}.{info.name}")
    return dict(sorted(_OPS.items()))


@dataclass(frozen=True)
class Argument:
    name: str
    default: Any
    has_default: bool


@dataclass(frozen=True)
class Schema:
    """What torch says of one overload."""

    name: str
    overload: str
    arguments: tuple[Argument, ...]


@cache
def parsed(text: str) -> Schema:
    schema = torch._C.parse_schema(text)
    arguments = tuple(
        Argument(a.name, a.default_value if a.has_default_value() else None, a.has_default_value())
        for a in schema.arguments
    )
    return Schema(schema.name, schema.overload_name, arguments)


def is_known(kind: str) -> bool:
    """Whether an operator has a spelling, its own or, for one that works in place, that of the other form."""
    return kind in all_ops() or _functional(kind) in all_ops()


def _functional(kind: str) -> str:
    """The operator that computes what an in-place one does."""
    return kind[:-1] if kind.endswith("_") and not kind.endswith("__") else kind


def apply(b: Builder, kind: str, schema: Schema, given: Sequence[Any]) -> Any:
    """The results of an operator on these arguments. Raises Unspellable."""
    ops = all_ops()
    if kind in ops:
        return _call(b, ops[kind], schema, list(given))
    found = ops.get(_functional(kind))
    if found is None:
        raise Unspellable("there is no spelling for this operator")
    target = given[0]
    if not isinstance(target, Tensor):
        raise Unspellable("it changes what is no tensor")
    result = _call(b, found, schema, [Tensor(target.plain, b.touch), *given[1:]])
    result = b.cast(result, target.dtype)
    if result.shape != target.shape:
        result = b.expand(result, b.sizes(target))
    target.assign(result)
    return target


def _call(b: Builder, found: Op, schema: Schema, given: list[Any]) -> Any:
    given = [list(x.items) if isinstance(x, ListBox) and x.sequence is None else x for x in given]
    if any(isinstance(x, ListBox) for x in given) and found.name not in _OF_SEQUENCES:
        raise Unspellable("how long a list is depends on data, which is not supported here")
    bound = _bound(found, schema, given)
    if not found.view:
        return _plainly(b, found, schema, given, bound)
    first, *_ = found.parameters
    base = bound.pop(first)
    if not isinstance(base, Tensor):
        raise Unspellable("it takes a view of what is no tensor")

    def read(shown: Tensor) -> Any:
        return _plainly(b, found, schema, [shown, *given[1:]], {first: shown, **bound})

    result = read(base)
    if isinstance(result, Tensor):
        return _shown(b, found, base, read, bound, result)
    return ListBox([_shown(b, found, base, _nth(read, k), bound, r, False) for k, r in enumerate(result)], b.touch)


def _nth(read: Callable[[Tensor], Any], k: int) -> Callable[[Tensor], Tensor]:
    return lambda shown: read(shown)[k]


def _shown(
    b: Builder,
    found: Op,
    base: Tensor,
    read: Callable[[Tensor], Tensor],
    bound: dict[str, Any],
    result: Tensor,
    writes: bool = True,
) -> Tensor:
    if result is base:
        return base
    write = found.write
    written = None if write is None or not writes else lambda old, new: write(b, old, new, **bound)
    return b.view(base, result, Alias(base, read, written, found.name, found.sure))


def _bound(found: Op, schema: Schema, given: Sequence[Any]) -> dict[str, Any]:
    """The arguments by name, those that the function takes. Raises Unspellable for others that say something."""
    bound: dict[str, Any] = {}
    for k, argument in enumerate(schema.arguments):
        value = given[k] if k < len(given) else argument.default
        name = found.parameters[k] if schema.arguments[0].name == "a" and k < len(found.parameters) else argument.name
        if name in found.parameters:
            bound[name] = value
        elif argument.name == "out" and value is not None:
            raise Unspellable("results in tensors that are given (out=...) are not supported")
        elif argument.name not in _IGNORED and value is not None and value != argument.default:
            raise Unspellable(f"its argument {argument.name} = {value!r} is not supported")
    return bound


def _plainly(b: Builder, found: Op, schema: Schema, given: Sequence[Any], bound: dict[str, Any]) -> Any:
    """Compute it now where all is known, else spell it."""
    if found.folds:
        tensors = [x for x in _flat(given) if isinstance(x, Tensor)]
        consts = [x.const for x in tensors]
        lists = any(isinstance(x, ListBox) for x in given)
        if tensors and not lists and all(c is not None and c.numel() <= FOLDED_ELEMENTS for c in consts):
            folded = _folded(b, schema, given)
            if folded is not None:
                return folded
    return found.spell(b, **bound)


def _folded(b: Builder, schema: Schema, given: Sequence[Any]) -> Any:
    name, overload = schema.name, schema.overload
    if name.endswith("_") and not name.endswith("__"):
        return None
    call, _, _ = torch._C._get_operation_overload(name, overload)
    values = [x if k < len(given) else schema.arguments[k].default for k, x in enumerate(given)]
    positional, keywords = [], {}
    for argument, value in zip(schema.arguments, values, strict=False):
        if argument.name in ("device", "layout", "pin_memory"):
            continue
        keywords[argument.name] = _concrete(value)
    if "self" in keywords:
        positional.append(keywords.pop("self"))
    try:
        with torch.no_grad():
            result = call(*positional, **keywords)
    except (RuntimeError, TypeError, IndexError, ValueError):
        return None  # the spelling says what is wrong
    return _wrapped(b, result)


def _wrapped(b: Builder, result: Any) -> Any:
    if isinstance(result, torch.Tensor):
        if result.numel() > FOLDED_ELEMENTS or result.layout != torch.strided or result.is_complex():
            return None
        return b.const(result.clone())
    if isinstance(result, list | tuple):
        parts = [_wrapped(b, r) for r in result]
        if any(p is None for p in parts):
            return None
        return tuple(parts) if isinstance(result, tuple) else parts
    return result


def _concrete(value: Any) -> Any:
    if isinstance(value, Tensor):
        const = value.const
        assert const is not None
        return const.item() if isinstance(value, Number) or value.wrapped else const
    if isinstance(value, ListBox):
        return [_concrete(v) for v in value.items]
    if isinstance(value, list | tuple):
        return type(value)(_concrete(v) for v in value)
    return value


def _flat(values: Sequence[Any]) -> list[Any]:
    found: list[Any] = []
    for value in values:
        if isinstance(value, ListBox):
            found += [value.sequence] if value.sequence is not None else _flat(value.items)
        elif isinstance(value, list | tuple):
            found += _flat(value)
        else:
            found.append(value)
    return found
