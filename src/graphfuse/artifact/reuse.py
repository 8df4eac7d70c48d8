"""Artifacts that were compiled before, found by the contents of all that they depend on.

They lie in the cache folder under models/, one folder for each key; beside them, for each model file, a list of the
files that hold its external weights, so that a key can be made without reading the model. Nothing here imports the
compiler: what is in the cache is at hand in a fraction of the time that takes.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import shutil
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import cache, partial
from pathlib import Path

from graphfuse import __version__
from graphfuse.artifact.bundle import MANIFEST, WEIGHTS, Bundle, read_bundle, stage_bundle
from graphfuse.errors import ArtifactError, GraphfuseError
from graphfuse.options import CompileOptions
from graphfuse.toolchain.files import disk_errors, sha256_of, write_atomic

_PACKAGE = Path(__file__).resolve().parents[1]
# Options that say how to get an artifact and not what it is.
_IRRELEVANT = ("cache_dir", "cache_bytes", "threads", "cache")
# Packages whose versions change what is compiled or how it is verified.
_TOOLS = ("numpy", "onnx", "onnx_ir", "onnxruntime", "onnxscript", "onnx_shape_inference", "sympy", "torch")
# Large files that nobody edits: shared with the cache where the file system can, rather than copied.
_SHARED = (WEIGHTS, "fused.onnx.data")


def find(model: Path, options: CompileOptions, extra: str = "", *, thorough: bool = False) -> Bundle | None:
    """The artifact of a model file for these options, checked; None when there is none or it is damaged.

    extra: anything else that it depends on, such as the sizes that it is verified at; thorough: check every file, not
    only those that are run.
    """
    try:
        folder = place(model, options, extra)
    except (OSError, GraphfuseError):
        return None
    return None if folder is None else kept(folder, thorough=thorough)


def kept(folder: Path, *, thorough: bool = False) -> Bundle | None:
    """The artifact at a place in the cache, checked; None when there is none or it is damaged."""
    try:
        found = read_bundle(folder, runnable=False, thorough=thorough)
        os.utime(folder)  # pruning goes by the time of last use
    except (OSError, GraphfuseError):
        return None
    return found


def place(model: Path, options: CompileOptions, extra: str = "") -> Path | None:
    """Where the artifact belongs; None when it is not known which files hold the model's weights: see `know`."""
    digest = sha256_of(model)
    try:
        external = json.loads(_external_file(options, digest).read_text(encoding="utf-8"))
        files = [(str(name), sha256_of(model.parent / str(name))) for name in external]
    except (OSError, ValueError, TypeError):
        return None
    return place_of(digest, options, extra, files)


def place_of(digest: str, options: CompileOptions, extra: str = "", files: Sequence[tuple[str, str]] = ()) -> Path:
    """Where the artifact of a model belongs that is known by a digest, and by those of the files beside it."""
    shown = {name: value for name, value in sorted(vars(options).items()) if name not in _IRRELEVANT}
    target, beside = options.target(), list(files)
    parts = (digest, beside, shown, target.plan_key(), target.cores, _compiler(options.cc), _tools(), _sources(), extra)
    return options.cache_root() / "models" / f"{hashlib.sha256(repr(parts).encode()).hexdigest()[:32]}.gf"


def know(model: Path, options: CompileOptions, external: Sequence[str]) -> None:
    """Remember which files beside the model hold its weights. Raises ArtifactError when the disk does not take it."""
    file = _external_file(options, sha256_of(model))
    with disk_errors(ArtifactError, file, "set GRAPHFUSE_CACHE_DIR to a folder that can be written"):
        file.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(file, json.dumps(list(external)).encode())


def copy(bundle: Bundle, folder: Path) -> None:
    """Make `folder` an artifact with the same files; whole or not at all. Raises ArtifactError."""
    with stage_bundle(folder) as staging, disk_errors(ArtifactError, folder):
        for name in (*bundle.manifest.files, MANIFEST):
            _copy_file(bundle.folder / name, staging.folder / name, name in _SHARED)


class Search:
    """`find` in a thread of its own, while the caller imports what it will need."""

    def __init__(self, model: Path, options: CompileOptions, extra: str = "", *, thorough: bool = False) -> None:
        self._found: Bundle | None = None
        search = partial(find, model, options, extra, thorough=thorough)
        self._thread = threading.Thread(target=self._run, args=(search,), daemon=True)
        self._thread.start()

    def _run(self, search: Callable[[], Bundle | None]) -> None:
        self._found = search()

    def result(self) -> Bundle | None:
        """What was found."""
        self._thread.join()
        return self._found


def _copy_file(source: Path, target: Path, share: bool) -> None:
    if share:
        with suppress(OSError):  # another disk, or a file system without links
            os.link(source, target)
            return
    shutil.copyfile(source, target)


def _external_file(options: CompileOptions, digest: str) -> Path:
    return options.cache_root() / "models" / f"{digest[:32]}.external"


def _compiler(cc: str) -> tuple[str, int, int]:
    """Which compiler that is, without running it."""
    spec = importlib.util.find_spec("ziglang") if cc == "zig" else None
    path = os.path.join(os.path.dirname(spec.origin), "zig") if spec and spec.origin else shutil.which(cc)
    return _stat(path or cc)


@cache
def _tools() -> tuple[tuple[str, int, int], ...]:
    specs = (importlib.util.find_spec(name) for name in _TOOLS)
    return tuple(_stat(spec.origin) for spec in specs if spec is not None and spec.origin is not None)


def _stat(path: str) -> tuple[str, int, int]:
    try:
        stat = os.stat(path)
    except OSError:
        return path, 0, 0
    return path, stat.st_size, stat.st_mtime_ns


@cache
def _sources() -> str:
    """This package's own sources."""
    digest = hashlib.sha256(__version__.encode())
    for path in sorted(p for p in _PACKAGE.rglob("*") if p.suffix in (".py", ".c", ".h")):
        digest.update(path.relative_to(_PACKAGE).as_posix().encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()
