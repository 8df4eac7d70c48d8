"""Imperative loop nests: hostile indices, empty axes, every type, ties and NaN, every number of threads, sanitizers."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
from onnx import helper, numpy_helper

from codegen.building import Emitted, GuardFailed, Runner, build, emitted, parse
from codegen.sanitizing import build_sanitized, run_sanitized
from graphfuse.codegen.module import assemble
from graphfuse.graph.dtypes import BOOL, F32, F64, I8, I16, I32, I64, U8, U16, U32, U64
from graphfuse.kernels.bounds import Bounds
from graphfuse.ops import registry
from graphfuse.ops.expr import Arg, Call, Const, Expr, Result, Size, Var, cast, maximum, minimum, substitute
from graphfuse.ops.loops import Builder, at, both
from graphfuse.ops.registry import OpNode
from graphfuse.ops.tensor import Tensor
from graphfuse.plan.in_place import take_places
from graphfuse.runtime.preamble import pool_source, preamble, slots_source
from ops.cases import inferred
from ops.running import interpret

Arrays = dict[str, np.ndarray]
TYPES = [np.float32, np.float64, np.int8, np.uint8, np.int16, np.uint16, np.int32, np.uint32, np.int64, np.uint64]


def model(
    op: str,
    inputs: Arrays,
    outputs: int = 1,
    known: tuple[str, ...] = (),
    sizes: bool = False,
    fixed: tuple[str, ...] = (),
    **attributes: Any,
) -> onnx.ModelProto:
    """One node; `known` inputs are constants, with `sizes` every axis is open but for those of `fixed` inputs."""
    names = [f"y{k}" for k in range(outputs)]

    def shape(name: str, x: np.ndarray) -> list[int | str]:
        return [f"{name}{k}" if sizes and name not in fixed else d for k, d in enumerate(x.shape)]

    graph = helper.make_graph(
        [helper.make_node(op, list(inputs), names, name="node", **attributes)],
        "g",
        [
            helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(x.dtype), shape(name, x))
            for name, x in inputs.items()
            if name not in known
        ],
        [onnx.ValueInfoProto(name=name) for name in names],
        [numpy_helper.from_array(inputs[name], name) for name in known],
    )
    built = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 24)], ir_version=12)
    for output, found in zip(built.graph.output, onnx.shape_inference.infer_shapes(built).graph.output, strict=True):
        output.type.tensor_type.elem_type = found.type.tensor_type.elem_type
    return built


def compiled(*models: onnx.ModelProto) -> list[Runner]:
    return build([emitted(inferred(m)) for m in models])


def same_on_all_threads(run: Runner, inputs: Arrays) -> list[np.ndarray]:
    results = run(inputs)
    for threads in (2, 3):
        assert [a.tobytes() for a in results] == [a.tobytes() for a in run(inputs, threads=threads)]
    return results


def random(dtype: Any, *shape: int, seed: int = 0) -> np.ndarray:
    """Few different values, so that many are equal, among them the extremes of the type."""
    rng = np.random.default_rng(seed)
    if np.dtype(dtype).kind == "f":
        some = [0.0, -0.0, np.nan, np.inf, -np.inf, 1.5, -1.5, 3e38, -1e-40, *rng.standard_normal(40)]
    else:
        info = np.iinfo(dtype)
        some = [info.min, info.max, 0, *rng.integers(info.min, info.max, 40, dtype=dtype)]
    return rng.choice(np.array(some, dtype), shape)


# ---------------------------------------------------------------- sorting


def ranked(x: np.ndarray) -> np.ndarray:
    """Numbers in the order of the values: equal ones equal, NaN above all."""
    return np.unique(x, return_inverse=True)[1].reshape(x.shape)


@pytest.mark.parametrize("largest", [0, 1])
def test_selections_are_stable_sorts_cut_off(largest: int) -> None:
    for n, k in [(1, 1), (31, 31), (33, 33), (200, 1), (200, 33), (1000, 32), (1000, 40), (3000, 3000)]:
        data = [{"x": random(t, 2, n, seed=n), "k": np.array([k])} for t in TYPES]
        runners = compiled(*(model("TopK", d, 2, ("k",), largest=largest) for d in data))
        for d, run in zip(data, runners, strict=True):
            values, indices = same_on_all_threads(run, {"x": d["x"]})
            rank = ranked(d["x"]) * (-1 if largest else 1)
            order = np.argsort(rank, axis=1, kind="stable")[:, :k]
            np.testing.assert_array_equal(indices, order, err_msg=f"{d['x'].dtype} {k} of {n}")
            np.testing.assert_array_equal(values, np.take_along_axis(d["x"], order, 1))


def test_data_in_the_worst_order() -> None:
    """Every block beats all blocks before it."""
    x = np.arange(5000, dtype=np.float32).reshape(1, -1)
    for k in (3, 100):
        data = {"x": x, "k": np.array([k])}
        (run,) = compiled(model("TopK", data, 2, ("k",)))
        np.testing.assert_array_equal(run(data)[1], 4999 - np.arange(k).reshape(1, -1))


def test_how_many_comes_from_data() -> None:
    x = random(np.int32, 3, 100)
    (run,) = compiled(model("TopK", {"x": x, "k": np.array([1])}, 2, sizes=True, fixed=("k",)))
    for k in (0, 1, 33, 100):
        _, indices = same_on_all_threads(run, {"x": x, "k": np.array([k])})
        np.testing.assert_array_equal(indices, np.argsort(-ranked(x), axis=1, kind="stable")[:, :k])
    with pytest.raises(GuardFailed, match="of"):
        run({"x": x, "k": np.array([101])})


@pytest.mark.parametrize("dtype", TYPES)
def test_unique_elements(dtype: Any) -> None:
    data = {"x": random(dtype, 7, 60)}
    sorted_, first = compiled(*(model("Unique", data, 4, sorted=s) for s in (1, 0)))
    values, firsts, inverse, counts = np.unique(data["x"], True, True, True)
    for a, b in zip(same_on_all_threads(sorted_, data), (values, firsts, inverse.reshape(-1), counts), strict=True):
        np.testing.assert_array_equal(a, b)
    order = np.argsort(firsts)
    place = np.argsort(order)
    wanted = values[order], firsts[order], place[inverse.reshape(-1)], counts[order]
    for a, b in zip(same_on_all_threads(first, data), wanted, strict=True):
        np.testing.assert_array_equal(a, b)


# ---------------------------------------------------------------- sizes that are 0


def test_nothing_selected_and_nothing_to_select_from() -> None:
    cases = [
        ("NonZero", {"x": np.zeros((3, 5), np.float32)}, 1, (2, 0)),
        ("NonZero", {"x": np.zeros((0, 5), np.float32)}, 1, (2, 0)),
        ("Compress", {"x": np.ones((3, 5), np.float32), "c": np.zeros(15, bool)}, 1, (0,)),
        ("Unique", {"x": np.zeros((0,), np.float32)}, 4, (0,)),
        ("CumSum", {"x": np.zeros((4, 0, 3), np.float32), "axis": np.array(1)}, 1, (4, 0, 3)),
    ]
    runners = compiled(*(model(op, data, outputs, sizes=True) for op, data, outputs, _ in cases))
    for (op, data, _, shape), run in zip(cases, runners, strict=True):
        assert same_on_all_threads(run, data)[0].shape == shape, op


def test_no_boxes_and_no_better_score() -> None:
    data = {
        "boxes": np.zeros((1, 3, 4), np.float32),
        "scores": np.zeros((1, 2, 3), np.float32),
        "most": np.array([5]),
        "share": np.array([0.5], np.float32),
        "least": np.array([0.1], np.float32),
    }
    (run,) = compiled(model("NonMaxSuppression", data, sizes=True))
    assert run(data)[0].shape == (0, 3)
    empty = {**data, "boxes": np.zeros((1, 0, 4), np.float32), "scores": np.zeros((1, 2, 0), np.float32)}
    assert run(empty)[0].shape == (0, 3)


# ---------------------------------------------------------------- indices of strangers


def hostile(*shape: int) -> np.ndarray:
    rng = np.random.default_rng(3)
    return rng.choice(np.array([0, 1, -1, 5, -6, 2**31, -(2**31), 2**62, 2**63 - 1, -(2**63)]), shape)


@pytest.mark.parametrize("reduction", ["none", "add", "max"])
def test_indices_out_of_range_stay_inside(reduction: str) -> None:
    """The memory around is guarded by the runner; what is computed is what the interpreter computes."""
    x, updates = random(np.int32, 4, 5, 3), random(np.int32, 4, 9, 3, seed=1)
    cases = [
        ("ScatterElements", {"x": x, "i": hostile(4, 9, 3), "u": updates}, {"axis": 1}),
        ("ScatterND", {"x": x, "i": hostile(4, 9, 2), "u": updates}, {}),
    ]
    for op, data, attributes in cases:
        for sizes in (False, True):
            if sizes and op == "ScatterND":
                continue  # how many axes an index has is in a shape
            m = model(op, data, sizes=sizes, reduction=reduction, **attributes)
            (run,) = compiled(m)
            env = {f"{name}{k}": d for name, a in data.items() for k, d in enumerate(a.shape)} if sizes else {}
            (wanted,) = interpret(inferred(m), data, env)
            np.testing.assert_array_equal(same_on_all_threads(run, data)[0], wanted)


def test_indices_into_an_axis_without_elements_are_refused() -> None:
    data = {"x": np.zeros((0, 3), np.float32), "i": np.zeros((2, 3), np.int64), "u": np.ones((2, 3), np.float32)}
    (run,) = compiled(model("ScatterElements", data, sizes=True))
    with pytest.raises(GuardFailed, match="without elements"):
        run(data)
    nothing = {**data, "i": np.zeros((0, 3), np.int64), "u": np.ones((0, 3), np.float32)}
    assert run(nothing)[0].shape == (0, 3)


def test_indices_of_more_lines_than_there_are_are_refused() -> None:
    data = {"x": np.zeros((4, 3), np.float32), "i": np.zeros((2, 5), np.int64), "u": np.ones((2, 5), np.float32)}
    (run,) = compiled(model("ScatterElements", data, sizes=True))
    with pytest.raises(GuardFailed, match="along axis 1"):
        run(data)


def test_what_is_seen_to_lie_inside_an_axis() -> None:
    n, bounds = Size(_symbol("n")), Bounds(set())
    i, j, v = Var("i"), Var("j"), Result("v", I64)
    bounds.enter(i, Const(0, I64), n)
    bounds.enter(j, Const(1, I64), n)
    bounds.define(v, minimum(i * 4, n))
    assert bounds.surely_inside(i, n.dim)
    assert bounds.surely_inside(j - 1, n.dim)
    assert bounds.surely_inside(Size(n.dim - 1) - i, n.dim)
    assert bounds.surely_inside(cast(Call("bitand", (Const(7, U32), Const(255, U32)), U32), I64), 256)
    assert not bounds.surely_inside(i - 1, n.dim)
    assert not bounds.surely_inside(i + 1, n.dim)
    assert not bounds.surely_inside(i, n.dim - 1)
    assert not bounds.surely_inside(v, n.dim)
    assert not bounds.surely_inside(minimum(maximum(v, 0), n - 1), n.dim)
    assert bounds.surely_inside(minimum(maximum(v, 0), 6), 7)
    bounds.enter(Var("k"), i * 4, v)
    assert bounds.surely_inside(Var("k"), n.dim)
    changing = Bounds({v})
    changing.define(v, Const(0, I64))
    assert not changing.surely_inside(v, 7)


def _symbol(name: str) -> Any:
    import sympy

    return sympy.Symbol(name, integer=True, positive=True)


# ---------------------------------------------------------------- views

VIEWS = """g (float[6, N, 8] x, int64[N, 6, 2] i, float[N, 6, 2] u) => (
    float[8, 6, M] v, int64[N, 6, 3] k, float[N, 6, 10] c, float[9, 6, N] s, int64[3, Q] z, float[N, 4, 8] part,
    float[N, 8, 5] back
) <int64[1] one = {1}, int64[1] two = {2}, int64[1] five = {5}, int64[1] six = {6}, int64[1] eleven = {11},
   int64 axis = {1}, int64[1] three = {3}> {
    t = Transpose<perm = [1, 0, 2]>(x)
    best, k = TopK<axis = 2>(t, three)
    first, where = TopK<axis = 1>(t, three)
    v = Transpose<perm = [2, 1, 0]>(t)
    e = ScatterElements<axis = 2, reduction = "add">(t, i, u)
    r = Relu(e)
    c = Concat<axis = 2>(r, u)
    inner = Slice(t, one, five, one)
    z = NonZero(inner)
    sums = CumSum(t, axis)
    part = Slice(sums, one, five, one)
    tail = Slice(t, one, six, one)
    turned = Transpose<perm = [0, 2, 1]>(tail)
    back = CumSum<reverse = 1>(turned, axis)
    both = Concat<axis = 2>(best, e)
    kept = Slice(both, two, eleven, two)
    s = Transpose<perm = [2, 1, 0]>(kept)
}"""


def test_operands_and_results_that_are_views() -> None:
    m = parse(VIEWS)
    for output in m.graph.output:
        output.type.tensor_type.ClearField("shape")
    (run,) = compiled(m)
    session = onnxruntime.InferenceSession(m.SerializeToString())
    rng = np.random.default_rng(0)
    for n in (1, 4, 7):
        x = rng.standard_normal((6, n, 8)).astype(np.float32)
        x[rng.random(x.shape) < 0.3] = 0
        updates = rng.standard_normal((n, 6, 2)).astype(np.float32)
        data = {"x": x, "i": rng.integers(-8, 8, (n, 6, 2)), "u": updates}
        for a, b in zip(same_on_all_threads(run, data), session.run(None, data), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)


# ---------------------------------------------------------------- in place


def test_a_scatter_takes_the_place_of_data_that_nobody_needs() -> None:
    text = """g (float[64, 9] x, int64[3, 1] i, float[3, 9] u) => (float[64, 9] y) {
        h = Exp(x)  s = ScatterND<reduction = "add">(h, i, u)  y = Softmax(s)
    }"""
    e = emitted(ir.from_proto(onnx.shape_inference.infer_shapes(parse(text))))
    plan = take_places(e.plan)
    assert len(plan.homes) == 1
    (before,), (after,) = ([c.code for c in p.calls if c.kernel == "loops"] for p in (e.plan, plan))
    assert (before.repeat, after.repeat) == (2, 1)  # no copy
    x, u = random(np.float32, 64, 9), np.ones((3, 9), np.float32)
    data = {"x": np.clip(np.nan_to_num(x), -2, 2), "i": np.array([[5], [5], [-1]]), "u": u}
    pieces = preamble(e.target.lanes, False), preamble(e.target.lanes, True)
    moved = build([Emitted(e.fusion, plan, assemble(plan, pieces, pool_source(), slots_source()), e.target)])[0]
    (run,) = build([e])
    np.testing.assert_array_equal(same_on_all_threads(moved, data)[0], run(data)[0])


# ---------------------------------------------------------------- scalar functions

BINARY = {
    "f": ["add", "sub", "mul", "div", "min", "max", "pow", "fmod"],
    "i": ["add", "sub", "mul", "div", "min", "max", "floormod", "bitand", "bitor", "bitxor"],
}
UNARY = {"f": ["neg", "abs", "exp", "tanh", "sqrt", "floor", "reciprocal", "sign"], "i": ["neg", "abs", "bitnot"]}
COMPARING = ["lt", "le", "gt", "ge", "eq", "ne"]


def of_two(b: Builder, x: Tensor, y: Tensor, expressions: list[Expr]) -> Tensor:
    """[functions, elements] of one type."""
    result = b.result((len(expressions), x.shape[0]), expressions[0].dtype)
    with b.phase(x.shape[0]) as (i,):
        here = {Arg(0, x.dtype): at(x, i), Arg(1, y.dtype): at(y, i)}
        for k, e in enumerate(expressions):
            b.store(result, (k, i), substitute(e, dict(here)))
    return result


def every_function(node: OpNode) -> Tensor:
    x, y = node.input(0), node.input(1)
    a, c = Arg(0, x.dtype), Arg(1, y.dtype)
    kind = "f" if x.dtype in (F32, F64) else "i"
    values = [Call(fn, (a, c), x.dtype) for fn in BINARY[kind]] + [Call(fn, (a,), x.dtype) for fn in UNARY[kind]]
    conditions = [Call(fn, (a, c), BOOL) for fn in COMPARING]
    chosen = [
        Call("select", (both(*conditions[:2]), a, c), x.dtype),
        Call("select", (Call("not", (conditions[0],), BOOL), a, c), x.dtype),
    ]
    b = Builder("test")
    of_two(b, x, y, [*values, *chosen, *(cast(e, x.dtype) for e in conditions)])
    return b.tensors()[0]


def every_cast(node: OpNode) -> Tensor:
    x, y = node.input(0), node.input(1)
    b = Builder("test")
    of_two(
        b, x, y, [cast(cast(Arg(0, x.dtype), t), F64) for t in (F32, F64, I8, U8, I16, U16, I32, U32, I64, U64, BOOL)]
    )
    return b.tensors()[0]


@pytest.mark.parametrize("lower", [every_function, every_cast])
def test_scalar_functions(lower: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """What vector code computes in a map, a nest computes one by one."""
    registry.all_ops()
    monkeypatch.setitem(registry._OPS, ("", "Add"), replace(registry._OPS["", "Add"], lower=lower))
    data = [{"x": random(t, 200, seed=1), "y": random(t, 200, seed=2)} for t in TYPES]
    for d in data:
        d["y"][d["y"] == 0] = 1
    models = [model("Add", d) for d in data]
    for m in models:
        m.graph.output[0].type.tensor_type.elem_type = (
            onnx.TensorProto.DOUBLE if lower is every_cast else (m.graph.input[0].type.tensor_type.elem_type)
        )
        m.graph.output[0].type.tensor_type.ClearField("shape")
    for m, d, run in zip(models, data, compiled(*models), strict=True):
        (wanted,) = interpret(inferred(m), d)
        np.testing.assert_allclose(same_on_all_threads(run, d)[0], wanted, rtol=2e-6, err_msg=str(d["x"].dtype))


# ---------------------------------------------------------------- sanitizers


def sanitized_cases() -> list[tuple[str, Arrays, int, dict[str, Any]]]:
    x, scores = random(np.float32, 4, 5, 3), np.random.default_rng(0).random((1, 2, 70)).astype(np.float32)
    boxes = np.random.default_rng(1).random((1, 70, 4)).astype(np.float32)
    boxes[:, ::9] = random(np.float32, 1, 8, 4)
    return [
        ("ScatterElements", {"x": x, "i": hostile(4, 9, 3), "u": random(np.float32, 4, 9, 3)}, 1, {"axis": 1}),
        ("ScatterND", {"x": x, "i": hostile(4, 9, 2), "u": random(np.float32, 4, 9, 3)}, 1, {"reduction": "max"}),
        ("CumSum", {"x": x, "a": np.array(1)}, 1, {}),
        ("TopK", {"x": random(np.float32, 90, 20), "k": np.array([7])}, 2, {"axis": 0}),
        ("TopK", {"x": random(np.int64, 3, 300), "k": np.array([40])}, 2, {}),
        ("Unique", {"x": random(np.float32, 100)}, 4, {"sorted": 0}),
        ("Unique", {"x": random(np.int8, 40, 2)}, 4, {"axis": 0}),
        ("NonZero", {"x": (np.arange(9000).reshape(90, 100) % 3).astype(np.int32)}, 1, {}),
        ("Compress", {"x": x, "c": np.array([True, False, True, True])}, 1, {"axis": 0}),
        ("Det", {"x": np.random.default_rng(2).random((3, 9, 9)).astype(np.float32)}, 1, {}),
        (
            "NonMaxSuppression",
            {"b": boxes, "s": scores, "m": np.array([9]), "t": np.float32([0.3]), "l": np.float32([0.2])},
            1,
            {},
        ),
    ]


@pytest.mark.sanitize
@pytest.mark.parametrize("case", sanitized_cases(), ids=lambda case: case[0])
def test_sanitized(case: tuple[str, Arrays, int, dict[str, Any]], tmp_path: Path) -> None:
    op, data, outputs, attributes = case
    for sizes in (False, True):
        fixed = ("k", "i") if op == "ScatterND" else ("k",)
        e: Emitted = emitted(inferred(model(op, data, outputs, sizes=sizes, fixed=fixed, **attributes)))
        folder = tmp_path / str(sizes)
        folder.mkdir()
        program = build_sanitized(e.module, e.target, folder)
        (found,) = run_sanitized(program, e.module, [data])
        (run,) = build([e])
        for a, b in zip(found, run(data), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-5)
