"""Ops that arrange the same elements under another shape: reshapes, transposes, joins, splits, repetitions."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence

import sympy

from graphfuse.graph import dims as D
from graphfuse.graph.dims import Dim
from graphfuse.graph.dtypes import I64
from graphfuse.ops import expr as E
from graphfuse.ops.expr import Const, Expr, Size
from graphfuse.ops.registry import NotSupported, OpNode, op
from graphfuse.ops.runtime_sizes import IMPOSSIBLE, hits, items, measure_sizes, with_ones, without
from graphfuse.ops.samples import Sample, bools, floats, int64, ints, sample
from graphfuse.ops.tensor import (
    Tensor,
    concat,
    expand,
    index_map,
    reshape,
    size,
    slice_,
    transpose,
)


@op("Identity", samples=lambda: [sample(floats(13, 17)), sample(ints(0, 3)), sample(bools())])
def identity(node: OpNode) -> Tensor:
    return node.input(0)


def _divide(total: Dim, part: Dim) -> Dim:
    if D.is_static(total, part):
        return D.floordiv(total, part)
    quotient = sympy.cancel(sympy.sympify(total) / part)
    return D.norm(quotient) if sympy.denom(quotient) == 1 else D.floordiv(total, part)


def resolve_shape(source: Sequence[Dim], wanted: Sequence[Dim], keep_zero: bool) -> list[Dim]:
    """The target of a reshape: 0 copies the input's size (unless `keep_zero`), -1 is what remains."""
    if list(wanted).count(-1) > 1:
        raise NotSupported(f"the shape {list(wanted)} has more than one -1")
    shape = list(wanted)
    for k, d in enumerate(shape):
        if isinstance(d, int) and d == 0 and not keep_zero:
            if k >= len(source):
                raise NotSupported(f"the shape {list(wanted)} copies axis {k} of an input of rank {len(source)}")
            shape[k] = source[k]
    if -1 not in shape:
        return shape
    free = shape.index(-1)
    # Sizes on both sides cancel; what is left may be anything, a zero among the cancelled ones included.
    remaining, others = list(source), shape[:free] + shape[free + 1 :]
    for d in list(others):
        match = next((k for k, s in enumerate(remaining) if D.same(s, d)), None)
        if match is not None and not D.same(d, 0):
            others.remove(d)
            remaining.pop(match)
    if any(isinstance(d, int) and d == 0 for d in others):
        raise NotSupported(f"the -1 in {list(wanted)} has no value where another size is 0")
    shape[free] = _divide(D.product(remaining), D.product(others))
    return shape


def _shape_at_run_time(node: OpNode, x: Tensor) -> Sequence[Dim]:
    """The target of a reshape whose numbers are an input, unless shape inference knows them all the same."""
    with contextlib.suppress(NotSupported):
        known = node.output_shape()
        if set(D.symbols(known)) <= set(D.symbols(x.shape)):
            return known
    given = node.input(1)
    wanted = items(given)
    if not node.attr("allowzero", 0):
        copied = [*map(size, x.shape), *[IMPOSSIBLE] * len(wanted)]
        wanted = [E.where(E.equal(w, 0), copied[k], w) for k, w in enumerate(wanted)]
    others: Expr = Const(1, I64)
    for w in wanted:
        others = others * E.where(E.equal(w, -1), 1, w)
    rest = E.floordiv(size(D.product(x.shape)), E.maximum(others, 1))
    return measure_sizes(node, [E.where(E.equal(w, -1), rest, w) for w in wanted], given)


