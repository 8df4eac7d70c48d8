"""Constants, attributes, exceptions, types."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import onnx_ir as ir

from graphfuse.importers.torchscript.prims.table import prim
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
