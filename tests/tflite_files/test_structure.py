"""What is around operators: control flow, variables, sparse and narrow weights, names, open sizes, refusals."""

from __future__ import annotations

import builtins
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("ai_edge_litert")

from ai_edge_litert import schema_py_generated as schema

from graphfuse.compiler import compile_model
from graphfuse.errors import ModelFileError, UnsupportedModelError
from graphfuse.importers.open import open_model
from graphfuse.importers.tflite.schema import flatbuffer
from graphfuse.options import CompileOptions
from graphfuse.verify.litert import LiteRT
from graphfuse.verify.originals import original_of

from .builder import BFLOAT16, Graph, Model, Q
from .cases import floats, ints
from .running import Array, ours, read, spelled, theirs


def agree(model: Model, inputs: dict[str, Array], folder: Path) -> None:
    source = read(model, folder)
    for got, wanted in zip(ours(source, inputs), theirs(source, inputs), strict=True):
        np.testing.assert_allclose(got, wanted, rtol=1e-6, atol=1e-6)


def unary(graph: Graph, kind: str, x: int, shape: tuple[int, ...] = (3,)) -> int:
    y = graph.tensor(f"{kind.lower()}{len(graph.table.tensors)}", "float32", shape)
    graph.op(kind, [x], [y])
    return y


# ---------------------------------------------------------------- control flow


@pytest.mark.parametrize("flag", [True, False])
def test_if(flag: bool, tmp_path: Path) -> None:
    model = Model()
    graph = model.main
    condition, x = graph.input("flag", "bool", []), graph.input("x", "float32", [3])
    for kind in ("ABS", "NEG"):
        branch = model.graph()
        branch.outputs(unary(branch, kind, branch.input("x", "float32", [3])))
    y = graph.tensor("y", "float32", [3])
    graph.op("IF", [condition, x], [y], "IfOptions", thenSubgraphIndex=1, elseSubgraphIndex=2)
    graph.outputs(y)
    agree(model, {"flag": np.array(flag), "x": floats(3)}, tmp_path)


def counting_loop(model: Model, steps: int = 5) -> None:
    """y = x doubled `steps` times."""
    graph, test, body = model.main, model.graph(), model.graph()
    k, x = graph.constant(np.int32(0)), graph.input("x", "float32", [3])
    limit = test.input("k", "int32", [])
    test.input("x", "float32", [3])
    less = test.tensor("less", "bool", [])
    test.op("LESS", [limit, test.constant(np.int32(steps))], [less])
    test.outputs(less)
    number, value = body.input("k", "int32", []), body.input("x", "float32", [3])
    after, twice = body.tensor("after", "int32", []), body.tensor("twice", "float32", [3])
    body.op("ADD", [number, body.constant(np.int32(1))], [after], "AddOptions")
    body.op("ADD", [value, value], [twice], "AddOptions")
    body.outputs(after, twice)
    ends = graph.tensor("k", "int32", []), graph.tensor("y", "float32", [3])
    graph.op("WHILE", [k, x], ends, "WhileOptions", condSubgraphIndex=1, bodySubgraphIndex=2)
    graph.outputs(*ends)


def test_while(tmp_path: Path) -> None:
    model = Model()
    counting_loop(model)
    agree(model, {"x": floats(3)}, tmp_path)


def test_call(tmp_path: Path) -> None:
    model = Model()
    graph, callee = model.main, model.graph()
    callee.outputs(unary(callee, "EXP", callee.input("a", "float32", [3])))
    x, y = graph.input("x", "float32", [3]), graph.tensor("y", "float32", [3])
    graph.op("STABLEHLO_COMPOSITE", [x], [y], "StableHLOCompositeOptions", name="c", decompositionSubgraphIndex=1)
    z = graph.tensor("z", "float32", [3])
    graph.op("CALL", [y], [z], "CallOptions", subgraph=1)
    graph.outputs(z)
    source, inputs = read(model, tmp_path), {"x": floats(3)}
    np.testing.assert_allclose(ours(source, inputs)[0], np.exp(np.exp(inputs["x"])), rtol=1e-6)
    assert set(source.converted.operators.values()) == {"STABLEHLO_COMPOSITE", "CALL", "EXP"}


