"""Weights that change: a fused module after training, against the original."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch", reason="PyTorch is not installed")

import graphfuse  # noqa: E402
from graphfuse.errors import InputError  # noqa: E402


class Block(torch.nn.Module):  # type: ignore[misc, name-defined]
    """Two convolutions with batch norm around a shortcut."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = torch.nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn1 = torch.nn.BatchNorm2d(channels)
        self.conv2 = torch.nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn2 = torch.nn.BatchNorm2d(channels)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = torch.relu(self.bn1(self.conv1(x)))
        return torch.relu(self.bn2(self.conv2(y)) + x)


class Network(torch.nn.Module):  # type: ignore[misc, name-defined]
    """A small residual network with a learned temperature and a norm that begins as nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = torch.nn.Conv2d(3, 16, 3)
        self.blocks = torch.nn.Sequential(*[Block(16) for _ in range(2)])
        self.norm = torch.nn.LayerNorm(16)
        self.head = torch.nn.Linear(16, 10)
        self.temperature = torch.nn.Parameter(torch.tensor(2.0))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.blocks(self.stem(x)).mean((2, 3))
        return self.head(self.norm(y)) * self.temperature


def trained(module: torch.nn.Module, steps: int = 3) -> None:
    """A few steps that move every weight and the statistics of the batch norms."""
    module.train()
    optimiser = torch.optim.SGD(module.parameters(), 0.1)
    for _ in range(steps):
        optimiser.zero_grad()
        module(torch.randn(4, 3, 16, 16)).square().mean().backward()
        optimiser.step()
    module.eval()


@pytest.fixture
def network() -> torch.nn.Module:
    torch.manual_seed(0)
    return Network().eval()


def error(fused: torch.nn.Module, module: torch.nn.Module) -> float:
    x = torch.randn(2, 3, 16, 16)
    with torch.no_grad():
        return float((fused(x) - module(x)).abs().max())


def test_a_trained_module_is_taken_over(network: torch.nn.Module) -> None:
    fused = graphfuse.fuse(network, (torch.randn(2, 3, 16, 16),), cache=False)
    trained(network)
    assert error(fused, network) > 1e-3
    assert fused.update_weights()
    assert error(fused, network) < 1e-5
    trained(network)
    assert fused.update_weights(network.state_dict())
    assert error(fused, network) < 1e-5


def test_a_state_dict_goes_to_the_original_too(network: torch.nn.Module) -> None:
    fused = graphfuse.fuse(network, (torch.randn(2, 3, 16, 16),), cache=False)
    other = Network().eval()
    trained(other)
    assert fused.update_weights(other.state_dict())
    assert error(fused, other) < 1e-5
    assert error(network, other) == 0.0
    fused.load_state_dict(Network().eval().state_dict())
    assert error(fused, network) < 1e-5


def test_what_comes_from_the_cache_takes_new_weights(network: torch.nn.Module, tmp_path: object) -> None:
    for _ in range(2):
        fused = graphfuse.fuse(network, (torch.randn(2, 3, 16, 16),), cache_dir=tmp_path)
    assert fused._compiled.found
    trained(network)
    assert fused.update_weights()
    assert error(fused, network) < 1e-5


def test_code_that_depends_on_values_is_compiled_anew() -> None:
    """A weight of zeros adds nothing, and is left out; once it is something, the code is another."""

    class Shifted(torch.nn.Module):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.shift = torch.nn.Parameter(torch.zeros(3))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.exp(x + self.shift)

    module = Shifted().eval()
    x = torch.randn(2, 3)
    fused = graphfuse.fuse(module, (x,), cache=False)
    with torch.no_grad():
        module.shift += 1
        assert not fused.update_weights()
        torch.testing.assert_close(fused(x), module(x))


@pytest.mark.parametrize("learns", [True, False])
def test_code_from_the_cache_that_depends_on_values_is_compiled_anew(learns: bool, tmp_path: object) -> None:
    """What is in the cache was compiled with the values of before: a square, and a shift of nothing."""

    class Powered(torch.nn.Module):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("exponent", torch.tensor(2.0))
            self.shift = torch.nn.Parameter(torch.zeros(64))
            self.linear = torch.nn.Linear(64, 64)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.linear((x + self.shift).tanh()).abs() ** self.exponent

    module, x = Powered().eval(), torch.randn(3, 64)
    for _ in range(2):
        fused = graphfuse.fuse(module, (x,), cache_dir=tmp_path)
    assert fused._compiled.found
    with torch.no_grad():
        if learns:
            module.shift += 1
        else:
            module.exponent.fill_(3)
        assert not fused.update_weights()
        torch.testing.assert_close(fused(x), module(x))
        module.linear.weight.mul_(1.1)
        fused.update_weights()
        torch.testing.assert_close(fused(x), module(x))


def test_what_does_not_fit_is_refused(network: torch.nn.Module) -> None:
    fused = graphfuse.fuse(network, (torch.randn(2, 3, 16, 16),), cache=False, verify=False)
    before = network.head.weight.clone()
    with pytest.raises(InputError, match="no weight 'tail'"):
        fused.update_weights({"head.weight": torch.zeros(10, 16), "tail": torch.zeros(1)})
    with pytest.raises(InputError, match="expected"):
        fused.update_weights({"head.weight": torch.zeros(3)})
    assert torch.equal(before, network.head.weight)
