"""Calls timed fairly: in short turns, each warmed up, so that what the machine does meanwhile meets all alike."""

from __future__ import annotations

import time
from collections.abc import Callable

REST = 0.02  # seconds between turns: threads that still spin would slow the next runtime down


def turn(call: Callable[[], object], seconds: float, warm: int = 2, least: int = 3, most: int = 4000) -> list[float]:
    """Seconds of each call, made for about `seconds`, from `least` to `most` of them.

    The first `warm` calls are not timed: they find caches and threads as another runtime left them.
    """
    for _ in range(warm):
        call()
    times: list[float] = []
    clock = time.perf_counter
    end = clock() + seconds
    while len(times) < least or (clock() < end and len(times) < most):
        started = clock()
        call()
        times.append(clock() - started)
    return times
