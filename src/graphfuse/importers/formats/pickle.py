"""Pickles, as torch.save writes them: Python programs that build an object, refused unless the user trusts them.

What a pickle would build is told from its opcodes, which are listed and never executed.
"""

from __future__ import annotations

import importlib.util
import io
import pickletools
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from graphfuse.errors import ModelFileError, one_line
from graphfuse.importers.source import Format, Head, Source

_LEGACY = 0x1950A86A20F9469CFC6C  # the number that torch.save wrote first, before it wrote zip archives
_LARGEST = 1 << 26  # bytes of opcodes that are looked at
_MOST = 200_000  # opcodes
_CONTAINERS = frozenset({"EMPTY_DICT", "DICT"})
_WEIGHTS = "torch._utils._rebuild"


def _holds(head: Head) -> bool:
    """Whether it is a bare pickle, or an archive of one without a program beside it."""
    if head.members:
        roots = [name.partition("/")[0] for name in head.members if name.endswith("/data.pkl") and name.count("/") == 1]
        return any(not name.startswith(f"{root}/code/") for root in roots for name in head.members)
    return head.bytes[:1] == b"\x80" and 2 <= (head.bytes[1:2] or b"\0")[0] <= 5


def _open(path: Path, allow_pickle: bool) -> Source:
    what, is_weights = _described(path)
    if is_weights:
        raise ModelFileError(
            f"a pickle of {what}: weights alone, without the program that uses them", where=str(path),
            remedy="load them into their module in Python, and save that with torch.export.save or torch.jit.save, or "
            "give the module to graphfuse.fuse",
        )  # fmt: skip
    if not allow_pickle:
        raise ModelFileError(
            f"a pickle of {what}; loading one executes whatever Python code its author put there", where=str(path),
            remedy="if you trust the file, pass --allow-pickle (in Python allow_pickle=True); better, save the model "
            "with torch.export.save or torch.jit.save",
        )  # fmt: skip
    return _module(path, what)


def _module(path: Path, what: str) -> Source:
    """The object, built by executing the pickle."""
    if importlib.util.find_spec("torch") is None:
        remedy = "install it: pip install 'graphfuse[torch]'"
        raise ModelFileError(
            "a pickled PyTorch model needs PyTorch, which is not installed", where=str(path), remedy=remedy
        )
    import torch

    try:
        found = torch.load(path, map_location="cpu", weights_only=False)
    except Exception as error:  # whatever the code in it raises
        why = one_line(f"{type(error).__name__}: {error}", 200)
        remedy = "its classes have to be importable here, at the versions that it was saved with"
        raise ModelFileError(
            f"the pickle of {what} cannot be loaded", where=str(path), why=why, remedy=remedy
        ) from error
    if not isinstance(found, torch.nn.Module):
        kind = f"{type(found).__module__}.{type(found).__qualname__}"
        what, remedy = f"the pickle holds an object of {kind}, which is no torch.nn.Module", "save the module itself"
        raise ModelFileError(what, where=str(path), remedy=remedy)
    from graphfuse.importers.pickled import Pickled

    return Pickled(found, path)


# ---------------------------------------------------------------- what a pickle would build


def _described(path: Path) -> tuple[str, bool]:
    """What the pickle builds, in words, and whether that is weights. Raises ModelFileError for a damaged one."""
    try:
        with path.open("rb") as file:
            stream = _opcodes_of(file)
            return _described_opcodes(stream)
    except (ValueError, IndexError, OverflowError, UnicodeError, zipfile.BadZipFile, NotImplementedError) as error:
        why = one_line(str(error), 120)
        remedy = "download or save the model again"
        raise ModelFileError("a damaged pickle", where=str(path), why=why, remedy=remedy) from error
    except OSError as error:
        raise ModelFileError("cannot be read", where=str(path), why=error.strerror or str(error)) from error


def _opcodes_of(file: IO[bytes]) -> IO[bytes]:
    """The opcodes of the object: those of the archive's data.pkl, or behind the headers of older files."""
    start = file.read(4)
    file.seek(0)
    if start == b"PK\x03\x04":
        with zipfile.ZipFile(file) as archive:
            name = next(n for n in archive.namelist() if n.endswith("/data.pkl") and n.count("/") == 1)
            with archive.open(name) as member:
                return io.BytesIO(member.read(_LARGEST))
    if any(argument == _LEGACY for _, argument, _ in list(_first(pickletools.genops(file)))):
        for _ in range(2):  # the version of the format, and the machine's number formats
            list(_first(pickletools.genops(file)))
    else:
        file.seek(0)
    return file


def _first(opcodes: Iterator[Any]) -> Iterator[Any]:
    """The opcodes up to the bound."""
    for count, opcode in enumerate(opcodes):
        if count > _MOST:
            return
        yield opcode


def _described_opcodes(stream: IO[bytes]) -> tuple[str, bool]:
    texts: list[str] = []
    is_dict = False
    for opcode, argument, _ in _first(pickletools.genops(stream)):
        if opcode.name in _CONTAINERS and not texts:
            is_dict = True
        if "UNICODE" in opcode.name or opcode.name == "STRING":
            texts.append(str(argument))
        found = ""
        if opcode.name == "GLOBAL":
            found = str(argument).replace(" ", ".")
        elif opcode.name == "STACK_GLOBAL":
            found = ".".join(texts[-2:])
        if not found:
            continue
        if found == "collections.OrderedDict" or found.startswith(_WEIGHTS):
            return "a state_dict", True
        if is_dict:
            return f"a dict with objects of {one_line(found, 100)} in it", False
        return f"an object of {one_line(found, 100)}", False
    return ("a dict" if is_dict else "plain Python values"), False


FORMAT = Format("pickle", order=40, holds=_holds, open=_open)
