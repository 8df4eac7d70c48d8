"""Shapes: what shows the same elements, and what repeats or rearranges them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import onnx_ir as ir
import torch

from graphfuse.importers.torchscript.builder import Builder
from graphfuse.importers.torchscript.registry import op, view
from graphfuse.importers.torchscript.values import Number, Tensor, Unspellable

_LAST = 2**63 - 1


def _as_base(b: Builder, base: Tensor, new: Tensor, **_: Any) -> Tensor:
    """What is written through a view that only differs in shape."""
    return b.reshape(b.cast(new, base.dtype), b.sizes(base))


@view("view", "_unsafe_view", "_reshape_alias", write=_as_base)
def view_(b: Builder, self: Tensor, size: Any = None, dtype: Any = None) -> Tensor:
    if dtype is not None or size is None:
        raise Unspellable("a view under another element type is not supported")
    return b.reshape(self, size)


@view("reshape", sure=False)
def reshape(b: Builder, self: Tensor, shape: Sequence[Any]) -> Tensor:
    return b.reshape(self, shape)


@view("view_as", "reshape_as", write=_as_base)
def view_as(b: Builder, self: Tensor, other: Tensor) -> Tensor:
    return b.reshape(self, b.sizes(other))


@view("flatten", sure=False)
def flatten(b: Builder, self: Tensor, start_dim: int = 0, end_dim: int = -1) -> Tensor:
    first, last = self.axis(start_dim), self.axis(end_dim)
    if self.rank == 0:
        return b.reshape(self, [1])
    if first == last:
        return self
    if first == 0 and last == self.rank - 1:
        return b.reshape(self, [-1])
    sizes = [b.size(self, k) for k in (*range(first), *range(last + 1, self.rank))]
    return b.reshape(self, [*sizes[:first], _product(self, range(first, last + 1)), *sizes[first:]])


def _product(x: Tensor, axes: Sequence[int]) -> Any:
    """The size of several axes as one; -1 where it is not known."""
    total = 1
    for k in axes:
        size = x.shape[k]
        if not isinstance(size, int):
            return -1
        total *= size
    return total


@view("unflatten", write=_as_base)
def unflatten(b: Builder, self: Tensor, dim: int, sizes: Sequence[Any]) -> Tensor:
    axis = self.axis(dim)
    dims = b.sizes(self)
    return b.reshape(self, [*dims[:axis], *sizes, *dims[axis + 1 :]])


@view("squeeze", write=_as_base)
def squeeze(b: Builder, self: Tensor, dim: Any = None) -> Tensor:
    if dim is None:
        if not all(isinstance(d, int) for d in self.shape):
            raise Unspellable("which axes squeeze removes depends on data", "name the axis in the program")
        axes = [k for k, d in enumerate(self.shape) if d == 1]
    else:
        axes = [self.axis(d) for d in (dim if isinstance(dim, list | tuple) else [dim])]
        axes = [k for k in axes if k < self.rank and _is_one(self, k)]
    return b("Squeeze", self, axes) if axes else self


def _is_one(x: Tensor, axis: int) -> bool:
    size = x.shape[axis]
    if not isinstance(size, int):
        raise Unspellable("whether squeeze removes an axis depends on its size, which is open", "give it as a number")
    return size == 1


@view("unsqueeze", write=_as_base)
def unsqueeze(b: Builder, self: Tensor, dim: int) -> Tensor:
    rank = self.rank + 1
    if not -rank <= dim < rank:
        raise Unspellable(f"there is no place {dim} for an axis in a tensor of rank {self.rank}")
    return b("Unsqueeze", self, [dim % rank])


def _turned(b: Builder, x: Tensor, perm: Sequence[int]) -> Tensor:
    return x if list(perm) == sorted(perm) else b("Transpose", x, perm=list(perm))


def _inverse(perm: Sequence[int]) -> list[int]:
    return sorted(range(len(perm)), key=lambda k: perm[k])


def _swapped(x: Tensor, dim0: int, dim1: int) -> list[int]:
    first, second = x.axis(dim0), x.axis(dim1)
    perm = list(range(x.rank))
    if perm:
        perm[first], perm[second] = perm[second], perm[first]
    return perm


def _write_transposed(b: Builder, base: Tensor, new: Tensor, dim0: int, dim1: int) -> Tensor:
    return _turned(b, new, _swapped(base, dim0, dim1))


@view("transpose", "swapaxes", "swapdims", write=_write_transposed)
def transpose(b: Builder, self: Tensor, dim0: int, dim1: int) -> Tensor:
    return _turned(b, self, _swapped(self, dim0, dim1))


@view("t", "numpy_T", "mT", "adjoint", write=lambda b, base, new: _turned(b, new, _last_two(base)))
def t(b: Builder, self: Tensor) -> Tensor:
    return _turned(b, self, _last_two(self))


def _last_two(x: Tensor) -> list[int]:
    return _swapped(x, -2, -1) if x.rank > 1 else list(range(x.rank))


def _write_permuted(b: Builder, base: Tensor, new: Tensor, dims: Sequence[int]) -> Tensor:
    return _turned(b, new, _inverse([base.axis(d) for d in dims]))


@view("permute", write=_write_permuted)
def permute(b: Builder, self: Tensor, dims: Sequence[int]) -> Tensor:
    return _turned(b, self, [self.axis(d) for d in dims])


@view("movedim", "moveaxis")
def movedim(b: Builder, self: Tensor, source: Any, destination: Any) -> Tensor:
    sources = [self.axis(d) for d in (source if isinstance(source, list) else [source])]
    places = [self.axis(d) for d in (destination if isinstance(destination, list) else [destination])]
    left = iter(k for k in range(self.rank) if k not in sources)
    by_place = dict(zip(places, sources, strict=True))
    return _turned(b, self, [by_place[k] if k in by_place else next(left) for k in range(self.rank)])


@view("expand", "broadcast_to")
def expand(b: Builder, self: Tensor, size: Sequence[Any]) -> Tensor:
    added = len(size) - self.rank
    dims = [b.size(self, k - added) if not isinstance(d, Tensor) and d == -1 else d for k, d in enumerate(size)]
    return b.expand(self, dims)


@view("expand_as")
def expand_as(b: Builder, self: Tensor, other: Tensor) -> Tensor:
    return b.expand(self, b.sizes(other))


@view("detach", "alias", "data", "lift_fresh", write=lambda b, base, new: new)
def same(b: Builder, self: Tensor) -> Tensor:
    return self


@view("contiguous", sure=False)
def contiguous(b: Builder, self: Tensor) -> Tensor:
    return self


@op("clone")
def clone(b: Builder, self: Tensor) -> Tensor:
    return Tensor(self.plain, b.touch)


@op("repeat")
def repeat(b: Builder, self: Tensor, repeats: Sequence[Any]) -> Tensor:
    added = len(repeats) - self.rank
    x = b.reshape(self, [*[1] * added, *b.sizes(self)]) if added else self
    if all(isinstance(r, int) and r == 1 for r in repeats):
        return x
    tiled: Tensor = b("Tile", x, b.vector(repeats))
    known = [
        d * r if isinstance(d, int) and isinstance(r, int) else None for d, r in zip(x.shape, repeats, strict=True)
    ]
    return b.shaped(tiled, known)


@op("tile")
def tile(b: Builder, self: Tensor, dims: Sequence[Any]) -> Tensor:
    return repeat(b, self, [*[1] * (self.rank - len(dims)), *dims])


@op("repeat_interleave")
def repeat_interleave(
    b: Builder, self: Tensor, repeats: Any, dim: int | None = None, output_size: Any = None
) -> Tensor:
    if isinstance(repeats, Tensor) and not isinstance(repeats, Number):
        raise Unspellable("another number of repeats for each element is not supported")
    x = b.reshape(self, [-1]) if dim is None else self
    axis = x.axis(dim or 0)
    sizes = b.sizes(x)
    added = b("Unsqueeze", x, [axis + 1])
    wide = b.expand(added, [*sizes[: axis + 1], repeats, *sizes[axis + 1 :]])
    known = isinstance(repeats, int) and isinstance(sizes[axis], int)
    whole: Any = sizes[axis] * repeats if known else -1
    return b.reshape(wide, [*sizes[:axis], whole, *sizes[axis + 1 :]])


@op("cat", "concat", "concatenate")
def cat(b: Builder, tensors: Any, dim: int = 0) -> Tensor:
    if not isinstance(tensors, list):
        shape = tensors.sequence.shape
        joined: Tensor = b("ConcatFromSequence", tensors.sequence.value, axis=dim)
        if shape is not None:
            joined.value.shape = ir.Shape([None if k == dim % len(shape) else d for k, d in enumerate(shape)])
        return joined
    parts = [x for x in tensors if not (x.shape == (0,) and any(y.rank != 1 for y in tensors))]
    parts = list(b.operands(*parts))
    return parts[0] if len(parts) == 1 else b("Concat", *parts, axis=parts[0].axis(dim))


@op("stack")
def stack(b: Builder, tensors: Any, dim: int = 0) -> Tensor:
    if not isinstance(tensors, list):
        shape = tensors.sequence.shape
        joined: Tensor = b("ConcatFromSequence", tensors.sequence.value, axis=dim, new_axis=1)
        if shape is not None:
            axis = dim % (len(shape) + 1)
            joined.value.shape = ir.Shape([*shape[:axis], None, *shape[axis:]])
        return joined
    axis = dim % (tensors[0].rank + 1)
    parts = [b("Unsqueeze", x, [axis]) for x in b.operands(*tensors)]
    return parts[0] if len(parts) == 1 else b("Concat", *parts, axis=axis)


@op("hstack")
def hstack(b: Builder, tensors: list[Tensor]) -> Tensor:
    parts = [b.reshape(x, [1]) if x.rank == 0 else x for x in tensors]
    return cat(b, parts, 0 if parts[0].rank == 1 else 1)


@op("vstack")
def vstack(b: Builder, tensors: list[Tensor]) -> Tensor:
    return cat(b, [b.reshape(x, [1, -1]) if x.rank < 2 else x for x in tensors], 0)


@op("flip")
def flip(b: Builder, self: Tensor, dims: Sequence[int]) -> Tensor:
    axes = [self.axis(d) for d in dims]
    count = len(axes)
    return b("Slice", self, [-1] * count, [-_LAST] * count, axes, [-1] * count) if axes else self


@op("roll")
def roll(b: Builder, self: Tensor, shifts: Any, dims: Any = ()) -> Tensor:
    shifts = shifts if isinstance(shifts, list) else [shifts]
    if not dims:
        flat = roll(b, b.reshape(self, [-1]), shifts, [0])
        return b.reshape(flat, b.sizes(self))
    x = self
    for shift, dim in zip(shifts, dims, strict=True):
        axis, size = x.axis(dim), x.shape[x.axis(dim)]
        if isinstance(shift, Tensor):
            raise Unspellable("a roll that depends on data is not supported")
        cut = -shift % size if isinstance(size, int) and size else -shift
        if cut:
            head, tail = b("Slice", x, [cut], [_LAST], [axis]), b("Slice", x, [0], [cut], [axis])
            x = b.shaped(b("Concat", head, tail, axis=axis), list(x.shape))
    return x


@op("pixel_shuffle")
def pixel_shuffle(b: Builder, self: Tensor, upscale_factor: int) -> Tensor:
    return b("DepthToSpace", self, blocksize=upscale_factor, mode="CRD")


@op("pixel_unshuffle")
def pixel_unshuffle(b: Builder, self: Tensor, downscale_factor: int) -> Tensor:
    n, c, h, w = b.sizes(self)
    r = downscale_factor
    if not isinstance(h, int) or not isinstance(w, int) or not isinstance(c, int):
        raise Unspellable("pixel_unshuffle of open sizes is not supported")
    x = b.reshape(self, [n, c, h // r, r, w // r, r])
    return b.reshape(b("Transpose", x, perm=[0, 1, 3, 5, 2, 4]), [n, c * r * r, h // r, w // r])


@op("channel_shuffle")
def channel_shuffle(b: Builder, self: Tensor, groups: int) -> Tensor:
    dims = b.sizes(self)
    if not isinstance(dims[1], int):
        raise Unspellable("an open number of channels is not supported")
    x = b.reshape(self, [dims[0], groups, dims[1] // groups, *dims[2:]])
    return b.reshape(b("Transpose", x, perm=[0, 2, 1, *range(3, self.rank + 1)]), dims)


def _write_triangle(op_type: int) -> Any:
    def spell(b: Builder, self: Tensor, diagonal: int = 0) -> Tensor:
        return b("Trilu", self, b.const(torch.tensor(diagonal)), upper=op_type)

    return spell


op("triu")(_write_triangle(1))
op("tril")(_write_triangle(0))


@view("diagonal")
def diagonal(b: Builder, self: Tensor, offset: int = 0, dim1: int = 0, dim2: int = 1) -> Tensor:
    first, second = self.axis(dim1), self.axis(dim2)
    if offset or not all(isinstance(self.shape[k], int) for k in (first, second)):
        raise Unspellable("a diagonal beside the main one, or of open size, is not supported")
    rest = [k for k in range(self.rank) if k not in (first, second)]
    x = _turned(b, self, [first, second, *rest])
    count = min(int(x.shape[0] or 0), int(x.shape[1] or 0))
    places = b.const(torch.arange(count).reshape(-1, 1).repeat(1, 2))
    return _turned(b, b("GatherND", x, places), [*range(1, self.rank - 1), 0])


@op("meshgrid")
def meshgrid(b: Builder, tensors: list[Tensor], indexing: str = "ij") -> list[Tensor]:
    order = [1, 0, *range(2, len(tensors))] if indexing == "xy" and len(tensors) > 1 else list(range(len(tensors)))
    dims = [b.size(tensors[k], 0) if tensors[k].rank else 1 for k in order]
    grids = []
    for place, k in sorted(zip(range(len(order)), order, strict=True), key=lambda pair: pair[1]):
        shape: list[Any] = [1] * len(dims)
        shape[place] = -1
        grids.append(b.expand(b.reshape(tensors[k], shape), dims))
    return grids


@op("broadcast_tensors")
def broadcast_tensors(b: Builder, tensors: list[Tensor]) -> list[Tensor]:
    rank = max(x.rank for x in tensors)
    dims: list[Any] = []
    for k in range(-rank, 0):
        sizes = [x for x in tensors if x.rank >= -k]
        known = [x.shape[k] for x in sizes]
        if any(isinstance(d, int) and d != 1 for d in known):
            dims.append(next(d for d in known if isinstance(d, int) and d != 1))
        elif all(d == 1 for d in known):
            dims.append(1)
        else:
            found = [b.as_tensor(b.size(x, k)) for x in sizes]
            dims.append(b.number(found[0] if len(found) == 1 else b("Max", *found)))
    return [b.expand(x, dims) for x in tensors]
