"""The page on adding an op quotes the source as it is."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
BLOCKS = re.findall(r"```python\n# (\S+)\n(.*?)```", (ROOT / "docs" / "adding_an_op.md").read_text(), re.DOTALL)


def test_there_are_quotations() -> None:
    assert len(BLOCKS) == 5


@pytest.mark.parametrize("path, code", BLOCKS, ids=[code.split("(")[0].split("\n")[0] for _, code in BLOCKS])
def test_quotation_is_current(path: str, code: str) -> None:
    assert code in (ROOT / path).read_text()
