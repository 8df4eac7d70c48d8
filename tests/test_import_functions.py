"""Operators that have no lowering of their own and a function in the standard become that function's nodes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx.reference
import pytest

from graphfuse.compiler import compile_model
from graphfuse.graph.origins import all_nodes, origins
from graphfuse.importers.onnx import import_onnx
from graphfuse.ops.registry import find
from graphfuse.options import CompileOptions

# Each with an operator that the standard defines by others.
MODELS = {
    "SwiGLU": (28, "g (float[3, 4] a, float[3, 4] b) => (float[3, 4] y) { [n] y = SwiGLU<alpha = 0.5>(a, b) }"),
    "HammingWindow": (
        24,
        "g (float[3] x) => (float[9] y) { s = Constant<value = int32 {9}>() [n] y = HammingWindow(s) }",
    ),
    "CenterCropPad": (
        24,
        """g (float[4, 7] x) => (float[6, 4] y) {
            s = Constant<value = int64[2] {6, 4}>() [n] y = CenterCropPad(x, s) }""",
    ),
}


def saved(folder: Path, opset: int, text: str) -> Path:
    proto = onnx.parser.parse_model(f'<ir_version: 11, opset_import: ["": {opset}]> ' + " ".join(text.split()))
    (folder / "m.onnx").write_bytes(proto.SerializeToString())
    return folder / "m.onnx"


@pytest.mark.parametrize("name", MODELS)
def test_what_the_function_computes(tmp_path: Path, name: str) -> None:
    file = saved(tmp_path, *MODELS[name])
    proto = onnx.load(file)
    rng = np.random.default_rng(0)
    feeds = {
        v.name: rng.standard_normal([d.dim_value for d in v.type.tensor_type.shape.dim]).astype(np.float32)
        for v in proto.graph.input
    }
    (wanted,) = onnx.reference.ReferenceEvaluator(proto).run(None, feeds)
    compiled = compile_model(file, tmp_path / "m.gf", CompileOptions(verify=False, cache=False))
    (got,) = compiled.session(threads=1).run(None, feeds)
    assert (got.dtype, got.shape) == (wanted.dtype, wanted.shape)
    np.testing.assert_allclose(got, wanted, rtol=1e-5, atol=1e-6)
    assert compiled.ledger.missing() == ()


@pytest.mark.parametrize("name", MODELS)
def test_one_node_stands_for_the_users_and_all_have_its_name(tmp_path: Path, name: str) -> None:
    imported = import_onnx(saved(tmp_path, *MODELS[name]))
    nodes = list(all_nodes(imported.model.graph))
    assert name not in {node.op_type for node in nodes}
    assert [origins(node) for node in nodes if origins(node)] == [("n",)]
    assert all(node.name.startswith("n/") for node in nodes)


def test_a_lowering_is_better_than_the_function(tmp_path: Path) -> None:
    text = "g (float[3, 4] x) => (float[3, 4] y) { [n] y = Softmax(x) }"
    (node,) = import_onnx(saved(tmp_path, 24, text)).model.graph
    assert node.op_type == "Softmax"
    assert find(node) is not None
