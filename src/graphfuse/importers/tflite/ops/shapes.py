"""Shapes: what moves elements or tells how many there are."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from graphfuse.importers.tflite.call import Call
from graphfuse.importers.tflite.quantized import kept, real, single
from graphfuse.importers.tflite.registry import NotSpelled, operator
from graphfuse.importers.tflite.windows import activated

INT32, INT64 = ir.DataType.INT32, ir.DataType.INT64


@operator("RESHAPE")
def reshape(call: Call) -> ir.Value:
    s = call.s
    if call.has(1):
        known = call.known(1)
        shape = s.constant(known.ravel(), np.int64) if known is not None else s.ints(call.x(1))
    else:
        shape = s.constant([int(d) for d in _list(call.options("ReshapeOptions").NewShapeAsNumpy())], np.int64)
    return s("Reshape", call.x(0), shape, allowzero=1)  # type: ignore[no-any-return]


def _list(vector: object) -> list[int]:
    return [] if isinstance(vector, int) else [int(x) for x in vector]  # type: ignore[attr-defined]


@operator("SQUEEZE")
def squeeze(call: Call) -> ir.Value:
    s, axes = call.s, _list(call.options("SqueezeOptions").SqueezeDimsAsNumpy())
    if not axes:
        axes = [k for k, d in enumerate(s.shape(call.x(0))) if isinstance(d, int) and d == 1]
    return s("Squeeze", call.x(0), s.constant(axes, np.int64))  # type: ignore[no-any-return]


@operator("EXPAND_DIMS")
def expand_dims(call: Call) -> ir.Value:
    return call.s("Unsqueeze", call.x(0), call.s.constant(call.numbers(1, "its axes")[:1], np.int64))  # type: ignore[no-any-return]


@operator("TRANSPOSE")
def transpose(call: Call) -> ir.Value:
    return call.s("Transpose", call.x(0), perm=call.numbers(1, "its axes"))  # type: ignore[no-any-return]


@operator("SHAPE")
def shape(call: Call) -> ir.Value:
    return call.s.cast(call.s("Shape", call.x(0)), call.out_dtype())


@operator("RANK")
def rank(call: Call) -> ir.Value:
    return call.s.constant(call.s.rank(call.x(0)), np.int32)


@operator("CONCATENATION")
def concatenation(call: Call) -> ir.Value:
    o, s = call.options("ConcatenationOptions"), call.s
    result = call.out_quantized()
    if result is None:
        return activated(s, s("Concat", *call.every(), axis=o.Axis()), o.FusedActivationFunction())
    # Operands of other scales take the result's, in floats (ConcatenationWithScaling).
    parts = []
    for k, x in enumerate(call.every()):
        q = single(call.quantized(k), "an operand")
        same = q.scale[0] == result.scale[0] and q.zero[0] == result.zero[0]
        parts.append(x if same else kept(call, real(call, k)))
    return s("Concat", *parts, axis=o.Axis())  # type: ignore[no-any-return]


@operator("PACK")
def pack(call: Call) -> ir.Value:
    s = call.s
    axis = s.constant([call.options("PackOptions").Axis()], np.int64)
    return s("Concat", *(s("Unsqueeze", x, axis) for x in call.every()), axis=call.options("PackOptions").Axis())  # type: ignore[no-any-return]


@operator("UNPACK")
def unpack(call: Call) -> list[ir.Value]:
    o, s = call.options("UnpackOptions"), call.s
    count = len(call.info.outputs)
    axis = s.constant([o.Axis()], np.int64)
    if count == 1:
        return [s("Squeeze", call.x(0), axis)]
    parts = s("Split", call.x(0), axis=o.Axis(), num_outputs=count, count=count)
    return [s("Squeeze", part, axis) for part in parts]


@operator("SPLIT")
def split(call: Call) -> list[ir.Value]:
    s, count = call.s, len(call.info.outputs)
    axis = call.numbers(0, "its axis")[0]
    if count == 1:
        return [s("Identity", call.x(1))]
    return list(s("Split", call.x(1), axis=axis, num_outputs=count, count=count))


@operator("SPLIT_V")
def split_v(call: Call) -> list[ir.Value]:
    s, sizes, axis = call.s, call.numbers(1, "its sizes"), call.numbers(2, "its axis")[0]
    if len(sizes) != len(call.info.outputs):
        raise NotSpelled(f"{len(sizes)} sizes for {len(call.info.outputs)} outputs")
    if len(sizes) == 1:
        return [s("Identity", call.x(0))]
    if -1 in sizes:
        whole = s.shape(call.x(0))[axis]
        if not isinstance(whole, int):
            raise NotSpelled("a size that is the rest of an open one")
        rest = whole - sum(d for d in sizes if d >= 0)
        sizes = [rest if d == -1 else d for d in sizes]
    return list(s("Split", call.x(0), s.constant(sizes, np.int64), axis=axis, count=len(sizes)))


@operator("TILE")
def tile(call: Call) -> ir.Value:
    return call.s("Tile", call.x(0), call.s.ints(call.x(1)))  # type: ignore[no-any-return]


@operator("BROADCAST_TO")
def broadcast_to(call: Call) -> ir.Value:
    return call.s("Expand", call.x(0), call.s.ints(call.x(1)))  # type: ignore[no-any-return]


@operator("BROADCAST_ARGS")
def broadcast_args(call: Call) -> ir.Value:
    """The shape that two shapes broadcast to."""
    s = call.s
    one = [s("Expand", s.constant(True), s.ints(call.x(k))) for k in (0, 1)]
    return s.cast(s("Shape", s("And", *one)), call.out_dtype())


@operator("FILL")
def fill(call: Call) -> ir.Value:
    return call.s("Expand", call.x(1), call.s.ints(call.x(0)))  # type: ignore[no-any-return]


@operator("RANGE")
def range_(call: Call) -> ir.Value:
    return call.s("Range", *(call.s.reshape(x, []) if call.s.rank(x) else x for x in call.every()))  # type: ignore[no-any-return]


# ---------------------------------------------------------------- borders


@operator("PAD", "PADV2")
def pad(call: Call) -> ir.Value:
    """With 0, or the third operand; the 0 of a quantised tensor is its zero point."""
    s, x = call.s, call.x(0)
    q = call.quantized(0)
    value: ir.Value | None = None
    if call.type == "PADV2":
        value = s.reshape(call.x(2), []) if s.rank(call.x(2)) else call.x(2)
    elif q is not None and q.zero[0]:
        value = s.const(int(q.zero[0]), x)
    return s("Pad", x, _pads(call), value)  # type: ignore[no-any-return]


def _pads(call: Call) -> ir.Value:
    """From rows of (before, behind) to all before, then all behind."""
    s, known = call.s, call.known(1)
    if known is not None:
        return s.constant(known.reshape(-1, 2).T.ravel(), np.int64)
    return s.ints(s.reshape(s("Transpose", call.x(1), perm=[1, 0]), [-1]))


@operator("MIRROR_PAD")
def mirror_pad(call: Call) -> ir.Value:
    """Mode 0 leaves out the outermost element, mode 1 repeats it, which is spelled with slices."""
    s, x = call.s, call.x(0)
    if call.options("MirrorPadOptions").Mode() == 0:
        return s("Pad", x, _pads(call), mode="reflect")  # type: ignore[no-any-return]
    rows = call.constant(1, "its widths").reshape(-1, 2)
    for axis, (before, behind) in enumerate(rows.tolist()):
        head = [_part(call, x, axis, before - 1, -(2**62))] if before else []
        tail = [_part(call, x, axis, -1, -behind - 1)] if behind else []
        if head or tail:
            x = s("Concat", *head, x, *tail, axis=axis)
    return s("Identity", x) if not rows.any() else x


def _part(call: Call, x: ir.Value, axis: int, first: int, end: int) -> ir.Value:
    """Backwards from `first` to the one behind `end`."""
    s = call.s
    ends = [s.constant([k], np.int64) for k in (first, end, axis, -1)]
    return s("Slice", x, *ends)  # type: ignore[no-any-return]


# ---------------------------------------------------------------- parts


@operator("SLICE")
def slice_(call: Call) -> ir.Value:
    """From `begin` as many as `size`, -1 being all that follow."""
    s, begin, size = call.s, call.known(1), call.known(2)
    if begin is not None and size is not None:
        firsts = [int(b) for b in begin.ravel()]
        ends = [2**62 if n == -1 else b + int(n) for b, n in zip(firsts, size.ravel(), strict=True)]
        axes = [k for k, (b, e) in enumerate(zip(firsts, ends, strict=True)) if b or e < 2**62]
        if any(b < 0 for b in firsts) or any(int(n) < -1 for n in size.ravel()):
            raise NotSpelled("a negative place")
        if not axes:
            return s("Identity", call.x(0))  # type: ignore[no-any-return]
        return s(
            "Slice", call.x(0), *(s.constant([v[k] for k in axes], np.int64) for v in (firsts, ends)),
            s.constant(axes, np.int64),
        )  # type: ignore[no-any-return]  # fmt: skip
    first, count = s.ints(call.x(1)), s.ints(call.x(2))
    rest = s("Equal", count, s.constant(-1))
    last = s("Where", rest, s.constant(2**62), s("Add", first, count))
    axes_ = s.constant(list(range(s.rank(call.x(0)))), np.int64)
    return s("Slice", call.x(0), first, last, axes_)  # type: ignore[no-any-return]


@operator("STRIDED_SLICE")
def strided_slice(call: Call) -> ir.Value:
    """NumPy's x[begin:end:stride] of every axis, with masks for what is left out."""
    o, s, x = call.options("StridedSliceOptions"), call.s, call.x(0)
    if o.Offset():
        raise NotSpelled("ends that are counted from the begins")
    strides = call.numbers(3, "its strides")
    rank, count = s.rank(x), len(strides)
    spread = _places(o, rank, count)
    begins, ends = _ends(call, 1, count), _ends(call, 2, count)
    firsts: list[ir.Value] = []
    lasts: list[ir.Value] = []
    axes: list[int] = []
    steps: list[int] = []
    squeezed: list[int] = []
    added: list[int] = []
    place = 0
    for k, axis in enumerate(spread):
        if axis is None:
            added.append(place)
            place += 1
            continue
        bit, step = 1 << k, strides[k]
        if o.ShrinkAxisMask() & bit:
            squeezed.append(axis)
            last = s("Add", begins[k], s.constant([1]))
            known = _number(begins[k])
            last = s.constant([2**62 if known == -1 else known + 1]) if known is not None else last
            firsts, lasts, axes, steps = [*firsts, begins[k]], [*lasts, last], [*axes, axis], [*steps, 1]
            continue
        place += 1
        whole_from, whole_to = bool(o.BeginMask() & bit), bool(o.EndMask() & bit)
        if step == 0:
            raise NotSpelled("a stride of 0")
        if whole_from and whole_to and step == 1:
            continue
        first = s.constant([0 if step > 0 else 2**62]) if whole_from else begins[k]
        last = s.constant([2**62 if step > 0 else -(2**62)]) if whole_to else ends[k]
        firsts, lasts, axes, steps = [*firsts, first], [*lasts, last], [*axes, axis], [*steps, step]
    if axes:
        joined = [_joined(call, v) for v in (firsts, lasts)]
        x = s("Slice", x, *joined, s.constant(axes, np.int64), s.constant(steps, np.int64))
    if squeezed:
        x = s("Squeeze", x, s.constant(squeezed, np.int64))
    if added:
        x = s("Unsqueeze", x, s.constant(added, np.int64))
    return s("Identity", x) if x is call.x(0) else x


