"""com.microsoft: attention as onnxruntime's optimizer and model builders write it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from graphfuse.graph import dims as D
from graphfuse.graph.dims import Dim, same
from graphfuse.graph.dtypes import F32, I64
from graphfuse.ops import expr as E
from graphfuse.ops.attention import Masks, attend, join_heads, part, rotate, split_heads, window_mask
from graphfuse.ops.expr import Expr, lift
from graphfuse.ops.loops import inside
from graphfuse.ops.matmul import matrix_product
from graphfuse.ops.microsoft import DOMAIN
from graphfuse.ops.registry import NotSupported, OpNode, op
from graphfuse.ops.samples import Sample, floats, ints, sample, scalar
from graphfuse.ops.tensor import Tensor, concat, generate, index_map, load, map_, reshape, size, slice_


def _item(x: Tensor, axis: int, k: int) -> Tensor:
    """The k-th element of an axis, which goes."""
    starts = [k if a == axis else 0 for a in range(x.rank)]
    shape = [1 if a == axis else d for a, d in enumerate(x.shape)]
    return reshape(slice_(x, starts, shape, [1] * x.rank), [d for a, d in enumerate(x.shape) if a != axis])


def _padding(node: OpNode, mask: Tensor, keys: Dim) -> Tensor:
    """What a mask of keys adds to the scores: nothing, or mask_filter_value where the mask is 0."""
    batch, low = mask.shape[0], float(node.attr("mask_filter_value", -10000.0))
    if mask.rank == 1:
        if not same(batch, keys) and isinstance(batch, int) and isinstance(keys, int) and batch > keys:
            raise NotSupported("a mask of more than the lengths of the sequences")
        lengths = reshape(mask, (batch, 1, 1, 1))
        at = generate((1, 1, 1, keys), lambda i: i[3])
        return map_(lambda j, n: E.where(j < E.cast(n, I64), lift(0.0, F32), low), at, lengths)
    if mask.rank == 2:
        spread = reshape(mask, (batch, 1, 1, mask.shape[1]))
    elif mask.rank == 3:
        spread = reshape(mask, (batch, 1, *mask.shape[1:]))
    else:
        raise NotSupported(f"a mask of rank {mask.rank}")
    return map_(lambda v: E.where(E.equal(v, 0), lift(low, F32), 0.0), spread)


def _masks(node: OpNode, mask: Tensor | None, added: Tensor | None, q: Tensor, k: Tensor) -> Masks:
    """A mask of keys, what is added to the scores and, with `unidirectional`, no look at later keys.

    The last query stands at the last key.
    """
    masks, queries, keys = Masks(), q.shape[2], k.shape[2]
    if mask is not None:
        masks.added.append(_padding(node, mask, keys))
    if added is not None:
        masks.added.append(added)
    if node.attr("unidirectional", 0):
        masks.allowed.append(window_mask(queries, keys, D.add(keys, D.mul(-1, queries)), None, 0))
    return masks


def _attention_samples() -> list[Sample]:
    x, w, bias = floats(2, 5, 12), floats(12, 36, low=-0.5, high=0.5, seed=1), floats(36, seed=2)
    past = floats(2, 2, 3, 4, 4, seed=3)
    keep = np.array([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]], np.int32)
    some: dict[str, Any] = {"num_heads": 3, "fixed": [1, 2]}
    return [
        sample(x, w, bias, constants=[1, 2], **some),
        sample(x, w, bias, unidirectional=1, constants=[1, 2], **some),
        sample(x, w, bias, keep, constants=[1, 2], **some),
        sample(x, w, bias, np.array([3, 5], np.int32), constants=[1, 2], **some),
        sample(x, w, bias, None, past, outputs=2, unidirectional=1, constants=[1, 2], symbolic=False, **some),
        sample(x, w, bias, None, None, floats(2, 3, 5, 5, seed=4), constants=[1, 2], scale=0.3, **some),
        sample(x, w[:, :30], bias[:30], qkv_hidden_sizes=[12, 12, 6], constants=[1, 2], **some),
        sample(x, w, bias, do_rotary=1, rejected="do_rotary", reference="onnx", **some),
    ]


@op("Attention", domain=DOMAIN, samples=_attention_samples)
def attention(node: OpNode) -> list[Tensor | None]:
    """Queries, keys and values from one product of the input; the keys and values with their past as output 1."""
    for name in ("do_rotary", "past_present_share_buffer"):
        if node.attr(name, 0):
            raise NotSupported(f"{name} = 1")
    x, weights, bias, mask, past, added = node.input(0), node.input(1), *(node.optional(k) for k in range(2, 6))
    heads, widths = int(node.attr("num_heads")), node.attr("qkv_hidden_sizes", None)
    total = weights.shape[1]
    if not isinstance(total, int):
        raise NotSupported("the size of the weights must be known at compile time")
    sizes = [int(w) for w in widths] if widths else [total // 3] * 3
    if sum(sizes) != total:
        raise NotSupported(f"{total} columns of weights for parts of {sizes}")
    y = matrix_product(x, weights)
    y = y if bias is None else map_(lambda v, b: v + b, y, bias)
    starts = (0, sizes[0], sizes[0] + sizes[1])
    q, k, v = (split_heads(part(y, at, n), heads) for at, n in zip(starts, sizes, strict=True))
    if past is not None:
        k, v = (concat([_item(past, 0, n), t], 2) for n, t in enumerate((k, v)))
    result, _ = attend(q, k, v, node.attr("scale") or None, _masks(node, mask, added, q, k))
    present = concat([reshape(t, (1, *t.shape)) for t in (k, v)], 0) if same(k.shape[3], v.shape[3]) else None
    return [join_heads(result), present]


def _multi_head_samples() -> list[Sample]:
    q, k, v = floats(2, 5, 12), floats(2, 7, 12, seed=1), floats(2, 7, 12, seed=2)
    bias, past = floats(36, seed=3), (floats(2, 3, 4, 4, seed=4), floats(2, 3, 4, 4, seed=5))
    keep = ints(2, 7, low=0, high=2, seed=6)
    keep[:, 0] = 1
    some: dict[str, Any] = {"num_heads": 3, "fixed": [2]}
    own = floats(2, 5, 12, seed=1), floats(2, 5, 12, seed=2)
    return [
        sample(q, k, v, **some),
        sample(q, k, v, bias, constants=[3], scale=0.3, num_heads=3, fixed=[0, 2]),
        sample(q, k, v, None, keep, **some),
        sample(q, k, v, None, None, floats(1, 3, 5, 7, seed=7), num_heads=3, fixed=[1, 2]),
        sample(q, *own, None, None, None, *past, outputs=3, symbolic=False, **some),
        sample(q, *own, None, None, None, *past, outputs=3, unidirectional=1, symbolic=False, **some),
        sample(q, floats(2, 3, 7, 4, seed=1), floats(2, 3, 7, 4, seed=2), symbolic=False, **some),
        sample(floats(2, 5, 3, 3, 4), num_heads=3, rejected="packed", reference="onnx"),
        sample(q, rejected="input 1", reference="onnx", **some),
    ]


@op("MultiHeadAttention", domain=DOMAIN, samples=_multi_head_samples)
def multi_head_attention(node: OpNode) -> list[Tensor]:
    """Separate queries, keys and values; outputs 1 and 2 are the keys and values with their past."""
    if node.optional(8) is not None or node.optional(9) is not None:
        raise NotSupported("buffers shared between past and present")
    q, k, v = _separate(node, int(node.attr("num_heads")))
    for n, past in enumerate((node.optional(6), node.optional(7))):
        if past is not None:
            k, v = (concat([past, k], 2), v) if n == 0 else (k, concat([past, v], 2))
    masks = _masks(node, node.optional(4), node.optional(5), q, k)
    y, scores = attend(q, k, v, node.attr("scale") or None, masks)
    return [join_heads(y), k, v, scores.raw]


def _separate(node: OpNode, heads: int) -> tuple[Tensor, Tensor, Tensor]:
    """Queries, keys and values as [batch, heads, length, size], their biases added."""
    first, bias = node.input(0), node.optional(3)
    if first.rank == 5 or node.input(1).rank == 5:
        raise NotSupported("packed queries, keys and values")
    parts = [split_heads(first, heads)]
    parts += [t if t.rank == 4 else split_heads(t, heads) for t in (node.input(1), node.input(2))]
    if bias is not None:
        at: Dim = 0
        for n, t in enumerate(parts):
            width = D.mul(t.shape[1], t.shape[3])
            own = reshape(slice_(bias, [at], [width], [1]), (1, t.shape[1], 1, t.shape[3]))
            parts[n], at = map_(lambda v, b: v + b, t, own), D.add(at, width)
    q, k, v = parts
    return q, k, v


def _turned(x: Tensor, tables: Sequence[Tensor], position: Tensor, interleaved: bool, width: int = 0) -> Tensor:
    """x [batch, heads, length, size] rotated; position: [batch, 1, length, 1], of every token."""
    cos, sin = (_at(t, position) for t in tables)
    return rotate(x, cos, sin, width, interleaved)


def _at(table: Tensor, position: Tensor) -> Tensor:
    def index(i: Sequence[Expr]) -> tuple[Expr, ...]:
        at = E.cast(load(position, (i[0], lift(0, I64), i[2], lift(0, I64))), I64)
        return (inside(at, table.shape[0]), i[3])

    return index_map(table, (position.shape[0], 1, position.shape[2], table.shape[1]), index, position)


def _rotary_samples() -> list[Sample]:
    x, x3 = floats(2, 3, 5, 8), floats(2, 5, 24)
    cos, sin = floats(11, 4, seed=1), floats(11, 4, seed=2)
    at = np.array([[0, 1, 2, 3, 4], [6, 7, 8, 9, 10]], np.int64)
    return [
        sample(x, at, cos, sin, fixed=[1, 3]),
        sample(x, at, cos, sin, interleaved=1, fixed=[1, 3]),
        sample(x3, at, cos, sin, fixed=[1, 2]),
        sample(x3, np.array([4], np.int64), cos, sin, fixed=[1, 2]),
        sample(x3, at, cos[:, :2], sin[:, :2], num_heads=3, rotary_embedding_dim=4, fixed=[1, 2]),
        sample(x, at, cos, sin, scale=2.0, rejected="scale", reference="onnx"),
    ]


@op("RotaryEmbedding", domain=DOMAIN, samples=_rotary_samples)
def rotary_embedding(node: OpNode) -> Tensor:
    x, ids, tables = node.input(0), node.input(1), (node.input(2), node.input(3))
    if node.attr("scale", 1.0) != 1:
        raise NotSupported(f"scale = {node.attr('scale')}")
    if node.attr("is_packed_batching", 0):
        raise NotSupported("is_packed_batching = 1")
    width, heads, packed = int(node.attr("rotary_embedding_dim", 0)), int(node.attr("num_heads", 0)), x.rank == 3
    if packed:
        total, half = x.shape[2], tables[0].shape[1]
        if not heads and isinstance(total, int) and isinstance(half, int):
            heads = total // max(1, 2 * half)
        if not heads:
            raise NotSupported("the number of heads must be known at compile time")
        x = split_heads(x, heads)
    batch, length = x.shape[0], x.shape[2]
    if ids.rank == 1:
        first = reshape(ids, (1, 1, 1, 1))
        ids = map_(lambda k, o: E.cast(o, I64) + k, generate((1, 1, length, 1), lambda i: i[2]), first)
    else:
        ids = reshape(ids, (batch, 1, length, 1))
    y = _turned(x, tables, ids, bool(node.attr("interleaved", 0)), width)
    return join_heads(y) if packed else y


def _grouped_samples() -> list[Sample]:
    q, k, v = floats(2, 5, 64), floats(2, 5, 32, seed=1), floats(2, 5, 32, seed=2)
    none = floats(2, 2, 0, 16), floats(2, 2, 0, 16)
    past = floats(2, 2, 6, 16, seed=3), floats(2, 2, 6, 16, seed=4)
    tables = floats(12, 8, seed=5), floats(12, 8, seed=6)
    one = floats(2, 1, 64), floats(2, 1, 32, seed=1), floats(2, 1, 32, seed=2)
    whole, next_ = np.array([4, 4], np.int32), np.array([6, 6], np.int32)
    some: dict[str, Any] = {"num_heads": 4, "kv_num_heads": 2, "outputs": 3, "symbolic": False}
    prompt, step = scalar(5, np.int32), scalar(7, np.int32)
    return [
        sample(q, k, v, *none, whole, prompt, constants=[6], **some),
        sample(q, k, v, *none, whole, prompt, *tables, constants=[6], do_rotary=1, **some),
        sample(*one, *past, next_, step, constants=[6], **some),
        sample(*one, *past, next_, step, *tables, do_rotary=1, rotary_interleaved=1, **some),
        sample(*one, *past, np.array([6, 3], np.int32), step, *tables, do_rotary=1, **some),
        sample(*one, *past, next_, step, local_window_size=3, softcap=2.0, scale=0.4, constants=[6], **some),
        sample(floats(2, 5, 128), None, None, *none, whole, prompt, constants=[6], **some),
        sample(q, k, v, *none, whole, prompt, constants=[6], smooth_softmax=1, rejected="smooth", **some),
    ]


@op("GroupQueryAttention", domain=DOMAIN, samples=_grouped_samples)
def group_query_attention(node: OpNode) -> list[Tensor]:
    """Heads of queries that share heads of keys; the new keys are written behind the valid ones of each item's past."""
    for name in ("smooth_softmax", "kv_cache_bit_width", "sliding_window_cache"):
        if node.attr(name, 0) > 0:
            raise NotSupported(f"{name} = {node.attr(name)}")
    if any(node.optional(k) is not None for k in range(11, 16)):
        raise NotSupported("head_sink, quantised caches and norms of queries and keys")
    heads, shared = int(node.attr("num_heads")), int(node.attr("kv_num_heads"))
    q, k, v = _grouped(node, heads, shared)
    batch, length = q.shape[0], q.shape[2]
    past_key, past_value, valid = node.optional(3), node.optional(4), node.input(5)
    (total,) = node.dims(6) or node.measure(node.input(6))

    def ahead(n: Expr) -> Expr:
        """The valid keys of an item's past: none when all tokens are new."""
        whole = E.equal(size(total), size(length))
        return E.where(whole, lift(0, I64), E.maximum(n + 1 - size(length), 0))

    before = map_(lambda n: ahead(E.cast(n, I64)), reshape(valid, (D.product(valid.shape),)))
    if node.attr("do_rotary", 0):
        tables, given = (node.input(7), node.input(8)), node.optional(9)
        own = generate((batch, 1, length, 1), lambda i: i[2] + load(before, i[:1]), before)
        at = own if given is None else reshape(given, (batch, 1, length, 1))
        interleaved = bool(node.attr("rotary_interleaved", 0))
        q, k = (_turned(t, tables, at, interleaved, _width(tables[0])) for t in (q, k))
    kept: Dim = 0 if past_key is None else past_key.shape[2]
    room = D.maximum(kept, total)
    k, v = (_continued(t, past, before, room) for t, past in ((k, past_key), (v, past_value)))
    masks, window = Masks(), int(node.attr("local_window_size", -1))
    seen = map_(lambda n: n + size(length), before)
    causal = bool(node.attr("causal", 1))
    masks.allowed.append(window_mask(length, room, seen, window - 1 if window > 0 else None, 0 if causal else None))
    if node.optional(10) is not None:
        masks.added.append(node.input(10))
    y, _ = attend(q, k, v, node.attr("scale") or None, masks, softcap=node.attr("softcap", 0.0))
    return [join_heads(y), k, v]


