"""The artifact: a folder that appears whole or not at all, and is checked before anything of it is loaded."""

from __future__ import annotations

import errno
import os
import secrets
import shutil
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path

from graphfuse.artifact.manifest import Manifest, is_manifest, parse_manifest
from graphfuse.errors import ArtifactError
from graphfuse.target import missing_here
from graphfuse.toolchain.files import disk_errors, sha256_of

MANIFEST = "manifest.json"
LIBRARY = "libmodel.so"
WEIGHTS = "weights.bin"
STATES = "states.bin"
# What an artifact holds besides its manifest, in the order of design and documents.
FILES = (
    "fused.onnx", "fused.onnx.data", "model.c", "model.h", LIBRARY, WEIGHTS, STATES, "ledger.json", "certificate.json",
)  # fmt: skip
_NEEDED = ("model.c", "model.h", LIBRARY)
_ANEW = "compile the model anew"

Data = str | bytes | memoryview


@dataclass(frozen=True)
class Bundle:
    """An artifact on disk that passed its checks. weights: None when they are in the library; states: what those start
    from, None when there are none.
    """

    folder: Path
    manifest: Manifest
    library: Path
    weights: Path | None
    states: Path | None = None


class Staging:
    """An artifact being written in a folder of its own beside its final place."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def add(self, name: str, data: Data | Iterable[Data]) -> None:
        """Writes one file of FILES, given whole or in chunks. Raises ArtifactError when the disk does not take it."""
        if name not in FILES:
            raise ValueError(f"{name!r} is no file of an artifact")
        chunks = [data] if isinstance(data, (str, bytes, memoryview)) else data
        with disk_errors(ArtifactError, self.folder / name), (self.folder / name).open("wb") as file:
            for chunk in chunks:
                file.write(chunk.encode() if isinstance(chunk, str) else chunk)

    def seal(self, manifest: Manifest) -> Bundle:
        """Writes the manifest over the files that are there, and checks the whole as `read_bundle` does.

        May be called again after another `add`; `files` and `weights_bytes` are filled in here. The machine that an
        artifact is for need not be this one.
        """
        weights = self.folder / WEIGHTS
        with disk_errors(ArtifactError, self.folder):
            hashes = {name: sha256_of(self.folder / name) for name in FILES if (self.folder / name).is_file()}
            manifest = replace(manifest, files=hashes, weights_bytes=weights.stat().st_size if WEIGHTS in hashes else 0)
            (self.folder / MANIFEST).write_text(manifest.to_json(), encoding="utf-8")
        return read_bundle(self.folder, runnable=False)


@contextmanager
def stage_bundle(folder: str | Path) -> Iterator[Staging]:
    """A place to write an artifact that becomes `folder` when the block ends well, and vanishes when it does not.

    An artifact that is there already is replaced at that moment. Raises ArtifactError before the block runs when
    `folder` is something else than an artifact or an empty folder, or cannot be made, and after it when nothing was
    sealed.
    """
    final = Path(os.path.realpath(folder))
    _check_replaceable(final)
    staging = final.with_name(f".{final.name}.tmp-{secrets.token_hex(6)}")
    with disk_errors(ArtifactError, final, "name a folder whose parent exists and can be written"):
        staging.mkdir()
    try:
        yield Staging(staging)
        if not (staging / MANIFEST).is_file():
            raise ArtifactError("nothing was written", where=str(final))
        with disk_errors(ArtifactError, final):
            _publish(staging, final)
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def write_bundle(
    folder: str | Path, manifest: Manifest, library: Path, files: dict[str, Data | Iterable[Data]]
) -> None:
    """Writes a whole artifact at once: `library` is copied to libmodel.so, `files` are the others by name."""
    with stage_bundle(folder) as staging:
        with disk_errors(ArtifactError, library):
            shutil.copyfile(library, staging.folder / LIBRARY)
        for name, data in files.items():
            staging.add(name, data)
        staging.seal(manifest)


def is_artifact(path: Path) -> bool:
    """Whether a path is meant for an artifact, not for a model file; it need not exist."""
    return path.is_dir() or path.suffix == ".gf"


def read_bundle(folder: str | Path, *, runnable: bool = True, thorough: bool = False) -> Bundle:
    """The artifact in `folder`, its library and weights checked against their hashes (thorough: every file).

    Raises ArtifactError when it is missing, not an artifact, of another version, damaged, or (runnable) made for
    another machine than this one.
    """
    folder = Path(folder)
    where = str(folder)
    if not folder.is_dir():
        what = "this is no graphfuse artifact" if folder.exists() else "no such artifact"
        raise ArtifactError(what, where=where, remedy="name a folder that `graphfuse compile` wrote")
    manifest = parse_manifest(_manifest_text(folder), where)
    if runnable:
        check_runnable(manifest, where)
    needed = (*_NEEDED, *([WEIGHTS] if manifest.weights_bytes else []), *([STATES] if manifest.states else []))
    names = (*FILES, *(n for n in manifest.files if n not in FILES))
    with ThreadPoolExecutor(max_workers=4) as pool:  # large files, side by side
        for checked in [pool.submit(_check_file, folder, name, manifest, needed, thorough) for name in names]:
            checked.result()
    weights, states = manifest.weights_bytes > 0, bool(manifest.states)
    return Bundle(
        folder,
        manifest,
        folder / LIBRARY,
        folder / WEIGHTS if weights else None,
        folder / STATES if states else None,
    )


def check_runnable(manifest: Manifest, where: str) -> None:
    """Raises ArtifactError, telling what is lacking, when this machine cannot run the artifact's library."""
    lacking = missing_here(manifest.target)
    if lacking:
        why = f"it is for {manifest.target.key()}, this machine lacks {', '.join(lacking)}"
        raise ArtifactError("made for another machine", where=where, why=why, remedy="compile the model for this one")


