"""The time of every call of a model inside a run of the whole model."""

from __future__ import annotations

import ctypes
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from graphfuse.codegen.module import Module
from graphfuse.errors import InputError
from graphfuse.runtime.binder import bind_symbols, dims_array
from graphfuse.runtime.interrupt import interruptible
from graphfuse.runtime.library import Library, Pool, address_of, aligned_empty, aligned_zeros

Array = np.ndarray[Any, Any]

_LEAST_RUNS = 5


class Timed:
    """A module built with clocks (`assemble(..., profile=True)`) and loaded, on fixed inputs.

    calls: how many calls it makes; arrays: an input for each port; outputs: the results' sizes in elements.
    """

    def __init__(self, module: Module, library: Path, calls: int, arrays: Mapping[str, Array], threads: int) -> None:
        entries = ctypes.CDLL(str(library))
        face = Library(library)
        self._profile = entries.model_profile
        self._profile.argtypes = (ctypes.c_void_p,) * 7
        sizes = bind_symbols(module.inputs, [arrays[port.name].shape for port in module.inputs], module.dims)
        self._stop = face.model_stop
        self._guards = module.guards
        dims = dims_array(sizes, module.dims, module.measured)
        nbytes = face.model_arena_bytes(address_of(dims), threads)
        arena = aligned_zeros(nbytes)
        weights = _bytes(sum(len(chunk) for chunk in module.weight_chunks()))
        end = 0
        for chunk in module.weight_chunks():
            weights[end : end + len(chunk)] = np.frombuffer(chunk, np.uint8)
            end += len(chunk)
        given = [np.ascontiguousarray(arrays[port.name]) for port in module.inputs]
        shapes = np.zeros(max(1, sum(len(port.shape) for port in module.outputs)), np.int64)
        face.model_output_shapes(address_of(dims), address_of(shapes))
        results = self._results(module, shapes)
        tables = [np.array([address_of(a) for a in group] or [0], np.uint64) for group in (given, results)]
        pool = Pool(face, threads)
        self._arena = address_of(arena)
        self._stamps = np.zeros(module.stamps, np.int64)
        self._ends = self._stamps[: calls + 1]
        self._keep = (entries, face, dims, arena, weights, given, results, tables, pool)
        places = (weights, *tables, dims, arena)
        self._arguments = (*map(address_of, places), pool.address, address_of(self._stamps))

    @staticmethod
    def _results(module: Module, shapes: Array) -> list[Array]:
        found: list[Array] = []
        start = 0
        for port in module.outputs:
            shape = tuple(int(n) for n in shapes[start : start + len(port.shape)])
            start += len(port.shape)
            dtype = np.dtype(port.dtype)
            found.append(aligned_empty(shape, dtype, int(np.prod(shape, dtype=np.int64)) * dtype.itemsize))
        return found

    def run(self) -> Array:
        """Seconds of each call of one run. Raises InputError when a guard of the model refuses the sizes."""
        status = self._call()
        if status:
            remedy = "give sizes that it takes with --dim, or inputs"
            raise InputError(
                "the model does not take the sizes to tune for", why=self._guards[status - 1], remedy=remedy
            )
        seconds: Array = np.diff(self._ends) * 1e-9
        return seconds

    def _call(self) -> int:
        stop, arena = self._stop, self._arena
        if stop is None:
            return self._profile(*self._arguments)  # type: ignore[no-any-return]
        return interruptible(lambda: self._profile(*self._arguments), lambda: stop(arena, 1))


def best_times(timed: Sequence[Timed], seconds: float) -> list[Array]:
    """For each model the best seconds of each of its calls, run in turns for so many seconds in all."""
    best = [np.full(t.run().size, np.inf) for t in timed]
    end, rounds = time.perf_counter() + seconds, 0
    while rounds < 2 or time.perf_counter() < end:
        for k, t in enumerate(timed):
            t.run()  # finds caches and threads as the model before left them
            turn = time.perf_counter() + seconds / 10 / len(timed)
            runs = 0
            while runs < _LEAST_RUNS or time.perf_counter() < turn:
                best[k] = np.minimum(best[k], t.run())
                runs += 1
        rounds += 1
    return best


def _bytes(count: int) -> Array:
    return aligned_empty((count,), np.dtype(np.uint8), count)
