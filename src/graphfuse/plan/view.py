"""Where tensors live: buffers, and strided views of them.

A view says for a logical index where the element is: offset + sum(index[k] * strides[k]), in elements. Transposes,
slices, expands, splits, in-place concats and most reshapes are other views of the same buffer and cost nothing.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from graphfuse.graph.dims import Dim, add, is_static, measured, mul, norm, product, same
from graphfuse.graph.dtypes import DType, item_bytes
from graphfuse.ops.tensor import reshape_groups


@dataclass(eq=False)
class Buffer:
    """A piece of memory; `index` = position among the inputs or outputs, `elements` counts elements of `dtype`.

    kind: arena, input, output, weight; "pointer": one of the buffers `behind`, which changes while the model runs;
    "outer": the buffer behind belongs to the graph around a body of control flow, which knows it by this one.
    """

    kind: str
    elements: Dim
    dtype: DType
    index: int = -1
    name: str = ""
    behind: tuple[Buffer, ...] = ()

    @property
    def roots(self) -> list[Buffer]:
        """The buffers of the same graph that it may be."""
        if self.kind == "outer":
            return []
        return list(self.behind) if self.kind == "pointer" else [self]

    @property
    def resolved(self) -> Buffer:
        """What it is in the graph that it belongs to."""
        return self.behind[0].resolved if self.kind == "outer" else self

    @property
    def bytes(self) -> Dim:
        return mul(self.elements, item_bytes(self.dtype))

    @cached_property
    def is_measured(self) -> bool:
        """Whether its size is known only while the model runs."""
        return bool(measured(self.elements))


@dataclass(frozen=True)
class View:
    """A strided view of a buffer; strides and offset count elements."""

    buffer: Buffer
    shape: tuple[Dim, ...]
    strides: tuple[Dim, ...]
    offset: Dim = 0

    @property
    def dtype(self) -> DType:
        return self.buffer.dtype

    def is_contiguous(self) -> bool:
        """Whether the elements lie row-major without gaps (axes of size 1 aside)."""
        return all(
            same(s, e) for d, s, e in zip(self.shape, self.strides, row_major(self.shape), strict=True) if d != 1
        )

    def transposed(self, perm: Sequence[int]) -> View:
        return replace(self, shape=tuple(self.shape[k] for k in perm), strides=tuple(self.strides[k] for k in perm))

    def sliced(self, starts: Sequence[Dim], steps: Sequence[int], shape: Sequence[Dim]) -> View:
        offset = self.offset
        for start, stride in zip(starts, self.strides, strict=True):
            offset = add(offset, mul(start, stride))
        strides = tuple(mul(step, stride) for step, stride in zip(steps, self.strides, strict=True))
        return replace(self, shape=tuple(shape), strides=strides, offset=offset)

    def expanded(self, shape: Sequence[Dim]) -> View:
        lead = len(shape) - len(self.shape)
        strides: list[Dim] = [0] * lead
        for k, d in enumerate(self.shape):
            strides.append(0 if d == 1 and shape[lead + k] != 1 else self.strides[k])
        return replace(self, shape=tuple(shape), strides=tuple(strides))

    def reshaped(self, shape: Sequence[Dim]) -> View | None:
        """The same elements under another shape, or None when strides can't express it."""
        strides: list[Dim] = [0] * len(shape)
        for ins, outs in reshape_groups(self.shape, shape):
            real = [k for k in ins if self.shape[k] != 1]
            for a, b in itertools.pairwise(real):
                if not same(self.strides[a], mul(self.strides[b], self.shape[b])):
                    return None
            if not real:
                continue
            step = self.strides[real[-1]]
            for k in reversed(outs):
                strides[k] = step
                step = mul(step, shape[k])
        return replace(self, shape=tuple(shape), strides=tuple(strides))


def row_major(shape: Sequence[Dim]) -> tuple[Dim, ...]:
    return ordered_strides(shape, tuple(range(len(shape))))


def ordered_strides(shape: Sequence[Dim], order: Sequence[int]) -> tuple[Dim, ...]:
    """Gap-free strides with the axes laid out from outermost to innermost in the given order."""
    strides: list[Dim] = [0] * len(shape)
    step: Dim = 1
    for axis in reversed(order):
        strides[axis] = step
        step = mul(step, shape[axis])
    return tuple(strides)


def physical_order(view: View) -> tuple[int, ...]:
    """The axes from outermost to innermost by stride; ties and unknowns keep their logical order.

    Two strides compare when both are numbers or one divides the other as expressions do in gap-free layouts.
    """
    axes = list(range(len(view.shape)))
    # Insertion sort with a partial order: an axis moves outward only past axes whose stride is surely smaller.
    for i in range(1, len(axes)):
        k = i
        while k > 0 and surely_larger(view.strides[axes[k]], view.strides[axes[k - 1]]):
            axes[k], axes[k - 1] = axes[k - 1], axes[k]
            k -= 1
    return tuple(axes)


def surely_larger(a: Dim, b: Dim) -> bool:
    """Whether one stride is larger than another whatever the sizes are."""
    if is_static(a, b):
        return a > b  # type: ignore[operator]
    if isinstance(b, int) and b <= 1:
        return True  # a is an expression of sizes, each at least 1
    quotient = norm(a / b) if not (isinstance(b, int) and b == 0) else a  # type: ignore[operator]
    if isinstance(quotient, int):
        return quotient > 1
    return bool(quotient.is_integer and quotient.is_positive and quotient != 1)


def dense(buffer: Buffer, shape: Sequence[Dim], order: Sequence[int] | None = None) -> View:
    """A gap-free view of a whole buffer."""
    axes = tuple(range(len(shape))) if order is None else tuple(order)
    return View(buffer, tuple(shape), ordered_strides(shape, axes))


def span(shape: Sequence[Dim]) -> Dim:
    return product(shape)