def _places(o: object, rank: int, count: int) -> list[int | None]:
    """The axis of each entry, None for a new one; an ellipsis stands for all axes that nothing else does."""
    ellipsis, new = o.EllipsisMask(), o.NewAxisMask()  # type: ignore[attr-defined]
    if ellipsis & (ellipsis - 1):
        raise NotSpelled("two ellipses")
    if ellipsis and ellipsis != 1 << (count - 1):
        raise NotSpelled("an ellipsis that is not the last")
    places: list[int | None] = []
    axis = 0
    for k in range(count):
        if ellipsis & (1 << k):
            break
        if new & (1 << k):
            places.append(None)
            continue
        if axis >= rank:
            raise NotSpelled(f"{count} entries for a tensor of rank {rank}")
        places.append(axis)
        axis += 1
    return places


def _ends(call: Call, k: int, count: int) -> list[ir.Value]:
    """The elements of an operand, each a vector of one."""
    s, known = call.s, call.known(k)
    if known is not None:
        return [s.constant([int(v)], np.int64) for v in known.ravel()]
    whole = s.ints(call.x(k))
    if count == 1:
        return [whole]
    return list(s("Split", whole, axis=0, num_outputs=count, count=count))


def _number(x: ir.Value) -> int | None:
    return None if x.const_value is None else int(x.const_value.numpy().ravel()[0])


