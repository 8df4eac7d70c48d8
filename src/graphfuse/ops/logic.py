"""Comparison, boolean logic and selection, element by element with broadcasting."""

from __future__ import annotations

import numpy as np

from graphfuse.graph.dtypes import BOOL
from graphfuse.ops import expr as E
from graphfuse.ops.expr import Const, Expr
from graphfuse.ops.registry import OpNode, op, pointwise
from graphfuse.ops.samples import Sample, bools, floats, ints, sample, scalar, special
from graphfuse.ops.tensor import Tensor, map_


def _comparison_samples() -> list[Sample]:
    return [
        sample(special(13, 17), special(13, 17)[:, ::-1].copy()),
        sample(floats(2, 1, 17), floats(13, 1, seed=1)),
        sample(floats(3, 17), scalar(0.0), constants=[1]),
        sample(ints(13, 17, high=0), ints(17, high=0, seed=1)),
        sample(ints(13, high=0, dtype=np.int64), scalar(-4, np.int64), constants=[1]),
    ]


def _boolean_samples() -> list[Sample]:
    return [sample(bools(13, 17), bools(13, 17, seed=1)), sample(bools(2, 1, 17), bools(13, 1, seed=1))]


def _comparison(name: str, fn: str) -> None:
    pointwise(name, lambda a, b: E.compare(fn, a, b), samples=_comparison_samples)


_comparison("Less", "lt")
_comparison("LessOrEqual", "le")
_comparison("Greater", "gt")
_comparison("GreaterOrEqual", "ge")
pointwise("Equal", E.equal, samples=lambda: [*_comparison_samples(), *_boolean_samples()])

pointwise("And", lambda a, b: E.logical("and", a, b), samples=_boolean_samples)
pointwise("Or", lambda a, b: E.logical("or", a, b), samples=_boolean_samples)
pointwise("Xor", lambda a, b: E.logical("xor", a, b), samples=_boolean_samples)
pointwise("Not", lambda a: E.logical("not", a), samples=lambda: [sample(bools(13, 17)), sample(bools(1))])
pointwise("IsNaN", lambda x: E.logical("isnan", x), samples=lambda: [sample(special(13, 17)), sample(floats(3))])
pointwise(
    "Where",
    E.where,
    samples=lambda: [
        sample(bools(13, 17), special(13, 17), floats(13, 17, seed=1)),
        sample(bools(13, 1), floats(17), scalar(0.0), constants=[2]),
        sample(bools(2, 1, 1), ints(13, 1, dtype=np.int64), ints(17, dtype=np.int64, seed=1)),
        sample(bools(13), bools(2, 13), bools(1, seed=1), reference="onnx"),
    ],
)


@op(
    "IsInf",
    samples=lambda: [
        sample(special(13, 17)),
        sample(special(13, 17), detect_negative=0),
        sample(special(13, 17), detect_positive=0),
        sample(special(13), detect_positive=0, detect_negative=0),
    ],
)
def is_inf(node: OpNode) -> Tensor:
    negative, positive = node.attr("detect_negative", 1), node.attr("detect_positive", 1)

    def body(x: Expr) -> Expr:
        if negative and positive:
            return E.logical("isinf", x)
        if negative or positive:
            return E.equal(x, float("inf") if positive else float("-inf"))
        return Const(False, BOOL)

    return map_(body, node.input(0))
