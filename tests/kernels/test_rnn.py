"""The recurrent kernel on every kind of layer, size and split, beside the interpreter's float64 sums."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
from onnx import helper, numpy_helper

from codegen.building import Emitted, GuardFailed, Runner, build, emitted, fused
from codegen.sanitizing import build_sanitized, run_sanitized
from graphfuse.artifact.fused_model import fused_model
from graphfuse.compiler import Job, run_stages
from graphfuse.ops.tensor import Opaque
from graphfuse.options import CompileOptions
from graphfuse.plan.site import KernelCode
from ops.cases import inferred
from ops.running import interpret

GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}
Arrays = dict[str, np.ndarray]


def layer(
    op: str,
    steps: int | str,
    items: int | str,
    inputs: int,
    units: int,
    *,
    directions: int = 1,
    dtype: Any = np.float32,
    known: bool = True,
    states: bool = False,
    lengths: bool = False,
    outputs: Sequence[str] = ("y", "h"),
    **attributes: Any,
) -> onnx.ModelProto:
    """A model of one layer with random weights; sizes given by name are open."""
    random = np.random.default_rng(len(op) + units)
    wide, d, reach = GATES[op] * units, directions, 1 / np.sqrt(units)
    element = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    shapes = {"w": (d, wide, inputs), "r": (d, wide, units), "b": (d, 2 * wide)}
    weights = {name: random.uniform(-reach, reach, shape).astype(dtype) for name, shape in shapes.items()}
    given = [helper.make_tensor_value_info("x", element, [steps, items, inputs])]
    names = ["x", "w", "r", "b"]
    if not known:
        given += [helper.make_tensor_value_info(name, element, shape) for name, shape in shapes.items()]
    if lengths or states:
        names.append("n" if lengths else "")
    if lengths:
        given.append(helper.make_tensor_value_info("n", onnx.TensorProto.INT32, [items]))
    if states:
        own = ["h0", "c0"][: 2 if op == "LSTM" else 1]
        names += own
        given += [helper.make_tensor_value_info(name, element, [d, items, units]) for name in own]
    if directions == 2:
        attributes["direction"] = "bidirectional"
    results = [helper.make_tensor_value_info(name, element, None) for name in outputs if name]
    node = helper.make_node(op, names, list(outputs), name="layer", hidden_size=units, **attributes)
    constants = [numpy_helper.from_array(w, name) for name, w in weights.items()] if known else []
    graph = helper.make_graph([node], "g", given, results, constants)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 22)], ir_version=10)


def values(model: onnx.ModelProto, seed: int = 0, **sizes: int) -> Arrays:
    """Random inputs; lengths between 0 and the number of steps."""
    random = np.random.default_rng(seed)
    found: Arrays = {}
    for value in model.graph.input:
        shape = [sizes.get(d.dim_param, d.dim_value) for d in value.type.tensor_type.shape.dim]
        dtype = helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type)
        if dtype == np.int32:
            found[value.name] = random.integers(0, len(found["x"]) + 1, shape).astype(dtype)
        else:
            found[value.name] = random.uniform(-1, 1, shape).astype(dtype)
    return found


def wanted(model: onnx.ModelProto, inputs: Arrays, **sizes: int) -> list[np.ndarray]:
    return interpret(inferred(model), inputs, sizes)


def check(run: Runner, model: onnx.ModelProto, inputs: Arrays, what: str = "", **sizes: int) -> list[np.ndarray]:
    """The same as the interpreter, and the same bits from one thread, two and three."""
    actual = run(inputs)
    for a, w in zip(actual, wanted(model, inputs, **sizes), strict=True):
        np.testing.assert_allclose(a, w, rtol=1e-5, atol=2e-6 if a.dtype == np.float32 else 1e-13, err_msg=what)
    for threads in (2, 3):
        assert [a.tobytes() for a in actual] == [b.tobytes() for b in run(inputs, threads=threads)], what
    return actual


def code_of(e: Emitted) -> KernelCode:
    (found,) = (call.code for call in e.plan.calls if call.kernel == "rnn")
    return found


# ---------------------------------------------------------------- sizes

SIZES = [
    (op, steps, items, units)
    for op in GATES
    for steps, items, units in [(1, 1, 1), (2, 5, 3), (9, 2, 17), (9, 1, 100), (2, 5, 100), (3, 9, 130), (2, 16, 33)]
]


@pytest.mark.parametrize("cpu", ["native", "x86_64_v3", "x86_64"])
def test_odd_sizes(cpu: str) -> None:
    models = [layer(op, steps, items, 3, units, directions=1 + units % 2) for op, steps, items, units in SIZES]
    runners = build([emitted(inferred(m), cpu) for m in models])
    for size, model, run in zip(SIZES, models, runners, strict=True):
        check(run, model, values(model), str(size))


def test_sizes_known_only_at_run_time() -> None:
    """One library for every number of steps and items, also none."""
    forms: list[dict[str, Any]] = [
        {"op": op, "units": units, "directions": d, "lengths": lengths}
        for op in GATES
        for units, d, lengths in [(17, 1, False), (130, 1, True), (33, 2, True)]
    ]
    models = [layer(f.pop("op"), "T", "B", 4, f.pop("units"), states=True, **f) for f in forms]
    runners = build([emitted(inferred(m)) for m in models])
    for model, run in zip(models, runners, strict=True):
        for steps, items in [(1, 1), (5, 2), (2, 11), (0, 2), (3, 0)]:
            check(run, model, values(model, T=steps, B=items), T=steps, B=items)


@pytest.mark.parametrize("op", GATES)
def test_no_steps_leave_the_states_as_they_are(op: str) -> None:
    model = layer(op, "T", 2, 3, 5, states=True)
    inputs = values(model, T=0)
    (run,) = build([emitted(inferred(model))])
    y, h = run(inputs)
    assert y.shape == (0, 1, 2, 5)
    np.testing.assert_array_equal(h, inputs["h0"])


def test_double_precision() -> None:
    models = [layer(op, 7, 3, 4, units, dtype=np.float64, directions=2) for op in GATES for units in (17, 130)]
    for model, run in zip(models, build([emitted(inferred(m)) for m in models]), strict=True):
        check(run, model, values(model))


# ---------------------------------------------------------------- how the work is shared


def test_large_steps_are_shared_and_small_ones_are_not() -> None:
    small, large = (code_of(emitted(inferred(layer("LSTM", 6, 4, 4, units)))) for units in (32, 256))
    assert (small.repeat, small.rows) == (1, 4)
    assert (large.repeat, large.rows) == (6 + 2, 1)
    assert large.columns > 1


def test_a_gated_unit_without_linear_reset_takes_two_phases() -> None:
    codes = [
        code_of(emitted(inferred(layer("GRU", 6, 1, 4, 256, outputs=("y",), linear_before_reset=linear))))
        for linear in (0, 1)
    ]
    assert [code.repeat for code in codes] == [2 * 6 + 1, 6 + 1]


def test_weights_that_come_at_run_time() -> None:
    models = [layer(op, 4, 3, 5, units, known=False, directions=2) for op in GATES for units in (9, 40)]
    for model, run in zip(models, build([emitted(inferred(m)) for m in models]), strict=True):
        for seed in (0, 1):
            check(run, model, values(model, seed))


def test_equal_layers_share_a_kernel() -> None:
    """Two layers of the same sizes, one on the other, are one product kernel and one recurrence."""
    model = layer("LSTM", 5, 1, 24, 24, outputs=("y",))
    second = [
        helper.make_node("Squeeze", ["y", "one"], ["x2"], name="between"),
        helper.make_node("LSTM", ["x2", "w", "r", "b"], ["y2"], name="second", hidden_size=24),
    ]
    model.graph.node.extend(second)
    model.graph.initializer.append(numpy_helper.from_array(np.array([1]), "one"))
    model.graph.output[0].name = "y2"
    module = emitted(inferred(model)).module
    assert len([name for name in module.kernels if "rnn" in name]) == 1
    assert len(module.kernels) == 2


# ---------------------------------------------------------------- values that are no numbers


@pytest.mark.parametrize("op", GATES)
def test_not_a_number_stays_with_its_item(op: str) -> None:
    model = layer(op, 6, 4, 3, 19, states=True, lengths=True)
    (run,) = build([emitted(inferred(model))])
    inputs = values(model)
    inputs["n"][:] = (6, 6, 2, 6)
    inputs["x"][3, 1, 0] = np.nan
    inputs["x"][4, 2] = np.nan  # behind the end of its sequence
    inputs["x"][0, 3] = np.inf
    y, h = check(run, model, inputs)
    assert np.isfinite(y[:, :, 0]).all()
    assert np.isfinite(y[:, :, 2]).all()
    assert np.isfinite(y[:3, :, 1]).all()
    assert np.isnan(y[3:, :, 1]).all() or op != "RNN"
    assert np.isnan(h[0, 1]).any()


# ---------------------------------------------------------------- what is refused


def test_sizes_that_do_not_fit_are_refused_at_run_time() -> None:
    model = layer("GRU", "T", "B", 3, 5, states=True)
    model.graph.input[1].type.tensor_type.shape.dim[1].dim_param = "C"
    (run,) = build([emitted(inferred(model))])
    with pytest.raises(GuardFailed, match="must be equal"):
        run(values(model, T=2, B=3, C=2))
    check(run, model, values(model, T=2, B=3, C=3), T=2, B=3, C=3)


def test_results_of_one_layer_are_one_region() -> None:
    fusion = fused(inferred(layer("LSTM", 3, 2, 4, 5, outputs=("y", "h", "c"))))
    regions = [r for r in fusion.regions if r.kind == "opaque"]
    assert [[t.prim.index for t in r.outputs if isinstance(t.prim, Opaque)] for r in regions] == [[0, 1, 2]]
    last = fused(inferred(layer("LSTM", 3, 2, 4, 5, outputs=("", "", "c")))).regions[-1]
    assert [t.shape for t in last.outputs] == [(1, 2, 5)]


def test_the_account_of_a_layer(tmp_path: Path) -> None:
    """It ends with its recurrence, which no neighbour joins; every part and the edge between them are on record."""
    model = layer("LSTM", 5, "B", 3, 20, outputs=("y",))
    model.graph.node.append(helper.make_node("Relu", ["y"], ["z"], name="after"))
    model.graph.output[0].name = "z"
    path = tmp_path / "layer.onnx"
    onnx.save(model, path)
    job = run_stages(Job(path, CompileOptions()), stop_after="plan")
    record = job.ledger.record("layer")
    assert record is not None
    assert (record.fate, record.into) == ("alone", "R1")
    assert "the rest of it is in R0" in record.reason
    notes = {note.subject: note.text for note in job.ledger.notes if note.stage == "plan"}
    assert notes["R0"].startswith("gemm")
    assert notes["R1"].startswith("recurrence of 20 units, 4 gates")
    edges = {(e.producer, e.consumer): e.condition for e in job.ledger.edges}
    assert edges["layer", "layer"] == "a recurrence is a loop nest of its own"
    assert edges["layer", "after"] == "the producer is a loop nest of its own"


def test_the_fused_model_keeps_the_standard_op(tmp_path: Path) -> None:
    model = layer("GRU", 5, 2, 3, 20, directions=2)
    path = tmp_path / "layer.onnx"
    onnx.save(model, path)
    job = run_stages(Job(path, CompileOptions()), stop_after="fuse")
    standard = ir.to_proto(fused_model(job.results["fuse"], job.results["recognize"]))
    assert [node.op_type for function in standard.functions for node in function.node] == ["GRU"]
    inputs = values(model)
    both = [onnxruntime.InferenceSession(m.SerializeToString()).run(None, inputs) for m in (model, standard)]
    for a, b in zip(*both, strict=True):
        np.testing.assert_array_equal(a, b)


def test_equal_text_for_equal_models() -> None:
    model = layer("GRU", "T", 2, 4, 40, directions=2)
    assert emitted(inferred(model)).module.source() == emitted(inferred(model)).module.source()


@pytest.mark.sanitize
@pytest.mark.parametrize("op", GATES)
def test_sanitized(op: str, tmp_path: Any) -> None:
    for k, (units, known) in enumerate([(5, True), (130, True), (35, False)]):
        model = layer(op, "T", "B", 3, units, states=True, lengths=True, directions=2, known=known)
        e = emitted(inferred(model))
        runs = [values(model, T=steps, B=items) for steps, items in [(3, 5), (1, 1), (0, 2)]]
        folder = tmp_path / str(k)
        folder.mkdir()
        program = build_sanitized(e.module, e.target, folder)
        for inputs, outputs in zip(runs, run_sanitized(program, e.module, runs), strict=True):
            steps, items, _ = inputs["x"].shape
            for a, w in zip(outputs, wanted(model, inputs, T=steps, B=items), strict=True):
                np.testing.assert_allclose(a, w, rtol=1e-5, atol=2e-6)
