"""Whole architectures through every door: a module, its exported program, torch.compile. Equal results and regions."""
# ruff: noqa: E402

from __future__ import annotations

from pathlib import Path

import pytest

torch = pytest.importorskip("torch", reason="needs PyTorch: pip install 'graphfuse[torch]'")

from torch.utils import _pytree as pytree

import graphfuse as gf
from architectures import ARCHITECTURES, built
from graphfuse.account import account_of
from graphfuse.compiler import compile_model
from graphfuse.importers.exported import Exported
from graphfuse.importers.open import open_model
from graphfuse.ledger import Ledger
from graphfuse.options import CompileOptions
from graphfuse.torch import backend


def figures(ledger: Ledger) -> tuple[int, int, int]:
    """Kernel calls, operators, edges that did not fuse."""
    return len(account_of(ledger).kernels), len(ledger.names), len(ledger.edges)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_equal_results_and_regions(name: str, tmp_path: Path) -> None:
    module, args = built(name)
    with torch.no_grad():
        expected = module(*args)
        fused = gf.fuse(module, args)
        torch.testing.assert_close(fused(*args), expected, rtol=1e-4, atol=1e-5)

        torch.export.save(torch.export.export(module, args), tmp_path / "m.pt2")
        source = open_model(tmp_path / "m.pt2")
        assert source.format == "torch.export"
        exported = compile_model(source, tmp_path / "m.gf", CompileOptions())
        assert exported.certificate is not None
        assert exported.certificate.passed
        found = exported.session()(*(arg.numpy() for arg in args))
        found = found if isinstance(found, tuple) else (found,)
        for ours, theirs in zip(found, pytree.tree_leaves(expected), strict=True):
            torch.testing.assert_close(torch.from_numpy(ours), theirs, rtol=1e-4, atol=1e-5)

        compiled = torch.compile(module, backend="graphfuse", options={"fallback": False})
        torch.testing.assert_close(compiled(*args), expected, rtol=1e-4, atol=1e-5)
    piece = backend.pieces()[-1]
    assert fused.certificate is not None
    assert "torch" in fused.certificate["versions"]
    assert figures(fused.ledger) == figures(exported.ledger) == figures(piece.ledger)
    assert fused.ledger.names == exported.ledger.names
    assert figures(fused.ledger)[0] < figures(fused.ledger)[1]


def test_operators_have_the_names_of_modules() -> None:
    module, args = built("resnet")
    ledger = gf.fuse(module, args, verify=False).ledger
    assert {"conv1", "bn1", "layer1.0.conv2", "layer1.0/add_", "layer1.0.relu/relu_", "fc"} <= set(ledger.names)
    record = ledger.record("layer1.0.bn2")
    assert record is not None
    assert (record.op_type, record.fate, record.into) == ("aten.batch_norm", "folded", "layer1.0.conv2")
    assert len(ledger.nodes) == len(ledger.names)


def test_hugging_face_bert(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers", reason="needs Hugging Face's transformers")
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
    module = transformers.BertModel(transformers.BertConfig(vocab_size=50, **sizes)).eval()
    ids, mask = torch.randint(0, 50, (2, 11)), (torch.arange(11) < torch.tensor([[11], [7]])).long()
    args = {"input_ids": ids, "attention_mask": mask}
    with torch.no_grad():
        expected = module(**args)
        fused = gf.fuse(module, (), kwargs=args)
        exported = compile_model(
            Exported(torch.export.export(module, (), args)), tmp_path / "m.gf", CompileOptions(verify=False)
        )
        compiled = torch.compile(module, backend="graphfuse", options={"fallback": False})
        for found in (fused(**args), compiled(**args)):
            assert type(found) is type(expected)
            torch.testing.assert_close(found.last_hidden_state, expected.last_hidden_state, rtol=1e-4, atol=1e-5)
            torch.testing.assert_close(found.pooler_output, expected.pooler_output, rtol=1e-4, atol=1e-5)
    ledgers = (fused.ledger, exported.ledger, backend.pieces()[-1].ledger)
    assert len({figures(ledger)[0] for ledger in ledgers}) == 1
