"""Every aten operator's spelling against torch, on odd shapes, with sizes known and with none known."""

from __future__ import annotations

from pathlib import Path

import pytest

from graphfuse.importers.torchscript.registry import all_ops
from torchscript.harness import agree_on, arrays_like
from torchscript.samples import SAMPLES


@pytest.mark.parametrize("sizes", ["known", "open"])
@pytest.mark.parametrize("name", SAMPLES)
def test_operator(name: str, sizes: str, tmp_path: Path) -> None:
    sample = SAMPLES[name]
    if sizes == "open" and not sample.open:
        pytest.skip("needs its sizes")
    arrays = arrays_like(sample.shapes, sample.dtypes)
    if sample.scale != 1 or sample.shift:
        arrays = [(a * sample.scale + sample.shift).astype(a.dtype) for a in arrays]
    agree_on(sample.program, arrays, tmp_path, open_sizes=sizes == "open")


def test_the_table_is_wide() -> None:
    assert len(all_ops()) >= 300
