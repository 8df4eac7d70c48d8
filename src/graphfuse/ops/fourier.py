"""Discrete Fourier transforms as products with matrices of twiddle factors, long ones in two steps (Cooley & Tukey)."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from graphfuse.graph import dims as D
from graphfuse.graph.dims import Dim, is_static, same
from graphfuse.graph.dtypes import F64, I64, DType
from graphfuse.ops import expr as E
from graphfuse.ops.expr import Const, Expr
from graphfuse.ops.loops import inside
from graphfuse.ops.matmul import matrix_product
from graphfuse.ops.registry import NotSupported, OpNode, op
from graphfuse.ops.samples import Sample, floats, sample, scalar
from graphfuse.ops.tensor import (
    Tensor,
    constant,
    generate,
    index_map,
    load,
    map_,
    pad,
    reshape,
    size,
    slice_,
    transpose,
)

# The longest transform that is one product: its matrix fits the cache of a core.
_DIRECT = 512
# A prime length cannot be split; its matrix may have so many elements.
_LARGEST_MATRIX = 1 << 26


def _dft_samples() -> list[Sample]:
    real, whole = floats(2, 10, 3, 1), floats(2, 10, 3, 2)
    at = [2]
    return [
        sample(real, None, scalar(1, np.int64), constants=at, reference="onnx"),
        sample(whole, None, scalar(-3, np.int64), constants=at, fixed=[3], reference="onnx"),
        sample(whole, None, scalar(2, np.int64), constants=at, inverse=1, fixed=[3], reference="onnx"),
        sample(real, None, scalar(1, np.int64), constants=at, onesided=1, reference="onnx"),
        sample(whole, None, scalar(1, np.int64), constants=at, onesided=1, inverse=1, fixed=[3], reference="onnx"),
        sample(
            whole, scalar(7, np.int64), scalar(1, np.int64), constants=[1, 2], inverse=1, fixed=[3], reference="onnx"
        ),
        sample(real, scalar(13, np.int64), scalar(1, np.int64), constants=[1, 2], onesided=1, reference="onnx"),
        sample(
            whole,
            scalar(13, np.int64),
            scalar(1, np.int64),
            constants=[1, 2],
            onesided=1,
            inverse=1,
            fixed=[3],
            reference="onnx",
        ),
        sample(floats(3, 17, 1, dtype=float), reference="onnx"),
        sample(floats(1, 600, 1), onesided=1, reference="onnx", fixed=[1, 2]),
        sample(floats(1, 1050, 2), inverse=1, reference="onnx", fixed=[1, 2]),
        sample(floats(1, 301, 2), onesided=1, inverse=1, reference="onnx", fixed=[1, 2]),
        sample(
            floats(1, 401, 2), scalar(750, np.int64), onesided=1, inverse=1, constants=[1], fixed=[2], reference="onnx"
        ),
        sample(floats(2, 9, 1), scalar(6, np.int64), reference="onnx"),
        sample(real, None, scalar(1, np.int64), onesided=1, reference="onnx"),
        sample(whole, scalar(12, np.int64), scalar(-2, np.int64), onesided=1, inverse=1, fixed=[3], reference="onnx"),
        sample(floats(2, 5, 3), rejected="3 numbers", reference="onnx"),
    ]


@op("DFT", samples=_dft_samples)
def dft(node: OpNode) -> Tensor:
    x = node.input(0)
    if x.rank < 2 or x.shape[-1] not in (1, 2):
        raise NotSupported(f"elements of {x.shape[-1] if x.rank else 'no'} numbers, neither real nor complex")
    given = node.optional(2)
    axes = [-2] if given is None else node.dims(2)
    if axes is None and given is not None:
        return _along_unknown_axis(node, x, given)
    axis = node.axis(int((axes or [-2])[0]), x.rank)
    order = [k for k in range(x.rank - 1) if k != axis]
    y = _transformed(node, transpose(x, [*order, axis, x.rank - 1]))
    back = [order.index(k) if k != axis else len(order) for k in range(x.rank - 1)]
    return transpose(y, [*back, x.rank - 1])


def _along_unknown_axis(node: OpNode, x: Tensor, given: Tensor) -> Tensor:
    """The axis comes from data: the sizes ahead of it, along it and behind it are measured."""
    rank = x.rank - 1

    def chosen() -> Expr:
        axis = E.cast(load(given, (Const(0, I64),) * given.rank), I64)
        return inside(E.where(axis < 0, axis + x.rank, axis), rank)

    def sizes(i: Sequence[Expr]) -> Expr:
        axis = chosen()
        ahead: Expr = Const(1, I64)
        along: Expr = Const(1, I64)
        behind: Expr = Const(1, I64)
        for k in range(rank):
            n = size(x.shape[k])
            ahead = ahead * E.where(axis > k, n, 1)
            along = along * E.where(E.equal(axis, k), n, 1)
            behind = behind * E.where(axis < k, n, 1)
        return E.where(E.equal(i[0], 0), ahead, E.where(E.equal(i[0], 1), along, behind))

    ahead, along, behind = node.measure(generate((3,), sizes, given))
    flat = transpose(reshape(x, (ahead, along, behind, x.shape[-1])), (0, 2, 1, 3))
    y = transpose(_transformed(node, flat), (0, 2, 1, 3))

    def shape(i: Sequence[Expr]) -> Expr:
        own: Expr = size(x.shape[0])
        for k in range(1, rank):
            own = E.where(E.equal(i[0], k), size(x.shape[k]), own)
        return E.where(E.equal(i[0], chosen()), size(y.shape[1]), own)

    return reshape(y, (*node.measure(generate((rank,), shape, given)), y.shape[-1]))


def _transformed(node: OpNode, x: Tensor) -> Tensor:
    """The transform of x[..., n, 1 or 2] along n, as the node's attributes and its length say."""
    inverse, onesided = bool(node.attr("inverse", 0)), bool(node.attr("onesided", 0))
    n = x.shape[-2]
    if inverse and onesided:
        n = D.mul(2, D.add(n, -1))
    if node.optional(1) is not None:
        (n,) = node.dims(1) or node.measure(node.input(1))
    if inverse and onesided:
        return real_inverse(x, n)
    bins = D.add(D.floordiv(n, 2), 1) if onesided else n
    y = transform(x, n, bins, 1 if inverse else -1)
    return map_(lambda v: v / E.cast(size(n), v.dtype), y) if inverse else y


