"""Many models on many runtimes: prepare each in a worker, check its output, time all in turns, keep a report."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from graphfuse.bench import activation, peers, reference
from graphfuse.bench.driver import PREPARE_SECONDS, Worker, WorkerLost, interleave
from graphfuse.bench.record import LOST, OK, OURS, WRONG, Case, Cell, Report
from graphfuse.bench.reference import distance
from graphfuse.bench.worker import READY, load_arrays, save_arrays
from graphfuse.errors import one_line

Array = np.ndarray[Any, Any]
Progress = Callable[[str], None]
Gate = Callable[[str], AbstractContextManager[object]]


@dataclass(frozen=True)
class Spec:
    """A model to be measured on one batch.

    load: gives its file and inputs, or raises when they cannot be had; torch_form: see peers.Subject; path: folders
    that a worker finds the modules of torch_form in.
    """

    model: str
    load: Callable[[], tuple[Path, Mapping[str, Array]]]
    batch: int = 1
    torch_form: str = ""
    path: tuple[Path, ...] = ()

    @property
    def name(self) -> str:
        return self.model if self.batch == 1 else f"{self.model} x{self.batch}"


@dataclass(frozen=True)
class Settings:
    """How to measure: runtimes (graphfuse among them), numbers of threads, seconds of each runtime in so many rounds.

    folder: where inputs, references and conversions are kept; modules: full names of runtimes that are no peers of this
    package; prepare_seconds: after which a runtime that is not ready counts as hung; facts: whether to find the float64
    reference and onnxruntime's memory too.
    """

    folder: Path
    runtimes: tuple[str, ...]
    threads: tuple[int, ...]
    seconds: float = 3.0
    rounds: int = 10
    prepare_seconds: float = PREPARE_SECONDS
    modules: Mapping[str, str] = field(default_factory=dict)
    facts: bool = True

    def module(self, runtime: str) -> str:
        if runtime == OURS:
            return "graphfuse.bench.ours"
        return self.modules.get(runtime, f"{peers.__name__}.{runtime}")


def measure(
    specs: Sequence[Spec],
    settings: Settings,
    report: Report,
    *,
    keep: Callable[[], None] = lambda: None,
    progress: Progress = lambda _: None,
    gate: Gate = lambda _: nullcontext(),
    artifacts: Mapping[str, Path] | None = None,
) -> None:
    """Measure every row that the report lacks, adding to it and calling `keep` after each.

    gate("prepare") and gate("time") are entered around work of the two kinds, for machines that are shared; artifacts:
    models that are compiled already, by name. A model that cannot be had is told to `progress` and left out.
    """
    known = dict(artifacts or {})
    for spec in specs:
        missing = [count for count in settings.threads if not _has(report, spec, settings, count)]
        if not missing:
            continue
        try:
            bench = _Bench.load(spec, settings, report.case(spec.model, spec.batch), progress, gate)
        except Exception as error:  # most often a model that cannot be downloaded
            progress(f"{spec.name}: left out: {one_line(str(error), 160)}")
            report.cases = [case for case in report.cases if case.cells or case.name != spec.name]
            continue
        with gate("prepare"):
            bench.settle(known)
        if bench.artifact is not None:
            known[spec.model] = bench.artifact  # it serves every batch
        for count in missing:
            bench.row(count)
            keep()


def _has(report: Report, spec: Spec, settings: Settings, threads: int) -> bool:
    """Whether a row is there with every runtime that is asked for: a row is measured as a whole, or not compared."""
    cases = [case for case in report.cases if (case.model, case.batch) == (spec.model, spec.batch)]
    return any(set(settings.runtimes) <= set(case.row(threads)) for case in cases)


class _Bench:
    """One model and batch being measured."""

    def __init__(
        self, spec: Spec, settings: Settings, case: Case, folder: Path, model: Path, progress: Progress, gate: Gate
    ) -> None:
        self.spec, self.settings, self.case = spec, settings, case
        self.folder, self.model, self.progress, self.gate = folder, model, progress, gate
        graph = onnx.load(model, load_external_data=False).graph
        self.outputs = [output.name for output in graph.output]
        self.exact: dict[str, Array] | None = None
        self.artifact: Path | None = folder / "model.gf"
        self.refusal: dict[str, Any] | None = None

    @classmethod
    def load(cls, spec: Spec, settings: Settings, case: Case, progress: Progress, gate: Gate) -> _Bench:
        """With the inputs in a folder of their own, so that workers and later runs find them."""
        model, inputs = spec.load()
        digest = hashlib.sha256(model.read_bytes())
        for name, array in inputs.items():
            digest.update(f"{name}\0{array.dtype}\0{array.shape}\0".encode() + np.ascontiguousarray(array).tobytes())
        folder = settings.folder / f"{digest.hexdigest()[:20]}"
        folder.mkdir(parents=True, exist_ok=True)
        save_arrays(folder / "inputs.npz", inputs)
        shapes = {key: f"{a.dtype.name} {'×'.join(map(str, a.shape)) or 'scalar'}" for key, a in inputs.items()}
        case.inputs = {one_line(key): shape for key, shape in shapes.items()}
        return cls(spec, settings, case, folder, model.resolve(), progress, gate)

    def settle(self, artifacts: Mapping[str, Path]) -> None:
        """What does not depend on threads: the exact result, the compiled model, onnxruntime's memory."""
        if self.settings.facts:
            self._find_reference()
        if OURS in self.settings.runtimes:
            self.artifact = artifacts.get(self.spec.model) or self._compile()
        if self.settings.facts and "onnxruntime" in self.settings.runtimes:
            answer = self._once(activation.__name__, "memory of onnxruntime", activation.ENVIRONMENT)
            self.case.activation_bytes = answer.get("notes", {}).get("activation_bytes")

    def row(self, threads: int) -> None:
        """Measure all runtimes on so many threads and put the cells into the case, in place of what was there."""
        workers: dict[str, Worker] = {}
        cells: dict[str, Cell] = {}
        found: dict[str, dict[str, Array]] = {}
        try:
            with self.gate("prepare"):
                for runtime in self.settings.runtimes:
                    cells[runtime], worker = self._prepared(runtime, threads, found)
                    if worker is not None:
                        workers[runtime] = worker
            self._compare(cells, found)
            for runtime in [name for name in workers if cells[name].status != OK]:
                workers.pop(runtime).close()
            with self.gate("time"):
                self._time(cells, workers)
        finally:
            for worker in workers.values():
                worker.close()
            done = [cell for cell in cells.values() if cell.status != OK or cell.best_ms is not None]
            if len(done) == len(self.settings.runtimes):
                self.case.cells = [cell for cell in self.case.cells if cell.threads != threads] + done

    def _time(self, cells: Mapping[str, Cell], workers: Mapping[str, Worker]) -> None:
        settings = self.settings
        threads = next(iter(cells.values())).threads

        def tell(text: str) -> None:
            self._tell(f"{threads} threads, {text}")

        times, lost = interleave(workers, settings.seconds, settings.rounds, progress=tell)
        for runtime, worker in workers.items():
            cell = cells[runtime]
            try:
                if runtime in lost:
                    raise WorkerLost(lost[runtime])
                answer = worker.ask({"do": "end"}, settings.prepare_seconds)
            except WorkerLost as error:
                cell.status, cell.reason = LOST, str(error)
                continue
            cell.take_times(times[runtime])
            cell.peak_bytes = answer["peak_bytes"] or None
            cell.stable = answer["digest"] == cell.digest

    def _compare(self, cells: Mapping[str, Cell], found: Mapping[str, Mapping[str, Array]]) -> None:
        """Errors of what each runtime computed, and the verdict on it."""
        for runtime, outputs in found.items():
            cell, tolerance = cells[runtime], self._tolerance(runtime)
            if OURS in found:
                cell.difference = distance(outputs, found[OURS])[0]
            if self.exact is None:
                continue
            largest, mean = distance(outputs, self.exact)
            if self.case.reference.startswith("float64"):
                cell.error, cell.error_rms = largest, mean
            if not largest <= tolerance:
                cell.status, cell.reason = WRONG, f"its output is off by {largest:.2g}, as a share of the largest"

    def _tolerance(self, runtime: str) -> float:
        known = runtime != OURS and runtime in peers.names()
        return float(peers.find(runtime).TOLERANCE) if known else peers.FLOAT32_TOLERANCE

    def _prepared(self, runtime: str, threads: int, found: dict[str, dict[str, Array]]) -> tuple[Cell, Worker | None]:
        cell = Cell(runtime, threads)
        if runtime == OURS and self.refusal is not None:
            cell.status, cell.reason = self.refusal["status"], self.refusal["reason"]
            return cell, None
        self._tell(f"{threads} threads, preparing {runtime}")
        folder = self.folder / f"{runtime}-{threads}"
        answer, worker = self._ask(self.settings.module(runtime), threads, folder, _environment(threads, folder))
        if worker is None:
            cell.status, cell.reason = answer["status"], answer["reason"]
            return cell, None
        found[runtime] = load_arrays(folder / "results.npz")
        cell.version, cell.digest = answer["version"], answer["digest"]
        cell.load_s, cell.reload_s = _load_times(folder, answer["load_s"])
        cell.base_bytes, cell.load_peak_bytes = answer["base_bytes"] or None, answer["load_peak_bytes"] or None
        cell.arena_bytes = answer["notes"].get("arena_bytes")
        return cell, worker

    def _ask(
        self, module: str, threads: int, folder: Path, environment: Mapping[str, str]
    ) -> tuple[dict[str, Any], Worker | None]:
        """What a new worker answers to its first request, and the worker where it is ready."""
        folder.mkdir(parents=True, exist_ok=True)
        request = {
            "module": module,
            "model": str(self.model),
            "inputs": str(self.folder / "inputs.npz"),
            "outputs": self.outputs,
            "threads": threads,
            "folder": str(folder),
            "artifact": str(self.artifact) if self.artifact else None,
            "torch_form": self.spec.torch_form,
            "results": str(folder / "results.npz"),
        }
        worker = Worker(module, {**environment, "PYTHONPATH": self._python_path()})
        try:
            answer = worker.ask(request, self.settings.prepare_seconds)
        except WorkerLost as error:
            return {"status": LOST, "reason": str(error)}, None
        if answer["status"] == READY:
            return answer, worker
        worker.close()
        return answer, None

    def _once(self, module: str, what: str, environment: Mapping[str, str] | None = None) -> dict[str, Any]:
        """The answer of a worker that only prepares; {} where it cannot."""
        self._tell(what)
        folder = self.folder / module.rpartition(".")[2]
        answer, worker = self._ask(module, max(self.settings.threads), folder, environment or {})
        if worker is not None:
            worker.close()
        return answer

    def _find_reference(self) -> None:
        kept, results = self.folder / "reference.json", self.folder / "reference" / "results.npz"
        if not kept.exists():
            answer = self._once(reference.__name__, "float64 reference")
            kept.write_text(json.dumps({"how": answer.get("notes", {}).get("how", "")}))
        self.case.reference = json.loads(kept.read_text())["how"]
        self.exact = load_arrays(results) if self.case.reference else None

    def _compile(self) -> Path | None:
        answer = self._once("graphfuse.bench.compilation", "compiling")
        if answer["status"] != READY:
            self.refusal = answer
            return None
        vars(self.case).update(answer["notes"])
        return self.artifact

    def _tell(self, text: str) -> None:
        self.progress(f"{self.spec.name}: {text}")

    def _python_path(self) -> str:
        package = Path(__file__).resolve().parents[2]
        return os.pathsep.join(map(str, [*self.spec.path, package, *filter(None, [os.environ.get("PYTHONPATH")])]))


def _environment(threads: int, folder: Path) -> dict[str, str]:
    return {"OMP_NUM_THREADS": str(threads), "TORCHINDUCTOR_CACHE_DIR": str(folder / "inductor")}


def _load_times(folder: Path, seconds: float) -> tuple[float, float | None]:
    """(seconds from nothing, seconds with what an earlier run kept in the folder, None the first time)."""
    kept = folder / "load.json"
    try:
        return float(json.loads(kept.read_text())["load_s"]), seconds
    except (OSError, ValueError, KeyError):
        kept.write_text(json.dumps({"load_s": seconds}))
        return seconds, None


def check_runtimes(names: Sequence[str]) -> tuple[str, ...]:
    """graphfuse and the named peers, once each. Raises InputError for one that there is not."""
    for name in names:
        if name != OURS:
            peers.find(name)
    return tuple(dict.fromkeys((OURS, *names)))
