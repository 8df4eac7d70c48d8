"""The command line: what each command writes, every way it can fail, and that failing leaves nothing behind."""

from __future__ import annotations

import io
import json
import os
import pty
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import zoo
from graphfuse import __version__
from graphfuse.cli import main

CODE = "from graphfuse.cli import main; main()"
ENTRY = [sys.executable, "-m", "graphfuse"]
DIGITS = Path(__file__).resolve().parents[1] / "src/graphfuse/demo/digits.onnx"


@dataclass
class Finished:
    code: int
    out: str
    err: str

    @property
    def json(self) -> dict[str, object]:
        found: dict[str, object] = json.loads(self.out)
        return found


@pytest.fixture
def cli(capsys: pytest.CaptureFixture[str]) -> Iterator[Callable[..., Finished]]:
    """cli("run", path) -> exit code, stdout and stderr of the command, run in this process."""
    before = signal.getsignal(signal.SIGTERM)

    def run(*arguments: object) -> Finished:
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        assert isinstance(ended.value.code, int)
        return Finished(ended.value.code, captured.out, captured.err)

    yield run
    signal.signal(signal.SIGTERM, before)


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with mlp.onnx and mlp.gf; tests only read it."""
    folder = tmp_path_factory.mktemp("built")
    onnx.save(zoo.load("mlp"), folder / "mlp.onnx")
    command = [*ENTRY, "compile", "mlp.onnx", "-o", "mlp.gf"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture
def empty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working folder."""
    folder = tmp_path / "empty"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


