"""Workers, one for each runtime: equal turns; one that crashes, hangs or is missing costs only its cell."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

import zoo
from graphfuse.bench import peers
from graphfuse.bench.driver import Worker, WorkerLost, interleave
from graphfuse.bench.record import Cell, Report, here, load_report
from graphfuse.bench.suite import Settings, Spec, check_runtimes, measure
from graphfuse.bench.timing import turn
from graphfuse.bench.torch_network import constants_to_initializers
from graphfuse.bench.worker import digest, load_arrays, save_arrays
from graphfuse.errors import InputError

ROOT = Path(__file__).resolve().parents[1]
# Runtimes that misbehave, as modules that a worker finds on its path.
RUNTIME = """
from __future__ import annotations
import os, sys, time
from graphfuse.bench.peers import Ready
from graphfuse.errors import InputError

def version():
    {version}
    return "1"

def prepare(subject):
    import onnxruntime
    print("a library prints this")
    session = onnxruntime.InferenceSession(str(subject.model), providers=["CPUExecutionProvider"])
    inputs, names = dict(subject.inputs), list(subject.outputs)
    calls = []
    def call():
        calls.append(0)
        {call}
        return session.run(names, inputs)
    {prepare}
    return Ready(call, lambda values: {{name: {output} for name, value in zip(names, values)}})
