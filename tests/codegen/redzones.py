"""Zones around every piece of memory that a model uses, for the address sanitizer: a touch of one ends the process.

Only where the sanitizer is loaded, and the models' C is compiled for it. Kernels get scratch from the heap, tensors of
measured sizes end where their elements end, and in a plan made `spread_out` no two buffers of the arena touch.
"""

from __future__ import annotations

import ctypes
import os
import re
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import numpy as np
import pytest

import graphfuse.plan.calls
from graphfuse.codegen.module import Module
from graphfuse.codegen.weights import Recipe, Weights
from graphfuse.graph.dims import add, evaluate
from graphfuse.plan.calls import Plan
from graphfuse.plan.memory import Arena, Lifetime, aligned, lay_out

GAP = 1024  # bytes between two buffers, whole cache lines

# In front of model_run: what its calls are renamed to.
_EXACT = """\
void __asan_poison_memory_region(void const volatile *address, size_t bytes);
void __asan_unpoison_memory_region(void const volatile *address, size_t bytes);

/* The kernel p[0] with the pointers p[1] and as many bytes of scratch of its own as p[2] points to. */
static __attribute__((unused)) void gf_exact_scratch(void *const *p, const int64_t *d, int64_t r0, int64_t r1,
                                                     int64_t c0, int64_t c1, char *scratch) {
  const int64_t bytes = *(const int64_t *)p[2];
  char *own = bytes > 0 ? aligned_alloc(64, (size_t)bytes) : scratch;
  for (int64_t k = 0; k < bytes; ++k) own[k] = (char)0xff;
  ((gf_kernel)p[0])((void *const *)p[1], d, r0, r1, c0, c1, own);
  if (bytes > 0) free(own);
}

#define gf_exactly(fork, pool, k, p, d, rows, row_grain, cols, col_grain, work, scratch, bytes)                      \\
  do {                                                                                                               \\
    const int64_t exact_bytes = (bytes);                                                                             \\
    void *const exact_p[] = {(void *)(k), (void *)(p), (void *)&exact_bytes};                                        \\
    fork(pool, gf_exact_scratch, exact_p, d, rows, row_grain, cols, col_grain, work, scratch, bytes);                \\
  } while (0)
"""

_EXACT_SLOTS = """
static __attribute__((unused)) char *gf_take_exactly(gf_slot *slot, int64_t bytes, int64_t kept) {
  if (slot->start != NULL) __asan_unpoison_memory_region(slot->start, (size_t)slot->bytes);
  char *start = gf_take(slot, bytes, kept);
  if (start != NULL) __asan_poison_memory_region(start + bytes, (size_t)(slot->bytes - bytes));
  return start;
}
"""


FLAGS = ("-O1", "-g1", "-fsanitize=address,undefined", "-fno-sanitize-recover=all")


def environment() -> dict[str, str]:
    """That of a Python process in which C compiled with FLAGS runs."""
    # The references throw C++ exceptions, which the sanitizer asks to see the maker of.
    names = ("libasan.so", "libstdc++.so")
    found = [
        subprocess.run(["gcc", f"-print-file-name={n}"], capture_output=True, text=True, check=True).stdout.strip()
        for n in names
    ]
    options = {"ASAN_OPTIONS": "detect_leaks=0:quarantine_size_mb=16", "UBSAN_OPTIONS": "print_stacktrace=1"}
    return {**os.environ, **options, "LD_PRELOAD": " ".join(found)}


def _report_of(process: int | None) -> Path:
    return Path(tempfile.gettempdir()) / f"graphfuse-sanitizer-{process}.txt"


def keep_report() -> None:
    """From here on the errors of this process are kept for `report`: the sanitizers write them there as they end it."""
    with _report_of(os.getpid()).open("w") as file:
        os.dup2(file.fileno(), 2)