def files(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def check_error(done: Finished, *parts: str, code: int = 2, lines: int = 4) -> None:
    """One short block on stderr, nothing on stdout."""
    assert (done.code, done.out) == (code, "")
    told = done.err.splitlines()
    block = [line for line in told if line.split(" ")[0] not in _PROGRESS]
    assert told[-len(block) :] == block, "what went wrong comes last"
    assert block[0].startswith("graphfuse: ")
    assert len(block) <= lines
    assert "Traceback" not in done.err
    for part in parts:
        assert part in done.err


_STAGES = ("import", "simplify", "recognize", "fuse", "plan", "emit", "build", "verify", "bundle")
_PROGRESS = (*_STAGES, "compiling", "preparing", "timing")


# ---------------------------------------------------------------- help


def test_help_is_fast_and_names_every_command() -> None:
    times = []
    for _ in range(5):
        started = time.perf_counter()
        done = subprocess.run([*ENTRY, "--help"], capture_output=True, text=True, check=True)
        times.append(time.perf_counter() - started)
    for command in ("compile", "run", "verify", "explain", "bench", "demo", "cache"):
        assert re.search(rf"\b{command}\b", done.stdout)
    # 0.15 s alone on the machine; the tests share it with others.
    assert min(times) < 0.6


def test_help_loads_nothing_heavy() -> None:
    code = (
        "import sys\nfrom graphfuse.cli import main\n"
        "try: main(['compile', '--help'])\nexcept SystemExit: pass\n"
        "print([m for m in ('numpy', 'onnx', 'onnx_ir', 'onnxruntime', 'sympy') if m in sys.modules], file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr.strip() == "[]"


@pytest.mark.parametrize("command", ["compile", "run", "verify", "explain", "bench", "demo"])
def test_every_command_shows_examples(cli: Callable[..., Finished], command: str) -> None:
    done = cli(command, "--help")
    assert done.code == 0
    assert f"graphfuse {command}" in done.out[done.out.index("Example") :]


def test_version(cli: Callable[..., Finished]) -> None:
    assert cli("--version").out == f"graphfuse {__version__}\n"


# ---------------------------------------------------------------- compile


def test_compile_writes_an_artifact_and_tells_what_came_out(
    cli: Callable[..., Finished], empty: Path, built: Path
) -> None:
    done = cli("compile", built / "mlp.onnx", "--no-cache")
    assert done.code == 0
    assert files(empty) == ["mlp.gf", *(f"mlp.gf/{path.name}" for path in sorted((built / "mlp.gf").iterdir()))]
    assert "mlp.onnx (ONNX) → mlp.gf" in done.out
    assert "5 nodes → 3 kernel calls" in done.out
    assert "verified" in done.out
    assert done.err.split() == list(_STAGES), "progress goes to stderr, a line for each stage without a terminal"


def test_compile_json_is_pure_and_complete(cli: Callable[..., Finished], empty: Path, built: Path) -> None:
    done = cli("compile", built / "mlp.onnx", "-o", "x.gf", "--json", "--dim", "batch=5", "--no-cache")
    found = done.json
    assert found["artifact"] == "x.gf"
    assert set(found["seconds"]) == set(_STAGES)  # type: ignore[call-overload]
    assert found["certificate"]["dims"] == {"batch": 5}  # type: ignore[index]
    assert found["certificate"]["passed"] is True  # type: ignore[index]
    assert found["account"]["kernel_calls"] == 3  # type: ignore[index]
    assert found["weights_bytes"] == (empty / "x.gf/weights.bin").stat().st_size
    assert done.out.isascii()


def test_compile_can_stop_early_and_write_nothing(cli: Callable[..., Finished], empty: Path, built: Path) -> None:
    done = cli("compile", built / "mlp.onnx", "--dump", "fuse", "--stop-after", "fuse")
    assert done.code == 0
    assert done.out.startswith("R0 contraction")
    assert files(empty) == []


def test_compile_without_verification_says_so(cli: Callable[..., Finished], empty: Path, built: Path) -> None:
    done = cli("compile", built / "mlp.onnx", "--no-verify")
    assert "not verified" in done.out
    assert not (empty / "mlp.gf/certificate.json").exists()


def test_compile_disables_rules_by_name(cli: Callable[..., Finished], empty: Path) -> None:
    with_rule = cli("compile", DIGITS, "--stop-after", "plan", "--json").json
    off = ("--disable", "fold_batch_norm", "--disable", "simplify_batch_norm")
    without = cli("compile", DIGITS, "--stop-after", "plan", "--json", *off).json
    assert with_rule["account"]["folded"] > without["account"]["folded"]  # type: ignore[index]


def test_compile_embeds_weights(cli: Callable[..., Finished], empty: Path, built: Path) -> None:
    assert cli("compile", built / "mlp.onnx", "--embed-weights").code == 0
    assert not (empty / "mlp.gf/weights.bin").exists()
    assert cli("run", "mlp.gf").code == 0


@pytest.fixture
def faulty(monkeypatch: pytest.MonkeyPatch) -> None:
    """Generated C whose square root is one percent off."""
    from graphfuse import compiler

    right = compiler.preamble

    def wrong(*arguments: Any) -> str:
        text, count = re.subn(r"(gf_sqrt_f32\(gf_f32 x\) \{ return )(.*)(; \})", r"\1\2 * 1.01f\3", right(*arguments))
        assert count > 0
        return text

    monkeypatch.setattr(compiler, "preamble", wrong)


@pytest.fixture
def rooted(empty: Path) -> Path:
    """root.onnx: three matrix products, a square root behind the second."""
    weights = {f"w{k}": np.random.default_rng(k).standard_normal((8, 8), dtype=np.float32) for k in range(3)}
    chain = ["MatMul", "Relu", "MatMul", "Abs", "Sqrt", "MatMul"]
    names = iter(weights)
    nodes, value = [], "x"
    for k, op in enumerate(chain):
        result = "y" if k == len(chain) - 1 else f"v{k}"
        nodes.append(
            helper.make_node(op, [value, *([next(names)] if op == "MatMul" else [])], [result], name=f"{op}{k}")
        )
        value = result
    ports = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [4, 8]) for name in ("x", "y")]
    tensors = [numpy_helper.from_array(array, name) for name, array in weights.items()]
    graph = helper.make_graph(nodes, "g", ports[:1], ports[1:], tensors)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    (empty / "root.onnx").write_bytes(model.SerializeToString())
    return empty


def test_a_wrong_result_is_exit_code_1_and_writes_nothing(
    cli: Callable[..., Finished], rooted: Path, faulty: None
) -> None:
    done = cli("compile", "root.onnx", "--no-cache")
    check_error(done, "differs from onnxruntime's", "first wrong in region R1 (MatMul2, Abs3, Sqrt4)", code=1)
    assert files(rooted) == ["root.onnx"]


def test_a_wrong_result_can_be_kept_and_is_marked(cli: Callable[..., Finished], rooted: Path, faulty: None) -> None:
    done = cli("compile", "root.onnx", "--keep-going")
    assert done.code == 0
    assert re.search(r"differs y .* instead of ", " ".join(done.out.split()))
    assert json.loads((rooted / "root.gf/certificate.json").read_text())["passed"] is False


