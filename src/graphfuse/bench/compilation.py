"""graphfuse's compilation of a model, from nothing and from a full cache, timed in a worker of its own."""

from __future__ import annotations

import shutil
import tempfile
import time
from pathlib import Path

from graphfuse import __version__, compiler
from graphfuse.bench.peers import Ready, Subject
from graphfuse.errors import InputError
from graphfuse.options import CompileOptions


def version() -> str:
    return __version__


def prepare(subject: Subject) -> Ready:
    """The artifact at subject.artifact, verified; notes: compile_s, recompile_s and verify_s, as in record.Case.

    From nothing: an empty object cache. Raises GraphfuseError.
    """
    if subject.artifact is None:
        raise InputError("there is no place for the artifact")
    with tempfile.TemporaryDirectory() as folder:
        options = CompileOptions(cache_dir=Path(folder, "cache"))
        seconds = []
        for name in ("cold.gf", "cached.gf"):
            started = time.perf_counter()
            compiled = compiler.compile_model(subject.model, Path(folder, name), options)
            seconds.append(time.perf_counter() - started)
        if subject.artifact.exists():
            shutil.rmtree(subject.artifact)
        subject.artifact.parent.mkdir(parents=True, exist_ok=True)
        shutil.copytree(Path(folder, name), subject.artifact)
        with compiled.session() as session:
            values = dict(zip(subject.outputs, session.run(list(subject.outputs), dict(subject.inputs)), strict=True))
    verifying = compiled.job.timings.get("verify", 0.0)
    notes = {"compile_s": seconds[0], "recompile_s": seconds[1], "verify_s": verifying}
    return Ready(lambda: None, lambda _: values, notes)
