"""Loops that never end: Ctrl-C ends them, wherever they run, and nothing is left behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest

from control_flow import parse
from graphfuse.compiler import compile_model
from graphfuse.runtime.interrupt import interruptible
from graphfuse.runtime.session import Session
from handmade import warm_options

# Endless where c is true; where it is false, y is x.
ENDLESS = """g (bool c, float[A, B] x) => (float[A, B] y) { one = Constant<value = float {1.0}>()
    y = Loop("", c, x) <body = b (int64 i, bool p, float[P, Q] a) => (bool q, float[R, S] r) {
        r = Add(a, one) m = ReduceMax<keepdims = 0>(r) h = Constant<value = float {-1.0}>() q = Greater(m, h) }> }"""
# So often that it comes to the same.
OFTEN = """g (int64 n, float[A, B] x) => (float[A, B] y) { t = Constant<value = bool {1}>()
    y = Loop(n, t, x) <body = b (int64 i, bool p, float[P, Q] a) => (bool q, float[R, S] r) {
        q = Identity(p)
        m = Constant<value = int64 {9}>()
        r = Loop(m, p, a) <body = d (int64 j, bool e, float[J, K] f) => (bool g, float[J, K] h) {
            g = Identity(e) h = Sin(f) }> }> }"""
COUNTED = """g (float[T, 4] x, float[4] h) => (float[4] y) {
    y = Scan(h, x) <num_scan_inputs = 1, body = b (float[4] a, float[4] s) => (float[4] r) { r = Add(a, s) }> }"""
X = np.zeros((2, 3), np.float32)
FEEDS = {"endless": {"c": np.array(True), "x": X}, "often": {"n": np.array(1 << 60), "x": X}}
SHORT = {"endless": {"c": np.array(False), "x": X}, "often": {"n": np.array(2), "x": X}}
PATIENCE = 60.0  # seconds until a test is given up, on a machine with much else to do


@pytest.fixture(scope="module")
def artifacts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("loops")
    options = warm_options(folder / "cache", cflags=("-O1",), verify=False)
    made = {}
    for name, text in (("endless", ENDLESS), ("often", OFTEN), ("counted", COUNTED)):
        onnx.save(parse(text), folder / f"{name}.onnx")
        made[name] = compile_model(folder / f"{name}.onnx", folder / f"{name}.gf", options).artifact
    for name, feeds in FEEDS.items():
        for port, array in feeds.items():
            np.save(folder / f"{name}.{port}.npy", array)
    return made


def interrupted(work: Callable[[], object]) -> float:
    """Seconds from the signal to the exception."""
    sent: list[float] = []

    def send() -> None:
        sent.append(time.perf_counter())
        os.kill(os.getpid(), signal.SIGINT)

    timer = threading.Timer(0.2, send)
    timer.start()
    with pytest.raises(KeyboardInterrupt):
        work()
    timer.join()
    return time.perf_counter() - sent[0]


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("name", FEEDS)
def test_a_session_answers_and_works_on(artifacts: dict[str, Path], name: str, threads: int) -> None:
    with Session(artifacts[name], threads) as session:
        expected = session.run(None, SHORT[name])[0]
        for _ in range(2):
            assert interrupted(lambda: session.run(None, FEEDS[name])) < PATIENCE
            assert session.run(None, SHORT[name])[0].tobytes() == expected.tobytes()


def test_a_binding_answers_and_works_on(artifacts: dict[str, Path]) -> None:
    go, x = np.array(True), X + 1
    with Session(artifacts["endless"], 1) as session:
        binding = session.bind({"c": go, "x": x})
        assert interrupted(binding) < PATIENCE
        go[...] = False
        assert np.array_equal(binding()["y"], x)


def test_a_handler_that_raises_nothing_stops_nothing(artifacts: dict[str, Path]) -> None:
    """What a handler of the user's does is the user's affair: here it ends the loop at its second call."""
    called: list[int] = []

    def handle(number: int, _: object) -> None:
        called.append(number)
        if len(called) == 2:
            raise TimeoutError("that is enough")

    before = signal.signal(signal.SIGALRM, handle)
    signal.setitimer(signal.ITIMER_REAL, 0.1, 0.1)
    try:
        with Session(artifacts["endless"], 1) as session, pytest.raises(TimeoutError, match="enough"):
            session.run(None, FEEDS["endless"])
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert called[:2] == [signal.SIGALRM] * 2


def test_other_threads_run_where_they_are(artifacts: dict[str, Path]) -> None:
    """No signal is handled there, so nothing is in the way of a call."""
    found: list[tuple[int, int]] = []
    thread = threading.Thread(
        target=lambda: interruptible(lambda: found.append((threading.get_ident(), thread.ident or 0)), lambda: None)
    )
    thread.start()
    thread.join()
    assert found[0][0] == found[0][1]


def test_what_work_raises_is_raised() -> None:
    with pytest.raises(ZeroDivisionError):
        interruptible(lambda: 1 / 0, lambda: None)
    assert interruptible(lambda: 5, lambda: None) == 5


def test_loops_that_end_by_themselves_cost_nothing(artifacts: dict[str, Path]) -> None:
    assert "model_stop" not in (artifacts["counted"] / "model.h").read_text()
    assert "model_stop" in (artifacts["often"] / "model.h").read_text()
    with Session(artifacts["counted"], 1) as session:
        assert session._model_call is session._library.model_call


# ---------------------------------------------------------------- commands


def loaded(process: subprocess.Popen[str]) -> Iterator[bool]:
    """Whether the model's library runs in a process by now."""
    until = time.monotonic() + PATIENCE
    while time.monotonic() < until and process.poll() is None:
        yield "libmodel" in Path(f"/proc/{process.pid}/maps").read_text()
        time.sleep(0.05)


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="the system does not tell what a process has loaded")
@pytest.mark.parametrize("name", FEEDS)
@pytest.mark.parametrize("command", ["run", "compile", "verify"])
def test_commands_end_with_130_and_leave_nothing(
    artifacts: dict[str, Path], tmp_path: Path, command: str, name: str
) -> None:
    model, artifact = artifacts[name].with_suffix(".onnx"), artifacts[name]
    arguments = {
        "run": [str(artifact)],
        "compile": [str(model), "-o", str(tmp_path / "made.gf"), "--no-cache"],
        "verify": [str(artifact), "--against", str(model)],
    }[command]
    for port in FEEDS[name]:
        arguments += ["--input", f"{port}={model.parent / f'{name}.{port}.npy'}"]
    process = subprocess.Popen(
        [sys.executable, "-m", "graphfuse", command, *arguments], stderr=subprocess.PIPE, text=True, cwd=tmp_path
    )
    assert any(loaded(process)), process.communicate()[1]
    time.sleep(0.3)
    process.send_signal(signal.SIGINT)
    _, told = process.communicate(timeout=PATIENCE)
    assert process.returncode == 130
    assert told.endswith("graphfuse: interrupted\n")
    assert "Traceback" not in told
    assert list(tmp_path.iterdir()) == []
