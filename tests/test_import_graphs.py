"""What import makes of names, functions, dimensions and control flow."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx.parser
import onnx_ir as ir
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from graphfuse.errors import ModelFileError
from graphfuse.graph.dims import shape_of
from graphfuse.graph.origins import all_nodes, dim_names, origins
from graphfuse.importers import Imported
from graphfuse.importers.onnx import import_onnx

onnxruntime.set_default_logger_severity(4)


def load(folder: Path, text: str, opset: int = 24, names: dict[int, str] | None = None) -> Imported:
    proto = onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["": {opset}]> ' + " ".join(text.split()))
    for index, name in (names or {}).items():
        proto.graph.node[index].name = name
    return load_proto(folder, proto)


def load_proto(folder: Path, proto: onnx.ModelProto) -> Imported:
    (folder / "m.onnx").write_bytes(proto.SerializeToString())
    return import_onnx(folder / "m.onnx")


def test_nodes_without_a_name_are_numbered_and_names_kept_once(tmp_path: Path) -> None:
    text = "g (float[N] x) => (float[N] y) { a = Relu(x) b = Relu(a) c = Relu(b) d = Relu(c) y = Relu(d) }"
    imported = load(tmp_path, text, names={1: "same", 2: "same", 3: "Relu_0"})
    assert imported.ledger.names == ("Relu_0_2", "same", "same_2", "Relu_0", "Relu_4")
    assert [origins(node) for node in imported.model.graph] == [(name,) for name in imported.ledger.names]


def dims_of(imported: Imported) -> list[str]:
    return [str(d) for value in imported.model.graph.inputs for d in shape_of(value)]


@pytest.mark.parametrize(
    "params, expected",
    [
        (["N", "N"], ["N", "N"]),
        (["?", "?"], ["in_put_d0", "in_put_d1"]),
        (["", "-1"], ["in_put_d0", "in_put_d1"]),
        (["h w", "h_w"], ["h_w", "h_w_2"]),
        (["p2o.DynamicDimension.0", "unk__1"], ["p2o_DynamicDimension_0", "unk__1"]),
        (["2*N", "max"], ["d_2_N", "d_max"]),
        (["é", "1"], ["dim", "d_1"]),
        (["a" * 500, "in_put_d0"], ["a" * 60, "in_put_d0"]),
        ([-1, -2], ["in_put_d0", "in_put_d1"]),
        ([7, 0], ["7", "0"]),
    ],
)
def test_dimensions_get_valid_names(tmp_path: Path, params: list[str | int], expected: list[str]) -> None:
    value = helper.make_tensor_value_info("in.put", TensorProto.FLOAT, params)
    out = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    graph = helper.make_graph([helper.make_node("Relu", ["in.put"], ["y"])], "g", [value], [out])
    out.type.tensor_type.shape.SetInParent()
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 24)], ir_version=10)
    imported = load_proto(tmp_path, proto)
    assert dims_of(imported) == expected
    assert [str(d) for d in shape_of(imported.model.graph.outputs[0])] == expected
    users = dim_names(imported.model)
    for param, name in zip(params, expected, strict=True):
        if not name.isdigit():
            anonymous = param in ("?", "", "-1") or isinstance(param, int)
            assert users[name] == (f"dimension {expected.index(name)} of in.put" if anonymous else param)


def test_dimensions_are_told_apart_between_inputs(tmp_path: Path) -> None:
    proto = onnx.parser.parse_model(
        """<ir_version: 8, opset_import: ["": 24]>
        g (float[A] x, float[B] z, float[N] u, float[N] v) => (float[M] y) { y = Concat<axis = 0>(x, z, u, v) }"""
    )
    for value in proto.graph.input[:2]:
        value.type.tensor_type.shape.dim[0].dim_param = "?"
    imported = load_proto(tmp_path, proto)
    assert dims_of(imported) == ["x_d0", "z_d0", "N", "N"]
    assert str(shape_of(imported.model.graph.outputs[0])[0]) == "2*N + x_d0 + z_d0"


def test_initializers_that_are_inputs_are_constants(tmp_path: Path) -> None:
    proto = onnx.parser.parse_model(
        '<ir_version: 3, opset_import: ["": 8]> g (float[2] x, float[2] w) => (float[2] y) { y = Add(x, w) }'
    )
    proto.graph.initializer.append(numpy_helper.from_array(np.ones(2, np.float32), "w"))
    imported = load_proto(tmp_path, proto)
    assert [value.name for value in imported.model.graph.inputs] == ["x"]
    assert imported.model.graph.initializers["w"].const_value is not None


def test_stale_shapes_are_not_believed(tmp_path: Path) -> None:
    """Declared 4 x 4 inside and out, as left behind when an input was made symbolic."""
    imported = load(tmp_path, "g (float[N, 3] x) => (float[4, 4] y) <float[4, 4] a> { a = Relu(x) y = Exp(a) }")
    assert [str(node.outputs[0].shape) for node in imported.model.graph] == ["[N,3]", "[N,3]"]
    assert imported.unknown == ()


def test_what_cannot_be_known_is_listed(tmp_path: Path) -> None:
    imported = load(tmp_path, "g (float[N] x) => (int64[1, M] y) { y = NonZero(x) }", names={0: "find"})
    (unknown,) = imported.unknown
    assert (unknown.value, unknown.node, unknown.op_type) == ("y", "find", "NonZero")
    assert unknown.lacks.startswith("dimensions _d")


def test_functions_are_inlined_under_the_name_of_their_call(tmp_path: Path) -> None:
    proto = onnx.parser.parse_model(
        """<ir_version: 8, opset_import: ["": 17, "local": 1]>
        g (float[N] x) => (float[N] y) { a = local.twice(x) y = local.twice(a) }
        <domain: "local", opset_import: ["": 17]>
        twice (u) => (v) { v = Add(u, u) }"""
    )
    proto.graph.node[0].name, proto.graph.node[1].name = "first", "second"
    imported = load_proto(tmp_path, proto)
    assert imported.ledger.names == ("first/Add", "second/Add")
    assert not imported.model.functions


def test_a_function_that_calls_itself_is_refused(tmp_path: Path) -> None:
    proto = onnx.parser.parse_model(
        """<ir_version: 8, opset_import: ["": 17, "local": 1]>
        g (float[N] x) => (float[N] y) { y = local.f(x) }
        <domain: "local", opset_import: ["": 17, "local": 1]>
        f (u) => (v) { v = local.f(u) }"""
    )
    with pytest.raises(ModelFileError, match="cannot be inlined"):
        load_proto(tmp_path, proto)


BRANCHES = """g (bool c, float[2, 3] x) => (float[3] y) {
    y = If(c) <then_branch = t () => (float[3] p) { a = Relu(x) p = ReduceSum<axes = [0], keepdims = 0>(a) },
        else_branch = e () => (float[3] q) { k = Constant<value = float {2.}>() b = Mul(x, k)
            q = ReduceMax<axes = [0], keepdims = 0>(b) }> }"""


def test_nodes_of_bodies_are_accounted_for(tmp_path: Path) -> None:
    imported = load(tmp_path, BRANCHES, opset=11)
    assert imported.ledger.names == ("If_0", "Relu_1", "ReduceSum_2", "Constant_3", "Mul_4", "ReduceMax_5")
    assert imported.ledger.missing() == ("If_0", "Relu_1", "ReduceSum_2", "Mul_4", "ReduceMax_5")
    carried = [name for node in all_nodes(imported.model.graph) for name in origins(node)]
    assert sorted(carried) == sorted(imported.ledger.missing())
    session = onnxruntime.InferenceSession(ir.to_proto(imported.model).SerializeToString())
    x = np.array([[-1, 2, 3], [4, -5, 6]], np.float32)
    np.testing.assert_array_equal(session.run(None, {"c": np.array(True), "x": x})[0], [4, 2, 9])
    np.testing.assert_array_equal(session.run(None, {"c": np.array(False), "x": x})[0], [8, 4, 12])


def test_values_named_like_the_converters_own_do_not_clash(tmp_path: Path) -> None:
    text = """g (bool c, float[1, 3] _v_1) => (float[3] _v_9) { _v_5 = Relu(_v_1) _v_6 = Exp(_v_5)
        _v_9 = If(c) <then_branch = t () => (float[3] _v_7) { _v_7 = Squeeze<axes = [0]>(_v_5) },
            else_branch = e () => (float[3] _v_8) { _v_8 = Squeeze<axes = [0]>(_v_6) }> }"""
    imported = load(tmp_path, text, opset=11)
    assert [value.name for value in imported.model.graph.inputs] == ["c", "_v_1"]
    assert [value.name for value in imported.model.graph.outputs] == ["_v_9"]
    session = onnxruntime.InferenceSession(ir.to_proto(imported.model).SerializeToString())
    x = np.array([[-1, 0, 2]], np.float32)
    np.testing.assert_allclose(session.run(None, {"c": np.array(False), "_v_1": x})[0], np.exp([0, 0, 2]), rtol=1e-6)


def test_absent_outputs_stay_absent(tmp_path: Path) -> None:
    text = '<ir_version: 8, opset_import: ["": 12]> g (float[2] x) => (float[2] y) { y = Dropout(x) }'
    proto = onnx.parser.parse_model(text)
    proto.graph.node[0].output.append("")
    (node,) = load_proto(tmp_path, proto).model.graph
    assert [value.name for value in node.outputs] == ["y"]


def test_the_same_file_gives_the_same_bytes(tmp_path: Path) -> None:
    first, second = (load(tmp_path, BRANCHES, opset=11) for _ in range(2))
    assert ir.to_proto(first.model).SerializeToString() == ir.to_proto(second.model).SerializeToString()
    assert first.ledger.to_json() == second.ledger.to_json()
