"""torch.export: a zip archive that says of itself what it is."""

from __future__ import annotations

from pathlib import Path

from graphfuse.importers.exported_archive import ExportedFile, holds_program
from graphfuse.importers.source import Format, Head, Source


def _holds(head: Head) -> bool:
    return holds_program(head.members)


def _open(path: Path, allow_pickle: bool) -> Source:
    return ExportedFile(path, allow_pickle)


FORMAT = Format("torch.export", order=20, holds=_holds, open=_open)
