"""Numbers, and Python's operators on what is known."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import onnx_ir as ir
import torch

from graphfuse.importers.torchscript.prims.table import LONGEST, TABLE, is_open, is_open_list, prim
from graphfuse.importers.torchscript.values import (
    ListBox,
    Number,
    Tensor,
    Unspellable,
)

if TYPE_CHECKING:
    from graphfuse.importers.torchscript.interpreter import Interpreter


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
        if any(isinstance(x, Tensor) or is_open_list(x) for x in given):
            return NotImplemented
        lists = [x.items if isinstance(x, ListBox) else x for x in given]
        if kind == "aten::mul" and any(isinstance(x, list) for x in lists):
            factor = next(x for x in lists if not isinstance(x, list))
            if factor * max(len(x) for x in lists if isinstance(x, list)) > LONGEST:
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
    return not isinstance(x, list | tuple) or not is_open(x)


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
        if not is_open([x, y]):
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


@prim("prim::min", "prim::max")
def extreme(run: Interpreter, node: Any, *given: Any) -> Any:
    compute = min if node.kind() == "prim::min" else max
    parts = given[0].items if len(given) == 1 and isinstance(given[0], ListBox) else list(given)
    if not is_open(parts):
        return compute(parts)
    with run.operator(node.kind(), parts):
        operands = run.b.operands(*parts)
        return run.b.number(run.b("Min" if compute is min else "Max", *operands))
