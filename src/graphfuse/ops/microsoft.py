"""com.microsoft: the fused operators that onnxruntime's optimizer writes into models."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from graphfuse.graph.dims import Dim
from graphfuse.graph.dtypes import I32, I64
from graphfuse.ops import activation as A
from graphfuse.ops import expr as E
from graphfuse.ops.conv import conv
from graphfuse.ops.expr import Expr, lift
from graphfuse.ops.loops import inside
from graphfuse.ops.matmul import gemm, matrix_product
from graphfuse.ops.norm import affine, centred, inverse_root
from graphfuse.ops.reduce import mean
from graphfuse.ops.registry import NotSupported, OpNode, op
from graphfuse.ops.samples import Sample, floats, ints, sample
from graphfuse.ops.tensor import Tensor, generate, index_map, load, map_, reduce, reshape, transpose

DOMAIN = "com.microsoft"

_ACTIVATIONS: dict[str, Callable[..., Expr]] = {
    "Relu": A.relu,
    "Tanh": E.tanh,
    "Sigmoid": E.sigmoid,
    "LeakyRelu": A.leaky_relu,
    "HardSigmoid": A.hard_sigmoid,
    "Clip": lambda x, low, high: E.minimum(E.maximum(x, low), high),
}


def _activated(node: OpNode, y: Tensor) -> Tensor:
    name, numbers = node.attr("activation", ""), node.attr("activation_params", None)
    if not name:
        return y
    if name not in _ACTIVATIONS:
        raise NotSupported(f"activation = {name!r} is unknown")
    if numbers is None:  # FusedGemm spells them one by one
        numbers = [node.attr(f"activation_{k}") for k in ("alpha", "beta") if node.attr(f"activation_{k}") is not None]
    try:
        return map_(lambda v: _ACTIVATIONS[name](v, *map(float, numbers)), y)
    except TypeError as error:
        raise NotSupported(f"{len(numbers)} numbers for the activation {name}") from error


def _matmul_samples() -> list[Sample]:
    a, b = floats(2, 3, 13, 17), floats(2, 3, 17, 5, seed=1)
    return [
        sample(a, b, alpha=0.5),
        sample(np.swapaxes(a, 2, 3), b, transA=1),
        sample(a, np.swapaxes(b, 2, 3), transB=1, alpha=2.0),
        sample(floats(3, 4), floats(4, 5), constants=[1]),
        sample(floats(5, 2, 4), floats(2, 4, 3), transBatchA=1),
        sample(floats(5, 2, 4), floats(3, 2, 4), transBatchA=1, transBatchB=1, transB=1),
    ]


@op("FusedMatMul", domain=DOMAIN, samples=_matmul_samples)
def fused_matmul(node: OpNode) -> Tensor:
    """alpha A B; transBatch moves the first axis behind the other axes of the batch."""
    a, b = (_turned(node, node.input(k), side) for k, side in ((0, "A"), (1, "B")))
    alpha = node.attr("alpha", 1.0)
    y = matrix_product(a, b)
    return y if alpha == 1 else map_(lambda v: v * alpha, y)


def _turned(node: OpNode, x: Tensor, side: str) -> Tensor:
    if x.rank < 2:
        raise NotSupported(f"an input of rank {x.rank}")
    if node.attr(f"transBatch{side}", 0):
        x = transpose(x, [*range(1, x.rank - 1), 0, x.rank - 1])
    if not node.attr(f"trans{side}", 0):
        return x
    return transpose(x, [*range(x.rank - 2), x.rank - 1, x.rank - 2])


@op(
    "FusedGemm",
    domain=DOMAIN,
    samples=lambda: [
        sample(floats(13, 17), floats(17, 5, seed=1), floats(5), constants=[1, 2], activation="Relu"),
        sample(floats(13, 17), floats(5, 17, seed=1), floats(5), transB=1, activation="Tanh", alpha=0.5),
        sample(floats(3, 4), floats(4, 5), activation="Swirl", rejected="Swirl", reference="onnx"),
    ],
)
def fused_gemm(node: OpNode) -> Tensor:
    y = gemm(node)
    assert isinstance(y, Tensor)
    return _activated(node, y)


def _conv_samples() -> list[Sample]:
    x, w = floats(2, 4, 7, 6), floats(6, 4, 3, 3, seed=1)
    return [
        sample(x, w, floats(6), constants=[1, 2], activation="Relu", fixed=[1]),
        sample(x, w, floats(6), constants=[1, 2], activation="LeakyRelu", activation_params=[0.1], fixed=[1]),
        sample(x, w, constants=[1], activation="Clip", activation_params=[-1.0, 2.0], pads=[1, 1, 1, 1], fixed=[1]),
        sample(
            x, w, floats(6), floats(2, 6, 5, 4, seed=2), constants=[1, 2], activation="Relu", fixed=[1], symbolic=False
        ),
        sample(x, w, constants=[1], activation="Clip", rejected="0 numbers", reference="onnx"),
    ]


@op("FusedConv", domain=DOMAIN, samples=_conv_samples)
def fused_conv(node: OpNode) -> Tensor:
    """activation(conv + Z)"""
    y, more = conv(node), node.optional(3)
    assert isinstance(y, Tensor)
    if more is not None:
        y = map_(lambda v, z: v + z, y, more)
    return _activated(node, y)


@op("Gelu", domain=DOMAIN, samples=lambda: [sample(floats(2, 13, 17)), sample(floats(5, low=-9, high=9))])
def gelu(node: OpNode) -> Tensor:
    return map_(A.gelu, node.input(0))


@op("BiasGelu", domain=DOMAIN, samples=lambda: [sample(floats(2, 13, 17), floats(17, seed=1))])
def bias_gelu(node: OpNode) -> Tensor:
    return map_(lambda x, b: A.gelu(x + b), node.input(0), node.input(1))


@op(
    "FastGelu",
    domain=DOMAIN,
    samples=lambda: [sample(floats(2, 13, 17), floats(17, seed=1)), sample(floats(3, 5))],
)
def fast_gelu(node: OpNode) -> Tensor:
    x, bias = node.input(0), node.optional(1)
    return map_(A.gelu_tanh, x if bias is None else map_(lambda v, b: v + b, x, bias))


@op(
    "QuickGelu",
    domain=DOMAIN,
    samples=lambda: [sample(floats(2, 13, 17)), sample(floats(3, 5), alpha=1.0), sample(floats(3, 5), alpha=0.5)],
)
def quick_gelu(node: OpNode) -> Tensor:
    alpha = node.attr("alpha", 1.702)
    return map_(lambda x: A.swish(x, alpha), node.input(0))


def _skip_samples(simplified: bool) -> list[Sample]:
    x, skip = floats(2, 13, 17), floats(2, 13, 17, seed=1)
    gamma, beta, bias = (floats(17, seed=k) for k in (2, 3, 4))
    rest = (lambda *more: more) if simplified else (lambda *more: (beta, *more))
    return [
        sample(x, skip, gamma, *rest(), constants=[2]),
        sample(x, skip, gamma, *rest(bias), epsilon=1e-3),
        sample(x, floats(13, 17, seed=1), gamma, *rest()),
        sample(x, skip, gamma, rejected="output 1", outputs=2, reference="onnx"),
    ]


def _sum(node: OpNode, bias: Tensor | None) -> Tensor:
    total = map_(lambda a, b: a + b, node.input(0), node.input(1))
    return total if bias is None else map_(lambda a, b: a + b, total, bias)


def _only_first_and_sum(node: OpNode) -> None:
    """The statistics are for training; onnxruntime's kernels for processors leave them unset."""
    for k in (1, 2):
        value = node.node.outputs[k] if k < len(node.node.outputs) else None
        if value is not None and (value.uses() or value.is_graph_output()):
            raise NotSupported(f"output {k}, a statistic for training")


