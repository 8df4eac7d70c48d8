"""How far a quantised model's outputs move when its constants move by no more than rounding.

Rounding into few steps makes a model discontinuous: where a number lies between two steps, the last bit decides, and in
a recurrent layer that decides the steps after it. No float64 run can judge then, as the quantised operators have no
float64. What can is the reference itself, run with every float constant moved to one of its two neighbours.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper

from graphfuse.errors import InputError
from graphfuse.verify.compare import OutputReport
from graphfuse.verify.reference import FLOAT, Reference, every_graph

Array = np.ndarray[Any, Any]

# What rounds numbers of a wide range into few steps.
_QUANTISING = ("QuantizeLinear", "DynamicQuantize", "QLinear", "QGemm")
RUNS = 4
# How much farther from the reference than the moved ones ours may be: they are a few of many ways that bits may fall.
FACTOR = 4.0
# Where the moved ones are farther than this from the reference, relative to the output's root mean square, they tell
# nothing.
TRUST = 0.1


def quantises(model: onnx.ModelProto) -> bool:
    """Whether the model rounds into few steps anywhere."""
    nodes = (node for graph in every_graph(model.graph) for node in graph.node)
    return any(name in node.op_type for node in nodes for name in _QUANTISING)


def settle(
    report: OutputReport, model: onnx.ModelProto, inputs: Mapping[str, Array], ours: Array, expected: Array
) -> OutputReport:
    """The report on an output outside the tolerance, passed if the reference moves about as far when it is nudged."""
    comparable = ours.shape == expected.shape and ours.dtype == expected.dtype and ours.dtype.kind in "fiu"
    if report.passed or not comparable or not np.array_equal(np.isfinite(ours), np.isfinite(expected)):
        return report
    distances = [_distance(moved, expected) for moved in _moved_outputs(model, inputs, report.name)]
    far = max(distances, default=0.0)
    finite = expected[np.isfinite(expected)].astype(np.float64)
    scale = float(np.sqrt(np.mean(finite**2))) if finite.size else 0.0
    # Of integers a step is the least that can differ.
    allowed = max(FACTOR * far, 1.0 if expected.dtype.kind in "iu" else 0.0)
    if far > TRUST * scale or _distance(ours, expected) > allowed:
        return report
    reason = f"judged by moved constants: the reference moves by {far:.3g} when each moves to a neighbour"
    return replace(report, passed=True, reason=reason)


def _moved_outputs(model: onnx.ModelProto, inputs: Mapping[str, Array], name: str) -> list[Array]:
    found = []
    for seed in range(RUNS):
        try:
            found.append(Reference(moved(model, seed)).run(inputs)[name])
        except InputError:
            return []
    return found


def _distance(a: Array, b: Array) -> float:
    with np.errstate(invalid="ignore"):
        difference = np.abs(a.astype(np.float64) - b.astype(np.float64))
    return float(difference[np.isfinite(difference)].max(initial=0.0))


def moved(model: onnx.ModelProto, seed: int) -> onnx.ModelProto:
    """The model with every float32 constant but zeros replaced by one of the two numbers next to it."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    random = np.random.default_rng(seed)
    for graph in every_graph(copy.graph):
        tensors = [*graph.initializer, *(a.t for node in graph.node for a in node.attribute if a.HasField("t"))]
        for tensor in tensors:
            if tensor.data_type != FLOAT:
                continue
            values = numpy_helper.to_array(tensor)
            towards = np.where(random.random(values.shape) < 0.5, np.float32(-np.inf), np.float32(np.inf))
            neighbours = np.where(values == 0, values, np.nextafter(values, towards))
            tensor.CopyFrom(numpy_helper.from_array(neighbours.astype(np.float32).reshape(values.shape), tensor.name))
    return copy
