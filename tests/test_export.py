"""The way out: what is exported is standard, lighter, and computes the same."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import helper

import zoo
from graphfuse.cli import main
from graphfuse.errors import UnsupportedModelError
from graphfuse.export.check import ExportedSession
from graphfuse.export.onnx import OLDEST, portable_model, write_portable
from graphfuse.importers.open import open_model
from graphfuse.options import CompileOptions
from graphfuse.verify import verify


def exported(path: Path, output: Path) -> onnx.ModelProto:
    write_portable(portable_model(open_model(path), CompileOptions()), output)
    model = onnx.load(output)
    onnx.checker.check_model(model, full_check=True)
    return model


@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v3_large", "minilm", "lstm", "vit_tiny"])
def test_exported_networks_are_standard_lighter_and_right(name: str, tmp_path: Path) -> None:
    path = zoo.path(name)
    before, after = onnx.load(path), exported(path, tmp_path / "out.onnx")
    assert not after.functions
    assert {entry.domain for entry in after.opset_import} == {""}
    assert {node.domain for node in after.graph.node} == {""}
    assert "BatchNormalization" not in {node.op_type for node in after.graph.node}
    assert len(after.graph.node) <= len(before.graph.node)
    assert [value.name for value in after.graph.input] == [value.name for value in before.graph.input]
    assert [value.name for value in after.graph.output] == [value.name for value in before.graph.output]
    written = portable_model(open_model(path), CompileOptions())
    assert verify(ExportedSession(tmp_path / "out.onnx", written), open_model(path)).passed


def parsed(text: str, folder: Path, opset: int = 24) -> Path:
    model = onnx.parser.parse_model(f'<ir_version: 10, opset_import: ["": {opset}]> {text}')
    onnx.save(model, folder / "in.onnx")
    return folder / "in.onnx"


def test_the_opset_is_the_oldest_that_means_the_same(tmp_path: Path) -> None:
    def opset(text: str, given: int = 24) -> int:
        return exported(parsed(text, tmp_path, given), tmp_path / "out.onnx").opset_import[0].version

    assert opset("g (float[2, 3] x) => (float[2, 3] y) { y = Relu(x) }") == OLDEST
    assert opset('g (float[2, 3] x) => (double[2, 3] y) { y = Cast<to = 11, round_mode = "up">(x) }') == OLDEST
    assert opset("g (float[2, 3] x) => (float[2, 3] y) { y = Gelu(x) }") == 20
    axis = "a = Constant<value = int64[1] {1}>()"
    assert opset(f"g (float[2, 3] x) => (float[2, 1] y) {{ {axis} y = ReduceMax(x, a) }}") == 18
    # The spelling of Swish with older operators stays, although opset 24 has an operator for it.
    assert opset("g (float[2, 3] x) => (float[2, 3] y) { s = Sigmoid(x) y = Mul(x, s) }") == OLDEST
    # Types count: bfloat16 convolutions came with opset 22.
    assert opset(
        "g (bfloat16[1, 1, 4, 4] x, bfloat16[1, 1, 3, 3] w) => (bfloat16[1, 1, 2, 2] y) { y = Conv(x, w) }"
    ) >= 22  # fmt: skip


def test_names_are_the_users(tmp_path: Path) -> None:
    graph = helper.make_graph(
        [
            helper.make_node("Relu", ["in 1"], ["a"], name="my relu"),
            helper.make_node("Exp", ["a"], ["out 1"], name="e"),
        ],
        "g",
        [helper.make_tensor_value_info("in 1", 1, ["batch size", 3])],
        [helper.make_tensor_value_info("out 1", 1, ["batch size", 3])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    onnx.save(model, tmp_path / "in.onnx")
    model = exported(tmp_path / "in.onnx", tmp_path / "out.onnx")
    assert [node.name for node in model.graph.node] == ["my relu", "e"]
    assert model.graph.input[0].type.tensor_type.shape.dim[0].dim_param == "batch size"
    session = onnxruntime.InferenceSession(tmp_path / "out.onnx")
    assert session.run(None, {"in 1": np.zeros((4, 3), np.float32)})[0].shape == (4, 3)


def test_operators_of_others_are_refused_by_name(tmp_path: Path) -> None:
    text = "g (float[2, 3] x) => (float[2, 3] y) { y = com.microsoft.QuickGelu(x) }"
    model = onnx.parser.parse_model(f'<ir_version: 10, opset_import: ["": 20, "com.microsoft": 1]> {text}')
    onnx.save(model, tmp_path / "in.onnx")
    with pytest.raises(UnsupportedModelError, match="1 node cannot be exported") as caught:
        portable_model(open_model(tmp_path / "in.onnx"), CompileOptions())
    assert [op for op, _, _ in caught.value.nodes] == ["QuickGelu"]


LISTS = """g (float[5, 6] x) => (seq(float[P, 6]) s, float[5, 6] r) {
    r = Relu(x)
    two = Constant<value_int = 2>()
    s = SplitToSequence<axis = 0>(r, two)
}"""


@pytest.mark.parametrize("to", ["onnx", "torch"])
def test_lists_stay_lists(to: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, output = parsed(LISTS, tmp_path), tmp_path / ("out.onnx" if to == "onnx" else "out.pt2")
    x = np.random.default_rng(0).standard_normal((5, 6), np.float32)
    if to == "torch":
        torch = pytest.importorskip("torch")
    with pytest.raises(SystemExit) as ended:
        main(["export", str(path), "--to", to, "-o", str(output), "--json"])
    told = json.loads(capsys.readouterr().out)
    assert ended.value.code == 0
    assert [report["name"] for report in told["certificate"]["outputs"]] == ["s.0", "s.1", "s.2", "r"]
    if to == "onnx":
        onnx.checker.check_model(onnx.load(output), full_check=True)
        listed, whole = onnxruntime.InferenceSession(output).run(["s", "r"], {"x": x})
    else:
        listed, whole = torch.export.load(output).module()(torch.from_numpy(x))
    assert [tuple(part.shape) for part in listed] == [(2, 6), (2, 6), (1, 6)]
    np.testing.assert_array_equal(np.concatenate(listed), x.clip(0))
    np.testing.assert_array_equal(whole, x.clip(0))


def test_a_list_of_nothing_has_no_type(tmp_path: Path) -> None:
    text = "g (float[0, 6] x) => (seq(float[P, 6]) s) { two = Constant<value_int = 2>() s = SplitToSequence(x, two) }"
    model = portable_model(open_model(parsed(text, tmp_path)), CompileOptions())
    with pytest.raises(UnsupportedModelError, match="leave the output out") as caught:
        write_portable(model, tmp_path / "out.onnx")
    assert list(caught.value.nodes) == [("output", "s", "a list of no tensors")]
    assert not (tmp_path / "out.onnx").exists()


def test_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = zoo.path("mlp")
    with pytest.raises(SystemExit) as ended:
        main(["export", str(path), "-o", str(tmp_path / "out.onnx"), "--json"])
    assert ended.value.code == 0
    told = json.loads(capsys.readouterr().out)
    assert told["certificate"]["passed"]
    assert told["to"] == "onnx"
    assert (tmp_path / "out.onnx").is_file()


@pytest.mark.parametrize(
    ("arguments", "what"),
    [
        (["none.onnx", "-o", "out.onnx"], "no such file"),
        (["none.onnx", "-o", "nowhere/out.onnx"], "the folder does not exist"),
        (["none.onnx", "-o", "out.x", "--to", "keras"], "there is no format 'keras'"),
    ],
)
def test_mistakes_are_told_in_one_block(
    arguments: list[str], what: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as ended:
        main(["export", *arguments])
    assert ended.value.code == 2
    assert what in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