@op(
    "Reshape",
    samples=lambda: [
        sample(floats(2, 3, 17), int64(3, 34), constants=[1], symbolic=False),
        sample(floats(2, 3, 17), int64(0, -1), constants=[1]),
        sample(floats(2, 3, 17), int64(-1), constants=[1]),
        sample(floats(2, 3, 17), int64(0, 0, 1, -1), constants=[1]),
        sample(floats(6, 17), int64(2, 3, -1), constants=[1], fixed=[0]),
        sample(floats(2, 3, 4, 5), int64(2, 12, 1, 5), constants=[1], symbolic=False),
        sample(floats(2, 3, 4, 5), int64(4, 3, 2, 5), constants=[1], symbolic=False),
        sample(floats(1), int64(), constants=[1]),
        sample(floats(), int64(1, 1), constants=[1]),
        sample(floats(0, 3), int64(3, 0), constants=[1], allowzero=1, symbolic=False),
        sample(floats(2, 3, 17), int64(0, -1), fixed=[0]),
        sample(floats(2, 3, 17), int64(3, 1, 34), fixed=[0]),
        sample(floats(0, 3), int64(3, 0), allowzero=1, symbolic=False),
        sample(floats(2, 3), int64(-1, -1), constants=[1], rejected="more than one -1", reference="onnx"),
    ],
)
def reshape_op(node: OpNode) -> Tensor:
    x, wanted = node.input(0), node.dims(1)
    if wanted is None:
        return reshape(x, _shape_at_run_time(node, x))
    target = resolve_shape(x.shape, wanted, bool(node.attr("allowzero", 0)))
    if D.is_static(*target, *x.shape) and not D.same(D.product(target), D.product(x.shape)):
        raise NotSupported(f"{list(x.shape)} does not reshape to {list(target)}")
    return reshape(x, target)


@op(
    "Flatten",
    samples=lambda: [
        sample(floats(2, 3, 17)),
        *(sample(floats(2, 3, 17), axis=a) for a in (0, 2, 3, -1)),
        sample(floats(5)),
    ],
)
def flatten(node: OpNode) -> Tensor:
    x, axis = node.input(0), node.attr("axis", 1)
    axis = x.rank if axis == x.rank else node.axis(axis, x.rank)
    return reshape(x, (D.product(x.shape[:axis]), D.product(x.shape[axis:])))


@op(
    "Squeeze",
    samples=lambda: [
        sample(floats(1, 3, 1, 17)),
        sample(floats(1, 3, 1, 17), int64(0), constants=[1]),
        sample(floats(1, 3, 1, 17), int64(-2, 0), constants=[1]),
        sample(floats(1, 3, 1, 17), int64(-2, 0), fixed=[0]),
        sample(floats(2, 3), int64(0), constants=[1], rejected="size 2"),
    ],
)
def squeeze(node: OpNode) -> Tensor:
    x = node.input(0)
    given = node.optional(1)
    if given is not None and node.dims(1) is None:
        count = len(items(given))
        return reshape(x, measure_sizes(node, without(x.shape, hits(items(given), x.rank), x.rank - count), given))
    if given is None:
        unknown = [d for d in x.shape if not isinstance(d, int)]
        return reshape(x, [d for d in x.shape if not (isinstance(d, int) and d == 1)], not_one=unknown)
    axes = [node.axis(a, x.rank) for a in node.integers(1, "the axes")]
    for a in axes:
        d = x.shape[a]
        if isinstance(d, int) and d != 1:
            raise NotSupported(f"axis {a} of size {d} cannot be squeezed")
    return reshape(x, [d for k, d in enumerate(x.shape) if k not in axes])


@op(
    "Unsqueeze",
    samples=lambda: [
        sample(floats(3, 17), int64(0), constants=[1]),
        sample(floats(3, 17), int64(-1, 1), constants=[1]),
        sample(floats(), int64(0, 1), constants=[1]),
        sample(floats(3, 17), int64(-1, 1), fixed=[0]),
        sample(floats(), int64(0, 1), fixed=[0]),
    ],
)
def unsqueeze(node: OpNode) -> Tensor:
    x = node.input(0)
    if node.dims(1) is None:
        added = items(node.input(1))
        return reshape(x, measure_sizes(node, with_ones(x.shape, hits(added, x.rank + len(added))), node.input(1)))
    given = node.integers(1, "the axes")
    rank = x.rank + len(given)
    axes = [node.axis(a, rank) for a in given]
    rest = iter(x.shape)
    return reshape(x, [1 if k in axes else next(rest) for k in range(rank)])


@op(
    "Transpose",
    samples=lambda: [
        sample(floats(2, 3, 17)),
        sample(floats(2, 3, 5, 7), perm=[0, 2, 3, 1]),
        sample(ints(13, 1, 17), perm=[2, 0, 1]),
        sample(bools(3, 0, 2)),
        sample(floats()),
    ],
)
def transpose_op(node: OpNode) -> Tensor:
    x = node.input(0)
    perm = node.attr("perm", None) or tuple(reversed(range(x.rank)))
    if sorted(perm) != list(range(x.rank)):
        raise NotSupported(f"perm = {list(perm)} on an input of rank {x.rank}")
    return transpose(x, perm)


