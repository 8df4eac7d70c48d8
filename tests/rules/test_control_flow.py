"""Models with control flow, by hand and at random: after both stages they compute the same, and no node is lost."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx_ir as ir
import onnxruntime
import pytest
from onnx import ModelProto

from control_flow import Feeds, int64, parse, random_case, run
from graphfuse.errors import UnsupportedModelError
from graphfuse.graph.bodies import captured, graphs, is_control, runs_to_the_end, scan_facts, trips, varying_axes
from graphfuse.graph.lists import results
from graphfuse.graph.origins import all_nodes, check_origins, origins
from graphfuse.importers import Imported
from graphfuse.importers.onnx import import_onnx
from graphfuse.ledger import Ledger
from graphfuse.rules import recognize, simplify

onnxruntime.set_default_logger_severity(4)
MODELS = 60
X = np.arange(6, dtype=np.float32).reshape(2, 3) / 4 - 0.5


def load(folder: Path, proto: ModelProto) -> Imported:
    (folder / "m.onnx").write_bytes(proto.SerializeToString())
    return import_onnx(folder / "m.onnx")


def rewritten(folder: Path, proto: ModelProto) -> tuple[ir.Model, Ledger]:
    """The model after both stages; every node of the user's is settled or carried by one node."""
    imported = load(folder, proto)
    model, ledger = imported.model, imported.ledger
    recognize(simplify(model, ledger), ledger)
    check_origins(model, ledger, "test")
    carried = [name for node in all_nodes(model.graph) for name in origins(node)]
    settled = [record.name for record in ledger.nodes]
    assert sorted(carried + settled) == sorted(ledger.names)
    assert all(record.reason and record.by for record in ledger.nodes)
    for body in graphs(model.graph)[1:]:
        assert not body.initializers
        assert len(set(body.outputs)) == len(body.outputs)
        assert all(value.producer() is not None and value.producer().graph is body for value in body.outputs)
    return model, ledger


def same(folder: Path, proto: ModelProto, *cases: Feeds) -> tuple[ir.Model, Ledger]:
    """Compare the rewritten model with the original on each case; both run in onnxruntime."""
    model, ledger = rewritten(folder, proto)
    ours = ir.to_proto(model)
    for feeds in cases:
        got, want = run(ours, feeds), []
        for value in run(proto, feeds):
            want += value if isinstance(value, list) else [value]
        for a, b in zip(got, want, strict=True):
            assert a.dtype == b.dtype
            assert a.shape == b.shape
            np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)
    return model, ledger


def left(model: ir.Model) -> list[str]:
    return [node.op_type for node in all_nodes(model.graph)]


# ---------------------------------------------------------------- import: shapes and facts about bodies


def control(model: ir.Model) -> list[ir.Node]:
    return [node for node in all_nodes(model.graph) if is_control(node)]


GROWS = """g (int64 n, bool c, float[2, K] x) => (float[P, Q] y, float[A, B, C] z) {
    y, z = Loop(n, c, x) <body = b (int64 i, bool p, float[P, Q] a) => (bool q, float[P, Q] d, float[R, S] s) {
        q = Identity(p) d = Concat<axis = 0>(a, x) s = Identity(x) }> }"""


def test_what_an_iteration_changes_is_a_symbol(tmp_path: Path) -> None:
    model = load(tmp_path, parse(GROWS)).model
    (loop,) = control(model)
    before = loop.attributes["body"].as_graph().inputs[2]
    assert varying_axes(before) == (0,)
    assert str(before.shape[1]) == "K"
    y, z = model.graph.outputs
    assert str(y.shape[1]) == "K"
    assert str(y.shape[0]) not in ("2", str(before.shape[0]))
    assert [str(d) for d in z.shape][1:] == ["2", "K"]
    assert captured(loop) == [model.graph.inputs[2]]
    assert not runs_to_the_end(loop)
    assert trips(loop) is None
    same(tmp_path, parse(GROWS), *({"n": int64(n), "c": np.array(c), "x": X} for n in (0, 1, 3) for c in (True, False)))


