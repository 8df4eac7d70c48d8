"""Normalisations: softmax and its kin, and those by mean and variance."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from graphfuse.graph import dims as D
from graphfuse.graph.dtypes import F32, DType
from graphfuse.ops import expr as E
from graphfuse.ops.arithmetic import constant_power
from graphfuse.ops.expr import Expr
from graphfuse.ops.reduce import mean
from graphfuse.ops.registry import NotSupported, OpNode, op
from graphfuse.ops.samples import Sample, floats, sample
from graphfuse.ops.tensor import (
    Tensor,
    Window,
    contract,
    generate,
    map_,
    reduce,
    reshape,
)


def _axis(node: OpNode, x: Tensor, default: int = -1) -> int:
    return node.axis(node.attr("axis", default), x.rank)


def _as(x: Tensor, dtype: DType) -> Tensor:
    return x if x.dtype == dtype else map_(lambda v: E.cast(v, dtype), x)


def _shifted(x: Tensor, axis: int) -> Tensor:
    """x less its maximum along the axis, so that exp cannot overflow; a NaN is in the sum, maximum or not."""
    return map_(lambda v, m: v - m, x, reduce("max", x, (axis,), loose=True))


def _softmax_samples() -> list[Sample]:
    return [
        sample(floats(2, 13, 17, low=-20, high=20)),
        sample(floats(2, 13, 17), axis=1),
        sample(floats(2, 13, 17), axis=0),
        sample(floats(3, 1)),
        sample(floats(5, dtype=float)),
        sample(np.array([[1.0, -np.inf, 2.0], [np.nan, 0.0, 1.0], [np.inf, 0.0, 1.0]], np.float32)),
    ]


@op("Softmax", samples=_softmax_samples)
def softmax(node: OpNode) -> Tensor:
    x = node.input(0)
    axis = _axis(node, x)
    e = map_(E.exp, _shifted(x, axis))
    # The sum is at least 1, or NaN: its inverse, taken once for each row, is a normal number.
    return map_(lambda v, s: v * (1.0 / s), e, reduce("sum", e, (axis,)))


@op("LogSoftmax", samples=_softmax_samples)
def log_softmax(node: OpNode) -> Tensor:
    x = node.input(0)
    axis = _axis(node, x)
    shifted = _shifted(x, axis)
    total = reduce("sum", map_(E.exp, shifted), (axis,))
    return map_(lambda v, s: v - E.log(s), shifted, total)


@op("Hardmax", samples=lambda: [sample(np.round(floats(2, 13, 17))), sample(floats(2, 13, 17), axis=1)])
def hardmax(node: OpNode) -> Tensor:
    """One at the first maximum, zero elsewhere."""
    x = node.input(0)
    axis = _axis(node, x)
    positions = generate([d if k == axis else 1 for k, d in enumerate(x.shape)], lambda i: i[axis])
    return map_(
        lambda i, best: E.cast(E.equal(i, best), x.dtype),
        positions,
        reduce("argmax", x, (axis,)),
    )


def inverse_root(v: Expr, epsilon: float) -> Expr:
    """1 / sqrt(v + epsilon)"""
    return 1.0 / E.sqrt(v + epsilon)


def centred(x: Tensor, axes: Sequence[int]) -> tuple[Tensor, Tensor, Tensor]:
    """x - mean, mean and variance over axes."""
    m = mean(x, axes)
    d = map_(lambda v, m: v - m, x, m)
    return d, m, mean(map_(lambda v: v * v, d), axes)


def _stash(node: OpNode, x: Tensor) -> Tensor:
    """x in the type that the statistics are computed in."""
    if x.dtype.itemsize >= 4:
        return x
    return _as(x, ir.DataType(node.attr("stash_type", int(F32))))


def affine(x: Tensor, scale: Tensor, bias: Tensor | None) -> Tensor:
    """x * scale + bias"""
    if bias is None:
        return map_(lambda v, s: v * s, x, scale)
    return map_(lambda v, s, b: v * s + b, x, scale, bias)


def _layer_samples() -> list[Sample]:
    x = floats(2, 13, 17)
    return [
        sample(x, floats(17), floats(17, seed=1), constants=[1, 2]),
        sample(x, floats(17)),
        sample(x, floats(17), floats(17, seed=1), outputs=3, epsilon=1e-3),
        sample(x, floats(13, 17), axis=1),
        sample(x + 100, floats(2, 13, 17), axis=0, outputs=3),
        sample(x, floats(1)),
    ]


@op("LayerNormalization", samples=_layer_samples)
def layer_normalization(node: OpNode) -> list[Tensor]:
    """The normalised input, the mean and 1 / sqrt(variance + epsilon)."""
    x, scale, bias = node.input(0), node.input(1), node.optional(2)
    axes = range(_axis(node, x), x.rank)
    epsilon = node.attr("epsilon", 1e-5)
    d, m, variance = centred(_stash(node, x), axes)
    inverse = map_(lambda v: inverse_root(v, epsilon), variance)
    normal = _as(map_(lambda v, r: v * r, d, inverse), x.dtype)
    return [affine(normal, scale, bias), m, inverse]


@op(
    "RMSNormalization",
    samples=lambda: [
        sample(floats(2, 13, 17), floats(17)),
        sample(floats(2, 13, 17), floats(13, 17), axis=1, epsilon=1e-2),
        sample(floats(2, 13, 17), floats(17), constants=[1], axis=-1),
    ],
)
def rms_normalization(node: OpNode) -> Tensor:
    x, scale = node.input(0), node.input(1)
    axes = range(_axis(node, x), x.rank)
    epsilon = node.attr("epsilon", 1e-5)
    wide = _stash(node, x)
    square = mean(map_(lambda v: v * v, wide), axes)
    normal = map_(lambda v, s: v * inverse_root(s, epsilon), wide, square)
    return affine(_as(normal, x.dtype), scale, None)


def _per_channel(v: Tensor, rank: int) -> Tensor:
    """A vector over channels, to broadcast against [N, C, ...]."""
    return reshape(v, (1, *v.shape, *(1,) * (rank - 2)))


@op(
    "BatchNormalization",
    samples=lambda: [
        sample(floats(2, 3, 13, 17), *(floats(3, low=0.5, seed=k) for k in range(4)), constants=[1, 2, 3, 4]),
        sample(floats(2, 3, 13), *(floats(3, low=0.5, seed=k) for k in range(4)), epsilon=1e-2),
        sample(floats(2, 3), *(floats(3, low=0.5, seed=k) for k in range(4))),
        sample(
            floats(2, 3, 5),
            *(floats(3, low=0.5, seed=k) for k in range(4)),
            training_mode=1,
            outputs=3,
            reference="onnx",
        ),
        sample(
            floats(2, 3, 5, 7),
            *(floats(3, low=0.5, seed=k) for k in range(4)),
            training_mode=1,
            outputs=3,
            momentum=0.3,
            epsilon=1e-2,
            reference="onnx",
        ),
    ],
)
def batch_normalization(node: OpNode) -> Tensor | list[Tensor]:
    """One factor and one offset per channel; in training those of the batch itself, and the running ones are moved."""
    x, epsilon = node.input(0), node.attr("epsilon", 1e-5)
    scale, bias, m, variance = (_per_channel(node.input(k), x.rank) for k in range(1, 5))
    running = m, variance
    if node.attr("training_mode", 0):
        _, m, variance = centred(x, [k for k in range(x.rank) if k != 1])
    factor = map_(lambda s, v: s / E.sqrt(v + epsilon), scale, variance)
    y = map_(lambda v, m, f, b: (v - m) * f + b, x, m, factor, bias)
    if not node.attr("training_mode", 0):
        return y
    kept = node.attr("momentum", 0.9)
    moved = [map_(lambda r, b: r * kept + b * (1 - kept), *pair) for pair in zip(running, (m, variance), strict=True)]
    return [y, *(reshape(r, (x.shape[1],)) for r in moved)]


@op(
    "InstanceNormalization",
    samples=lambda: [
        sample(floats(2, 3, 13, 17), floats(3), floats(3, seed=1), constants=[1, 2]),
        sample(floats(2, 3, 13), floats(3), floats(3, seed=1), epsilon=1e-2),
    ],
)
def instance_normalization(node: OpNode) -> Tensor:
    x, epsilon = node.input(0), node.attr("epsilon", 1e-5)
    d, _, variance = centred(x, range(2, x.rank))
    normal = map_(lambda v, s: v * inverse_root(s, epsilon), d, variance)
    return affine(normal, _per_channel(node.input(1), x.rank), _per_channel(node.input(2), x.rank))


@op(
    "GroupNormalization",
    samples=lambda: [
        sample(
            floats(2, 6, 5, 7),
            floats(6),
            floats(6, seed=1),
            num_groups=3,
            constants=[1, 2],
            fixed=[1],
        ),
        sample(
            floats(2, 6, 13),
            floats(6),
            floats(6, seed=1),
            num_groups=2,
            epsilon=1e-2,
            constants=[1, 2],
            fixed=[1],
        ),
        sample(floats(2, 6, 5), floats(6), floats(6), num_groups=4, rejected="groups", reference="onnx"),
    ],
)
def group_normalization(node: OpNode) -> Tensor:
    x, groups, epsilon = node.input(0), node.attr("num_groups"), node.attr("epsilon", 1e-5)
    n, c, *spatial = x.shape
    if isinstance(c, int) and c % groups:
        raise NotSupported(f"{c} channels do not divide into {groups} groups")
    grouped = reshape(_stash(node, x), (n, groups, D.floordiv(c, groups), *spatial))
    d, _, variance = centred(grouped, range(2, grouped.rank))
    normal = map_(lambda v, s: v * inverse_root(s, epsilon), d, variance)
    same_type = _as(reshape(normal, x.shape), x.dtype)
    return affine(same_type, _per_channel(node.input(1), x.rank), _per_channel(node.input(2), x.rank))


@op(
    "LpNormalization",
    samples=lambda: [
        sample(floats(2, 13, 17)),
        sample(floats(2, 13, 17), axis=1, p=1),
        sample(np.zeros((2, 3), np.float32), axis=1),
    ],
)
def lp_normalization(node: OpNode) -> Tensor:
    """x over its norm, and 0 where the norm is 0."""
    x, p = node.input(0), node.attr("p", 2)
    axis = _axis(node, x)
    if p not in (1, 2):
        raise NotSupported(f"p = {p}")
    if p == 1:
        norm = reduce("sum", map_(lambda v: E.unary("abs", v), x), (axis,))
    else:
        norm = map_(E.sqrt, reduce("sum", map_(lambda v: v * v, x), (axis,)))
    return map_(lambda v, n: E.where(E.equal(n, 0), 0, v / n), x, norm)


@op(
    "MeanVarianceNormalization",
    samples=lambda: [sample(floats(2, 3, 5, 7)), sample(floats(2, 3, 5), axes=[1, 2], reference="onnx")],
)
def mean_variance_normalization(node: OpNode) -> Tensor:
    x = node.input(0)
    axes = [node.axis(a, x.rank) for a in node.attr("axes", (0, 2, 3))]
    d, _, variance = centred(x, axes)
    # The constant is that of the op's function body in the ONNX specification.
    return map_(lambda v, s: v / (E.sqrt(s) + 1e-9), d, variance)


@op(
    "LRN",
    samples=lambda: [
        sample(floats(2, 7, 5, 3), size=3),
        # onnxruntime refuses an even size; the ONNX evaluator takes the batch size for the number of channels.
        sample(floats(7, 7, 2, 3), size=4, alpha=0.5, beta=0.6, bias=2.0, reference="onnx"),
    ],
)
def lrn(node: OpNode) -> Tensor:
    """x / (bias + alpha * mean of x^2 over `size` neighbouring channels, zero beyond them)^beta."""
    x, width = node.input(0), node.attr("size")
    alpha, beta, bias = node.attr("alpha", 1e-4), node.attr("beta", 0.75), node.attr("bias", 1.0)
    square = map_(lambda v: v * v, x)
    # The mean along the channels is a pooling of the image [C, H * W].
    image = reshape(square, (x.shape[0], 1, x.shape[1], D.product(x.shape[2:])))
    window = Window((width, 1), (1, 1), (1, 1), ((width - 1) // 2, 0), (width // 2, 0), count_include_pad=True)
    near = reshape(contract("average_pool", (image,), image.shape, window), x.shape)
    return map_(lambda v, s: v / constant_power(s * alpha + bias, beta), x, near)