"""
KINDS: dict[str, dict[str, str]] = {
    "sound": {},
    "crashing": {"call": "len(calls) > 4 and os.abort()"},
    "crashing_early": {"prepare": "print('the last words', file=sys.stderr); os._exit(3)"},
    "missing": {"version": "import a_package_that_nobody_has"},
    "refusing": {"prepare": "raise InputError('not this model')"},
    "raising": {"prepare": "raise KeyError('what a runtime stumbles over')"},
    "wrong": {"output": "value * 1.01"},
    "changing": {"output": "value + 1e-7 * len(calls)"},
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runtimes")
    for kind, parts in {**KINDS, "hanging": {"prepare": "time.sleep(60)"}}.items():
        filled = {"version": "", "prepare": "", "call": "", "output": "value", **parts}
        text = RUNTIME.format(**{key: value or "pass" for key, value in filled.items()})
        (folder / f"runtime_{kind}.py").write_text(text)
    return folder


@pytest.fixture(scope="module")
def report(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Report:
    """The MLP on graphfuse, onnxruntime and every misbehaving runtime, on 1 and 2 threads."""
    path = zoo.path("mlp")
    inputs = zoo.inputs(onnx.load(path), batch=2)
    runtimes = ("graphfuse", "onnxruntime", *KINDS)
    modules = {kind: f"runtime_{kind}" for kind in KINDS}
    work = tmp_path_factory.mktemp("work")
    settings = Settings(work, runtimes, (1, 2), seconds=0.03, rounds=3, prepare_seconds=20, modules=modules)
    found = here(settings.seconds, settings.rounds)
    saved = work / "results.json"
    measure([Spec("mlp", lambda: (path, inputs), path=(folder,))], settings, found, keep=lambda: found.save(saved))
    return load_report(saved)


def cell(report: Report, runtime: str, threads: int = 1) -> Cell:
    return report.cases[0].row(threads)[runtime]


@pytest.mark.parametrize("runtime", ["graphfuse", "onnxruntime", "sound"])
def test_a_sound_runtime_has_every_figure(report: Report, runtime: str) -> None:
    for threads in (1, 2):
        found = cell(report, runtime, threads)
        assert (found.status, found.reason) == ("ok", "")
        assert found.best_ms is not None
        assert found.median_ms is not None
        assert 0 < found.best_ms <= found.median_ms
        assert found.calls >= 9
        assert len(found.rounds_ms) == 3
        assert min(found.rounds_ms) == found.best_ms
        assert found.error is not None
        assert found.error < 1e-5
        assert found.load_s is not None
        assert found.peak_bytes is None or found.base_bytes is None or found.peak_bytes > 1e7
        assert found.stable


@pytest.mark.parametrize(
    "runtime, status, reason",
    [
        ("crashing", "lost", "SIGABRT"),
        ("crashing_early", "lost", "exit code 3: the last words"),
        ("missing", "missing", "a_package_that_nobody_has"),
        ("refusing", "unsupported", "not this model"),
        ("raising", "failed", "KeyError"),
        ("wrong", "wrong", "off by 0.01"),
    ],
)
def test_one_that_misbehaves_costs_its_cell(report: Report, runtime: str, status: str, reason: str) -> None:
    for threads in (1, 2):
        found = cell(report, runtime, threads)
        assert found.status == status
        assert reason in found.reason
        assert found.best_ms is None


def test_one_that_hangs_is_ended(folder: Path, tmp_path: Path) -> None:
    modules, said = {"hanging": "runtime_hanging"}, here(1, 1)
    settings = Settings(tmp_path, ("hanging",), (1,), prepare_seconds=2, modules=modules, facts=False)
    measure(
        [Spec("mlp", lambda: (zoo.path("mlp"), {"x": np.zeros((1, 64), np.float32)}), path=(folder,))], settings, said
    )
    assert (cell(said, "hanging").status, cell(said, "hanging").reason) == ("lost", "no answer in 2 seconds")


def test_what_changes_from_run_to_run_is_seen(report: Report) -> None:
    assert cell(report, "changing").stable is False
    assert report.cases[0].identical() is True


def test_facts_of_the_case(report: Report) -> None:
    case = report.cases[0]
    assert case.reference == "float64 onnxruntime"
    assert case.inputs == {"x": "float32 2×64"}
    assert case.compile_s is not None
    assert case.recompile_s is not None
    assert case.verify_s is not None
    assert 0 < case.verify_s < case.recompile_s < case.compile_s
    assert cell(report, "graphfuse").arena_bytes is not None
    assert case.activation_bytes is None or 0 <= case.activation_bytes < 1e7
    assert case.best_peer(1) is cell(report, "onnxruntime")


def test_rows_that_are_there_are_not_measured_again(report: Report, tmp_path: Path) -> None:
    def load() -> tuple[Path, Mapping[str, np.ndarray[Any, Any]]]:
        raise AssertionError("loaded")

    measure([Spec("mlp", load)], Settings(tmp_path, ("graphfuse", "onnxruntime"), (1, 2)), report)


def test_a_model_that_cannot_be_had_is_told_and_left_out(tmp_path: Path) -> None:
    def load() -> tuple[Path, Mapping[str, np.ndarray[Any, Any]]]:
        raise OSError("no network")

    said: list[str] = []
    report = here(1, 1)
    measure([Spec("model", load)], Settings(tmp_path, ("graphfuse",), (1,)), report, progress=said.append)
    assert said == ["model: left out: no network"]
    assert report.cases == []


def test_an_interrupt_leaves_what_was_measured(tmp_path: Path) -> None:
    def interrupted() -> tuple[Path, Mapping[str, np.ndarray[Any, Any]]]:
        raise KeyboardInterrupt

    inputs = {"x": np.zeros((1, 64), np.float32)}
    specs = [Spec("mlp", lambda: (zoo.path("mlp"), inputs)), Spec("other", interrupted)]
    settings = Settings(tmp_path, ("onnxruntime",), (1,), seconds=0.01, rounds=1, facts=False)
    report, saved = here(0.01, 1), tmp_path / "r.json"
    with pytest.raises(KeyboardInterrupt):
        measure(specs, settings, report, keep=lambda: report.save(saved))
    assert load_report(saved).cases[0].row(1)["onnxruntime"].best_ms is not None


def test_a_worker_holds_its_runtime_alone() -> None:
    code = (
        "import sys, graphfuse.bench.worker\nprint([m for m in ('onnx', 'onnxruntime', 'sympy') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_from_the_command_line(tmp_path: Path) -> None:
    """The program of `make bench`: results, picture and tables; the tables again; what it does not know."""

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, str(ROOT / "bench" / "run.py"), "--output", str(tmp_path / "out" / "r.json")]
        return subprocess.run([*command, *arguments], capture_output=True, text=True, check=False, cwd=tmp_path)

    done = run("--models", "mlp", "--peers", "onnxruntime", "--quick", "--seconds", "0.03")
    assert done.returncode == 0, done.stderr
    assert "mlp: 2 threads, preparing onnxruntime" in done.stderr
    report = load_report(tmp_path / "out" / "r.json")
    assert report.cases[0].ratio(2) is not None
    assert "<svg" in (tmp_path / "out" / "r.svg").read_text()
    assert "geometric mean of 1 ratios" in done.stdout
    assert run("--show").stdout == done.stdout
    assert "there is no model 'x'" in run("--models", "x").stderr
    assert "there is no peer 'y'" in run("--peers", "y").stderr


# ---------------------------------------------------------------- turns


class Recorder(Worker):
    """Answers at once, without a process."""

    def __init__(self, name: str, order: list[str], fails_at: int = 99) -> None:
        self.name, self.order, self.fails_at = name, order, fails_at

    def ask(self, request: Mapping[str, Any], seconds: float) -> dict[str, Any]:
        self.order.append(self.name)
        if self.order.count(self.name) == self.fails_at:
            raise WorkerLost("gone")
        return {"times": [request["seconds"]]}


def test_everyone_works_once_a_round_in_changing_order() -> None:
    order: list[str] = []
    times, lost = interleave({name: Recorder(name, order) for name in "abcd"}, seconds=2.0, rounds=8)
    rounds = [tuple(order[k : k + 4]) for k in range(0, 32, 4)]
    assert all(sorted(each) == list("abcd") for each in rounds)
    assert len(set(rounds)) > 3
    assert times == {name: [[0.25]] * 8 for name in "abcd"}
    assert lost == {}


def test_a_lost_worker_is_not_asked_again() -> None:
    order: list[str] = []
    workers = {"a": Recorder("a", order), "b": Recorder("b", order, fails_at=2)}
    times, lost = interleave(workers, seconds=1.0, rounds=5)
    assert lost == {"b": "gone"}
    assert (order.count("a"), order.count("b")) == (5, 2)
    assert len(times["b"]) == 1


def test_a_turn_warms_up_and_keeps_to_its_limits() -> None:
    calls: list[int] = []
    assert len(turn(lambda: calls.append(0), seconds=0.0, warm=2, least=3)) == 3
    assert len(calls) == 5
    assert len(turn(lambda: calls.append(0), seconds=5.0, warm=0, least=1, most=7)) == 7


# ---------------------------------------------------------------- peers and arrays


def test_the_registry_is_the_folder() -> None:
    counted = ["ncnn", "onnxruntime", "openvino", "torch_compile_freezing"]
    assert [name for name in peers.names() if peers.vies(name)] == counted
    for name in peers.names():
        peer = peers.find(name)
        assert peer.PACKAGES
        assert 0 < peer.TOLERANCE < 1
        assert peer.__doc__


def test_an_unknown_peer_is_refused() -> None:
    assert check_runtimes(["onnxruntime", "graphfuse"]) == ("graphfuse", "onnxruntime")
    with pytest.raises(InputError, match="there is no peer 'tensorflow'"):
        check_runtimes(["tensorflow"])


def test_weights_in_nodes_are_weights_for_the_converter() -> None:
    text = """<ir_version: 8, opset_import: ["": 18]> g (float[2] x) => (float[2] y) {
        w = Constant<value = float[2] {1., 2.}>() k = Constant<value_float = 3.0>() a = Mul(x, w) y = Mul(a, k) }"""
    model = onnx.parser.parse_model(" ".join(text.split()))
    constants_to_initializers(model.graph)
    assert [(tensor.name, *tensor.dims) for tensor in model.graph.initializer] == [("w", 2)]
    assert [node.op_type for node in model.graph.node] == ["Constant", "Mul", "Mul"]
    onnx.checker.check_model(model)


def test_arrays_survive_the_file_whatever_their_names(tmp_path: Path) -> None:
    arrays = {"a/b:0": np.arange(3), "": np.array(2.5), "../x": np.zeros((0, 2), np.float32)}
    save_arrays(tmp_path / "a.npz", arrays)
    again = load_arrays(tmp_path / "a.npz")
    assert list(again) == list(arrays)
    assert digest(again) == digest(arrays)
    assert digest({**again, "": np.array(2.5000001)}) != digest(arrays)
