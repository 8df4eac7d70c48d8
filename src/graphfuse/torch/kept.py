"""Compiling what is in memory: artifacts cached by the contents of the program, its weights and the options."""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
import weakref
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch

from graphfuse.artifact import reuse
from graphfuse.artifact.bundle import read_bundle
from graphfuse.codegen.module import Module
from graphfuse.compiler import Job, load, run_stages
from graphfuse.errors import GraphfuseError
from graphfuse.importers.exported import Exported
from graphfuse.importers.torch_tensors import to_array
from graphfuse.ledger import Ledger
from graphfuse.options import CompileOptions
from graphfuse.runtime.session import Session
from graphfuse.toolchain.cache import ObjectCache
from graphfuse.update import Updater


@dataclass
class Fused:
    """A compiled program: the folder of its artifact, and a session on it. found: whether it lay in the cache.

    job: how it was compiled, or would be: run as far as new weights need it.
    """

    folder: Path
    session: Session
    found: bool
    job: Job

    def weights(self, values: Mapping[str, torch.Tensor]) -> list[np.ndarray] | None:
        """The arrays of weights.bin for other values of the program's weights, by name; those left out keep theirs.

        None where the code would be another. Raises InputError, as `Updater.weights`.
        """
        updater = self._updater
        if updater is None:
            return None
        return updater.weights({name: to_array(values[name]) for name in updater.names if name in values})

    @cached_property
    def _updater(self) -> Updater | None:
        if "emit" not in self.job.results:
            run_stages(self.job, stop_after="emit")
            # From the cache: the weights may have changed since it was found, and the code depend on that.
            module: Module = self.job.results["emit"]
            if module.source() != self._code():
                return None
        return Updater(self.job)

    def _code(self) -> str:
        try:
            return (self.folder / "model.c").read_text(encoding="utf-8")
        except OSError:  # pruned meanwhile
            return ""

    @cached_property
    def ledger(self) -> Ledger:
        """What became of every operator, and why."""
        return Ledger.from_json((self.folder / "ledger.json").read_text(encoding="utf-8"))

    @cached_property
    def certificate(self) -> Mapping[str, Any] | None:
        """What verification found, as in certificate.json; None where it was left out."""
        file = self.folder / "certificate.json"
        return dict(json.loads(file.read_text(encoding="utf-8"))) if file.is_file() else None

    def save(self, path: str | Path) -> None:
        """Write the artifact to a folder, for `graphfuse.load` and the command line. Raises ArtifactError."""
        reuse.copy(read_bundle(self.folder), Path(path))


def digest_of(texts: Iterable[str], tensors: Mapping[str, torch.Tensor]) -> str:
    """A digest of texts and of the contents of tensors."""
    digest = hashlib.sha256(torch.__version__.encode())
    for text in texts:
        digest.update(text.encode() + b"\0")
    for name, tensor in tensors.items():
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode() + b"\0")
        digest.update(np.ascontiguousarray(to_array(tensor)).reshape(-1).view(np.uint8).data)
    return digest.hexdigest()


def fused(
    digest: str, source: Callable[[], Exported], options: CompileOptions, inputs: Mapping[str, np.ndarray] | None = None
) -> Fused:
    """The program with this digest, from the cache or compiled. Raises GraphfuseError.

    inputs: what verification runs it on, generated where there are none.
    """

    def compiled(artifact: Path) -> Fused:
        job = run_stages(Job(source(), options, artifact, inputs or {}, updatable=True))
        return Fused(artifact, load(artifact, threads=options.threads), False, job)

    if not options.cache:
        folder = Path(tempfile.mkdtemp(prefix="graphfuse-"))
        try:
            result = compiled(folder / "model.gf")
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise
        weakref.finalize(result, shutil.rmtree, folder, ignore_errors=True)
        return result
    place = reuse.place_of(digest, options, "torch")
    bundle = reuse.kept(place)
    if bundle is not None:
        with suppress(GraphfuseError):  # pruned meanwhile
            session = Session(bundle, threads=options.threads)
            return Fused(bundle.folder, session, True, Job(source(), options, updatable=True))
    place.parent.mkdir(parents=True, exist_ok=True)
    result = compiled(place)
    ObjectCache(options.cache_root(), options.cache_bytes).prune()
    return result
