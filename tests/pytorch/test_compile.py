"""torch.compile(model, backend="graphfuse")."""
# ruff: noqa: E402

from __future__ import annotations

import os
import subprocess
import sys
import warnings
import weakref
from pathlib import Path

import pytest

torch = pytest.importorskip("torch", reason="needs PyTorch: pip install 'graphfuse[torch]'")

from torch import nn

from graphfuse.errors import UnsupportedModelError
from graphfuse.torch import backend


@pytest.fixture(autouse=True)
def _anew(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backend, "_said", set())
    monkeypatch.setattr(backend, "_live", weakref.WeakValueDictionary())


class Branch(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(6, 6), nn.Linear(6, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = self.first(x).relu()
        if h.sum() > 0:
            h = h * 2
        return self.second(h).sigmoid()


class Steps(nn.Module):
    """A Python loop over the length of a tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.cell = nn.Linear(4, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = torch.zeros(x.shape[1], 4)
        for k in range(x.shape[0]):
            h = torch.tanh(self.cell(h) + x[k])
        return h


def test_the_backend_is_listed() -> None:
    assert "graphfuse" in torch._dynamo.list_backends()


def test_both_sides_of_a_graph_break_are_fused() -> None:
    module = Branch().eval()
    compiled = torch.compile(module, backend="graphfuse", options={"fallback": False})
    with torch.no_grad():
        for x in (torch.ones(2, 6), torch.randn(2, 6)):
            torch.testing.assert_close(compiled(x), module(x))
    first, *others = backend.pieces()
    assert "first" in first.ledger.names
    assert others  # one for each way that the branch went
    assert all({"second", "sigmoid"} <= set(piece.ledger.names) for piece in others)


def test_a_loop_over_a_length() -> None:
    module = Steps().eval()
    compiled = torch.compile(module, backend="graphfuse", options={"fallback": False})
    with torch.no_grad():
        x = torch.randn(3, 2, 4)
        torch.testing.assert_close(compiled(x), module(x))
    (piece,) = backend.pieces()
    assert sum(op == "aten.tanh" for op in map(piece.ledger.op_type, piece.ledger.names)) == 3


def test_open_sizes_bound_the_number_of_compilations() -> None:
    module = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU()).eval()
    compiled = torch.compile(module, backend="graphfuse", options={"fallback": False})
    with torch.no_grad():
        for batch, size in ((2, 8), (3, 9), (4, 12), (5, 7), (2, 8)):
            x = torch.randn(batch, 3, size, size)
            torch.testing.assert_close(compiled(x), module(x), rtol=1e-4, atol=1e-5)
    assert len(backend.pieces()) == 2  # one for the first sizes, one for all others
    assert any(isinstance(d, str) for d in backend.pieces()[1].fused.session.manifest.inputs[0].shape)


def test_sizes_that_are_returned_and_buffers_that_change() -> None:
    class Counts(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("calls", torch.zeros(()))

        def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, int]:
            self.calls.add_(1)
            return x * self.calls, x.shape[0] + 1

    module = Counts().eval()
    compiled = torch.compile(module, backend="graphfuse", dynamic=True, options={"fallback": False})
    with torch.no_grad():
        for calls, rows in enumerate((3, 4, 5), 1):
            y, count = compiled(torch.ones(rows, 2))
            assert (float(y[0, 0]), count, float(module.calls)) == (calls, rows + 1, calls)


def test_weights_that_change_are_noticed() -> None:
    module = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2)).eval()
    compiled = torch.compile(module, backend="graphfuse", options={"fallback": False})
    x = torch.randn(3, 4)
    with torch.no_grad():
        compiled(x)
    optimizer = torch.optim.SGD(module.parameters(), 0.1)
    for _ in range(3):
        module(x).square().sum().backward()
        optimizer.step()
        with torch.no_grad():
            torch.testing.assert_close(compiled(x), module(x), rtol=1e-4, atol=1e-5)
    with torch.no_grad():
        module[0].weight = nn.Parameter(torch.randn(4, 4))
        torch.testing.assert_close(compiled(x), module(x), rtol=1e-4, atol=1e-5)
    assert len(backend.pieces()) == 1


def test_with_gradients_torch_runs_it_and_that_is_said_once() -> None:
    module = nn.Linear(4, 2).eval()
    compiled = torch.compile(module, backend="graphfuse")
    with pytest.warns(UserWarning, match="gradients are wanted, so torch runs the graph"):
        compiled(torch.randn(3, 4)).sum().backward()
    assert module.weight.grad is not None
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        torch.compile(nn.Linear(3, 2), backend="graphfuse")(torch.randn(2, 3))
    assert backend.pieces() == []


def test_training_mode_falls_back() -> None:
    module = nn.Sequential(nn.Linear(4, 64), nn.Dropout(0.5))
    compiled = torch.compile(module, backend="graphfuse")
    x = torch.randn(3, 4)
    with torch.no_grad(), pytest.warns(UserWarning, match=r"draws random numbers.*call \.eval\(\)"):
        first = compiled(x)
    with torch.no_grad():
        assert not torch.equal(compiled(x), first)
    module = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4))
    with torch.no_grad(), pytest.warns(UserWarning, match="statistics from the batch"):
        torch.compile(module, backend="graphfuse")(torch.randn(3, 4))
    assert module[1].num_batches_tracked == 1


def test_falling_back_can_be_refused() -> None:
    module = nn.Dropout(0.5)
    compiled = torch.compile(module, backend="graphfuse", options={"fallback": False})
    with torch.no_grad(), pytest.raises(Exception, match="draws random numbers") as error:
        compiled(torch.randn(3))
    assert isinstance(error.value.__cause__ or error.value, UnsupportedModelError | Exception)


def test_results_that_share_an_inputs_memory_stay_so() -> None:
    def views(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return x.view(-1), x * 2

    x = torch.zeros(2, 3)
    with torch.no_grad(), pytest.warns(UserWarning, match="a view of the input"):
        flat, _ = torch.compile(views, backend="graphfuse")(x)
    flat += 1
    assert x.sum() == 6


PROGRAM = """
import time, torch, warnings
from torch import nn
from graphfuse.torch import backend
torch.manual_seed(0)
module = nn.Sequential(nn.Linear(8, 8), nn.GELU(), nn.Linear(8, 2)).eval()
compiled = torch.compile(module, backend="graphfuse", options={"fallback": False})
with torch.no_grad():
    x = torch.randn(3, 8)
    torch.testing.assert_close(compiled(x), module(x))
print([piece.fused.found for piece in backend.pieces()])
"""


def test_a_second_process_compiles_nothing(tmp_path: Path) -> None:
    environment = {**os.environ, "GRAPHFUSE_CACHE_DIR": str(tmp_path)}
    command = [sys.executable, "-c", PROGRAM]
    told = [subprocess.run(command, env=environment, capture_output=True, text=True, check=True) for _ in range(2)]
    assert [result.stdout.strip() for result in told] == ["[False]", "[True]"]