# ---------------------------------------------------------------- run


def test_run_computes_what_onnxruntime_does(cli: Callable[..., Finished], empty: Path, built: Path) -> None:
    from graphfuse.verify import Reference

    x = np.random.default_rng(0).standard_normal((3, 64), dtype=np.float32)
    np.save("x.npy", x)
    expected = Reference(built / "mlp.onnx").run({"x": x})["y"]
    assert cli("run", built / "mlp.gf", "--input", "x=x.npy", "-o", "y.npz").code == 0
    assert cli("run", built / "mlp.gf", "--input", "x=x.npy", "-o", "y.npy", "--threads", 1).code == 0
    with np.load("y.npz") as archive:
        np.testing.assert_allclose(archive["y"], expected, rtol=1e-5, atol=1e-6)
        np.testing.assert_array_equal(np.load("y.npy"), archive["y"])
    assert files(empty) == ["x.npy", "y.npy", "y.npz"]


def test_run_makes_inputs_of_the_right_shape(cli: Callable[..., Finished], built: Path) -> None:
    first = cli("run", built / "mlp.gf", "--json", "--dim", "batch=7").json
    same = cli("run", built / "mlp.gf", "--json", "--dim", "batch=7").json
    other = cli("run", built / "mlp.gf", "--json", "--dim", "batch=7", "--seed", 1).json
    assert first["inputs"]["x"]["shape"] == [7, 64]  # type: ignore[index]
    assert first["outputs"]["y"]["shape"] == [7, 10]  # type: ignore[index]
    assert first["outputs"] == same["outputs"] != other["outputs"]
    shown = cli("run", built / "mlp.gf").out
    assert "float32 1×64" in shown
    assert "random" in shown


def test_run_writes_outputs_under_any_name(cli: Callable[..., Finished], empty: Path) -> None:
    nodes = [helper.make_node(op, ["x"], [name]) for op, name in (("Relu", "/a/b:0"), ("Neg", "file"))]
    ports = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [2]) for name in ("x", "/a/b:0", "file")]
    graph = helper.make_graph(nodes, "g", ports[:1], ports[1:])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10), "m.onnx")
    np.save("x.npy", np.array([-1, 2], np.float32))
    assert cli("compile", "m.onnx").code == 0
    assert cli("run", "m.gf", "-i", "x=x.npy", "-o", "y.npz").code == 0
    with np.load("y.npz") as archive:
        assert {name: archive[name].tolist() for name in archive.files} == {"/a/b:0": [0, 2], "file": [1, -2]}


@pytest.mark.parametrize("name", ["bfloat16", "float8_e4m3fn"])
def test_files_do_not_say_bfloat16(cli: Callable[..., Finished], empty: Path, name: str) -> None:
    dtype = np.dtype(getattr(ml_dtypes, name))
    kind = helper.np_dtype_to_tensor_dtype(dtype)
    ports = [helper.make_tensor_value_info("x", kind, [4]), helper.make_tensor_value_info("y", TensorProto.FLOAT, [4])]
    graph = helper.make_graph([helper.make_node("Cast", ["x"], ["y"], to=TensorProto.FLOAT)], "g", ports[:1], ports[1:])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10), "m.onnx")
    x = np.array([-1, 2, 0.5, 3]).astype(dtype)
    np.save("x.npy", x)
    np.save("wide.npy", np.zeros(4, "V8"))
    assert np.load("x.npy").dtype.kind == "V"
    assert cli("compile", "m.onnx", "--input", "x=x.npy").code == 0
    assert cli("run", "m.gf", "-i", "x=x.npy", "-o", "y.npy").code == 0
    np.testing.assert_array_equal(np.load("y.npy"), x.astype(np.float32))
    told = cli("verify", "m.gf", "--against", "m.onnx", "-i", "x=x.npy")
    assert told.code == 0
    assert "given" in told.out
    for command in (["run", "m.gf"], ["verify", "m.gf", "--against", "m.onnx"]):
        check_error(cli(*command, "-i", "x=wide.npy"), "input 'x'", "8 bytes an element", name)


# ---------------------------------------------------------------- verify, explain, bench, demo, cache


