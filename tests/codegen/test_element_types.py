"""Element types as native code: moved in every type, converted between every two, half precision in whole graphs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from codegen.building import build, emitted, imported, parse
from codegen.sanitizing import build_sanitized, run_sanitized
from graphfuse.compiler import compile_model
from graphfuse.errors import InputError, UnsupportedModelError
from graphfuse.graph.dtypes import (
    BF16,
    BOOL,
    E5M2,
    E8M0,
    F16,
    F32,
    F64,
    FLOAT8,
    I4,
    I64,
    SUPPORTED,
    DType,
    code_name,
    is_float,
)
from graphfuse.ops.conversion import cast
from graphfuse.options import CompileOptions

# Operators that move elements of x [5, 6], with k [5, 2] and mask [5, 6]: attributes, operands, and what they mean.
MOVES: dict[str, tuple[dict[str, object], list[str], Callable[..., np.ndarray]]] = {
    "Identity": ({}, ["x"], lambda x, k, mask: x),
    "Transpose": ({"perm": [1, 0]}, ["x"], lambda x, k, mask: x.T),
    "Reshape": ({}, ["x", "shape"], lambda x, k, mask: x.reshape(2, 15)),
    "Unsqueeze": ({}, ["x", "axes"], lambda x, k, mask: x[:, None]),
    "Slice": ({}, ["x", "axes", "end", "axes"], lambda x, k, mask: x[:, 1:5]),
    "Gather": ({"axis": 1}, ["x", "picked"], lambda x, k, mask: x[:, [0, 3, 2]]),
    "Concat": ({"axis": 1}, ["x", "k"], lambda x, k, mask: np.concatenate([x, k], 1)),
    "Where": ({}, ["mask", "x", "k1"], lambda x, k, mask: np.where(mask, x, k[:, :1])),
}
CONSTANTS = {"shape": [2, 15], "axes": [1], "end": [5], "picked": [0, 3, 2]}
OPSET = 25


def values(dtype: DType, count: int, seed: int = 0) -> np.ndarray:
    """Every kind of value of a type."""
    rng = np.random.default_rng(seed)
    if code_name(dtype) is not None:
        return rng.integers(0, 2 ** min(dtype.bitwidth, 8), count).astype(np.uint8).view(dtype.numpy())
    if dtype == BOOL:
        return rng.random(count) < 0.5
    if is_float(dtype):
        edges = [
            0.0,
            -0.0,
            np.inf,
            -np.inf,
            np.nan,
            0.5,
            1.5,
            -2.5,
            65519,
            65520,
            1e-7,
            3e-8,
            2.0**-127,
            448,
            465,
            61440,
        ]
        numbers = rng.normal(size=count) * np.exp2(rng.uniform(-20, 20, count))
        numbers[: len(edges)] = edges[:count]
        with np.errstate(over="ignore"):
            return numbers.astype(dtype.numpy())
    limits = np.iinfo(dtype.numpy())
    return rng.integers(limits.min, limits.max, count, dtype.numpy(), endpoint=True)


def allowed(op: str, dtype: DType) -> bool:
    schema = onnx.defs.get_schema(op, OPSET)
    name = schema.inputs[1 if op == "Where" else 0].type_str
    types = next(c.allowed_type_strs for c in schema.type_constraints if c.type_param_str == name)
    return f"tensor({onnx.TensorProto.DataType.Name(int(dtype)).lower()})" in types


def moving(dtype: DType) -> tuple[onnx.ModelProto, list[str]]:
    """A model of every move that the standard has for a type."""
    kind, moves = int(dtype), [op for op in MOVES if allowed(op, dtype)]
    k = values(dtype, 10, 1).reshape(5, 2)
    constants = [numpy_helper.from_array(np.array(v, np.int64), name) for name, v in CONSTANTS.items()]
    constants += [constant("k", k, dtype), constant("k1", np.ascontiguousarray(k[:, :1]), dtype)]
    nodes = [helper.make_node(op, MOVES[op][1], [f"y_{op}"], **MOVES[op][0]) for op in moves]
    inputs = [helper.make_tensor_value_info(n, t, [5, 6]) for n, t in (("x", kind), ("mask", int(BOOL)))]
    outputs = [helper.make_tensor_value_info(f"y_{op}", kind, None) for op in moves]
    graph = helper.make_graph(nodes, "moves", inputs, outputs, constants)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=13), moves


def constant(name: str, array: np.ndarray, dtype: DType) -> onnx.TensorProto:
    return helper.make_tensor(name, int(dtype), array.shape, numpy_helper.from_array(array).raw_data, raw=True)


@pytest.mark.parametrize("cpu", ["native", "x86_64"])
def test_every_type_is_moved_bit_by_bit(cpu: str, tmp_path: Path) -> None:
    models = [moving(dtype) for dtype in SUPPORTED]
    runners = build([emitted(imported(model, tmp_path), cpu) for model, _ in models])
    mask = np.random.default_rng(4).random((5, 6)) < 0.7
    for dtype, (_, moves), run in zip(SUPPORTED, models, runners, strict=True):
        assert len(moves) >= 4
        x, k = values(dtype, 30, 3).reshape(5, 6), values(dtype, 10, 1).reshape(5, 2)
        for op, got in zip(moves, run({"x": x, "mask": mask}), strict=True):
            assert got.dtype == dtype.numpy()
            assert_same(f"{op} of {dtype.name}", got, MOVES[op][2](x, k, mask))


def assert_same(what: str, got: np.ndarray, want: np.ndarray) -> None:
    """The same bits, but for NaN's."""
    assert got.shape == want.shape, what
    unsigned = f"u{got.itemsize}"
    different = got.view(unsigned) != np.ascontiguousarray(want).view(unsigned)
    if got.dtype.kind in "iub" or got.dtype.name.startswith(("int", "uint")):
        assert not different.any(), what
    else:
        both = np.isnan(got.astype(np.float32)) & np.isnan(want.astype(np.float32))
        assert not (different & ~both).any(), what


