"""The way out to PyTorch: plain modules that compute the same, can be trained, and are written as torch.export does."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import numpy as np
import onnx
import pytest

torch = pytest.importorskip("torch")

import graphfuse as gf  # noqa: E402
import real_models  # noqa: E402
import zoo  # noqa: E402
from graphfuse.cli import main  # noqa: E402
from graphfuse.errors import InputError, UnsupportedModelError  # noqa: E402
from graphfuse.export.torch import module_of, supported  # noqa: E402
from graphfuse.importers.torch_tensors import to_array, to_tensor  # noqa: E402
from ops.cases import Case, all_cases, expected, inferred  # noqa: E402
from ops.test_ops import assert_close  # noqa: E402

# Where PyTorch's own functions have other values at infinity.
ELSEWHERE = {"Gelu-4": "gelu(inf) is NaN", "Pow-6": "(-inf) ** 0.5 and (-0.0) ** 0.5 are those of sqrt"}
# Written for completeness; ONNX's operator is deprecated, or its samples are of another opset.
WITHOUT_SAMPLE = {"Constant", "GlobalLpPool", "Scatter"}


@cache
def cases() -> dict[str, list[Case]]:
    found: dict[str, list[Case]] = {}
    for case in all_cases():
        node = case.model.graph.node[0]
        if not node.domain and node.op_type in supported():
            found.setdefault(node.op_type, []).append(case)
    return found


def run(module: torch.nn.Module, arrays: Iterator[np.ndarray]) -> list[np.ndarray]:
    with torch.no_grad():
        outputs = module(*[to_tensor(np.array(x, order="C")) for x in arrays])
    return [to_array(y) for y in (outputs if isinstance(outputs, tuple | list) else [outputs])]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("op", sorted(set(supported()) - WITHOUT_SAMPLE))
def test_samples_of_every_operator(op: str) -> None:
    """Each is written and right, or refused by name; of every operator one at least is written."""
    written = 0
    for case in cases()[op]:
        if case.id in ELSEWHERE:
            continue
        try:
            module = module_of(inferred(case.model))
        except UnsupportedModelError as error:
            refused = [name for name, _, _ in error.nodes]
        else:
            refused = []
            assert_close(run(module, iter(case.inputs.values())), expected(case), sums=True)
            written += 1
        assert refused in ([], [op])
    assert written


def test_the_table_is_wide() -> None:
    assert len(supported()) >= 120


@pytest.mark.parametrize(
    "name", ["resnet18", "mobilenet_v3_large", "vit_tiny", "minilm", "lstm", "swift_f0", "plcmos_v2"]
)
def test_command_writes_networks_that_are_right(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = zoo.path(name) if name in zoo.NAMES else real_models.fetch(name)
    with pytest.raises(SystemExit) as ended:
        main(["export", str(path), "--to", "torch", "-o", str(tmp_path / "out.pt2"), "--json"])
    told = json.loads(capsys.readouterr().out)
    assert ended.value.code == 0
    assert told["certificate"]["passed"]
    assert told["fixed"] == []  # free sizes stay free
    assert [file.name for file in tmp_path.iterdir()] == ["out.pt2"]


def test_programs_are_called_what_torch_reads(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["export", str(zoo.path("lstm")), "--to", "torch", "-o", str(tmp_path / "net.py")])
    assert ended.value.code == 2
    assert "name it net.pt2" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_modules_read_as_a_person_writes_them() -> None:
    module = gf.to_torch(zoo.path("vit_tiny"))
    assert isinstance(module, torch.nn.Module)
    assert not module.training
    assert type(module.get_submodule("blocks.0.norm1")) is torch.nn.LayerNorm
    assert type(module.get_submodule("blocks.0.attn.qkv")) is torch.nn.Linear
    assert {"cls_token", "blocks.11.mlp.fc2.bias"} <= set(module.state_dict())
    assert "gelu" in module.code


def test_folded_weights_can_be_trained(tmp_path: Path) -> None:
    module = gf.to_torch(zoo.path("resnet18"))
    assert not any("batch_norm" in str(node.target) for node in module.graph.nodes)
    x = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    before = module(x).detach()
    optimiser = torch.optim.SGD(module.parameters(), lr=1e-3)
    loss = module(x).square().mean()
    loss.backward()
    convolutions = [m for m in module.modules() if isinstance(m, torch.nn.Conv2d)]
    assert len(convolutions) == 20
    assert all(m.weight.grad is not None and bool(m.weight.grad.abs().sum() > 0) for m in convolutions)
    optimiser.step()
    assert float(module(x).detach().square().mean()) < float(before.square().mean())
    again = gf.to_torch(zoo.path("resnet18"))
    again.load_state_dict(module.state_dict())
    assert torch.equal(again(x), module(x))


def test_a_module_goes_round() -> None:
    body = torch.nn.Sequential(
        torch.nn.Conv2d(3, 7, 3, padding=1, bias=False), torch.nn.BatchNorm2d(7), torch.nn.ReLU(), torch.nn.Flatten(),
        torch.nn.Linear(7 * 25, 4),
    ).eval()  # fmt: skip
    body[1].running_mean.uniform_(-1, 1, generator=torch.Generator().manual_seed(1))
    x = torch.randn(2, 3, 5, 5, generator=torch.Generator().manual_seed(2))
    plain = gf.to_torch(body, (x,))
    assert not any(isinstance(m, torch.nn.BatchNorm2d) for m in plain.modules())
    torch.testing.assert_close(plain(x), body(x))


def parsed(text: str, folder: Path) -> Path:
    onnx.save(onnx.parser.parse_model(f'<ir_version: 10, opset_import: ["": 20]> {text}'), folder / "in.onnx")
    return folder / "in.onnx"


def test_what_pytorch_lacks_is_refused_by_name(tmp_path: Path) -> None:
    text = "g (float[1, 4, 4] b, float[1, 1, 4] s) => (int64[N, 3] y) { y = NonMaxSuppression(b, s) }"
    with pytest.raises(UnsupportedModelError, match=r"cannot be exported to PyTorch.*--to onnx") as caught:
        gf.to_torch(parsed(text, tmp_path))
    assert "NonMaxSuppression" in [op for op, _, _ in caught.value.nodes]


def test_names_of_strangers_are_no_code(tmp_path: Path) -> None:
    hostile = 'a"]; raise SystemExit  #.class.__init__./x\ny'
    weight = onnx.numpy_helper.from_array(np.ones((3, 3), np.float32), hostile)
    nodes = [onnx.helper.make_node("Add", ["in put", hostile], ["y"], name=hostile)]
    inputs, outputs = ([onnx.helper.make_tensor_value_info(name, 1, [3, 3])] for name in ("in put", "y"))
    graph = onnx.helper.make_graph(nodes, hostile, inputs, outputs, [weight])
    onnx.save(
        onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 20)], ir_version=10),
        tmp_path / "in.onnx",
    )
    module = gf.to_torch(tmp_path / "in.onnx")
    assert torch.equal(module(torch.zeros(3, 3)), torch.ones(3, 3))


def test_without_torch_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.startswith(("graphfuse.torch", "graphfuse.export.torch"))]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.delattr(gf, "torch", raising=False)
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(InputError, match=r"graphfuse\[torch\]"):
        gf.to_torch("model.onnx")