def _joined(call: Call, parts: list[ir.Value]) -> ir.Value:
    known = [_number(p) for p in parts]
    if all(k is not None for k in known):
        return call.s.constant(known, np.int64)
    return parts[0] if len(parts) == 1 else call.s("Concat", *parts, axis=0)  # type: ignore[no-any-return]


@operator("REVERSE_V2")
def reverse(call: Call) -> ir.Value:
    s, axes = call.s, call.numbers(1, "its axes")
    ends = [s.constant([v] * len(axes), np.int64) for v in (-1, -(2**62))]
    if not axes:
        return s("Identity", call.x(0))  # type: ignore[no-any-return]
    return s("Slice", call.x(0), *ends, s.constant(axes, np.int64), s.constant([-1] * len(axes), np.int64))  # type: ignore[no-any-return]


@operator("REVERSE_SEQUENCE")
def reverse_sequence(call: Call) -> ir.Value:
    o, s = call.options("ReverseSequenceOptions"), call.s
    if {o.SeqDim(), o.BatchDim()} != {0, 1}:
        raise NotSpelled(f"of axis {o.SeqDim()} with items along axis {o.BatchDim()}")
    return s("ReverseSequence", call.x(0), s.ints(call.x(1)), batch_axis=o.BatchDim(), time_axis=o.SeqDim())  # type: ignore[no-any-return]


