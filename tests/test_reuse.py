"""The cache of artifacts: found again by contents, never when anything differs, damage and rivals do no harm."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import graphfuse
from graphfuse import compiler
from graphfuse.artifact import read_bundle
from graphfuse.artifact.reuse import find, know, place
from graphfuse.cli import main
from graphfuse.errors import ModelFileError
from graphfuse.options import CompileOptions


def save(path: Path, factor: float = 2.0, external: bool = False) -> Path:
    """y = x * factor for vectors of 64."""
    weights = numpy_helper.from_array(np.full(64, factor, np.float32), "w")
    graph = helper.make_graph(
        [helper.make_node("Mul", ["x", "w"], ["y"], name="scale")],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 64])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 64])],
        [weights],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    if external:
        onnx.save(model, path, save_as_external_data=True, location="w.bin", size_threshold=0)
    else:
        onnx.save(model, path)
    return path


@pytest.fixture
def options(tmp_path: Path) -> CompileOptions:
    return CompileOptions(cc="gcc", cache_dir=tmp_path / "cache", threads=1)


def compile_(model: Path, options: CompileOptions) -> np.ndarray:
    session = graphfuse.compile(model, **vars(options))
    found: np.ndarray = session(np.ones((3, 64), np.float32))
    return found


def no_compiling(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("compiled anew")

    monkeypatch.setattr(compiler, "compile_model", refuse)
    monkeypatch.setattr(compiler, "run_stages", refuse)


def test_found_again(tmp_path: Path, options: CompileOptions, monkeypatch: pytest.MonkeyPatch) -> None:
    model = save(tmp_path / "m.onnx")
    assert find(model, options) is None
    first = compile_(model, options)
    no_compiling(monkeypatch)
    assert np.array_equal(compile_(model, options), first)
    moved = tmp_path / "elsewhere" / "other.onnx"
    moved.parent.mkdir()
    shutil.copy(model, moved)
    assert np.array_equal(compile_(moved, replace(options, threads=2)), first)


CHANGES: dict[str, Callable[[CompileOptions], CompileOptions]] = {
    "numerics": lambda o: replace(o, numerics="strict"),
    "cpu": lambda o: replace(o, cpu="x86_64"),
    "cc": lambda o: replace(o, cc="zig"),
    "cflags": lambda o: replace(o, cflags=("-DNOTHING",)),
    "rules": lambda o: replace(o, disabled_rules=("eliminate_cast",)),
    "verify": lambda o: replace(o, verify=False),
    "rtol": lambda o: replace(o, rtol=1e-3),
    "embed_weights": lambda o: replace(o, embed_weights=True),
    "optimize": lambda o: replace(o, optimize="memory"),
}


@pytest.mark.parametrize("name", CHANGES)
def test_other_options_are_another_artifact(name: str, tmp_path: Path, options: CompileOptions) -> None:
    model = save(tmp_path / "m.onnx")
    know(model, options, [])
    assert place(model, CHANGES[name](options)) != place(model, options)
    assert place(model, options, "N=3") != place(model, options)
    assert place(model, replace(options, threads=7, cache_bytes=1)) == place(model, options)


def test_another_model_is_another_artifact(tmp_path: Path, options: CompileOptions) -> None:
    model = save(tmp_path / "m.onnx")
    assert compile_(model, options).max() == 2
    save(model, 3.0)
    assert compile_(model, options).max() == 3


def test_other_external_data_is_another_artifact(tmp_path: Path, options: CompileOptions) -> None:
    """Told by what the file holds: size and times may be the same."""
    model = save(tmp_path / "m.onnx", external=True)
    assert compile_(model, options).max() == 2
    assert find(model, options) is not None
    data = tmp_path / "w.bin"
    stat = data.stat()
    data.write_bytes(np.full(64, 5, np.float32).tobytes())
    os.utime(data, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert find(model, options) is None
    assert compile_(model, options).max() == 5
    data.unlink()
    with pytest.raises(ModelFileError, match="missing"):
        compile_(model, options)


def test_external_data_outside_is_not_read(tmp_path: Path, options: CompileOptions) -> None:
    model = save(tmp_path / "m.onnx", external=True)
    proto = onnx.load(model, load_external_data=False)
    proto.graph.initializer[0].external_data[0].value = "../../../../../dev/zero"
    model.write_bytes(proto.SerializeToString())
    with pytest.raises(ModelFileError, match="outside"):
        compile_(model, options)


@pytest.mark.parametrize("name", ["weights.bin", "libmodel.so", "manifest.json"])
@pytest.mark.parametrize("how", ["changed", "cut", "gone"])
def test_damage_is_mended(name: str, how: str, tmp_path: Path, options: CompileOptions) -> None:
    model = save(tmp_path / "m.onnx")
    expected = compile_(model, options)
    folder = place(model, options)
    assert folder is not None
    file = folder / name
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    if how == "gone":
        file.unlink()
    else:
        file.write_bytes(bytes(data) if how == "changed" else bytes(data[:-7]))
    if name == "manifest.json" and how == "changed":
        file.write_bytes(b"{" + bytes(data))
    assert find(model, options) is None
    assert np.array_equal(compile_(model, options), expected)
    assert find(model, options, thorough=True) is not None


@pytest.mark.parametrize("text", ["", "{", "7", "[7, []]", '["nowhere"]'])
def test_a_damaged_list_of_external_files_is_none(text: str, tmp_path: Path, options: CompileOptions) -> None:
    model = save(tmp_path / "m.onnx")
    expected = compile_(model, options)
    [file] = (options.cache_root() / "models").glob("*.external")
    file.write_text(text)
    assert find(model, options) is None
    assert np.array_equal(compile_(model, options), expected)


def test_switched_off(tmp_path: Path, options: CompileOptions) -> None:
    model = save(tmp_path / "m.onnx")
    assert compile_(model, replace(options, cache=False)).max() == 2
    assert not (options.cache_root() / "models").exists()


def test_light_and_from_several_processes_at_once(tmp_path: Path, options: CompileOptions) -> None:
    """Rivals all get a session; what is found needs no compiler, which takes most of a second to import."""
    model = save(tmp_path / "m.onnx")
    code = f"""
