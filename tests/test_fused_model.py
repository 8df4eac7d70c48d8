"""fused.onnx: standard ONNX, one function for each region, the same results in onnxruntime."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

import zoo
from graphfuse import rules
from graphfuse.artifact import fused_model as module
from graphfuse.artifact.fused_model import DOMAIN, fused_model, region_names, write_fused_model
from graphfuse.demo import MODEL, held_out_images
from graphfuse.fusion.program import Program, lower_graph
from graphfuse.fusion.regions import Fusion, Region, fuse
from graphfuse.graph.dtypes import F32
from graphfuse.graph.origins import origins
from graphfuse.importers.onnx import import_onnx
from graphfuse.ops.registry import lower
from graphfuse.ops.tensor import Tensor

Arrays = dict[str, np.ndarray[Any, Any]]


def fused(path: Path, simplify: bool = True) -> tuple[Fusion, ir.Model, ir.Model]:
    imported = import_onnx(path)
    model = imported.model
    if simplify:
        rules.recognize(rules.simplify(model, imported.ledger), imported.ledger)
    fusion = fuse(lower_graph(model.graph))
    return fusion, model, fused_model(fusion, model)


def run(model: onnx.ModelProto | Path, inputs: Arrays) -> Arrays:
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    source = str(model) if isinstance(model, Path) else model.SerializeToString()
    session = onnxruntime.InferenceSession(source, options, ["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, inputs), strict=True))


def check(path: Path, inputs: Arrays, rtol: float = 0.0, simplify: bool = True) -> onnx.ModelProto:
    """The fused model of a file, proven to be valid, complete, ordered and to compute the same."""
    fusion, model, result = fused(path, simplify)
    proto = ir.to_proto(result)
    onnx.checker.check_model(proto, full_check=True)
    assert {name for function in result.functions.values() for name in region_names(function)} == {
        region.name for region in fusion.regions
    }
    expected, found = run(path, inputs), run(proto, inputs)
    assert list(expected) == list(found)
    for name, value in expected.items():
        scale = float(np.abs(value).max(initial=0))
        np.testing.assert_allclose(found[name], value, rtol=rtol, atol=rtol * scale)
    assert names_in(result) == sorted(name for node in model.graph for name in origins(node))
    return proto


def names_in(model: ir.Model) -> list[str]:
    """The user's nodes in the bodies of the functions and in the graph, calls aside; each as often as it is there."""
    plain = [node for node in model.graph if node.domain != DOMAIN]
    bodies = [node for function in model.functions.values() for node in function]
    return sorted(name for node in plain + bodies for name in origins(node))


def calls(proto: onnx.ModelProto) -> list[onnx.NodeProto]:
    return [node for node in proto.graph.node if node.domain == DOMAIN]


def save(tmp_path: Path, nodes: list[onnx.NodeProto], outputs: dict[str, list[int | str]], **weights: Any) -> Path:
    """A model on x (2, 4, 6) float32."""
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [2, 4, 6])],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in outputs.items()],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in weights.items()],
    )
    path = tmp_path / "m.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10), path)
    return path


@pytest.fixture
def x() -> Arrays:
    return {"x": np.random.default_rng(0).standard_normal((2, 4, 6), dtype=np.float32)}


# ---------------------------------------------------------------- whole models


@pytest.mark.parametrize("name", ["mlp", "pointwise_chain", "resnet18", "mobilenet_v2", "vit_tiny"])
def test_zoo_models_compute_the_same(name: str, zoo_model: Callable[..., Path]) -> None:
    path = zoo_model(name)
    # Batch norms are folded into weights, which rounds anew; the others are the very same operations.
    check(path, zoo.inputs(zoo.load(name), batch=2), rtol=1e-4)


def test_the_demo_model_keeps_its_answers() -> None:
    images, _ = held_out_images()
    proto = check(MODEL, {"image": images[:50]}, rtol=1e-5)
    assert len(calls(proto)) == len(proto.functions) == len(proto.graph.node)


def test_every_call_is_named_by_its_region_and_the_users_nodes(zoo_model: Callable[..., Path]) -> None:
    _, _, result = fused(zoo_model("mlp"))
    proto = ir.to_proto(result)
    assert [(node.op_type, node.name) for node in proto.graph.node] == [
        ("R0", "R0: /fc0/Gemm, /relu0/Relu"),
        ("R1", "R1: /fc1/Gemm, /relu1/Relu"),
        ("R2", "R2: /fc2/Gemm"),
    ]
    assert [function.name for function in proto.functions] == ["R0", "R1", "R2"]