def _width(table: Tensor) -> int:
    if not isinstance(table.shape[1], int):
        raise NotSupported("the size of the rotation must be known at compile time")
    return 2 * table.shape[1]


def _grouped(node: OpNode, heads: int, shared: int) -> tuple[Tensor, Tensor, Tensor]:
    first, second, third = node.input(0), node.optional(1), node.optional(2)
    if second is not None and third is not None:
        return split_heads(first, heads), split_heads(second, shared), split_heads(third, shared)
    packed = split_heads(first, heads + 2 * shared)
    ends = ((0, heads), (heads, shared), (heads + shared, shared))
    q, k, v = (slice_(packed, [0, at, 0, 0], [packed.shape[0], n, *packed.shape[2:]], [1] * 4) for at, n in ends)
    return q, k, v


def _continued(new: Tensor, past: Tensor | None, before: Tensor, room: Dim) -> Tensor:
    """The past with the new tokens behind its valid ones, zeros beyond them."""
    batch, heads, length, width = new.shape
    shape = (batch, heads, room, width)

    def offset(i: Sequence[Expr]) -> Expr:
        return i[2] - load(before, i[:1])

    fresh = index_map(
        new,
        shape,
        lambda i: (i[0], i[1], inside(offset(i), length), i[3]),
        before,
        guard=lambda i: E.logical("and", offset(i) >= 0, offset(i) < size(length)),
        fill=lift(0, new.dtype),
    )
    if past is None or same(past.shape[2], 0):
        return fresh
    kept = past.shape[2]
    old = index_map(
        past,
        shape,
        lambda i: (i[0], i[1], inside(i[2], kept), i[3]),
        before,
        guard=lambda i: i[2] < size(kept),
        fill=lift(0, new.dtype),
    )
    ahead = generate((batch, 1, room, 1), lambda i: offset(i) < 0, before)
    return map_(E.where, ahead, old, fresh)
