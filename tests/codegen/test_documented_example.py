"""The example in docs/system.md is what the code prints."""

from __future__ import annotations

import re
from pathlib import Path

from codegen.building import fused, parse
from graphfuse.compiler import STAGES
from graphfuse.plan.text import fusion_text
from ops.cases import inferred

TEXT = (Path(__file__).parents[2] / "docs" / "system.md").read_text(encoding="utf-8")


def block(language: str) -> str:
    [found] = re.findall(rf"^```{language}\n(.*?)^```$", TEXT, re.DOTALL | re.MULTILINE)
    return str(found)


def test_the_example_fuses_as_it_says() -> None:
    assert fusion_text(fused(inferred(parse(block("onnx"))))) == block("fused")


def test_every_stage_is_in_the_table() -> None:
    rows = re.findall(r"^\| (\w+) \|", TEXT.partition("## Front doors")[0], re.MULTILINE)
    assert rows == ["stage", *(stage.name for stage in STAGES)]


def test_folders_and_files_exist() -> None:
    root = Path(__file__).parents[2]
    named = re.findall(r"`((?:\w+/)+\w*(?:\.\w+)?)`", TEXT)
    missing = [n for n in named if not (root / n).exists() and not (root / "src" / "graphfuse" / n).exists()]
    assert named
    assert not missing
