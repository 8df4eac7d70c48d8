"""Timing several runtimes fairly: in turns, so that what the machine does meanwhile meets all of them alike."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Mapping

ROUNDS = 7
_REST = 0.01  # seconds between turns: a peer's threads that still spin would slow the next one down
_WARM_CALLS = 2
_LEAST_CALLS = 3


def interleave(calls: Mapping[str, Callable[[], object]], seconds: float) -> dict[str, list[float]]:
    """Seconds of every timed call by name; each gets about `seconds` in ROUNDS turns, in an order that alternates.

    The first calls of a turn are not timed: they find caches and threads as the one before left them.
    """
    times: dict[str, list[float]] = {name: [] for name in calls}
    order = list(calls)
    collecting = gc.isenabled()
    gc.disable()
    try:
        for _ in range(ROUNDS):
            for name in order:
                time.sleep(_REST)
                times[name] += _turn(calls[name], seconds / ROUNDS)
            order.reverse()
    finally:
        if collecting:
            gc.enable()
    return times


def _turn(call: Callable[[], object], seconds: float) -> list[float]:
    for _ in range(_WARM_CALLS):
        call()
    times: list[float] = []
    clock = time.perf_counter
    end = clock() + seconds
    while len(times) < _LEAST_CALLS or clock() < end:
        started = clock()
        call()
        times.append(clock() - started)
    return times