def _check_file(folder: Path, name: str, manifest: Manifest, needed: tuple[str, ...], thorough: bool) -> None:
    path, where = folder / name, str(folder / name)
    if name not in FILES:
        raise ArtifactError("the manifest names a file that no artifact has", where=where, remedy=_ANEW)
    if name not in manifest.files:
        if name in needed:
            raise ArtifactError("the manifest lacks this file", where=where, remedy=_ANEW)
        return
    if not path.is_file():
        raise ArtifactError("this file of the artifact is missing", where=where, remedy=_ANEW)
    if not thorough and name not in (LIBRARY, WEIGHTS, STATES):
        return
    with disk_errors(ArtifactError, path):
        damaged = sha256_of(path) != manifest.files[name]
        damaged = damaged or (name == WEIGHTS and path.stat().st_size != manifest.weights_bytes)
    if damaged:
        raise ArtifactError("this file of the artifact is damaged", where=where, why="its hash differs", remedy=_ANEW)


def _manifest_text(folder: Path) -> str:
    """The text of the manifest; empty when there is none, which then is no manifest."""
    try:
        return (folder / MANIFEST).read_text(encoding="utf-8")
    except (FileNotFoundError, NotADirectoryError, UnicodeDecodeError):
        return ""
    except OSError as error:
        why = error.strerror or str(error)
        raise ArtifactError("cannot be read", where=str(folder / MANIFEST), why=why) from error


def _check_replaceable(final: Path) -> None:
    """Raises ArtifactError unless `final` is free: absent, an empty folder, or an artifact (a damaged one too)."""
    try:
        names = {path.name for path in final.iterdir()}
    except FileNotFoundError:
        return
    except OSError:
        names = {""}  # a file, or a folder that cannot be looked into
    if not names <= {MANIFEST, *FILES} and not is_manifest(_manifest_text(final)):
        remedy = "name another folder, or remove it first"
        raise ArtifactError("exists and is no graphfuse artifact: it is not replaced", where=str(final), remedy=remedy)


def _publish(staging: Path, final: Path) -> None:
    """Renames `staging` to `final`; what was there is moved aside first and put back if that fails."""
    for _ in range(10):  # another process may publish to the same place between our two renames
        try:
            os.rename(staging, final)
            return
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR):
                raise
        _check_replaceable(final)
        aside = final.with_name(f".{final.name}.old-{secrets.token_hex(6)}")
        with suppress(FileNotFoundError):
            os.rename(final, aside)
        try:
            os.rename(staging, final)
            return
        except OSError:
            with suppress(OSError):
                os.rename(aside, final)
        finally:
            shutil.rmtree(aside, ignore_errors=True)
    raise ArtifactError("other processes keep writing this artifact", where=str(final), remedy="write to another place")