def transform(x: Tensor, n: Dim, bins: Dim, sign: int) -> Tensor:
    """sum over t of x[..., t] exp(sign 2 pi i t k / n) for k < bins: [..., length, 1 or 2] -> [..., bins, 2].

    Of x the first n elements count; those that it lacks are zero.
    """
    x = _cut(x, n)
    factor = _factor(int(n)) if isinstance(n, int) and n > _DIRECT else 1
    if factor > 1 and isinstance(bins, int):
        return _in_two_steps(x, int(n), int(bins), sign, factor)
    length, parts = x.shape[-2], int(x.shape[-1])
    matrix = _twiddles(length, parts, n, bins, sign, x.dtype)
    flat = reshape(x, (*x.shape[:-2], D.mul(length, parts)))
    return reshape(_rows(flat, matrix), (*x.shape[:-2], bins, 2))


def _rows(x: Tensor, matrix: Tensor) -> Tensor:
    """The last axis times a matrix."""
    if x.rank == 1:
        return reshape(matrix_product(reshape(x, (1, *x.shape)), matrix), matrix.shape[1:])
    return matrix_product(x, matrix)


def _cut(x: Tensor, n: Dim) -> Tensor:
    length = x.shape[-2]
    if same(length, n) or (is_static(length, n) and int(length) <= int(n)):
        return x
    return slice_(x, [0] * x.rank, [*x.shape[:-2], D.minimum(length, n), x.shape[-1]], [1] * x.rank)


def _factor(n: int) -> int:
    """The largest divisor up to the square root."""
    return next(k for k in range(math.isqrt(n), 0, -1) if n % k == 0)


