"""What is told of a compilation whose result was in the cache, from the artifact alone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from graphfuse.account.account import account_of
from graphfuse.account.memory import in_short, memory_of
from graphfuse.account.names import plural
from graphfuse.artifact.bundle import Bundle
from graphfuse.errors import ArtifactError, one_line
from graphfuse.ledger import Ledger


def to_dict(model: Path, place: Path, bundle: Bundle, seconds: float) -> dict[str, Any]:
    """The same figures as of a compilation; `cached` tells that there was none."""
    ledger, certificate = _ledger(bundle), _certificate(bundle)
    memory = memory_of(ledger)
    return {
        "model": str(model),
        "format": bundle.manifest.source,
        "artifact": str(place),
        "cached": True,
        "target": bundle.manifest.target.key(),
        "compiler": bundle.manifest.compiler,
        "account": account_of(ledger).to_dict()["summary"],
        "arena_bytes": None if memory is None else memory.expression or memory.arena,
        "memory": None if memory is None else memory.to_dict(),
        "weights_bytes": bundle.manifest.weights_bytes or (memory.weights if memory is not None else None),
        "seconds": {"cache": round(seconds, 3)},
        "certificate": certificate,
    }


def render(model: Path, place: Path, bundle: Bundle, seconds: float) -> RenderableType:
    """The same in a few lines."""
    ledger, certificate = _ledger(bundle), _certificate(bundle)
    account, memory = account_of(ledger), memory_of(ledger)
    title = Text.assemble((one_line(model.name), "bold"), f" ({bundle.manifest.source})")
    title.append(" → ", "dim").append(one_line(str(place)))
    table = Table.grid(padding=(0, 2, 0, 0))
    calls = f"{plural(len(ledger.names), 'node')} → {plural(len(account.kernels), 'kernel call')}"
    table.add_row("  graph", Text(calls, "bold"))
    if memory is not None:
        table.add_row("  memory", in_short(memory))
    table.add_row("  target", f"{bundle.manifest.target.key()}, {one_line(bundle.manifest.compiler)}")
    table.add_row("  time", Text(f"{seconds:.2g} s: from the cache; --no-cache compiles anew"))
    if certificate is None:
        return Group(title, table, Text("  not verified", "yellow"))
    passed = certificate.get("passed") is True
    verdict = Text("  verified" if passed else "  differs", "green" if passed else "bold red")
    return Group(title, table, verdict.append(f"  {one_line(str(certificate.get('verdict', '')))}", "not bold default"))


def _ledger(bundle: Bundle) -> Ledger:
    try:
        return Ledger.from_json((bundle.folder / "ledger.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ArtifactError("the ledger cannot be read", where=str(bundle.folder), why=str(error)) from error


def _certificate(bundle: Bundle) -> dict[str, Any] | None:
    try:
        found = json.loads((bundle.folder / "certificate.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) else None
