"""Quantised models are judged by how far the reference itself moves when bits fall otherwise."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import parser

from graphfuse.verify.compare import compare
from graphfuse.verify.reference import Reference
from graphfuse.verify.sensitivity import moved, quantises, settle

STEP = 0.1


def model() -> onnx.ModelProto:
    """One step of the output lies between x = 0.45 and what rounds to it."""
    return parser.parse_model(
        """<ir_version: 10, opset_import: ["": 21]>
        g (float[8] x) => (float[8] y) <float s = {0.1}, uint8 z = {3}> {
            q = QuantizeLinear(x, s, z) y = DequantizeLinear(q, s, z) }"""
    )


X = {"x": np.array([0.05, 0.15, 0.25, 0.35, 0.45, 0.55, 10.0, 20.0], np.float32)}


def judged(change: np.ndarray) -> bool:
    expected = Reference(model()).run(X)["y"]
    ours = (expected + change).astype(np.float32)
    return settle(compare("y", ours, expected), model(), X, ours, expected).passed


def test_constants_move_by_one_unit_in_the_last_place() -> None:
    [before] = [onnx.numpy_helper.to_array(t) for t in model().graph.initializer if t.name == "s"]
    [after] = [onnx.numpy_helper.to_array(t) for t in moved(model(), 0).graph.initializer if t.name == "s"]
    assert before != after
    assert abs(before.view(np.int32) - after.view(np.int32)) == 1


def test_a_step_where_the_reference_tips_is_accepted() -> None:
    one = np.zeros(8)
    one[3] = STEP
    assert judged(one)


@pytest.mark.parametrize("change", [np.full(8, 9 * STEP), np.full(8, np.nan), np.full(8, np.inf)])
def test_more_than_that_is_not(change: np.ndarray) -> None:
    assert not judged(change)


def test_a_difference_where_nothing_tips_is_not() -> None:
    calm = {"x": X["x"] + np.float32(0.02)}
    expected = Reference(model()).run(calm)["y"]
    ours = expected + np.float32(STEP)
    assert not settle(compare("y", ours, expected), model(), calm, ours, expected).passed


def test_models_without_quantisation_are_not_judged_so() -> None:
    assert quantises(model())
    plain = parser.parse_model(
        '<ir_version: 10, opset_import: ["": 21]> g (float[8] x) => (float[8] y) { y = Relu(x) }'
    )
    assert not quantises(plain)
