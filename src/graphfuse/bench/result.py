"""What a comparison found, as data, text and JSON."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from graphfuse.bench.record import OURS, Cell
from graphfuse.errors import one_line


@dataclass(frozen=True)
class Timing:
    """One runtime on one number of threads. best, median: milliseconds of one call, over `calls` calls.

    ratio_best, ratio_median: its time divided by graphfuse's, above 1 where graphfuse is faster (1 for graphfuse
    itself); difference: largest relative difference of its outputs from graphfuse's, as in a certificate.
    """

    runtime: str
    version: str
    threads: int
    best: float
    median: float
    calls: int
    ratio_best: float = 1.0
    ratio_median: float = 1.0
    difference: float = 0.0


@dataclass(frozen=True)
class BenchResult:
    """All timings of one model on one machine; inputs: dtype and shape by name; problems: why a peer has none."""

    model: str
    inputs: dict[str, str]
    machine: str
    target: str
    seconds: float
    timings: tuple[Timing, ...]
    problems: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """For machines; times in milliseconds."""
        return dataclasses.asdict(self)


def timing(cell: Cell, ours: Cell) -> Timing:
    """The timing of a cell that has times, beside graphfuse's of the same row."""
    assert cell.best_ms is not None and cell.median_ms is not None  # noqa: PT018
    assert ours.best_ms is not None and ours.median_ms is not None  # noqa: PT018
    ratios = cell.best_ms / ours.best_ms, cell.median_ms / ours.median_ms
    best, median = round(cell.best_ms, 6), round(cell.median_ms, 6)
    return Timing(cell.runtime, cell.version, cell.threads, best, median, cell.calls, *ratios, cell.difference or 0.0)


def render(*results: BenchResult) -> RenderableType:
    """A table for each result, with one block of rows for each number of threads."""
    parts: list[RenderableType] = []
    for result in results:
        inputs = ", ".join(f"{one_line(name)} {what}" for name, what in result.inputs.items())
        parts += [Text(one_line(result.model), "bold").append(f"  {inputs}", "not bold"), _table(result)]
        parts += [Text(f"  {one_line(problem)}", "yellow") for problem in result.problems]
    machines = dict.fromkeys(result.machine for result in results)
    calls = sum(row.calls for result in results for row in result.timings)
    parts.append(Text(f"  on {', '.join(map(one_line, machines))}; {calls} calls in turns", "dim"))
    parts.append(Text("  ratio: its time over graphfuse's, above 1 graphfuse is faster", "dim"))
    return Group(*parts)


def _table(result: BenchResult) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="dim")
    table.add_column("  threads", justify="right", overflow="fold")
    table.add_column("runtime", overflow="fold")
    for title in ("best ms", "ratio", "median ms", "ratio"):
        table.add_column(title, justify="right", overflow="fold")
    last = 0
    for row in result.timings:
        threads = "" if row.threads == last else str(row.threads)
        last = row.threads
        ours = row.runtime == OURS
        ratios = (Text(), Text()) if ours else (_ratio(row.ratio_best), _ratio(row.ratio_median))
        name = Text(one_line(f"{row.runtime} {row.version}"), "bold" if ours else "")
        table.add_row(threads, name, _milliseconds(row.best), ratios[0], _milliseconds(row.median), ratios[1])
    return table


def _milliseconds(value: float) -> str:
    return f"{value:.4f}" if value < 0.1 else f"{value:.3f}" if value < 10 else f"{value:.2f}"


def _ratio(value: float) -> Text:
    return Text(f"{value:.2f}×", "green" if value >= 1 else "yellow")
