"""A report as tables for a terminal: times and ratios for each number of threads, errors, and what a model costs."""

from __future__ import annotations

import statistics
from collections.abc import Callable

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from graphfuse.bench import peers
from graphfuse.bench.record import MISSING, OK, OURS, VYING, Case, Cell, Report
from graphfuse.errors import one_line

TITLES = {
    "openvino_bf16": "openvino bf16",
    "torch_eager": "torch eager",
    "torch_compile": "torch compile",
    "torch_compile_freezing": "torch compile freezing",
}
_MEGABYTE = 1e6
_QUIET = 1.35  # median over best; up to 1.2 is usual for two threads on a quiet machine


def tables(report: Report) -> RenderableType:
    """Everything that a report holds, in one column."""
    if not report.threads():
        return Text("nothing was measured")
    most = report.threads()[-1]
    parts: list[RenderableType] = [Text(one_line(f"{report.machine}, graphfuse {report.graphfuse}"), "bold"), Text()]
    for threads in report.threads():
        parts += [_heading(threads), times(report, threads), _mean_line(report, threads), Text()]
    parts += [
        Text(f"largest error against float64, as a share of the largest output, {most} threads", "bold"),
        errors(report, most),
        Text(),
        Text(f"seconds to make ready, megabytes of the process while it runs, {most} threads", "bold"),
        costs(report, most),
        Text(),
    ]
    parts += [Text(line) for line in remarks(report)]
    return Group(*parts)


def _heading(threads: int) -> Text:
    text = Text(f"{threads} thread{'s' * (threads != 1)}", "bold")
    return text.append(": milliseconds of one call, best and median; ratio: the best peer's best over ours", "not bold")


def times(report: Report, threads: int) -> Table:
    """One row a model. Peers that do not vie for the ratio stand behind it."""
    runtimes = report.runtimes()
    vying = [name for name in runtimes if name == OURS or name in VYING]
    others = [name for name in runtimes if name not in vying]
    table = _table("model", *map(_title, vying), "ratio", *map(_title, others))
    for case in _cases(report, threads):
        row, ratio, best = case.row(threads), case.ratio(threads), case.best_peer(threads)
        shown = {name: _time(row.get(name), best is not None and best.runtime == name) for name in runtimes}
        ratio_text = Text("" if ratio is None else f"{ratio:.2f}", "bold green" if (ratio or 0) >= 1 else "bold red")
        table.add_row(_name(case), *(shown[name] for name in vying), ratio_text, *(shown[name] for name in others))
    return table


def errors(report: Report, threads: int) -> Table:
    """How far each runtime is from float64, and our root mean square error over onnxruntime's."""
    runtimes = report.runtimes()
    table = _table("model", *map(_title, runtimes), "ours / onnxruntime")
    for case in _cases(report, threads):
        row, ratio = case.row(threads), case.error_ratio(threads)
        shown = [_of(row.get(name), lambda cell: cell.error, "{:.1e}") for name in runtimes]
        table.add_row(_name(case), *shown, Text("" if ratio is None else f"{ratio:.2f}"))
    return table


def costs(report: Report, threads: int) -> Table:
    """Compilation, loading, memory. Of torch.compile and ncnn loading includes the conversion."""
    runtimes = report.runtimes()
    table = _table("model", "compile", "cached", "verify", *map(_title, runtimes), "arena", "onnxruntime's")
    for case in _cases(report, threads):
        row = case.row(threads)
        ours = row.get(OURS)
        table.add_row(
            _name(case),
            _seconds(case.compile_s),
            _seconds(case.recompile_s),
            _seconds(case.verify_s),
            *(_load_and_memory(row.get(name)) for name in runtimes),
            _megabytes(ours.arena_bytes if ours else None),
            _megabytes(case.activation_bytes),
        )
    return table


def remarks(report: Report) -> list[str]:
    """What does not fit a table: bits, the cost of a call, why a cell has no times."""
    same = [case for case in report.cases if case.identical()]
    other = [case.name for case in report.cases if case.identical() is False]
    counts = " and ".join(map(str, report.threads()))
    lines = [f"the same bits on {counts} threads and from run to run: {len(same)} of {len(same) + len(other)} models"]
    lines += [f"  not {', '.join(other)}"] if other else []
    lines += _call_lines(report)
    versions = {cell.runtime: cell.version for case in report.cases for cell in case.cells if cell.version}
    lines.append(", ".join(f"{_title(name)} {versions[name]}" for name in report.runtimes() if name in versions))
    lines += _noise_lines(report)
    lines += _problem_lines(report)
    return [one_line(line) for line in lines]