def conversions(source: DType, count: int) -> tuple[onnx.ModelProto, list[tuple[DType, bool, str]]]:
    """One value cast to everything in every way."""
    ways = [(t, True, "up") for t in SUPPORTED] + [(t, False, "up") for t in FLOAT8]
    ways += [(E8M0, saturate, mode) for saturate in (True, False) for mode in ("down", "nearest")]
    nodes, outputs = [], []
    for k, (target, saturate, mode) in enumerate(ways):
        nodes.append(helper.make_node("Cast", ["x"], [f"y{k}"], to=int(target), saturate=saturate, round_mode=mode))
        outputs.append(helper.make_tensor_value_info(f"y{k}", int(target), [count]))
    graph = helper.make_graph(nodes, "casts", [helper.make_tensor_value_info("x", int(source), [count])], outputs)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=13), ways


@pytest.mark.parametrize("cpu", ["native", "x86_64"])
def test_every_type_becomes_every_other(cpu: str, tmp_path: Path) -> None:
    given = {source: values(source, 67, 5) for source in SUPPORTED}
    models = {source: conversions(source, len(x)) for source, x in given.items()}
    runners = build([emitted(imported(model, tmp_path), cpu) for model, _ in models.values()])
    for (source, x), (_, ways), run in zip(given.items(), models.values(), runners, strict=True):
        for got, (target, saturate, mode) in zip(run({"x": x}), ways, strict=True):
            with np.errstate(all="ignore"):
                want = x if source == target else cast(x, target, saturate, mode)
            assert got.dtype == target.numpy()
            assert_same(f"{source.name} to {target.name}, {saturate}, {mode}", got, want)


@pytest.mark.parametrize("kind, named", [("complex64", "complex64"), ("string", "strings")])
def test_other_types_are_refused_by_name(kind: str, named: str, tmp_path: Path) -> None:
    model = parse(f"g ({kind}[2] x, float[2] a) => (float[2] b, int64[1] s) {{ s = Shape(x) b = Neg(a) }}")
    with pytest.raises(UnsupportedModelError, match=f"Input 'x': its elements are {named}, which are not supported"):
        emitted(imported(model, tmp_path))


def test_sessions_take_and_return_the_types_of_ml_dtypes(tmp_path: Path) -> None:
    """Also what a .npy file made of them: bytes without a type. Another type of the same size is refused."""
    model = parse("g (bfloat16[3] x, int4[3] q, float8e5m2[3] f) => (bfloat16[3] a, int4[3] b, float8e5m2[3] c) {"
                  " a = Identity(x) b = Identity(q) c = Identity(f) }")  # fmt: skip
    onnx.save(model, tmp_path / "model.onnx")
    session = compile_model(tmp_path / "model.onnx", tmp_path / "model.gf", CompileOptions(verify=False)).session()
    given = {name: values(dtype, 3) for name, dtype in (("x", BF16), ("q", I4), ("f", E5M2))}
    assert [port.type for port in session.get_inputs()] == ["tensor(bfloat16)", "tensor(int4)", "tensor(float8e5m2)"]
    for got, want in zip(session.run(None, given), given.values(), strict=True):
        assert got.dtype == want.dtype
        assert got.tobytes() == want.tobytes()
    np.save(tmp_path / "x.npy", given["x"])
    stored = np.load(tmp_path / "x.npy")
    assert stored.dtype != given["x"].dtype
    assert session.run(["a"], {**given, "x": stored})[0].tobytes() == given["x"].tobytes()
    with pytest.raises(InputError, match="the dtype is float16, expected bfloat16"):
        session.run(None, {**given, "x": given["x"].view(np.float16)})


@pytest.mark.parametrize("source", [F32, F64, I64, F16], ids=lambda t: t.name)
def test_conversions_under_sanitizers(source: DType, tmp_path: Path) -> None:
    x = values(source, 37, 6)
    model, ways = conversions(source, len(x))
    made = emitted(imported(model, tmp_path))
    program = build_sanitized(made.module, made.target, tmp_path)
    (found,) = run_sanitized(program, made.module, [{"x": x}], 1)
    for got, (target, saturate, mode) in zip(found, ways, strict=True):
        with np.errstate(all="ignore"):
            assert_same(f"to {target.name}", got, x if source == target else cast(x, target, saturate, mode))