@op(
    "Concat",
    samples=lambda: [
        sample(floats(2, 13), floats(2, 1, seed=1), floats(2, 17, seed=2), axis=1),
        sample(ints(13), ints(1), axis=-1),
        sample(floats(2, 3), axis=0),
        sample(floats(2, 0), floats(2, 3), axis=1),
        sample(bools(3, 2, 5), bools(1, 2, 5), axis=-3),
    ],
)
def concat_op(node: OpNode) -> Tensor:
    parts = [node.input(k) for k in range(len(node.inputs))]
    axis = node.axis(node.attr("axis"), parts[0].rank)
    return parts[0] if len(parts) == 1 else concat(parts, axis)


@op(
    "Split",
    samples=lambda: [
        sample(floats(3, 17), int64(5, 12), constants=[1], outputs=2, axis=1, symbolic=False),
        sample(floats(3, 16), outputs=4, axis=-1, num_outputs=4),
        sample(floats(17, 2), outputs=3, num_outputs=3),
        sample(ints(6), int64(1, 0, 5), constants=[1], outputs=3, symbolic=False),
        sample(floats(3, 17), int64(5, 12), outputs=2, axis=1, fixed=[0]),
    ],
)
def split(node: OpNode) -> list[Tensor]:
    x = node.input(0)
    axis = node.axis(node.attr("axis", 0), x.rank)
    starts: Dim = 0
    result = []
    for part in _split_sizes(node, x.shape[axis]):
        shape = [part if k == axis else d for k, d in enumerate(x.shape)]
        result.append(slice_(x, [starts if k == axis else 0 for k in range(x.rank)], shape, [1] * x.rank))
        starts = D.add(starts, part)
    return result


def _split_sizes(node: OpNode, total: Dim) -> list[Dim]:
    if node.optional(1) is not None:
        sizes = node.dims(1)
        if sizes is None:
            return measure_sizes(node, items(node.input(1)), node.input(1))
        if D.is_static(total, *sizes) and sum(int(s) for s in sizes) != total:
            raise NotSupported(f"parts of {sizes} do not add up to {total}")
        return sizes
    parts = node.attr("num_outputs", len(node.node.outputs))
    # Equal parts, the last one smaller when they do not divide evenly.
    each = D.ceildiv(total, parts)
    return [each] * (parts - 1) + [D.add(total, D.mul(-(parts - 1), each))]


@op(
    "Expand",
    samples=lambda: [
        sample(floats(13, 1), int64(2, 13, 17), constants=[1], symbolic=False),
        sample(floats(3, 1), int64(1, 5), constants=[1]),
        sample(floats(3, 17), int64(1), constants=[1]),
        sample(ints(), int64(2, 3), constants=[1]),
        sample(floats(1, 3), int64(0, 3), constants=[1], symbolic=False),
        sample(floats(13, 1), int64(2, 13, 17), fixed=[0]),
        sample(floats(2, 1, 5), int64(3, 1), fixed=[0]),
    ],
)
def expand_op(node: OpNode) -> Tensor:
    x, shape = node.input(0), node.dims(1)
    try:
        return _expand_at_run_time(node, x) if shape is None else expand(x, shape)
    except ValueError as error:
        raise NotSupported(str(error)) from error


def _expand_at_run_time(node: OpNode, x: Tensor) -> Tensor:
    with contextlib.suppress(NotSupported):
        known = node.output_shape()
        if set(D.symbols(known)) <= set(D.symbols(x.shape)):
            return expand(x, known)
    wanted = items(node.input(1))
    rank = max(x.rank, len(wanted))
    ahead: list[Dim] = [1] * (rank - x.rank)
    pairs = list(zip([*ahead, *x.shape], _led(wanted, rank), strict=True))
    # A size above 1 that is known stays; the others are measured, and are impossible where such a one does not fit.
    fit = [E.logical("or", E.equal(w, 1), E.equal(w, d)) for d, w in pairs if isinstance(d, int) and d != 1]
    sizes = [_broadcast_size(d, w, fit) for d, w in pairs]
    lead = rank - x.rank

    def index(i: Sequence[Expr]) -> tuple[Expr, ...]:
        # Along an axis of size 1 every index is the first, along another one of that size itself.
        return tuple(E.minimum(i[lead + k], size(D.add(d, -1))) for k, d in enumerate(x.shape))

    return index_map(x, measure_sizes(node, sizes, node.input(1)), index)