def _twiddles(length: Dim, parts: int, n: Dim, bins: Dim, sign: int, dtype: DType) -> Tensor:
    """The matrix [length * parts, bins * 2] of a transform."""
    rows, columns = D.mul(length, parts), D.mul(bins, 2)
    if is_static(length, n, bins):
        if int(rows) * int(columns) > _LARGEST_MATRIX:
            raise NotSupported(f"a transform of length {n}, which has no factors to split it into")
        turns = np.outer(np.arange(int(length)), np.arange(int(bins))) % max(1, int(n))
        factors = np.exp(sign * 2j * np.pi * turns / max(1, int(n)))
        matrix = np.stack([np.stack([factors.real, factors.imag], -1), np.stack([-factors.imag, factors.real], -1)], 1)
        return constant(matrix[:, :parts].reshape(int(rows), int(columns)).astype(dtype.numpy()), "twiddles")

    def element(i: Sequence[Expr]) -> Expr:
        turn = E.floormod(i[0] * i[2], E.maximum(size(n), 1))
        angle = E.cast(turn, F64) * (sign * 2 * math.pi) / E.cast(E.maximum(size(n), 1), F64)
        re, im = E.unary("cos", angle), E.unary("sin", angle)
        first = E.where(E.equal(i[3], 0), re, im)
        second = E.where(E.equal(i[3], 0), -im, re)
        return E.cast(E.where(E.equal(i[1], 0), first, second), dtype)

    return reshape(generate((length, parts, bins, 2), element), (rows, columns))


