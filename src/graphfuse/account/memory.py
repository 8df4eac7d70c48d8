"""The memory that a compiled model needs, from the ledger: as data and as text."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Any

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from graphfuse.account.names import amount
from graphfuse.errors import one_line
from graphfuse.ledger import Ledger

_STAGE = "memory"
_MOST_HELD = 4


@dataclass(frozen=True)
class MemoryUse:
    """Bytes, for the sizes given in `sizes` where some are open. arena: where intermediate values live; apart: those
    without sharing; peak: the most that is in use at the same time, during the call `at`; live: the user's nodes whose
    results those are; weights: None before the emit stage; expression: the arena for any sizes.
    """

    arena: int
    apart: int
    peak: int
    at: str = ""
    live: tuple[tuple[str, int], ...] = ()
    weights: int | None = None
    expression: str = ""
    sizes: dict[str, int] | None = None

    def to_dict(self) -> dict[str, Any]:
        """For machines."""
        return asdict(self)


def memory_of(ledger: Ledger) -> MemoryUse | None:
    """What the ledger says about memory; None when it says nothing, or nothing that can be read."""
    notes = {note.subject: note.text for note in ledger.notes if note.stage == _STAGE}
    try:
        return MemoryUse(
            arena=int(notes["arena"]),
            apart=int(notes["apart"]),
            peak=int(notes["peak"]),
            at=notes.get("at", ""),
            live=tuple((str(name), int(size)) for name, size in json.loads(notes.get("live", "[]"))),
            weights=int(notes["weights"]) if "weights" in notes else None,
            expression=notes.get("expression", ""),
            sizes={str(k): int(v) for k, v in json.loads(notes["sizes"]).items()} if "sizes" in notes else None,
        )
    except (KeyError, ValueError, TypeError, AttributeError):
        return None


def render_memory(memory: MemoryUse, *, full: bool = False) -> RenderableType:
    """A few lines; `full` names all that is live at the peak."""
    table = Table.grid(padding=(0, 2, 0, 0))
    if memory.weights is not None:
        table.add_row(_amount(memory.weights), "weights, as the kernels want them")
    arena = Text("arena: all intermediate values")
    if memory.sizes:
        sizes = ", ".join(f"{one_line(name)}={size}" for name, size in memory.sizes.items())
        arena.append(f" at {sizes}; {one_line(memory.expression)} bytes for any", "dim")
    table.add_row(_amount(memory.arena), arena)
    table.add_row(_amount(memory.apart), Text("the same without sharing", "dim"))
    if memory.at:
        lead = Text("in use at the same time, no arena is smaller; during ", "dim").append(
            one_line(memory.at), "not dim"
        )
        table.add_row(_amount(memory.peak), lead)
        held = sorted(memory.live, key=lambda item: -item[1])
        for name, size in held if full else held[:_MOST_HELD]:
            table.add_row("", Text(f"{amount(size):>8}  {one_line(name)}"))
        if len(held) > _MOST_HELD and not full:
            table.add_row("", Text(f"{'':>8}  and {len(held) - _MOST_HELD} more: --all", "dim"))
    return table


def in_short(memory: MemoryUse) -> str:
    """One line: "weights 102 MB; working memory 5.22 MB at batch=1 (23.2 MB without sharing)"."""
    at = ", ".join(f"{one_line(name)}={size}" for name, size in (memory.sizes or {}).items())
    parts = [f"weights {amount(memory.weights)}"] if memory.weights is not None else []
    working = f"working memory {amount(memory.arena)}" + (f" at {at}" if at else "")
    return "; ".join([*parts, f"{working} ({amount(memory.apart)} without sharing)"])


def _amount(size: int) -> Text:
    return Text(f"{amount(size):>10}", "bold")