def report(process: int | None) -> str:
    """What a process that kept its report died of, the kind in a word first; empty where nothing is written."""
    path = _report_of(process)
    if not path.exists():
        return ""
    text = path.read_text(errors="replace")
    path.unlink()
    kind = re.search(r"ERROR: AddressSanitizer: (\S+)|runtime error: ([^:]*)", text)
    if kind is None:
        return text.strip()[-500:]
    lines = [line for line in text.splitlines() if re.match(r"\s+#\d|(READ|WRITE) of size|.*runtime error:", line)]
    return "\n".join([(kind.group(1) or kind.group(2)).replace(" ", "-"), *lines[:8]])


@cache
def _sanitizer() -> ctypes.CDLL | None:
    """The address sanitizer, where it was loaded ahead of the interpreter."""
    process = ctypes.CDLL(None)
    return process if hasattr(process, "__asan_poison_memory_region") else None


def is_sanitized() -> bool:
    """Whether memory can be poisoned in this process."""
    return _sanitizer() is not None


@contextmanager
def poisoned(zones: list[tuple[int, int]]) -> Iterator[None]:
    """Within the block nobody may touch these (address, bytes). Nothing happens where no sanitizer is."""
    asan = _sanitizer()
    if asan is None:
        yield
        return
    for address, size in zones:
        asan.__asan_poison_memory_region(ctypes.c_void_p(address), ctypes.c_size_t(size))
    yield
    for address, size in zones:
        asan.__asan_unpoison_memory_region(ctypes.c_void_p(address), ctypes.c_size_t(size))


@contextmanager
def spread_out() -> Iterator[None]:
    """Models emitted within the block have each buffer of the arena and each array of weights apart from the others."""

    def apart(lifetimes: list[Lifetime]) -> Arena:
        arena = Arena(slots=lay_out([x for x in lifetimes if x.buffer.is_measured]).slots)
        for x in lifetimes:
            if not x.buffer.is_measured:
                arena.offsets[x.buffer] = add(arena.size, GAP)
                arena.size = add(arena.offsets[x.buffer], x.size)
        return arena

    def add_and_gap(self: Weights, key: object, recipe: Recipe) -> None:
        add_weights(self, key, recipe)
        self.arrays.append(np.zeros(GAP, np.uint8))
        self.recipes.append(recipe)
        self._end += GAP

    add_weights = Weights._add
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(graphfuse.plan.calls, "lay_out", apart)
        patch.setattr(Weights, "_add", add_and_gap)
        yield


def weight_holes(module: Module) -> list[tuple[int, int]]:
    """The (offset, bytes) of the weights of a module, emitted `spread_out`, in which no array is."""
    found, start = [], 0
    for array, gap in zip(module.weights[::2], module.weights[1::2], strict=True):
        end = start + array.nbytes
        start = int(aligned(end)) + gap.nbytes  # type: ignore[call-overload]
        found.append((end, start - end))
    return found


def arena_holes(plan: Plan, head: int, total: int, sizes: Mapping[str, int]) -> list[tuple[int, int]]:
    """The (offset, bytes) of an arena of `total` bytes, `head` of them for slots, in which no buffer is."""
    workspaces = {call.control.workspace for call in plan.every_call if call.control is not None}
    used = [(0, head)]
    for buffer, offset in plan.arena.offsets.items():
        if buffer not in workspaces:
            used.append((head + evaluate(offset, sizes), evaluate(buffer.bytes, sizes)))
    found, end = [], 0
    for start, size in sorted(used):
        if start > end:
            found.append((end, start - end))
        end = max(end, start + size)
    # Kernels have their scratch elsewhere.
    return [*found, (end, total - end)]


def exact(pool: str, entries: list[str]) -> tuple[str, list[str]]:
    """The C of the pool and of model_run & co. with scratch, and memory of measured sizes, no larger than asked for."""
    entries = [re.sub(r"\b(gf_parallel|gf_parallel_cols)\(", r"gf_exactly(\1, ", entry) for entry in entries]
    entries = [re.sub(r"\bgf_take\(", "gf_take_exactly(", entry) for entry in entries]
    return "\n".join([pool, _EXACT, *([_EXACT_SLOTS] if "gf_take(" in pool else [])]), entries
