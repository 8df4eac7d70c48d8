"""Tuning: what is measured is kept, used again, and never makes a model slower on paper or wrong in fact."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest

from graphfuse.compiler import Compiled, compile_model
from graphfuse.errors import InputError
from graphfuse.options import CompileOptions
from graphfuse.target import target_for
from graphfuse.tune.database import Database, Record
from graphfuse.tune.tuner import _fastest
from handmade import warm_options
from plan.test_strips import conv, depthwise, network, same

MODEL = network([conv(24, 1), depthwise(3, **same(3)), conv(16, 1)], [1, 16, 24, 24])


def tuned(folder: Path, steps: list[str] | None = None, **options: object) -> Compiled:
    chosen = warm_options(folder, threads=2, tune=600.0, **options)
    path = folder / "model.onnx"
    onnx.save(MODEL, path)
    return compile_model(path, folder / "model.gf", chosen, (steps if steps is not None else []).append)


def measured(steps: list[str]) -> list[str]:
    return [step for step in steps if step.startswith("tuning")]


def test_measures_once_and_computes_the_same(tmp_path: Path) -> None:
    first: list[str] = []
    compiled = tuned(tmp_path, first)
    assert measured(first), "nothing was measured"
    assert compiled.certificate is not None
    assert compiled.certificate.passed
    second: list[str] = []
    again = tuned(tmp_path, second)
    assert not measured(second), "what was known was measured again"
    x = {"x": np.random.default_rng(0).standard_normal((1, 16, 24, 24), dtype=np.float32)}
    assert np.array_equal(compiled.session().run(None, x)[0], again.session().run(None, x)[0])


def test_the_ledger_says_what_was_measured(tmp_path: Path) -> None:
    notes = [note for note in tuned(tmp_path).ledger.notes if note.stage == "tune"]
    assert any("by measurement" in note.text and " us" in note.text for note in notes)


def test_a_target_that_does_not_run_here_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be measured here"):
        tuned(tmp_path, cpu="aarch64")


def test_sizes_that_the_model_refuses_are_an_error_that_says_so(tmp_path: Path) -> None:
    """One element, as a batch has without a word from the user, does not go into rows of three."""
    text = """g (float[L] x) => (float[A, 2] y) <int64[2] to = {-1, 3}, float[3, 2] w = {1, 2, 3, 4, 5, 6}> {
        r = Reshape(x, to)  m = MatMul(r, w)  y = Relu(m)
    }"""
    path = tmp_path / "rows.onnx"
    onnx.save(onnx.parser.parse_model('<ir_version: 10, opset_import: ["": 21]>\n' + text), path)
    with pytest.raises(InputError, match="does not take the sizes to tune for"):
        compile_model(path, tmp_path / "rows.gf", warm_options(tmp_path / "cache", tune=1.0))


def test_the_smallest_arena_is_not_traded_for_time(tmp_path: Path) -> None:
    steps: list[str] = []
    tuned(tmp_path, steps, optimize="memory")
    assert measured(steps)
    assert not [step for step in measured(steps) if "kernels" in step]


@pytest.mark.parametrize("seconds", [-1.0, float("nan"), 1e9])
def test_seconds_that_cannot_be_are_refused(seconds: float) -> None:
    with pytest.raises(InputError, match="tune"):
        CompileOptions(tune=seconds)


@pytest.mark.parametrize("text", ["", "{", "[]", '{"format": 0, "records": {}}', '{"format": 1, "records": {"a": 3}}'])
def test_a_damaged_database_counts_as_empty(text: str, tmp_path: Path) -> None:
    database = Database(tmp_path, target_for("native"), 2)
    database.path.parent.mkdir()
    database.path.write_text(text)
    database = Database(tmp_path, target_for("native"), 2)
    assert database.records == {}
    database.add("key", "gemm", {"gemm": 1.23456, "conv_direct": 2.0})
    database.save()
    assert Database(tmp_path, target_for("native"), 2).records == {
        "key": Record("gemm", {"gemm": 1.235, "conv_direct": 2.0})
    }


def test_two_processes_keep_what_both_found(tmp_path: Path) -> None:
    target = target_for("native")
    one, two = Database(tmp_path, target, 1), Database(tmp_path, target, 1)
    one.add("a", "x", {"x": 1.0})
    two.add("b", "y", {"y": 1.0})
    one.save()
    two.save()
    assert set(json.loads(one.path.read_text())["records"]) == {"a", "b"}


def test_only_a_clear_win_counts() -> None:
    assert _fastest({"gemm": 100.0, "conv_direct": 99.0}, "gemm") == "gemm"
    assert _fastest({"gemm": 100.0, "conv_direct": 90.0}, "gemm") == "conv_direct"
    assert _fastest({"gemm": 100.0, "conv_direct": 90.0}, "conv_direct") == "conv_direct"
