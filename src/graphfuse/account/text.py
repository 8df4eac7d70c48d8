"""The account as text for a terminal, of any width and without one."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from graphfuse.account.account import (
    Account,
    Kernel,
    account_of,
    chain,
    edge_groups,
    kernel_groups,
    ledger_op,
    miss_groups,
)
from graphfuse.account.memory import memory_of, render_memory
from graphfuse.account.names import amount, patterns, plural
from graphfuse.errors import one_line
from graphfuse.ledger import EdgeRecord, Ledger, MissRecord, NodeRecord

_FATES = {
    "fused": "share a kernel with neighbours",
    "alone": "a kernel of their own",
    "folded": "computed when compiling",
    "removed": "without effect",
}
_STYLES = {"fused": "green", "alone": "yellow", "folded": "cyan", "removed": "cyan"}
_MOST_OPS = 9  # operators spelled out of one kernel
_MOST_ROWS = 12  # groups of misses shown in the short form
_BAR = 20  # characters


def render(ledger: Ledger, title: str, *, full: bool = False) -> RenderableType:
    """The account of `ledger`: a summary, the kernels, what was missed; `full` tells every node and edge by itself."""
    account = account_of(ledger)
    parts = [render_fusion(ledger, title, full=full)]
    memory = memory_of(ledger)
    if memory is not None:
        parts += [_heading("Memory"), render_memory(memory, full=full)]
    parts += _section(_edges_title(account), list(_edges(ledger, full)), full)
    parts += _section("Rules that nearly applied", list(_misses(ledger, full)), full)
    if full:
        parts += [_heading("Every node"), _nodes(ledger)]
    return Group(*parts)


def render_fusion(ledger: Ledger, title: str, *, full: bool = False) -> RenderableType:
    """The first part of it: the summary and the kernels."""
    account = account_of(ledger)
    kernels = _every_kernel(account) if full else _kernels(account)
    return Group(_title(account, title), _summary(account), _heading(_kernels_title(account)), kernels)


def _title(account: Account, title: str) -> Text:
    text = Text(one_line(title), "bold")
    counts = f"  {plural(len(account.ledger.names), 'node')}, {plural(len(account.kernels), 'kernel call')}"
    return text.append(counts, "not bold")


def _heading(title: str) -> RenderableType:
    return Padding(Text(title, "bold"), (1, 0, 0, 0))


def _summary(account: Account) -> RenderableType:
    table = _grid()
    total = max(1, len(account.ledger.names))
    for fate, meaning in _FATES.items():
        count = account.fates[fate]
        bar = Text("━" * max(round(_BAR * count / total), 1) if count else "", _STYLES[fate], overflow="crop")
        table.add_row(f"  {fate}", _right(count), bar, Text(meaning, "dim"))
    if account.views:
        table.add_row("", _right(len(account.views)), "", Text("of the fused: only other strides", "dim"))
    return table


def _section(title: str, rows: Sequence[RenderableType], full: bool) -> list[RenderableType]:
    if not rows:
        return []
    shown = rows if full else rows[:_MOST_ROWS]
    more = [Text(f"  and {len(rows) - len(shown)} more: --all", "dim")] if len(shown) < len(rows) else []
    return [_heading(title), *shown, *more]


# ---------------------------------------------------------------- kernels


def _kernels_title(account: Account) -> str:
    return f"Kernels, in order of execution; {account.functions} different"


def _kernels(account: Account) -> RenderableType:
    """Repeated kernels as one row each."""
    table = _grid()
    order = {name: k for k, name in enumerate(account.ledger.names)}
    for group in kernel_groups(account):
        first = group[0]
        what = _chain(chain(first, order)) if first.nodes else Text(one_line(first.name))
        what.append(f"  {one_line(first.kind)}", "not bold dim")
        where = [Text(patterns([_lead(kernel, order) for kernel in group]))] if first.nodes else []
        table.add_row(_right(f"{len(group)}×" if len(group) > 1 else "", 6), Group(what, *where))
    return table


def _lead(kernel: Kernel, order: dict[str, int]) -> str:
    """The name that a kernel is known by: that of its first node."""
    return min((node.name for node in kernel.nodes), key=order.__getitem__, default="")


def _chain(ops: Sequence[tuple[str, bool]]) -> Text:
    """Conv + (BatchNormalization) + Relu; parentheses around what was folded into weights."""
    text = Text()
    for k, (op, folded) in enumerate(ops[:_MOST_OPS]):
        text.append(" + " if k else "", "dim")
        text.append(f"({op})" if folded else op, "cyan" if folded else "bold green" if len(ops) > 1 else "bold yellow")
    if len(ops) > _MOST_OPS:
        text.append(f" + {len(ops) - _MOST_OPS} more", "dim")
    return text


def _every_kernel(account: Account) -> RenderableType:
    table = _grid()
    for kernel in account.kernels:
        names = [
            Text(f"  {one_line(node.name)} ({node.op_type}{', folded' * (node.fate == 'folded')})")
            for node in kernel.members
        ]
        how = Text(f"{one_line(kernel.how)} ", "bold").append(kernel.function, "not bold dim")
        table.add_row(Text(f"  {one_line(kernel.name)}", "bold"), Group(how, *names))
    return table


# ---------------------------------------------------------------- what was missed


def _edges_title(account: Account) -> str:
    edges = plural(len(account.ledger.edges), "edge")
    return f"Not fused: {edges}, {amount(account.missed_bytes)} per run through memory"


def _edges(ledger: Ledger, full: bool) -> Iterator[RenderableType]:
    groups = [[edge] for edge in sorted(ledger.edges, key=lambda e: -e.bytes)] if full else edge_groups(ledger)
    for group in groups:
        yield _row(_right(amount(sum(edge.bytes for edge in group)), 8), _edge(ledger, group))


def _edge(ledger: Ledger, group: Sequence[EdgeRecord]) -> Iterator[Text]:
    first = group[0]
    count = f"  {len(group)}×" if len(group) > 1 else ""
    ends = f"{ledger_op(ledger, first.producer)} → {ledger_op(ledger, first.consumer)}"
    yield Text(one_line(ends), "bold").append(count, "not bold dim")
    yield Text(_ends(group))
    culprit = f": {one_line(first.culprit)}" if first.culprit and len(group) == 1 else ""
    yield Text(f"{one_line(first.condition)}{culprit}", "yellow")
    if first.remedy:
        yield Text(one_line(first.remedy), "dim")


def _ends(group: Sequence[EdgeRecord]) -> str:
    """Where a group of edges lies: as one pattern where that says it, else by its costliest edge."""
    pairs = patterns([f"{edge.producer} → {edge.consumer}" for edge in group], 2).split(", ")
    if len(pairs) == 1:
        return pairs[0]
    costliest = max(group, key=lambda edge: edge.bytes)
    return one_line(f"such as {costliest.producer} → {costliest.consumer}")


def _misses(ledger: Ledger, full: bool) -> Iterator[RenderableType]:
    groups = [[miss] for miss in ledger.misses] if full else miss_groups(ledger)
    for group in groups:
        yield _row(_right(f"{len(group)}×" if len(group) > 1 else "", 8), _miss(group))


def _miss(group: Sequence[MissRecord]) -> Iterator[Text]:
    first = group[0]
    yield Text(one_line(first.rule), "bold").append(f"  {patterns([miss.node for miss in group])}", "not bold")
    example = "for example, " if len(group) > 1 else ""
    yield Text(f"{example}{one_line(first.reason)}", "yellow")


# ---------------------------------------------------------------- every node


def _nodes(ledger: Ledger) -> RenderableType:
    table = _grid()
    for node in ledger.nodes:
        what = Text(one_line(node.name)).append(f"  {one_line(node.op_type)}", "dim")
        table.add_row(Text(f"  {node.fate}", _STYLES[node.fate]), Group(what, *_why(node)))
    return table


def _why(node: NodeRecord) -> Iterator[Text]:
    into = f"into {one_line(node.into)}" if node.into else ""
    by = f"by {node.by}" if node.by else ""
    told = ", ".join(part for part in (into, by, one_line(node.reason)) if part)
    if told:
        yield Text(f"  {told}", "dim")


# ---------------------------------------------------------------- building blocks


def _grid() -> Table:
    """Columns without lines; in a narrow terminal words are folded, never cut."""
    return Table.grid(padding=(0, 2, 0, 0))


def _right(value: object, width: int = 5) -> Text:
    return Text(f"{value:>{width}}")


def _row(lead: Text, lines: Iterator[Text]) -> RenderableType:
    table = _grid()
    table.add_row(lead, Group(*lines))
    return table
