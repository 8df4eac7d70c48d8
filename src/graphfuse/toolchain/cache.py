"""The content-addressed object cache: compiled objects and libraries under the SHA-256 of all they were made from.

    objects/ab/abcd...   one entry: SHA-256 of the payload in hex, a line break, the payload
    models/              artifacts of models, and which files beside a model hold its weights (`artifact/reuse.py`)
    limits/              what was measured of this machine (`bench/limits.py`)
    zig/                 zig's own cache of its C library and compiler runtime, one set for each architecture
    tmp/                 working folders of builds that run now
    failed/              C sources that a compiler refused, kept for bug reports

Any number of processes may use one folder at once: entries appear by rename and are checked against their hash when
read.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from graphfuse.errors import ToolchainError
from graphfuse.toolchain.files import disk_errors, write_atomic

_HEADER_BYTES = 65  # 64 hex digits and a line break
_STALE_SECONDS = 24 * 3600  # no build takes a day: what is older was left by a process that was killed
_REMEDY = "set GRAPHFUSE_CACHE_DIR to a folder that can be written"


@dataclass(frozen=True)
class CacheInfo:
    """What a cache folder holds; sizes in bytes."""

    root: Path
    entries: int
    models: int
    object_bytes: int
    model_bytes: int
    zig_bytes: int
    other_bytes: int


class ObjectCache:
    """Compiled objects by key, in a folder that is made when first written to and pruned to `limit` bytes."""

    def __init__(self, root: Path, limit: int = 2 << 30) -> None:
        self.root = root.absolute()
        self.limit = limit
        self._objects = self.root / "objects"
        self._work = self.root / "tmp"

    @property
    def models(self) -> Path:
        """The folder of whole artifacts."""
        return self.root / "models"

    @property
    def zig(self) -> Path:
        """The folder of zig's own cache."""
        return self.root / "zig"

    def get(self, key: str) -> bytes | None:
        """The payload stored under `key`, or None if there is none or it is damaged (then it is removed)."""
        path = self._path(key)
        try:
            entry = path.read_bytes()
        except OSError:
            return None
        payload = entry[_HEADER_BYTES:]
        if entry[:_HEADER_BYTES] != _header(payload):
            _remove(path)
            return None
        with suppress(OSError):
            os.utime(path)  # pruning goes by the time of last use
        return payload

    def put(self, key: str, payload: bytes) -> None:
        """Stores `payload` under `key`, whole or not at all. Raises ToolchainError when the disk does not take it."""
        path = self._path(key)
        with disk_errors(ToolchainError, path, _REMEDY):
            path.parent.mkdir(parents=True, exist_ok=True)
            write_atomic(path, _header(payload) + payload)

    @contextmanager
    def workdir(self) -> Iterator[Path]:
        """An empty folder for one build, gone when the block ends. Raises ToolchainError if it cannot be made."""
        with disk_errors(ToolchainError, self._work, _REMEDY):
            self._work.mkdir(parents=True, exist_ok=True)
            folder = Path(tempfile.mkdtemp(dir=self._work))
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def keep_failed(self, name: str, text: str) -> Path | None:
        """Keeps a source that a compiler refused; None when the disk does not take it."""
        path = self.root / "failed" / name
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_atomic(path, text.encode())
        except OSError:
            return None
        return path

    def info(self) -> CacheInfo:
        """Counts and sizes of what the folder holds now."""
        entries = list(_files(self._objects))
        total, models, zig = (_bytes(_files(folder)) for folder in (self.root, self.models, self.zig))
        objects = _bytes(entries)
        artifacts = sum(folder.suffix == ".gf" for folder in _children(self.models))
        return CacheInfo(self.root, len(entries), artifacts, objects, models, zig, total - zig - models - objects)

    def prune(self) -> int:
        """Removes what was longest unused until 80 % of the limit is left, if it is exceeded, and stale leftovers.

        Objects and models count towards the limit. Returns the number of bytes removed.
        """
        oldest = time.time() - _STALE_SECONDS
        for path in (*_children(self._work), *_children(self.root / "failed")):
            if _modified(path) < oldest:
                _remove(path)
        entries = list(_files(self._objects))
        entries += [(_modified(folder), _bytes(_files(folder)), folder) for folder in _children(self.models)]
        excess = _bytes(entries) - self.limit
        if excess <= 0:
            return 0
        excess += self.limit // 5
        removed = 0
        for _, size, path in sorted(entries):
            if removed >= excess:
                break
            _remove(path)
            removed += size
        return removed

    def clear(self) -> int:
        """Removes everything but the working folders of builds that run now; returns the number of bytes removed."""
        before = _bytes(_files(self.root))
        for path in (self._objects, self.models, self.zig, self.root / "limits", self.root / "failed"):
            _remove(path)
        self.prune()
        return before - _bytes(_files(self.root))

    def _path(self, key: str) -> Path:
        return self._objects / key[:2] / key


def content_key(*parts: str) -> str:
    """SHA-256 over the parts, each with its length, so that no two lists of parts share a key."""
    digest = hashlib.sha256()
    for part in parts:
        data = part.encode()
        digest.update(b"%d:" % len(data))
        digest.update(data)
    return digest.hexdigest()


def _header(payload: bytes) -> bytes:
    return hashlib.sha256(payload).hexdigest().encode() + b"\n"


def _remove(path: Path) -> None:
    """Removes a file or a folder, if it is there and may be removed."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
        return
    with suppress(OSError):
        path.unlink()


def _modified(path: Path) -> float:
    """Time of the last change; far in the future for what has vanished, which leaves it alone."""
    try:
        return path.stat().st_mtime
    except OSError:
        return float("inf")


def _children(folder: Path) -> list[Path]:
    try:
        return sorted(folder.iterdir())
    except OSError:
        return []


def _files(folder: Path) -> Iterator[tuple[float, int, Path]]:
    """(time of last use, bytes, path) of every file below a folder; those that vanish meanwhile are left out."""
    for parent, _, names in os.walk(folder):
        for name in names:
            path = Path(parent, name)
            with suppress(OSError):
                stat = path.stat()
                yield stat.st_mtime, stat.st_size, path


def _bytes(files: Iterable[tuple[float, int, Path]]) -> int:
    return sum(size for _, size, _ in files)
