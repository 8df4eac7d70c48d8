"""Col2Im: overlapping blocks, given as columns, added up into an image."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from itertools import product as cartesian

import numpy as np

from graphfuse.graph import dims as D
from graphfuse.graph.dims import Dim
from graphfuse.graph.dtypes import I64
from graphfuse.ops import expr as E
from graphfuse.ops.expr import Const, Expr, Load, lift
from graphfuse.ops.loops import inside
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
        sample(floats(1, 5, 5), int64(5, 5), int64(1, 5), rejected="the blocks", reference="onnx"),
    ],
)
def col2im(node: OpNode) -> Tensor:
    """Every pixel asks for the blocks that lie over it."""
    x, kernel = node.input(0), node.integers(2, "the size of the blocks")
    image = node.dims(1) or node.measure(node.input(1))
    rank, taps = len(kernel), int(np.prod(kernel))
    if x.rank != 3 or len(image) != rank:
        raise NotSupported(f"an input of rank {x.rank}, an image of {len(image)} axes, blocks of {rank}")
    channels = D.floordiv(x.shape[1], taps)
    strides, dilations = per_axis(node, "strides", rank, 1), per_axis(node, "dilations", rank, 1)
    before, after = explicit_pads(node, rank)
    blocks = [
        D.add(D.floordiv(D.add(D.add(D.add(n, b), a), -((k - 1) * d + 1)), s), 1)
        for n, b, a, k, d, s in zip(image, before, after, kernel, dilations, strides, strict=True)
    ]
    if int(np.prod([len(_steps(*form)) for form in zip(kernel, strides, dilations, strict=True)])) > _MOST_BLOCKS:
        raise NotSupported(f"more than {_MOST_BLOCKS} blocks lie over one another")

    def element(i: Sequence[Expr]) -> Expr:
        n, c, *pixel = i
        near = [
            _over(at + size(pads), count, k, s, d)
            for at, pads, count, k, s, d in zip(pixel, before, blocks, kernel, strides, dilations, strict=True)
        ]
        return functools.reduce(lambda a, b: a + b, (_block(n, c, choice) for choice in cartesian(*near)))

    def _block(n: Expr, c: Expr, choice: Sequence[tuple[Expr, Expr, Expr]]) -> Expr:
        tap: Expr = Const(0, I64)
        column: Expr = Const(0, I64)
        for (t, block, _), k, count in zip(choice, kernel, blocks, strict=True):
            tap, column = tap * k + t, column * size(count) + block
        guard = functools.reduce(lambda a, b: E.logical("and", a, b), (g for _, _, g in choice))
        row = inside(c * taps + tap, x.shape[1])
        return Load(x, (n, row, inside(column, x.shape[2])), guard, lift(0, x.dtype))

    return generate((x.shape[0], channels, *image), element, x)


def _steps(kernel: int, stride: int, dilation: int) -> range:
    """What tells apart the blocks over one pixel: without dilation how many strides ahead one starts, else its tap."""
    return range(-(-kernel // stride)) if dilation == 1 else range(kernel)


def _over(at: Expr, count: Dim, kernel: int, stride: int, dilation: int) -> list[tuple[Expr, Expr, Expr]]:
    """Along one axis, the blocks that may lie over a padded pixel: (tap, block, whether it does)."""
    found = []
    for step in _steps(kernel, stride, dilation):
        if dilation == 1:
            block = E.floordiv(at, stride) - step
            tap = E.floormod(at, stride) + step * stride
            reached = tap < kernel
        else:
            tap = Const(step, I64)
            block = E.floordiv(at - step * dilation, stride)
            reached = E.equal(E.floormod(at - step * dilation, stride), 0)
        found.append((tap, block, E.logical("and", E.logical("and", reached, block >= 0), block < size(count))))
    return found