def test_a_body_with_another_rank_each_time_is_unrolled(tmp_path: Path) -> None:
    text = """g (float[2, 3] x) => (float[1, 1, 1, 2, 3] y) {
        n = Constant<value = int64 {3}>() t = Constant<value = bool {1}>()
        y = Loop(n, t, x) <body = b (int64 i, bool p, float[P, Q] a) => (bool q, float[P, Q] d) {
            q = Identity(p) k = Constant<value = int64[1] {0}>() e = Exp(a) d = Unsqueeze(e, k) }> }"""
    model, ledger = rewritten(tmp_path, parse(text))
    assert "Loop" not in left(model)
    np.testing.assert_allclose(run(ir.to_proto(model), {"x": X})[0], np.exp(np.exp(np.exp(X)))[None, None, None], 1e-5)
    assert {record.fate for record in ledger.nodes} >= {"removed"}


def test_trips_that_something_else_may_end_are_not_the_trip_count(tmp_path: Path) -> None:
    text = """g (float[2, 3] x) => (float[2, 3] y, float[P] z) {
        n = Constant<value = int64 {5}>() t = Constant<value = bool {1}>()
        y, z = Loop(n, t, x) <body = b (int64 i, bool p, float[2, 3] a) => (bool q, float[2, 3] d, float s) {
            d = Add(a, a) s = ReduceMax<keepdims = 0>(d) h = Constant<value = float {10.0}>() q = Less(s, h) }> }"""
    model, _ = same(tmp_path, parse(text), {"x": X}, {"x": X * 10}, {"x": -X - 100})
    (loop,) = control(model)
    assert trips(loop) is None
    assert not runs_to_the_end(loop)


@pytest.mark.parametrize("axes", ["[1], scan_output_axes = [-1]", "[-2], scan_input_directions = [1]"])
def test_scan_axes_and_directions(tmp_path: Path, axes: str) -> None:
    text = f"""g (float[B, 4] h, float[B, T, 4] x) => (float[B, 4] y, float[P, Q, R] z) {{
        y, z = Scan(h, x) <num_scan_inputs = 1, scan_input_axes = {axes},
            body = b (float[B, 4] a, float[B, 4] s) => (float[B, 4] d, float[B, 4] o) {{
                d = Add(a, s) e = Mul(d, d) o = Tanh(e) }}> }}"""
    rng = np.random.default_rng(0)
    h, x = rng.standard_normal((2, 4), np.float32), rng.standard_normal((2, 5, 4), np.float32)
    model, _ = same(tmp_path, parse(text), {"h": h, "x": x})
    (scan,) = control(model)
    facts = scan_facts(scan)
    assert facts.input_axes == (1,)
    assert facts.input_reverse == ("directions" in axes,)
    assert facts.output_axes == ((2,) if "output" in axes else (0,))


def test_results_of_bodies_are_their_own(tmp_path: Path) -> None:
    """A body may hand on its input, one value twice, a constant or a value of the graph around it."""
    text = """g (int64 n, bool c, float[2, 3] x) => (float[2, 3] y, float[2, 3] u, float[P, 2, 3] v, float[2] w) {
        z = Exp(x)
        y, u, v = Loop(n, c, x, z) <body = b (int64 i, bool p, float[2, 3] a, float[2, 3] e)
            => (bool p, float[2, 3] r, float[2, 3] a, float[2, 3] r) { r = Add(a, e) }>
        w = If(c) <then_branch = t () => (float[2] k) { k = Constant<value = float[2] {1., 2.}>() },
                   else_branch = o () => (float[2] l) { l = Constant<value = float[2] {3., 4.}>() }> }"""
    imported = load(tmp_path, parse(text))
    for body in graphs(imported.model.graph)[1:]:
        assert all(value.producer() is not None and value.producer().graph is body for value in body.outputs)
    model, _ = rewritten(tmp_path, parse(text))
    for n in (0, 1, 2, 5):
        for c in (True, False):
            (y, u, v, w) = run(ir.to_proto(model), {"n": int64(n), "c": np.array(c), "x": X})
            a, e, rows = X, np.exp(X), []
            for _ in range(n if c else 0):
                a, e = a + e, a
                rows.append(a)
            np.testing.assert_allclose(y, a, rtol=1e-5)
            np.testing.assert_allclose(u, e, rtol=1e-5)
            assert v.shape == (len(rows), 2, 3)
            np.testing.assert_allclose(v, np.array(rows).reshape(v.shape), rtol=1e-5)
            assert w.tolist() == ([1.0, 2.0] if c else [3.0, 4.0])