@op("SkipLayerNormalization", domain=DOMAIN, samples=lambda: _skip_samples(False))
def skip_layer_normalization(node: OpNode) -> list[Tensor | None]:
    """The layer norm of the sum of input, skip and bias, and that sum as output 3."""
    _only_first_and_sum(node)
    total = _sum(node, node.optional(4))
    return [_layer_norm(total, node.input(2), node.optional(3), node.attr("epsilon", 1e-12)), None, None, total]


def _layer_norm(x: Tensor, scale: Tensor, offset: Tensor | None, epsilon: float) -> Tensor:
    d, _, variance = centred(x, (x.rank - 1,))
    normal = map_(lambda v, s: v * inverse_root(s, epsilon), d, variance)
    return affine(normal, scale, offset)


def _rms_norm(x: Tensor, scale: Tensor, epsilon: float) -> Tensor:
    square = mean(map_(lambda v: v * v, x), (x.rank - 1,))
    return affine(map_(lambda v, s: v * inverse_root(s, epsilon), x, square), scale, None)


@op("SkipSimplifiedLayerNormalization", domain=DOMAIN, samples=lambda: _skip_samples(True))
def skip_simplified_layer_normalization(node: OpNode) -> list[Tensor | None]:
    """The same with the root of the mean square instead of mean and variance."""
    _only_first_and_sum(node)
    total = _sum(node, node.optional(3))
    return [_rms_norm(total, node.input(2), node.attr("epsilon", 1e-12)), None, None, total]


