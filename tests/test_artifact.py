"""The artifact: whole or absent on disk, and nothing of it is loaded before it is checked."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import sympy
from hypothesis import given
from hypothesis import strategies as st

from graphfuse.artifact import Manifest, Tensor, read_bundle, stage_bundle, write_bundle
from graphfuse.artifact.bundle import FILES
from graphfuse.artifact.dims import evaluate, symbols_of
from graphfuse.artifact.manifest import parse_manifest
from graphfuse.errors import ArtifactError
from graphfuse.target import target_for
from handmade import make_artifact, rows_module

LANES = target_for().lanes
MANIFEST = Manifest(
    inputs=(Tensor("x", "float32", ("N", 3, "2*H + 1")), Tensor("h", "int64", ("H",))),
    outputs=(Tensor("y", "bfloat16", ("floor(N/2 - 1/2) + 1", 4)),),
    symbols=("N", "H"),
    guards=("N is odd",),
    target=target_for("x86_64_v3+avxvnni"),
    producer="0.1",
    compiler="zig 1",
)


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("artifact") / "rows.gf"
    make_artifact(folder, rows_module(LANES))
    return folder


@pytest.fixture
def artifact(rows: Path, tmp_path: Path) -> Path:
    """A copy to be damaged."""
    return Path(shutil.copytree(rows, tmp_path / "rows.gf"))


def edit_manifest(folder: Path, edit: Callable[[dict[str, Any]], object]) -> None:
    fields = json.loads((folder / "manifest.json").read_text())
    edit(fields)
    (folder / "manifest.json").write_text(json.dumps(fields))


def test_an_artifact_holds_what_was_written(rows: Path) -> None:
    bundle = read_bundle(rows, thorough=True)
    assert bundle.manifest.symbols == ("N",)
    assert bundle.manifest.weights_bytes == 64
    assert bundle.weights == rows / "weights.bin"
    assert set(bundle.manifest.files) == {"model.c", "model.h", "libmodel.so", "weights.bin"}
    assert not list(rows.parent.glob(".*"))
    assert os.stat(rows).st_mode & 0o055 == 0o055


def test_a_manifest_reads_back_as_it_was() -> None:
    assert parse_manifest(MANIFEST.to_json(), "here") == MANIFEST
    assert MANIFEST.to_json() == parse_manifest(MANIFEST.to_json(), "here").to_json()


@pytest.mark.parametrize(
    "wrong",
    [
        {"symbols": ("N", "H", "W")},
        {"symbols": ("N",)},
        {"outputs": ()},
        {"outputs": (Tensor("y", "float32", ("W",)),)},
        {"outputs": (Tensor("y", "complex64", (1,)),)},
        {"inputs": (*MANIFEST.inputs, Tensor("x", "float32", ()))},
        {"inputs": (*MANIFEST.inputs, Tensor("z", "float32", (-1,)))},
        {"inputs": (*MANIFEST.inputs, Tensor("z", "float32", ("__import__('os')",)))},
    ],
)
def test_a_manifest_that_contradicts_itself_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"symbol|dimension|dtype|name"):
        replace(MANIFEST, **wrong)


@pytest.mark.parametrize(
    "edit, told",
    [
        (lambda fields: fields.update(format="other"), "no graphfuse artifact"),
        (lambda fields: fields.update(format_version=99), "another version"),
        (lambda fields: fields.update(symbols="N"), "manifest is damaged"),
        (lambda fields: fields.update(guards=[1]), "manifest is damaged"),
        (lambda fields: fields.pop("inputs"), "manifest is damaged"),
        (lambda fields: fields["inputs"].append(3), "manifest is damaged"),
        (lambda fields: fields["inputs"][0].update(shape=[1.5]), "manifest is damaged"),
        (lambda fields: fields["inputs"][0].update(shape=[True]), "manifest is damaged"),
        (lambda fields: fields["target"].update(cpu="z80"), "manifest is damaged"),
        (lambda fields: fields["files"].pop("libmodel.so"), "lacks this file"),
        (lambda fields: fields["files"].update({"../../x": "0"}), "no artifact has"),
        (lambda fields: fields["files"].update({"libmodel.so": "0"}), "damaged"),
        (lambda fields: fields.update(weights_bytes=1 << 40), "damaged"),
    ],
)
def test_a_wrong_manifest_is_told(artifact: Path, edit: Callable[[dict[str, Any]], object], told: str) -> None:
    edit_manifest(artifact, edit)
    with pytest.raises(ArtifactError, match=told) as caught:
        read_bundle(artifact)
    assert str(artifact) in caught.value.where
    assert caught.value.exit_code == 2


@pytest.mark.parametrize("text", ["", "{", "[]", "null", "\xff", "[" * 100_000, '"format"'])
def test_what_is_no_manifest_is_no_artifact(artifact: Path, text: str) -> None:
    (artifact / "manifest.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(ArtifactError, match="no graphfuse artifact"):
        read_bundle(artifact)


@pytest.mark.parametrize("name", ["libmodel.so", "weights.bin"])
@pytest.mark.parametrize(
    "damage", [lambda data: data[:-1], lambda data: bytes([data[0] ^ 1]) + data[1:], lambda data: b""]
)
def test_a_damaged_file_is_noticed_before_it_is_loaded(artifact: Path, name: str, damage: Any) -> None:
    path = artifact / name
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(ArtifactError, match="damaged") as caught:
        read_bundle(artifact)
    assert caught.value.where == str(path)


@pytest.mark.parametrize("name", ["libmodel.so", "weights.bin", "model.c"])
def test_a_missing_file_is_named(artifact: Path, name: str) -> None:
    (artifact / name).unlink()
    with pytest.raises(ArtifactError, match="missing") as caught:
        read_bundle(artifact)
    assert caught.value.where == str(artifact / name)


def test_a_thorough_look_finds_damage_in_what_is_not_loaded(artifact: Path) -> None:
    (artifact / "model.c").write_text("changed")
    read_bundle(artifact)
    with pytest.raises(ArtifactError, match="damaged"):
        read_bundle(artifact, thorough=True)


def test_no_artifact_at_all(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="no such artifact"):
        read_bundle(tmp_path / "absent")
    with pytest.raises(ArtifactError, match="no graphfuse artifact"):
        read_bundle(tmp_path)
    (tmp_path / "file").write_text("x")
    with pytest.raises(ArtifactError, match="no graphfuse artifact"):
        read_bundle(tmp_path / "file")


def test_an_artifact_for_another_machine_says_what_is_lacking(artifact: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def for_another(fields: dict[str, Any]) -> None:
        fields["target"].update(arch="aarch64", cpu="aarch64", features=[])

    edit_manifest(artifact, lambda fields: fields["target"].update(arch="x86_64", cpu="x86_64_v4", features=[]))
    monkeypatch.setattr("graphfuse.target.cpu_flags", lambda: frozenset({"sse2", "avx2"}))
    if target_for().arch == "x86_64":
        with pytest.raises(ArtifactError, match=r"another machine .*avx512f"):
            read_bundle(artifact)
        edit_manifest(artifact, for_another)
        with pytest.raises(ArtifactError, match=r"another machine .*aarch64"):
            read_bundle(artifact)
    assert read_bundle(artifact, runnable=False).library.is_file()


def test_a_new_artifact_replaces_the_old_one_whole(artifact: Path) -> None:
    (artifact / "ledger.json").write_text("{}")
    write_bundle(artifact, MANIFEST, artifact / "libmodel.so", {"model.c": "int x;", "model.h": b""})
    assert sorted(path.name for path in artifact.iterdir()) == ["libmodel.so", "manifest.json", "model.c", "model.h"]
    assert (artifact / "model.c").read_text() == "int x;"
    assert [path.name for path in artifact.parent.iterdir()] == [artifact.name]


def half_written(folder: Path) -> None:
    with stage_bundle(folder) as staging:
        staging.add("model.c", "half")
        raise KeyboardInterrupt


def on_a_full_disk(folder: Path) -> None:
    with stage_bundle(folder) as staging:
        (staging.folder / "model.c").symlink_to("/dev/full")
        staging.add("model.c", "text")


def test_a_block_that_fails_leaves_the_old_artifact(artifact: Path) -> None:
    before = {path.name: path.read_bytes() for path in artifact.iterdir()}
    with pytest.raises(KeyboardInterrupt):
        half_written(artifact)
    assert {path.name: path.read_bytes() for path in artifact.iterdir()} == before
    assert [path.name for path in artifact.parent.iterdir()] == [artifact.name]


def test_a_damaged_artifact_may_be_replaced(artifact: Path) -> None:
    (artifact / "manifest.json").write_text("{")
    write_bundle(artifact, MANIFEST, artifact / "libmodel.so", {"model.c": "", "model.h": ""})
    assert read_bundle(artifact, runnable=False).manifest.guards == MANIFEST.guards


@pytest.mark.parametrize("make", [lambda path: path.write_text("mine"), lambda path: (path / "a").mkdir(parents=True)])
def test_what_is_no_artifact_is_not_replaced(tmp_path: Path, make: Callable[[Path], object]) -> None:
    make(tmp_path / "x")
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(ArtifactError, match="not replaced"), stage_bundle(tmp_path / "x"):
        pytest.fail("the block must not run")
    assert sorted(tmp_path.rglob("*")) == before


def test_an_empty_folder_becomes_the_artifact(artifact: Path, tmp_path: Path) -> None:
    (tmp_path / "new").mkdir()
    write_bundle(tmp_path / "new", MANIFEST, artifact / "libmodel.so", {"model.c": "", "model.h": ""})
    assert read_bundle(tmp_path / "new", runnable=False).weights is None


def test_a_place_that_cannot_be_is_told_before_any_work(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="parent exists"), stage_bundle(tmp_path / "a" / "b"):
        pytest.fail("the block must not run")


def test_nothing_sealed_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="nothing was written"), stage_bundle(tmp_path / "x"):
        pass
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full here")
def test_a_full_disk_is_one_clear_error(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="no space left to write; free some space"):
        on_a_full_disk(tmp_path / "x")
    assert not list(tmp_path.iterdir())


def test_only_files_of_an_artifact_are_added(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no file of an artifact"), stage_bundle(tmp_path / "x") as staging:
        staging.add("../evil", "")
    assert "../evil" not in FILES


def test_processes_may_write_the_same_artifact(rows: Path, tmp_path: Path) -> None:
    code = f"""
