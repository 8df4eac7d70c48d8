"""Session: a compiled model on NumPy arrays, with every misuse told by name."""

from __future__ import annotations

import gc
import os
import shutil
import subprocess
import sys
import textwrap
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from graphfuse.artifact import read_bundle
from graphfuse.errors import ArtifactError, GraphfuseError, InputError
from graphfuse.runtime.session import Session
from graphfuse.target import host_target
from handmade import WEIGHTS, copy_module, make_artifact, rows_expected, rows_module

LANES = host_target().lanes
DTYPES = (
    "float32", "float64", "float16", "bfloat16", "bool",
    "int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64",
)  # fmt: skip


def rows_inputs(count: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(seed)
    return generator.standard_normal((count, 4), np.float32), generator.standard_normal(count, np.float32)


def assert_rows(outputs: Any, x: np.ndarray, bias: np.ndarray) -> None:
    for given, expected in zip(outputs, rows_expected(x, bias), strict=True):
        np.testing.assert_array_equal(given, expected)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("session")


@pytest.fixture(scope="module")
def artifact(folder: Path) -> Path:
    make_artifact(folder / "rows.gf", rows_module(LANES))
    return folder / "rows.gf"


@pytest.fixture(scope="module")
def copier(folder: Path) -> Callable[..., Path]:
    """copier(dtype, shape) -> an artifact that copies its input."""

    def make(dtype: str, shape: list[int | str]) -> Path:
        path = folder / f"{dtype}-{len(list(folder.iterdir()))}.gf"
        size = np.dtype(getattr(ml_dtypes, dtype, dtype)).itemsize
        make_artifact(path, copy_module(LANES, dtype, size, shape))
        return path

    return make


@pytest.fixture
def session(artifact: Path) -> Iterator[Session]:
    with Session(artifact) as session:
        yield session


@pytest.mark.parametrize("threads", [1, 2, 5])
@pytest.mark.parametrize("count", [0, 1, 2, 7, 1000])
def test_a_call_computes(artifact: Path, threads: int, count: int) -> None:
    x, bias = rows_inputs(count)
    with Session(artifact, threads=threads) as session:
        assert session.threads == threads
        assert_rows(session(x, bias), x, bias)
        assert_rows(session(x, bias=bias), x, bias)
        assert_rows(session(bias=bias, x=x), x, bias)
        assert_rows(session.run(None, {"x": x, "bias": bias}), x, bias)
        rows, y = session.run(["rows", "y"], {"bias": bias, "x": x})
        assert_rows((y, rows), x, bias)


def test_nan_and_infinity_pass_through(session: Session) -> None:
    x = np.array([[np.nan, np.inf, -np.inf, 1]], np.float32)
    y, _ = session(x, np.zeros(1, np.float32))
    np.testing.assert_array_equal(y, [[0, -np.inf, 0, 4]])


def test_the_face_of_onnxruntime(session: Session) -> None:
    assert [(arg.name, arg.shape, arg.type) for arg in session.get_inputs()] == [
        ("x", ["N", 4], "tensor(float)"),
        ("bias", ["N"], "tensor(float)"),
    ]
    assert [(arg.name, arg.shape, arg.type) for arg in session.get_outputs()] == [
        ("y", ["N", 4], "tensor(float)"),
        ("rows", ["2*N"], "tensor(int64)"),
    ]


def test_threads_default_to_the_cores_and_can_be_changed(artifact: Path) -> None:
    x, bias = rows_inputs(9)
    with Session(artifact) as session:
        assert session.threads == host_target().cores
        before = session(x, bias)
        session.set_threads(3)
        assert session.threads == 3
        for one, other in zip(before, session(x, bias), strict=True):
            np.testing.assert_array_equal(one, other)
        with pytest.raises(InputError, match="0 threads"):
            session.set_threads(0)


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_dtype_arrives_as_it_is(copier: Callable[..., Path], dtype: str) -> None:
    numpy_dtype = np.dtype(getattr(ml_dtypes, dtype, dtype))
    x = np.random.default_rng(1).integers(0, 2 if dtype == "bool" else 100, (3, 5)).astype(numpy_dtype)
    with Session(copier(dtype, ["N", "M"])) as session:
        y = session(x)
        assert y.dtype == numpy_dtype
        np.testing.assert_array_equal(y, x)
        assert session(np.zeros((0, 5), numpy_dtype)).shape == (0, 5)
        binding = session.bind({"x": x})
        np.testing.assert_array_equal(binding()["y"], x)


@pytest.mark.parametrize(
    "shape, given, told",
    [
        ([], (), None),
        ([3], (3,), None),
        (["N", "N"], (2, 2), None),
        (["2*N", "N"], (6, 3), None),
        (["2*N + 1"], (7,), None),
        (["2*N + 1"], (8,), r"dimension 0 is 8 instead of 2\*N \+ 1 = 7 for N = 3"),
        (["N", "N"], (2, 3), "N is 3 in dimension 1, and 2 in dimension 0"),
        (["2*N", "N"], (5, 3), r"dimension 0 is 5 instead of 2\*N = 6 for N = 3"),
        ([3], (4,), "dimension 0 is 4 instead of 3"),
        (["N", 3], (3,), "1 dimensions instead of 2"),
        ([], (1,), "1 dimensions instead of 0"),
    ],
)
def test_shapes_are_bound_and_checked(
    copier: Callable[..., Path], shape: list[int | str], given: tuple[int, ...], told: str | None
) -> None:
    x = np.random.default_rng(2).standard_normal(given).astype(np.float32)
    with Session(copier("float32", shape)) as session:
        if told is None:
            np.testing.assert_array_equal(session(x), x)
            return
        with pytest.raises(InputError, match=told) as caught:
            session(x)
        assert caught.value.where == "input 'x'"
        assert str(given) in caught.value.what


def test_inputs_that_share_a_dimension_must_agree(session: Session) -> None:
    with pytest.raises(InputError, match="N is 3 in dimension 0, and 2 in dimension 0 of 'x'") as caught:
        session(np.zeros((2, 4), np.float32), np.zeros(3, np.float32))
    assert caught.value.where == "input 'bias'"


@pytest.mark.parametrize(
    "call, told",
    [
        (lambda s, x, b: s(x), "1 inputs given, expected 2; the inputs are 'x', 'bias'"),
        (lambda s, x, b: s(x, b, x), "3 inputs given, expected 2"),
        (lambda s, x, b: s(x, x=x), "input 'x': this input is given twice"),
        (lambda s, x, b: s(x, b, x, bias=b), "given twice"),
        (lambda s, x, b: s(x, mask=b), "no input is called 'mask'; the inputs are 'x', 'bias'"),
        (lambda s, x, b: s.run(None, {"x": x}), "missing input: 'bias'"),
        (lambda s, x, b: s.run(None, {"x": x, "bias": b, "z": b}), "no input is called 'z'"),
        (lambda s, x, b: s.run(["z"], {"x": x, "bias": b}), "no output is called 'z'; the outputs are 'y', 'rows'"),
        (lambda s, x, b: s(x.astype(np.float64), b), "input 'x': the dtype is float64, expected float32"),
        (lambda s, x, b: s(x, b.astype(">f4")), "input 'bias': the dtype is >f4, expected float32"),
        (lambda s, x, b: s(x.tolist(), b), "input 'x': this is a list, expected a NumPy array"),
        (lambda s, x, b: s(None, b), "input 'x': this is a NoneType"),
        (lambda s, x, b: s(np.zeros((100_001, 4), "f4"), np.zeros(100_001, "f4")), "more than 100000 rows"),
    ],
)
def test_misuse_is_told_by_name(session: Session, call: Callable[..., object], told: str) -> None:
    x, bias = rows_inputs(3)
    with pytest.raises(InputError) as caught:
        call(session, x, bias)
    assert told in str(caught.value)
    assert caught.value.exit_code == 2
    assert_rows(session(x, bias), x, bias)  # and the session still works


def test_any_layout_of_an_input_is_accepted(session: Session) -> None:
    x, bias = rows_inputs(6)
    frozen = x.copy()
    frozen.flags.writeable = False
    misaligned = np.frombuffer(b"\0" + x.tobytes(), np.uint8)[1:].view(np.float32).reshape(6, 4)
    assert not misaligned.flags.aligned
    for same in (np.asfortranarray(x), np.repeat(x, 2, axis=0)[::2], frozen, misaligned, x[::-1][::-1]):
        assert_rows(session(same, bias), x, bias)
    strided = np.repeat(bias, 3)[::3]
    assert_rows(session(x, strided), x, bias)


def test_what_can_become_an_array_is_accepted(session: Session) -> None:
    class Tensor:
        def __array__(self, dtype: object = None, copy: object = None) -> np.ndarray:
            return x

    x, bias = rows_inputs(2)
    assert_rows(session(Tensor(), bias), x, bias)


def test_outputs_are_new_and_large_ones_aligned(session: Session) -> None:
    x, bias = rows_inputs(1000)
    first, second = session(x, bias)[0], session(x, bias)[0]
    assert not np.shares_memory(first, second)
    assert first.ctypes.data % 64 == 0
    assert first.flags.writeable


def test_growing_and_shrinking_inputs(session: Session) -> None:
    for count in (3, 500, 1, 501, 0, 7, *range(300)):
        x, bias = rows_inputs(count, seed=count)
        assert_rows(session(x, bias), x, bias)


@pytest.mark.parametrize("threads", [1, 2])
def test_python_threads_may_share_a_session(artifact: Path, threads: int) -> None:
    failures: list[BaseException] = []

    def work(seed: int) -> None:
        try:
            for k in range(100):
                x, bias = rows_inputs((seed * 37 + k * 11) % 300, seed=seed * 1000 + k)
                assert_rows(session(x, bias), x, bias)
        except BaseException as error:
            failures.append(error)

    with Session(artifact, threads=threads) as session:
        workers = [threading.Thread(target=work, args=(seed,)) for seed in range(6)]
        for worker in workers:
            worker.start()
        session.set_threads(3)  # running calls keep the pool that they started with
        for worker in workers:
            worker.join()
    assert not failures


def test_a_binding_reads_and_writes_fixed_buffers(session: Session) -> None:
    x, bias = rows_inputs(5)
    y = np.empty((5, 4), np.float32)
    binding = session.bind({"bias": bias, "x": x}, {"y": y})
    assert binding.outputs["y"] is y
    assert binding.inputs["x"] is x
    for seed in range(3):
        x[:], bias[:] = rows_inputs(5, seed)
        outputs = binding()
        assert outputs is binding.outputs
        assert_rows((y, outputs["rows"]), x, bias)


def test_a_binding_outlives_its_session(artifact: Path) -> None:
    x, bias = rows_inputs(50)
    with Session(artifact, threads=2) as session:
        binding = session.bind({"x": x, "bias": bias})
    del session
    gc.collect()
    assert_rows(binding().values(), x, bias)


@pytest.mark.parametrize(
    "inputs, outputs, told",
    [
        (lambda x, b: {"x": x}, lambda x: {}, "missing input: 'bias'"),
        (lambda x, b: {"x": x[::2], "bias": b[:3]}, lambda x: {}, "input 'x': only a C-contiguous NumPy array"),
        (lambda x, b: {"x": x, "bias": b[:3]}, lambda x: {}, "N is 3"),
        (lambda x, b: {"x": x, "bias": b}, lambda x: {"z": x}, "no output is called 'z'"),
        (lambda x, b: {"x": x, "bias": b}, lambda x: {"y": x}, "output 'y': it overlaps the input 'x'"),
        (lambda x, b: {"x": x, "bias": b}, lambda x: {"y": x.tolist()}, "output 'y': the buffer is list"),
        (lambda x, b: {"x": x, "bias": b}, lambda x: {"y": np.empty((4, 4), "f4")}, "expected float32 (6, 4)"),
        (lambda x, b: {"x": x, "bias": b}, lambda x: {"y": np.empty((6, 4), "f8")}, "expected float32 (6, 4)"),
        (
            lambda x, b: {"x": x, "bias": b},
            lambda x: {"y": np.empty((6, 4), "f4", "F")},
            "only a C-contiguous writable",
        ),
        (lambda x, b: {"x": x, "bias": b}, lambda x: {"y": np.broadcast_to(x[:1], (6, 4))}, "only a C-contiguous"),
    ],
)
def test_buffers_that_cannot_be_bound(session: Session, inputs: Any, outputs: Any, told: str) -> None:
    x, bias = rows_inputs(6)
    with pytest.raises(InputError) as caught:
        session.bind(inputs(x, bias), outputs(x))
    assert told in str(caught.value)


def test_a_bound_call_tells_of_a_guard(session: Session) -> None:
    binding = session.bind({"x": np.zeros((100_001, 4), np.float32), "bias": np.zeros(100_001, np.float32)})
    with pytest.raises(InputError, match="more than 100000 rows"):
        binding()


def test_a_closed_session_says_so(artifact: Path) -> None:
    session = Session(artifact)
    session.close()
    session.close()
    for call in (lambda: session(*rows_inputs(1)), lambda: session.set_threads(2)):
        with pytest.raises(InputError, match="closed"):
            call()


def test_working_memory_that_does_not_exist_is_an_input_error(artifact: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with Session(artifact) as session:
        monkeypatch.setattr(session._library, "model_arena_bytes", lambda dims, threads: 1 << 60)
        with pytest.raises(InputError, match="bytes of working memory"):
            session(*rows_inputs(4))
        monkeypatch.setattr(session._library, "model_arena_bytes", lambda dims, threads: -1)
        with pytest.raises(InputError, match="no output"):
            session(*rows_inputs(5))


def test_a_library_that_does_not_load(artifact: Path, tmp_path: Path) -> None:
    bundle = read_bundle(artifact)
    broken = tmp_path / "libmodel.so"
    broken.write_bytes(b"no library at all")
    with pytest.raises(ArtifactError, match="does not load"):
        Session(type(bundle)(tmp_path, bundle.manifest, broken, bundle.weights))


def test_code_for_another_machine_is_never_loaded(artifact: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bundle = read_bundle(artifact)
    monkeypatch.setattr("graphfuse.target.cpu_flags", frozenset)
    with pytest.raises(ArtifactError, match="made for another machine"):
        Session(bundle)


def test_without_a_temporary_folder_the_error_says_what_to_set(
    artifact: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "absent"))
    with pytest.raises(ArtifactError, match="set TMPDIR"):
        Session(artifact)


def test_an_artifact_replaced_in_place_is_the_new_one(artifact: Path, tmp_path: Path) -> None:
    # The loader goes by the path of a library that it has loaded already.
    place = tmp_path / "model.gf"
    shutil.copytree(artifact, place)
    x, bias = rows_inputs(3)
    with Session(place) as old:
        module = rows_module(LANES)
        module.entry = module.entry.replace("index[i] = i / 2", "index[i] = -i")
        make_artifact(place, module)
        with Session(place) as new:
            np.testing.assert_array_equal(new(x, bias)[1], -np.arange(6))
        assert_rows(old(x, bias), x, bias)


def test_sessions_are_collected_with_their_threads(artifact: Path) -> None:
    def count() -> int:
        return len(os.listdir("/proc/self/task"))

    gc.collect()
    before = count()
    sessions = [Session(artifact, threads=4) for _ in range(5)]
    assert count() == before + 15
    sessions.clear()
    gc.collect()
    assert count() == before


def test_a_child_of_a_fork_computes_too(artifact: Path) -> None:
    code = f"""
        import os, sys
        from graphfuse.runtime.session import Session
        import numpy as np
        session = Session({str(artifact)!r}, threads=3)
        x, bias = np.ones((2000, 4), "f4"), np.ones(2000, "f4")
        expected = session(x, bias)
        pid = os.fork()
        same = all((a == b).all() for a, b in zip(expected, session(x, bias)))
        if pid == 0:
            os._exit(0 if same else 1)
        print(os.waitpid(pid, 0)[1], same)
    """
    result = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, timeout=60)
    assert result.stdout.strip() == "0 True", result.stderr


def test_loading_imports_no_compiler(artifact: Path) -> None:
    code = f"""
        import sys
        from graphfuse.runtime.session import Session
        Session({str(artifact)!r})
        print([name for name in ("onnx", "onnx_ir", "onnxruntime", "sympy", "onnxscript") if name in sys.modules])
    """
    result = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, timeout=60)
    assert result.stdout.strip() == "[]", result.stderr


def test_errors_are_of_one_family(session: Session) -> None:
    with pytest.raises(GraphfuseError):
        session()


def test_weights_are_the_artifacts(session: Session) -> None:
    y, _ = session(np.ones((1, 4), np.float32), np.zeros(1, np.float32))
    np.testing.assert_array_equal(y[0], WEIGHTS)