def test_a_subgraph_that_calls_itself(tmp_path: Path) -> None:
    model = Model()
    graph, callee = model.main, model.graph()
    for g in (graph, callee):
        x, y = g.input("x", "float32", [3]), g.tensor("y", "float32", [3])
        g.op("CALL", [x], [y], "CallOptions", subgraph=1)
        g.outputs(y)
    with pytest.raises(ModelFileError, match="subgraph 1 calls itself"):
        spelled(read(model, tmp_path))


# ---------------------------------------------------------------- variables


def counter(model: Model, in_branch: bool = False) -> None:
    """y = x + n and n = n + 1 behind it, n being 5 at first; perhaps where a flag says so."""
    graph, once = model.main, model.graph()
    variable = once.tensor("v", "resource", [])
    once.op("VAR_HANDLE", [], [variable], "VarHandleOptions", container="", sharedName="n")
    once.op("ASSIGN_VARIABLE", [variable, once.constant(np.full(3, 5, np.float32))], [], "AssignVariableOptions")
    graph.op("CALL_ONCE", [], [], "CallOnceOptions", initSubgraphIndex=1)
    handle = graph.tensor("handle", "resource", [])
    graph.op("VAR_HANDLE", [], [handle], "VarHandleOptions", container="", sharedName="n")
    n, y = graph.tensor("n", "float32", [3]), graph.tensor("y", "float32", [3])
    graph.op("READ_VARIABLE", [handle], [n], "ReadVariableOptions")
    x = graph.input("x", "float32", [3])
    graph.op("ADD", [x, n], [y], "AddOptions")
    if not in_branch:
        _count(graph, handle, n)
        graph.outputs(y)
        return
    flag, done = graph.input("flag", "bool", []), graph.tensor("done", "float32", [3])
    for assigns in (True, False):
        branch = model.graph()
        own, value = branch.input("h", "resource", []), branch.input("v", "float32", [3])
        if assigns:
            _count(branch, own, value)
        branch.outputs(unary(branch, "ABS", value))
    graph.op("IF", [flag, handle, n], [done], "IfOptions", thenSubgraphIndex=2, elseSubgraphIndex=3)
    graph.outputs(y, done)


def _count(graph: Graph, handle: int, n: int) -> None:
    after = graph.tensor("after", "float32", [3])
    graph.op("ADD", [n, graph.constant(np.ones(3, np.float32))], [after], "AddOptions")
    graph.op("ASSIGN_VARIABLE", [handle, after], [], "AssignVariableOptions")


def test_variables_are_states(tmp_path: Path) -> None:
    model = Model()
    counter(model)
    source = read(model, tmp_path)
    compiled = compile_model(source, tmp_path / "m.gf", CompileOptions(cache=False))
    assert compiled.certificate is not None
    assert compiled.certificate.passed
    session, reference, x = compiled.session(), LiteRT(source), floats(3)
    for _ in range(3):
        np.testing.assert_array_equal(session(x), reference.run({"x": x})["y"])
    session.reset()
    reference.restart()
    np.testing.assert_array_equal(session(x), x + 5)
    np.testing.assert_array_equal(reference.run({"x": x})["y"], x + 5)


def test_variables_that_a_branch_assigns(tmp_path: Path) -> None:
    model = Model()
    counter(model, in_branch=True)
    session = compile_model(read(model, tmp_path), tmp_path / "m.gf", CompileOptions(cache=False)).session()
    seen, x = 5, floats(3)
    for flag in (True, False, True, True, False):
        y, _ = session.run(None, {"x": x, "flag": np.array(flag)})
        np.testing.assert_allclose(y, x + seen, rtol=1e-6)
        seen += flag


