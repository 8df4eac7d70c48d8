"""What this machine can do at most: multiply-adds a second, bytes a second from every cache and from memory.

The figures are measured by C of our own, built by the same compiler, flags and vectors as a model, and run by the same
thread pool. They are the roofs of the roofline model (Williams, Waterman, Patterson, CACM 52(4), 2009), one bandwidth
for each level of the memory hierarchy.
"""

from __future__ import annotations

import ctypes
import dataclasses
import hashlib
import json
import math
import os
import platform
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from graphfuse import __version__
from graphfuse.errors import GraphfuseError, InputError
from graphfuse.options import CompileOptions
from graphfuse.runtime.library import address_of, aligned_empty
from graphfuse.runtime.preamble import pool_source, preamble
from graphfuse.target import Target, host_target, processor_name
from graphfuse.toolchain.build import build
from graphfuse.toolchain.files import write_atomic

FORMAT = 1
KINDS = ("read", "write", "copy")
_CALL_SECONDS = 2e-3  # a timed call: long against the clock and the fork, short against what else the machine does
_MEASURE_SECONDS = 0.08
_PEAK_SECONDS = 0.4
_LEAST_CALLS = 5
_FORKS = 500
_MOST_MEMORY = 1 << 30
_UNROLL = 8

# Runs one of the kernels on each of `threads` threads, `calls` times. The work is said to be so much that every thread
# pays.
_ENTRY = """\
GF_API void limits_run(int which, void *const *p, const int64_t *d, int threads, int calls, gf_pool *pool) {
  static const gf_kernel kernels[] = {limit_idle, limit_flops, limit_read, limit_write, limit_copy};
  for (int k = 0; k < calls; ++k) gf_parallel(pool, kernels[which], p, d, threads, 1, 1, 1, INT64_MAX / 2, NULL, 0);
}
"""
_KERNELS = ("idle", "flops", *KINDS)
_HEAD = (
    "GF_KERNEL void limit_@(void *const *p, const int64_t *d, int64_t r0, int64_t r1, int64_t c0, int64_t c1, "
    "char *scratch) {\n  (void)p, (void)d, (void)r0, (void)r1, (void)c0, (void)c1, (void)scratch;\n"
)
# Between two trips over the same memory: the compiler must take it that everything was changed and read meanwhile.
_BARRIER = '__asm__ volatile("" ::: "memory");'


@dataclass(frozen=True)
class Level:
    """One level of the memory hierarchy as so many threads see it. read, write, copy: bytes a second, all threads
    together; those of a copy are what it reads and what it writes. size: bytes of the cache, 0 for memory.
    """

    name: str
    size: int
    read: float
    write: float
    copy: float


@dataclass(frozen=True)
class Limits:
    """The roofs for one number of threads. flops: float32 operations a second, a multiply-add counted as two; fork:
    seconds of a parallel call that does nothing; levels: the caches from the smallest, then memory.
    """

    threads: int
    flops: float
    fork: float
    levels: tuple[Level, ...]


@dataclass(frozen=True)
class MachineLimits:
    """Limits by number of threads. measured: seconds since 1970 of the first of them."""

    machine: str
    target: str
    measured: float
    limits: tuple[Limits, ...]

    def to_dict(self) -> dict[str, Any]:
        """For machines: FLOP/s, bytes/s, bytes, seconds."""
        return {**dataclasses.asdict(self), "format": FORMAT}

    def on(self, threads: int) -> Limits:
        """The limits for a number of threads that was measured."""
        return next(found for found in self.limits if found.threads == threads)


def machine_limits(
    threads: tuple[int, ...] = (),
    *,
    fresh: bool = False,
    options: CompileOptions | None = None,
    progress: Callable[[str], None] = lambda _: None,
) -> MachineLimits:
    """The limits of this machine for these numbers of threads (none: 1 and all cores), remembered in the cache folder.

    fresh: measure again what is remembered. Raises GraphfuseError when the C cannot be built, InputError for a number
    of threads that cannot be.
    """
    target = host_target()
    chosen = options or CompileOptions()
    counts = tuple(dict.fromkeys(threads or (1, target.cores)))
    if wrong := [count for count in counts if not 1 <= count <= 256]:
        raise InputError(f"{wrong[0]} threads cannot be had", remedy="give numbers from 1 to 256")
    file = _file(chosen, target)
    known = None if fresh else _read(file)
    found = {limits.threads: limits for limits in known.limits} if known else {}
    missing = [count for count in counts if count not in found]
    if missing:
        with tempfile.TemporaryDirectory(prefix="graphfuse-") as folder:
            bench = _Bench(target, chosen, Path(folder))
            for count in missing:
                progress(f"measuring this machine on {count} thread{'s' * (count != 1)}")
                found[count] = bench.measure(count)
    kept = tuple(found[count] for count in sorted(found))
    result = MachineLimits(processor_name(), target.key(), known.measured if known else time.time(), kept)
    if missing:
        with suppress(OSError):  # a cache that cannot be written costs the next caller a few seconds
            file.parent.mkdir(parents=True, exist_ok=True)
            write_atomic(file, json.dumps(result.to_dict(), indent=1).encode())
    return dataclasses.replace(result, limits=tuple(found[count] for count in counts))


