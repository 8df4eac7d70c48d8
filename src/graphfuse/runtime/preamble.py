"""The text that every generated translation unit starts with, and the thread pool's source."""

from __future__ import annotations

from functools import cache
from importlib.resources import files

LANES = (4, 8, 16)
_HEADERS = (
    "gf_vector.h",
    "gf_int.h",
    "gf_narrow.h",
    "gf_quantized.h",
    "gf_exact.h",
    "gf_lookup.h",
    "gf_math.h",
    "gf_math64.h",
    "gf_random.h",
    "gf_pool.h",
)


@cache
def _source(name: str) -> str:
    """One runtime file, without the includes of its siblings (they are already in the text)."""
    text = files(__package__).joinpath(name).read_text(encoding="utf-8")
    return "".join(line for line in text.splitlines(keepends=True) if not line.startswith('#include "gf_'))


def preamble(lanes: int, amalgamated: bool) -> str:
    """The definitions that every translation unit starts with.

    lanes: float32 lanes of a vector (4 SSE2 and NEON, 8 AVX2, 16 AVX-512); every dtype has as many.
    amalgamated: True for one file that holds everything (kernels are static), False for one unit per kernel.
    Raises ValueError for another number of lanes.
    """
    if lanes not in LANES:
        raise ValueError(f"{lanes} vector lanes; the runtime knows {', '.join(map(str, LANES))}")
    kernel = "static" if amalgamated else '__attribute__((visibility("hidden")))'
    head = f"#define GF_W {lanes}\n#define GF_KERNEL {kernel}\n\n"
    return head + "\n".join(_source(name) for name in _HEADERS)


def pool_source() -> str:
    """The thread pool and gf_parallel; to follow the preamble in the one unit that calls kernels."""
    return _source("gf_pool.c")


def slots_source() -> str:
    """Memory for tensors of measured sizes; to follow the preamble in the one unit that calls kernels."""
    return _source("gf_slots.c")
