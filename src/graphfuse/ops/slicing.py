"""Parts of tensors, and tensors with a border."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
import onnx_ir as ir
import sympy

from graphfuse.graph import dims as D
from graphfuse.graph.dims import Dim
from graphfuse.graph.dtypes import BOOL, I64
from graphfuse.ops import expr as E
from graphfuse.ops.expr import Const, Expr, lift
from graphfuse.ops.registry import NotSupported, OpNode, op
from graphfuse.ops.runtime_sizes import IMPOSSIBLE, items, measure_sizes, quotient_up, vector
from graphfuse.ops.samples import Sample, bools, floats, int64, ints, sample, scalar
from graphfuse.ops.tensor import Tensor, generate, index_map, load, map_, pad, size, slice_

# Models write "to the end" as the largest number of some integer type.
_FAR = 2**31 - 1
_MOST_USERS = 64  # values that are followed to the outputs


def _slice_samples() -> list[Sample]:
    x = floats(13, 17)
    last = np.iinfo(np.int64).max

    def case(starts: list[int], ends: list[int], *more: np.ndarray, symbolic: bool = True) -> Sample:
        arrays = [int64(*starts), int64(*ends), *more]
        return sample(x, *arrays, constants=range(1, 1 + len(arrays)), symbolic=symbolic)

    return [
        case([1, 2], [5, 9]),
        case([0], [last], int64(1)),
        case([3], [last], int64(-1)),
        case([-3], [last], int64(1)),
        case([1], [-1], int64(0)),
        case([-5, -4], [-1, -2], int64(1, 0)),
        case([0], [99], int64(0)),
        case([20], [99], int64(0), symbolic=False),
        case([5], [2], int64(0)),
        case([1, 0], [12, last], int64(0, 1), int64(3, 2)),
        case([-1], [-last], int64(1), int64(-1)),
        case([-2, 9], [-last, 2], int64(1, 0), int64(-3, -2)),
        case([99], [-99], int64(0), int64(-1)),
        case([-99], [-99], int64(0), int64(-1)),
        sample(ints(0, 3), int64(0), int64(2), constants=[1, 2]),
        sample(x, int64(1), int64(5)),
        sample(x, int64(-3, 9), int64(last, 2), int64(1, 0), int64(1, -3), fixed=[0]),
        sample(x, int64(99, -1), int64(-99, -last), int64(-2, -1), int64(-1, -2), fixed=[0]),
        sample(x, int64(0), int64(99), int64(0), constants=[3]),
        sample(x, int64(3), int64(3), int64(1), int64(2)),
    ]


@op("Slice", samples=_slice_samples)
def slice_op(node: OpNode) -> Tensor:
    x, starts, ends = node.input(0), node.dims(1), node.dims(2)
    later = [node.optional(k) is not None and node.dims(k) is None for k in (3, 4)]
    if starts is None or ends is None or any(later):
        return _slice_at_run_time(node, x)
    axes = range(len(starts)) if node.optional(3) is None else node.integers(3, "the axes")
    steps = [1] * len(starts) if node.optional(4) is None else node.integers(4, "the steps")
    first: list[Dim] = [0] * x.rank
    step, shape = [1] * x.rank, list(x.shape)
    along = _along_any if _only_returned(node) else _along
    for a, s, e, t in zip(axes, starts, ends, steps, strict=True):
        k = node.axis(a, x.rank)
        if t == 0:
            raise NotSupported("a step of 0")
        first[k], shape[k], step[k] = along(x.shape[k], s, e, int(t))
    return x if D.same_shape(shape, x.shape) and all(t == 1 for t in step) else slice_(x, first, shape, step)


def _slice_at_run_time(node: OpNode, x: Tensor) -> Tensor:
    """Positions are clamped by the program itself; how many elements there are is measured."""
    sources = [t for t in (node.optional(k) for k in range(1, 5)) if t is not None]
    starts, ends = items(node.input(1)), items(node.input(2))
    axes: list[Expr] = [Const(k, I64) for k in range(len(starts))]
    if node.optional(3) is not None:
        axes = [Const(int(a), I64) for a in node.dims(3) or ()] or items(node.input(3))  # type: ignore[arg-type]
    steps: list[Expr] = [Const(1, I64)] * len(starts)
    if node.optional(4) is not None:
        steps = [Const(int(t), I64) for t in node.dims(4) or ()] or items(node.input(4))  # type: ignore[arg-type]
    firsts: list[Expr] = [Const(0, I64)] * x.rank
    strides: list[Expr] = [Const(1, I64)] * x.rank
    counts = [size(d) for d in x.shape]
    for a, s, e, t in zip(axes, starts, ends, steps, strict=True):
        for k, d in enumerate(x.shape):
            first, count = _part(size(d), s, e, t)
            values = (firsts[k], first), (strides[k], t), (counts[k], count)
            firsts[k], strides[k], counts[k] = (_if_axis(a, k, x.rank, new, old) for old, new in values)
    if all(isinstance(t, Const) for t in strides):
        found = measure_sizes(node, [*firsts, *counts], *sources)
        return slice_(x, found[: x.rank], found[x.rank :], [int(t.value) for t in strides if isinstance(t, Const)])
    origin, stride = vector(firsts, *sources), vector(strides, *sources)

    def index(i: Sequence[Expr]) -> tuple[Expr, ...]:
        return tuple(load(origin, (Const(k, I64),)) + e * load(stride, (Const(k, I64),)) for k, e in enumerate(i))

    return index_map(x, measure_sizes(node, counts, *sources), index, origin, stride)


def _if_axis(a: Expr, k: int, rank: int, new: Expr, old: Expr) -> Expr:
    """`new` when the axis a, which may count from the end, is axis k, else `old`."""
    if isinstance(a, Const):
        return new if int(a.value) in (k, k - rank) else old
    if new == old:
        return old
    return E.where(E.logical("or", E.equal(a, k), E.equal(a, k - rank)), new, old)


def _part(extent: Expr, start: Expr, end: Expr, step: Expr) -> tuple[Expr, Expr]:
    """First index and number of elements of start:end:step along an axis; a step of 0 is an error."""
    if isinstance(step, Const) and step.value == 0:
        raise NotSupported("a step of 0")
    back, last = step < 0, extent - 1
    start, end = (E.where(p < 0, p + extent, p) for p in (start, end))
    first = E.maximum(E.minimum(start, E.where(back, last, extent)), 0)
    beyond = E.where(back, E.minimum(E.maximum(end, -1), last), E.minimum(E.maximum(end, 0), extent))
    still = E.equal(step, 0)
    count = E.maximum(quotient_up(beyond - first, E.where(still, Const(1, I64), step)), 0)
    return first, E.where(still, IMPOSSIBLE, E.where(extent > 0, count, Const(0, I64)))


def _along(extent: Dim, start: Dim, end: Dim, step: int) -> tuple[Dim, Dim, int]:
    """First index, size of the result, and step along one axis; never out of bounds, whatever the symbols' values.

    Clamping as the specification has it, which with a negative step differs from Python's for starts before the axis.
    """
    if step > 0:
        # A start beyond the end needs no clamping where it is symbolic: the size comes out as 0.
        top = extent if D.is_static(extent, start) else start
        first, beyond = _clamp(start, extent, 0, top), _clamp(end, extent, 0, extent)
        return first, D.maximum(0, D.ceildiv(D.add(beyond, D.mul(-1, first)), step)), step
    last = D.add(extent, -1)
    first, beyond = _clamp(start, extent, 0, last), _clamp(end, extent, -1, last)
    return first, D.maximum(0, D.ceildiv(D.add(first, D.mul(-1, beyond)), -step)), step


def _along_any(extent: Dim, start: Dim, end: Dim, step: int) -> tuple[Dim, Dim, int]:
    """As `_along`, also right for sizes of 0, which symbols of inputs are not taken for."""
    usual = _along(extent, start, end, step)
    if isinstance(extent, int):
        return usual
    given = [sympy.sympify(d) for d in (extent, start, end)]
    sizes = {s: D.symbol_named(s.name) for d in given for s in d.free_symbols}
    whole, low, high = (D.norm(d.xreplace(sizes)) for d in given)
    first, count, _ = _along(whole, low, high, step)
    back = {new: old for old, new in sizes.items()}
    first, count = (D.norm(sympy.sympify(d).xreplace(back)) for d in (first, count))
    if step < 0:
        count = D.Min(extent, sympy.sympify(count))
    elif step == 1 and isinstance(start, int) and start < 0 and isinstance(end, int) and end >= _FAR:
        count = D.Min(sympy.Integer(-start), extent)
    return first, count, step


# What gives a result of its operand's shape, or of the one shape of both.
_SAME_SHAPE = frozenset(
    {"Abs", "Cast", "Ceil", "Clip", "Erf", "Exp", "Floor", "Identity", "LeakyRelu", "Log", "LogSoftmax", "Neg", "Not"}
    | {"Relu", "Round", "Sigmoid", "Sign", "Softmax", "Sqrt", "Tanh", "Transpose"}
)
_OF_BOTH = frozenset({"Add", "Sub", "Mul", "Div"})


def _only_returned(node: OpNode) -> bool:
    """Whether the model returns a slice, or what keeps its shape, and does nothing else with it.

    Elsewhere its size counts as what it is where the axis has elements: 1 for `x[-1:]`, which may be broadcast and
    squeezed, and one less than all for `x[1:]`; with none, the guards of that are an error.
    """
    if node.around is None or not node.around.is_outermost:
        return False
    pending = [node.node.outputs[0]]
    for value in pending:
        if len(pending) > _MOST_USERS:
            return False
        for user in value.consumers():
            both = user.op_type in _OF_BOTH and all(_is_alike(v, value) for v in user.inputs)
            if user.domain != "" or not (both or user.op_type in _SAME_SHAPE):
                return False
            pending += [v for v in user.outputs if v not in pending]
    return True


def _is_alike(value: ir.Value | None, other: ir.Value) -> bool:
    maker = None if value is None else value.producer()
    return maker is not None and value is not None and maker.op_type == "Slice" and value.shape == other.shape


def _clamp(position: Dim, extent: Dim, low: Dim, high: Dim) -> Dim:
    if isinstance(position, int) and abs(position) >= _FAR:
        return high if position > 0 else low
    sign = sympy.sympify(position)
    if sign.is_nonnegative:
        return D.minimum(position, high)
    if sign.is_negative:
        return D.maximum(D.add(extent, position), low)
    raise NotSupported(f"the slice position {position} may be negative or not")


def _pad_samples() -> list[Sample]:
    x = floats(5, 7)

    def case(pads: np.ndarray, *more: np.ndarray | None, fixed: Sequence[int] = (), **attrs: str) -> Sample:
        arrays = [pads, *more]
        return sample(x, *arrays, constants=range(1, 1 + len(arrays)), fixed=fixed, **attrs)  # type: ignore[arg-type]

    return [
        case(int64(1, 2, 3, 0)),
        case(int64(1, 2, 3, 0), scalar(1.5)),
        case(int64(1, 3), None, int64(-1)),
        case(int64(-1, 2, -2, -3)),
        *(case(int64(1, 2, 3, 0), mode=m) for m in ("reflect", "edge", "wrap")),
        *(case(int64(0, 6, 4, 6), mode=m) for m in ("reflect", "edge", "wrap")),
        *(case(int64(-1, 2, 2, -3), mode=m) for m in ("reflect", "edge")),
        sample(floats(1, 5), int64(0, 2, 0, 3), constants=[1], mode="edge"),
        sample(ints(2, 3, 4), int64(0, 1, 2, 0, 0, 1), scalar(-7, np.int32), constants=[1, 2]),
        sample(bools(3), int64(1, 1), constants=[1]),
        *(sample(x, int64(1, 2, 3, 0), mode=m, fixed=[0]) for m in ("constant", "reflect", "edge", "wrap")),
        *(sample(x, int64(-1, 2, 2, -3), mode=m, fixed=[0]) for m in ("constant", "reflect", "edge")),
        sample(x, int64(2, 1), scalar(1.5), int64(-1), fixed=[0]),
        sample(x, int64(1, 1, 1, 1), scalar(2.0), constants=[1]),
    ]


@op("Pad", samples=_pad_samples)
def pad_op(node: OpNode) -> Tensor:
    """Negative widths cut off; then the border is added."""
    x, axes = node.input(0), node.optional(3)
    if node.dims(1) is None or (axes is not None and node.dims(3) is None):
        before, after, cut_before, cut_after = _widths_at_run_time(node, x)
    else:
        before, after = _widths(node, x)
        cut_before, cut_after = [_negative(b) for b in before], [_negative(a) for a in after]
        before = [D.add(b, c) for b, c in zip(before, cut_before, strict=True)]
        after = [D.add(a, c) for a, c in zip(after, cut_after, strict=True)]
    if not all(D.same(c, 0) for c in [*cut_before, *cut_after]):
        kept = [D.add(d, D.mul(-1, D.add(b, a))) for d, b, a in zip(x.shape, cut_before, cut_after, strict=True)]
        x = slice_(x, cut_before, kept, [1] * x.rank)
    if all(isinstance(w, int) and w == 0 for w in [*before, *after]):
        return x
    mode = node.attr("mode", "constant")
    if mode == "constant":
        return _pad_constant(node, x, before, after)
    if mode not in _SOURCES:
        raise NotSupported(f"mode = {mode!r} is unknown")
    return _pad_by_index(x, before, after, mode)


def _widths(node: OpNode, x: Tensor) -> tuple[list[Dim], list[Dim]]:
    pads = node.dims(1) or []
    axes = list(range(x.rank))
    if node.optional(3) is not None:
        axes = [node.axis(a, x.rank) for a in node.integers(3, "the axes")]
    if len(pads) != 2 * len(axes):
        raise NotSupported(f"pads = {pads} has not two values for each of {len(axes)} axes")
    before: list[Dim] = [0] * x.rank
    after: list[Dim] = [0] * x.rank
    for k, a in enumerate(axes):
        before[a], after[a] = pads[k], pads[len(axes) + k]
    return before, after


def _widths_at_run_time(node: OpNode, x: Tensor) -> list[list[Dim]]:
    """The widths of the border before and behind every axis, and how much is cut off there."""
    given, axes = node.input(1), node.optional(3)
    sources = [given] if axes is None else [given, axes]
    widths = items(given)
    numbers: list[Expr] = [Const(k, I64) for k in range(x.rank)] if axes is None else items(axes)
    if len(widths) != 2 * len(numbers):
        raise NotSupported(f"{len(widths)} widths for {len(numbers)} axes")
    sides: list[list[Expr]] = [[Const(0, I64)] * x.rank for _ in range(2)]
    for j, a in enumerate(numbers):
        for k, (side, _) in itertools.product(range(x.rank), enumerate(sides)):
            hit = E.logical("or", E.equal(a, k), E.equal(a, k - x.rank))
            sides[side][k] = E.where(hit, widths[side * len(numbers) + j], sides[side][k])
    found = [E.maximum(sign * w, 0) for sign in (1, -1) for side in sides for w in side]
    sizes = measure_sizes(node, found, *sources)
    return [sizes[k : k + x.rank] for k in range(0, 4 * x.rank, x.rank)]


def _negative(width: Dim) -> Dim:
    """How much a width cuts off: 0 for a border."""
    return D.maximum(0, D.mul(-1, width))


def _pad_constant(node: OpNode, x: Tensor, before: Sequence[Dim], after: Sequence[Dim]) -> Tensor:
    value, known = node.optional(2), node.constant(2)
    number = 0 if known is None else known.reshape(()).item()
    padded = pad(x, before, after, lift(number, x.dtype))
    if value is None or known is not None:
        return padded

    def inside(i: Sequence[Expr]) -> Expr:
        result: Expr = Const(True, BOOL)
        for e, b, d in zip(i, before, x.shape, strict=True):
            reached = E.logical("and", e >= size(b), e < size(D.add(b, d)))
            result = E.logical("and", result, reached)
        return result

    # A value from outside: selected where the border is.
    return map_(E.where, generate(padded.shape, inside), padded, value)


def _edge(j: Expr, extent: Dim) -> Expr:
    return E.minimum(E.maximum(j, 0), size(D.add(extent, -1)))


def _wrap(j: Expr, extent: Dim) -> Expr:
    return E.floormod(j, size(extent))


def _reflect(j: Expr, extent: Dim) -> Expr:
    """Reflection without repeating the edge: a triangle wave of period 2 * (extent - 1)."""
    period = size(D.maximum(1, D.mul(2, D.add(extent, -1))))
    position = E.floormod(j, period)
    return (
        E.minimum(position, size(D.mul(2, D.add(extent, -1))) - position) if extent != 1 else Const(0, position.dtype)
    )


def _reflect_once(j: Expr, extent: Dim) -> Expr:
    """Reflection where no border is wider than the input: cheaper."""
    last = size(D.add(extent, -1))
    near = E.maximum(j, 0 - j)
    return E.minimum(near, last + last - near)


_SOURCES = {"edge": _edge, "wrap": _wrap, "reflect": _reflect}


def _pad_by_index(x: Tensor, before: Sequence[Dim], after: Sequence[Dim], mode: str) -> Tensor:
    shape = [D.add(D.add(d, b), a) for d, b, a in zip(x.shape, before, after, strict=True)]

    def source(i: Expr, k: int) -> Expr:
        if before[k] == 0 and after[k] == 0:
            return i
        extent, j = x.shape[k], i - size(before[k])
        if mode == "reflect" and D.is_static(extent, before[k], after[k]) and max(before[k], after[k]) < extent:  # type: ignore[type-var]
            return _reflect_once(j, extent)
        return _SOURCES[mode](j, extent)

    return index_map(x, shape, lambda i: tuple(source(e, k) for k, e in enumerate(i)))
