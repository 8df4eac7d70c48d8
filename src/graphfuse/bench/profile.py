"""Where the time of a model goes: every kernel call timed inside the model's run, beside what the machine could do."""

from __future__ import annotations

import ctypes
import dataclasses
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from graphfuse.account.memory import memory_of
from graphfuse.artifact.bundle import Bundle, is_artifact, read_bundle
from graphfuse.artifact.fused_model import DOMAIN
from graphfuse.bench.call_times import CallTime, Profile
from graphfuse.bench.inputs import accepted_inputs
from graphfuse.bench.limits import Limits, MachineLimits, machine_limits
from graphfuse.bench.roofline import CallCost, bound, call_costs, threads_of
from graphfuse.codegen.module import Module
from graphfuse.compiler import Job, run_stages
from graphfuse.errors import InputError, InternalError
from graphfuse.importers.checks import read_proto
from graphfuse.importers.source import Source
from graphfuse.ledger import Ledger
from graphfuse.ops.tensor import Tensor
from graphfuse.options import CompileOptions
from graphfuse.plan.calls import Plan
from graphfuse.plan.site import Packed
from graphfuse.plan.view import View
from graphfuse.runtime.binder import bind_symbols, dims_array
from graphfuse.runtime.library import Library, Pool, Weights, address_of, aligned_empty, aligned_zeros
from graphfuse.runtime.session import Session
from graphfuse.target import missing_here, physical_cores

Array = np.ndarray[Any, Any]

_ROUNDS = 7
_LEAST_RUNS = 3


@dataclass(frozen=True)
class Subject:
    """A model built for profiling."""

    name: str
    source: Source
    plan: Plan
    module: Module
    bundle: Bundle
    session: Session
    ledger: Ledger
    note: str
    callers: tuple[str, ...] = ()  # of an artifact: the nodes of its graph that stand for whole regions

    def own_name(self, node: str) -> str:
        """The user's name for a node, without that of the region that it is in."""
        return next((node[len(name) + 1 :] for name in self.callers if node.startswith(f"{name}/")), node)


def profile(
    model: Source | Path,
    *,
    threads: int | None = None,
    dims: Mapping[str, int] | None = None,
    inputs: Mapping[str, Array] | None = None,
    seconds: float = 2.0,
    seed: int = 0,
    options: CompileOptions | None = None,
    fresh: bool = False,
    progress: Callable[[str], None] = lambda _: None,
) -> tuple[Profile, MachineLimits]:
    """Time every kernel call of a model, a model file or an artifact, and set it beside the machine's limits.

    threads: of one call, None for all cores; seconds: how long the model runs; fresh: measure the limits again. Raises
    GraphfuseError.
    """
    if not 0 < seconds <= 3600:
        raise InputError(f"{seconds} seconds are no time to measure", remedy="give more than 0 and at most 3600")
    count = physical_cores() if threads is None else threads
    chosen = options or CompileOptions()
    with tempfile.TemporaryDirectory(prefix="graphfuse-") as folder:
        subject = build_subject(model, chosen, Path(folder), progress)
        with subject.session as session:
            session.set_threads(count)
            arrays = accepted_inputs(session, subject.source, inputs or {}, dims or {}, seed)
            machine = machine_limits((1, count), fresh=fresh, options=chosen, progress=progress)
            progress(f"timing on {count} thread{'s' * (count != 1)}")
            run = _Run(subject, arrays, count)
            times = run.measure(seconds)
        found = _profile(subject, arrays, run.every_size, count, times, machine)
    return found, machine


def build_subject(
    model: Source | Path, options: CompileOptions, folder: Path, progress: Callable[[str], None]
) -> Subject:
    """The model compiled with clocks around its calls; an artifact is compiled anew from its fused graph."""
    graph = model
    functions: list[str] | None = None
    callers: tuple[str, ...] = ()
    if isinstance(model, Path) and is_artifact(model):
        bundle = read_bundle(model)
        graph = model / "fused.onnx"
        functions, callers = _functions(model), _callers(model / "fused.onnx")
        options = dataclasses.replace(options, cpu=bundle.manifest.target.cpu_name)
    if lacking := missing_here(options.target()):
        what = f"code for {options.target().cpu_name} does not run on this machine"
        raise InputError(what, why=f"it lacks {', '.join(lacking)}", remedy="profile it where it runs")
    unverified = dataclasses.replace(options, verify=False)
    job = Job(graph, unverified, folder / "model.gf", progress=_by_stage(progress), profile=True)
    run_stages(job, stop_after="build")
    bundle = read_bundle(job.output or folder)
    name = model.name or str(model)
    note = "" if functions is None else _difference(functions, job.ledger)
    module: Module = job.results["emit"]
    return Subject(name, job.source, job.results["plan"], module, bundle, Session(bundle), job.ledger, note, callers)