def _noise_lines(report: Report) -> list[str]:
    """Rows in which most runtimes' medians are far from their best: something else had the processor."""
    noisy = []
    for case in report.cases:
        for threads in sorted({cell.threads for cell in case.cells}):
            timed = [cell for cell in case.row(threads).values() if cell.best_ms and cell.median_ms]
            spread = [cell.median_ms / cell.best_ms for cell in timed if cell.best_ms and cell.median_ms]
            if spread and statistics.median(spread) > _QUIET:
                noisy.append(f"{case.name} ({threads})")
    listed = ", ".join(noisy)
    return [f"the machine was not quiet, medians are far above the best times: {listed}"] if noisy else []


def _problem_lines(report: Report) -> list[str]:
    """Why cells have no times: packages to install once, the same reason on several threads once."""
    problems: dict[str, list[int]] = {}
    absent: dict[str, None] = {}
    for case in report.cases:
        for cell in case.cells:
            if cell.status == MISSING:
                absent[cell.runtime] = None
            elif cell.status != OK:
                what = f"{case.name}, {cell.runtime}: {cell.status}: {cell.reason}"
                problems.setdefault(what, []).append(cell.threads)
    packages = {name: " ".join(peers.find(name).PACKAGES) for name in absent if name in peers.names()}
    lines = [f"{name} is not installed: pip install {needed}" for name, needed in packages.items()]
    return lines + [f"{what} ({', '.join(map(str, sorted(found)))} threads)" for what, found in problems.items()]


def _call_lines(report: Report) -> list[str]:
    """The cost of a call from Python, told on the smallest model."""
    cells = [cell for case in report.cases if (case.model, case.batch) == ("mlp", 1) for cell in case.cells]
    least = min((cell.threads for cell in cells), default=0)
    timed = [cell for cell in cells if cell.threads == least and cell.best_ms is not None]
    if not timed:
        return []
    told = ", ".join(f"{_title(cell.runtime)} {1e3 * (cell.best_ms or 0):.1f}" for cell in timed)
    return [f"microseconds of a call from Python, three linear layers, {least} thread{'s' * (least != 1)}: {told}"]


def _mean_line(report: Report, threads: int) -> Text:
    mean, count = report.mean(threads)
    return Text("" if mean is None else f"geometric mean of {count} ratios at batch 1: {mean:.3f}", "bold")


def _cases(report: Report, threads: int) -> list[Case]:
    return [case for case in report.cases if case.row(threads)]


def _table(first: str, *titles: str) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="dim")
    table.add_column(first, overflow="fold")
    for title in titles:
        table.add_column(title, justify="right")
    return table


def _title(runtime: str) -> str:
    return TITLES.get(runtime, one_line(runtime))


def _name(case: Case) -> str:
    return one_line(case.name)


def _time(cell: Cell | None, best: bool) -> Text:
    if cell is None or cell.best_ms is None or cell.median_ms is None:
        return Text("" if cell is None else cell.status, "dim")
    style = "bold" if cell.runtime == OURS else "green" if best else ""
    return Text(f"{milliseconds(cell.best_ms)} {milliseconds(cell.median_ms)}", style)


def milliseconds(value: float) -> str:
    """Three figures that matter, and enough of them below a tenth."""
    return f"{value:.4f}" if value < 0.1 else f"{value:.3f}" if value < 10 else f"{value:.2f}"


def _of(cell: Cell | None, read: Callable[[Cell], float | None], form: str) -> Text:
    value = read(cell) if cell is not None else None
    return Text("" if value is None else form.format(value), "" if cell and cell.status == OK else "red")


def _load_and_memory(cell: Cell | None) -> Text:
    if cell is None or cell.load_s is None:
        return Text()
    memory = "" if cell.peak_bytes is None else f" {cell.peak_bytes / _MEGABYTE:.0f}"
    return Text(f"{cell.load_s:.2f}{memory}")


def _seconds(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"


def _megabytes(value: int | None) -> str:
    return "" if value is None else f"{value / _MEGABYTE:.3g}"
