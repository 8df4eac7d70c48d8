"""Lists, tuples, dicts and texts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import onnx_ir as ir
import torch

from graphfuse.importers.torchscript.prims.table import LONGEST, is_open, is_open_list, prim
from graphfuse.importers.torchscript.values import (
    ListBox,
    Number,
    Tensor,
    Unspellable,
)

if TYPE_CHECKING:
    from graphfuse.importers.torchscript.interpreter import Interpreter


@prim("prim::ListConstruct")
def list_construct(run: Interpreter, node: Any, *items: Any) -> Any:
    return ListBox(list(items), run.b.touch)


@prim("prim::TupleConstruct")
def tuple_construct(run: Interpreter, node: Any, *items: Any) -> Any:
    return items


@prim("prim::DictConstruct")
def dict_construct(run: Interpreter, node: Any, *items: Any) -> Any:
    return dict(zip(items[::2], items[1::2], strict=True))


@prim("prim::TupleUnpack", "prim::ListUnpack")
def unpack(run: Interpreter, node: Any, items: Any) -> Any:
    if is_open_list(items):
        parts: Any = [sequence_item(run, items, k) for k in range(node.outputsSize())]
    else:
        parts = items.items if isinstance(items, ListBox) else items
    if len(parts) != node.outputsSize():
        raise Unspellable(f"{len(parts)} values are unpacked into {node.outputsSize()}")
    return parts[0] if len(parts) == 1 else list(parts)


@prim("prim::TupleIndex")
def tuple_index(run: Interpreter, node: Any, items: Any, index: int) -> Any:
    return items[index]


@prim("prim::TupleSlice")
def tuple_slice(run: Interpreter, node: Any, items: Any) -> Any:
    return items[node.i("beg") : node.i("end")]


@prim("aten::__getitem__")
def get_item(run: Interpreter, node: Any, items: Any, key: Any) -> Any:
    if is_open_list(items):
        return sequence_item(run, items, key)
    if isinstance(items, ListBox):
        if isinstance(key, Number):
            return _chosen(run, items, key)
        if not -len(items.items) <= key < len(items.items):
            raise Unspellable(f"there is no item {key} in a list of {len(items.items)}")
        return items.items[key]
    if isinstance(items, dict | str) and not isinstance(key, Tensor):
        if isinstance(items, dict) and key not in items:
            raise Unspellable(f"there is no key {key!r}")
        return items[key]
    raise Unspellable("a key that depends on data is not supported")


def sequence_item(run: Interpreter, items: ListBox, key: Any) -> Tensor:
    """The tensor at a position of a list whose length is not known."""
    index = key if isinstance(key, Number) else run.b.const(torch.tensor(key))
    assert items.sequence is not None
    found: Tensor = run.b("SequenceAt", items.sequence.value, index)
    return _of_element(found, items.sequence.shape)


def _of_element(found: Tensor, shape: Sequence[Any] | None) -> Tensor:
    if shape is not None:
        found.value.shape = ir.Shape(shape)
    return found


def _chosen(run: Interpreter, items: ListBox, key: Number) -> Any:
    """An item of a list of known length by a position that is not."""
    parts = items.items
    if parts and all(isinstance(p, int) and not isinstance(p, bool) for p in parts):
        return run.b.number(run.b("Gather", list(parts), key, axis=0))
    if parts and all(isinstance(p, Tensor) for p in parts):
        if len({(p.dtype, p.shape) for p in parts}) == 1 and None not in parts[0].shape:
            stacked = run.b("Concat", *(run.b("Unsqueeze", p, [0]) for p in parts), axis=0)
            found = run.b("Gather", stacked, key, axis=0)
            return run.b.number(found) if isinstance(parts[0], Number) else found
        return run.b("SequenceAt", run.b.speller("SequenceConstruct", *(p.value for p in parts)), key)
    raise Unspellable("an item of this list by a position that depends on data is not supported")


@prim("aten::slice")
def slice_of(run: Interpreter, node: Any, items: Any, *cut: Any) -> Any:
    if isinstance(items, Tensor):
        return NotImplemented
    if is_open(cut):
        raise Unspellable("a part of a list that depends on data is not supported")
    part = (items.items if isinstance(items, ListBox) else items)[slice(*cut)]
    return ListBox(part, run.b.touch) if isinstance(items, ListBox) else part


@prim("aten::index")
def index_of(run: Interpreter, node: Any, items: Any, *wanted: Any) -> Any:
    if isinstance(items, Tensor):
        return NotImplemented
    return _known_list(items).index(wanted[0])


@prim("aten::count")
def count_of(run: Interpreter, node: Any, items: Any, wanted: Any) -> Any:
    return _known_list(items).count(wanted)


@prim("aten::sort", "aten::sorted")
def sort_list(run: Interpreter, node: Any, items: Any, *more: Any) -> Any:
    if isinstance(items, Tensor):
        return NotImplemented
    ordered = sorted(_known_list(items), reverse=bool(more and more[0]))
    if node.kind() == "aten::sorted":
        return ListBox(ordered, run.b.touch)
    items.change(ordered)
    return ()


def _known_list(items: Any) -> list[Any]:
    if not isinstance(items, ListBox) or is_open(items.items):
        raise Unspellable("values that depend on data are not supported here")
    return items.items


@prim("aten::get")
def get(run: Interpreter, node: Any, items: dict[Any, Any], key: Any, default: Any = None) -> Any:
    return items.get(key, default)


@prim("aten::join")
def join(run: Interpreter, node: Any, text: str, parts: ListBox) -> Any:
    return text.join(parts.items)[:LONGEST]


@prim("aten::append")
def append(run: Interpreter, node: Any, items: Any, item: Any) -> Any:
    if is_open_list(items):
        items.change(None, items.sequence.appended(run.b, run.b.as_tensor(item)))
    else:
        items.change([*items.items, item])
    return items


@prim("aten::extend")
def extend(run: Interpreter, node: Any, items: ListBox, more: ListBox) -> Any:
    items.change([*items.items, *more.items])
    return ()


@prim("aten::insert")
def insert(run: Interpreter, node: Any, items: ListBox, place: int, item: Any) -> Any:
    changed = list(items.items)
    changed.insert(place, item)
    items.change(changed)
    return ()


@prim("aten::pop")
def pop(run: Interpreter, node: Any, items: ListBox, place: int = -1) -> Any:
    changed = list(items.items)
    item = changed.pop(place)
    items.change(changed)
    return item


@prim("aten::reverse")
def reverse(run: Interpreter, node: Any, items: ListBox) -> Any:
    items.change(items.items[::-1])
    return ()


@prim("aten::clear")
def clear(run: Interpreter, node: Any, items: ListBox) -> Any:
    items.change([])
    return ()


@prim("aten::_set_item")
def set_item(run: Interpreter, node: Any, items: Any, key: Any, item: Any) -> Any:
    if isinstance(items, dict):
        if run.b.in_body:
            raise Unspellable("a dict that changes where the data says so is not supported")
        items[key] = item
        return ()
    if isinstance(key, Tensor) or not isinstance(items, ListBox):
        raise Unspellable("a position that depends on data is not supported here")
    changed = list(items.items)
    changed[key] = item
    items.change(changed)
    return items


@prim("aten::keys")
def keys(run: Interpreter, node: Any, items: dict[Any, Any]) -> Any:
    return ListBox(list(items), run.b.touch)


@prim("aten::values")
def values(run: Interpreter, node: Any, items: dict[Any, Any]) -> Any:
    return ListBox(list(items.values()), run.b.touch)


@prim("aten::items")
def items_of(run: Interpreter, node: Any, items: dict[Any, Any]) -> Any:
    return ListBox(list(items.items()), run.b.touch)


@prim("aten::len")
def length(run: Interpreter, node: Any, items: Any) -> Any:
    if is_open_list(items):
        return run.b.number(run.b("SequenceLength", items.sequence.value))
    if isinstance(items, Tensor):
        return run.b.size(items, 0)
    return len(items.items if isinstance(items, ListBox) else items)


@prim("aten::__contains__")
def contains(run: Interpreter, node: Any, items: Any, item: Any) -> Any:
    parts = items.items if isinstance(items, ListBox) else items
    if is_open([*parts, item]):
        raise Unspellable("whether a list holds a value that depends on data is not supported")
    return item in parts


@prim("aten::list", "aten::copy")
def list_of(run: Interpreter, node: Any, items: Any) -> Any:
    if isinstance(items, Tensor):
        return NotImplemented
    return ListBox(list(items.items if isinstance(items, ListBox) else items), run.b.touch)


@prim("aten::any", "aten::all")
def any_of(run: Interpreter, node: Any, items: Any, *more: Any) -> Any:
    if not isinstance(items, ListBox):
        return NotImplemented
    if is_open(items.items):
        raise Unspellable("values that depend on data are not supported here")
    return any(items.items) if node.kind() == "aten::any" else all(items.items)


@prim("aten::format")
def format_(run: Interpreter, node: Any, text: str, *given: Any) -> Any:
    shown = iter(given)
    parts = text.split("{}")
    return "".join(p + (str(next(shown, "")) if k < len(parts) - 1 else "") for k, p in enumerate(parts))[:LONGEST]


@prim("aten::percentFormat")
def percent_format(run: Interpreter, node: Any, text: str, *given: Any) -> Any:
    return text


@prim("aten::__range_length")
def range_length(run: Interpreter, node: Any, low: Any, high: Any, step: Any) -> Any:
    if is_open([low, high, step]):
        raise Unspellable("a range whose step depends on data is not supported")
    return max(0, -(-(high - low) // step))


@prim("aten::__derive_index")
def derive_index(run: Interpreter, node: Any, index: Any, start: Any, step: Any) -> Any:
    if not is_open([index, start, step]):
        return start + index * step
    scaled = run.b("Mul", run.b.as_tensor(index), run.b.as_tensor(step))
    return run.b.number(run.b("Add", run.b.as_tensor(start), scaled))
