"""graphfuse.explain: where Dynamo's graphs break, and what would join them."""
# ruff: noqa: E402

from __future__ import annotations

import json
from pathlib import Path

import pytest

torch = pytest.importorskip("torch", reason="needs PyTorch: pip install 'graphfuse[torch]'")

from torch import nn

import graphfuse as gf


class Broken(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = self.first(x).relu()
        if h.sum() > 0:  # the branch
            h = h * 2
        n = h.abs().max().item()  # the number
        h = h + n
        print("hello")  # the message
        return self.second(h)


def line_of(text: str) -> int:
    lines = Path(__file__).read_text(encoding="utf-8").splitlines()
    return next(k for k, line in enumerate(lines, 1) if line.endswith(f"# {text}"))


def test_breaks_have_lines_reasons_and_rewrites(capsys: pytest.CaptureFixture[str]) -> None:
    found = gf.explain(Broken().eval(), torch.ones(2, 4))
    assert [Path(b.file).name for b in found.breaks] == [Path(__file__).name] * 3
    branch, number, message = found.breaks
    assert (branch.line, number.line, message.line) == tuple(map(line_of, ("the branch", "the number", "the message")))
    assert "torch.cond" in branch.rewrite
    assert "torch.where" in branch.rewrite
    assert ".item()" in number.reason
    assert "move it out of forward" in message.rewrite
    assert len(found.graphs) == 4
    text = str(found)
    assert f"{Path(__file__).name}:{line_of('the branch')}" in text
    assert "operators in" in text
    assert json.loads(json.dumps(found.to_dict()))["breaks"][0]["line"] == branch.line
    assert capsys.readouterr().out == "hello\n"


def test_a_whole_graph_has_no_breaks() -> None:
    found = gf.explain(nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU()).eval(), torch.randn(1, 3, 8, 8))
    assert found.breaks == ()
    (graph,) = found.graphs
    assert graph.summary["kernel_calls"] == 1
    assert str(found).startswith(
        "Sequential: 1 graph, no breaks\n  graph 1: 3 operators in 1 kernel: 1 folded, 2 fused"
    )


def test_what_cannot_be_compiled_says_why() -> None:
    found = gf.explain(nn.Sequential(nn.Linear(3, 3), nn.Dropout(0.5)), torch.randn(2, 3))
    assert "draws random numbers" in found.graphs[0].problem
    assert "left to torch" in str(found)
