"""TorchScript's own primitives, and the aten operators on Python's values: what is known is computed at once.

Each entry is called with the interpreter, torch's node and the arguments, and returns the result, or NotImplemented for
arguments that are the operators' business.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import onnx_ir as ir
import torch

from graphfuse.importers.torchscript.values import (
    Function,
    ListBox,
    Module,
    Nothing,
    Number,
    Tensor,
    Unspellable,
)

if TYPE_CHECKING:
    from graphfuse.importers.torchscript.interpreter import Interpreter

TABLE: dict[str, Callable[..., Any]] = {}
_LONGEST = 100_000  # elements of a list, characters of a text


def prim(*kinds: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    def register(run: Callable[..., Any]) -> Callable[..., Any]:
        TABLE.update(dict.fromkeys(kinds, run))
        return run

    return register


# ---------------------------------------------------------------- constants, attributes, containers


@prim("prim::Constant")
def constant(run: Interpreter, node: Any) -> Any:
    value = node.output()
    if value.type().kind() == "FunctionType":
        return Function(value.type().annotation_str)
    found = run.lifted(value.toIValue())
    if isinstance(found, Tensor) and not found.rank:
        found.wrapped = True
    return found


@prim("prim::GetAttr")
def get_attribute(run: Interpreter, node: Any, target: Any) -> Any:
    if not isinstance(target, Module):
        raise Unspellable("attributes of objects that are no modules are not supported")
    return run.attribute(target, node.s("name"))


@prim("prim::SetAttr")
def set_attribute(run: Interpreter, node: Any, target: Any, value: Any) -> Any:
    if not isinstance(target, Module):
        raise Unspellable("attributes of objects that are no modules are not supported")
    run.assign(target, node.s("name"), value)
    return ()


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
    if _is_open_list(items):
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
    if _is_open_list(items):
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


def _is_open_list(items: Any) -> bool:
    """Whether only the data says how long a list is."""
    return isinstance(items, ListBox) and items.sequence is not None


def sequence_item(run: Interpreter, items: ListBox, key: Any) -> Tensor:
    index = key if isinstance(key, Number) else run.b.const(torch.tensor(key))
    assert items.sequence is not None
    found: Tensor = run.b("SequenceAt", items.sequence.value, index)
    return _of_element(run, found, items.sequence.shape)


def _of_element(run: Interpreter, found: Tensor, shape: Sequence[Any] | None) -> Tensor:
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
    if _open(cut):
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
    if not isinstance(items, ListBox) or _open(items.items):
        raise Unspellable("values that depend on data are not supported here")
    return items.items


@prim("aten::get")
def get(run: Interpreter, node: Any, items: dict[Any, Any], key: Any, default: Any = None) -> Any:
    return items.get(key, default)


@prim("aten::join")
def join(run: Interpreter, node: Any, text: str, parts: ListBox) -> Any:
    return text.join(parts.items)[:_LONGEST]


@prim("aten::append")
def append(run: Interpreter, node: Any, items: Any, item: Any) -> Any:
    if _is_open_list(items):
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
    if _is_open_list(items):
        return run.b.number(run.b("SequenceLength", items.sequence.value))
    if isinstance(items, Tensor):
        return run.b.size(items, 0)
    return len(items.items if isinstance(items, ListBox) else items)


@prim("aten::__contains__")
def contains(run: Interpreter, node: Any, items: Any, item: Any) -> Any:
    parts = items.items if isinstance(items, ListBox) else items
    if _open([*parts, item]):
        raise Unspellable("whether a list holds a value that depends on data is not supported")
    return item in parts


@prim("aten::list", "aten::copy")
def list_of(run: Interpreter, node: Any, items: Any) -> Any:
    if isinstance(items, Tensor):
        return NotImplemented
    return ListBox(list(items.items if isinstance(items, ListBox) else items), run.b.touch)


@prim("prim::unchecked_cast", "prim::unchecked_unwrap_optional", "aten::_unwrap_optional", "prim::Guard")
def same(run: Interpreter, node: Any, value: Any) -> Any:
    if value is None and node.kind() == "aten::_unwrap_optional":
        raise Unspellable("the value is None")
    return value


@prim("prim::data")
def data(run: Interpreter, node: Any, x: Tensor) -> Any:
    return x


@prim("prim::Uninitialized")
def uninitialized(run: Interpreter, node: Any) -> Any:
    return Nothing()


@prim("prim::RaiseException")
def raise_exception(run: Interpreter, node: Any, message: Any, *more: Any) -> Any:
    from graphfuse.importers.torchscript.interpreter import Raises

    raise Raises(str(message))


@prim("aten::warn", "prim::Print", "prim::rpc_sync")
def nothing(run: Interpreter, node: Any, *given: Any) -> Any:
    return ()


@prim("prim::isinstance")
def is_instance(run: Interpreter, node: Any, value: Any) -> Any:
    return any(_has_type(value, kind) for kind in node.tys("types"))


def _has_type(value: Any, kind: Any) -> bool:
    name = kind.kind()
    if name == "ListType":
        return isinstance(value, ListBox) and (
            value.sequence is not None or all(_has_type(v, kind.getElementType()) for v in value.items)
        )
    if name == "TupleType":
        parts = kind.elements()
        if not isinstance(value, tuple) or len(value) != len(parts):
            return False
        return all(_has_type(v, p) for v, p in zip(value, parts, strict=True))
    if name == "OptionalType":
        return value is None or _has_type(value, kind.getElementType())
    if name in ("IntType", "FloatType", "BoolType") and isinstance(value, Number):
        return bool(value.dtype == _NUMBERS[name])
    if name not in _PYTHON_TYPES:
        raise Unspellable(f"whether a value is of type {name} is not supported")
    if name == "TensorType":
        return isinstance(value, Tensor) and not isinstance(value, Number)
    return type(value) is _PYTHON_TYPES[name]


_NUMBERS = {"IntType": ir.DataType.INT64, "FloatType": ir.DataType.DOUBLE, "BoolType": ir.DataType.BOOL}
_PYTHON_TYPES = {
    "IntType": int, "FloatType": float, "BoolType": bool, "StringType": str, "NoneType": type(None), "DictType": dict,
    "TensorType": Tensor,
}  # fmt: skip


@prim("aten::__is__")
def is_(run: Interpreter, node: Any, a: Any, b: Any) -> Any:
    return (a is None) == (b is None) if a is None or b is None else a is b


@prim("aten::__isnot__")
def is_not(run: Interpreter, node: Any, a: Any, b: Any) -> Any:
    return not is_(run, node, a, b)


# ---------------------------------------------------------------- what is known about tensors


@prim("aten::dim", "aten::ndimension")
def dim(run: Interpreter, node: Any, x: Tensor) -> Any:
    return x.rank


@prim("aten::size", "prim::shape")
def size(run: Interpreter, node: Any, x: Tensor, axis: int | None = None) -> Any:
    if axis is not None:
        if isinstance(axis, Tensor):
            raise Unspellable("an axis that depends on data is not supported")
        if isinstance(x.shape[x.axis(axis)], int):
            return run.b.size(x, axis)
        with run.operator("aten::size", [x]):
            return run.b.size(x, axis)
    if all(isinstance(d, int) for d in x.shape):
        return ListBox(list(x.shape), run.b.touch)
    with run.operator("aten::size", [x]):
        return ListBox(run.b.sizes(x), run.b.touch)


@prim("aten::numel")
def numel(run: Interpreter, node: Any, x: Tensor) -> Any:
    if all(isinstance(d, int) for d in x.shape):
        return math.prod(d for d in x.shape if isinstance(d, int))
    with run.operator("aten::numel", [x]):
        return run.b.number(run.b("Size", x))


@prim("prim::dtype")
def dtype(run: Interpreter, node: Any, x: Tensor) -> Any:
    return run.b.code_of(x)


@prim("prim::device", "aten::device")
def device(run: Interpreter, node: Any, *given: Any) -> Any:
    return torch.device("cpu")


@prim("prim::layout")
def layout(run: Interpreter, node: Any, *given: Any) -> Any:
    return 0


@prim("prim::type", "prim::index")
def device_part(run: Interpreter, node: Any, given: Any) -> Any:
    return "cpu" if node.kind() == "prim::type" else None


@prim(
    "prim::is_cuda", "aten::is_cuda", "prim::is_quantized", "prim::is_sparse", "prim::is_mkldnn", "prim::is_meta",
    "prim::is_nested", "prim::is_mps", "prim::is_xpu", "prim::is_vulkan",
    "aten::is_complex", "aten::is_autocast_enabled", "aten::is_autocast_cpu_enabled",
)  # fmt: skip
def no(run: Interpreter, node: Any, *given: Any) -> Any:
    return False


# Programs ask these to choose between operators that fuse by themselves, such as a whole encoder layer, and the plain
# ones that they are made of: the answers of training lead to the plain ones, which are what can be compiled.
@prim("aten::is_grad_enabled")
def is_grad_enabled(run: Interpreter, node: Any) -> Any:
    return True


@prim("prim::requires_grad", "aten::requires_grad")
def requires_grad(run: Interpreter, node: Any, x: Tensor) -> Any:
    return bool(x.path)


@prim("aten::is_floating_point")
def is_floating_point(run: Interpreter, node: Any, x: Tensor) -> Any:
    return x.is_float


@prim("aten::is_contiguous")
def yes(run: Interpreter, node: Any, *given: Any) -> Any:
    return True


@prim("aten::set_grad_enabled", "aten::manual_seed")
def ignored(run: Interpreter, node: Any, *given: Any) -> Any:
    return ()


@prim("aten::result_type", "aten::promote_types")
def result_type(run: Interpreter, node: Any, a: Any, b: Any) -> Any:
    from graphfuse.importers.torchscript.values import CODES, NUMBERS

    if isinstance(a, Tensor) or isinstance(b, Tensor):
        return NUMBERS[run.b.promoted(a, b)]
    return NUMBERS[torch.promote_types(CODES[a], CODES[b])]


# ---------------------------------------------------------------- numbers


@prim("prim::NumToTensor")
def num_to_tensor(run: Interpreter, node: Any, x: Any) -> Any:
    return Tensor(x.plain, run.b.touch) if isinstance(x, Tensor) else run.b.const(torch.tensor(x))


@prim("aten::Int", "aten::IntImplicit")
def to_int(run: Interpreter, node: Any, x: Any) -> Any:
    return _converted(run, node, x, int, ir.DataType.INT64)


@prim("aten::Float", "aten::FloatImplicit")
def to_float(run: Interpreter, node: Any, x: Any) -> Any:
    return _converted(run, node, x, float, ir.DataType.DOUBLE)


@prim("aten::Bool", "aten::is_nonzero")
def to_bool(run: Interpreter, node: Any, x: Any) -> Any:
    return _converted(run, node, x, bool, ir.DataType.BOOL)


@prim("aten::item", "aten::ScalarImplicit")
def to_scalar(run: Interpreter, node: Any, x: Any) -> Any:
    if not isinstance(x, Tensor):
        return x
    kind = ir.DataType.BOOL if x.dtype == ir.DataType.BOOL else ir.DataType.DOUBLE if x.is_float else ir.DataType.INT64
    python = {ir.DataType.BOOL: bool, ir.DataType.DOUBLE: float, ir.DataType.INT64: int}[kind]
    return _converted(run, node, x, python, kind)


def _converted(run: Interpreter, node: Any, x: Any, python: Callable[[Any], Any], kind: ir.DataType) -> Any:
    if not isinstance(x, Tensor):
        if isinstance(x, str) and not _is_number(x):
            raise Unspellable(f"{x!r} is no number")
        return python(x)
    if x.const is not None:
        if x.const.numel() != 1:
            raise Unspellable("a tensor of several elements is no number")
        return python(x.const.item())
    if x.dtype == kind and x.rank == 0:
        return x if isinstance(x, Number) else run.b.number(x)
    with run.operator(node.kind(), [x]):
        scalar = x if x.rank == 0 else run.b.reshape(x, [])
        return run.b.number(run.b.cast(scalar, kind))


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _open(values: Sequence[Any]) -> bool:
    return any(isinstance(v, Tensor) for v in values)


def _floor_mod(a: Any, b: Any) -> Any:
    return a % b


def _ceil_div(a: int, b: int) -> int:
    return -(-a // b)


def _round(x: float, digits: int | None = None) -> float:
    return float(round(x, digits)) if digits is not None else float(round(x))


# Python's meaning of each operator on numbers, texts and lists that are known.
_PYTHON: Mapping[str, Callable[..., Any]] = {
    "aten::add": operator.add, "aten::sub": operator.sub, "aten::mul": operator.mul, "aten::div": operator.truediv,
    "aten::floordiv": operator.floordiv, "aten::remainder": _floor_mod, "aten::fmod": math.fmod,
    "aten::pow": operator.pow, "aten::neg": operator.neg, "prim::abs": abs, "aten::abs": abs,
    "aten::eq": operator.eq, "aten::ne": operator.ne, "aten::lt": operator.lt, "aten::le": operator.le,
    "aten::gt": operator.gt, "aten::ge": operator.ge, "aten::__not__": operator.not_,
    "aten::__and__": operator.and_, "aten::__or__": operator.or_, "aten::__xor__": operator.xor,
    "aten::__lshift__": operator.lshift, "aten::__rshift__": operator.rshift, "prim::min": min, "prim::max": max,
    "aten::ceil": math.ceil, "aten::floor": math.floor, "aten::sqrt": math.sqrt, "aten::exp": math.exp,
    "aten::log": math.log, "aten::log2": math.log2, "aten::log10": math.log10, "aten::sin": math.sin,
    "aten::cos": math.cos, "aten::tan": math.tan, "aten::tanh": math.tanh, "aten::atan": math.atan,
    "aten::asin": math.asin, "aten::acos": math.acos, "aten::atan2": math.atan2, "aten::round": _round,
    "aten::isnan": math.isnan, "aten::isinf": math.isinf, "aten::isfinite": math.isfinite,
    "aten::trunc": math.trunc, "aten::gcd": math.gcd, "aten::ceildiv": _ceil_div,
    "aten::lower": str.lower, "aten::upper": str.upper, "aten::startswith": str.startswith,
    "aten::endswith": str.endswith, "aten::str": str, "aten::ord": ord, "aten::strip": str.strip,
}  # fmt: skip


def _python(kind: str) -> Callable[..., Any]:
    compute = _PYTHON[kind]

    def run_known(run: Interpreter, node: Any, *given: Any) -> Any:
        if any(isinstance(x, Tensor) or _is_open_list(x) for x in given):
            return NotImplemented
        lists = [x.items if isinstance(x, ListBox) else x for x in given]
        if kind == "aten::mul" and any(isinstance(x, list) for x in lists):
            factor = next(x for x in lists if not isinstance(x, list))
            if factor * max(len(x) for x in lists if isinstance(x, list)) > _LONGEST:
                raise Unspellable("a list of this length is not supported")
        if kind == "aten::__not__" or all(_comparable(x) for x in lists):
            return _result(run, kind, compute, lists)
        if kind in ("aten::add", "aten::mul") and any(isinstance(x, list) for x in lists):
            return ListBox(compute(*lists), run.b.touch)
        if kind in ("aten::eq", "aten::ne"):
            return _compare_lists(run, kind, lists)
        raise Unspellable("values that depend on data are not supported here")

    return run_known


def _comparable(x: Any) -> bool:
    return not isinstance(x, list | tuple) or not _open(x)


def _result(run: Interpreter, kind: str, compute: Callable[..., Any], given: list[Any]) -> Any:
    texts = [x for x in given if isinstance(x, str)]
    if kind == "aten::mul" and texts:
        raise Unspellable("repeated texts are not supported")
    if kind == "aten::pow" and all(isinstance(x, int) for x in given):
        if abs(given[1]) > 64 and abs(given[0]) > 1:
            raise Unspellable("the power is too large")
        if given[1] < 0:
            given = [float(x) for x in given]
    if kind in ("aten::__lshift__", "aten::__rshift__") and not 0 <= given[1] < 64:
        raise Unspellable("a shift by that many bits is not supported")
    try:
        found = compute(*given)
    except (ArithmeticError, ValueError, TypeError) as error:
        raise Unspellable(f"the program computes something that does not exist: {error}") from error
    if isinstance(found, int) and not isinstance(found, bool):
        found = (found + 2**63) % 2**64 - 2**63  # integers are of 64 bits
    return ListBox(found, run.b.touch) if isinstance(found, list) else found


def _compare_lists(run: Interpreter, kind: str, lists: list[Any]) -> Any:
    """Whether two lists of integers are equal, where that follows from what is known."""
    a, b = lists
    if len(a) != len(b):
        return kind == "aten::ne"
    same: Any = True
    for x, y in zip(a, b, strict=True):
        if not _open([x, y]):
            if x != y:
                return kind == "aten::ne"
        elif not (isinstance(x, Number) and isinstance(y, Number) and x.dim is not None and x.dim == y.dim):
            part = run.b("Equal", run.b.as_tensor(x), run.b.as_tensor(y))
            same = part if same is True else run.b("And", same, part)
    if same is True:
        return kind == "aten::eq"
    return run.b.number(same if kind == "aten::eq" else run.b("Not", same))


for _kind in _PYTHON:
    TABLE[_kind] = _python(_kind)


@prim("aten::any", "aten::all")
def any_of(run: Interpreter, node: Any, items: Any, *more: Any) -> Any:
    if not isinstance(items, ListBox):
        return NotImplemented
    if _open(items.items):
        raise Unspellable("values that depend on data are not supported here")
    return any(items.items) if node.kind() == "aten::any" else all(items.items)


@prim("prim::min", "prim::max")
def extreme(run: Interpreter, node: Any, *given: Any) -> Any:
    compute = min if node.kind() == "prim::min" else max
    parts = given[0].items if len(given) == 1 and isinstance(given[0], ListBox) else list(given)
    if not _open(parts):
        return compute(parts)
    with run.operator(node.kind(), parts):
        operands = run.b.operands(*parts)
        return run.b.number(run.b("Min" if compute is min else "Max", *operands))


@prim("aten::format")
def format_(run: Interpreter, node: Any, text: str, *given: Any) -> Any:
    shown = iter(given)
    parts = text.split("{}")
    return "".join(p + (str(next(shown, "")) if k < len(parts) - 1 else "") for k, p in enumerate(parts))[:_LONGEST]


@prim("aten::percentFormat")
def percent_format(run: Interpreter, node: Any, text: str, *given: Any) -> Any:
    return text


@prim("aten::__range_length")
def range_length(run: Interpreter, node: Any, low: Any, high: Any, step: Any) -> Any:
    if _open([low, high, step]):
        raise Unspellable("a range whose step depends on data is not supported")
    return max(0, -(-(high - low) // step))


@prim("aten::__derive_index")
def derive_index(run: Interpreter, node: Any, index: Any, start: Any, step: Any) -> Any:
    if not _open([index, start, step]):
        return start + index * step
    scaled = run.b("Mul", run.b.as_tensor(index), run.b.as_tensor(step))
    return run.b.number(run.b("Add", run.b.as_tensor(start), scaled))
