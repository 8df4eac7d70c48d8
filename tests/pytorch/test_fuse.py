"""graphfuse.fuse: a compiled module in the place of the original."""
# ruff: noqa: E402

from __future__ import annotations

import copy
import dataclasses
import pickle
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="needs PyTorch: pip install 'graphfuse[torch]'")

from torch import nn

import graphfuse as gf
from graphfuse.errors import InputError, UnsupportedModelError


class Small(nn.Module):
    """Counts its calls; takes a number, returns a tree with a tensor, a size and None."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(6, 4)
        self.register_buffer("count", torch.zeros(()))

    def forward(self, x: torch.Tensor, scale: int = 2) -> dict[str, Any]:
        self.count.add_(1)
        return {"y": self.fc(x).relu() * scale + self.count, "rest": [x.shape[0], None]}


@pytest.fixture(scope="module")
def linear() -> Any:
    torch.manual_seed(0)
    return gf.fuse(nn.Sequential(nn.Linear(6, 4), nn.ReLU()).eval(), torch.randn(3, 6))


def test_trees_sizes_constants_and_states() -> None:
    module = Small().eval()
    batch = torch.export.Dim("batch")
    fused = gf.fuse(module, (torch.randn(2, 6), 3), dynamic_shapes=({0: batch}, None))
    assert module.count == 0  # verification leaves the module as it was
    assert [tensor.shape for tensor in fused.session.manifest.inputs] == [("batch", 6)]
    for rows in (2, 5, 2):
        x = torch.randn(rows, 6)
        ours, theirs = fused(x, 3), module(x, 3)
        torch.testing.assert_close(ours, theirs)
        assert ours["rest"] == [rows, None]
    assert fused.session.states["count"] == 3
    with pytest.raises(InputError, match="fixed at 3 when the module was fused; fuse"):
        fused(torch.randn(2, 6), 4)
    with pytest.raises(InputError, match="not built as the example was"):
        fused(torch.randn(2, 6))


def test_values_known_already_are_returned_too() -> None:
    class Described(nn.Module):
        def forward(self, x: torch.Tensor) -> Any:
            return x.exp(), x.shape[0], 2.5, None, "text", [True, x.shape[1], x.sum(0)]

    module, x = Described().eval(), torch.randn(3, 4)
    fused, expected = gf.fuse(module, (x,)), module(x)
    assert fused(x)[1:5] == expected[1:5] == (3, 2.5, None, "text")
    assert fused(x)[5][:2] == [True, 4]
    torch.testing.assert_close(fused(x)[0], expected[0])
    torch.testing.assert_close(fused(x)[5][2], expected[5][2])
    by_size = gf.fuse(module, (x,), dynamic_shapes=({0: torch.export.Dim("n")},))
    assert by_size(torch.randn(7, 4))[1] == 7


@pytest.mark.parametrize("padding", [None, 2])
@pytest.mark.parametrize("mode", ["sum", "mean", "max"])
def test_bags_of_embeddings(mode: str, padding: int | None) -> None:
    for ends in (False, True):
        bags = nn.EmbeddingBag(10, 4, mode=mode, padding_idx=padding, include_last_offset=ends).eval()
        indices, offsets = torch.randint(0, 10, (15,)), torch.tensor([0, 3, 3, 9, 15])
        weights = (torch.rand(15),) if mode == "sum" else ()
        fused = gf.fuse(bags, (indices, offsets, *weights))
        with torch.no_grad():
            torch.testing.assert_close(fused(indices, offsets, *weights), bags(indices, offsets, *weights))
            assert "embedding_bag" in fused.ledger.names
            rows = indices.view(3, 5)
            if not ends:
                torch.testing.assert_close(gf.fuse(bags, (rows,))(rows), bags(rows))


def test_keyword_arguments_and_dataclasses() -> None:
    @dataclasses.dataclass
    class Pair:
        total: torch.Tensor
        product: torch.Tensor

    torch.export.register_dataclass(Pair, serialized_type_name=f"tests.{Pair.__qualname__}")

    class Both(nn.Module):
        def forward(self, a: torch.Tensor, *, b: torch.Tensor) -> Pair:
            return Pair(a + b, a * b)

    a, b = torch.randn(4), torch.randn(4)
    result = gf.fuse(Both().eval(), (a,), kwargs={"b": b})(a, b=b)
    assert type(result) is Pair
    torch.testing.assert_close((result.total, result.product), (a + b, a * b))


def test_inputs_as_they_come(linear: Any) -> None:
    x = torch.randn(6, 3).t()
    torch.testing.assert_close(linear(x), linear.original(x).detach())
    with pytest.raises(InputError, match=r"torch.float64, expected torch.float32; convert it"):
        linear(x.double())
    with pytest.raises(InputError, match="this is a list, expected a tensor"):
        linear([1.0])
    with pytest.raises(InputError, match="input"):
        linear(torch.randn(2, 7))


def test_outputs_own_their_memory(linear: Any) -> None:
    x = torch.randn(3, 6)
    first = linear(x)
    kept = first.clone()
    linear(torch.randn(3, 6))
    torch.testing.assert_close(first, kept, rtol=0, atol=0)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_narrow_types(dtype: torch.dtype) -> None:
    torch.manual_seed(1)
    module = nn.Sequential(nn.Linear(6, 4), nn.GELU()).to(dtype).eval()
    x = torch.randn(3, 6, dtype=dtype)
    fused = gf.fuse(module, x)
    ours = fused(x)
    assert ours.dtype == dtype
    torch.testing.assert_close(ours, module(x).detach(), rtol=2e-2, atol=2e-2)


def test_integers_widen() -> None:
    module = nn.Embedding(10, 4).eval()
    fused = gf.fuse(module, torch.tensor([1, 2]))
    torch.testing.assert_close(fused(torch.tensor([3, 4], dtype=torch.int32)), module(torch.tensor([3, 4])).detach())


def test_what_a_module_changes_in_place() -> None:
    class Fill(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x[0] = 1.0
            return x.sum()

    x = torch.zeros(3, 2)
    fused = gf.fuse(Fill().eval(), x.clone())
    assert fused(x) == 2
    assert x[0].tolist() == [1.0, 1.0]


def test_gradients_run_the_original(linear: Any) -> None:
    linear._warned = False
    x = torch.randn(3, 6, requires_grad=True)
    with pytest.warns(UserWarning, match="requires gradients, so the original module runs"):
        linear(x).sum().backward()
    assert x.grad is not None
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        linear(x)  # said once
        assert linear(nn.Parameter(x.detach())).requires_grad
        with torch.inference_mode():
            torch.testing.assert_close(linear(x), linear.original(x))
        with torch.no_grad():
            assert not linear(x).requires_grad


def test_state_is_the_originals(linear: Any) -> None:
    original = linear.original
    assert linear.state_dict().keys() == original.state_dict().keys()
    assert [*linear.parameters()] == [*original.parameters()]
    assert linear.eval() is linear
    outer = nn.Sequential(linear, nn.ReLU())
    assert "0.0.weight" in outer.state_dict()
    assert len([*outer.parameters()]) == 2
    with pytest.raises(InputError, match=r"cannot be put in training mode.*train \.original"):
        linear.train()


@pytest.mark.parametrize("how", [copy.copy, copy.deepcopy, pickle.dumps])
def test_copies_are_refused(linear: Any, how: Any) -> None:
    with pytest.raises(InputError, match=r"cannot be copied or pickled; save\(\) writes"):
        how(linear)


def test_saved_artifact_runs_without_torch(linear: Any, tmp_path: Path) -> None:
    linear.save(tmp_path / "m.gf")
    x = torch.randn(3, 6)
    np.testing.assert_array_equal(gf.load(tmp_path / "m.gf")(x.numpy()), linear(x).numpy())


def test_a_second_time_comes_from_the_cache() -> None:
    torch.manual_seed(3)
    module = nn.Linear(5, 3).eval()
    gf.fuse(module, torch.randn(2, 5))
    assert gf.fuse(copy.deepcopy(module), torch.randn(2, 5))._compiled.found
    with torch.no_grad():
        module.bias.add_(1)
    assert not gf.fuse(module, torch.randn(2, 5))._compiled.found


# ---------------------------------------------------------------- training mode


def test_training_mode_is_refused() -> None:
    module = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Dropout(0.5))
    with pytest.raises(InputError) as error:
        gf.fuse(module, torch.randn(1, 3, 8, 8))
    text = str(error.value)
    assert "training mode" in text
    assert ".eval()" in text
    assert 'batch_norm="frozen"' in text
    assert 'dropout="keep"' in text
    assert "'1'" in text  # which batch norm
    with pytest.raises(InputError, match="dropout '2' would draw"):
        gf.fuse(module, torch.randn(1, 3, 8, 8), batch_norm="frozen")
    with pytest.raises(InputError, match="the policy dropout is 'no'"):
        gf.fuse(module, torch.randn(1, 3, 8, 8), dropout="no")
    with pytest.raises(InputError, match=r"call \.eval"):
        gf.fuse(nn.Linear(2, 2), torch.randn(1, 2))


def test_frozen_batch_norm() -> None:
    module = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU()).train()
    module[1].running_mean.normal_()
    x = torch.randn(2, 3, 8, 8)
    fused = gf.fuse(module, x, batch_norm="frozen")
    assert module.training
    assert module[1].training
    record = fused.ledger.record("1")
    assert record is not None
    assert (record.fate, record.into) == ("folded", "0")
    expected = copy.deepcopy(module).eval()(x)
    torch.testing.assert_close(fused(x), expected.detach(), rtol=1e-4, atol=1e-5)


# ---------------------------------------------------------------- what cannot be compiled


def test_a_custom_operator_is_named() -> None:
    library = torch.library.Library("gftest", "DEF")
    library.define("twice(Tensor x) -> Tensor")
    library.impl("twice", lambda x: x * 2, "CompositeExplicitAutograd")
    torch.library.register_fake("gftest::twice", lambda x: torch.empty_like(x), lib=library)

    class Inner(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.ops.gftest.twice(x)

    with pytest.raises(UnsupportedModelError) as error:
        gf.fuse(nn.Sequential(nn.Linear(3, 3), Inner()).eval(), torch.randn(2, 3))
    assert error.value.nodes[0][:2] == ("gftest.twice", "1")
    assert "torch's own operators" in str(error.value)


def test_a_data_dependent_branch_is_told() -> None:
    class Branch(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x + 1 if x.sum() > 0 else x - 1

    with pytest.raises(UnsupportedModelError, match=r"graphfuse\.explain.*torch\.compile"):
        gf.fuse(Branch().eval(), torch.randn(3))


def test_what_is_no_module_is_told() -> None:
    with pytest.raises(InputError, match="expected a module of PyTorch"):
        gf.fuse("model.onnx", ())  # type: ignore[arg-type]


def test_torch_cond_becomes_control_flow() -> None:
    class Branch(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.cond(x.sum() > 0, lambda x: x.exp() * 2, lambda x: x - 1, (x,))

    module = Branch().eval()
    fused = gf.fuse(module, torch.ones(3))
    for x in (torch.ones(3), -torch.ones(3)):
        torch.testing.assert_close(fused(x), module(x))
    assert "torch.cond" in {fused.ledger.op_type(name) for name in fused.ledger.names}


def test_importing_graphfuse_leaves_torch_alone() -> None:
    code = "import sys, graphfuse; print('torch' in sys.modules)"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "False"


def test_without_torch_it_is_said_what_to_install() -> None:
    code = (
        "import sys; sys.modules['torch'] = None\nimport graphfuse as gf\n"
        "try:\n    gf.fuse(None, ())\nexcept gf.errors.InputError as error:\n    print(error)"
    )
    code = code.replace("gf.errors", "__import__('graphfuse.errors').errors")
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "pip install 'graphfuse[torch]'" in result.stdout


def test_monte_carlo_dropout() -> None:
    module = nn.Sequential(nn.Linear(4, 3000), nn.Dropout(0.3)).train()
    with torch.no_grad():
        module[0].weight.zero_()
        module[0].bias.fill_(1)
    x = torch.zeros(2, 4)
    fused = gf.fuse(module, x, dropout="keep", seed=5)
    calls = [fused(x) for _ in range(20)]
    dropped = torch.stack([call == 0 for call in calls]).double()
    torch.testing.assert_close(dropped.mean(), torch.tensor(0.3).double(), rtol=0, atol=0.01)
    # Calls are independent: of those that one drops, the next drops the same share, and no element fares worse.
    torch.testing.assert_close((dropped[0] * dropped[1]).mean(), torch.tensor(0.09).double(), rtol=0, atol=0.02)
    assert dropped.mean(0).max() < 0.9
    torch.testing.assert_close(calls[0][calls[0] != 0].mean(), torch.tensor(1 / 0.7))
    fused.session.reset()
    assert torch.equal(fused(x), calls[0])  # the seed decides
    assert not torch.equal(gf.fuse(module, x, dropout="keep", seed=6)(x), calls[0])
    assert module.training
