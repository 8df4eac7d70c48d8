"""A model compiled here against its peers: same inputs, same threads, outputs compared, times taken in turns."""

from __future__ import annotations

import platform
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from graphfuse import __version__, compiler
from graphfuse.bench import peers
from graphfuse.bench.inputs import accepted_inputs
from graphfuse.bench.result import OURS, BenchResult, Timing, timing
from graphfuse.bench.timing import interleave
from graphfuse.errors import InputError
from graphfuse.runtime.session import Session
from graphfuse.target import physical_cores, target_for
from graphfuse.verify import compare

Array = np.ndarray[Any, Any]


def bench(
    model: Path,
    versus: Sequence[str] = ("onnxruntime",),
    *,
    threads: Sequence[int] = (),
    dims: Mapping[str, int] | None = None,
    inputs: Mapping[str, Array] | None = None,
    seconds: float = 3.0,
    seed: int = 0,
    session: Session | None = None,
    progress: Callable[[str], None] = lambda _: None,
) -> BenchResult:
    """Time one call of the model here and in each peer, on every number of threads given (none: 1 and all cores).

    seconds: how long each runtime runs on each number of threads; session: the model compiled already. Calls are made
    as users make them, `session.run(None, inputs)`, outputs allocated anew. Raises GraphfuseError, for a peer that is
    unknown or not installed too.
    """
    chosen = [peers.find(name) for name in dict.fromkeys(versus)]
    if not 0 < seconds <= 3600:
        raise InputError(f"{seconds} seconds are no time to measure", remedy="give more than 0 and at most 3600")
    counts = tuple(dict.fromkeys(threads)) or tuple(dict.fromkeys((1, physical_cores())))
    for count in counts:
        if not 1 <= count <= 256:
            raise InputError(f"{count} threads cannot be had", remedy="give numbers from 1 to 256")
    if session is None:
        progress("compiling")
    mine = session or compiler.compile(model)
    first = chosen[0].prepare(model, counts[0]) if chosen else None
    arrays = accepted_inputs(mine, model, inputs or {}, dims or {}, seed, first)
    timings: list[Timing] = []
    for count in counts:
        timings += _on_threads(mine, model, chosen, count, arrays, seconds, progress)
    shown = {
        name: f"{array.dtype.name} {'×'.join(map(str, array.shape)) or 'scalar'}" for name, array in arrays.items()
    }
    return BenchResult(model.name, shown, _machine(), target_for().key(), seconds, tuple(timings))


def _on_threads(
    session: Session,
    model: Path,
    chosen: Sequence[peers.Peer],
    threads: int,
    arrays: dict[str, Array],
    seconds: float,
    progress: Callable[[str], None],
) -> list[Timing]:
    session.set_threads(threads)
    ours = session.run(None, arrays)
    calls: dict[str, Callable[[], object]] = {OURS: lambda: session.run(None, arrays)}
    differences: dict[str, float] = {}
    names = [tensor.name for tensor in session.manifest.outputs]
    for peer in chosen:
        progress(f"preparing {peer.name}, {threads} threads")
        run = peer.prepare(model, threads)
        differences[peer.name] = _difference(names, ours, run(arrays))
        calls[peer.name] = _call(run, arrays)
    progress(f"timing on {threads} threads")
    times = interleave(calls, seconds)
    found = [timing(OURS, __version__, threads, times[OURS], times[OURS], 0.0)]
    for peer in chosen:
        difference = differences[peer.name]
        found.append(timing(peer.name, peer.version(), threads, times[peer.name], times[OURS], difference))
    return found


def _call(run: peers.Run, arrays: dict[str, Array]) -> Callable[[], object]:
    return lambda: run(arrays)


def _difference(names: Sequence[str], ours: Sequence[Array], theirs: Mapping[str, Array]) -> float:
    reports = [compare(name, mine, theirs[name]) for name, mine in zip(names, ours, strict=True)]
    return max(report.max_rel for report in reports)


def _machine() -> str:
    """The processor in its maker's words, and how many cores may be used."""
    cores = physical_cores()
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"{names[0] if names else platform.machine()}, {cores} core{'s' * (cores != 1)}"