from pathlib import Path
from graphfuse.artifact import read_bundle, write_bundle
old = read_bundle({str(rows)!r})
for k in range(30):
    write_bundle({str(tmp_path / "x")!r}, old.manifest, old.library, {{"model.c": str(k), "model.h": ""}})
"""
    children = [subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.PIPE) for _ in range(2)]
    errors = [child.communicate(timeout=100)[1] for child in children]
    assert [child.returncode for child in children] == [0, 0], errors
    assert read_bundle(tmp_path / "x", thorough=True).manifest.symbols == ("N",)
    assert [path.name for path in tmp_path.iterdir()] == ["x"]


N, H = sympy.symbols("N H", integer=True, positive=True)


def expressions() -> st.SearchStrategy[sympy.Expr]:
    leaves = st.one_of(st.integers(-9, 99).map(sympy.Integer), st.sampled_from([N, H]))
    return st.recursive(leaves, _wider, max_leaves=8)


def _wider(inner: st.SearchStrategy[sympy.Expr]) -> st.SearchStrategy[sympy.Expr]:
    pairs = st.tuples(inner, inner)
    divisors = st.integers(1, 7)
    return st.one_of(
        pairs.map(lambda p: p[0] + p[1]),
        pairs.map(lambda p: p[0] * p[1]),
        pairs.map(lambda p: sympy.Max(*p)),
        pairs.map(lambda p: sympy.Min(*p)),
        st.tuples(inner, divisors).map(lambda p: sympy.floor(p[0] / p[1])),
        st.tuples(inner, divisors).map(lambda p: sympy.ceiling(p[0] / p[1])),
        st.tuples(inner, divisors).map(lambda p: sympy.Mod(p[0], p[1])),
        inner.map(lambda p: p**2),
    )


@given(expressions(), st.integers(1, 500), st.integers(1, 500))
def test_dimensions_mean_what_sympy_means(expression: sympy.Expr, n: int, h: int) -> None:
    text = str(expression)
    assert evaluate(text, {"N": n, "H": h}) == int(expression.subs({N: n, H: h}))
    assert symbols_of(text) == tuple(sorted(symbol.name for symbol in expression.free_symbols))


def test_a_symbol_may_have_any_name() -> None:
    assert evaluate("batch size?", {"batch size?": 3}) == 3


@pytest.mark.parametrize(
    "text",
    [
        "", "1/2", "N/0", "N.real", "N[0]", "lambda: 0", "N if N else H", "print(N)", "floor(N, 2)", "floor(a=1)",
        "'a'",
        "1.5", "True", "N & H", "N ** H", "N ** 99", "((N**16)**16)**16", "(" * 500 + ")" * 500, "-" * 3000 + "1",
    ],
)  # fmt: skip
def test_anything_else_is_no_dimension(text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        evaluate(text, {"N": 1 << 20, "H": 2})
