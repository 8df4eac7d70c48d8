"""Shape arithmetic of the model itself, done at compile time.

Models compute shapes with tensors: Shape, Gather, Mul, Concat, then Reshape. Such a tensor is known at compile time as
dimensions (numbers or expressions over the model's symbols) even where its numbers are not; `known_dims` finds them in
its program.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import product as cartesian

import onnx_ir as ir
import sympy

from graphfuse.graph import dims as D
from graphfuse.graph.dims import Dim
from graphfuse.graph.dtypes import is_float
from graphfuse.ops.expr import Arg, Call, Const, Expr, Load, Size
from graphfuse.ops.tensor import Concat, Generate, IndexMap, Map, Reduce, Tensor, size

# Larger tensors are data, not shapes.
MAX_ELEMENTS = 64
MAX_DEPTH = 200

_FOLDS: dict[str, Callable[[Dim, Dim], Dim]] = {"sum": D.add, "prod": D.mul, "max": D.maximum, "min": D.minimum}
_BINARY: dict[str, Callable[[Dim, Dim], Dim]] = {"add": D.add, "mul": D.mul, "max": D.maximum, "min": D.minimum}


class _Unknown(Exception):
    pass


def known_dims(x: Tensor) -> list[Dim] | None:
    """The elements of a small integer tensor, row-major, when the model's dimensions determine them; else None."""
    found = elements(x)
    return None if None in found else [d for d in found if d is not None]


def elements(x: Tensor) -> list[Dim | None]:
    """The elements of a small integer tensor as dimensions, None where the data decides; [None] of other tensors."""
    if not D.is_static(*x.shape) or int(D.product(x.shape)) > MAX_ELEMENTS:
        return [None]
    return [_known(x, index) for index in cartesian(*(range(int(d)) for d in x.shape))]


def _known(x: Tensor, index: Sequence[int]) -> Dim | None:
    try:
        return _integer(_element(x, index, MAX_DEPTH))
    except _Unknown:
        return None


def _integer(value: Dim) -> Dim:
    if not isinstance(value, int) and not value.is_integer:
        raise _Unknown
    return D.norm(value)


def _element(x: Tensor, index: Sequence[int], depth: int) -> Dim:
    if depth == 0:
        raise _Unknown
    prim = x.prim
    if x.outer is not None:
        return _element(x.outer, index, depth - 1)
    if prim is None:
        return _leaf(x, index)
    if isinstance(prim, Map):
        return _scalar(prim.body, prim.args, index, x, depth - 1)
    if isinstance(prim, Generate):
        return _scalar(prim.body(tuple(size(k) for k in index)), prim.args, index, x, depth - 1)
    if isinstance(prim, IndexMap):
        at, guard = prim.at(tuple(size(k) for k in index))
        return _scalar(Load(prim.args[0], at, guard, prim.fill), (), index, x, depth - 1)
    if isinstance(prim, Concat):
        return _concat_element(prim, list(index), depth - 1)
    if isinstance(prim, Reduce):
        return _reduce_element(prim, index, depth - 1)
    raise _Unknown


def _leaf(x: Tensor, index: Sequence[int]) -> Dim:
    tensor = None if x.value is None else ir.convenience.get_const_tensor(x.value)
    if tensor is None:
        raise _Unknown
    number = tensor.numpy()[tuple(index)]
    if not is_float(x.dtype):
        return int(number)
    if number != number or number in (float("inf"), float("-inf")):
        raise _Unknown
    return D.norm(sympy.Rational(float(number)))


def _concat_element(prim: Concat, index: list[int], depth: int) -> Dim:
    for part in prim.args:
        extent = part.shape[prim.axis]
        if not isinstance(extent, int):
            break
        if index[prim.axis] < extent:
            return _element(part, index, depth)
        index[prim.axis] -= extent
    raise _Unknown


def _reduce_element(prim: Reduce, index: Sequence[int], depth: int) -> Dim:
    x = prim.args[0]
    extents = [x.shape[k] for k in prim.axes]
    if prim.kind not in _FOLDS or not D.is_static(*extents) or int(D.product(extents)) > MAX_ELEMENTS:
        raise _Unknown
    total: Dim | None = None
    for inner in cartesian(*(range(int(d)) for d in extents)):
        at = list(index)
        for axis, k in zip(prim.axes, inner, strict=True):
            at[axis] = k
        element = _element(x, at, depth)
        total = element if total is None else _FOLDS[prim.kind](total, element)
    if total is None:
        raise _Unknown
    return total


