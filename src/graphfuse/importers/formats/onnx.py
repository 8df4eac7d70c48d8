"""ONNX: protobuf, which has no mark of its own, so that it is what nothing else is."""

from __future__ import annotations

from pathlib import Path

import onnx

from graphfuse.importers.checks import external_files, read_proto
from graphfuse.importers.common import Imported
from graphfuse.importers.onnx import import_onnx
from graphfuse.importers.source import Format, Source


class OnnxFile(Source):
    """An ONNX file."""

    format = "ONNX"
    path: Path

    def __init__(self, path: Path) -> None:
        super().__init__(str(path), path)

    def read(self) -> Imported:
        return import_onnx(self.path)

    def proto(self, weights: bool = False) -> onnx.ModelProto:
        return onnx.load(self.path, load_external_data=weights)

    def companions(self) -> tuple[str, ...]:
        return tuple(external_files(read_proto(self.path), self.path))


FORMAT = Format("ONNX", order=100, holds=lambda head: True, open=lambda path, _: OnnxFile(path))
