"""What moves elements and makes tensors: views, joins, paddings, ranges."""

from __future__ import annotations

import operator
from functools import reduce
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from graphfuse.export.torch.call import Call, Refused, op, torch_pads

_FAR = 2**31 - 1


@op("Reshape")
def reshape(c: Call) -> Any:
    zero = bool(c.attr("allowzero"))
    try:
        wanted = c.integers(1, "its shape")
    except Refused:
        found = c.out_shape()
        if found is None or found.count(None) > 1:
            raise
        return c[0].reshape([-1 if d is None else d for d in found])
    return c[0].reshape([c.size(0, k) if d is not None and _is(d, 0) and not zero else d for k, d in enumerate(wanted)])


def _is(value: Any, number: int) -> bool:
    return isinstance(value, int) and value == number


@op("Flatten")
def flatten(c: Call) -> Any:
    axis, x = c.axis(), c[0]
    if axis == 1 and c.rank(0) > 1:
        return torch.flatten(x, 1)
    if axis in (0, c.rank(0)):
        return x.reshape((1, -1) if axis == 0 else (-1, 1))
    head = reduce(operator.mul, [c.size(0, k) for k in range(axis)])
    return x.reshape((head, -1))


@op("Transpose")
def transpose(c: Call) -> Any:
    rank = c.rank(0)
    order = [int(a) for a in c.attr("perm", list(reversed(range(rank))))]
    moved = [k for k, a in enumerate(order) if k != a]
    if len(moved) == 2:
        return c[0].transpose(*moved)
    return c[0].permute(order) if moved else c[0]


@op("Squeeze")
def squeeze(c: Call) -> Any:
    if c.has(1):
        return c[0].squeeze([int(a) for a in c.integers(1, "which axes it drops")])
    return c[0].squeeze([k for k, d in enumerate(c.shape(0)) if d == 1])


@op("Unsqueeze")
def unsqueeze(c: Call) -> Any:
    given = c.integers(1, "which axes it adds")
    x, rank = c[0], c.rank(0) + len(given)
    for axis in sorted(int(a) % rank for a in given):
        x = x.unsqueeze(axis)
    return x


@op("Concat")
def concat(c: Call) -> Any:
    return torch.cat([c[k] for k in range(len(c))], dim=c.attr("axis"))


@op("Split")
def split(c: Call) -> Any:
    axis, count = c.axis(), len(c.node.outputs)
    if c.has(1):
        parts: Any = c.integers(1, "the sizes of its parts")
    else:
        size = c.size(0, axis)
        parts = (size + count - 1) // count
        if isinstance(size, int):
            parts = [max(0, min(parts, size - k * parts)) for k in range(count)]
    found = torch.split(c[0], parts, dim=axis)
    return tuple(found[k] for k in range(count))


@op("Slice")
def slice_(c: Call) -> Any:
    rank = c.rank(0)
    starts, ends = c.integers(1, "where it starts"), c.integers(2, "where it ends")
    axes = [int(a) % rank for a in c.integers(3, "its axes")] if c.has(3) else list(range(len(starts)))
    steps = [int(s) for s in c.integers(4, "its steps")] if c.has(4) else [1] * len(starts)
    places: list[Any] = [slice(None)] * rank
    x = c[0]
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        if step < 0:
            x = torch.flip(x, [axis])
            places[axis] = _backward(c.shape(0)[axis], start, end, step)
            continue
        first = None if _is(start, 0) else start
        last = None if isinstance(end, int) and end >= _FAR else end
        places[axis] = slice(first, last, None if step == 1 else step)
    if all(map(_is_whole, places)):
        return x
    while _is_whole(places[-1]):
        places.pop()
    return x[tuple(places)]


def _is_whole(place: slice) -> bool:
    # No comparison of slices, which would compare what stands for sizes.
    return place.start is None and place.stop is None and place.step is None


def _backward(size: int | None, start: Any, end: Any, step: int) -> slice:
    """The slice of what is already turned around."""
    if not isinstance(start, int) or not isinstance(end, int):
        raise Refused("it steps back from a place known only at run time")
    if size is None:
        if (start != -1 and start < _FAR - 1) or end > -_FAR:
            raise Refused("it steps back inside a size known only at run time")
        return slice(None, None, None if step == -1 else -step)
    first, last = (place + size if place < 0 else place for place in (start, end))
    taken = range(min(max(first, 0), size - 1), min(max(last, -1), size - 1), step)
    if not taken:
        return slice(0, 0)
    return slice(size - 1 - taken[0], size - taken[-1], None if step == -1 else -step)


