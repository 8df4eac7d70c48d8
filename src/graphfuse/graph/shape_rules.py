"""Shape rules that replace those of onnx_shape_inference where it guesses, or knows less than it could.

The library assumes that a slice's constant bounds lie inside a symbolic dimension, truncates float quotients, and
scales dimensions in exact arithmetic where runtimes use float32; a wrong shape here would be wrong code later. Each
rule is registered for the one opset that graphs have after import.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import cast

import numpy as np
import onnx_ir as ir
import sympy
from onnx_shape_inference import (  # type: ignore[import-untyped]
    SYM_DATA_KEY,
    ShapeInferenceContext,
    broadcast_shapes,
    registry,
)

OPSET = 24
SymDim = int | ir.SymbolicDim
_LONGEST_SHAPE = 64
_ELEMENT = "_x"  # begins the symbols of elements that may be of any sign
_Rule = Callable[[ShapeInferenceContext, ir.Node], None]


def expr(dim: SymDim) -> sympy.Expr:
    """A dimension as a sympy expression; symbols are positive integers."""
    return sympy.Integer(dim) if isinstance(dim, int) else cast(sympy.Expr, dim._expr)


def to_dim(value: sympy.Expr) -> SymDim:
    """An expression as a dimension: an int when it is one."""
    return int(value) if value.is_Integer else ir.SymbolicDim(value)


def known(ctx: ShapeInferenceContext, node: ir.Node, k: int) -> list[SymDim] | None:
    """The elements of an integer input, from a constant or from what is known symbolically; else None."""
    value = node.inputs[k] if k < len(node.inputs) else None
    if value is None:
        return None
    tensor = ir.convenience.get_const_tensor(value)
    if tensor is None:
        return ctx.get_symbolic_value(value)
    if len(tensor.shape) > 1 or not (tensor.dtype.is_integer() or tensor.dtype == ir.DataType.BOOL):
        return None
    return [int(x) for x in tensor.numpy().ravel()]


def known_ints(ctx: ShapeInferenceContext, node: ir.Node, k: int) -> list[int] | None:
    elements = known(ctx, node, k)
    if elements is None or not all(isinstance(e, int) for e in elements):
        return None
    return [e for e in elements if isinstance(e, int)]


def _replace(op_type: str) -> Callable[[_Rule], _Rule]:
    """Register a rule for OPSET in place of the library's, which the rule may call as its second choice."""
    return registry.register("", op_type, since_version=OPSET)


registry.collect()
_library = {
    op: registry.get("", op, version=OPSET - 1)
    for op in (
        "Slice",
        "Add",
        "Sub",
        "Mul",
        "Concat",
        "ConstantOfShape",
        "Expand",
        "Pad",
        "Resize",
        "Equal",
        "Where",
        "Cast",
        "Split",
        "Unique",
    )
}


def _fall_back(ctx: ShapeInferenceContext, node: ir.Node) -> None:
    rule = _library[node.op_type]
    assert rule is not None
    rule(ctx, node)


@_replace("Slice")
def _slice(ctx: ShapeInferenceContext, node: ir.Node) -> None:
    """Bounds are clamped to the dimension, as ONNX says, also when the dimension is symbolic."""
    data, out = node.inputs[0], node.outputs[0]
    if data is None or data.shape is None:
        _fall_back(ctx, node)
        return
    starts, ends, rank = known(ctx, node, 1), known(ctx, node, 2), len(data.shape)
    axes = known_ints(ctx, node, 3) if _is_given(node, 3) else list(range(rank))[: len(starts or ())]
    steps = known_ints(ctx, node, 4) if _is_given(node, 4) else [1] * len(starts or ())
    if axes is not None and steps is not None and (0 in steps or any(not -rank <= a < rank for a in axes)):
        _fall_back(ctx, node)  # which says what is wrong with the node
        return
    dims = list(data.shape)
    if starts is None or ends is None or axes is None or steps is None:
        given = axes if axes and _is_given(node, 3) else range(rank)
        for axis in given:
            dims[axis] = ctx.new_symbolic_dim()
        ctx.set_shape_and_dtype(out, ir.Shape(dims), data.dtype)
        return
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        extent = slice_extent(dims[axis], start, end, step)
        dims[axis] = ctx.new_symbolic_dim() if extent is None else extent
    ctx.set_shape_and_dtype(out, ir.Shape(dims), data.dtype)
    elements = ctx.get_symbolic_value(data)
    if rank == 1 and elements is not None and starts and isinstance(starts[0], int) and isinstance(ends[0], int):
        ctx.set_symbolic_value(out, [elements[k] for k in taken(len(elements), starts[0], ends[0], steps[0])])


