"""What a profile tells: the time of every call, what it computes and moves, and what the machine could do."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from graphfuse.account.memory import MemoryUse
from graphfuse.bench.limits import Limits


@dataclass(frozen=True)
class CallTime:
    """One kernel call. region: what the fuse stage calls it; nodes: the user's own names; how: the kernel in words;
    function: its name in model.c. best, median: seconds; share: of the time of all calls; flops: float operations that
    the model asks for; bytes: read and written at least, weights included; bound_by: "compute", a level of memory or
    "overhead"; bound: seconds that the call takes at least there.

    inside: the calls in the bodies of an If or a loop, each in all the `runs` that it has in one of the model: none
    where its branch is not taken. Flops, bytes and bound are those of all runs; those of an If or a loop are the sums
    of what is inside.
    """

    region: str
    nodes: tuple[str, ...]
    how: str
    function: str
    best: float
    median: float
    share: float
    flops: int
    bytes: int
    weight_bytes: int
    bound_by: str
    bound: float
    runs: int = 1
    inside: tuple[CallTime, ...] = ()

    @property
    def per_run(self) -> float:
        """Seconds of one run, at best."""
        return self.best / self.runs if self.runs else 0.0

    @property
    def reached(self) -> float:
        """The part of the limit that is reached, 1 for all of it."""
        return self.bound / self.best if self.best else 0.0


@dataclass(frozen=True)
class Profile:
    """All calls of one model in order. best, median: seconds of the whole model without any clock inside; outside: the
    seconds of a run that are in no call, at best; note: what its reader has to know.
    """

    model: str
    inputs: dict[str, str]
    machine: str
    target: str
    threads: int
    runs: int
    best: float
    median: float
    outside: float
    calls: tuple[CallTime, ...]
    limits: Limits
    note: str = ""
    memory: MemoryUse | None = None

    def to_dict(self) -> dict[str, Any]:
        """For machines; times in seconds, sizes in bytes."""
        found = dataclasses.asdict(self)
        _add_rates(self.calls, found["calls"])
        return found


def _add_rates(calls: Sequence[CallTime], rows: Sequence[dict[str, Any]]) -> None:
    for call, told in zip(calls, rows, strict=True):
        told["reached"] = call.reached
        told["per_run"] = call.per_run
        told["flops_per_second"] = call.flops / call.best if call.best else 0.0
        told["bytes_per_second"] = call.bytes / call.best if call.best else 0.0
        _add_rates(call.inside, told["inside"])
