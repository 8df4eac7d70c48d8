"""What a comparison found, as data: cells (a runtime on a number of threads) of cases (a model and a batch)."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import statistics
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from graphfuse import __version__
from graphfuse.bench import peers
from graphfuse.errors import InputError
from graphfuse.target import physical_cores, processor_name, target_for

OURS = "graphfuse"
FORMAT, FORMAT_VERSION = "graphfuse bench", 1

OK, WRONG, LOST = "ok", "wrong", "lost"
UNSUPPORTED, MISSING, FAILED = "unsupported", "missing", "failed"


@dataclass
class Cell:
    """One runtime on one number of threads.

    status: "ok"; "wrong" (its output is: then it has no times); "unsupported", "missing", "failed" or "lost" (crashed
    or hung), with the reason. best_ms, median_ms: milliseconds of one call over `calls` calls; rounds_ms: best of each
    round. error, error_rms: largest and root mean square distance from float64, as a share of the largest output and of
    its root mean square; difference: the same largest distance from graphfuse's output. load_s: seconds to make the
    model ready, from nothing; reload_s: from what an earlier run has kept. base_bytes: memory of the process before
    the model is there; load_peak_bytes, peak_bytes: most memory of the process until the model is ready, and while it
    ran. digest: of the bits of its outputs; stable: whether they were the same before and after the timed calls.
    """

    runtime: str
    threads: int
    status: str = OK
    reason: str = ""
    version: str = ""
    best_ms: float | None = None
    median_ms: float | None = None
    calls: int = 0
    rounds_ms: list[float] = field(default_factory=list)
    error: float | None = None
    error_rms: float | None = None
    difference: float | None = None
    load_s: float | None = None
    reload_s: float | None = None
    base_bytes: int | None = None
    load_peak_bytes: int | None = None
    peak_bytes: int | None = None
    arena_bytes: int | None = None
    digest: str = ""
    stable: bool | None = None

    def take_times(self, rounds: Sequence[Sequence[float]]) -> None:
        """Figures of the calls of all rounds, given in seconds."""
        times = [1e3 * seconds for each in rounds for seconds in each]
        if not times:
            return
        self.best_ms, self.median_ms, self.calls = min(times), statistics.median(times), len(times)
        self.rounds_ms = [1e3 * min(each) for each in rounds if each]


@dataclass
class Case:
    """One model on one batch, and its cells.

    inputs: dtype and shape by name; reference: what the errors are measured against, "" for nothing; compile_s,
    recompile_s: seconds of graphfuse's compilation from nothing, and with every object in the cache; verify_s: the part
    of the latter that compares the result with onnxruntime;
    activation_bytes: memory that onnxruntime takes for what lies between inputs and outputs, see `activation.py`.
    """

    model: str
    batch: int = 1
    inputs: dict[str, str] = field(default_factory=dict)
    reference: str = ""
    compile_s: float | None = None
    recompile_s: float | None = None
    verify_s: float | None = None
    activation_bytes: int | None = None
    cells: list[Cell] = field(default_factory=list)

    @property
    def name(self) -> str:
        return self.model if self.batch == 1 else f"{self.model} x{self.batch}"

    def row(self, threads: int) -> dict[str, Cell]:
        """Cells on so many threads by runtime."""
        return {cell.runtime: cell for cell in self.cells if cell.threads == threads}

    def best_peer(self, threads: int) -> Cell | None:
        """The fastest peer of the row among those that compute in float32 and are right."""
        vying = [cell for cell in self.row(threads).values() if cell.runtime in VYING and cell.best_ms is not None]
        return min(vying, key=lambda cell: cell.best_ms or math.inf, default=None)

    def ratio(self, threads: int) -> float | None:
        """The best peer's best time over graphfuse's: above 1 graphfuse is faster."""
        peer, ours = self.best_peer(threads), self.row(threads).get(OURS)
        if peer is None or ours is None or not ours.best_ms or peer.best_ms is None:
            return None
        return peer.best_ms / ours.best_ms

    def error_ratio(self, threads: int) -> float | None:
        """graphfuse's root mean square error over onnxruntime's."""
        row = self.row(threads)
        ours, theirs = (row[name].error_rms if name in row else None for name in (OURS, "onnxruntime"))
        return None if ours is None or not theirs else ours / theirs

    def identical(self) -> bool | None:
        """Whether graphfuse gave the same bits on all numbers of threads and in every run; None where it has none."""
        ours = [cell for cell in self.cells if cell.runtime == OURS and cell.digest]
        if not ours:
            return None
        return len({cell.digest for cell in ours}) == 1 and all(cell.stable is not False for cell in ours)


VYING = tuple(name for name in peers.names() if peers.vies(name))


@dataclass
class Report:
    """Everything that was measured on one machine."""

    machine: str = ""
    target: str = ""
    graphfuse: str = __version__
    seconds: float = 0.0
    rounds: int = 0
    cases: list[Case] = field(default_factory=list)

    def case(self, model: str, batch: int) -> Case:
        """The case, made where it is new."""
        for case in self.cases:
            if (case.model, case.batch) == (model, batch):
                return case
        self.cases.append(Case(model, batch))
        return self.cases[-1]

    def threads(self) -> list[int]:
        return sorted({cell.threads for case in self.cases for cell in case.cells})

    def runtimes(self) -> list[str]:
        """graphfuse first, then its peers: those that vie with it, then the others."""
        found = {cell.runtime for case in self.cases for cell in case.cells}
        rank = {OURS: 0, **dict.fromkeys(VYING, 1)}
        return sorted(found, key=lambda name: (rank.get(name, 2), name))

    def to_dict(self) -> dict[str, Any]:
        """For machines; docs/bench.md describes it."""
        cases = []
        for case in self.cases:
            rows = {
                str(threads): {
                    "best_peer": getattr(case.best_peer(threads), "runtime", None),
                    "ratio": case.ratio(threads),
                    "error_ratio": case.error_ratio(threads),
                }
                for threads in sorted({cell.threads for cell in case.cells})
            }
            cases.append({**dataclasses.asdict(case), "rows": rows, "identical": case.identical()})
        summary = {
            str(threads): {"geometric_mean": mean, "rows": count}
            for threads in self.threads()
            for mean, count in [self.mean(threads)]
        }
        head = {"format": FORMAT, "format_version": FORMAT_VERSION}
        return {**head, **dataclasses.asdict(self), "cases": cases, "summary": summary}

    def mean(self, threads: int) -> tuple[float | None, int]:
        """Geometric mean of the ratios at batch 1, and of how many."""
        ratios = [case.ratio(threads) for case in self.cases if case.batch == 1]
        return geometric_mean([ratio for ratio in ratios if ratio is not None])

    def save(self, path: Path) -> None:
        """Write the JSON file, whole or not at all."""
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.tmp-")
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            json.dump(_finite(self.to_dict()), file, indent=1, allow_nan=False)
            file.write("\n")
        os.chmod(name, 0o644)
        os.replace(name, path)


def load_report(path: Path) -> Report:
    """What Report.save wrote. Raises InputError for anything else."""
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        if (data["format"], data["format_version"]) != (FORMAT, FORMAT_VERSION):
            raise ValueError("another format")
        report = Report(**_known(Report, data))
        report.cases = [Case(**_known(Case, case)) for case in data["cases"]]
        for case in report.cases:
            case.cells = [Cell(**_known(Cell, cell)) for cell in case.cells]  # type: ignore[arg-type]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError("this is no result of the bench", where=str(path), why=str(error)) from error
    return report


def merged(reports: Iterable[Report]) -> Report:
    """The rows of all reports in one; a row of a later report takes the place of an earlier one's."""
    reports = list(reports)
    result = Report(**{**vars(reports[-1]), "cases": []}) if reports else Report()
    for report in reports:
        for case in report.cases:
            known = result.case(case.model, case.batch)
            anew = {cell.threads for cell in case.cells}
            cells = [*(cell for cell in known.cells if cell.threads not in anew), *case.cells]
            facts = {key: value for key, value in vars(case).items() if value not in (None, "", {})}
            vars(known).update(facts, cells=sorted(cells, key=lambda cell: cell.threads))
    return result


def geometric_mean(values: Sequence[float]) -> tuple[float | None, int]:
    """exp of the mean logarithm, and of how many values; None for none."""
    if not values:
        return None, 0
    return math.exp(statistics.fmean(math.log(value) for value in values)), len(values)


def machine() -> str:
    """The processor in its maker's words, and how many cores may be used."""
    cores = physical_cores()
    return f"{processor_name()}, {cores} core{'s' * (cores != 1)}"


def here(seconds: float, rounds: int) -> Report:
    """An empty report of this machine."""
    return Report(machine(), target_for().key(), __version__, seconds, rounds)


def _known(kind: type, data: dict[str, Any]) -> dict[str, Any]:
    names = {each.name for each in dataclasses.fields(kind)}
    return {key: value for key, value in data.items() if key in names}


def _finite(value: Any) -> Any:
    """JSON has no infinity: an error without bound is told as null, its reason in words."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    return [_finite(item) for item in value] if isinstance(value, list | tuple) else value
