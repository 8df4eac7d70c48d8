"""The guide to kernels shows code as it is."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
GUIDE = (ROOT / "docs" / "adding_a_kernel.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```python\n# (\S+)\n(.*?)```", GUIDE, re.DOTALL)


def test_the_guide_shows_code() -> None:
    assert BLOCKS


@pytest.mark.parametrize("path, code", BLOCKS, ids=[path for path, _ in BLOCKS])
def test_code_blocks_are_in_the_source(path: str, code: str) -> None:
    assert code in (ROOT / path).read_text(encoding="utf-8")


def test_every_shared_module_is_named() -> None:
    named = set(re.findall(r"^\| `(\w+\.py)`", GUIDE, re.MULTILINE))
    assert all((ROOT / "src" / "graphfuse" / "kernels" / name).exists() for name in named)
