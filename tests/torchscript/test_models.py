"""Published TorchScript files: they agree with torch, call after call."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

import real_models
from graphfuse.cli import main
from graphfuse.compiler import compile_model
from graphfuse.options import CompileOptions, Hints

pytestmark = pytest.mark.real_model

Fetch = Callable[[str], Path]


@pytest.mark.parametrize("rate, samples, batch", [(16000, 512, 1), (8000, 256, 2)])
def test_silero_keeps_its_states(rate: int, samples: int, batch: int, real_model: Fetch, tmp_path: Path) -> None:
    """Its states are empty before the first call, which is like any other from zeros: no branch is left."""
    path = real_model("silero_vad.jit")
    hints = Hints({"x": (batch, samples)}, values={"sr": rate})
    compiled = compile_model(path, tmp_path / "s.gf", CompileOptions(cache=False), hints=hints)
    assert compiled.certificate is not None
    assert "torch" in compiled.certificate.verdict
    assert not any(compiled.ledger.op_type(record.name) == "If" for record in compiled.ledger.nodes)
    theirs, random = torch.jit.load(str(path)), np.random.default_rng(0)
    with compiled.session() as session:
        assert {name: array.shape for name, array in session.states.items()} == {
            "_context": (batch, samples // 8), "_state": (2, batch, 128)
        }  # fmt: skip
        for call in range(8):
            if call == 5:
                session.reset()
                theirs.reset_states()
            x = (0.1 * random.standard_normal((batch, samples))).astype(np.float32)
            with torch.no_grad():
                expected = theirs(torch.from_numpy(x), rate).numpy()
            np.testing.assert_allclose(session(x), expected, 1e-4, 1e-6)


@pytest.mark.parametrize(
    "options, told",
    [
        ([], "--shape x=1x3x224x224 --value sr=16000"),
        (["--shape", "x=1x500", "--value", "sr=16000"], "the model raises an exception"),
        (["--shape", "y=1x512", "--value", "sr=16000"], "no argument 'y'; its arguments are 'x', 'sr'"),
    ],
)
def test_silero_says_what_it_wants(
    options: list[str], told: str, real_model: Fetch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["compile", str(real_model("silero_vad.jit")), "-o", str(tmp_path / "s.gf"), *options])
    assert ended.value.code == 2
    assert told in capsys.readouterr().err


def test_albert_of_any_size(tmp_path: Path) -> None:
    try:
        path = real_models.fetch("albert_uspto")
    except real_models.Unavailable as error:
        pytest.skip(str(error))
    hints = Hints({"i": ("N", "S"), "a": ("N", "S")}, {"a": "int64"})  # that i is of integers, it tells by itself
    compiled = compile_model(path, tmp_path / "a.gf", CompileOptions(cache=False), hints=hints)
    assert compiled.certificate is not None
    assert "torch" in compiled.certificate.verdict
    assert any("attention" in record.name for record in compiled.ledger.nodes)
    theirs = torch.jit.load(str(path))
    with compiled.session() as session:
        for shape in ((1, 128), (3, 17)):
            inputs = real_models.inputs("albert_uspto", shapes={"i": shape, "a": shape})
            inputs["a"][:, 0] = 1
            with torch.no_grad():
                expected = theirs(*(torch.from_numpy(array) for array in inputs.values()))
            expected = expected[0] if isinstance(expected, tuple) else expected
            [found] = session.run(None, inputs)
            np.testing.assert_allclose(found, expected.numpy(), 1e-3, 1e-3)