# ---------------------------------------------------------------- weights


def test_weights_of_16_bits(tmp_path: Path) -> None:
    model = Model()
    graph = model.main
    x, w = graph.input("x", "float32", [2, 4]), graph.constant(floats(3, 4).astype(np.float16))
    wide, y = graph.tensor("wide", "float32", [3, 4]), graph.tensor("y", "float32", [2, 3])
    graph.op("DEQUANTIZE", [w], [wide])
    graph.op("FULLY_CONNECTED", [x, wide, graph.constant(floats(3))], [y], "FullyConnectedOptions")
    graph.outputs(y)
    agree(model, {"x": floats(2, 4)}, tmp_path)


def test_bfloat16(tmp_path: Path) -> None:
    model = Model()
    graph = model.main
    values = floats(3, 4).astype(BFLOAT16)
    w, y = graph.tensor("w", "bfloat16", [3, 4], data=values.tobytes()), graph.tensor("y", "float32", [3, 4])
    x, z = graph.input("x", "float32", [3, 4]), graph.tensor("z", "float32", [3, 4])
    graph.op("DEQUANTIZE", [w], [y])
    graph.op("ADD", [x, y], [z], "AddOptions")
    graph.outputs(z)
    x_value = floats(3, 4, seed=1)
    np.testing.assert_array_equal(ours(read(model, tmp_path), {"x": x_value})[0], x_value + values.astype(np.float32))


def sparse(dense: Array, block: int = 0) -> tuple[Any, bytes]:
    """Rows dense, columns compressed; or blocks of columns, which are dense inside."""
    rows = dense.shape[0]
    table = schema.SparsityParametersT()
    table.traversalOrder = [0, 1, 2] if block else [0, 1]
    table.blockMap = [1] if block else None
    outer, inner = schema.DimensionMetadataT(), schema.DimensionMetadataT()
    outer.format, outer.denseSize = 0, rows
    cells = dense.reshape(rows, -1, block or 1)
    segments, indices, values = [0], [], []
    for row in cells:
        kept = [k for k, cell in enumerate(row) if cell.any()]
        indices += kept
        segments.append(len(indices))
        values += [row[k] for k in kept]
    inner.format = 1
    for name, numbers in (("arraySegments", segments), ("arrayIndices", indices)):
        vector = schema.Int32VectorT()
        vector.values = np.asarray(numbers, np.int32)
        setattr(inner, name, vector)
        setattr(inner, f"{name}Type", schema.SparseIndexVector.Int32Vector)
    table.dimMetadata = [outer, inner]
    if block:
        last = schema.DimensionMetadataT()
        last.format, last.denseSize = 0, block
        table.dimMetadata.append(last)
    return table, np.concatenate(values).astype(dense.dtype).tobytes()


