"""Scaled dot product attention: two matrix products with a softmax over rows between them."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import onnx_ir as ir

from graphfuse.graph import dims as D
from graphfuse.graph.dims import Dim, is_static, same
from graphfuse.graph.dtypes import BOOL, I64, DType
from graphfuse.ops import expr as E
from graphfuse.ops.expr import Const, Expr, lift
from graphfuse.ops.matmul import matrix_product
from graphfuse.ops.registry import NotSupported, OpNode, op
from graphfuse.ops.samples import Sample, bools, floats, int64, sample
from graphfuse.ops.tensor import (
    Tensor,
    concat,
    generate,
    index_map,
    load,
    map_,
    reduce,
    reshape,
    size,
    slice_,
    transpose,
)

MINUS_INFINITY = float("-inf")


@dataclass
class Scores:
    """The scores of an attention, [batch, heads, queries, keys], at each step on their way to probabilities."""

    raw: Tensor
    capped: Tensor
    masked: Tensor
    probabilities: Tensor


@dataclass
class Masks:
    """What is added to the scores, and which keys a query may look at at all; each broadcasts to the scores."""

    added: list[Tensor] = field(default_factory=list)
    allowed: list[Tensor] = field(default_factory=list)

    @property
    def may_leave_nothing(self) -> bool:
        """Whether a query may be left without a key."""
        return bool(self.added or self.allowed)


def split_heads(x: Tensor, heads: int) -> Tensor:
    """[batch, length, heads * size] as [batch, heads, length, size]."""
    batch, length, width = x.shape
    if isinstance(width, int) and (heads <= 0 or width % heads):
        raise NotSupported(f"{width} values do not divide into {heads} heads")
    return transpose(reshape(x, (batch, length, heads, D.floordiv(width, heads))), (0, 2, 1, 3))


def join_heads(x: Tensor) -> Tensor:
    """[batch, heads, length, size] as [batch, length, heads * size]."""
    batch, heads, length, width = x.shape
    return reshape(transpose(x, (0, 2, 1, 3)), (batch, length, D.mul(heads, width)))


def product_by_groups(a: Tensor, b: Tensor) -> Tensor:
    """The products of a's heads with b's, where several neighbouring heads of a share one of b."""
    heads, shared = a.shape[1], b.shape[1]
    if same(heads, shared) or (isinstance(shared, int) and shared == 1):
        return matrix_product(a, b)
    if not is_static(heads, shared):
        return matrix_product(a, _repeated(b, heads))
    if int(shared) == 0 or int(heads) % int(shared):
        raise NotSupported(f"{heads} heads do not divide into groups for {shared} heads of keys")
    group = int(heads) // int(shared)
    batch, _, rows, inner = a.shape
    if isinstance(rows, int) and rows == 1:
        # One row for each head: those of a group are the rows of one product.
        y = matrix_product(reshape(a, (batch, shared, group, inner)), b)
        return reshape(y, (batch, heads, 1, y.shape[-1]))
    grouped = reshape(a, (batch, shared, group, rows, inner))
    y = matrix_product(grouped, reshape(b, (*b.shape[:2], 1, *b.shape[2:])))
    return reshape(y, (y.shape[0], heads, *y.shape[3:]))


def _repeated(x: Tensor, heads: Dim) -> Tensor:
    each = D.floordiv(heads, x.shape[1])
    return index_map(x, (x.shape[0], heads, *x.shape[2:]), lambda i: (i[0], E.floordiv(i[1], size(each)), *i[2:]))


def attend(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    scale: float | None,
    masks: Masks,
    *,
    softcap: float = 0.0,
    precision: DType | None = None,
) -> tuple[Tensor, Scores]:
    """softmax(mask(q k^T * scale)) v, and the scores; q, k, v are [batch, heads, length, size].

    The scale is 1 / sqrt(size) where it is None. A query that may look at no key gets zeros. `precision` is the type
    that the softmax is computed in.
    """
    factor = _inverse_root(q.shape[3], q.dtype) if scale is None else lift(scale, q.dtype)
    narrow = q.dtype.itemsize < 4
    if narrow:
        # The root on both sides keeps the products of narrow types within their range.
        q, k = (map_(lambda x: x * E.sqrt(factor), t) for t in (q, k))
    raw = product_by_groups(q, transpose(k, (0, 1, 3, 2)))
    if not narrow:
        raw = map_(lambda x: x * factor, raw)
    capped = raw if softcap == 0 else map_(lambda x: E.tanh(x / softcap) * softcap, raw)
    masked = _masked(capped, masks)
    wide = masked if precision in (None, masked.dtype) else map_(lambda x: E.cast(x, precision), masked)
    probabilities = softmax_rows(wide, masks.may_leave_nothing)
    if probabilities.dtype != v.dtype:
        probabilities = map_(lambda x: E.cast(x, v.dtype), probabilities)
    return product_by_groups(probabilities, v), Scores(raw, capped, masked, probabilities)


def _inverse_root(width: Dim, dtype: DType) -> Expr:
    if isinstance(width, int):
        return lift(1 / math.sqrt(max(1, width)), dtype)
    return 1.0 / E.sqrt(E.cast(size(width), dtype))


def _masked(scores: Tensor, masks: Masks) -> Tensor:
    count = len(masks.added)

    def element(x: Expr, *conditions: Expr) -> Expr:
        added, allowed = conditions[:count], conditions[count:]
        total = functools.reduce(lambda a, b: a + E.cast(b, x.dtype), added, x)
        if not allowed:
            return total
        return E.where(functools.reduce(lambda a, b: E.logical("and", a, b), allowed), total, MINUS_INFINITY)

    parts = [*masks.added, *masks.allowed]
    return map_(element, scores, *parts) if parts else scores


def softmax_rows(x: Tensor, may_be_empty: bool) -> Tensor:
    """The softmax over the last axis; a row of -inf alone becomes zeros where such rows are foreseen."""
    top = reduce("max", x, (-1,), loose=True)
    if not may_be_empty:
        e = map_(lambda v, m: E.exp(v - m), x, top)
        return map_(lambda v, s: v * (1.0 / s), e, reduce("sum", e, (-1,)))
    top = map_(lambda m: E.where(E.equal(m, MINUS_INFINITY), 0, m), top)
    e = map_(lambda v, m: E.exp(v - m), x, top)
    return map_(lambda v, s: v * E.where(E.equal(s, 0), 0, 1.0 / s), e, reduce("sum", e, (-1,)))


def _lengthened(mask: Tensor, keys: Dim) -> Tensor:
    """A mask that knows of fewer keys than there are forbids the others."""
    given = mask.shape[-1]
    if same(given, keys):
        return mask
    fill: Expr = Const(False, BOOL) if mask.dtype == BOOL else lift(MINUS_INFINITY, mask.dtype)
    if is_static(given, keys) and int(given) > int(keys):
        raise NotSupported(f"a mask for {given} keys, where there are {keys}")
    last = size(D.add(given, -1))
    return index_map(
        mask,
        (*mask.shape[:-1], keys),
        lambda i: (*i[:-1], E.minimum(i[-1], last)),
        guard=lambda i: i[-1] < size(given),
        fill=fill,
    )


def window_mask(queries: Dim, keys: Dim, past: Dim | Tensor, before: int | None, after: int | None) -> Tensor:
    """Which keys lie near a query: from `before` ahead of it to `after` behind it, None for no bound.

    past: the number of keys ahead of the first query, or a tensor of shape [batch] with the number of valid keys, of
    which the last belong to the queries; those that are not valid are forbidden.
    """
    batch: Dim = past.shape[0] if isinstance(past, Tensor) else 1

    def allowed(i: Sequence[Expr]) -> Expr:
        conditions = []
        if isinstance(past, Tensor):
            valid = E.cast(load(past, i[:1]), I64)
            conditions.append(i[3] < valid)
            at = i[2] + (valid - size(queries))
        else:
            at = i[2] + size(past)
        if after is not None:
            conditions.append(i[3] <= at + after)
        if before is not None:
            conditions.append(i[3] >= at - before)
        return functools.reduce(lambda a, b: E.logical("and", a, b), conditions)

    return generate((batch, 1, queries, keys), allowed, *([past] if isinstance(past, Tensor) else []))


def _case(*arrays: np.ndarray | None, **more: object) -> Sample:
    # onnxruntime's kernel differs from the standard for rows without a key and for windows.
    return sample(*arrays, **{"reference": "onnx", **more})  # type: ignore[arg-type]


def _attention_samples() -> list[Sample]:
    q, k, v = floats(2, 3, 5, 8), floats(2, 3, 7, 8, seed=1), floats(2, 3, 7, 10, seed=2)
    q3, k3, v3 = floats(2, 5, 24), floats(2, 7, 24, seed=1), floats(2, 7, 30, seed=2)
    grouped = floats(2, 6, 5, 8), k, v
    past = floats(2, 3, 4, 8, seed=3), floats(2, 3, 4, 10, seed=4)
    hard = np.where(floats(5, 7) > 1, -np.inf, floats(5, 7)).astype(np.float32)
    hard[2] = -np.inf
    empty = bools(2, 1, 5, 7)
    empty[0, 0, 3] = False
    return [
        _case(q, k, v),
        _case(q, k, v, scale=0.3, softcap=2.0),
        _case(q, k, v, is_causal=1),
        _case(q, k, v, floats(5, 7)),
        _case(q, k, v, hard, is_causal=1),
        _case(q, k, v, empty),
        _case(q, k, v, floats(2, 3, 5, 7)),
        _case(q, k, v, floats(3, 5, 4), symbolic=False),
        _case(q, k, v, bools(5, 4), symbolic=False),
        _case(*grouped, fixed=[1]),
        _case(floats(2, 6, 1, 8), k, v, fixed=[1]),
        _case(q, floats(2, 1, 7, 8), floats(2, 1, 7, 10), floats(1, 5, 7)),
        _case(q, k, v, None, *past, outputs=3, symbolic=False),
        _case(q, k, v, floats(5, 11), *past, outputs=4, is_causal=1, symbolic=False),
        _case(q, k, v, floats(5, 7), outputs=4, qk_matmul_output_mode=2),
        _case(q, k, v, empty, outputs=4, qk_matmul_output_mode=3),
        _case(q, k, v, outputs=4, qk_matmul_output_mode=1, softcap=1.5),
        _case(q, k, v, None, None, None, int64(7, 4)),
        _case(q, k, v, bools(5, 7), None, None, int64(6, 3), is_causal=1),
        _case(q3, k3, v3, q_num_heads=3, kv_num_heads=3, fixed=[2]),
        _case(floats(2, 5, 48), k3, v3, q_num_heads=6, kv_num_heads=3, is_causal=1, fixed=[2]),
        _case(q3, k3, v3, None, *past, q_num_heads=3, kv_num_heads=3, outputs=3, fixed=[1, 2, 3], symbolic=False),
        _case(*(floats(1, 2, 3, 4, dtype=float, seed=s) for s in range(3))),
        sample(floats(1, 4, 13, 16), floats(1, 4, 13, 16, seed=1), floats(1, 4, 13, 16, seed=2), is_causal=1),
        _case(q, k, v[:, :2], rejected="heads"),
        _case(q3, k3, v3, rejected="q_num_heads"),
        _case(q, k, v, floats(5, 9), rejected="a mask for 9 keys"),
    ]


@op("Attention", samples=_attention_samples)
def attention(node: OpNode) -> list[Tensor]:
    """The result, the keys and values with the past ahead of them, and the scores at the step asked for."""
    q, k, v = (node.input(n) for n in range(3))
    packed = q.rank == 3
    if packed:
        heads, shared = node.attr("q_num_heads"), node.attr("kv_num_heads")
        if not heads or not shared:
            raise NotSupported("inputs of rank 3 need q_num_heads and kv_num_heads")
        q, k, v = split_heads(q, heads), split_heads(k, shared), split_heads(v, shared)
    if not q.rank == k.rank == v.rank == 4:
        raise NotSupported(f"inputs of rank {q.rank}, {k.rank} and {v.rank}")
    if is_static(k.shape[1], v.shape[1]) and k.shape[1] != v.shape[1]:
        raise NotSupported(f"{k.shape[1]} heads of keys and {v.shape[1]} heads of values")
    past_key, past_value = node.optional(4), node.optional(5)
    past: Dim = 0
    if past_key is not None and past_value is not None:
        past = past_key.shape[2]
        k, v = concat([past_key, k], 2), concat([past_value, v], 2)
    precision = node.attr("softmax_precision")
    y, scores = attend(
        q,
        k,
        v,
        node.attr("scale"),
        _masks(node, q.shape[2], k.shape[2], past),
        softcap=node.attr("softcap", 0.0),
        precision=None if not precision else ir.DataType(precision),
    )
    mode = node.attr("qk_matmul_output_mode", 0)
    if mode not in range(4):
        raise NotSupported(f"qk_matmul_output_mode = {mode}")
    shown = [scores.raw, scores.capped, scores.masked, scores.probabilities][mode]
    return [join_heads(y) if packed else y, k, v, shown]


def _masks(node: OpNode, queries: Dim, keys: Dim, past: Dim) -> Masks:
    masks = Masks()
    mask, valid = node.optional(3), node.optional(6)
    if mask is not None:
        (masks.allowed if mask.dtype == BOOL else masks.added).append(_lengthened(mask, keys))
    left, right = (node.attr(f"{side}_window_size", -1) for side in ("left", "right"))
    before, after = (None if bound < 0 else int(bound) for bound in (left, right))
    if node.attr("is_causal", 0):
        after = 0
    if valid is not None or before is not None or after is not None:
        masks.allowed.append(window_mask(queries, keys, past if valid is None else valid, before, after))
    return masks


def _rotary_samples() -> list[Sample]:
    x, x3 = floats(2, 3, 5, 8), floats(2, 5, 24)
    cos, sin = floats(11, 4, seed=1), floats(11, 4, seed=2)
    at = np.array([[0, 1, 2, 3, 4], [6, 7, 8, 9, 10]], np.int64)
    each = floats(2, 5, 4, seed=1), floats(2, 5, 4, seed=2)
    return [
        _case(x, cos, sin, at, fixed=[3]),
        _case(x, cos, sin, at, interleaved=1, fixed=[3]),
        _case(x, *each, fixed=[3]),
        _case(x3, cos, sin, at, num_heads=3, fixed=[2]),
        _case(x3, *each, num_heads=3, interleaved=1, fixed=[2]),
        _case(x, cos[:, :2], sin[:, :2], at, rotary_embedding_dim=4, fixed=[1, 3]),
        _case(x, cos[:, :3], sin[:, :3], at, rotary_embedding_dim=6, interleaved=1, fixed=[1, 3]),
        _case(x3, cos, sin, at, rejected="num_heads"),
    ]


@op("RotaryEmbedding", samples=_rotary_samples)
def rotary_embedding(node: OpNode) -> Tensor:
    x, heads = node.input(0), node.attr("num_heads", 0)
    packed = x.rank == 3
    if packed:
        if not heads:
            raise NotSupported("an input of rank 3 needs num_heads")
        x = split_heads(x, heads)
    cos, sin = (_table(node.input(k), node.optional(3)) for k in (1, 2))
    y = rotate(x, cos, sin, int(node.attr("rotary_embedding_dim", 0)), bool(node.attr("interleaved", 0)))
    return join_heads(y) if packed else y


def _table(cache: Tensor, at: Tensor | None) -> Tensor:
    """The cosines or sines for each token, [batch, 1, length, half]."""
    if at is not None:
        rows = cache.shape[0]

        def index(i: Sequence[Expr]) -> tuple[Expr, ...]:
            position = E.cast(load(at, i[:2]), I64)
            return (E.maximum(E.minimum(position, size(D.add(rows, -1))), 0), i[2])

        cache = index_map(cache, (*at.shape, cache.shape[-1]), index, at)
    return reshape(cache, (*cache.shape[:-2], 1, *cache.shape[-2:]))


def rotate(x: Tensor, cos: Tensor, sin: Tensor, width: int, interleaved: bool) -> Tensor:
    """Pairs of the first `width` values (0: of all) turned by the angle of their token.

    x is [batch, heads, length, size], cos and sin are [batch, 1, length, width / 2]. The pairs
    are neighbours where `interleaved`, else the k-th of the first half and of the second.
    """
    total = x.shape[-1]
    if not isinstance(total, int):
        raise NotSupported("the size of a head must be known at compile time")
    width = width or total
    if width % 2 or width > total:
        raise NotSupported(f"{width} of {total} values do not make pairs")
    half = width // 2
    if any(isinstance(t.shape[-1], int) and t.shape[-1] != half for t in (cos, sin)):
        raise NotSupported(f"tables of {cos.shape[-1]} angles for {half} pairs")
    step = 2 if interleaved else 1
    first = part(x, 0, half, step)
    second = part(x, 1 if interleaved else half, half, step)
    real = map_(lambda a, b, c, s: a * c - b * s, first, second, cos, sin)
    imaginary = map_(lambda a, b, c, s: a * s + b * c, first, second, cos, sin)
    if interleaved:
        pairs = [reshape(t, (*t.shape, 1)) for t in (real, imaginary)]
        turned = reshape(concat(pairs, 4), (*x.shape[:-1], width))
    else:
        turned = concat([real, imaginary], 3)
    return turned if width == total else concat([turned, part(x, width, total - width, 1)], 3)


def part(x: Tensor, start: int, count: Dim, step: int = 1) -> Tensor:
    """`count` elements of the last axis, from `start`, every `step`-th."""
    return slice_(x, [*(0,) * (x.rank - 1), start], [*x.shape[:-1], count], [*(1,) * (x.rank - 1), step])