@_replace("Split")
def _split(ctx: ShapeInferenceContext, node: ir.Node) -> None:
    """Sizes that are known at run time only need not be equal, as the library has them."""
    data = node.inputs[0]
    if data is None or data.shape is None or not _is_given(node, 1) or known_ints(ctx, node, 1) is not None:
        _fall_back(ctx, node)
        return
    axis = node.attributes.get_int("axis", 0) % len(data.shape)
    for out in node.outputs:
        dims = [ctx.new_symbolic_dim() if k == axis else d for k, d in enumerate(data.shape)]
        ctx.set_shape_and_dtype(out, ir.Shape(dims), data.dtype)


def _is_given(node: ir.Node, k: int) -> bool:
    return k < len(node.inputs) and node.inputs[k] is not None


def slice_extent(dim: SymDim, start: SymDim, end: SymDim, step: int) -> SymDim | None:
    """The number of elements that start:end:step takes from an axis, or None when it cannot be told."""
    if isinstance(dim, int) and isinstance(start, int) and isinstance(end, int):
        return len(taken(dim, start, end, step))
    if step < 0:
        whole = isinstance(start, int) and isinstance(end, int) and start >= 2**31 - 1 and end <= -(2**31) + 1
        reverse = start == -1 and isinstance(end, int) and end <= -(2**31) + 1
        return dim if step == -1 and (whole or reverse) else None
    low, high = _bound(dim, start), _bound(dim, end)
    if low is None or high is None:
        return None
    length = sympy.Max(0, high - low)
    if (high - low).is_nonnegative or (low == 0 and high == expr(dim)):
        length = high - low  # a size is never negative, whatever can be proven of its expression
    return to_dim(sympy.floor((length + step - 1) / step))


def taken(size: int, start: int, end: int, step: int) -> range:
    """The places that a slice takes from an axis: bounds count from the far end where negative, and are clamped."""
    first, last = (0, size) if step > 0 else (-1, size - 1)
    start, end = (bound + size if bound < 0 else bound for bound in (start, end))
    # Stepping back, one begins at an element and may end before the first.
    return range(min(max(start, 0), last), min(max(end, first), last), step) if size else range(0)


def _bound(dim: SymDim, bound: SymDim) -> sympy.Expr | None:
    """A bound of a slice with positive step, clamped into 0..dim; None when its sign is not known."""
    size = expr(dim)
    if isinstance(bound, int) and bound >= 2**31 - 1:
        return size
    at = expr(bound)
    if at == 0:
        return at
    if isinstance(bound, int) and bound < 0:
        return sympy.Max(0, size + at) if not (size + at).is_nonnegative else size + at
    if not isinstance(bound, int) and not at.is_nonnegative:
        return None
    return at if (size - at).is_nonnegative else sympy.Min(size, at)


@_replace("Div")
def _div(ctx: ShapeInferenceContext, node: ir.Node) -> None:
    """Only integers divide with truncation, and a symbolic dimension divides by a positive integer."""
    a, b, out = node.inputs[0], node.inputs[1], node.outputs[0]
    if a is None or b is None:
        return
    dtype = a.dtype or b.dtype
    ctx.set_shape_and_dtype(out, broadcast_shapes(a.shape, b.shape), dtype)
    left, right = known(ctx, node, 0), known_ints(ctx, node, 1)
    if left is None or right is None or dtype is None or not dtype.is_integer() or not _flat(out):
        return
    if len(right) == 1:
        right = right * len(left)
    if len(left) != len(right):
        return
    pairs = [(expr(x), r) for x, r in zip(left, right, strict=True)]
    if all(r > 0 and x.is_nonnegative for x, r in pairs):
        ctx.set_symbolic_value(out, [to_dim(sympy.floor(x / r)) for x, r in pairs])


