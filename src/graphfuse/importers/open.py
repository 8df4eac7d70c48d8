"""Which form of model a file holds, told by its contents and never by its name."""

from __future__ import annotations

import importlib
import pkgutil
import zipfile
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from graphfuse.errors import ModelFileError
from graphfuse.importers import formats
from graphfuse.importers.formats import foreign
from graphfuse.importers.source import Format, Head, Source
from graphfuse.options import Hints

_HEAD = 4096  # bytes at the start of a file that tell its format


@cache
def all_formats() -> Sequence[Format]:
    """Every file of importers/formats, in the order that they are asked."""
    names = sorted(info.name for info in pkgutil.iter_modules(formats.__path__))
    found = [importlib.import_module(f"{formats.__name__}.{name}").FORMAT for name in names]
    return sorted(found, key=lambda f: (f.order, f.name))


def open_model(
    path: Path,
    allow_pickle: bool = False,
    hints: Hints | None = None,
    arrays: Mapping[str, np.ndarray[Any, Any]] | None = None,
) -> Source:
    """The model in a file, of whatever format its contents say.

    allow_pickle: the user's word that Python code in a pickle may be executed; hints: what the file does not say, such
    as shapes; arrays: examples of inputs, whose shapes count where `hints` says nothing. Raises ModelFileError, and
    InputError for hints where the format says all that itself.
    """
    head = head_of(path)
    source = next(f for f in all_formats() if f.holds(head)).open(path, allow_pickle)
    hints = hints or Hints()
    if not source.takes_hints:
        hints.refuse(source.where, f"taken for {source.format}, which says that itself")
    source.hints = hints.with_arrays(arrays or {})
    return source


def head_of(path: Path) -> Head:
    """What tells a file's format. Raises ModelFileError where there is none to be read."""
    where = str(path)
    if not path.exists():
        raise ModelFileError("no such file", where=where, remedy="check the path")
    if not path.is_file():
        what, remedy = foreign.what_folder(path) or ("not a file", "give the path of a model file")
        raise ModelFileError(what, where=where, remedy=remedy)
    try:
        with path.open("rb") as file:
            start = file.read(_HEAD)
        members = _members(path) if start[:4] == b"PK\x03\x04" else ()
    except OSError as error:
        raise ModelFileError("cannot be read", where=where, why=error.strerror or str(error)) from error
    return Head(start, members)


def _members(path: Path) -> tuple[str, ...]:
    try:
        with zipfile.ZipFile(path) as archive:
            return tuple(archive.namelist())
    except (zipfile.BadZipFile, NotImplementedError, UnicodeDecodeError) as error:
        remedy = "download or save the model again"
        raise ModelFileError("a damaged zip archive", where=str(path), why=str(error), remedy=remedy) from error
