"""A report as a picture: for each model a bar for each runtime, as long as the logarithm of its time over graphfuse's.

Plain SVG with colours of its own for light and dark surroundings.
"""

from __future__ import annotations

import math
from html import escape

from graphfuse.bench.record import OURS, VYING, Case, Report
from graphfuse.bench.table import TITLES
from graphfuse.errors import one_line

_WIDTH, _LEFT, _RIGHT, _TOP = 920, 170, 70, 96
_BAR, _GAP, _GROUP = 9, 2, 12
_TICKS = (0.125, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0)
# One colour a runtime, told apart without red and green; those that do not vie are hatched by paleness.
_COLOURS = ("#3b76c4", "#d9822b", "#7d5bbe", "#1f9a8a", "#9aa5b1", "#c2a3a3", "#a3b79a", "#b9a8cf")
_STYLE = """
  .paper { fill: #ffffff; stroke: #d7dce2 }
  text { fill: #1c2330; font: 12px system-ui, -apple-system, 'Segoe UI', Helvetica, Arial, sans-serif }
  .title { font-size: 16px; font-weight: 600 }
  .small { font-size: 11px; fill: #5b6472 }
  .end { text-anchor: end }
  .mid { text-anchor: middle }
  .grid { stroke: #e3e7ec; stroke-width: 1 }
  .even { stroke: #1c2330; stroke-width: 1.4 }
  .pale { opacity: 0.55 }
  @media (prefers-color-scheme: dark) {
    .paper { fill: #14181f; stroke: #323a46 }
    text { fill: #e6e9ee }
    .small { fill: #a3adba }
    .grid { stroke: #2a313c }
    .even { stroke: #e6e9ee }
  }
"""


def picture(report: Report, threads: int | None = None) -> str:
    """The SVG document for one number of threads, the largest when left out; rows need a time of ours."""
    counts = report.threads()
    threads = threads or (counts[-1] if counts else 1)
    cases = [case for case in report.cases if _ours(case, threads)]
    runtimes = [name for name in report.runtimes() if name != OURS]
    colours = {name: _COLOURS[k % len(_COLOURS)] for k, name in enumerate(runtimes)}
    ticks = _ticks(cases, threads)
    low, high = math.log2(ticks[0]), math.log2(ticks[-1])

    def x(ratio: float) -> float:
        share = (math.log2(ratio) - low) / (high - low)
        return _LEFT + min(1.0, max(0.0, share)) * (_WIDTH - _LEFT - _RIGHT)

    body: list[str] = []
    y = _TOP
    for case in cases:
        y = _case(body, case, threads, colours, x, y)
    bottom = y
    grid = [_tick(tick, x(tick), bottom) for tick in ticks]
    mean, count = report.mean(threads)
    told = (
        "" if mean is None else f"; geometric mean against the best float32 peer {mean:.2f} ({count} models, batch 1)"
    )
    plural = "s" * (threads != 1)
    title = f"Time of other runtimes over graphfuse's, {threads} thread{plural}"
    axis = "time / graphfuse's time, best calls, logarithmic; right of 1: graphfuse is faster"
    height = bottom + 52
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height}"',
            ' role="img" aria-labelledby="t d">',
            f'<title id="t">{escape(title)}</title>',
            f'<desc id="d">{escape(_description(cases, threads))}</desc>',
            f"<style>{_STYLE}</style>",
            f'<rect class="paper" x="0.5" y="0.5" width="{_WIDTH - 1}" height="{height - 1}" rx="12"/>',
            f'<text class="title" x="24" y="32">{escape(title)}</text>',
            f'<text class="small" x="24" y="52">{escape(one_line(report.machine, 90) + told)}</text>',
            *_legend(runtimes, colours),
            *grid,
            *body,
            f'<text class="small mid" x="{(_LEFT + _WIDTH - _RIGHT) / 2:.0f}" y="{bottom + 36}">{axis}</text>',
            "</svg>",
            "",
        ]
    )


def _case(body: list[str], case: Case, threads: int, colours: dict[str, str], x: object, y: int) -> int:
    """Draw one model's bars from y downward; returns where the next begins."""
    assert callable(x)
    row = case.row(threads)
    ours = row[OURS].best_ms or 1.0
    names = [name for name in colours if name in row and row[name].best_ms]
    best = case.best_peer(threads)
    height = max(1, len(names)) * (_BAR + _GAP)
    body.append(
        f'<text class="end" x="{_LEFT - 12}" y="{y + height / 2 + 4:.1f}">{escape(one_line(case.name, 24))}</text>'
    )
    for k, name in enumerate(names):
        ratio = (row[name].best_ms or ours) / ours
        start, end = sorted((x(1.0), x(ratio)))
        top = y + k * (_BAR + _GAP)
        pale = "" if name in VYING else ' class="pale"'
        tip = escape(f"{case.name}, {TITLES.get(name, name)}: {ratio:.2f}")
        body.append(
            f'<rect{pale} x="{start:.1f}" y="{top}" width="{max(0.8, end - start):.1f}" height="{_BAR}" rx="1.5"'
            f' fill="{colours[name]}"><title>{tip}</title></rect>'
        )
        if best is not None and best.runtime == name:
            body.append(f'<text class="small" x="{max(end, x(1.0)) + 5:.1f}" y="{top + _BAR}">{ratio:.2f}</text>')
    return y + height + _GROUP


def _tick(tick: float, x: float, bottom: int) -> str:
    kind = "even" if tick == 1.0 else "grid"
    label = f"{tick:g}" if tick >= 1 else f"1/{1 / tick:g}"
    return (
        f'<path class="{kind}" d="M{x:.1f} {_TOP - 8}V{bottom}"/>'
        f'<text class="small mid" x="{x:.1f}" y="{bottom + 16}">{label}</text>'
    )


def _ticks(cases: list[Case], threads: int) -> tuple[float, ...]:
    """Powers of two around every ratio, at least from a half to two."""
    ratios = [0.75, 1.5]
    for case in cases:
        ours = case.row(threads)[OURS].best_ms or 1.0
        ratios += [cell.best_ms / ours for cell in case.row(threads).values() if cell.best_ms]
    low = max((tick for tick in _TICKS if tick <= min(ratios)), default=_TICKS[0])
    high = min((tick for tick in _TICKS if tick >= max(ratios)), default=_TICKS[-1])
    return tuple(tick for tick in _TICKS if low <= tick <= high)


def _legend(runtimes: list[str], colours: dict[str, str]) -> list[str]:
    parts, x = [], 24
    for name in runtimes:
        title = TITLES.get(name, one_line(name))
        pale = "" if name in VYING else ' class="pale"'
        parts.append(f'<rect{pale} x="{x}" y="66" width="11" height="11" rx="2" fill="{colours[name]}"/>')
        parts.append(f'<text class="small" x="{x + 16}" y="76">{escape(title)}</text>')
        x += 34 + int(6.2 * len(title))
    return parts


def _ours(case: Case, threads: int) -> bool:
    row = case.row(threads)
    return OURS in row and row[OURS].best_ms is not None and len(row) > 1


def _description(cases: list[Case], threads: int) -> str:
    ratios = [(case.name, case.ratio(threads)) for case in cases]
    return "; ".join(
        f"{one_line(name)}: best peer's time {ratio:.2f} of graphfuse's" for name, ratio in ratios if ratio
    )