@pytest.mark.parametrize("block", [0, 4])
def test_sparse_weights(block: int, tmp_path: Path) -> None:
    dense = floats(6, 8) * np.repeat(floats(6, 8 // (block or 1), seed=1) > 0.7, block or 1, axis=1)
    model = Model()
    graph = model.main
    table, data = sparse(dense, block)
    w = graph.tensor("w", "float32", dense.shape, data=data)
    graph.table.tensors[w].sparsity = table
    whole, x = graph.tensor("whole", "float32", dense.shape), graph.input("x", "float32", [2, 8])
    graph.op("DENSIFY", [w], [whole])
    y = graph.tensor("y", "float32", [2, 6])
    graph.op("FULLY_CONNECTED", [x, whole, graph.constant(floats(6))], [y], "FullyConnectedOptions")
    graph.outputs(y)
    agree(model, {"x": floats(2, 8, seed=2)}, tmp_path)


@pytest.mark.parametrize("what", ["index", "segments", "order", "count"])
def test_damaged_sparsity(what: str, tmp_path: Path) -> None:
    table, data = sparse(floats(6, 8))
    model = Model()
    graph = model.main
    w = graph.tensor("w", "float32", (6, 8), data=data[:-4] if what == "count" else data)
    graph.table.tensors[w].sparsity = table
    if what == "index":
        table.dimMetadata[1].arrayIndices.values[3] = 8
    if what == "segments":
        table.dimMetadata[1].arraySegments.values[3] = 999
    if what == "order":
        table.traversalOrder = [0, 0]
    y = graph.tensor("y", "float32", (6, 8))
    graph.op("DENSIFY", [w], [y])
    graph.outputs(y)
    with pytest.raises(ModelFileError, match="'w' has a damaged sparsity"):
        spelled(read(model, tmp_path))


def test_sparse_weights_are_bounded_all_together(tmp_path: Path) -> None:
    model = Model()
    graph = model.main
    made = []
    for k in range(3):  # a few bytes each, which say half a GiB
        table, data = sparse(floats(1, 4))
        w = graph.tensor(f"w{k}", "float32", (1, 1 << 27), data=data)
        graph.table.tensors[w].sparsity = table
        made.append(graph.tensor(f"y{k}", "float32", (1, 1 << 27)))
        graph.op("DENSIFY", [w], [made[-1]])
    graph.outputs(*made)
    with pytest.raises(ModelFileError, match="'w2' makes the sparse weights take more than 1024 MiB"):
        spelled(read(model, tmp_path))


def test_dense_levels_of_sparse_weights_are_bounded(tmp_path: Path) -> None:
    table, data = sparse(floats(1, 4))
    table.dimMetadata[0].denseSize, table.dimMetadata[1] = 1 << 14, table.dimMetadata[0]
    model = Model()
    w = model.main.tensor("w", "float32", (1 << 14, 1 << 14), data=data)
    model.main.table.tensors[w].sparsity = table
    y = model.main.tensor("y", "float32", (1 << 14, 1 << 14))
    model.main.op("DENSIFY", [w], [y])
    model.main.outputs(y)
    with pytest.raises(ModelFileError, match="fewer elements than its dimensions say"):
        spelled(read(model, tmp_path))


def test_weights_of_another_size(tmp_path: Path) -> None:
    model = Model()
    graph = model.main
    w, x = graph.tensor("w", "float32", [3], data=bytes(8)), graph.input("x", "float32", [3])
    y = graph.tensor("y", "float32", [3])
    graph.op("ADD", [x, w], [y], "AddOptions")
    graph.outputs(y)
    with pytest.raises(ModelFileError, match="'w' has 8 bytes of data where its shape"):
        spelled(read(model, tmp_path))


# ---------------------------------------------------------------- names and sizes


def test_signatures_name_inputs_and_outputs(tmp_path: Path) -> None:
    model = Model()
    graph = model.main
    x = graph.input("serving_default_x:0", "float32", [3])
    y = unary(graph, "NEG", x)
    graph.outputs(y)
    model.sign({"audio": x}, {"score": y})
    converted = read(model, tmp_path).converted
    assert [value.name for value in converted.model.graph.inputs] == ["audio"]
    assert [value.name for value in converted.model.graph.outputs] == ["score"]
    assert list(converted.operators.values()) == ["NEG"]


def test_one_value_as_two_outputs_and_an_input_as_output(tmp_path: Path) -> None:
    model = Model()
    graph = model.main
    x = graph.input("x", "float32", [3])
    y = unary(graph, "NEG", x)
    graph.outputs(y, y, x)
    source = read(model, tmp_path)
    a, b, c = ours(source, {"x": floats(3)})
    np.testing.assert_array_equal(a, b)
    np.testing.assert_array_equal(a, -c)


def test_open_sizes(tmp_path: Path) -> None:
    model = Model()
    graph = model.main
    x = graph.input("x", "float32", [1, 5, 7, 3], signature=[-1, -1, 7, 3])
    w = graph.constant(floats(4, 3, 3, 3))
    y = graph.tensor("y", "float32", [1, 3, 4, 4], signature=[-1, -1, 4, 4])
    graph.op("CONV_2D", [x, w, graph.constant(floats(4))], [y], "Conv2DOptions", strideH=2, strideW=2, padding=0)
    graph.outputs(y)
    source = read(model, tmp_path)
    session = compile_model(source, tmp_path / "m.gf", CompileOptions(cache=False)).session()
    for shape in ((1, 5, 7, 3), (2, 8, 7, 3), (3, 11, 7, 3)):
        value = floats(*shape)
        np.testing.assert_allclose(session(value), theirs(source, {"x": value})[0], rtol=1e-5, atol=1e-6)


# ---------------------------------------------------------------- refusals


def test_custom_operators_are_refused_by_name(tmp_path: Path) -> None:
    model = Model()
    graph = model.main
    x, y = graph.input("x", "float32", [3]), graph.tensor("boxes", "float32", [3])
    graph.op("TFLite_Detection_PostProcess", [x], [y])
    graph.outputs(y)
    with pytest.raises(UnsupportedModelError) as caught:
        spelled(read(model, tmp_path))
    assert "TFLite_Detection_PostProcess 'boxes': a custom operator" in str(caught.value)
    assert "convert the model again without them" in str(caught.value)


def test_forms_without_a_spelling_are_refused_by_name(tmp_path: Path) -> None:
    model = Model()
    graph = model.main
    x, axes = graph.input("x", "float32", [3, 4]), graph.input("axes", "int32", [2])
    y = graph.tensor("turned", "float32", [4, 3])
    graph.op("TRANSPOSE", [x, axes], [y])
    graph.outputs(y)
    with pytest.raises(UnsupportedModelError, match="TRANSPOSE 'turned': its axes are not constants"):
        spelled(read(model, tmp_path))


def test_without_the_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = read(Model(), tmp_path)
    flatbuffer.cache_clear()
    monkeypatch.setitem(sys.modules, "tflite", None)
    with pytest.raises(ModelFileError, match=r"pip install 'graphfuse\[tflite\]'"):
        source.read()
    flatbuffer.cache_clear()


def test_without_litert_onnxruntime_is_the_reference(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = Model()
    counting_loop(model)
    source = read(model, tmp_path)
    real = builtins.__import__

    def missing(name: str, *rest: Any, **more: Any) -> Any:
        if name.startswith("ai_edge_litert"):
            raise ImportError(name)
        return real(name, *rest, **more)

    assert original_of(source).runner.name == "LiteRT"
    monkeypatch.setattr(builtins, "__import__", missing)
    assert original_of(source).runner.name == "onnxruntime"


def test_the_format_is_told_by_the_contents(tmp_path: Path) -> None:
    model = Model()
    graph = model.main
    graph.outputs(unary(graph, "NEG", graph.input("x", "float32", [3])))
    path = tmp_path / "model.onnx"
    path.write_bytes(model.bytes())
    assert open_model(path).format == "TFLite"


def test_quantised_weights_of_floats(tmp_path: Path) -> None:
    """LiteRT rounds the inputs to bytes on the way; here the products are of floats."""
    model = Model()
    graph = model.main
    w = ints(3, 4, low=-127)
    x, k = graph.input("x", "float32", [2, 4]), graph.constant(w, Q([0.01, 0.02, 0.03], 0, 0))
    y = graph.tensor("y", "float32", [2, 3])
    graph.op("FULLY_CONNECTED", [x, k, graph.constant(floats(3))], [y], "FullyConnectedOptions")
    graph.outputs(y)
    value = floats(2, 4)
    wanted = value @ (w * np.array([[0.01], [0.02], [0.03]])).T + floats(3)
    np.testing.assert_allclose(ours(read(model, tmp_path), {"x": value})[0], wanted, rtol=1e-5)