def test_nodes_in_bodies_are_converted_to_the_one_opset(tmp_path: Path) -> None:
    text = """g (bool c, float[4, 5] x) => (float[N, M] y) {
        y = If(c) <then_branch = t () => (float[N, M] a) { p = ReduceSum<axes = [1]>(x) a = Dropout<ratio = 0.5>(p) },
                   else_branch = e () => (float[N, M] b) { b = Softmax<axis = 0>(x) }> }"""
    x = np.random.default_rng(0).standard_normal((4, 5), np.float32)
    same(tmp_path, parse(text, 11), *({"c": np.array(c), "x": x} for c in (True, False)))


# ---------------------------------------------------------------- the rules on whole models


def test_an_if_that_squeezes_is_taken_to_squeeze(tmp_path: Path) -> None:
    """What torch.squeeze(x, 1) exports to: the condition is a size, and the ranks of the branches differ."""
    text = """g (float[N, K, 3] x) => (float[N, 3] y) {
        s = Shape(x) k = Constant<value = int64[1] {1}>() d = Gather(s, k) c = Equal(d, k)
        z = If(c) <then_branch = t () => (float[N, 3] a) { m = Constant<value = int64[1] {1}>() a = Squeeze(x, m) },
                   else_branch = e () => (float[N, K, 3] b) { b = Identity(x) }>
        y = Relu(z) }"""
    model, ledger = same(tmp_path, parse(text), {"x": X.reshape(2, 1, 3)})
    assert left(model) == ["Squeeze", "Relu"]
    assert any("taken to be 1" in note.text for note in ledger.notes)
    with pytest.raises(onnxruntime.capi.onnxruntime_pybind11_state.Fail):
        run(ir.to_proto(model), {"x": X.reshape(1, 2, 3)})


def test_a_value_that_only_a_body_reads_stays(tmp_path: Path) -> None:
    text = """g (bool c, int64 n, float[2, 3] x) => (float[2, 3] y, float[2, 3] z) {
        u = Exp(x) v = Identity(u) w = Neg(v)
        y = If(c) <then_branch = t () => (float[2, 3] a) { p = Add(v, x) a = Mul(p, w) },
                   else_branch = e () => (float[2, 3] b) { b = Identity(w) }>
        z = Loop(n, c, x) <body = o (int64 i, bool p, float[2, 3] q) => (bool r, float[2, 3] s) {
            r = Identity(p) f = If(p) <then_branch = t2 () => (float[2, 3] a2) { a2 = Add(q, u) },
                                       else_branch = e2 () => (float[2, 3] b2) { b2 = Sub(q, u) }> s = Neg(f) }> }"""
    cases = [{"c": np.array(c), "n": int64(n), "x": X} for c in (True, False) for n in (0, 1, 4)]
    same(tmp_path, parse(text), *cases)


def test_the_ledger_knows_what_became_of_bodies(tmp_path: Path) -> None:
    text = """g (float[2, 3] x, int64 n) => (float[2, 3] y) {
        c = Constant<value = bool {1}>()
        u = If(c) <then_branch = t () => (float[2, 3] a) { a = Exp(x) },
                   else_branch = e () => (float[2, 3] b) { h = Neg(x) b = If(c) <
                        then_branch = t2 () => (float[2, 3] k) { k = Abs(h) },
                        else_branch = e2 () => (float[2, 3] l) { l = Sqrt(h) }> }>
        y = Loop(n, c, u) <body = o (int64 i, bool p, float[2, 3] q) => (bool r, float[2, 3] s) {
            r = Identity(p) w = Sin(x) s = Add(q, w) }> }"""
    model, ledger = same(tmp_path, parse(text), {"x": np.abs(X), "n": int64(3)})
    fates = {ledger.op_type(record.name): record for record in ledger.nodes}
    assert fates["If"].by == "simplify_if"
    assert "never runs" in fates["Neg"].reason
    assert [node.op_type for node in model.graph] == ["Exp", "Sin", "Loop"]
    assert any(note.text.startswith("computed once, in front of") for note in ledger.notes)