def test_verify_agrees(cli: Callable[..., Finished], built: Path) -> None:
    done = cli("verify", built / "mlp.gf", "--against", built / "mlp.onnx", "--dim", "batch=9", "--seed", 5)
    assert done.code == 0
    assert "verified" in done.out
    assert "9×64 generated from seed 5" in done.out
    found = cli("verify", built / "mlp.gf", "--against", built / "mlp.onnx", "--json").json
    assert found["passed"] is True
    assert found["first_wrong_region"] is None


def test_a_certificate_says_when_it_says_little() -> None:
    from rich.console import Console

    from graphfuse.cli.summary import certificate_text
    from graphfuse.verify import Certificate, InputRecord, OutputReport

    reports = [
        OutputReport("a", "float32", (2,), True, max_abs=1e-6, max_rel=2e-6, position=(1,), finite=0.5),
        OutputReport("b", "float32", (2,), True, finite=0.0),
        OutputReport("c", "int64", (2,), True),
        OutputReport("d", "float32", (2,), False, "1 of 2 elements is outside the tolerance", 1.0, 1.0, (0,), 2.0, 1.0),
    ]
    inputs = tuple(InputRecord(name, "float32", (2, 3), "given", "") for name in "xy")
    certificate = Certificate(False, tuple(reports), inputs, {}, 0, 1, {"onnxruntime": "1.2"}, "")
    buffer = io.StringIO()
    Console(file=buffer, width=100).print(certificate_text(certificate))
    shown = [line.strip() for line in buffer.getvalue().splitlines()]
    assert shown == [
        "verified  a  largest error 1e-06, relative 2e-06 at [1]; 50.0% of the values are finite",
        "verified  b  NaN or infinite everywhere, as expected: this says little",
        "verified  c  equal",
        "differs   d  1 of 2 elements is outside the tolerance at [0]: 2 instead of 1",
        "against onnxruntime 1.2 on x 2×3, y 2×3 given",
    ]


def test_verify_tells_a_difference(cli: Callable[..., Finished], empty: Path, built: Path) -> None:
    onnx.save(zoo.load("mlp", seed=1), "other.onnx")
    done = cli("verify", built / "mlp.gf", "--against", "other.onnx")
    assert done.code == 1
    assert "differs" in done.out
    assert re.search(r"instead of -?\d", done.out)
    assert "made from another model" in done.err
    found = cli("verify", built / "mlp.gf", "--against", "other.onnx", "--json")
    assert found.code == 1
    assert found.json["passed"] is False


def test_verify_names_the_first_wrong_region(cli: Callable[..., Finished], rooted: Path, faulty: None) -> None:
    assert cli("compile", "root.onnx", "--no-verify", "--no-cache").code == 0
    done = cli("verify", "root.gf", "--against", "root.onnx", "--json")
    assert done.code == 1
    assert "first wrong in region R1 (MatMul2, Abs3, Sqrt4)" in done.err
    assert str(done.json["first_wrong_region"]).startswith("first wrong in region R1")


def test_explain_tells_the_same_of_a_model_and_of_its_artifact(cli: Callable[..., Finished], built: Path) -> None:
    model, artifact = (cli("explain", built / name) for name in ("mlp.onnx", "mlp.gf"))
    assert model.code == artifact.code == 0
    assert "Gemm + Relu" in model.out
    assert model.out.splitlines()[1:] == artifact.out.splitlines()[1:]
    assert "/fc0/Gemm" in cli("explain", built / "mlp.gf", "--all").out
    assert cli("explain", built / "mlp.onnx", "--json").json["ledger"] == json.loads(
        (built / "mlp.gf/ledger.json").read_text()
    )


def test_bench_tells_a_ratio(cli: Callable[..., Finished], built: Path) -> None:
    arguments = ("bench", built / "mlp.onnx", "--vs", "onnxruntime", "--threads", "1", "--seconds", "0.02")
    done = cli(*arguments, "--dim", "batch=4")
    assert done.code == 0
    assert "onnxruntime" in done.out
    assert "4×64" in done.out
    rows = cli(*arguments, "--json").json["timings"]
    assert [row["runtime"] for row in rows] == ["graphfuse", "onnxruntime"]  # type: ignore[attr-defined]


