"""The comparison of one model with other runtimes: the same inputs, differences told, figures as data and text."""

from __future__ import annotations

import importlib.util
import io
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from rich.console import Console

from graphfuse import compiler
from graphfuse.bench.compare import ROUNDS, bench
from graphfuse.bench.inputs import accepted_inputs
from graphfuse.bench.result import BenchResult, render
from graphfuse.errors import InputError, ModelFileError


@pytest.fixture(scope="module")
def embedding(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """ids (batch, tokens) int64 below 5 -> table[ids] as (batch, tokens, 3)."""
    graph = helper.make_graph(
        [helper.make_node("Gather", ["table", "ids"], ["y"], name="embed")],
        "g",
        [helper.make_tensor_value_info("ids", TensorProto.INT64, ["batch", "tokens"])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", "tokens", 3])],
        [numpy_helper.from_array(np.arange(15, dtype=np.float32).reshape(5, 3), "table")],
    )
    path = tmp_path_factory.mktemp("embedding") / "embedding.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10), path)
    return path


@pytest.fixture
def mlp(zoo_model: Callable[..., Path]) -> Path:
    return zoo_model("mlp")


@pytest.fixture(scope="module")
def result(tmp_path_factory: pytest.TempPathFactory) -> BenchResult:
    import zoo

    return bench(zoo.path("mlp"), threads=(1, 2), dims={"batch": 3}, seconds=0.05)


def test_a_model_is_timed_beside_its_peer(result: BenchResult) -> None:
    assert [(row.runtime, row.threads) for row in result.timings] == [
        ("graphfuse", 1), ("onnxruntime", 1), ("graphfuse", 2), ("onnxruntime", 2),
    ]  # fmt: skip
    assert result.inputs == {"x": "float32 3×64"}
    for row in result.timings:
        assert 0 < row.best <= row.median
        assert row.calls >= 3 * ROUNDS
        assert row.difference < 1e-4
    ours, peer = result.timings[:2]
    assert peer.ratio_median == pytest.approx(peer.median / ours.median, rel=1e-3)


def test_json_and_table_hold_every_figure(result: BenchResult) -> None:
    data = json.loads(json.dumps(result.to_dict()))
    assert len(data["timings"]) == 4
    assert data["timings"][1]["runtime"] == "onnxruntime"
    buffer = io.StringIO()
    Console(file=buffer, width=80).print(render(result))
    shown = buffer.getvalue()
    assert shown.count("onnxruntime") == 2
    assert "ratio" in shown
    for row in result.timings:
        assert f"{row.best:.4f}" in shown or f"{row.best:.3f}" in shown


def test_another_result_of_a_peer_is_seen(tmp_path: Path, mlp: Path) -> None:
    """The comparison itself fails when the peer computes something else."""
    import zoo

    other = tmp_path / "other.onnx"
    onnx.save(zoo.load("mlp", seed=1), other)
    artifact = compiler.compile_model(other, tmp_path / "other.gf").artifact
    found = bench(mlp, threads=(1,), dims={"batch": 2}, seconds=0.01, artifact=artifact)
    assert found.timings[1].difference > 0.1


def test_results_that_are_lists_are_compared(tmp_path: Path) -> None:
    text = "g (float[4, 6] x) => (seq(float[2, 6]) s) { two = Constant<value_int = 2>() s = SplitToSequence(x, two) }"
    onnx.save(onnx.parser.parse_model(f'<ir_version: 10, opset_import: ["": 20]> {text}'), tmp_path / "m.onnx")
    found = bench(tmp_path / "m.onnx", threads=(1,), seconds=0.01)
    assert found.timings[1].difference == 0


def test_a_peer_that_is_not_installed_is_one_error(mlp: Path) -> None:
    if importlib.util.find_spec("ncnn") is not None:
        pytest.skip("ncnn is installed")
    with pytest.raises(InputError) as caught:
        bench(mlp, ("ncnn",), threads=(1,), seconds=0.01)
    assert "pip install ncnn pnnx" in str(caught.value)


def test_inputs_settle_the_sizes_of_the_others_and_keep_within_range(embedding: Path) -> None:
    with compiler.compile(embedding) as session:
        arrays = accepted_inputs(session, embedding, {}, {"tokens": 50})
        assert arrays["ids"].shape == (1, 50)
        assert 0 <= arrays["ids"].min() <= arrays["ids"].max() < 5
        again = accepted_inputs(session, embedding, {}, {"tokens": 50})
        other = accepted_inputs(session, embedding, {}, {"tokens": 50}, seed=1)
        np.testing.assert_array_equal(arrays["ids"], again["ids"])
        assert (arrays["ids"] != other["ids"]).any()
        given = {"ids": np.full((2, 3), 4, np.int64)}
        assert accepted_inputs(session, embedding, given, {})["ids"] is given["ids"]


def test_the_peer_has_to_take_the_inputs_too(embedding: Path) -> None:
    sizes: list[int] = []

    def picky(arrays: dict[str, np.ndarray]) -> None:  # type: ignore[type-arg]
        sizes.append(arrays["ids"].shape[1])
        if sizes[-1] != 224:
            raise InputError("not this size")

    with compiler.compile(embedding) as session:
        assert accepted_inputs(session, embedding, {}, {}, also=picky)["ids"].shape == (1, 224)  # type: ignore[arg-type]
    assert sizes[0] == 64


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"versus": ("tensorflow",)}, "there is no peer 'tensorflow'"),
        ({"threads": (0,)}, "0 threads cannot be had"),
        ({"seconds": 0.0}, "no time to measure"),
        ({"seconds": float("nan")}, "no time to measure"),
        ({"dims": {"height": 3}}, "no free dimension 'height'"),
        ({"inputs": {"z": np.zeros(1, np.float32)}}, "no input is called 'z'"),
        ({"inputs": {"x": np.zeros((1, 64))}}, "the dtype is float64"),
        ({"inputs": {"x": np.zeros((1, 63), np.float32)}}, "(1, 63)"),
    ],
)
def test_what_cannot_be_measured_is_refused(mlp: Path, arguments: dict[str, object], message: str) -> None:
    with pytest.raises(InputError) as caught:
        bench(mlp, **{"seconds": 0.01, **arguments})  # type: ignore[arg-type]
    assert message in str(caught.value)


def test_a_missing_model_is_one_error(tmp_path: Path) -> None:
    with pytest.raises(ModelFileError, match="no such file"):
        bench(tmp_path / "none.onnx", seconds=0.01)
