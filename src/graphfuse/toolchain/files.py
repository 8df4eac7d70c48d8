"""Files that are whole or absent: atomic writes, and disk faults told as one clear error."""

from __future__ import annotations

import errno
import hashlib
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from graphfuse.errors import GraphfuseError

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@contextmanager
def disk_errors(kind: type[GraphfuseError], place: Path | str, remedy: str = "") -> Iterator[None]:
    """Turns an OSError of the block into `kind`, which names `place`, says what failed and what to do."""
    try:
        yield
    except OSError as error:
        raise disk_error(kind, place, error, remedy) from error


def disk_error(kind: type[GraphfuseError], place: Path | str, error: OSError, remedy: str = "") -> GraphfuseError:
    """The error of `kind` for an OSError at `place`."""
    where = str(error.filename or place)
    if error.errno in _FULL:
        return full_disk(kind, where)
    return kind("cannot read or write", where=where, why=error.strerror or str(error), remedy=remedy)


def full_disk(kind: type[GraphfuseError], where: str) -> GraphfuseError:
    """The error of `kind` for a disk, quota or file size limit that is exhausted."""
    return kind("no space left to write", where=where, remedy="free some space, or use a folder on another disk")


def write_atomic(path: Path, data: bytes) -> None:
    """Writes `data` beside `path` and renames it into place: readers see the old file or the whole new one."""
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=".tmp-")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
        os.chmod(name, 0o644)
        os.replace(name, path)
    except BaseException:
        with suppress(OSError):
            os.unlink(name)
        raise


def sha256_of(path: Path) -> str:
    """The SHA-256 of a file's bytes, in hex."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
