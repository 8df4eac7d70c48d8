"""How much memory a plan needs, and for what: written into the ledger for `explain`, `profile` and the summary."""

from __future__ import annotations

import json
from collections.abc import Sequence

import numpy as np

from graphfuse.graph.dims import assuming, estimate
from graphfuse.ledger import Ledger
from graphfuse.plan.calls import Plan, lifetimes
from graphfuse.plan.memory import live
from graphfuse.plan.view import Buffer

STAGE = "memory"


def note_memory(plan: Plan, ledger: Ledger) -> None:
    """Notes in bytes, for one item where sizes are open (`sizes` says which).

    arena: all that a call works in, without the scratch of threads; apart: the same if nothing shared memory; peak:
    what is in use at the same time, which no arena can be smaller than; at: during which call; live: what that is, as
    JSON pairs of the user's node and bytes; expression: the arena for any sizes.
    """
    uses = lifetimes(plan.calls, plan.kept)
    with assuming(plan.one_item):
        spans = [(estimate(x.size), x.first, x.last) for x in uses]
        in_use = live(spans)
        peak = max(in_use, default=0)
        at = in_use.index(peak) if in_use else 0
        apart = sum(estimate(x.size) for x in lifetimes(plan.steps, plan.kept))
        names = _tenants(plan, at)
        held = [
            (names.get(x.buffer, x.buffer.name), size)
            for x, (size, first, last) in zip(uses, spans, strict=True)
            if first <= at <= last
        ]
        facts = {"arena": str(estimate(plan.arena.size)), "apart": str(apart), "peak": str(peak)}
    if held:
        facts["at"] = plan.calls[at].label
        facts["live"] = json.dumps(held)
    if not isinstance(plan.arena.size, int):
        facts["expression"] = str(plan.arena.size)
        facts["sizes"] = json.dumps(plan.one_item)
    for name, text in facts.items():
        ledger.note(STAGE, name, text)


def note_weights(weights: Sequence[np.ndarray], ledger: Ledger) -> None:
    """Bytes of the weights in the kernels' own arrangement."""
    ledger.note(STAGE, "weights", str(sum(int(array.nbytes) for array in weights)))


def _tenants(plan: Plan, at: int) -> dict[Buffer, str]:
    """For buffers that several results take in turn, whose it is during a call."""
    names: dict[Buffer, str] = {}
    for call in plan.calls[: at + 1]:
        for buffer in (call.apart or call).buffers:
            if buffer in plan.homes:
                names[plan.homes[buffer]] = buffer.name
    return names