# ---------------------------------------------------------------- blocks


@operator("DEPTH_TO_SPACE")
def depth_to_space(call: Call) -> ir.Value:
    s, block = call.s, call.options("DepthToSpaceOptions").BlockSize()
    return s.channels_last(s("DepthToSpace", s.channels_first(call.x(0)), blocksize=block, mode="DCR"))


@operator("SPACE_TO_DEPTH")
def space_to_depth(call: Call) -> ir.Value:
    s, block = call.s, call.options("SpaceToDepthOptions").BlockSize()
    return s.channels_last(s("SpaceToDepth", s.channels_first(call.x(0)), blocksize=block))


@operator("SPACE_TO_BATCH_ND")
def space_to_batch(call: Call) -> ir.Value:
    """Blocks of the spatial axes, padded first, become items: block by block, then the items of the batch."""
    s, x, blocks = call.s, call.x(0), call.numbers(1, "its blocks")
    pads, n, rank = call.constant(2, "its widths").reshape(-1, 2), len(blocks), s.rank(call.x(0))
    if n >= rank or len(pads) != n or any(b < 1 for b in blocks):
        raise NotSpelled(f"blocks of {blocks} of a tensor of rank {rank}")
    if pads.any():
        before, behind = ([0, *pads[:, k].tolist(), *[0] * (rank - 1 - n)] for k in (0, 1))
        q = call.quantized(0)
        fill = s.const(int(q.zero[0]), x) if q is not None else None
        x = s("Pad", x, s.constant(before + behind, np.int64), fill)
    split = [0]
    for k, block in enumerate(blocks):
        split += [_quotient(call, x, 1 + k, block), block]
    x = s("Reshape", x, s.constant([*split, *_rest(call, x, 1 + n)], np.int64))
    order = [*(2 + 2 * k for k in range(n)), 0, *(1 + 2 * k for k in range(n)), *range(2 * n + 1, 2 * n + rank - n)]
    x = s("Transpose", x, perm=order)
    sizes = [int(d) for d in split[1::2]]
    return s("Reshape", x, s.constant([-1, *sizes, *_rest(call, x, 2 * n + 1)], np.int64))  # type: ignore[no-any-return]


def _quotient(call: Call, x: ir.Value, axis: int, block: int) -> int:
    size = call.s.shape(x)[axis]
    if not isinstance(size, int) or size % block:
        raise NotSpelled(f"blocks of {block} of a size of {size}")
    return size // block


def _rest(call: Call, x: ir.Value, first: int) -> list[int]:
    """The sizes of the axes from `first` on."""
    sizes = call.s.shape(x)[first:]
    if not all(isinstance(d, int) for d in sizes):
        raise NotSpelled("a size that is known at run time only")
    return [int(d) for d in sizes if isinstance(d, int)]


@operator("BATCH_TO_SPACE_ND")
def batch_to_space(call: Call) -> ir.Value:
    s, x, blocks = call.s, call.x(0), call.numbers(1, "its blocks")
    crops, n, rank = call.constant(2, "its crops").reshape(-1, 2), len(blocks), s.rank(call.x(0))
    if n >= rank or len(crops) != n or any(b < 1 for b in blocks):
        raise NotSpelled(f"blocks of {blocks} of a tensor of rank {rank}")
    sizes, rest = _rest(call, x, 1)[:n], _rest(call, x, 1 + n)
    x = s("Reshape", x, s.constant([*blocks, -1, *sizes, *rest], np.int64))
    order = [n]
    for k in range(n):
        order += [n + 1 + k, k]
    x = s("Transpose", x, perm=[*order, *range(2 * n + 1, 2 * n + 1 + len(rest))])
    joined = [d * b for d, b in zip(sizes, blocks, strict=True)]
    x = s("Reshape", x, s.constant([-1, *joined, *rest], np.int64))
    if not crops.any():
        return x
    ends = [d - int(c) for d, c in zip(joined, crops[:, 1], strict=True)]
    axes = s.constant(list(range(1, 1 + n)), np.int64)
    return s("Slice", x, s.constant(crops[:, 0], np.int64), s.constant(ends, np.int64), axes)  # type: ignore[no-any-return]