@op("Expand")
def expand(c: Call) -> Any:
    wanted, rank = c.integers(1, "its shape"), c.rank(0)
    wanted = [1] * (rank - len(wanted)) + wanted
    ahead = len(wanted) - rank
    sizes = []
    for k, d in enumerate(wanted):
        ours = c.shape(0)[k - ahead] if k >= ahead else 1
        stays = k >= ahead and (_is(d, 1) or (ours is not None and _is(d, ours)) or c.same_size(0, k - ahead, k))
        sizes.append(-1 if stays else d)
    return c[0].expand(sizes) if ahead or any(not _is(d, -1) for d in sizes) else c[0]


@op("Tile")
def tile(c: Call) -> Any:
    return c[0].repeat(c.integers(1, "how often it repeats"))


@op("Pad")
def pad(c: Call) -> Any:
    rank, mode, given = c.rank(0), c.attr("mode"), c.integers(1, "its paddings")
    axes = [int(a) % rank for a in c.integers(3, "its axes")] if c.has(3) else list(range(rank))
    pads: list[Any] = [0] * 2 * rank
    for k, axis in enumerate(axes):
        pads[axis], pads[rank + axis] = given[k], given[len(axes) + k]
    if mode == "constant":
        return _pad_constant(c, pads)
    x = c[0]
    for axis in range(rank):
        before, after = pads[axis], pads[rank + axis]
        if _is(before, 0) and _is(after, 0):
            continue
        size = c.shape(0)[axis]
        if size is None or not isinstance(before, int) or not isinstance(after, int):
            raise Refused(f"it pads by {mode} a size known only at run time")
        taken = np.pad(
            np.arange(size),
            (max(before, 0), max(after, 0)),
            mode={"reflect": "reflect", "edge": "edge"}.get(mode, "wrap"),
        )  # type: ignore[call-overload]
        taken = taken[max(-before, 0) : len(taken) - max(-after, 0)]
        x = torch.index_select(x, axis, c.buffer(taken, f"index{axis}"))
    return x


def _pad_constant(c: Call, pads: list[Any]) -> Any:
    value = c.scalar_or(2) if c.has(2) else 0
    if not isinstance(value, int | float):
        known = c.constant(2)
        if known is None:
            raise Refused("what it pads with is known only at run time")
        value = known.reshape(-1)[0].item()
    order = torch_pads(pads)
    while len(order) > 2 and _is(order[-1], 0) and _is(order[-2], 0):
        order = order[:-2]
    return F.pad(c[0], order, value=value)


@op("ConstantOfShape")
def constant_of_shape(c: Call) -> Any:
    given = c.attr("value")
    value = 0.0 if given is None else given.numpy().reshape(-1)[0].item()
    return c.call(torch.full, c.integers(0, "its shape"), value, dtype=c.out_dtype())


@op("Range")
def range_(c: Call) -> Any:
    ends = []
    for k in range(3):
        known = c.constant(k)
        ends.append(known.item() if known is not None else c.integers(k, "where it starts or ends")[0])
    start, end, step = ends
    if all(isinstance(e, int | float) for e in ends) and (end - start) * step <= 0:
        end = start  # PyTorch refuses what runs the other way, where ONNX has nothing
    return c.call(torch.arange, start, end, step, dtype=c.out_dtype())


@op("EyeLike")
def eye_like(c: Call) -> Any:
    rows, columns = (c.call(torch.arange, c.size(0, k)) for k in (0, 1))
    return (rows.unsqueeze(1) + c.attr("k", 0) == columns).to(c.out_dtype())


@op("DepthToSpace", "SpaceToDepth")
def depth_space(c: Call) -> Any:
    size, x = int(c.attr("blocksize")), c[0]
    n, channels, height, width = (c.size(0, k) for k in range(4))
    if c.node.op_type == "SpaceToDepth":
        x = x.reshape([n, channels, height // size, size, width // size, size]).permute([0, 3, 5, 1, 2, 4])
        return x.reshape([n, channels * size * size, height // size, width // size])
    if c.attr("mode") == "CRD":
        return F.pixel_shuffle(x, size)
    x = x.reshape([n, size, size, channels // (size * size), height, width]).permute([0, 3, 4, 1, 5, 2])
    return x.reshape([n, channels // (size * size), height * size, width * size])


@op("Trilu")
def trilu(c: Call) -> Any:
    k = int(c.known(1, "its diagonal").item()) if c.has(1) else 0
    return (torch.triu if c.attr("upper") else torch.tril)(c[0], k)
