"""The published models arrive whole and run in onnxruntime on the inputs that this table calls plausible."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnxruntime
import pytest

import real_models


@pytest.mark.real_model
@pytest.mark.parametrize("name", real_models.NAMES)
def test_a_published_model_runs(name: str, real_model: Callable[[str], Path]) -> None:
    session = onnxruntime.InferenceSession(real_model(name))
    for output in session.run(None, real_models.inputs(name)):
        assert np.isfinite(output).all()


def test_a_changed_file_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / real_models.MODELS["magika"].file).write_bytes(b"something else")
    monkeypatch.setenv("GRAPHFUSE_TEST_MODELS", str(tmp_path))
    with pytest.raises(ValueError, match="SHA-256"):
        real_models.fetch("magika")


def test_without_a_network_the_reason_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(real_models, "_folders", lambda: iter(()))
    monkeypatch.setattr(real_models, "_failures", [])
    monkeypatch.setattr(real_models.sys, "executable", "false")
    with pytest.raises(real_models.Unavailable, match=r"magika 1\.0\.3"):
        real_models.fetch("magika")
