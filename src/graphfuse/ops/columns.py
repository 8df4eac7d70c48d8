"""Col2Im: overlapping blocks, given as columns, added up into an image."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product as cartesian

from graphfuse.graph import dims as D
from graphfuse.graph.dims import Dim, is_static
from graphfuse.graph.dtypes import I64, DType, is_float
from graphfuse.ops import expr as E
from graphfuse.ops.expr import Const, Expr, Load, lift
from graphfuse.ops.loops import Builder, at, both, inside
from graphfuse.ops.registry import NotSupported, OpNode, op
from graphfuse.ops.samples import floats, int64, sample
from graphfuse.ops.tensor import Tensor, generate, size
from graphfuse.ops.windows import explicit_pads, per_axis

# More blocks than this over one pixel would make a kernel that no compiler likes.
_MOST_BLOCKS = 256


@op(
    "Col2Im",
    samples=lambda: [
        sample(floats(2, 12, 20), int64(6, 5), int64(2, 2), constants=[1, 2], fixed=[1], symbolic=False),
        sample(floats(1, 5, 5), int64(5, 5), int64(1, 5), constants=[1, 2], fixed=[1], symbolic=False),
        sample(floats(1, 18, 4), int64(5, 5), int64(3, 3), constants=[1, 2], strides=[2, 2], symbolic=False),
        sample(floats(1, 9, 25), int64(5, 5), int64(3, 3), constants=[1, 2], pads=[1, 1, 1, 1], symbolic=False),
        sample(floats(1, 8, 4), int64(4, 4), int64(2, 2), constants=[1, 2], strides=[2, 2], fixed=[1, 2]),
        sample(
            floats(1, 6, 12),
            int64(6, 6),
            int64(2, 3),
            constants=[1, 2],
            dilations=[3, 2],
            strides=[1, 1],
            pads=[0, 1, 0, 1],
            symbolic=False,
        ),
        sample(floats(1, 10, 12), int64(3, 4, 5), int64(1, 1, 5), constants=[1, 2], symbolic=False),
        sample(floats(1, 5, 5), int64(5, 5), int64(1, 5), constants=[2], symbolic=False),
        sample(floats(1, 5, 5), int64(5, 5), int64(1, 5), symbolic=False),
        sample(floats(2, 12, 12), int64(5, 6), int64(2, 3), pads=[0, 1, 0, 1], strides=[1, 2], symbolic=False),
        sample(floats(1, 5), int64(5, 5), int64(1, 5), constants=[2], rejected="rank 2", reference="onnx"),
    ],
)
def col2im(node: OpNode) -> Tensor:
    x = node.input(0)
    kernel = node.dims(2) or node.measure(node.input(2))
    image = node.dims(1) or node.measure(node.input(1))
    rank = len(kernel)
    if x.rank != 3 or len(image) != rank:
        raise NotSupported(f"an input of rank {x.rank}, an image of {len(image)} axes, blocks of {rank}")
    channels = D.floordiv(x.shape[1], D.maximum(1, D.product(kernel)))
    strides, dilations = per_axis(node, "strides", rank, 1), per_axis(node, "dilations", rank, 1)
    before, after = explicit_pads(node, rank)
    blocks = [
        D.add(D.floordiv(D.add(D.add(D.add(n, b), a), D.add(D.mul(-d, D.add(k, -1)), -1)), s), 1)
        for n, b, a, k, d, s in zip(image, before, after, kernel, dilations, strides, strict=True)
    ]
    axes = [_Axis(*axis) for axis in zip(kernel, strides, dilations, before, blocks, strict=True)]
    shape = (x.shape[0], channels, *image)
    if is_static(*kernel) and math.prod(len(a.steps) for a in axes) <= _MOST_BLOCKS:
        return _gathered(x, shape, axes)
    return _scattered(x, shape, axes)


@dataclass(frozen=True)
class _Axis:
    """One axis of the image: its blocks and where they lie."""

    kernel: Dim
    stride: int
    dilation: int
    before: Dim
    blocks: Dim

    @property
    def steps(self) -> range:
        """What tells apart the blocks over one pixel: how many strides ahead one starts, or its tap."""
        kernel = int(self.kernel)
        return range(-(-kernel // self.stride)) if self.dilation == 1 else range(kernel)

    def over(self, pixel: Expr) -> list[tuple[Expr, Expr, Expr]]:
        """The blocks that may lie over a pixel: (tap, block, whether it does)."""
        found = []
        at = pixel + size(self.before)
        for step in self.steps:
            if self.dilation == 1:
                block = E.floordiv(at, self.stride) - step
                tap = E.floormod(at, self.stride) + step * self.stride
                reached = tap < size(self.kernel)
            else:
                tap = Const(step, I64)
                block = E.floordiv(at - step * self.dilation, self.stride)
                reached = E.equal(E.floormod(at - step * self.dilation, self.stride), 0)
            found.append((tap, block, both(reached, block >= 0, block < size(self.blocks))))
        return found


def zero(dtype: DType) -> Const:
    """The number 0 of a type."""
    return Const(0.0 if is_float(dtype) else 0, dtype)


def _flat(index: Sequence[Expr], extents: Sequence[Dim]) -> Expr:
    total: Expr = Const(0, I64)
    for i, n in zip(index, extents, strict=True):
        total = total * size(n) + i
    return total


def _gathered(x: Tensor, shape: tuple[Dim, ...], axes: Sequence[_Axis]) -> Tensor:
    """Every pixel asks for the blocks that lie over it."""
    kernel, blocks = [a.kernel for a in axes], [a.blocks for a in axes]

    def block(n: Expr, c: Expr, choice: Sequence[tuple[Expr, Expr, Expr]]) -> Expr:
        taps, places, conditions = zip(*choice, strict=True)
        row = inside(c * size(D.product(kernel)) + _flat(taps, kernel), x.shape[1])
        column = inside(_flat(places, blocks), x.shape[2])
        return Load(x, (n, row, column), both(*conditions), lift(0, x.dtype))

    def element(i: Sequence[Expr]) -> Expr:
        near = [axis.over(pixel) for axis, pixel in zip(axes, i[2:], strict=True)]
        return functools.reduce(lambda a, b: a + b, (block(i[0], i[1], choice) for choice in cartesian(*near)))

    return generate(shape, element, x)


def _scattered(x: Tensor, shape: tuple[Dim, ...], axes: Sequence[_Axis]) -> Tensor:
    """Every block adds itself to the image."""
    kernel, blocks = [a.kernel for a in axes], [a.blocks for a in axes]
    b = Builder("col2im")
    y = b.result(shape, x.dtype, start=zero(x.dtype))
    with b.phase(*shape[:2]) as (n, c), b.each(kernel) as taps, b.each(blocks) as places:
        pixel = [
            b.let(place * a.stride + tap * a.dilation - size(a.before))
            for a, tap, place in zip(axes, taps, places, strict=True)
        ]
        here = [c for p, d in zip(pixel, shape[2:], strict=True) for c in (p >= 0, p < size(d))]
        with b.when(both(*here)):
            row = inside(c * size(D.product(kernel)) + _flat(taps, kernel), x.shape[1])
            column = inside(_flat(places, blocks), x.shape[2])
            b.store(y, (n, c, *pixel), at(y, n, c, *pixel) + at(x, n, row, column))
    return b.tensors()[0]