def test_demo_reads_digits(cli: Callable[..., Finished]) -> None:
    found = cli("demo", "--seconds", "0.02", "--json").json
    assert found["images"] == found["same_answers"] == 360
    assert found["accuracy"]["graphfuse"] == found["accuracy"]["onnxruntime"] > 0.97  # type: ignore[index]
    assert found["compilation"]["certificate"]["passed"] is True  # type: ignore[index]
    shown = cli("demo", "--seconds", "0.02").out
    for part in ("of 360 images read right", "(BatchNormalization)", "verified", "median ms"):
        assert part in shown


def test_cache_is_shown_and_emptied(
    cli: Callable[..., Finished], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GRAPHFUSE_CACHE_DIR", str(tmp_path / "cache"))
    assert cli("cache", "info", "--json").json["total_bytes"] == 0
    entry = tmp_path / "cache/objects/ab/abc"
    entry.parent.mkdir(parents=True)
    entry.write_bytes(bytes(5000))
    found = cli("cache", "info", "--json").json
    assert (found["objects"], found["object_bytes"], found["total_bytes"]) == (1, 5000, 5000)
    assert "5 kB" in cli("cache", "info").out
    assert "5 kB removed" in cli("cache", "clear").out
    assert not entry.exists()


# ---------------------------------------------------------------- errors


def _model(nodes: list[onnx.NodeProto]) -> onnx.ModelProto:
    ports = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [2, 3]) for name in ("x", "y")]
    graph = helper.make_graph(nodes, "g", ports[:1], ports[1:])
    imports = [helper.make_opsetid("", 21), helper.make_opsetid("my", 1)]
    return helper.make_model(graph, opset_imports=imports, ir_version=10)


def _missing(folder: Path) -> None:
    pass


def _text(folder: Path) -> None:
    (folder / "m.onnx").write_text("this is not a model\n" * 100)


def _empty(folder: Path) -> None:
    (folder / "m.onnx").write_bytes(b"")


