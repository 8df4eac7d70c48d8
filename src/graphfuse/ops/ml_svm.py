"""ai.onnx.ml: the classifier that a support vector machine is, as onnxruntime computes it: one against one."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np

from graphfuse.graph.dtypes import F32
from graphfuse.ops import expr as E
from graphfuse.ops.expr import lift
from graphfuse.ops.matmul import matrix_product
from graphfuse.ops.ml_features import DOMAIN, TEXT, as_float, row_of
from graphfuse.ops.ml_linear import TRANSFORMS, kernel_values, labels_of, strongest, transformed
from graphfuse.ops.registry import NotSupported, OpNode, op
from graphfuse.ops.samples import Sample, floats, sample
from graphfuse.ops.tensor import Tensor, concat, constant, map_


def _samples() -> list[Sample]:
    x = floats(6, 3)

    def case(per_class: Sequence[int], kernel: str = "LINEAR", transform: str = "NONE", **more: Any) -> Sample:
        classes, count = len(per_class), sum(per_class)
        attributes: dict[str, Any] = {
            "support_vectors": [float(v) for v in floats(3 * count, seed=1)],
            "vectors_per_class": list(per_class),
            "coefficients": [float(v) for v in floats((classes - 1) * count, seed=2)],
            "rho": [float(v) for v in floats(classes * (classes - 1) // 2, seed=3)],
            "classlabels_ints": [5, -1, 7, 30][:classes],
            "kernel_type": kernel,
            "kernel_params": [0.4, 0.5, 3.0],
            "post_transform": transform,
        }
        given = {name: value for name, value in {**attributes, **more}.items() if value is not None}
        return sample(x, outputs=2, fixed=[1], **given)

    def linear(transform: str) -> Sample:
        weights = [float(v) for v in floats(9, seed=1)]
        three: dict[str, Any] = {
            "kernel_params": [0.0, 0.0, 0.0],
            "coefficients": weights,
            "classlabels_ints": [5, -1, 7],
            "rho": [0.25],
            "kernel_type": "LINEAR",
        }
        return sample(x, outputs=2, fixed=[1], post_transform=transform, **three)

    refused: dict[str, Any] = {"reference": "onnx"}
    return [
        *(case([2, 3], transform=t) for t in TRANSFORMS[:4]),
        *(case([2, 1, 3], transform=t) for t in TRANSFORMS[:4]),
        *(case([2, 1, 3, 2], kernel=k) for k in ("POLY", "RBF", "SIGMOID")),
        *(linear(t) for t in TRANSFORMS[:3]),
        case([2, 3], transform="PROBIT", rejected="PROBIT", **refused),
        case([2, 3], prob_a=[-1.0], prob_b=[0.1], rejected="probabilities", **refused),
        case([2, 3], coefficients=[1.0], rejected="1 coefficients", **refused),
        case([2, 3], classlabels_ints=None, classlabels_strings=["a", "b"], rejected="text", **refused),
    ]


@op("SVMClassifier", domain=DOMAIN, samples=_samples)
def svm_classifier(node: OpNode) -> list[Tensor]:
    """The label that wins most of the comparisons of two classes each, and the scores of these comparisons.

    Of two classes both get a score. Without support vectors each class has a linear score, and the largest wins.
    """
    labels, per_class = node.attr("classlabels_ints", ()), [int(n) for n in node.attr("vectors_per_class", ())]
    if not len(labels):
        raise NotSupported(TEXT)
    if len(node.attr("prob_a", ())):
        raise NotSupported("prob_a: probabilities that are found by iteration")
    x, transform = as_float(node.input(0)), node.attr("post_transform", "NONE")
    if x.rank != 2 or not isinstance(x.shape[1], int):
        raise NotSupported("the number of features must be known at compile time")
    if not sum(per_class):
        scores = _linear(node, x, len(labels))
        return [labels_of(strongest(scores), labels), transformed(scores, transform)]
    if len(per_class) != len(labels):
        raise NotSupported(f"vectors of {len(per_class)} classes and {len(labels)} labels")
    scores = _comparisons(node, x, per_class)
    best = strongest(_votes(scores, len(labels)))
    return [labels_of(best, labels), _of_two(scores, transform) if len(labels) == 2 else transformed(scores, transform)]


def _linear(node: OpNode, x: Tensor, classes: int) -> Tensor:
    weights = np.asarray(node.attr("coefficients", ()), np.float32)
    if weights.size != classes * int(x.shape[1]):
        raise NotSupported(f"{weights.size} coefficients for {classes} times {x.shape[1]} features")
    offset = float(node.attr("rho", (0.0,))[0])
    products = matrix_product(x, constant(weights.reshape(classes, -1).T, "coefficients"))
    return map_(lambda v: v + offset, products)


def _comparisons(node: OpNode, x: Tensor, per_class: Sequence[int]) -> Tensor:
    """A score for every two classes, [N, pairs]: above 0 where the first of them wins."""
    classes, count = len(per_class), sum(per_class)
    vectors, rho = np.asarray(node.attr("support_vectors", ()), np.float32), node.attr("rho", ())
    weights = np.asarray(node.attr("coefficients", ()), np.float32)
    pairs = list(itertools.combinations(range(classes), 2))
    if vectors.size != count * int(x.shape[1]):
        raise NotSupported(f"{vectors.size} numbers in support_vectors for {count} times {x.shape[1]} features")
    if weights.size != (classes - 1) * count or len(rho) != len(pairs):
        raise NotSupported(f"{weights.size} coefficients and {len(rho)} of rho for {classes} classes, {count} vectors")
    rows, starts = weights.reshape(classes - 1, count), np.cumsum([0, *per_class])
    matrix = np.zeros((count, len(pairs)), np.float32)
    for column, (i, j) in enumerate(pairs):
        mine, theirs = slice(starts[i], starts[i + 1]), slice(starts[j], starts[j + 1])
        matrix[mine, column], matrix[theirs, column] = rows[j - 1, mine], rows[i, theirs]
    kernel = kernel_values(node, x, vectors.reshape(count, -1), node.attr("kernel_type", "LINEAR"))
    sums = matrix_product(kernel, constant(matrix, "coefficients"))
    return map_(lambda v, r: v + r, sums, row_of(rho, F32, "rho"))


def _votes(scores: Tensor, classes: int) -> Tensor:
    """How many comparisons each class wins, [N, classes]."""
    pairs = list(itertools.combinations(range(classes), 2))
    signs = np.zeros((len(pairs), classes), np.float32)
    seconds = np.zeros(classes, np.float32)
    for row, (i, j) in enumerate(pairs):
        signs[row, i], signs[row, j] = 1, -1
        seconds[j] += 1
    won = map_(lambda v: E.where(v > 0, lift(1.0, F32), 0.0), scores)
    return map_(lambda v, s: v + s, matrix_product(won, constant(signs, "votes")), row_of(seconds, F32, "seconds"))


def _of_two(score: Tensor, transform: str) -> Tensor:
    """The scores of both classes, from the one of their comparison."""
    if transform not in TRANSFORMS[:4]:
        raise NotSupported(f"post_transform = {transform!r} of two classes")
    if transform.startswith("SOFTMAX"):
        return concat([map_(lambda v: 1.0 - v, score), score], 1)
    both = concat([map_(lambda v: -v, score), score], 1)
    return transformed(both, transform)