def _by_stage(progress: Callable[[str], None]) -> Callable[[str], None]:
    """Tells the stages of a compilation, without their steps."""
    told: list[str] = []

    def tell(message: str) -> None:
        stage = message.partition(" ")[0]
        if told[-1:] != [stage]:
            told.append(stage)
            progress(f"compiling: {stage}")

    return tell


def _functions(artifact: Path) -> list[str]:
    """The kernels that an artifact calls, by name."""
    try:
        ledger = Ledger.from_json((artifact / "ledger.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return []
    return _called(ledger)


def _callers(graph: Path) -> tuple[str, ...]:
    nodes = read_proto(graph).graph.node
    return tuple(node.name for node in nodes if node.domain == DOMAIN and node.name)


def _called(ledger: Ledger) -> list[str]:
    return [note.text.rpartition(": ")[2] for note in ledger.notes if note.stage == "plan"]


def _difference(functions: Sequence[str], ledger: Ledger) -> str:
    """How far the kernels that were compiled anew are those of the artifact; empty when they are the same."""
    mine = _called(ledger)
    if list(functions) == mine:
        return ""
    same = sum(name in functions for name in mine)
    return f"compiled anew from the artifact's graph: {same} of {len(mine)} kernel calls are those of the artifact"


@dataclass
class _Times:
    """Seconds of whole runs; for each run with clocks, those of its calls in a row, then of all calls in bodies; and
    those outside of all. runs: how often each of these calls ran.
    """

    whole: list[float] = field(default_factory=list)
    calls: list[Array] = field(default_factory=list)
    outside: list[float] = field(default_factory=list)
    runs: list[int] = field(default_factory=list)


class _Run:
    """The model with fixed buffers, called plain or with clocks."""

    def __init__(self, subject: Subject, arrays: Mapping[str, Array], threads: int) -> None:
        bundle, manifest = subject.bundle, subject.bundle.manifest
        library = Library(bundle.library)
        entries = ctypes.CDLL(str(bundle.library))
        self._plain, self._profile = entries.model_run, entries.model_profile
        self._plain.argtypes, self._profile.argtypes = (ctypes.c_void_p,) * 6, (ctypes.c_void_p,) * 7
        states = subject.session.states
        ports, every = subject.module.inputs, {**arrays, **states}
        self.sizes = bind_symbols(ports, [every[port.name].shape for port in ports], subject.module.dims)
        results = subject.session.run([tensor.name for tensor in manifest.outputs], dict(arrays))
        pool, weights = Pool(library, threads), Weights(bundle.weights)
        dims = dims_array(self.sizes, manifest.symbols, manifest.measured)
        nbytes = library.model_arena_bytes(address_of(dims), threads)
        arena = aligned_zeros(nbytes)
        given = [*(np.ascontiguousarray(arrays[port.name]) for port in manifest.inputs), *states.values()]
        outputs = [aligned_empty(a.shape, a.dtype, a.nbytes) for a in (*results, *states.values())]
        tables = [np.array([address_of(a) for a in group] or [0], np.uint64) for group in (given, outputs)]
        self._stamps = np.zeros(subject.module.stamps, np.int64)
        first, self._learned = len(subject.plan.calls) + 1, subject.module.learned
        self._ends, behind = self._stamps[:first], self._stamps[first:]
        self._laps = behind[: behind.size - len(self._learned)].reshape(-1, 2)
        self._values = behind[behind.size - len(self._learned) :]
        self._stamps_address = address_of(self._stamps)
        self._keep = (library, pool, weights, dims, arena, given, outputs, tables)
        self._arguments = (
            weights.address,
            *map(address_of, tables),
            address_of(dims),
            address_of(arena),
            pool.address,
        )

    def measure(self, seconds: float) -> _Times:
        """Runs without clocks and with them, in turns."""
        times = _Times()
        for _ in range(_ROUNDS):
            for run in (self._plain_run, self._clocked_run):
                run(_Times())  # finds caches and threads as the turn before left them
                end, turns = time.perf_counter() + seconds / _ROUNDS / 2, 0
                while turns < _LEAST_RUNS or time.perf_counter() < end:
                    run(times)
                    turns += 1
        return times

    def _plain_run(self, times: _Times) -> None:
        started = time.perf_counter()
        status = self._plain(*self._arguments)
        times.whole.append(time.perf_counter() - started)
        self._check(status)

    def _clocked_run(self, times: _Times) -> None:
        started = time.perf_counter()
        status = self._profile(*self._arguments, self._stamps_address)
        whole = time.perf_counter() - started
        self._check(status)
        calls = np.diff(self._ends) * 1e-9
        times.calls.append(np.concatenate([calls, self._laps[:, 0] * 1e-9]))
        times.runs = [*([1] * calls.size), *self._laps[:, 1].tolist()]
        times.outside.append(max(0.0, whole - float(calls.sum())))

    @property
    def every_size(self) -> dict[str, int]:
        """The values of all symbols in the run before, those of measured sizes as they were in the end."""
        return {**self.sizes, **dict(zip(self._learned, self._values.tolist(), strict=True))}

    def _check(self, status: int) -> None:
        if status:
            raise InternalError(f"the profiled model returned {status}, where its session returned a result")


def _profile(
    subject: Subject,
    arrays: Mapping[str, Array],
    sizes: Mapping[str, int],
    threads: int,
    times: _Times,
    machine: MachineLimits,
) -> Profile:
    target = subject.bundle.manifest.target
    plan, weights = subject.plan, weight_sizes(subject.plan, subject.module)
    rows = np.stack(times.calls)
    best, median = rows.min(axis=0), np.median(rows, axis=0)
    total = float(best[: len(plan.calls)].sum())
    place = {id(call): k for k, call in enumerate([*plan.calls, *plan.inner_calls])}

    def timed(part: Plan) -> Iterator[CallTime]:
        for cost in call_costs(part, sizes, target, threads, weights):
            call, k = cost.call, place[id(cost.call)]
            # Between one thread and all of them there are no limits measured: all is the higher roof.
            shared = threads if threads_of(call, sizes, threads) > 1 else 1
            nodes = tuple(map(subject.own_name, call.nodes))
            found = _call_time(cost, nodes, float(best[k]), float(median[k]), total, machine.on(shared))
            bodies = call.control.bodies if call.control else ()
            yield _of_runs(found, times.runs[k], tuple(inner for body in bodies for inner in timed(body)))

    shown = {
        name: f"{array.dtype.name} {'×'.join(map(str, array.shape)) or 'scalar'}" for name, array in arrays.items()
    }
    return Profile(
        subject.name,
        shown,
        machine.machine,
        target.key(),
        threads,
        len(times.whole) + len(times.calls),
        min(times.whole),
        statistics.median(times.whole),
        min(times.outside),
        tuple(timed(plan)),
        machine.on(threads),
        subject.note,
        memory_of(subject.ledger),
    )


def _call_time(
    cost: CallCost, nodes: tuple[str, ...], best: float, median: float, total: float, limits: Limits
) -> CallTime:
    call, roof = cost.call, bound(cost, limits)
    return CallTime(
        call.label,
        nodes,
        call.code.describe or call.kernel,
        call.code.name,
        best,
        median,
        best / total if total else 0.0,
        cost.flops,
        cost.traffic.bytes,
        cost.traffic.weights,
        roof.by,
        roof.seconds,
    )


def _of_runs(call: CallTime, runs: int, inside: tuple[CallTime, ...]) -> CallTime:
    """A call with what it costs at least in so many runs; control flow costs what is inside."""
    costs = dataclasses.replace(
        call, flops=runs * call.flops, bytes=runs * call.bytes, weight_bytes=runs * call.weight_bytes,
        bound=runs * call.bound, runs=runs, inside=inside,
    )  # fmt: skip
    if not inside:
        return costs
    flops, moved, weights = (sum(getattr(c, name) for c in inside) for name in ("flops", "bytes", "weight_bytes"))
    by = max(inside, key=lambda c: c.bound).bound_by
    least = sum(c.bound for c in inside)
    return dataclasses.replace(costs, flops=flops, bytes=moved, weight_bytes=weights, bound=least, bound_by=by)


def weight_sizes(plan: Plan, module: Module) -> dict[tuple[Tensor, str], int]:
    """Bytes of each packed constant by source and key: the module holds them in the order in which calls name them."""
    arrays = iter(module.weights)
    known: dict[object, int] = {}
    found: dict[tuple[Tensor, str], int] = {}
    for call in plan.every_call:
        for pointer in () if call.control else call.code.pointers:
            if isinstance(pointer, Packed):
                key: object = (pointer.source, pointer.key)
            elif isinstance(pointer, View) and pointer.buffer.kind == "weight":
                key = plan.constants[pointer.buffer]
            else:
                continue
            if key not in known:
                known[key] = int(next(arrays).nbytes)
            if isinstance(pointer, Packed):
                found[pointer.source, pointer.key] = known[key]
    return found
