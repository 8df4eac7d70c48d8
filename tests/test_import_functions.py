"""Operators that have no lowering of their own and a function in the standard become that function's nodes."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest

from conformance.cases import all_cases
from conformance.execute import execute
from graphfuse.compiler import compile_model
from graphfuse.graph.origins import all_nodes, origins
from graphfuse.importers.onnx import import_onnx
from graphfuse.ops.registry import find
from graphfuse.options import CompileOptions

# Cases of ONNX's own suite: with a body that depends on nothing, on types, on attributes, and on graphs of the node.
CASES = {case.name: case for case in all_cases()}
NAMES = (
    "test_swiglu",
    "test_flexattention_score_mod",
    "test_flexattention_causal_mask",
    "test_causal_conv_with_state_basic",
)


def expanded(name: str, folder: Path) -> Path:
    """A case's model, in a file, with the node that is to be expanded named n."""
    model = onnx.ModelProto()
    model.CopyFrom(CASES[name].model())
    (node,) = model.graph.node
    node.name = "n"
    onnx.save(model, folder / "m.onnx")
    return folder / "m.onnx"


@pytest.mark.parametrize("name", NAMES)
def test_what_the_function_computes(name: str) -> None:
    result = execute(CASES[name], "graphfuse")
    assert result.status == "passed", result.reason


@pytest.mark.parametrize("name", NAMES)
def test_one_node_stands_for_the_users_and_all_have_its_name(tmp_path: Path, name: str) -> None:
    file = expanded(name, tmp_path)
    imported = import_onnx(file)
    nodes = list(all_nodes(imported.model.graph))
    assert all(find(node) is not None for node in nodes)
    assert len(nodes) > 1
    assert sum("n" in origins(node) for node in nodes) == 1
    assert all(node.name is not None and node.name.startswith("n/") for node in nodes)
    compiled = compile_model(file, tmp_path / "m.gf", CompileOptions(verify=False, cache=False))
    assert compiled.ledger.missing() == ()


def test_a_lowering_is_better_than_the_function(tmp_path: Path) -> None:
    text = '<ir_version: 10, opset_import: ["": 24]> g (float[3, 4] x) => (float[3, 4] y) { [n] y = Softmax(x) }'
    onnx.save(onnx.parser.parse_model(text), tmp_path / "m.onnx")
    (node,) = import_onnx(tmp_path / "m.onnx").model.graph
    assert node.op_type == "Softmax"
    assert find(node) is not None