def test_weights_stay_in_the_graph_and_are_shared_with_the_model(zoo_model: Callable[..., Path]) -> None:
    _, model, result = fused(zoo_model("mlp"))
    assert not any(node.op_type == "Constant" for function in result.functions.values() for node in function)
    for name, value in result.graph.initializers.items():
        assert value.const_value is model.graph.initializers[name].const_value


def test_same_bytes_every_time_and_the_model_is_left_as_it_was(zoo_model: Callable[..., Path]) -> None:
    imported = import_onnx(zoo_model("resnet18"))
    rules.simplify(imported.model, imported.ledger)
    before = ir.to_proto(imported.model).SerializeToString(deterministic=True)
    fusion = fuse(lower_graph(imported.model.graph))
    results = [ir.to_proto(fused_model(fusion, imported.model)).SerializeToString(deterministic=True) for _ in range(2)]
    assert results[0] == results[1]
    assert ir.to_proto(imported.model).SerializeToString(deterministic=True) == before


# ---------------------------------------------------------------- shapes that graphs take


def test_a_node_between_two_of_a_region_is_drawn_into_its_function(tmp_path: Path, x: Arrays) -> None:
    nodes = [
        helper.make_node("Relu", ["x"], ["a"], name="relu"),
        helper.make_node("Identity", ["a"], ["b"], name="same"),
        helper.make_node("Exp", ["b"], ["c"], name="exp"),
        helper.make_node("Add", ["a", "c"], ["y"], name="add"),
    ]
    proto = check(save(tmp_path, nodes, {"y": [2, 4, 6]}), x, simplify=False)
    assert [[node.op_type for node in function.node] for function in proto.functions] == [
        ["Relu", "Identity", "Exp", "Add"]
    ]


def test_regions_that_share_a_node_become_one_function(tmp_path: Path, x: Arrays) -> None:
    nodes = [
        helper.make_node("GroupNormalization", ["x", "s", "b"], ["n"], name="norm", num_groups=2),
        helper.make_node("Relu", ["n"], ["y"], name="relu"),
    ]
    weights = {"s": np.full(4, 2, np.float32), "b": np.arange(4, dtype=np.float32)}
    path = save(tmp_path, nodes, {"y": [2, 4, 6]}, **weights)
    fusion, _, result = fused(path)
    owners = {region.name for region in fusion.regions for t in region.tensors if fusion.program.name(t) == "norm"}
    assert len(owners) > 1, "this test needs an op whose primitives lie in several regions"
    function = next(f for f in result.functions.values() if owners <= set(region_names(f)))
    assert "GroupNormalization" in [node.op_type for node in function]
    check(path, x, rtol=1e-6)


def test_views_and_placements_outside_regions_stay_plain_nodes(tmp_path: Path, x: Arrays) -> None:
    nodes = [
        helper.make_node("Relu", ["x"], ["a"], name="relu"),
        helper.make_node("Transpose", ["a"], ["t"], name="turn", perm=[0, 2, 1]),
        helper.make_node("Exp", ["x"], ["e"], name="exp"),
        helper.make_node("Transpose", ["e"], ["u"], name="turn2", perm=[0, 2, 1]),
        helper.make_node("Concat", ["t", "u"], ["y"], name="join", axis=1),
    ]
    proto = check(save(tmp_path, nodes, {"y": [2, 12, 4]}), x)
    assert [node.op_type for node in proto.graph.node if node.domain != DOMAIN][-1] == "Concat"
    assert all(node.op_type not in ("Concat", "Transpose") for f in proto.functions for node in f.node)


def test_a_value_inside_a_region_that_is_an_output_too(tmp_path: Path, x: Arrays) -> None:
    nodes = [
        helper.make_node("Relu", ["x"], ["a"], name="relu"),
        helper.make_node("Exp", ["a"], ["b"], name="exp"),
        helper.make_node("Neg", ["b"], ["c"], name="neg"),
    ]
    proto = check(save(tmp_path, nodes, {"a": [2, 4, 6], "c": [2, 4, 6]}), x)
    assert len(proto.functions) == 1
    assert list(calls(proto)[0].output) == ["a", "c"]


def test_an_optional_input_that_is_left_out_stays_left_out(tmp_path: Path, x: Arrays) -> None:
    nodes = [helper.make_node("Clip", ["x", "", "high"], ["y"], name="clip")]
    proto = check(save(tmp_path, nodes, {"y": [2, 4, 6]}, high=np.float32(0.5)), x)
    assert list(proto.functions[0].input) == ["x", "high"]


