"""Parts of tensors by position: slices, gathers, scatters, indices."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from graphfuse.importers.torchscript.builder import Builder
from graphfuse.importers.torchscript.registry import op, view
from graphfuse.importers.torchscript.values import NeedsInteger, Number, Tensor, Unspellable

_LAST = 2**63 - 1


def _write_select(b: Builder, base: Tensor, new: Tensor, dim: int, index: Any) -> Tensor:
    place = b.reshape(b.as_tensor(index, torch.int64), [1])
    return _put_along(b, base, base.axis(dim), place, b("Unsqueeze", new, [base.axis(dim)]))


@view("select", write=_write_select)
def select(b: Builder, self: Tensor, dim: int, index: Any) -> Tensor:
    axis, size = self.axis(dim), self.shape[self.axis(dim)]
    if not isinstance(index, Tensor) and isinstance(size, int) and not -size <= index < size:
        raise Unspellable(f"there is no element {index} on an axis of {size}")
    return b("Gather", self, index, axis=axis)


def _ends(start: Any, end: Any, step: Any) -> tuple[Any, Any, Any]:
    return 0 if start is None else start, _LAST if end is None else end, step


def _write_slice(
    b: Builder, base: Tensor, new: Tensor, dim: int = 0, start: Any = None, end: Any = None, step: Any = 1
) -> Tensor:
    axis = base.axis(dim)
    size = b.size(base, axis)
    if isinstance(size, int) and all(not isinstance(x, Tensor) for x in (start, end, step)):
        places = b.const(torch.arange(size)[slice(start, end, step)])
    else:
        every = b("Range", b.const(torch.tensor(0)), b.as_tensor(size), b.const(torch.tensor(1)))
        places = slice_(b, every, 0, start, end, step)
    return _put_along(b, base, axis, places, new)


@view("slice", write=_write_slice)
def slice_(b: Builder, self: Tensor, dim: int = 0, start: Any = None, end: Any = None, step: Any = 1) -> Tensor:
    start, end, step = _ends(start, end, step)
    if all(not isinstance(x, Tensor) for x in (start, end, step)) and start == 0 and end >= _LAST and step == 1:
        return self
    axis = self.axis(dim)
    cut: Tensor = b("Slice", self, b.vector([start]), b.vector([end]), [axis], b.vector([step]))
    size = self.shape[axis]
    known = isinstance(size, int) and all(not isinstance(x, Tensor) for x in (start, end, step))
    length = len(range(*slice(start, end, step).indices(size))) if known and isinstance(size, int) else None
    if not known and start == 0 and isinstance(end, Number) and end.dim is not None:
        length = None
    return b.shaped(cut, [length if k == axis else d for k, d in enumerate(self.shape)])


def _write_narrow(b: Builder, base: Tensor, new: Tensor, dim: int, start: Any, length: Any) -> Tensor:
    return _write_slice(b, base, new, dim, start, _sum(b, start, length))


@view("narrow", write=_write_narrow)
def narrow(b: Builder, self: Tensor, dim: int, start: Any, length: Any) -> Tensor:
    if isinstance(start, Tensor) and not isinstance(start, Number):
        start = b.number(b.reshape(start, []))
    return slice_(b, self, dim, start, _sum(b, start, length))


def _sum(b: Builder, x: Any, y: Any) -> Any:
    if not isinstance(x, Tensor) and not isinstance(y, Tensor):
        return x + y
    return b.number(b("Add", *b.operands(x, y)))


def _put_along(b: Builder, base: Tensor, axis: int, places: Tensor, new: Tensor) -> Tensor:
    """base with the given places of an axis replaced."""
    new = b.cast(new, base.dtype)
    count = b.size(places, 0)
    dims = [count if k == axis else b.size(base, k) for k in range(base.rank)]
    new = b.expand(new, dims)
    if axis == 0:
        return b("ScatterND", base, b("Unsqueeze", places, [1]), new)
    index = b.reshape(places, [-1 if k == axis else 1 for k in range(base.rank)])
    return b("ScatterElements", base, b.expand(index, dims), new, axis=axis)


@view("unbind")
def unbind(b: Builder, self: Tensor, dim: int = 0) -> list[Tensor]:
    axis, count = self.axis(dim), self.shape[self.axis(dim)]
    if not isinstance(count, int):
        raise Unspellable("into how many tensors it is taken apart depends on data", "give that size as a number")
    return [b("Gather", self, b.const(torch.tensor(k)), axis=axis) for k in range(count)]


def _cut(b: Builder, x: Tensor, axis: int, sizes: Sequence[int]) -> list[Tensor]:
    if len(sizes) == 1:
        return [x]
    if len(sizes) > 1 and all(isinstance(s, int) for s in sizes):
        return list(b("Split", x, list(sizes), axis=axis, count=len(sizes)))
    raise Unspellable("the sizes of the parts depend on data")


@view("split", "split_with_sizes")
def split(b: Builder, self: Tensor, split_size: Any = None, dim: int = 0, split_sizes: Any = None) -> list[Tensor]:
    given = split_size if split_size is not None else split_sizes
    axis, size = self.axis(dim), self.shape[self.axis(dim)]
    if isinstance(given, list):
        return _cut(b, self, axis, given)
    if not isinstance(size, int):
        raise Unspellable("into how many tensors it is split depends on data", "give that size as a number")
    return _cut(b, self, axis, [min(given, size - k) for k in range(0, size, given)] or [0])


@view("chunk")
def chunk(b: Builder, self: Tensor, chunks: int, dim: int = 0) -> list[Tensor]:
    axis, size = self.axis(dim), self.shape[self.axis(dim)]
    if not isinstance(size, int):
        return list(b("Split", self, axis=axis, num_outputs=chunks, count=chunks))
    return split(b, self, max(1, -(-size // chunks)), axis)


@view("tensor_split")
def tensor_split(b: Builder, self: Tensor, sections: Any = None, dim: int = 0, indices: Any = None) -> list[Tensor]:
    axis, size = self.axis(dim), self.shape[self.axis(dim)]
    if not isinstance(size, int):
        raise Unspellable("into how many tensors it is split depends on data", "give that size as a number")
    if indices is not None:
        ends = [*indices, size]
        return _cut(b, self, axis, [high - low for low, high in zip([0, *indices], ends, strict=True)])
    return _cut(b, self, axis, [size // sections + (k < size % sections) for k in range(sections)])


def _index(b: Builder, x: Any) -> Tensor:
    if isinstance(x, Tensor) and x.is_float:
        raise NeedsInteger(x.plain)
    return b.as_tensor(x, torch.int64) if not isinstance(x, Tensor) or x.dtype.itemsize < 4 else x


@op("embedding")
def embedding(b: Builder, weight: Tensor, indices: Tensor, padding_idx: int = -1, sparse: bool = False,
              scale_grad_by_freq: bool = False) -> Tensor:  # fmt: skip
    return b("Gather", weight, _index(b, indices), axis=0)


@op("index_select")
def index_select(b: Builder, self: Tensor, dim: int, index: Tensor) -> Tensor:
    index = b.reshape(index, [1]) if index.rank == 0 else index
    return b("Gather", self, _index(b, index), axis=self.axis(dim))


@op("gather")
def gather(b: Builder, self: Tensor, dim: int, index: Tensor, sparse_grad: bool = False) -> Tensor:
    index = _index(b, index)
    axis = self.axis(dim)
    if self.rank == 0 or index.rank == 0:
        return b.reshape(b("GatherElements", b.reshape(self, [-1]), b.reshape(index, [-1]), axis=0), b.sizes(index))
    return b("GatherElements", self, index, axis=axis)


@op("take_along_dim")
def take_along_dim(b: Builder, self: Tensor, indices: Tensor, dim: int | None = None) -> Tensor:
    if dim is None:
        return gather(b, b.reshape(self, [-1]), 0, b.reshape(indices, [-1]))
    return gather(b, self, dim, indices)


@op("take")
def take(b: Builder, self: Tensor, index: Tensor) -> Tensor:
    return b("Gather", b.reshape(self, [-1]), _index(b, index), axis=0)


@op("scatter")
def scatter(b: Builder, self: Tensor, dim: int, index: Tensor, src: Any = None, value: Any = None,
            reduce: str | None = None) -> Tensor:  # fmt: skip
    how = {None: "none", "add": "add", "multiply": "mul"}[reduce]
    given = src if src is not None else value
    return _scattered(b, self, dim, index, given, how)


def _scattered(b: Builder, x: Tensor, dim: int, index: Tensor, given: Any, how: str) -> Tensor:
    index = _index(b, index)
    updates = b.as_tensor(given, b.torch_dtype(x))
    if updates.rank == 0 and index.rank > 0:
        updates = b.expand(updates, b.sizes(index))
    elif updates.shape != index.shape or None in index.shape:
        count = index.rank  # more updates than places are left out
        ends = b("Shape", index)
        updates = b("Slice", updates, [0] * count, ends, list(range(count)))
        updates = b.shaped(updates, list(index.shape))
    return b("ScatterElements", x, index, updates, axis=x.axis(dim), reduction=how)


@op("scatter_add")
def scatter_add(b: Builder, self: Tensor, dim: int, index: Tensor, src: Tensor) -> Tensor:
    return _scattered(b, self, dim, index, src, "add")


@op("scatter_reduce")
def scatter_reduce(
    b: Builder, self: Tensor, dim: int, index: Tensor, src: Tensor, reduce: str, include_self: bool = True
) -> Tensor:
    how = {"sum": "add", "prod": "mul", "amax": "max", "amin": "min"}.get(reduce)
    if how is None or not include_self:
        raise Unspellable(f"scatter_reduce by {reduce} is supported only as sum, prod, amax, amin with include_self")
    return _scattered(b, self, dim, index, src, how)


@op("index_add")
def index_add(b: Builder, self: Tensor, dim: int, index: Tensor, source: Tensor, alpha: Any = 1) -> Tensor:
    axis = self.axis(dim)
    if alpha != 1:
        source = b("Mul", *b.operands(source, alpha))
    places = b.reshape(_index(b, index), [-1 if k == axis else 1 for k in range(self.rank)])
    wide = b.expand(places, b.sizes(source))
    return b("ScatterElements", self, wide, b.cast(source, self.dtype), axis=axis, reduction="add")


@op("index_copy")
def index_copy(b: Builder, self: Tensor, dim: int, index: Tensor, source: Tensor) -> Tensor:
    return _put_along(b, self, self.axis(dim), b.reshape(_index(b, index), [-1]), source)


@op("index_fill")
def index_fill(b: Builder, self: Tensor, dim: int, index: Tensor, value: Any) -> Tensor:
    return _put_along(
        b, self, self.axis(dim), b.reshape(_index(b, index), [-1]), b.as_tensor(value, b.torch_dtype(self))
    )


@op("select_scatter")
def select_scatter(b: Builder, self: Tensor, src: Tensor, dim: int, index: Any) -> Tensor:
    return _write_select(b, self, src, dim, index)


@op("slice_scatter")
def slice_scatter(
    b: Builder, self: Tensor, src: Tensor, dim: int = 0, start: Any = None, end: Any = None, step: Any = 1
) -> Tensor:
    return _write_slice(b, self, src, dim, start, end, step)


@op("masked_scatter")
def masked_scatter(b: Builder, self: Tensor, mask: Tensor, source: Tensor) -> Tensor:
    mask = b.expand(b.cast(mask, torch.bool), b.sizes(self))
    places = b("Transpose", b("NonZero", mask), perm=[1, 0])
    count = b("Slice", b("Shape", places), [0], [1])
    taken = b("Slice", b.reshape(source, [-1]), [0], count, [0])
    return b("ScatterND", self, places, taken)


@op("masked_select")
def masked_select(b: Builder, self: Tensor, mask: Tensor) -> Tensor:
    mask = b.cast(mask, torch.bool)
    if self.shape != mask.shape or None in self.shape:
        from graphfuse.importers.torchscript.ops.views import broadcast_tensors

        self, mask = broadcast_tensors(b, [self, mask])
    return b("Compress", b.reshape(self, [-1]), b.reshape(mask, [-1]), axis=0)


@op("nonzero")
def nonzero(b: Builder, self: Tensor) -> Tensor:
    return b("Transpose", b("NonZero", self), perm=[1, 0])


@op("argwhere")
def argwhere(b: Builder, self: Tensor) -> Tensor:
    return nonzero(b, self)


@op("nonzero_numpy")
def nonzero_numpy(b: Builder, self: Tensor) -> list[Tensor]:
    places = b("NonZero", self)
    return [b("Gather", places, b.const(torch.tensor(k)), axis=0) for k in range(self.rank)]


@op("one_hot")
def one_hot(b: Builder, self: Tensor, num_classes: Any = -1) -> Tensor:
    if not isinstance(num_classes, Tensor) and num_classes < 0:
        raise Unspellable("how many classes there are depends on data", "name their number in the program")
    return b("OneHot", self, num_classes, b.const(torch.tensor([0, 1])))


def _split_masks(b: Builder, x: Tensor, indices: Sequence[Any]) -> list[Tensor | None]:
    """The indices, masks as the positions of what they hold."""
    found: list[Tensor | None] = []
    for index in indices:
        if index is None:
            found.append(None)
        elif b.torch_dtype(index) in (torch.bool, torch.uint8):
            places = b("NonZero", index)
            found += [b("Gather", places, b.const(torch.tensor(k)), axis=0) for k in range(index.rank)]
        else:
            found.append(_index(b, index))
    return found + [None] * (x.rank - len(found))


@op("index")
def index(b: Builder, self: Tensor, indices: Sequence[Any]) -> Tensor:
    found = _split_masks(b, self, indices)
    axes = [k for k, i in enumerate(found) if i is not None]
    if not axes:
        return self
    places = [i for i in found if i is not None]
    if len(axes) == 1:
        return b("Gather", self, places[0], axis=axes[0])
    perm, front = _indexed_first(self, axes)
    x = self if perm == list(range(self.rank)) else b("Transpose", self, perm=perm)
    taken = b("GatherND", x, _together(b, places))
    wide = max(i.rank for i in places)
    if front:
        return taken
    order = [*range(wide, wide + axes[0]), *range(wide), *range(wide + axes[0], taken.rank)]
    return b("Transpose", taken, perm=order)


def _indexed_first(x: Tensor, axes: Sequence[int]) -> tuple[list[int], bool]:
    """The order with these axes first, and whether what they give comes first in the result."""
    perm = [*axes, *(k for k in range(x.rank) if k not in axes)]
    apart = list(axes) != list(range(axes[0], axes[0] + len(axes)))
    return perm, apart or axes[0] == 0


def _together(b: Builder, places: Sequence[Tensor]) -> Tensor:
    """Positions on several axes, broadcast, as the last axis of one tensor."""
    from graphfuse.importers.torchscript.ops.views import broadcast_tensors

    same = len({p.shape for p in places}) == 1 and None not in places[0].shape
    wide = list(places) if same else broadcast_tensors(b, list(places))
    wide = [b.cast(p, torch.int64) for p in wide]
    made: Tensor = b("Concat", *(b("Unsqueeze", p, [-1]) for p in wide), axis=-1)
    return made


@op("index_put", "_index_put_impl")
def index_put(
    b: Builder, self: Tensor, indices: Sequence[Any], values: Tensor, accumulate: bool = False, unsafe: bool = False
) -> Tensor:
    values = b.cast(values, self.dtype)
    [only] = [i for i in indices if i is not None] if len([i for i in indices if i is not None]) == 1 else [None]
    if only is not None and indices[0] is only and b.torch_dtype(only) == torch.bool and values.rank == 0:
        mask = b.reshape(only, [*b.sizes(only), *[1] * (self.rank - only.rank)])
        change = b("Add", self, values) if accumulate else values
        return b("Where", mask, change, self)
    found = _split_masks(b, self, indices)
    axes = [k for k, i in enumerate(found) if i is not None]
    places = [i for i in found if i is not None]
    perm, front = _indexed_first(self, axes)
    x = self if perm == list(range(self.rank)) else b("Transpose", self, perm=perm)
    where = _together(b, places)
    lead = where.rank - 1
    target = [*(b.size(where, k) for k in range(lead)), *(b.size(x, k) for k in range(len(axes), x.rank))]
    if not front:
        # values have the indices' axes where the first of them stood
        order = [*range(axes[0]), *range(axes[0] + lead, len(target))]
        shown = [*target[lead : lead + axes[0]], *target[:lead], *target[lead + axes[0] :]]
        values = b.expand(values, shown)
        values = b("Transpose", values, perm=[*range(axes[0], axes[0] + lead), *order])
    else:
        values = b.expand(values, target)
    done = b("ScatterND", x, where, values, reduction="add" if accumulate else "none")
    return done if perm == list(range(self.rank)) else b("Transpose", done, perm=_inverse(perm))


def _inverse(perm: Sequence[int]) -> list[int]:
    return sorted(range(len(perm)), key=lambda k: perm[k])
