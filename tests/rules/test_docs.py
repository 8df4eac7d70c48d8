"""The page on adding a rule quotes the source as it is, and the ledger says what it says the ledger says."""

from __future__ import annotations

import re
from pathlib import Path

import onnx
import onnx.parser
import pytest

from graphfuse.compiler import Job, run_stages
from graphfuse.ledger import Ledger
from graphfuse.options import CompileOptions
from graphfuse.rules import eliminate_dropout, rule_files
from graphfuse.rules.rule import Rule

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "adding_a_rule.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```python\n# (\S+)\n(.*?)```", PAGE, re.DOTALL)


def test_there_are_quotations() -> None:
    assert len(BLOCKS) == PAGE.count("```python") == 3


@pytest.mark.parametrize("path, code", BLOCKS, ids=[code.split("\n")[0] for _, code in BLOCKS])
def test_quotation_is_current(path: str, code: str) -> None:
    assert code in (ROOT / path).read_text(encoding="utf-8")


def test_every_declaration_is_explained() -> None:
    names = [name for name in Rule.__annotations__ if not name.startswith("_")]
    assert "keeps" in names
    for name in [*names, "STAGE", "ERROR_CLASS", "ORDER", "RULES", "HITS", "NEAR_MISSES"]:
        assert re.search(rf"`[^`\n]*\b{name}\b[^`\n]*`", PAGE), name
    for file in rule_files():
        assert f'`"{file.error_class}"`' in PAGE


def ledger_of(sample: str, folder: Path) -> Ledger:
    """The ledger of a sample after simplification; its nodes are named by operator and place."""
    text = '<ir_version: 10, opset_import: ["": 21]> ' + " ".join(sample.split())
    onnx.save(onnx.parser.parse_model(text), folder / "sample.onnx")
    return run_stages(Job(folder / "sample.onnx", CompileOptions()), stop_after="simplify").ledger


def test_the_ledger_records_what_the_page_says(tmp_path: Path) -> None:
    (removed,) = ledger_of(eliminate_dropout.HITS[0], tmp_path).nodes
    (miss,) = ledger_of(eliminate_dropout.NEAR_MISSES[0][0], tmp_path).misses
    assert f"{removed} {miss}" in " ".join(PAGE.split())
