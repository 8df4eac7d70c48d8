"""The runner itself: what passes, what must not, and that neither a crash nor a case without end stops a run."""

from __future__ import annotations

import os
import time
from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto, helper
from onnx.backend.test.case.test_case import TestCase

from conformance.cases import KINDS, Case, all_cases
from conformance.execute import FAILED, NOT_APPLICABLE, PASSED, Mismatch, Result, compare, draws, execute, out_of_scope
from conformance.report import Outcome, document, failures, load_results, save, totals
from conformance.workers import run_all

# Some of every kind, small and of different make.
SAMPLE = (
    "node/test_relu",
    "node/test_relu_expanded_ver18",
    "node/test_add_bcast",
    "node/test_affine_grid_2d_expanded",
    "node/test_and4d",
    "node/test_argmax_keepdims_example",
    "node/test_averagepool_2d_same_upper",
    "node/test_batchnorm_example",
    "node/test_concat_3d_axis_negative_1",
    "node/test_gemm_all_attributes",
    "node/test_gru_defaults",
    "node/test_layer_normalization_4d_axis1",
    "node/test_logsoftmax_axis_2",
    "node/test_matmul_4d",
    "node/test_flatten_axis1",
    "node/test_transpose_all_permutations_4",
    "pytorch-converted/test_Conv2d",
    "pytorch-operator/test_operator_conv",
    "simple/test_expand_shape_model1",
    "simple/test_sign_model",
    "simple/test_single_relu_model",
    "light/test_squeezenet",
)
BY_KEY = {case.key: case for case in all_cases()}


def test_the_suite_is_there() -> None:
    assert {case.kind for case in all_cases()} == set(KINDS)
    assert len(all_cases()) == len(BY_KEY) > 2000
    assert BY_KEY["node/test_relu"].op == BY_KEY["node/test_relu_expanded_ver18"].op == "Relu"


@pytest.mark.parametrize("key", SAMPLE)
def test_cases_pass(key: str) -> None:
    for engine in ("graphfuse", "onnxruntime"):
        assert execute(BY_KEY[key], engine).status == PASSED, execute(BY_KEY[key], engine).reason


def made_case(wanted: np.ndarray) -> Case:
    """y = x + x on x = [0, 1, 2], said to give `wanted`."""
    x = np.arange(3, dtype=wanted.dtype)
    types = [helper.make_tensor_value_info(n, helper.np_dtype_to_tensor_dtype(x.dtype), [3]) for n in "xy"]
    graph = helper.make_graph([helper.make_node("Add", ["x", "x"], ["y"])], "g", types[:1], types[1:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)
    test = TestCase("test_made", "made", None, None, model, [([x], [wanted])], "node", 1e-3, 1e-7)
    return Case("test_made", "node", "Add", test.rtol, test.atol, test)


@pytest.mark.parametrize("engine", ["graphfuse", "onnxruntime"])
def test_a_wrong_result_is_a_failure(engine: str) -> None:
    right = np.array([0, 2, 4], np.float32)
    assert execute(made_case(right), engine).status == PASSED
    for wrong in (right * np.float32(1.01), right[:2], np.array([0, 2, np.nan], np.float32)):
        result = execute(made_case(wrong), engine)
        assert result.status == FAILED
        assert "output 0" in result.reason
    assert execute(made_case(np.array([0, 2, 5], np.int64)), engine).status == FAILED


def test_comparison_is_by_dtype_shape_and_element() -> None:
    one = np.float32([1])
    compare([one], [one * np.float32(1.0005)], 1e-3, 1e-7)
    compare([np.float32([np.nan, np.inf])], [np.float32([np.nan, np.inf])], 1e-3, 1e-7)
    compare([[one, one]], [[one, one]], 1e-3, 1e-7)
    for got, wanted in (
        (one.astype(np.float64), one),
        (one[0], one),
        (np.float32([np.inf]), np.float32([-np.inf])),
        (np.int32([1000000]), np.int32([1000001])),
        (np.array([True]), np.array([False])),
        ([one], [one, one]),
        (one, [one]),
        (one, None),
        (np.array(["a"], object), np.array(["b"], object)),
    ):
        with pytest.raises(Mismatch):
            compare([got], [wanted], 1e-3, 1e-7)
    with pytest.raises(Mismatch, match="1 outputs instead of 2"):
        compare([one], [one, one], 1e-3, 1e-7)


def test_only_what_is_refused_and_out_of_scope_is_not_applicable() -> None:
    refused = execute(BY_KEY["node/test_strnormalizer_nostopwords_nochangecase"], "graphfuse")
    assert (refused.status, refused.reason.split(":")[0]) == (NOT_APPLICABLE, "text")


def test_draws_of_another_generator_are_not_applicable() -> None:
    for name in ("test_bernoulli_seed_expanded", "test_training_dropout_mask"):
        drawn = execute(BY_KEY[f"node/{name}"], "graphfuse")
        assert (drawn.status, drawn.reason.split(":")[0]) == (NOT_APPLICABLE, "expects the draws of another generator")
    assert execute(BY_KEY["node/test_training_dropout_zero_ratio"], "graphfuse").status == PASSED
    assert not draws(BY_KEY["node/test_dropout_default"].model())


def _some_crash(case: Case, engine: str, cache: Path | None) -> Result:
    if case.name == "test_relu":
        os.abort()
    if case.name == "test_abs":
        time.sleep(60)
    return execute(case, engine, cache)


def test_a_crash_or_a_hang_is_one_failure() -> None:
    results: dict[str, Result] = {}
    cases = [BY_KEY[f"node/{name}"] for name in ("test_relu", "test_abs", "test_neg", "test_add")]

    def done(case: Case, engine: str, result: Result) -> None:
        results[case.name] = result

    run_all([(case, "onnxruntime") for case in cases], 2, 5.0, None, done, _some_crash)
    assert {name: result.status for name, result in results.items()} == {
        "test_relu": FAILED,
        "test_abs": FAILED,
        "test_neg": PASSED,
        "test_add": PASSED,
    }
    assert results["test_relu"].reason == "crashed: SIGABRT"
    assert results["test_abs"].reason == "not finished after 5 s"


def test_report(tmp_path: Path) -> None:
    relu, add = Outcome(BY_KEY["node/test_relu"]), Outcome(BY_KEY["node/test_add"])
    relu.results = {"graphfuse": Result(PASSED, "", 1.0), "onnxruntime": Result(PASSED, "", 1.0)}
    add.results = {"graphfuse": Result(FAILED, "a | b", 1.0), "onnxruntime": Result(PASSED, "", 1.0)}
    save([relu, add], tmp_path / "results.json")
    assert load_results(tmp_path / "results.json") == {o.case.key: o.results for o in (relu, add)}
    assert totals([relu, add])[-1] == "| all | 2 | 1 | 1 | 0 | 2 |"
    assert failures([relu, add]) == ["   1 a | b\n     test_add"]
    text = document([relu, add])
    assert "| Add | 1 | 0 | 1 | 0 | 1 | `a / b` |" in text
    assert "| Relu | 1 | 1 | 0 | 0 | 1 |  |" in text


def test_value_types_that_are_no_tensors_of_numbers_are_told() -> None:
    text = helper.make_tensor_value_info("x", TensorProto.STRING, [1])
    graph = helper.make_graph([helper.make_node("Identity", ["x"], ["y"])], "g", [text], [text])
    assert out_of_scope(helper.make_model(graph)) == "text"
    assert out_of_scope(BY_KEY["node/test_relu"].model()) == ""
