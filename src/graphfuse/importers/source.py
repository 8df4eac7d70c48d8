"""A model as its user keeps it, whatever the form."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import onnx
import onnx_ir as ir

from graphfuse.importers.common import Imported
from graphfuse.importers.spelling import Spelled
from graphfuse.options import Hints


class Source(ABC):
    """Something that can be read as a model.

    where: what messages call it, a path or the name of a class; format: what it was taken for, in the words of its
    framework; path: the file, None for an object in memory.
    """

    format: str = ""
    hints = Hints()
    takes_hints = False

    def __init__(self, where: str, path: Path | None = None) -> None:
        self.where, self.path = where, path

    @property
    def name(self) -> str:
        """The last part of `where`."""
        return self.path.name if self.path is not None else self.where

    @abstractmethod
    def read(self) -> Imported:
        """The model as a graph at one opset, every node named. Raises ModelFileError or UnsupportedModelError."""

    @abstractmethod
    def proto(self, weights: bool = False) -> onnx.ModelProto:
        """The model as ONNX, before any rewriting; weights: those in other files too."""

    def companions(self) -> tuple[str, ...]:
        """The files beside it that it needs, relative to its folder."""
        return ()


class Converted(Source):
    """A model of another framework, whose importer spells it in ONNX's operators."""

    @abstractmethod
    def convert(self) -> Spelled:
        """The model in ONNX's operators, under the user's own names. Raises ModelFileError or UnsupportedModelError."""

    @cached_property
    def converted(self) -> Spelled:
        """The same, made once."""
        return self.convert()

    def read(self) -> Imported:
        # Late, as importing a graph needs every rule of the conversion.
        from graphfuse.importers.onnx import import_graph

        spelled = self.converted
        imported = import_graph(spelled.model.clone(), self.where, spelled.operators)
        imported.states = spelled.states
        for subject, text in spelled.notes:
            imported.ledger.note("import", subject, text)
        return imported

    def proto(self, weights: bool = False) -> onnx.ModelProto:
        return ir.to_proto(self.converted.model)


@dataclass(frozen=True)
class Head:
    """The start of a file, and the names of the files inside it where it is a zip archive."""

    bytes: bytes
    members: tuple[str, ...] = ()


@dataclass(frozen=True)
class Format:
    """A form of model file: how its contents are told from others, and what reads it.

    order: formats are asked in this order, the surest marks first; open: (path, whether pickled code may be executed)
    -> Source, or ModelFileError for a form that cannot be read, which says what to do instead.
    """

    name: str
    order: int
    holds: Callable[[Head], bool]
    open: Callable[[Path, bool], Source]