@_replace("Mod")
def _mod(ctx: ShapeInferenceContext, node: ir.Node) -> None:
    """A symbolic dimension modulo a positive integer."""
    a, b, out = node.inputs[0], node.inputs[1], node.outputs[0]
    if a is None or b is None:
        return
    ctx.set_shape_and_dtype(out, broadcast_shapes(a.shape, b.shape), a.dtype or b.dtype)
    left, right = known(ctx, node, 0), known_ints(ctx, node, 1)
    if not left or not right or not _flat(out) or len(right) not in (1, len(left)):
        return
    pairs = list(zip([expr(x) for x in left], right * (len(left) // len(right)), strict=True))
    if all(r > 0 and x.is_nonnegative for x, r in pairs):
        ctx.set_symbolic_value(out, [to_dim(sympy.Mod(x, r)) for x, r in pairs])


@_replace("Max")
@_replace("Min")
def _extreme(ctx: ShapeInferenceContext, node: ir.Node) -> None:
    """The larger or smaller of two dimensions."""
    values = [value for value in node.inputs if value is not None]
    shape, dtype = values[0].shape, values[0].dtype
    for value in values[1:]:
        shape, dtype = broadcast_shapes(shape, value.shape), dtype or value.dtype
    ctx.set_shape_and_dtype(node.outputs[0], shape, dtype)
    operands = [known(ctx, node, k) for k in range(len(node.inputs))]
    known_operands = [x for x in operands if x is not None]
    if len(known_operands) != len(operands) or not _flat(node.outputs[0]):
        return
    count = max(len(x) for x in known_operands)
    if any(len(x) not in (1, count) for x in known_operands) or count == 0:
        return
    extreme = sympy.Max if node.op_type == "Max" else sympy.Min
    columns = zip(*(x * (count // len(x)) for x in known_operands), strict=True)
    ctx.set_symbolic_value(node.outputs[0], [to_dim(extreme(*(expr(d) for d in column))) for column in columns])


@_replace("Add")
@_replace("Sub")
@_replace("Mul")
def _arithmetic(ctx: ShapeInferenceContext, node: ir.Node) -> None:
    """The library keeps elements as a flat list; it means nothing where two ranks meet, or beyond 64 bits."""
    if all(value is not None and _flat(value) for value in node.inputs):
        with contextlib.suppress(OverflowError):
            _fall_back(ctx, node)
            return
    a, b = node.inputs[0], node.inputs[1]
    if a is not None and b is not None:
        ctx.set_shape_and_dtype(node.outputs[0], broadcast_shapes(a.shape, b.shape), a.dtype or b.dtype)


@_replace("Cast")
def _cast(ctx: ShapeInferenceContext, node: ir.Node) -> None:
    """Numbers that the type does not hold wrap around: nothing is told about them then."""
    with contextlib.suppress(OverflowError):
        _fall_back(ctx, node)
        return
    source, target = node.inputs[0], node.attributes.get_int("to")
    if source is not None and target is not None:
        ctx.set_shape_and_dtype(node.outputs[0], source.shape, ir.DataType(target))


@registry.register("ai.onnx.ml", "ArrayFeatureExtractor", since_version=1)
def _array_feature_extractor(ctx: ShapeInferenceContext, node: ir.Node) -> None:
    """A list of features is taken for a row, which the library's rule is not told."""
    x, indices = node.inputs[0], node.inputs[1]
    if x is None or indices is None or x.shape is None or indices.shape is None:
        return
    lead = list(x.shape[:-1]) if len(x.shape) > 1 else [1]
    count = sympy.Mul(*(expr(d) for d in indices.shape))
    ctx.set_shape_and_dtype(node.outputs[0], ir.Shape([*lead, to_dim(count)]), x.dtype)


def _flat(value: ir.Value) -> bool:
    return value.shape is not None and len(value.shape) <= 1


@_replace("MelWeightMatrix")
def _mel_weight_matrix(ctx: ShapeInferenceContext, node: ir.Node) -> None:
    """One row for each bin of a spectrum, half of its length and one; the library takes the inputs for the shape."""
    bands, length = known_ints(ctx, node, 0), known_ints(ctx, node, 1)
    shape = [length[0] // 2 + 1 if length else ctx.new_symbolic_dim(), bands[0] if bands else ctx.new_symbolic_dim()]
    ctx.set_shape_and_dtype(
        node.outputs[0], ir.Shape(shape), ir.DataType(node.attributes.get_int("output_datatype", 1))
    )


@_replace("Unique")
def _unique(ctx: ShapeInferenceContext, node: ir.Node) -> None:
    """Along an axis the others stay as they are; the library takes what is not constant for a list."""
    x, axis = node.inputs[0], node.attributes.get("axis")
    if axis is None or x is None or x.const_value is not None:
        _fall_back(ctx, node)
        return
    if x.shape is None:
        return
    dims, k, found = list(x.shape), axis.as_int(), ctx.new_symbolic_dim()
    ctx.set_shape_and_dtype(node.outputs[0], ir.Shape([*dims[:k], found, *dims[k:][1:]]), x.dtype)
    for y, n in zip(node.outputs[1:], (found, dims[k], found), strict=False):
        ctx.set_shape_and_dtype(y, ir.Shape([n]), ir.DataType.INT64)


@_replace("Concat")
def _concat(ctx: ShapeInferenceContext, node: ir.Node) -> None:
    """Elements that are not known are numbers of any sign; the library takes them for sizes."""
    _fall_back(ctx, node)
    elements = ctx.get_symbolic_value(node.outputs[0])
    if elements is None or node.outputs[0].const_value is not None:
        return
    found: list[SymDim] = []
    for k, x in enumerate(node.inputs):
        own, count = known(ctx, node, k), x.shape[0] if x is not None and x.shape is not None else 0
        if own is None and isinstance(count, int):
            own = [_any_number(ctx) for _ in range(count)]
        found += own or []
    if len(found) == len(elements):
        ctx.set_symbolic_value(node.outputs[0], found)


def _any_number(ctx: ShapeInferenceContext) -> ir.SymbolicDim:
    """A fresh symbol for an element of a tensor, of which nothing is known."""
    return ir.SymbolicDim(f"{_ELEMENT}{ctx.new_symbolic_dim().value}")


@_replace("Expand")
def _expand(ctx: ShapeInferenceContext, node: ir.Node) -> None:
    """Where only the data tells the target, the number of its elements still tells the rank."""
    data, target = node.inputs[0], node.inputs[1]
    if data is None or target is None or data.shape is None:
        return
    sizes = known(ctx, node, 1)
    if sizes is None and target.shape is not None and len(target.shape) == 1 and isinstance(target.shape[0], int):
        sizes = [ctx.new_symbolic_dim() for _ in range(target.shape[0])]
    shape = None if sizes is None else broadcast_shapes(data.shape, ir.Shape(sizes))
    ctx.set_shape_and_dtype(node.outputs[0], shape, data.dtype)


@_replace("ConstantOfShape")
def _constant_of_shape(ctx: ShapeInferenceContext, node: ir.Node) -> None:
    """A shape that is known symbolically is as good as a constant; a short row of integers is a shape itself."""
    _fall_back(ctx, node)
    dims, out, fill = known(ctx, node, 0), node.outputs[0], node.attributes.get("value")
    if dims is not None and out.shape is None:
        ctx.set_shape(out, ir.Shape(dims))
    if dims is not None and len(dims) == 1 and isinstance(dims[0], int) and dims[0] <= _LONGEST_SHAPE:
        tensor = fill.as_tensor() if fill is not None else None
        if tensor is not None and tensor.dtype.is_integer():
            ctx.set_symbolic_value(out, [int(tensor.numpy().item())] * dims[0])
    source = node.inputs[0]
    if dims is None and source is not None and source.shape is not None and isinstance(source.shape[0], int):
        ctx.set_shape(node.outputs[0], ir.Shape([ctx.new_symbolic_dim() for _ in range(source.shape[0])]))


@_replace("Pad")
def _pad(ctx: ShapeInferenceContext, node: ir.Node) -> None:
    """Padding that is known symbolically is as good as a constant; any axis may be one that only the data names."""
    data = node.inputs[0]
    pads, axes = known(ctx, node, 1), known_ints(ctx, node, 3)
    if data is None or data.shape is None:
        return
    rank = len(data.shape)
    if axes is None and _is_given(node, 3):
        ctx.set_shape_and_dtype(node.outputs[0], ir.Shape([ctx.new_symbolic_dim() for _ in range(rank)]), data.dtype)
        return
    if pads is None:
        _fall_back(ctx, node)
        return
    axes = list(range(rank)) if axes is None else [a % rank for a in axes]
    dims = list(data.shape)
    for k, axis in enumerate(axes):
        dims[axis] = to_dim(sympy.expand(expr(dims[axis]) + expr(pads[k]) + expr(pads[k + len(axes)])))
    ctx.set_shape_and_dtype(node.outputs[0], ir.Shape(dims), data.dtype)


@_replace("Resize")
def _resize(ctx: ShapeInferenceContext, node: ir.Node) -> None:
    """Scaled sizes are floor(dim * scale) in float32, which exact arithmetic only matches for dyadic scales."""
    _fall_back(ctx, node)
    data, out = node.inputs[0], node.outputs[0]
    scales = node.inputs[2] if len(node.inputs) > 2 else None
    tensor = ir.convenience.get_const_tensor(scales) if scales is not None else None
    if tensor is None or tensor.size == 0 or data is None or data.shape is None or out.shape is None:
        return
    rank, dims = len(data.shape), list(out.shape)
    axes = node.attributes.get_ints("axes", tuple(range(rank)))
    for axis, scale in zip(axes, tensor.numpy().astype(np.float32), strict=True):
        size = data.shape[axis % rank]
        if isinstance(size, int):
            dims[axis % rank] = int(np.float32(size) * scale)
        elif not float(scale * 256).is_integer():
            dims[axis % rank] = ctx.new_symbolic_dim()
    out.shape = ir.Shape(dims)


@_replace("Equal")
def _equal(ctx: ShapeInferenceContext, node: ir.Node) -> None:
    """A dimension is never negative: `shape == -1`, which exporters write, is known."""
    _fall_back(ctx, node)
    left, right, out = known(ctx, node, 0), known(ctx, node, 1), node.outputs[0]
    if left is None or right is None or not _flat(out):
        return
    count = max(len(left), len(right))
    pairs = zip(left * (count // max(1, len(left))), right * (count // max(1, len(right))), strict=True)
    answers = [_same(a, b) for a, b in pairs] if {len(left), len(right)} <= {1, count} else [None]
    if all(answer is not None for answer in answers):
        out.metadata_props[SYM_DATA_KEY] = str([int(bool(a)) for a in answers])
        array = np.array(answers, np.bool_).reshape(() if out.shape is not None and len(out.shape) == 0 else -1)
        out.const_value = ir.tensor(array, name=out.name)


def _same(a: SymDim, b: SymDim) -> bool | None:
    difference = sympy.expand(expr(a) - expr(b))
    if difference == 0:
        return True
    # What inference cannot know may be zero: an empty row that a loop adds to, the places of no elements.
    unknown = [s for s in difference.free_symbols if s.name.startswith("_")]
    weaker = {s: sympy.Symbol(s.name, integer=True, nonnegative=_is_size(s)) for s in unknown}
    return False if difference.xreplace(weaker).is_nonzero else None


def _is_size(symbol: sympy.Symbol) -> bool | None:
    return None if symbol.name.startswith(_ELEMENT) else True


@_replace("Where")
def _where(ctx: ShapeInferenceContext, node: ir.Node) -> None:
    """Choosing between two shapes by a known condition, or between equal ones, gives a known shape."""
    condition, x, y = node.inputs
    if condition is None or x is None or y is None:
        _fall_back(ctx, node)
        return
    out = node.outputs[0]
    shape = broadcast_shapes(broadcast_shapes(x.shape, y.shape), condition.shape)
    ctx.set_shape_and_dtype(out, shape, x.dtype or y.dtype)
    chosen, a, b = known_ints(ctx, node, 0), known(ctx, node, 1), known(ctx, node, 2)
    if a is None or b is None or not _flat(out) or len(a) != len(b) or x.shape != shape or y.shape != shape:
        return  # the elements of what is repeated are not those of the result
    if chosen is not None and len(chosen) == len(a):
        ctx.set_symbolic_value(out, [p if c else q for c, p, q in zip(chosen, a, b, strict=True)])
    else:
        ctx.set_symbolic_value(out, [p if _same(p, q) else _any_number(ctx) for p, q in zip(a, b, strict=True)])