# ---------------------------------------------------------------- what is remembered


def _file(options: CompileOptions, target: Target) -> Path:
    """Where the limits are remembered; a cache folder may be shared by several machines."""
    parts = (platform.node(), processor_name(), target.plan_key(), str(target.cores), options.cc, __version__, _ENTRY)
    key = hashlib.sha256(repr((FORMAT, *parts)).encode()).hexdigest()[:24]
    return options.cache_root() / "limits" / f"{key}.json"


def _read(file: Path) -> MachineLimits | None:
    """What a file remembers; None when there is none or it is damaged."""
    try:
        data = json.loads(file.read_text(encoding="utf-8"))
        if data["format"] != FORMAT:
            return None
        limits = tuple(
            Limits(
                int(item["threads"]),
                _positive(item["flops"]),
                _positive(item["fork"]),
                tuple(
                    Level(str(level["name"]), int(level["size"]), *(_positive(level[kind]) for kind in KINDS))
                    for level in item["levels"]
                ),
            )
            for item in data["limits"]
        )
        return MachineLimits(str(data["machine"]), str(data["target"]), float(data["measured"]), limits)
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _positive(value: Any) -> float:
    number = float(value)
    if not (math.isfinite(number) and number > 0):
        raise ValueError("no rate")
    return number


# ---------------------------------------------------------------- measuring