def _embedding_samples() -> list[Sample]:
    words, places, kinds = floats(11, 8), floats(7, 8, seed=1), floats(2, 8, seed=2)
    ids, kind = ints(2, 5, low=0, high=11), ints(2, 5, low=0, high=2, seed=1)
    gamma, beta, mask = floats(8, seed=3), floats(8, seed=4), ints(2, 5, low=0, high=2, seed=2)
    at = ints(2, 5, low=0, high=7, seed=3)
    return [
        sample(ids, kind, words, places, kinds, gamma, beta, constants=[2, 3, 4, 5, 6], outputs=2),
        sample(ids, None, words, places, None, gamma, beta, outputs=2, epsilon=1e-3),
        sample(ids, kind, words, places, kinds, gamma, beta, mask, outputs=2),
        sample(ids, kind, words, places, kinds, gamma, beta, None, at, outputs=3),
    ]


@op("EmbedLayerNormalization", domain=DOMAIN, samples=_embedding_samples)
def embed_layer_normalization(node: OpNode) -> list[Tensor]:
    """The layer norm of the embeddings of words, places and segments added up; how many tokens each mask keeps."""
    ids, kinds, mask, at = node.input(0), node.optional(1), node.optional(7), node.optional(8)
    words, places, segments = node.input(2), node.input(3), node.optional(4)
    shape = (*ids.shape, words.shape[1])
    total = _looked_up(words, shape, ids)
    if at is None:
        positions = index_map(places, shape[1:], lambda i: (inside(i[0], places.shape[0]), i[1]))
    else:
        positions = _looked_up(places, (*at.shape, places.shape[1]), at)
    total = map_(lambda a, b: a + b, total, positions)
    if kinds is not None and segments is not None:
        total = map_(lambda a, b: a + b, total, _looked_up(segments, shape, kinds))
    if mask is None:
        kept = generate(ids.shape[:1], lambda _: lift(0, I32))
    else:
        ones = map_(lambda v: E.cast(E.equal(v, 1), I32), mask)
        kept = reshape(reduce("sum", ones, (1,)), ids.shape[:1])
    return [_layer_norm(total, node.input(5), node.input(6), node.attr("epsilon", 1e-12)), kept, total]


def _looked_up(table: Tensor, shape: Sequence[Dim], ids: Tensor) -> Tensor:
    def index(i: Sequence[Expr]) -> tuple[Expr, ...]:
        return (inside(E.cast(load(ids, i[:-1]), I64), table.shape[0]), i[-1])

    return index_map(table, shape, index, ids)