def _truncated(folder: Path) -> None:
    data = zoo.load("mlp").SerializeToString()
    (folder / "m.onnx").write_bytes(data[: len(data) // 2])


def _folder(folder: Path) -> None:
    (folder / "m.onnx").mkdir()


def _unsupported(folder: Path) -> None:
    nodes = [
        helper.make_node("Frobnicate", ["x"], ["a"], name="first", domain="my"),
        helper.make_node("Relu", ["x"], ["b"], name="fine"),
        helper.make_node("Twiddle", ["b"], ["c"], name="second", domain="my"),
        helper.make_node("Add", ["a", "c"], ["y"], name="sum"),
    ]
    (folder / "m.onnx").write_bytes(_model(nodes).SerializeToString())


def _external(location: str) -> Callable[[Path], None]:
    def make(folder: Path) -> None:
        proto = zoo.load("mlp")
        onnx.save(proto, folder / "m.onnx", save_as_external_data=True, location="w.bin", size_threshold=1024)
        (folder / "w.bin").unlink()
        loaded = onnx.load(folder / "m.onnx", load_external_data=False)
        for tensor in loaded.graph.initializer:
            for entry in tensor.external_data:
                if entry.key == "location":
                    entry.value = location
        (folder / "m.onnx").write_bytes(loaded.SerializeToString())

    return make


FILES = [
    (_missing, "no such file"),
    (_text, "m.onnx"),
    (_empty, "m.onnx"),
    (_truncated, "m.onnx"),
    (_folder, "m.onnx"),
    (_unsupported, "second"),
    (_external("gone.bin"), "gone.bin"),
    (_external("../../../etc/passwd"), "passwd"),
    (_external("/etc/passwd"), "/etc/passwd"),
]
_IDS = ["missing", "text", "empty", "truncated", "folder", "unsupported", "external", "outside", "absolute"]


@pytest.mark.parametrize("make, part", FILES, ids=_IDS)
@pytest.mark.parametrize("command", ["compile", "bench", "explain"])
def test_a_file_that_cannot_be_compiled(
    cli: Callable[..., Finished], empty: Path, command: str, make: Callable[[Path], None], part: str
) -> None:
    make(empty)
    before = files(empty)
    check_error(cli(command, "m.onnx"), part)
    assert files(empty) == before


def test_unsupported_operators_are_listed_at_once(cli: Callable[..., Finished], empty: Path) -> None:
    _unsupported(empty)
    done = cli("compile", "m.onnx")
    check_error(done, "2 nodes cannot be compiled", "Frobnicate 'first'", "Twiddle 'second'")
    assert "fine" not in done.err


def test_names_in_errors_cannot_write_to_the_terminal(cli: Callable[..., Finished], empty: Path) -> None:
    node = helper.make_node("Frob\x1b[2J", ["x"], ["y"], name="evil\x1b]0;t\x07\nname", domain="my")
    (empty / "m.onnx").write_bytes(_model([node]).SerializeToString())
    done = cli("compile", "m.onnx")
    check_error(done)
    assert "\x1b" not in done.err
    assert "\x07" not in done.err


OPTIONS = [
    (["--cpu", "pentium"], "unknown CPU 'pentium'"),
    (["--cc", "no-such-compiler"], "no-such-compiler"),
    (["--numerics", "wild"], "'wild'"),
    (["--threads", "0"], "threads"),
    (["--threads", "many"], "'--threads'"),
    (["--disable", "no_rule"], "there is no rule 'no_rule'"),
    (["--stop-after", "lunch"], "there is no stage 'lunch'"),
    (["--dump", "lunch"], "there is no stage 'lunch'"),
    (["--dump", "fuse", "--json"], "--json"),
    (["--rtol", "-1"], "rtol"),
    (["--rtol", "nan"], "rtol"),
    (["--dim", "batch"], "NAME=SIZE"),
    (["--dim", "batch=-1"], "NAME=SIZE"),
    (["--dim", "batch=1", "--dim", "batch=2"], "'batch' twice"),
    (["--dim", "height=3"], "no free dimension 'height'"),
    (["--input", "x"], "NAME=FILE"),
    (["--input", "x=none.npy"], "none.npy"),
    (["--frob"], "No such option"),
]


@pytest.mark.parametrize("options, part", OPTIONS, ids=[" ".join(options) for options, _ in OPTIONS])
def test_options_that_make_no_sense(
    cli: Callable[..., Finished], empty: Path, built: Path, options: list[str], part: str
) -> None:
    check_error(cli("compile", built / "mlp.onnx", "-o", "out.gf", *options), part)
    assert files(empty) == []


@pytest.mark.parametrize(
    "output, part", [("none/m.gf", "none"), ("file", "is not replaced"), ("full", "is not replaced")]
)
def test_places_that_cannot_be_written(
    cli: Callable[..., Finished], empty: Path, built: Path, output: str, part: str
) -> None:
    (empty / "file").write_text("precious")
    (empty / "full").mkdir()
    (empty / "full/photo.jpg").write_text("precious")
    before = files(empty)
    check_error(cli("compile", built / "mlp.onnx", "-o", output), part)
    assert files(empty) == before
    assert (empty / "file").read_text() == (empty / "full/photo.jpg").read_text() == "precious"


def test_no_space_left_is_one_error_and_leaves_nothing(empty: Path, built: Path, tmp_path: Path) -> None:
    """The limit on the size of a file stands in for a full disk; 50 kB are less than the weights."""
    script = f"import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000)); {CODE}"
    environment = {**os.environ, "GRAPHFUSE_CACHE_DIR": str(tmp_path / "cache")}
    # Whatever the compiler needs is made before the limit is set.
    subprocess.run(
        [*ENTRY, "compile", built / "mlp.onnx", "-o", "ok.gf", "--no-cache"],
        env=environment,
        check=True,
        capture_output=True,
    )
    shutil.rmtree(empty / "ok.gf")
    command = [sys.executable, "-c", script, "compile", built / "mlp.onnx", "--no-cache"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    check_error(Finished(done.returncode, done.stdout, done.stderr), "no space left")
    assert files(empty) == []


def _array(value: object, dtype: str) -> Callable[[], None]:
    return lambda: np.save("x.npy", np.zeros(value, dtype))  # type: ignore[arg-type]


def _pickled() -> None:
    np.save("x.npy", np.array([{}], object), allow_pickle=True)


def _archive() -> None:
    with open("x.npy", "wb") as file:
        np.savez(file, a=np.zeros(1))


INPUTS: list[tuple[Callable[[], object], str, tuple[str, ...]]] = [
    (_array((2, 64), "float32"), "z=x.npy", ("no input is called 'z'", "'x'")),
    (_array((2, 64), "float64"), "x=x.npy", ("input 'x'", "float64", "float32")),
    (_array((2, 63), "float32"), "x=x.npy", ("input 'x'", "(2, 63)", "64")),
    (_array((2, 64, 1), "float32"), "x=x.npy", ("input 'x'", "(2, 64, 1)")),
    (_pickled, "x=x.npy", ("x.npy",)),
    (_archive, "x=x.npy", ("x.npy", "several arrays")),
    (lambda: Path("x.npy").write_bytes(b"\x93NUMPY\x01\x00"), "x=x.npy", ("x.npy",)),
    (lambda: Path("x.npy").write_bytes(b""), "x=x.npy", ("x.npy",)),
]


@pytest.mark.parametrize(
    "make, option, parts", INPUTS, ids=["name", "dtype", "shape", "rank", "pickle", "npz", "cut", "empty"]
)
@pytest.mark.parametrize("command", ["run", "verify"])
def test_inputs_that_do_not_fit(
    cli: Callable[..., Finished],
    empty: Path,
    built: Path,
    command: str,
    make: Callable[[], object],
    option: str,
    parts: tuple[str, ...],
) -> None:
    make()
    against = ["--against", built / "mlp.onnx"] if command == "verify" else ["-o", "y.npz"]
    check_error(cli(command, built / "mlp.gf", "--input", option, *against), *parts)
    assert files(empty) == ["x.npy"]


@pytest.mark.parametrize(
    "output, part", [("y.txt", ".npz"), ("none/y.npz", "none"), (".", ".npz"), ("taken.npz", "taken.npz")]
)
def test_outputs_that_cannot_be_written(
    cli: Callable[..., Finished], empty: Path, built: Path, output: str, part: str
) -> None:
    (empty / "taken.npz").mkdir()
    check_error(cli("run", built / "mlp.gf", "-o", output), part)
    assert files(empty) == ["taken.npz"]


def _no_folder(artifact: Path) -> None:
    shutil.rmtree(artifact)


def _file_instead(artifact: Path) -> None:
    shutil.rmtree(artifact)
    artifact.write_text("no artifact")


def _change(name: str, data: bytes | None) -> Callable[[Path], None]:
    def change(artifact: Path) -> None:
        if data is None:
            (artifact / name).unlink()
        else:
            (artifact / name).write_bytes(data)

    return change


ARTIFACTS = {
    "missing": (_no_folder, "no such artifact"),
    "file": (_file_instead, "no graphfuse artifact"),
    "no manifest": (_change("manifest.json", None), "no graphfuse artifact"),
    "manifest of nonsense": (_change("manifest.json", b"{}"), "no graphfuse artifact"),
    "binary manifest": (_change("manifest.json", b"\xff\xfe\x00"), "no graphfuse artifact"),
    "no library": (_change("libmodel.so", None), "libmodel.so"),
    "damaged library": (_change("libmodel.so", b"\x7fELF"), "damaged"),
    "damaged weights": (_change("weights.bin", b"1234"), "damaged"),
}


@pytest.mark.parametrize("make, part", ARTIFACTS.values(), ids=ARTIFACTS.keys())
@pytest.mark.parametrize("command", ["run", "verify", "explain"])
def test_artifacts_that_are_none(
    cli: Callable[..., Finished], empty: Path, built: Path, command: str, make: Callable[[Path], None], part: str
) -> None:
    artifact = empty / "m.gf"
    shutil.copytree(built / "mlp.gf", artifact)
    make(artifact)
    before = files(empty)
    against = ["--against", built / "mlp.onnx"] if command == "verify" else []
    check_error(cli(command, artifact, *against), part, "m.gf")
    assert files(empty) == before


@pytest.mark.parametrize("data", [None, b"", b"[]", b'{"format": 99}', b"\xff"])
def test_a_damaged_ledger_is_one_error(
    cli: Callable[..., Finished], empty: Path, built: Path, data: bytes | None
) -> None:
    shutil.copytree(built / "mlp.gf", empty / "m.gf")
    _change("ledger.json", data)(empty / "m.gf")
    check_error(cli("explain", "m.gf"), "ledger.json")


def test_usage_errors_are_short(cli: Callable[..., Finished]) -> None:
    check_error(cli("compile"), "Missing argument", "graphfuse compile --help")
    check_error(cli("frob"), "frob", "graphfuse --help")
    check_error(cli("verify", "m.gf"), "--against")
    check_error(cli("bench", "m.onnx", "--threads", "1,x"), "1,2,4")
    check_error(cli("bench", "m.onnx", "--vs", "nobody"), "there is no peer 'nobody'")
    check_error(cli("verify", "m.gf", "--against", "none.onnx"), "none.onnx")


def test_a_bug_is_told_in_one_line(
    cli: Callable[..., Finished], empty: Path, monkeypatch: pytest.MonkeyPatch, built: Path
) -> None:
    from graphfuse import compiler

    def broken(*_: object, **__: object) -> None:
        raise ZeroDivisionError("oh\nno")

    monkeypatch.setattr(compiler, "run_stages", broken)
    done = cli("compile", built / "mlp.onnx", "--no-cache")
    check_error(done, "ZeroDivisionError: oh no", "test_cli.py", "report it")


# ---------------------------------------------------------------- interrupts, pipes, terminals


@pytest.mark.parametrize("number, code, told", [(signal.SIGINT, 130, "interrupted"), (signal.SIGTERM, 143, "")])
def test_an_interrupted_build_leaves_nothing(
    empty: Path, tmp_path: Path, number: signal.Signals, code: int, told: str
) -> None:
    # A cache of its own: with everything cached the build would be over before the signal arrives.
    environment = {**os.environ, "GRAPHFUSE_CACHE_DIR": str(tmp_path / "cache")}
    command = [*ENTRY, "compile", str(DIGITS), "-o", "out.gf"]
    process = subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    assert process.stderr is not None
    seen = []
    for line in process.stderr:
        seen.append(line.strip())
        if seen[-1] == "build":
            break
    assert files(empty) != [], "the build writes beside its final place"
    time.sleep(0.3)
    process.send_signal(number)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (code, "")
    assert "Traceback" not in err
    assert (f"graphfuse: {told}\n" if told else "") == err
    assert files(empty) == []
    assert [path for path in (tmp_path / "cache").glob("tmp/*") if path.is_dir()] == []


def test_a_reader_that_goes_away_is_no_error(built: Path) -> None:
    process = subprocess.Popen(
        [*ENTRY, "explain", built / "mlp.onnx", "--json"], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert process.stdout is not None
    process.stdout.close()
    assert process.stderr is not None
    assert process.stderr.read() == b""
    assert process.wait() == 141


@pytest.mark.parametrize("width", [40, 100])
def test_a_terminal_gets_one_moving_line_then_the_summary(empty: Path, built: Path, width: int) -> None:
    plain = _in_terminal([*ENTRY, "compile", str(built / "mlp.onnx"), "--no-cache"], width)
    assert "\x1b[32m" in plain, "colours"
    assert "import" in plain
    assert "mlp.onnx (ONNX) → mlp.gf" in re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", plain)


def test_colours_can_be_switched_off(built: Path) -> None:
    command = [*ENTRY, "explain", str(built / "mlp.gf")]
    colour = re.compile(r"\x1b\[[0-9;]*3[0-7]m")
    assert colour.search(_in_terminal(command, 80))
    assert not colour.search(_in_terminal(command, 80, NO_COLOR="1"))


def test_a_terminal_that_can_do_nothing(empty: Path, built: Path) -> None:
    shown = _in_terminal([*ENTRY, "explain", str(built / "mlp.gf")], 80, TERM="dumb")
    assert "\x1b" not in shown
    assert "Gemm + Relu" in shown


def test_output_survives_a_plain_locale(empty: Path, built: Path) -> None:
    environment = {**os.environ, "PYTHONIOENCODING": "ascii", "LC_ALL": "C"}
    done = subprocess.run([*ENTRY, "explain", built / "mlp.gf"], env=environment, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
    assert b"Gemm + Relu" in done.stdout


def _in_terminal(command: list[str], width: int, **variables: str) -> str:
    """What a command writes to a terminal of this width."""
    parent, child = pty.openpty()
    environment = {**os.environ, "COLUMNS": str(width), "TERM": "xterm-256color", **variables}
    for name in ("NO_COLOR", "FORCE_COLOR"):
        if name not in variables:
            environment.pop(name, None)
    process = subprocess.Popen(command, env=environment, stdin=child, stdout=child, stderr=child, close_fds=True)
    os.close(child)
    written = b""
    while True:
        try:
            block = os.read(parent, 65536)
        except OSError:  # the other end is closed
            break
        if not block:
            break
        written += block
    os.close(parent)
    assert process.wait() == 0, written.decode(errors="replace")
    return written.decode()
