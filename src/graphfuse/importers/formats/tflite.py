"""TFLite: a flatbuffer with the identifier TFL3."""

from __future__ import annotations

from pathlib import Path

from graphfuse.importers.source import Converted, Format
from graphfuse.importers.spelling import Spelled


class TFLiteFile(Converted):
    """A TFLite file."""

    format = "TFLite"
    path: Path

    def __init__(self, path: Path) -> None:
        super().__init__(str(path), path)

    def convert(self) -> Spelled:
        # Late: the package for the schema is optional.
        from graphfuse.importers.tflite.convert import convert_file

        return convert_file(self.path)


_MARK = b"TFL3"
FORMAT = Format("TFLite", 10, holds=lambda head: head.bytes[4:8] == _MARK, open=lambda path, _: TFLiteFile(path))