def _in_two_steps(x: Tensor, n: int, bins: int, sign: int, first: int) -> Tensor:
    """Short transforms of every `second`-th element, turned, then transforms across them."""
    second = n // first
    if isinstance(x.shape[-2], int) and x.shape[-2] < n:
        missing = [0] * (x.rank - 2) + [n - int(x.shape[-2]), 0]
        x = pad(x, [0] * x.rank, missing, E.lift(0, x.dtype))
    lead, rank = x.shape[:-2], x.rank - 2
    batch, last = list(range(rank)), rank + 2
    swap = [*batch, rank + 1, rank, last]
    columns = transpose(reshape(x, (*lead, first, second, x.shape[-1])), swap)
    y = transform(columns, first, first, sign)
    turns = np.outer(np.arange(second), np.arange(first))
    factors = np.exp(sign * 2j * np.pi * turns / n)
    own = constant(factors.real[..., None].astype(x.dtype.numpy()), "cosines")
    other = constant(np.stack([-factors.imag, factors.imag], -1).astype(x.dtype.numpy()), "sines")
    crossed = index_map(y, y.shape, lambda i: (*i[:-1], 1 - i[-1]))
    turned = map_(lambda v, w, c, s: v * c + w * s, y, crossed, own, other)
    across = transform(transpose(turned, swap), second, -(-bins // first), sign)
    whole = transpose(across, swap)
    flat = reshape(whole, (*lead, whole.shape[rank] * first, 2))
    return slice_(flat, [0] * flat.rank, [*lead, bins, 2], [1] * flat.rank)


def real_inverse(x: Tensor, n: Dim) -> Tensor:
    """The real signal of n elements whose transform begins with x[..., bins, 2]; the result is [..., n, 1].

    Each number stands for its mirror image as well; the imaginary parts of the first, and of the last of an even n, do
    not count.
    """
    used = D.add(D.floordiv(n, 2), 1)
    x, dtype = _cut(x, used), x.dtype
    bins = x.shape[-2]

    def element(i: Sequence[Expr]) -> Expr:
        whole = E.maximum(size(n), 1)
        angle = E.cast(E.floormod(i[0] * i[2], whole), F64) * (2 * math.pi) / E.cast(whole, F64)
        edge = E.logical("or", E.equal(i[0], 0), E.equal(i[0] * 2, size(n)))
        weight = E.where(edge, E.lift(1, F64), 2) / E.cast(whole, F64)
        value = E.where(E.equal(i[1], 0), E.unary("cos", angle), E.where(edge, 0, -E.unary("sin", angle)))
        return E.cast(value * weight, dtype)

    if is_static(n, bins) and int(n) <= _DIRECT:
        k, t = np.arange(int(bins))[:, None], np.arange(int(n))
        edge = (k == 0) | (2 * k == n)
        factors = np.exp(2j * np.pi * (k * t % int(n)) / int(n)) * np.where(edge, 1, 2) / int(n)
        parts = np.stack([factors.real, np.where(edge, 0, -factors.imag)], 1)
        matrix = constant(parts.reshape(2 * int(bins), int(n)).astype(dtype.numpy()), "twiddles")
    elif is_static(n, bins):
        return _mirrored_inverse(x, int(n))
    else:
        matrix = reshape(generate((bins, 2, n), element), (D.mul(bins, 2), n))
    flat = reshape(x, (*x.shape[:-2], D.mul(bins, 2)))
    return reshape(_rows(flat, matrix), (*x.shape[:-2], n, 1))


def _mirrored_inverse(x: Tensor, n: int) -> Tensor:
    """By way of the whole transform, whose second half mirrors the first."""
    bins, used = int(x.shape[-2]), n // 2 + 1
    if bins < used:
        x = pad(x, [0] * x.rank, [*(0,) * (x.rank - 2), used - bins, 0], E.lift(0, x.dtype))

    def mirrored(i: Sequence[Expr]) -> tuple[Expr, ...]:
        k = i[-2]
        return (*i[:-2], E.where(k < used, k, n - k), i[-1])

    whole = index_map(x, (*x.shape[:-2], n, 2), mirrored)
    signs = generate((n, 2), lambda i: _mirror_sign(i[0], i[1], n, x.dtype))
    y = transform(map_(lambda v, s: v * s, whole, signs), n, n, 1)
    real = slice_(y, [0] * y.rank, [*y.shape[:-1], 1], [1] * y.rank)
    return map_(lambda v: v / n, real)


def _mirror_sign(k: Expr, part: Expr, n: int, dtype: DType) -> Expr:
    edge = E.logical("or", E.equal(k, 0), E.equal(k * 2, n))
    imaginary = E.where(edge, E.lift(0, dtype), E.where(k < n // 2 + 1, E.lift(1, dtype), -1))
    return E.where(E.equal(part, 0), 1, imaginary)


def _stft_samples() -> list[Sample]:
    signal, taper = floats(2, 40, 1), floats(8, low=0, seed=1)
    step = scalar(3, np.int64)
    return [
        sample(signal, step, taper, constants=[1]),
        sample(signal, step, None, scalar(8, np.int64), constants=[1, 3], onesided=0),
        sample(signal, step, taper, scalar(8, np.int64), constants=[1, 2, 3], fixed=[1]),
        sample(floats(1, 40, 2), step, taper, constants=[1], onesided=0, fixed=[2], reference="onnx"),
        sample(signal, step, taper, scalar(8, np.int64), symbolic=False),
        sample(signal, scalar(5, np.int64), constants=[1], reference="onnx"),
        sample(floats(2, 3, 40), step, taper, constants=[1], rejected="40 numbers", reference="onnx"),
    ]


@op("STFT", samples=_stft_samples)
def stft(node: OpNode) -> Tensor:
    """The transforms of overlapping frames, each times a window."""
    x, taper = node.input(0), node.optional(2)
    if x.rank != 3 or x.shape[-1] not in (1, 2):
        raise NotSupported(f"elements of {x.shape[-1] if x.rank else 'no'} numbers, neither real nor complex")
    (step,) = node.dims(1) or node.measure(node.input(1))
    n = x.shape[1] if taper is None else taper.shape[0]
    if node.optional(3) is not None:
        (n,) = node.dims(3) or node.measure(node.input(3))
    if isinstance(step, int) and step < 1:
        raise NotSupported(f"frame_step = {step}")
    frames = D.add(D.floordiv(D.add(x.shape[1], D.mul(-1, n)), D.maximum(1, step)), 1)

    def index(i: Sequence[Expr]) -> tuple[Expr, ...]:
        return (i[0], inside(i[1] * size(step) + i[2], x.shape[1]), i[3])

    y = index_map(x, (x.shape[0], frames, n, x.shape[2]), index)
    if taper is not None:
        y = map_(lambda v, w: v * w, y, reshape(taper, (n, 1)))
    bins = D.add(D.floordiv(n, 2), 1) if node.attr("onesided", 1) else n
    return transform(y, n, bins, -1)