def test_a_body_may_read_what_a_function_computes() -> None:
    """If is not fused; its body reads a region's result, which the call has to make under the same name."""
    text = """
        <ir_version: 10, opset_import: ["": 21]>
        g (float[3] x, bool p) => (float[3] y) {
            a = Relu(x)
            b = Exp(a)
            y = If (p) <
                then_branch = t () => (float[3] c) { c = Neg(b) },
                else_branch = e () => (float[3] d) { d = Identity(a) }
            >
        }
    """
    model = ir.from_proto(onnx.parser.parse_model(text))
    nodes = list(model.graph)
    program = Program(model.graph)
    value = model.graph.inputs[0]
    (relu,) = lower(nodes[0], [Tensor((3,), F32, None, value)])
    assert relu is not None
    (exp,) = lower(nodes[1], [relu])
    assert exp is not None
    program.node_of = {relu: nodes[0], exp: nodes[1]}
    region = Region("rows", [relu, exp], relu.shape, name="R0", outputs=[relu, exp])
    result = fused_model(Fusion(program, [region], {}, {}), model)
    proto = ir.to_proto(result)
    onnx.checker.check_model(proto, full_check=True)
    assert [node.op_type for node in proto.graph.node] == ["R0", "If"]
    for p in (False, True):
        inputs = {"x": np.array([-1, 0, 2], np.float32), "p": np.array(p)}
        np.testing.assert_array_equal(run(proto, inputs)["y"], run(onnx.parser.parse_model(text), inputs)["y"])


# ---------------------------------------------------------------- cycles of calls


@given(st.integers(1, 8).flatmap(lambda n: st.lists(st.lists(st.integers(0, n - 1)), min_size=n, max_size=n)))
def test_cycles_are_those_that_reach_each_other(successors: list[list[int]]) -> None:
    n = len(successors)
    reach = np.zeros((n, n), bool)
    for k, found in enumerate(successors):
        reach[k, found] = True
    for k in range(n):
        reach |= reach[:, k, None] & reach[None, k, :]
    both = reach & reach.T
    expected = {frozenset(np.flatnonzero(both[k])) | {k} for k in range(n) if both[k].any()}
    cycles = module._cycles(dict(enumerate(successors)))
    assert {frozenset(cycle) for cycle in cycles} == {c for c in expected if len(c) > 1}


def test_a_long_chain_needs_no_recursion() -> None:
    n = 20_000
    assert module._cycles({k: [k + 1] if k + 1 < n else [] for k in range(n)}) == []
    assert len(module._cycles({k: [(k + 1) % n] for k in range(n)})[0]) == n


# ---------------------------------------------------------------- the file


def test_large_weights_go_to_a_file_beside_the_model(
    tmp_path: Path, zoo_model: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    _, _, result = fused(zoo_model("mlp"))
    inputs = zoo.inputs(zoo.load("mlp"), batch=2)
    small = tmp_path / "small" / "fused.onnx"
    large = tmp_path / "large" / "fused.onnx"
    for path in (small, large):
        path.parent.mkdir()
    write_fused_model(result, small)
    monkeypatch.setattr(module, "LARGEST_INLINE", 1000)
    write_fused_model(result, large)
    assert [path.name for path in small.parent.iterdir()] == ["fused.onnx"]
    assert sorted(path.name for path in large.parent.iterdir()) == ["fused.onnx", "fused.onnx.data"]
    assert large.stat().st_size < small.stat().st_size / 4
    expected = run(zoo_model("mlp"), inputs)
    for path in (small, large):
        np.testing.assert_array_equal(run(path, inputs)["y"], expected["y"])


def test_external_weights_of_the_users_model_are_taken_in(tmp_path: Path) -> None:
    proto = zoo.load("mlp")
    source = tmp_path / "user" / "m.onnx"
    source.parent.mkdir()
    onnx.save(proto, source, save_as_external_data=True, location="m.bin", size_threshold=1024)
    _, _, result = fused(source)
    target = tmp_path / "elsewhere.onnx"
    write_fused_model(result, target)
    inputs = zoo.inputs(proto, batch=2)
    np.testing.assert_array_equal(run(target, inputs)["y"], run(source, inputs)["y"])


def test_functions_say_which_regions_and_nodes_they_stand_for(zoo_model: Callable[..., Path]) -> None:
    _, _, result = fused(zoo_model("mlp"))
    told = {f.name: dict(f.metadata_props) for f in result.functions.values()}
    assert json.loads(told["R0"]["graphfuse.regions"]) == ["R0"]
    assert json.loads(told["R0"]["graphfuse.origins"]) == ["/fc0/Gemm", "/relu0/Relu"]