def test_an_unused_control_flow_node_goes_with_all_its_nodes(tmp_path: Path) -> None:
    text = """g (bool c, float[2, 3] x) => (float[2, 3] y) { u = Exp(x)
        v = If(c) <then_branch = t () => (float[2, 3] a) { p = Neg(u) a = Abs(p) },
                   else_branch = e () => (float[2, 3] b) { b = Identity(u) }> y = Relu(x) }"""
    model, _ = same(tmp_path, parse(text), {"c": np.array(True), "x": X})
    assert left(model) == ["Relu"]


# ---------------------------------------------------------------- sequences and optionals


def test_a_sequence_as_output_is_its_tensors(tmp_path: Path) -> None:
    text = """g (float[2, 3] x) => (seq(float[2, 3]) y, float[2, 3] z) {
        z = Exp(x) y = SequenceConstruct(x, z, z) }"""
    model, _ = same(tmp_path, parse(text), {"x": X})
    assert [value.name for value in model.graph.outputs] == ["y.0", "y.1", "y.2", "z"]
    assert results(model) == {"y": ("y.0", "y.1", "y.2"), "z": None}


@pytest.mark.parametrize("where", ["", ", first"])
def test_a_loop_that_carries_a_sequence(tmp_path: Path, where: str) -> None:
    """One that appends is what the loop stacks, any other is spelled out."""
    text = """g (float[2, 3] x) => (float[P, Q] y, int64 m) {
        n = Constant<value = int64 {20}>() t = Constant<value = bool {1}>() s = SequenceEmpty()
        first = Constant<value = int64 {0}>()
        u = Loop(n, t, s) <body = b (int64 i, bool c, seq(float[P, Q]) a) => (bool d, seq(float[P, Q]) e) {
            d = Identity(c) f = Cast<to = 1>(i) g = Add(x, f) e = SequenceInsert(a, g%s) }>
        y = ConcatFromSequence<axis = 1>(u) m = SequenceLength(u) }"""
    model, _ = same(tmp_path, parse(text % where), {"x": X})
    assert not any(op.startswith("Sequence") for op in left(model))
    assert ("Loop" in left(model)) == (not where)


def test_a_sequence_as_input_is_refused_with_a_remedy(tmp_path: Path) -> None:
    text = "g (seq(float[2]) x) => (float[2] y) { k = Constant<value = int64 {0}>() y = SequenceAt(x, k) }"
    with pytest.raises(UnsupportedModelError, match="SequenceConstruct"):
        load(tmp_path, parse(text))


def test_an_optional_input_is_taken_as_given(tmp_path: Path) -> None:
    text = """g (optional(float[6]) x) => (float[6] y, bool h) {
        h = OptionalHasElement(x)
        y = If(h) <then_branch = t () => (float[6] a) { g = OptionalGetElement(x) a = Exp(g) },
                   else_branch = e () => (float[6] b) {
            b = Constant<value = float[6] {0., 0., 0., 0., 0., 0.}>() }>
        }"""
    model, ledger = rewritten(tmp_path, parse(text))
    y, h = run(ir.to_proto(model), {"x": X.reshape(6)})
    np.testing.assert_allclose(y, np.exp(X.reshape(6)), rtol=1e-6)
    assert h
    assert any("always takes it" in note.text for note in ledger.notes)


# ---------------------------------------------------------------- at random


@pytest.mark.parametrize("seed", range(MODELS))
def test_random_control_flow_is_the_same(tmp_path: Path, seed: int) -> None:
    proto, cases = random_case(seed)
    same(tmp_path, proto, *cases)
