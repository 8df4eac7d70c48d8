"""Sums of products of bytes, four to a 32-bit lane: what the integer kernels share.

Packed weights hold, for every four steps of k, four bytes for each lane; a tile multiplies them with four bytes of a
row of the first operand that stand in all lanes (`gf_dot_us`, `gf_dot_ss`). Where the machine's instruction takes bytes
of the other signedness, each has its top bit turned, which moves it by 128, and the sums start with what makes up for
that.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from graphfuse.codegen.writer import Writer
from graphfuse.graph.dtypes import I8, U8, DType
from graphfuse.target import Target

from .tile import PREFETCH_STEP, Tile

QUAD = 4
# Of the time of a multiply-add of vectors, where no instruction sums up four products of bytes.
_WITHOUT_INSTRUCTION = 5.0


def has_instruction(target: Target) -> bool:
    """Whether one instruction adds four products of bytes to every lane."""
    wanted = {16: ("avx512vnni",), 8: ("avxvnni",)}.get(target.lanes, ("dotprod", "i8mm"))
    return any(name in target.features for name in wanted)


def takes_signed(target: Target) -> bool:
    """Whether the first operand's bytes are signed in the machine's instruction."""
    return target.arch == "aarch64" and "i8mm" not in target.features


def is_turned(dtype: DType, target: Target) -> bool:
    """Whether bytes of the first operand have to have their top bit turned."""
    assert dtype in (I8, U8)
    return (dtype == I8) != takes_signed(target)


def products_per_cycle(target: Target) -> float:
    """Products of bytes in a cycle, two vector instructions each."""
    return 2 * target.lanes * QUAD / (1.0 if has_instruction(target) else _WITHOUT_INSTRUCTION)


def most_rows(target: Target, most: int) -> int:
    """Rows of a tile; the bytes taken apart need registers where no instruction takes them whole."""
    return most if has_instruction(target) else min(most, 4 if target.vector_registers == 16 else 10)


def turned_sum(target: Target) -> int:
    """What every unit of weight adds to a sum when the bytes it meets have been turned."""
    return -128 if not takes_signed(target) else 128


def quads(matrix: np.ndarray, tile_vectors: int, lanes: int, start: int = 0) -> np.ndarray:
    """A (K, N) matrix of int8 as panels of bytes: each [heads, ceil(K / 4), lanes of the panel, 4].

    `start`: if not 0, each panel begins with int32 numbers, `start` times the sum of each lane's column. What is beyond
    K and N is zero; the last panel is only as wide as needed.
    """
    k, n = matrix.shape
    steps, width = -(-k // QUAD), tile_vectors * lanes
    parts = []
    for first in range(0, n, width):
        part = matrix[:, first : first + width]
        padded = np.zeros((steps * QUAD, -(-part.shape[1] // lanes) * lanes), np.int8)
        padded[:k, : part.shape[1]] = part
        if start:
            parts.append((padded.astype(np.int32).sum(0, dtype=np.int32) * np.int32(start)).view(np.int8))
        parts.append(padded.reshape(steps, QUAD, -1).transpose(0, 2, 1).ravel())
    return np.concatenate(parts) if parts else np.zeros(0, np.int8)


class Dot:
    """Writes the steps of a tile of sums."""

    def __init__(self, dtype: DType, target: Target) -> None:
        self.lanes = target.lanes
        self.turned = is_turned(dtype, target)
        self.function = "gf_dot_ss" if takes_signed(target) else "gf_dot_us"

    @property
    def head(self) -> int:
        """Bytes of a column ahead of its weights."""
        return QUAD if self.turned else 0

    def declare(self, w: Writer, tile: Tile, y: str) -> None:
        """The accumulators c{m}_{v}; `y`, the C variable that points to the panel, moves on to its weights."""
        for m in range(tile.rows):
            values = [f"c{m}_{v} = {self._start(y, v) if self.turned else '{0}'}" for v in range(tile.vectors)]
            w.line(f"gf_i32 {', '.join(values)};")
        if self.turned:
            w.line(f"{y} += {tile.vectors * self.lanes * QUAD};")

    def add_head(self, w: Writer, tile: Tile, y: str) -> None:
        """Add what makes up for turned bytes to accumulators that are declared."""
        for v in range(tile.vectors):
            adds = " ".join(f"c{m}_{v} = gf_add_i32(c{m}_{v}, h);" for m in range(tile.rows))
            w.line(f"{{ const gf_i32 h = {self._start(y, v)}; {adds} }}")
        w.line(f"{y} += {tile.vectors * self.lanes * QUAD};")

    def _start(self, y: str, v: int) -> str:
        return f"gf_load_i32((const int32_t *)(const void *)({y} + {v * self.lanes * QUAD}))"

    def step(self, w: Writer, tile: Tile, row: Callable[[int], str], y: str, part: str = "") -> None:
        """Four steps of k: `row(m)` = C text of the pointer to four bytes of row m, of which only `part` exist."""
        for v in range(tile.vectors):
            place = y if v == 0 else f"{y} + {v * self.lanes * QUAD}"
            w.line(f"const gf_i32 w{v} = gf_load_i32((const int32_t *)(const void *)({place}));")
        for m in range(tile.rows):
            four = f"gf_splat_bytes_part({row(m)}, {part})" if part else f"gf_splat_bytes({row(m)})"
            four += " ^ gf_splat_i32((int32_t)0x80808080)" if self.turned else ""
            sums = " ".join(f"c{m}_{v} = {self.function}(c{m}_{v}, s, w{v});" for v in range(tile.vectors))
            w.line(f"{{ const gf_i32 s = {four}; {sums} }}")

    def run(
        self, w: Writer, tile: Tile, row: Callable[[int, str], str], y: str, k: int | str, fetch: bool = False
    ) -> None:
        """All steps of k bytes: `row(m, i)` = C text of the pointer to byte i of row m; y moves behind the weights."""
        i, width = w.fresh("k"), tile.vectors * self.lanes * QUAD
        whole = str(k // QUAD * QUAD) if isinstance(k, int) else w.let("int64_t", f"{k} / {QUAD} * {QUAD}", "whole")
        rest = str(k % QUAD) if isinstance(k, int) else f"{k} % {QUAD}"
        with w.loop(i, "0", whole, str(QUAD)):
            self.step(w, tile, lambda m: row(m, i), y)
            if fetch:
                w.line(PREFETCH_STEP)
            w.line(f"{y} += {width};")
        if rest == "0":
            return
        with w.block("" if isinstance(k, int) else f"if ({rest})"):
            self.step(w, tile, lambda m: row(m, whole), y, rest)
            w.line(f"{y} += {width};")
