"""ai.onnx.ml: linear models and support vector machines, and what they do to scores."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from graphfuse.graph.dtypes import F32, I64
from graphfuse.ops import expr as E
from graphfuse.ops.arithmetic import constant_power
from graphfuse.ops.expr import Expr
from graphfuse.ops.loops import inside
from graphfuse.ops.matmul import matrix_product
from graphfuse.ops.ml_features import DOMAIN, TEXT, as_float, row_of
from graphfuse.ops.registry import NotSupported, OpNode, op
from graphfuse.ops.samples import Sample, floats, sample
from graphfuse.ops.tensor import Tensor, concat, constant, index_map, load, map_, reduce, reshape

TRANSFORMS = ("NONE", "SOFTMAX", "LOGISTIC", "SOFTMAX_ZERO", "PROBIT")
# Winitzki's approximation of the inverse error function, as onnxruntime has it.
_WINITZKI = 0.147


def transformed(x: Tensor, kind: str) -> Tensor:
    """Scores [N, classes] as the attribute post_transform says."""
    if kind not in TRANSFORMS:
        raise NotSupported(f"post_transform = {kind!r} is unknown")
    if kind == "LOGISTIC":
        return map_(E.sigmoid, x)
    if kind == "PROBIT":
        return map_(_probit, x)
    if kind == "NONE":
        return x
    top = reduce("max", x, (-1,), loose=True)
    if kind == "SOFTMAX":
        e = map_(lambda v, m: E.exp(v - m), x, top)
    else:
        e = map_(lambda v, m: E.where(E.unary("abs", v) > 1e-7, E.exp(v - m), v * E.exp(-m)), x, top)
    return map_(lambda v, s: v / s, e, reduce("sum", e, (-1,)))


def _probit(x: Expr) -> Expr:
    y = x * 2 - 1
    log = E.log((1.0 - y) * (y + 1.0))
    v = log * 0.5 + 2 / (math.pi * _WINITZKI)
    root = E.sqrt(E.sqrt(v * v - log / _WINITZKI) - v)
    return E.where(y < 0, -root, root) * math.sqrt(2)


def labels_of(best: Tensor, labels: Sequence[int]) -> Tensor:
    """The labels of classes by their numbers."""
    table = row_of(labels, I64, "labels")
    return index_map(table, best.shape, lambda i: (inside(load(best, i), len(labels)),), best)


def strongest(scores: Tensor) -> Tensor:
    """The number of the first class with the largest score, [N]."""
    return reshape(reduce("argmax", scores, (1,)), scores.shape[:1])


def _regressor_samples() -> list[Sample]:
    x, weights = floats(4, 3), [0.5, -1.0, 2.0]
    three = [float(v) for v in floats(9, seed=1)]
    return [
        sample(x, coefficients=weights, intercepts=[0.25], fixed=[1]),
        sample(x, coefficients=weights, fixed=[1]),
        *(
            sample(x, coefficients=three, intercepts=[0.1, 0.2, 0.3], targets=3, post_transform=t, fixed=[1])
            for t in TRANSFORMS[:3]
        ),
        sample(x, coefficients=[1.0, 2.0], rejected="2 coefficients", reference="onnx"),
    ]


def _linear(node: OpNode, x: Tensor, targets: int) -> Tensor:
    weights, offsets = np.asarray(node.attr("coefficients", ()), np.float32), node.attr("intercepts", ())
    if x.rank != 2 or not isinstance(x.shape[1], int):
        raise NotSupported("the number of features must be known at compile time")
    if targets < 1 or weights.size != targets * x.shape[1]:
        raise NotSupported(f"{weights.size} coefficients for {targets} times {x.shape[1]} features")
    matrix = constant(weights.reshape(targets, x.shape[1]).T, "coefficients")
    y = matrix_product(x, matrix)
    return map_(lambda v, b: v + b, y, row_of(offsets, F32, "intercepts")) if len(offsets) else y


@op("LinearRegressor", domain=DOMAIN, samples=_regressor_samples)
def linear_regressor(node: OpNode) -> Tensor:
    y = _linear(node, as_float(node.input(0)), int(node.attr("targets", 1)))
    return transformed(y, node.attr("post_transform", "NONE"))


def _classifier_samples() -> list[Sample]:
    x, three = floats(6, 3), [float(v) for v in floats(9, seed=1)]
    one = three[:3]
    return [
        *(
            sample(
                x,
                coefficients=three,
                intercepts=[0.1, 0.2, 0.3],
                classlabels_ints=[5, -1, 7],
                post_transform=t,
                outputs=2,
                fixed=[1],
            )
            for t in TRANSFORMS[:4]
        ),
        *(
            sample(
                x,
                coefficients=[-v for v in one] + one,
                intercepts=[-0.1, 0.1],
                classlabels_ints=[0, 1],
                post_transform=t,
                outputs=2,
                fixed=[1],
            )
            for t in ("NONE", "LOGISTIC")
        ),
        sample(x, coefficients=three, intercepts=[0.0] * 3, classlabels_strings=["a", "b", "c"], rejected="text"),
    ]


@op("LinearClassifier", domain=DOMAIN, samples=_classifier_samples)
def linear_classifier(node: OpNode) -> list[Tensor]:
    """The label of the largest score, and the scores."""
    labels = node.attr("classlabels_ints", ())
    if not len(labels):
        raise NotSupported(TEXT)
    x = as_float(node.input(0))
    width = x.shape[1] if x.rank == 2 and isinstance(x.shape[1], int) else 0
    targets = len(node.attr("coefficients", ())) // max(1, int(width))
    scores = _linear(node, x, targets)
    if targets == 1 and len(labels) == 2:
        scores = concat([map_(lambda v: -v, scores), scores], 1)
    elif targets != len(labels):
        raise NotSupported(f"{targets} scores for {len(labels)} classes")
    return [labels_of(strongest(scores), labels), transformed(scores, node.attr("post_transform", "NONE"))]


def kernel_values(node: OpNode, x: Tensor, vectors: np.ndarray, kind: str) -> Tensor:
    """The kernel of every row with every support vector, [N, vectors]."""
    gamma, offset, degree = (*node.attr("kernel_params", (0.0, 0.0, 0.0)), 0.0, 0.0, 0.0)[:3]
    if kind == "RBF":
        # By differences: of squares and products nothing would be left where both are large.
        rows = reshape(x, (x.shape[0], 1, x.shape[1]))
        apart = map_(
            lambda a, b: (a - b) * (a - b), rows, constant(vectors.astype(np.float32)[None], "support_vectors")
        )
        squares = reshape(reduce("sum", apart, (2,)), (x.shape[0], len(vectors)))
        return map_(lambda v: E.exp(v * -gamma), squares)
    products = matrix_product(x, constant(vectors.T.astype(np.float32), "support_vectors"))
    if kind == "LINEAR":
        return products
    if kind == "POLY":
        return map_(lambda v: constant_power(v * gamma + offset, float(int(degree))), products)
    if kind == "SIGMOID":
        return map_(lambda v: E.tanh(v * gamma + offset), products)
    raise NotSupported(f"kernel_type = {kind!r} is unknown")


def _svm_samples() -> list[Sample]:
    x, vectors = floats(5, 3), [float(v) for v in floats(12, seed=1)]
    some: dict[str, Any] = {"coefficients": [0.5, -1.0, 0.25, 2.0], "rho": [0.3], "fixed": [1]}
    some |= {"support_vectors": vectors, "n_supports": 4}
    kernels = [("LINEAR", [0.0, 0.0, 0.0]), ("POLY", [0.5, 1.0, 3.0]), ("RBF", [0.4, 0.0, 0.0])]
    kernels.append(("SIGMOID", [0.3, 0.1, 0.0]))
    return [
        *(sample(x, kernel_type=k, kernel_params=p, **some) for k, p in kernels),
        sample(
            x, coefficients=[0.5, -1.0, 0.25], rho=[0.3], kernel_type="LINEAR", kernel_params=[0.0, 0.0, 0.0], fixed=[1]
        ),
        sample(x, kernel_type="RBF", kernel_params=[0.4, 0.0, 0.0], one_class=1, **some),
        sample(x, kernel_type="COSINE", rejected="COSINE", reference="onnx", **some),
    ]


@op("SVMRegressor", domain=DOMAIN, samples=_svm_samples)
def svm_regressor(node: OpNode) -> Tensor:
    """The weighted sum of kernels plus rho; for one class its sign."""
    x, count = as_float(node.input(0)), int(node.attr("n_supports", 0))
    weights = np.asarray(node.attr("coefficients", ()), np.float32)
    offset = float(node.attr("rho", (0.0,))[0])
    if x.rank != 2:
        raise NotSupported(f"an input of rank {x.rank}")
    if count:
        vectors = np.asarray(node.attr("support_vectors", ()), np.float32)
        if vectors.size % count or weights.size != count:
            raise NotSupported(f"{weights.size} coefficients for {count} support vectors")
        x = kernel_values(node, x, vectors.reshape(count, -1), node.attr("kernel_type", "LINEAR"))
    y = matrix_product(x, constant(weights.reshape(-1, 1), "coefficients"))
    y = map_(lambda v: v + offset, y)
    if node.attr("one_class", 0):
        return map_(lambda v: E.where(v > 0, E.lift(1, v.dtype), -1), y)
    return transformed(y, node.attr("post_transform", "NONE"))