def _led(wanted: Sequence[Expr], rank: int) -> list[Expr]:
    return [*[Const(1, I64)] * (rank - len(wanted)), *wanted]


def _broadcast_size(d: Dim, wanted: Expr, others: Sequence[Expr]) -> Expr:
    """What two sizes broadcast to, an impossible size when they do not or one of the `others` is false."""
    if isinstance(d, int) and d != 1:
        return size(d)
    fits = E.logical("or", E.equal(wanted, 1), E.equal(wanted, size(d)))
    result = wanted if d == 1 else E.where(fits, size(d), E.where(E.equal(size(d), 1), wanted, IMPOSSIBLE))
    for other in () if isinstance(result, (Const, Size)) else others:
        result = E.where(other, result, IMPOSSIBLE)
    return result


@op(
    "Tile",
    samples=lambda: [
        sample(floats(3, 5), int64(2, 3), constants=[1]),
        sample(floats(3, 1), int64(1, 4), constants=[1]),
        sample(ints(2, 3, 4), int64(1, 2, 1), constants=[1]),
        sample(floats(3), int64(0), constants=[1]),
        sample(floats(3, 5), int64(2, 3), fixed=[0]),
    ],
)
def tile(node: OpNode) -> Tensor:
    x, repeats = node.input(0), node.dims(1)
    if repeats is None:
        repeats = measure_sizes(node, items(node.input(1)), node.input(1))
    shape = [D.mul(d, r) for d, r in zip(x.shape, repeats, strict=True)]
    repeated = [not (isinstance(r, int) and r == 1) for r in repeats]
    if all(isinstance(d, int) and d == 1 for d, again in zip(x.shape, repeated, strict=True) if again):
        return expand(x, shape)

    def index(i: Sequence[Expr]) -> tuple[Expr, ...]:
        return tuple(E.floormod(e, size(d)) if again else e for e, d, again in zip(i, x.shape, repeated, strict=True))

    return index_map(x, shape, index)


def _block_samples() -> list[Sample]:
    return [sample(floats(2, 12, 3, 5), blocksize=2, fixed=[1]), sample(floats(1, 9, 2, 1), blocksize=3, fixed=[1])]


@op(
    "DepthToSpace",
    samples=lambda: [
        *_block_samples(),
        sample(floats(2, 12, 3, 5), blocksize=2, mode="CRD", fixed=[1]),
        sample(floats(1, 6, 2, 2), blocksize=2, rejected="channels"),
    ],
)
def depth_to_space(node: OpNode) -> Tensor:
    x, b = node.input(0), node.attr("blocksize")
    n, c, h, w = x.shape
    if isinstance(c, int) and c % (b * b):
        raise NotSupported(f"{c} channels do not divide into blocks of {b} x {b}")
    inner = D.floordiv(c, b * b)
    if node.attr("mode", "DCR") == "DCR":
        blocks = transpose(reshape(x, (n, b, b, inner, h, w)), (0, 3, 4, 1, 5, 2))
    else:
        blocks = transpose(reshape(x, (n, inner, b, b, h, w)), (0, 1, 4, 2, 5, 3))
    return reshape(blocks, (n, inner, D.mul(h, b), D.mul(w, b)))


@op("SpaceToDepth", samples=lambda: [sample(floats(2, 3, 4, 6), blocksize=2, fixed=[2, 3])])
def space_to_depth(node: OpNode) -> Tensor:
    """Since opset 28 the mode says whether the blocks or the channels come first in the result's channels."""
    x, b, mode = node.input(0), node.attr("blocksize"), node.attr("mode", "DCR")
    if mode not in ("DCR", "CRD"):
        raise NotSupported(f"mode = {mode!r} is unknown")
    n, c, h, w = x.shape
    rows, columns = D.floordiv(h, b), D.floordiv(w, b)
    order = (0, 3, 5, 1, 2, 4) if mode == "DCR" else (0, 1, 3, 5, 2, 4)
    blocks = transpose(reshape(x, (n, c, rows, b, columns, b)), order)
    return reshape(blocks, (n, D.mul(c, b * b), rows, columns))
