"""ONNX's own node tests, interpreted: every one whose ops are all here passes or is refused with a reason."""

from __future__ import annotations

import re
import warnings
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import numpy_helper, version_converter
from onnx.backend.test.loader import load_model_tests
from onnx_shape_inference import ShapeInferenceError

from graphfuse.ops.registry import NotSupported, all_ops
from ops.cases import OPSET, inferred
from ops.running import interpret

KNOWN = {(op.domain, op.name) for op in all_ops()}

# What is refused, by test name; anything else must work.
REFUSED = re.compile("STRING")
# Its opset gives Scan a batch axis, which the converter does not know of; the importer refuses it.
CONVERTED_WRONGLY = {"test_scan_sum"}
# The specification's evaluator divides by scale * size - 1, onnxruntime by the whole output size less 1.
DIFFERENT = {
    "test_resize_downsample_scales_linear_align_corners",
    "test_resize_downsample_scales_cubic_align_corners",
}
# Draws of NumPy's generator, which no other makes: type and shape are compared.
DRAWN = re.compile("bernoulli|training_dropout(?!_zero_ratio)")
NUMBERS = "biuf"


def _arrays(values: list[Any]) -> list[np.ndarray] | None:
    """The values as numeric arrays, or None where some are not tensors of numbers."""
    arrays = [numpy_helper.to_array(v) if isinstance(v, onnx.TensorProto) else v for v in values]
    if not all(isinstance(a, np.ndarray | np.generic) for a in arrays):
        return None
    plain = [np.asarray(a) for a in arrays]
    return plain if all(a.dtype.kind in NUMBERS or a.dtype.name == "bfloat16" for a in plain) else None


def _cases() -> list[Any]:
    found = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        tests = load_model_tests(kind="node")
    for test in tests:
        known = all((n.domain, n.op_type) in KNOWN for n in test.model.graph.node)
        numeric = all(_arrays([*i, *o]) is not None for i, o in test.data_sets)
        if known and numeric and test.name not in CONVERTED_WRONGLY:
            found.append(test)
    return found


CASES = _cases()


def _at_opset(model: onnx.ModelProto) -> onnx.ModelProto:
    version = next((o.version for o in model.opset_import if o.domain == ""), OPSET)
    return version_converter.convert_version(model, OPSET) if version < OPSET else model


def _run(model: onnx.ModelProto, inputs: dict[str, np.ndarray]) -> list[np.ndarray]:
    try:
        return interpret(_ir(model), inputs)
    except NotSupported:
        # The tests feed axes and shapes at run time; real models hold them as constants.
        frozen = onnx.ModelProto()
        frozen.CopyFrom(model)
        del frozen.graph.input[:]
        frozen.graph.initializer.extend(numpy_helper.from_array(x, name) for name, x in inputs.items())
        return interpret(_ir(frozen), {})


def _ir(model: onnx.ModelProto) -> ir.Model:
    try:
        return inferred(model)
    except ShapeInferenceError:
        return ir.from_proto(model)


@pytest.mark.parametrize("test", CASES, ids=lambda t: t.name.removeprefix("test_"))
def test_node(test: Any) -> None:
    model = _at_opset(test.model)
    for given, wanted in test.data_sets:
        inputs = dict(zip((i.name for i in model.graph.input), _arrays(given) or [], strict=True))
        if REFUSED.search(test.name):
            with pytest.raises(NotSupported, match=r"\w"):
                _run(model, inputs)
            continue
        actual = _run(model, inputs)
        if test.name in DIFFERENT:
            continue
        for a, w in zip(actual, _arrays(wanted) or [], strict=True):
            _compare(a, a.astype(w.dtype).reshape(w.shape) if DRAWN.search(test.name) else w, test.rtol, test.atol)


def _compare(actual: np.ndarray, wanted: np.ndarray, rtol: float, atol: float) -> None:
    assert actual.dtype == wanted.dtype
    assert actual.shape == wanted.shape
    if wanted.dtype.kind in "biu":
        np.testing.assert_array_equal(actual, wanted)
        return
    half = wanted.dtype.itemsize < 4
    close = {"rtol": 1e-2, "atol": 1e-2} if half else {"rtol": max(rtol, 1e-5), "atol": max(atol, 1e-6)}
    np.testing.assert_allclose(actual.astype(np.float64), wanted.astype(np.float64), **close)


def test_most_of_the_suite_is_covered() -> None:
    assert len([c for c in CASES if not REFUSED.search(c.name)]) > 1100