import sys, numpy as np, graphfuse
session = graphfuse.compile({str(model)!r}, cc="gcc", threads=1)
assert session(np.ones((1, 64), np.float32)).max() == 2
print("graphfuse.compiler" in sys.modules, "onnx" in sys.modules, "sympy" in sys.modules)
"""
    env = {**os.environ, "GRAPHFUSE_CACHE_DIR": str(options.cache_root())}
    start = lambda: subprocess.Popen([sys.executable, "-c", code], env=env, stdout=subprocess.PIPE)  # noqa: E731
    rivals = [start() for _ in range(3)]
    assert all(rival.communicate()[0] and rival.returncode == 0 for rival in rivals)
    after = start()
    assert after.communicate()[0].split() == [b"False", b"False", b"False"]


# ---------------------------------------------------------------- the command


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[str, str]:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    told = capsys.readouterr()
    assert not ended.value.code, told.err
    return " ".join(told.out.split()), told.err


def test_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("GRAPHFUSE_CACHE_DIR", str(tmp_path / "cache"))
    model = str(save(tmp_path / "m.onnx"))
    common = ("compile", model, "--cc", "gcc", "-o")
    out, progress = run(capsys, *common, str(tmp_path / "a.gf"))
    assert "from the cache" not in out
    assert "build" in progress
    out, progress = run(capsys, *common, str(tmp_path / "b.gf"))
    assert "from the cache" in out
    assert "verified" in out
    assert not progress
    a, b = (read_bundle(tmp_path / name, thorough=True).manifest.files for name in ("a.gf", "b.gf"))
    assert a == b
    told = json.loads(run(capsys, *common, str(tmp_path / "c.gf"), "--json")[0])
    assert told["cached"] is True
    assert told["certificate"]["passed"] is True
    # What is edited or removed of an artifact is not missing from the others.
    (tmp_path / "b.gf" / "model.c").write_text("")
    shutil.rmtree(tmp_path / "a.gf")
    assert "from the cache" in run(capsys, *common, str(tmp_path / "d.gf"))[0]
    for other in (("--no-cache",), ("--dim", "N=5"), ("--numerics", "strict")):
        assert "from the cache" not in run(capsys, *common, str(tmp_path / "e.gf"), *other)[0]
    assert "from the cache" in run(capsys, *common, str(tmp_path / "e.gf"), "--dim", "N=5")[0]
    # An artifact in the cache that somebody wrote over through a link is noticed.
    (tmp_path / "d.gf" / "weights.bin").write_bytes(bytes(256))
    assert "from the cache" not in run(capsys, *common, str(tmp_path / "f.gf"))[0]
    assert read_bundle(tmp_path / "f.gf", thorough=True).manifest.files == b


def test_cache_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("GRAPHFUSE_CACHE_DIR", str(tmp_path / "cache"))
    model = save(tmp_path / "m.onnx")
    run(capsys, "compile", str(model), "--cc", "gcc", "-o", str(tmp_path / "a.gf"))
    assert json.loads(run(capsys, "cache", "info", "--json")[0])["models"] == 1
    run(capsys, "cache", "clear")
    told = json.loads(run(capsys, "cache", "info", "--json")[0])
    assert told["models"] == told["objects"] == told["total_bytes"] == 0
