"""The commands that take a TorchScript file, with what it does not say given as options."""

from __future__ import annotations

import json
from pathlib import Path

import onnx
import pytest
import torch

from graphfuse.cli import main
from torchscript.harness import saved

HINTS = ("--shape", "x=Nx3", "--value", "scale=2")
QUICK = ("--threads", "1", "--seconds", "0.02", "--json")


class Keeper(torch.nn.Module):
    """Keeps the sum of all that it returned."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = torch.nn.Linear(3, 4)
        self.register_buffer("kept", torch.zeros(4))

    def forward(self, x: torch.Tensor, scale: int) -> torch.Tensor:
        y = self.linear(x).relu() * scale
        self.kept = self.kept + y.sum(0)
        return y + self.kept


class Plain(torch.nn.Module):
    def forward(self, x: torch.Tensor, scale: int) -> torch.Tensor:
        return x.exp() * scale


@pytest.fixture(params=[Keeper, Plain])
def model(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    return saved(torch.jit.script(request.param().eval()), tmp_path)


def run(*arguments: object) -> int:
    with pytest.raises(SystemExit) as ended:
        main([str(argument) for argument in arguments])
    assert isinstance(ended.value.code, int)
    return ended.value.code


def test_profile(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("profile", model, *HINTS, "--dim", "N=5", *QUICK) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["model"] == "model.pt"
    assert found["inputs"] == {"x": "float32 5×3"}
    assert found["calls"]


def test_bench(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("bench", model, *HINTS, "--dim", "N=5", *QUICK) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["model"] == "model.pt"
    assert found["inputs"]["x"] == "float32 5×3"
    assert [row["runtime"] for row in found["timings"]] == ["graphfuse", "onnxruntime"]


def test_export(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("export", model, *HINTS, "-o", tmp_path / "out.onnx", "--json") == 0
    assert json.loads(capsys.readouterr().out)["certificate"]["passed"]
    x = onnx.load(tmp_path / "out.onnx").graph.input[0]
    assert [dim.dim_param or dim.dim_value for dim in x.type.tensor_type.shape.dim] == ["N", 3]


@pytest.mark.parametrize("command", [("profile",), ("bench",), ("export", "-o", "out.onnx")])
def test_what_is_missing_is_named(
    command: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    file = saved(torch.jit.script(Plain().eval()), tmp_path)
    assert run(*command, file) == 2
    assert "--shape x=1x3x224x224 --value scale=16000" in capsys.readouterr().err
    torch.save(Plain().eval(), file)
    assert run(*command, file, *HINTS) == 2
    assert "pass --allow-pickle" in capsys.readouterr().err


def test_an_artifact_takes_no_shapes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("profile", tmp_path / "model.gf", *HINTS) == 2
    assert "an artifact has them from its compilation" in capsys.readouterr().err
