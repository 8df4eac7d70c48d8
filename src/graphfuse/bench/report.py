"""The machine's limits and a model's profile as text for a terminal."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from graphfuse.account.memory import in_short
from graphfuse.account.names import amount, plural
from graphfuse.bench.call_times import CallTime, Profile
from graphfuse.bench.limits import Limits, MachineLimits
from graphfuse.errors import one_line

SORTS = ("program", "time")
_NAMES = 2  # of a call's nodes that are spelled out
_NEAR, _FAR = 0.8, 0.5  # parts of a limit from which a call is close to it, and below which it is far


def render_limits(machine: MachineLimits) -> RenderableType:
    """The peak rate, and the bandwidth of every level, for each number of threads."""
    table = _table("  threads", "level", "size", "read GB/s", "write GB/s", "copy GB/s")
    for limits in machine.limits:
        for k, level in enumerate(limits.levels):
            rates = (f"{rate / 1e9:.0f}" for rate in (level.read, level.write, level.copy))
            threads = str(limits.threads) if k == 0 else ""
            table.add_row(threads, level.name, _capacity(level.size), *rates)
    parts: list[RenderableType] = [Text(one_line(machine.machine), "bold").append(f"  {machine.target}", "not bold")]
    parts += [_peak(limits) for limits in machine.limits]
    age = time.strftime("%Y-%m-%d %H:%M", time.localtime(machine.measured))
    return Group(*parts, table, Text(f"  first measured {age}; --fresh measures anew", "dim"))


def _capacity(size: int) -> str:
    """The size of a cache as its makers give it, in powers of two."""
    return f"{size >> 20} MiB" if size >= 1 << 20 else f"{size >> 10} KiB" if size else ""


def _peak(limits: Limits) -> Text:
    text = Text(f"  {plural(limits.threads, 'thread')}: ").append(f"{limits.flops / 1e9:.0f} GFLOP/s", "bold")
    text.append(" float32 multiply-add", "not bold")
    return text.append(f", {_microseconds(limits.fork)} µs to share a call among them" if limits.threads > 1 else "")


def render_profile(profile: Profile, sort: str = "program", top: int | None = None) -> RenderableType:
    """A row for each call, the costliest `top` alone where given; then what they come to."""
    inputs = ", ".join(f"{one_line(name)} {what}" for name, what in profile.inputs.items())
    title = Text(one_line(profile.model), "bold")
    title.append(f"  {inputs}; {plural(profile.threads, 'thread')}", "not bold")
    ranked = sorted(profile.calls, key=lambda call: -call.best)
    shown = ranked[:top] if top else ranked
    if sort == "program":
        shown = [call for call in profile.calls if any(call is other for other in shown)]
    table = _table("  µs", "median", "share", "GFLOP/s", "moved", "GB/s", "limit", "", "region", right=6)
    for call in shown:
        for depth, each in _with_inner(call):
            table.add_row(*_row(each, depth))
    rest = [call for call in profile.calls if not any(call is other for other in shown)]
    if rest:
        time_, share = sum(call.best for call in rest), sum(call.share for call in rest)
        table.add_row(f"  {_microseconds(time_)}", "", _percent(share), "", "", "", "", "", f"{len(rest)} more: --top")
    parts: list[RenderableType] = [title, table, _totals(profile)]
    if profile.note:
        parts.append(Text(f"  {one_line(profile.note)}", "yellow"))
    return Group(*parts)


def _with_inner(call: CallTime, depth: int = 0) -> Iterator[tuple[int, CallTime]]:
    """A call and those in its bodies, each with how deep it is inside."""
    yield depth, call
    for inner in call.inside:
        yield from _with_inner(inner, depth + 1)


def _row(call: CallTime, depth: int) -> tuple[str | Text, ...]:
    indent = "  " * depth
    rate = f"{call.flops / call.best / 1e9:.0f}" if call.flops and call.best else ""
    bandwidth = f"{call.bytes / call.best / 1e9:.1f}" if call.best else ""
    style = "green" if call.reached >= _NEAR else "yellow" if call.reached < _FAR else ""
    what = Text(indent).append(one_line(call.region), "bold").append(f" {_names(call.nodes)}")
    how = one_line(call.how)
    if depth and call.runs == 0:
        return ("", "", "", "", "", "", "", "", what.append(f"\n{indent}not run: {how}", "dim"))
    often = f"{call.runs} × {_microseconds(call.per_run)} µs: " if depth else ""
    what.append(f"\n{indent}{often}{how}", "dim")
    return (
        f"  {_microseconds(call.best)}",
        _microseconds(call.median),
        _percent(call.share),
        rate,
        amount(call.bytes),
        bandwidth,
        call.bound_by,
        Text(_percent(call.reached), style),
        what,
    )


def _names(nodes: Sequence[str]) -> str:
    shown = ", ".join(one_line(name) for name in nodes[:_NAMES])
    return f"{shown} and {len(nodes) - _NAMES} more" if len(nodes) > _NAMES else shown


def _totals(profile: Profile) -> RenderableType:
    flops, moved = sum(call.flops for call in profile.calls), sum(call.bytes for call in profile.calls)
    best = max(profile.best, 1e-9)
    grid = Table.grid(padding=(0, 2, 0, 0))
    told = f"best {_milliseconds(profile.best)} ms, median {_milliseconds(profile.median)} ms"
    together = sum(call.best for call in profile.calls)
    grid.add_row("  whole run", f"{told}; the best of every call come to {_milliseconds(together)} ms")
    rate = flops / best
    grid.add_row(
        "  computes",
        f"{flops / 1e9:.3g} GFLOP, {rate / 1e9:.0f} GFLOP/s, {rate / profile.limits.flops:.0%} of the peak",
    )
    grid.add_row("  moves", f"{amount(moved)} in and out of kernels, {moved / best / 1e9:.1f} GB/s")
    ideal = sum(call.bound for call in profile.calls)
    grid.add_row(
        "  at the limits", f"{_milliseconds(ideal)} ms if every call reached its own, {ideal / best:.0%} of it"
    )
    grid.add_row("  outside calls", f"{_microseconds(profile.outside)} µs, the way into C and back included")
    if profile.memory is not None:
        grid.add_row("  memory", in_short(profile.memory))
    by: dict[str, float] = {}
    for call in profile.calls:
        by[call.bound_by] = by.get(call.bound_by, 0.0) + call.share
    shares = sorted(by.items(), key=lambda item: -item[1])
    grid.add_row("  time under", ", ".join(f"{name} {share:.0%}" for name, share in shares))
    return grid


def _table(*titles: str, right: int | None = None) -> Table:
    """A table without lines, the first `right` columns aligned to the right (all but the second where not given)."""
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="dim")
    for k, title in enumerate(titles):
        to_right = k != 1 if right is None else k < right or title == ""
        table.add_column(title, justify="right" if to_right else "left", overflow="fold", no_wrap=to_right)
    return table


def _microseconds(seconds: float) -> str:
    value = 1e6 * seconds
    return f"{value:.2f}" if value < 10 else f"{value:.1f}" if value < 1000 else f"{value:.0f}"


def _milliseconds(seconds: float) -> str:
    value = 1e3 * seconds
    return f"{value:.4f}" if value < 0.1 else f"{value:.3f}" if value < 10 else f"{value:.2f}"


def _percent(part: float) -> str:
    return f"{part:.0%}" if part >= 0.0995 else f"{part:.1%}"