def _scalar(e: Expr, args: Sequence[Tensor], index: Sequence[int], out: Tensor, depth: int) -> Dim:
    if isinstance(e, Const):
        return D.norm(sympy.Rational(float(e.value))) if is_float(e.dtype) else int(e.value)
    if isinstance(e, Size):
        return e.dim
    if isinstance(e, Arg):
        x = args[e.position]
        lead = out.rank - x.rank
        at = [0 if isinstance(d, int) and d == 1 else index[lead + k] for k, d in enumerate(x.shape)]
        return _element(x, at, depth)
    if isinstance(e, Load):
        return _load(e, args, index, out, depth)
    if isinstance(e, Call):
        return _call(e, args, index, out, depth)
    raise _Unknown


def _load(e: Load, args: Sequence[Tensor], index: Sequence[int], out: Tensor, depth: int) -> Dim:
    if e.guard is not None and not _scalar(e.guard, args, index, out, depth):
        if e.fill is None:
            raise _Unknown
        return _scalar(e.fill, args, index, out, depth)
    at = [_scalar(i, args, index, out, depth) for i in e.index]
    extents = e.tensor.shape
    if not all(isinstance(i, int) and isinstance(d, int) and 0 <= i < d for i, d in zip(at, extents, strict=True)):
        raise _Unknown
    return _element(e.tensor, [int(i) for i in at], depth)


def _call(e: Call, args: Sequence[Tensor], index: Sequence[int], out: Tensor, depth: int) -> Dim:
    if e.fn == "select":
        condition = _scalar(e.args[0], args, index, out, depth)
        return _scalar(e.args[1 if condition else 2], args, index, out, depth)
    values = [_scalar(a, args, index, out, depth) for a in e.args]
    exact = is_float(e.args[0].dtype)
    if e.fn == "cast":
        return values[0] if is_float(e.dtype) or not exact else _truncate(values[0])
    if e.fn in _BINARY:
        return _BINARY[e.fn](*values)
    if e.fn == "sub":
        return D.add(values[0], D.mul(-1, values[1]))
    if e.fn == "neg":
        return D.mul(-1, values[0])
    if e.fn in ("div", "floordiv", "floormod", "mod"):
        return _divide(e.fn, *values, exact=exact)
    if e.fn in ("floor", "ceil") and exact:
        return D.floordiv(values[0], 1) if e.fn == "floor" else D.ceildiv(values[0], 1)
    if e.fn in ("lt", "le", "gt", "ge", "eq", "ne", "and", "or", "not"):
        return _decide(e.fn, values)
    raise _Unknown


def _truncate(value: Dim) -> Dim:
    if isinstance(value, int):
        return value
    return D.floordiv(value, 1) if _sign(value) >= 0 else D.ceildiv(value, 1)


def _divide(fn: str, a: Dim, b: Dim, *, exact: bool) -> Dim:
    if b == 0:
        raise _Unknown
    if fn == "div" and exact:
        return D.norm(sympy.sympify(a) / b)
    if fn == "div":  # of integers: towards zero
        return D.floordiv(a, b) if _sign(a) * _sign(b) >= 0 else D.ceildiv(a, b)
    quotient = D.floordiv(a, b)
    return quotient if fn == "floordiv" else D.add(a, D.mul(-1, D.mul(quotient, b)))


def _sign(value: Dim) -> int:
    expression = sympy.sympify(value)
    if expression.is_nonnegative:
        return 1
    if expression.is_negative:
        return -1
    raise _Unknown


def _decide(fn: str, values: Sequence[Dim]) -> int:
    if fn in ("and", "or", "not"):
        return {"and": int(all(values)), "or": int(any(values)), "not": int(not values[0])}[fn]
    difference = sympy.sympify(values[0]) - values[1]
    truth = {
        "lt": difference.is_negative,
        "le": difference.is_nonpositive,
        "gt": difference.is_positive,
        "ge": difference.is_nonnegative,
        "eq": difference.is_zero,
        "ne": None if difference.is_zero is None else not difference.is_zero,
    }[fn]
    if truth is None:
        raise _Unknown
    return int(truth)
