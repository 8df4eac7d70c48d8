"""The profile: what each call computes and moves, reckoned by hand; times that fit; an artifact as well as a model."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import onnx
import pytest

from codegen.building import Emitted, emitted, parse
from graphfuse.bench.call_times import CallTime, Profile
from graphfuse.bench.limits import Level, Limits
from graphfuse.bench.profile import _difference, _Run, build_subject, profile, weight_sizes
from graphfuse.bench.report import render_profile
from graphfuse.bench.roofline import Bound, CallCost, Traffic, bound, call_costs, threads_of
from graphfuse.cli import main
from graphfuse.compiler import compile_model
from graphfuse.demo import MODEL as DEMO
from graphfuse.errors import GraphfuseError, InputError
from graphfuse.ledger import Ledger
from graphfuse.options import CompileOptions
from graphfuse.target import Target
from ops.cases import inferred

BIG = Target("x86_64", cpu="x86_64_v3", l1=32 << 10, l2=1 << 20, l3=32 << 20)
LIMITS = Limits(
    1,
    1e9,
    1e-7,
    (Level("L1", 1, 9e9, 9e9, 9e9), Level("L2", 1, 4e9, 2e9, 3e9), Level("memory", 0, 1e9, 5e8, 7e8)),
)


def costs(text: str, sizes: dict[str, int] | None = None, target: Target = BIG) -> list[CallCost]:
    e: Emitted = emitted(inferred(parse(text)), "x86_64_v3")
    return call_costs(e.plan, sizes or {}, target, 1, weight_sizes(e.plan, e.module))


def test_matrix_product() -> None:
    text = """g (float[N, 64] x, float[N, 32] r) => (float[N, 32] y)
        <float[64, 32] w = {@}, float[32] b = {@}> { a = MatMul(x, w) c = Add(a, b) d = Add(c, r) y = Relu(d) }"""
    text = text.replace("w = {@}", f"w = {{{', '.join(['0.5'] * 2048)}}}").replace(
        "{@}", f"{{{', '.join(['1'] * 32)}}}"
    )
    [found] = costs(text, {"N": 10})
    assert found.flops == 2 * 10 * 64 * 32 + 3 * 10 * 32
    assert found.traffic.weights == 4 * (64 * 32 + 32)
    assert sum(found.traffic.written.values()) == 4 * 10 * 32
    assert found.traffic.bytes == 4 * (10 * 64 + 2 * 10 * 32) + found.traffic.weights


def test_convolution_and_pooling() -> None:
    weights = ", ".join(["0.5"] * 8 * 4 * 9)
    text = f"""g (float[1, 8, 10, 10] x) => (float[1, 8, 4, 4] y) <float[8, 4, 3, 3] w = {{{weights}}}> {{
        c = Conv<group = 2>(x, w) y = MaxPool<kernel_shape = [2, 2], strides = [2, 2]>(c) }}"""
    conv, pool = [found for found in costs(text) if not found.call.label.startswith(("copy", "fill"))]
    assert conv.flops == 2 * (8 * 8 * 8) * 4 * 3 * 3
    assert pool.flops == (8 * 4 * 4) * 2 * 2
    assert sum(conv.traffic.written.values()) == 4 * 8 * 8 * 8
    assert sum(pool.traffic.read.values()) == 4 * 8 * 8 * 8


def test_a_broadcast_operand_is_read_once() -> None:
    [found] = costs("g (float[100, 64] x, float[64] b) => (float[100, 64] y) { y = Add(x, b) }")
    assert found.flops == 6400
    assert found.traffic.bytes == 4 * (2 * 6400 + 64)


def test_where_bytes_come_from() -> None:
    text = "g (float[512, 1024] x, float[512, 1024] z) => (float[512, 1024] y) { a = Softmax(x) y = Mul(a, z) }"
    text = text.replace("a = Softmax(x)", "b = Softmax<axis = 0>(x) a = Softmax<axis = 1>(b)")
    size = 4 * 512 * 1024
    roomy = costs(text)
    assert all(set(found.traffic.read) | set(found.traffic.written) == {"L3"} for found in roomy)
    tight = costs(text, target=Target("x86_64", cpu="x86_64_v3", l1=1 << 10, l2=1 << 14, l3=1 << 15))
    assert all(set(found.traffic.read) | set(found.traffic.written) == {"memory"} for found in tight)
    assert sum(found.traffic.bytes for found in tight) == sum(found.traffic.bytes for found in roomy) == 5 * size


def test_the_lowest_roof() -> None:
    call = costs("g (float[4] x) => (float[4] y) { y = Relu(x) }")[0].call

    def cost(executed: int, read: dict[str, int], written: dict[str, int]) -> CallCost:
        return CallCost(call, executed, executed, Traffic(read, written))

    assert bound(cost(10**6, {"L2": 10}, {}), LIMITS) == Bound("compute", 1e-3)
    assert bound(cost(10, {"L2": 4 * 10**6}, {"L2": 2 * 10**6}), LIMITS) == Bound("L2", 2e-3)
    assert bound(cost(10, {"L2": 10**6, "memory": 10**6}, {}), LIMITS) == Bound("memory", 1e-3)
    assert bound(cost(10, {"L2": 10}, {}), LIMITS) == Bound("overhead", 1e-7)


def test_threads_that_a_call_is_shared_among() -> None:
    small, large = (costs(f"g (float[{n}, 64] x) => (float[{n}, 64] y) {{ y = Exp(x) }}")[0].call for n in (2, 5000))
    assert threads_of(small, {}, 4) == 1
    assert threads_of(large, {}, 4) == 4


# ---------------------------------------------------------------- built and run


@pytest.fixture(scope="module")
def found() -> dict[str, object]:
    profiled, machine = profile(DEMO, threads=2, seconds=0.2, dims={"batch": 16})
    return {"profile": profiled, "machine": machine}


def test_times_fit_together(found) -> None:
    p = found["profile"]
    assert len(p.calls) > 2
    assert sum(call.share for call in p.calls) == pytest.approx(1)
    assert all(0 < call.best <= call.median for call in p.calls)
    assert sum(call.best for call in p.calls) < 2 * p.median
    assert p.best <= p.median
    assert p.threads == p.limits.threads == 2
    assert all(call.bound > 0 and call.bytes > 0 and call.nodes for call in p.calls)


def test_the_profiled_model_computes_the_same(tmp_path: Path) -> None:
    subject = build_subject(DEMO, CompileOptions(), tmp_path, lambda _: None)
    [port] = subject.bundle.manifest.inputs
    shape = [d if isinstance(d, int) else 5 for d in port.shape]
    x = np.random.default_rng(0).standard_normal(shape).astype(port.dtype)
    with subject.session as session:
        run = _Run(subject, {port.name: x}, 1)
        expected = session.run(None, {port.name: x})
        run.measure(1e-3)
        outputs = run._keep[6]
        assert [a.tobytes() for a in outputs] == [a.tobytes() for a in expected]


def test_products_have_no_clocks(tmp_path: Path) -> None:
    compiled = compile_model(DEMO, tmp_path / "demo.gf")
    assert "stamps" not in (compiled.artifact / "model.c").read_text()


def test_an_artifact(tmp_path: Path) -> None:
    artifact = compile_model(DEMO, tmp_path / "demo.gf").artifact
    of_model, _ = profile(DEMO, threads=1, seconds=0.05)
    of_artifact, _ = profile(artifact, threads=1, seconds=0.05)
    assert [call.function for call in of_artifact.calls] == [call.function for call in of_model.calls]
    assert of_artifact.note == ""
    assert [call.nodes for call in of_artifact.calls] == [call.nodes for call in of_model.calls]


def test_other_kernels_than_the_artifacts_are_told() -> None:
    ledger = Ledger()
    ledger.note("plan", "R0", "gemm: gf_a")
    ledger.note("plan", "R1", "rows, 1 pass: gf_b")
    assert _difference(["gf_a", "gf_b"], ledger) == ""
    assert "1 of 2 kernel calls" in _difference(["gf_a", "gf_c"], ledger)


# The first If takes both branches in turns, the second always the same one.
FLOW = """g (int64 n, float[A, 64] x, float[64, 64] w) => (float[A, 64] y, float[T, A, 64] z) {
    t = Constant<value = bool {1}>() u = Exp(x)
    y, z = Loop(n, t, u) <body = b (int64 i, bool p, float[P, 64] a) => (bool q, float[P, 64] r, float[P, 64] s) {
        q = Identity(p) two = Constant<value = int64 {2}>() o = Mod(i, two) e = Cast<to = 9>(o)
        r = If(e) <then_branch = c () => (float[P, 64] v) { f = Softmax(a) v = MatMul(f, w) },
                   else_branch = d () => (float[P, 64] h) { h = LogSoftmax(a) }>
        m = ReduceMax<keepdims = 0>(r) most = Constant<value = float {1e30}>() g = Greater(m, most)
        s = If(g) <then_branch = k () => (float[P, 64] j) { j = Softmax(r) },
                   else_branch = l () => (float[P, 64] o2) { o2 = Sin(r) }> }> }"""


def flow(folder: Path, n: int) -> Profile:
    onnx.save(parse(FLOW), folder / "flow.onnx")
    inputs = {"n": np.array(n), "x": np.ones((8, 64), np.float32), "w": np.ones((64, 64), np.float32)}
    found, _ = profile(folder / "flow.onnx", threads=1, seconds=0.05, inputs=inputs)
    return found


def inner(calls: Sequence[CallTime]) -> Iterator[CallTime]:
    for call in calls:
        yield from inner(call.inside)
        if not call.inside:
            yield call


def test_calls_in_bodies(tmp_path: Path) -> None:
    found = flow(tmp_path, 9)
    [loop] = [call for call in found.calls if call.inside]
    by_node = {name: call for call in inner(loop.inside) for name in call.nodes}
    runs = {name.rpartition("_")[0]: call.runs for name, call in by_node.items() if name.startswith(("S", "M", "L"))}
    assert runs["MatMul"] == 4
    assert runs["LogSoftmax"] == 5
    assert runs["Sin"] == 9
    assert runs["Mod"] == 9
    assert [call.runs for call in found.calls] == [1] * len(found.calls)
    assert sum(call.share for call in found.calls) == pytest.approx(1)
    [product] = [call for name, call in by_node.items() if name.startswith("MatMul")]
    assert product.flops == 4 * 2 * 8 * 64 * 64
    assert product.per_run == pytest.approx(product.best / 4)
    for call in (loop, *(call for call in loop.inside if call.inside)):
        assert sum(each.best for each in call.inside) <= call.median
        assert call.flops == sum(each.flops for each in call.inside)
    [idle] = [call for call in inner(loop.inside) if call.runs == 0]
    assert idle.nodes[0].startswith("Softmax")
    assert (idle.best, idle.flops, idle.bytes, idle.bound, idle.per_run, idle.reached) == (0, 0, 0, 0, 0, 0)


def test_bodies_are_shown(tmp_path: Path) -> None:
    from rich.console import Console

    found = flow(tmp_path, 5)
    console = Console(width=200, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(render_profile(found))
    text = console.export_text()
    assert "5 ×" in text
    assert text.count("not run: ") == 1
    told = json.loads(json.dumps(found.to_dict()))
    [loop] = [call for call in told["calls"] if call["inside"]]
    assert {"runs", "per_run", "reached", "inside"} <= set(loop["inside"][0])


def test_a_loop_that_does_not_run(tmp_path: Path) -> None:
    [loop] = [call for call in flow(tmp_path, 0).calls if call.inside]
    assert {call.runs for call in inner(loop.inside)} == {0}


def test_sizes_that_data_decides(tmp_path: Path) -> None:
    """What is moved follows from what the sizes were."""
    text = "g (float[N] x) => (float[M] y) { i = NonZero(x) t = Transpose(i) z = GatherND(x, t) y = Exp(z) }"
    onnx.save(parse(text), tmp_path / "m.onnx")
    x = np.zeros(1000, np.float32)
    x[:300] = 1
    found, _ = profile(tmp_path / "m.onnx", threads=1, seconds=0.05, inputs={"x": x})
    assert 300 * 4 < found.calls[-1].bytes < 1000 * 8


def test_results_that_are_lists(tmp_path: Path) -> None:
    text = "g (float[4, 6] x) => (seq(float[2, 6]) s) { two = Constant<value_int = 2>() s = SplitToSequence(x, two) }"
    onnx.save(parse(text), tmp_path / "m.onnx")
    found, _ = profile(tmp_path / "m.onnx", threads=1, seconds=0.05)
    assert len(found.calls) == 2


def test_wrong_arguments(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="seconds"):
        profile(DEMO, seconds=0)
    with pytest.raises(GraphfuseError, match="threads"):
        profile(DEMO, threads=1000, seconds=0.1)
    with pytest.raises(GraphfuseError, match="no such"):
        profile(tmp_path / "none.onnx")
    with pytest.raises(GraphfuseError, match="no such artifact"):
        profile(tmp_path / "none.gf")


# ---------------------------------------------------------------- the command


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    told = capsys.readouterr()
    return int(ended.value.code or 0), told.out, told.err


def test_command(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, "profile", str(DEMO), "--seconds", "0.1", "-t", "1", "--top", "2", "--sort", "time")
    assert code == 0
    assert "more: --top" in out
    assert "at the limits" in out
    code, out, _ = run(capsys, "profile", str(DEMO), "--seconds", "0.1", "--json")
    assert code == 0
    told = json.loads(out)
    assert {"region", "nodes", "best", "median", "flops", "bytes", "bound_by", "reached"} <= set(told["calls"][0])
    names = {node.name for node in onnx.load(DEMO).graph.node}
    assert any(node in names for call in told["calls"] for node in call["nodes"])


def test_limits_command(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, "bench", "--limits", "--json", "--threads", "1")
    assert code == 0
    [limits] = json.loads(out)["limits"]
    assert limits["flops"] > 0
    code, out, _ = run(capsys, "bench", "--limits", str(DEMO), "--threads", "1", "--seconds", "0.1")
    assert code == 0
    assert "GFLOP/s float32 multiply-add" in out
    assert "at the limits" in out


@pytest.mark.parametrize(
    "arguments, told",
    [
        (("profile", "none.onnx"), "no such"),
        (("profile", str(DEMO), "--sort", "name"), "there is no order 'name'"),
        (("profile", str(DEMO), "--top", "0"), "--top"),
        (("bench", "--limits", "none.onnx"), "no such file"),
        (("bench", "--limits", "--threads", "0"), "0 threads"),
        (("bench",), "needs a model file"),
    ],
)
def test_mistakes_are_told(capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], told: str) -> None:
    code, out, err = run(capsys, *arguments)
    assert code == 2
    assert told in err
    assert "Traceback" not in err
    assert not out


def test_hostile_names_are_harmless() -> None:
    from rich.console import Console

    profiled, _ = profile(DEMO, threads=1, seconds=0.05)
    call = profiled.calls[0]
    evil = type(call)(**{**vars(call), "nodes": ("[red]\x1b[31m\n", "b", "c"), "region": "[bold]\x07"})
    console = Console(width=100, record=True, markup=False, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(render_profile(type(profiled)(**{**vars(profiled), "calls": (evil,)})))
    text = console.export_text()
    assert "\x1b" not in text
    assert "\x07" not in text
