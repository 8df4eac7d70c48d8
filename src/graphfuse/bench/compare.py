"""One model compiled here against its peers: same inputs, same threads, outputs compared, times taken in turns."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from graphfuse import compiler
from graphfuse.bench import peers
from graphfuse.bench.inputs import accepted_inputs
from graphfuse.bench.record import MISSING, OK, OURS, Case, here
from graphfuse.bench.result import BenchResult, timing
from graphfuse.bench.suite import Settings, Spec, check_runtimes, measure
from graphfuse.errors import InputError
from graphfuse.export.onnx import write_portable
from graphfuse.importers.open import open_model
from graphfuse.importers.source import Converted, Source
from graphfuse.runtime.session import Session
from graphfuse.target import physical_cores
from graphfuse.verify import Reference

Array = np.ndarray[Any, Any]
ROUNDS = 7


def bench(
    model: Source | Path,
    versus: Sequence[str] = ("onnxruntime",),
    *,
    threads: Sequence[int] = (),
    dims: Mapping[str, int] | None = None,
    inputs: Mapping[str, Array] | None = None,
    seconds: float = 3.0,
    seed: int = 0,
    artifact: Path | None = None,
    progress: Callable[[str], None] = lambda _: None,
) -> BenchResult:
    """Time one call of the model here and in each peer, on every number of threads given (none: 1 and all cores).

    seconds: how long each runtime runs on each number of threads; artifact: the model compiled already. Every runtime
    works in a process of its own, and calls are made as its users make them. A model of another format than ONNX runs
    everywhere, here too, as the ONNX graph that it is converted to, whose states are inputs like others. Raises
    GraphfuseError, for a peer that is unknown or not installed too; a peer that cannot run this model is a line of the
    result.
    """
    runtimes = check_runtimes(versus)
    if not 0 < seconds <= 3600:
        raise InputError(f"{seconds} seconds are no time to measure", remedy="give more than 0 and at most 3600")
    counts = tuple(dict.fromkeys(threads)) or tuple(dict.fromkeys((1, physical_cores())))
    for count in counts:
        if not 1 <= count <= 256:
            raise InputError(f"{count} threads cannot be had", remedy="give numbers from 1 to 256")
    source = model if isinstance(model, Source) else open_model(model, arrays=inputs)
    with tempfile.TemporaryDirectory(prefix="graphfuse-bench-") as folder:
        file, starts = _onnx_file(source, Path(folder))
        if artifact is None:
            progress("compiling")
            artifact = compiler.compile_model(file, Path(folder, "model.gf")).artifact
        with compiler.load(artifact) as session:
            arrays = _inputs(session, file, {**starts, **(inputs or {})}, dims or {}, seed)
        settings = Settings(Path(folder, "work"), runtimes, counts, seconds, ROUNDS, facts=False)
        report = here(seconds, ROUNDS)
        spec = Spec(source.name, lambda: (file, arrays))
        measure([spec], settings, report, progress=progress, artifacts={spec.model: artifact})
    return _result(report.case(spec.model, 1), report.machine, report.target, seconds, counts)


def _onnx_file(source: Source, folder: Path) -> tuple[Path, dict[str, Array]]:
    """The model as an ONNX file, written into the folder where it is none, and what its states start from."""
    if not isinstance(source, Converted):
        assert source.path is not None
        return source.path, {}
    file = folder / "model.onnx"
    write_portable(source.converted.model, file)
    return file, {state.input: state.initial for state in source.converted.states}


def _inputs(
    session: Session, model: Path, given: Mapping[str, Array], dims: Mapping[str, int], seed: int
) -> dict[str, Array]:
    """Inputs that the session and the original model take."""
    return accepted_inputs(session, model, given, dims, seed, Reference(model).run)


def _result(case: Case, machine: str, target: str, seconds: float, counts: Sequence[int]) -> BenchResult:
    timings, problems = [], []
    for count in counts:
        row = case.row(count)
        ours = row.get(OURS)
        if ours is None or ours.status != OK:
            raise InputError("the compiled model does not run", why=ours.reason if ours else "")
        for cell in row.values():
            if cell.status == MISSING:
                names = " ".join(peers.find(cell.runtime).PACKAGES)
                raise InputError(f"{cell.runtime} is not installed", why=cell.reason, remedy=f"pip install {names}")
            if cell.status == OK:
                timings.append(timing(cell, ours))
            else:
                problems.append(f"{cell.runtime}, {count} threads: {cell.status}: {cell.reason}")
    return BenchResult(case.model, case.inputs, machine, target, seconds, tuple(timings), tuple(problems))