class _Bench:
    """The measuring library, loaded."""

    def __init__(self, target: Target, options: CompileOptions, folder: Path) -> None:
        self.target = target
        self.chains = target.vector_registers - 4
        library = ctypes.CDLL(str(build(_Source(target.lanes, self.chains), target, options, folder)))
        self.run = library.limits_run
        self.run.argtypes = (ctypes.c_int, *(ctypes.c_void_p,) * 2, *(ctypes.c_int,) * 2, ctypes.c_void_p)
        self.run.restype = None
        self.create, self.destroy = library.gf_pool_create, library.gf_pool_destroy
        self.create.argtypes, self.create.restype = (ctypes.c_int,), ctypes.c_void_p
        self.destroy.argtypes, self.destroy.restype = (ctypes.c_void_p,), None

    def measure(self, threads: int) -> Limits:
        pool = self.create(threads) if threads > 1 else None
        if threads > 1 and pool is None:
            raise GraphfuseError(f"the system starts no {threads} threads", remedy="ask for fewer")
        try:
            return Limits(
                threads, self._flops(threads, pool), self._fork(threads, pool), tuple(self._levels(threads, pool))
            )
        finally:
            self.destroy(pool)

    def _flops(self, threads: int, pool: int | None) -> float:
        lanes = self.target.lanes
        memory = _floats((2 + self.chains + threads) * lanes)
        memory[:] = np.linspace(0.25, 0.75, memory.size, dtype=np.float32)
        operations = 2 * self.chains * lanes * threads
        return operations / self._seconds("flops", threads, pool, memory, 1, 1024)

    def _fork(self, threads: int, pool: int | None) -> float:
        """Of one call among many: a pool that is hot."""
        p, d = (np.zeros(1, np.int64) for _ in range(2))
        best = math.inf
        for _ in range(200):
            started = time.perf_counter()
            self.run(0, address_of(p), address_of(d), threads, _FORKS, pool)
            best = min(best, (time.perf_counter() - started) / _FORKS)
        return best

    def _levels(self, threads: int, pool: int | None) -> Iterator[Level]:
        for name, size, each in working_sets(self.target, threads):
            step = 2 * _UNROLL * self.target.lanes * 4  # the halves of a copy are whole trips of its loop too
            each = max(step, each // step * step)
            memory = _floats(each // 4 * threads)
            memory[:] = 1.0
            rates = (each * threads / self._seconds(kind, threads, pool, memory, each // 4, 1) for kind in KINDS)
            yield Level(name, size, *rates)

    def _seconds(
        self, kind: str, threads: int, pool: int | None, memory: np.ndarray[Any, Any], each: int, times: int
    ) -> float:
        """The best time of one trip. each: floats of one thread; times: trips of a first call."""
        p = np.array([address_of(memory)], np.uint64)
        d = np.array([each, times], np.int64)
        which, addresses = _KERNELS.index(kind), (address_of(p), address_of(d))

        def once() -> float:
            started = time.perf_counter()
            self.run(which, *addresses, threads, 1, pool)
            return time.perf_counter() - started

        once()
        while (spent := once()) < _CALL_SECONDS:
            d[1] *= 2 if spent < _CALL_SECONDS / 4 else 1.0 + _CALL_SECONDS / spent
        found = [once() for _ in range(_LEAST_CALLS)]
        end = time.perf_counter() + (_PEAK_SECONDS if kind == "flops" else _MEASURE_SECONDS)
        while time.perf_counter() < end:
            found.append(once())
        return min(found) / int(d[1])


def working_sets(target: Target, threads: int) -> Iterator[tuple[str, int, int]]:
    """For each level: its name, the bytes of the cache (0 for memory), the bytes that each thread works on.

    Half of a cache of its own, a share of half of the common one if that is well beyond its own, and of memory four
    times what the common cache holds.
    """
    yield "L1", target.l1, target.l1 // 2
    yield "L2", target.l2, target.l2 // 2
    share = target.l3 // (2 * threads)
    if share < 2 * target.l2 <= target.l3 // threads:
        share = 2 * target.l2
    if share >= 2 * target.l2:
        yield "L3", target.l3, share
    beyond = 4 * max(target.l3, threads * target.l2)
    yield "memory", 0, min(max(beyond, 64 << 20), _MOST_MEMORY, _memory() // 8) // threads


def _memory() -> int:
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError):
        return _MOST_MEMORY


def _floats(count: int) -> np.ndarray[Any, Any]:
    return aligned_empty((count,), np.dtype(np.float32), 4 * count)


@dataclass(frozen=True)
class _Source:
    """The measuring kernels, as the toolchain takes a model. chains: independent multiply-adds, enough to hide the
    latency of one and few enough to stay in registers.
    """

    lanes: int
    chains: int

    @property
    def preamble(self) -> str:
        return preamble(self.lanes, False)

    @property
    def kernels(self) -> dict[str, str]:
        return {f"limit_{kind}": self._function(kind) for kind in _KERNELS}

    @property
    def main(self) -> str:
        prototypes = "".join(_HEAD.split(" {")[0].replace("@", kind) + ";\n" for kind in _KERNELS)
        return "\n".join((pool_source(), prototypes, _ENTRY))

    def _function(self, kind: str) -> str:
        body = {"idle": list[str], "flops": self._flops}.get(kind, lambda: self._trips(kind))()
        return _HEAD.replace("@", kind) + "".join(f"  {line}\n" for line in body) + "}\n"

    def _flops(self) -> list[str]:
        names = [f"sum{k}" for k in range(self.chains)]
        return [
            "const float *const x = p[0];",
            "const gf_f32 s = gf_load_f32(x), t = gf_load_f32(x + GF_W);",
            *(f"gf_f32 {name} = gf_load_f32(x + {k + 2} * GF_W);" for k, name in enumerate(names)),
            "for (int64_t k = 0; k < d[1] * (r1 - r0); ++k) {",
            *(f"  {name} = {name} * s + t;" for name in names),
            "}",
            f"gf_store_f32((float *)p[0] + ({self.chains + 2} + r0) * GF_W, {' + '.join(names)});",
        ]

    def _trips(self, kind: str) -> list[str]:
        at = [f"x + i + {u} * GF_W" for u in range(_UNROLL)]
        ahead, step, behind = {
            "read": (
                [f"gf_i32 all{u} = {{0}};" for u in range(_UNROLL)],
                [f"all{u} |= gf_load_i32((const int32_t *)({place}));" for u, place in enumerate(at)],
                [f"gf_store_i32((int32_t *)x, {' | '.join(f'all{u}' for u in range(_UNROLL))});"],
            ),
            "write": (
                ["const gf_f32 s = gf_load_f32(x);"],
                [f"gf_store_f32({place}, s);" for place in at],
                [],
            ),
            # With a factor, as STREAM's "scale": a bare copy would become a call of memcpy.
            "copy": (
                ["const gf_f32 s = gf_load_f32(x);"],
                [f"gf_store_f32({place} + d[0] / 2, gf_load_f32({place}) * s);" for place in at],
                [],
            ),
        }[kind]
        end = "d[0] / 2" if kind == "copy" else "d[0]"
        return [
            "for (int64_t r = r0; r < r1; ++r) {",
            "  float *const x = (float *)p[0] + r * d[0];",
            *(f"  {line}" for line in ahead),
            "  for (int64_t k = 0; k < d[1]; ++k) {",
            f"    for (int64_t i = 0; i < {end}; i += {_UNROLL} * GF_W) {{",
            *(f"      {line}" for line in step),
            "    }",
            f"    {_BARRIER}",
            "  }",
            *(f"  {line}" for line in behind),
            "}",
        ]
