"""What rules ask of values and nodes: constants, shapes, attributes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from graphfuse.graph import exact as digits
from graphfuse.graph.dims import Dim, dim, same, same_shape
from graphfuse.graph.dtypes import NARROW

Array = npt.NDArray[Any]


def array(value: ir.Value | None) -> Array | None:
    """The value's elements when they are known at compile time, else None."""
    if value is None or value.const_value is None or value.const_value.dtype == ir.DataType.STRING:
        return None
    return value.const_value.numpy()


def scalar(value: ir.Value | None) -> float | None:
    """The one element of a constant of one element, whatever its rank; else None."""
    if value is None or value.const_value is None or value.const_value.size != 1:
        return None
    elements = array(value)
    return None if elements is None else float(elements.reshape(()))


def is_scalar(value: ir.Value | None, expected: float, tolerance: float = 1e-6) -> bool:
    """Whether a value is a constant of one element near `expected` (relative tolerance, absolute near zero)."""
    found = scalar(value)
    return found is not None and abs(found - expected) <= tolerance * max(1.0, abs(expected))


def exact(value: ir.Value) -> Array:
    """A constant's elements in float64, as they were before they were last rounded."""
    elements = digits.exact(value)
    assert elements is not None
    return elements


def constant(op: Any, elements: Array, like: ir.Value, name: str) -> ir.Value:
    """A new constant of the element type of `like`, rounded once from float64; `name` is made unique."""
    assert like.dtype is not None
    tensor = ir.tensor(elements.astype(like.dtype.numpy()), dtype=like.dtype, name=name)
    value: ir.Value = op.initializer(tensor, name=name)
    if elements.dtype == np.float64 and like.dtype != ir.DataType.DOUBLE:
        value.meta[digits.EXACT_KEY] = elements
    return value


def scaled(op: Any, value: ir.Value, factor: Array, name: str) -> ir.Value:
    """A new constant, the elements of `value` times a float64 factor, rounded once however often it is scaled."""
    kept = value.meta.get(digits.EXACT_KEY)
    if isinstance(kept, digits.Scaled):
        kept = digits.Scaled(kept.base, kept.factor * factor)
    else:
        elements = kept if kept is not None else array(value)
        assert elements is not None
        kept = digits.Scaled(elements, factor)
    assert value.dtype is not None
    tensor = ir.tensor(kept.elements().astype(value.dtype.numpy()), dtype=value.dtype, name=name)
    result: ir.Value = op.initializer(tensor, name=name)
    result.meta[digits.EXACT_KEY] = kept
    return result


def overflows(elements: Array, like: ir.Value) -> bool:
    """Whether these float64 numbers leave the range of the element type of `like`."""
    assert like.dtype is not None
    with np.errstate(over="ignore", invalid="ignore"):
        return not bool(np.isfinite(elements.astype(like.dtype.numpy()).astype(np.float64)).all())


def scaling_overflows(value: ir.Value, factor: Array) -> bool:
    """Whether a constant times a factor leaves the range of its element type, by the largest of each."""
    elements = array(value)
    assert elements is not None
    if elements.size == 0:
        return False
    largest = np.abs(elements, dtype=elements.dtype).max() if elements.dtype.kind == "f" else np.abs(exact(value)).max()
    return overflows(np.asarray(np.float64(largest) * np.abs(factor).max()), value)


def ints(op: Any, elements: Sequence[int], name: str) -> ir.Value:
    """A new int64 constant; `name` is made unique."""
    value: ir.Value = op.initializer(ir.tensor(np.array(elements, np.int64), name=name), name=name)
    return value


def drop_exact(model: ir.Model) -> None:
    """Forget the float64 forms; nothing is folded after this. Half precision, computed in float32, keeps that."""
    for value in model.graph.initializers.values():
        if value.dtype in NARROW and digits.EXACT_KEY in value.meta:
            value.meta[digits.EXACT_KEY] = exact(value).astype(np.float32)
        else:
            value.meta.pop(digits.EXACT_KEY, None)


def is_floating(value: ir.Value | None) -> bool:
    """Whether the element type is known to be a floating-point one."""
    return value is not None and value.dtype is not None and value.dtype.is_floating_point()


def rank(value: ir.Value | None) -> int | None:
    """The number of dimensions, None when unknown."""
    return None if value is None or value.shape is None else len(value.shape)


def dims(value: ir.Value | None) -> tuple[Dim, ...] | None:
    """The dimensions, None when the rank or one of them is unknown."""
    if value is None or value.shape is None:
        return None
    try:
        return tuple(dim(d) for d in value.shape)
    except ValueError:
        return None


def keeps_shape(before: ir.Value | None, after: ir.Value | None) -> bool:
    """Whether two values provably have the same shape."""
    a, b = dims(before), dims(after)
    return a is not None and b is not None and same_shape(a, b)


def same_dim(a: Dim, b: Dim) -> bool:
    """Whether two dimensions are provably equal."""
    return same(a, b)


def axis_of(value: ir.Value, axis: int) -> int | None:
    """A possibly negative axis counted from the front; None when the rank is unknown."""
    count = rank(value)
    return None if count is None else axis % count if count else 0


def producer(value: ir.Value | None, *op_types: str) -> ir.Node | None:
    """The node that makes this value when it is a standard op of one of these types, else None."""
    node = None if value is None else value.producer()
    return node if node is not None and node.domain == "" and node.op_type in op_types else None


def input_of(node: ir.Node, k: int) -> ir.Value | None:
    """The k-th input, None when it is absent."""
    return node.inputs[k] if k < len(node.inputs) else None


def name_of(value: ir.Value, what: str) -> str:
    """A name for a constant derived from another: the other's name and what was done to it, once."""
    base = value.name or "constant"
    return base if base.endswith(f".{what}") else f"{base}.{what}"
