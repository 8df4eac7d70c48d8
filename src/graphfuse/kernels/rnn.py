"""Recurrent layers: each step one pass over packed weights, the gates computed on the accumulators in registers.

The panels of the weights hold the gates of the same units side by side, so a tile of accumulators has all that its
units need: sums become gates, gates the new state, without a buffer in between. Where a step is worth sharing, every
step is a call of its own and the threads split the units, each with its share of the weights in its own cache; else
they split the items and directions, and one call runs all steps.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from graphfuse.graph.dims import Dim, add, ceildiv, mul, product
from graphfuse.graph.dtypes import I8, item_bytes, suffix
from graphfuse.ops.recurrence import UNIT, Phase, Recurrence
from graphfuse.ops.tensor import Tensor
from graphfuse.plan.site import KernelCode, NestSite, Packed
from graphfuse.target import Target

from .dot import QUAD, quads
from .function import Function
from .rnn_writer import Kept, LayerWriter, in_arena
from .tile import Tile, fits, registers_per_vector

# The work of a step, in floating-point operations, from which on its units are split among threads: what
# GF_WORK_PER_THREAD says is worth a second thread.
_SHARED_STEP = 65536
# What a batch of unknown size is reckoned with.
_USUAL_ITEMS = (1, 2, 4, 8)


class Rnn:
    """`rnn`: LSTM, GRU and what else is products of a state and scalar functions."""

    name = "rnn"
    error_class = "reassociated"

    def accepts(self, site: NestSite, target: Target) -> str | None:
        if not isinstance(site.nest, Recurrence):
            return f"a {site.nest.name} is no recurrent layer"
        of_bytes = [p for p in site.nest.phases if p.scales is not None]
        if any(site.constants(t) is None for p in of_bytes for t in (p.weights, p.scales) if t is not None):
            return "quantised weights that are not known at compile time"
        return None

    def emit(self, site: NestSite, target: Target) -> KernelCode:
        assert isinstance(site.nest, Recurrence)
        return Plan(site, site.nest, target).emit()


class Plan:
    """Everything decided about one layer before it is written."""

    def __init__(self, site: NestSite, nest: Recurrence, target: Target) -> None:
        self.site = site
        self.nest = nest
        self.target = target
        self.lanes = target.lanes
        self.directions = len(nest.reverse)
        self.gates = max(len(p.gates) for p in nest.phases)
        self.vectors = -(-nest.units // self.lanes)
        self.tile = self._choose_tile()
        self.width = self.tile.vectors * self.lanes
        self.columns = -(-nest.units // self.width)
        self.constant = all(site.constants(p.weights) is not None for p in nest.phases)
        self.finals = {k - 1: t for k, t in site.results.items() if k > 0}
        most = max(2 * nest.units * nest.units * len(p.gates) for p in nest.phases)
        self.step_work: Dim = mul(most, nest.items)
        self.quantized = any(p.scales is not None for p in nest.phases)
        # The states of all items are quantised together, so one thread has all of them, or all threads each step.
        alone = self.quantized and (self.directions > 1 or most < _SHARED_STEP * QUAD)
        self.by_step = not alone and (self.quantized or not self.constant or self._step_is_shared(most))
        self.kept = self._memory()
        self.calls = add(mul(nest.steps, len(nest.phases)), 2 if self.finals else 1)

    def _step_is_shared(self, most: int) -> bool:
        return most >= _SHARED_STEP and not self._shared_by_rows()

    def _shared_by_rows(self) -> bool:
        """Whether there is more than one item or direction, each of them with weights that stay in L2 all the time."""
        bytes_of = sum(self.side(p) for p in self.nest.phases) * item_bytes(self.nest.dtype)
        return self.directions * self._known_items() > 1 and bytes_of * 4 <= self.target.l2

    def _choose_tile(self) -> Tile:
        """Items by vectors of units, of all gates each: what costs the fewest cycles."""
        items = self.nest.items
        counts = (items,) if isinstance(items, int) else _USUAL_ITEMS
        best: tuple[float, Tile] | None = None
        for v in range(1, min(8, self.vectors) + 1):
            for r in range(1, min(8, max(counts, default=1)) + 1):
                tile = Tile(r, v)
                if tile != Tile(1, 1) and not self._fits(tile):
                    continue
                total = sum(self._cycles(tile, n) / max(1, n) for n in counts)
                if best is None or total < best[0]:
                    best = (total, tile)
        assert best is not None
        return best[1]

    def _fits(self, tile: Tile) -> bool:
        sums = tile.vectors * self.gates
        if tile.rows > 1:
            return fits(Tile(tile.rows, sums), self.target, self.nest.dtype)
        # Enough chains of sums to hide the latency of an addition; more only make the panels wider.
        return sums * registers_per_vector(self.target, self.nest.dtype) <= 8

    def _cycles(self, tile: Tile, items: int) -> float:
        """Of one step's products: two multiply-adds a cycle, 48 of 64 bytes from L2, four cycles until a sum can be
        added to again. Two threads share the panels."""
        panels = ceildiv(ceildiv(self.vectors, tile.vectors), 2)
        total = 0.0
        for phase in self.nest.phases:
            n = len(phase.gates) * tile.vectors
            for height, count in _tiling(items, tile.rows):
                total += count * (max(n * height / 2, n / 0.75, 4) + 1)
        return int(panels) * total

    def _memory(self) -> dict[str, Kept]:
        nest, states = self.nest, [s.name for s in self.nest.states]
        sources = [p.source for p in nest.phases]
        names = dict.fromkeys([*states, *(name for p in nest.phases for name, _ in p.values)])
        kept = {}
        for name in names:
            places = 2 if name in states and name in sources else 1
            shape = (places, self.directions, nest.items, self.padded)
            kept[name] = Kept(Tensor(shape, nest.dtype), places)
        return kept

    def emit(self) -> KernelCode:
        nest, dtype = self.nest, self.nest.dtype
        views = dict(self.site.views)
        for name, kept in self.kept.items():
            views[kept.tensor] = in_arena(kept.tensor.shape, dtype, name)
        site = NestSite(nest, self.site.results, views, self.site.constants)
        fn = Function(site, UNIT)
        call = fn.params.counter() if self.by_step else ""
        LayerWriter(self, site, fn).whole(fn.body, call)
        sharing = "threads split the units of a step" if self.by_step else "threads split items and directions"
        weights = "packed weights" if self.constant else "weights packed at run time"
        everything = product([self.step_work, self.directions, nest.steps, len(nest.phases)])
        return KernelCode(
            hint=f"rnn_{suffix(dtype)}_{self.tile.rows}x{self.gates}x{self.width}",
            source=fn.source(),
            pointers=fn.params.pointers,
            dims=fn.params.dims,
            rows=1 if self.by_step else self.directions if self.quantized else mul(self.directions, nest.items),
            work=self.step_work if self.by_step else everything,
            columns=self.columns,
            column_grain=1 if self.by_step else self.columns,
            repeat=mul(self.directions, self.calls) if self.by_step else 1,
            scratch=mul(nest.items, self.padded) if self.quantized else 0,
            describe=f"recurrence of {nest.units} units, {self.gates} gates in registers, {weights}, {sharing}",
        )

    @property
    def padded(self) -> int:
        """Units in whole vectors."""
        return self.vectors * self.lanes

    def _known_items(self) -> int:
        return self.nest.items if isinstance(self.nest.items, int) else 1

    @property
    def heights(self) -> list[int]:
        """Tile heights that cover every range of items that a call may get."""
        heights = [self.tile.rows >> k for k in range(self.tile.rows.bit_length())]
        items = self.nest.items
        if not self.by_step or not isinstance(items, int):
            return heights
        return [height for height, count in _tiling(items, self.tile.rows) if count]

    def packed(self, phase: Phase) -> Packed:
        """The weights of a phase: for each direction its panels, each units x gates x (vectors * lanes)."""
        units, width, lanes = self.nest.units, self.width, self.lanes
        if phase.scales is not None:
            return self._packed_bytes(phase, phase.scales)

        def arrange(w: np.ndarray) -> np.ndarray:
            blocks = w.reshape(w.shape[0], -1, units, w.shape[2])[:, list(phase.gates)]  # [d, gate, unit, k]
            return np.concatenate([_panels(side, width, lanes) for side in blocks])

        key = f"rnn panels of {phase.gates} x {width} by {lanes}"
        return Packed(phase.weights, arrange, self.nest.dtype, key)

    def _packed_bytes(self, phase: Phase, scales: Tensor) -> Packed:
        """For each direction its panels, each the sums of the columns (int32), their scales (float32), then fours."""
        units, width, lanes = self.nest.units, self.width, self.lanes
        factors = self.site.constants(scales)
        assert factors is not None

        def arrange(w: np.ndarray) -> np.ndarray:
            blocks = w.reshape(w.shape[0], -1, units, w.shape[2])[:, list(phase.gates)]
            factor = factors.reshape(w.shape[0], -1, units)[:, list(phase.gates)]
            return np.concatenate([_byte_panels(b, f, width, lanes) for b, f in zip(blocks, factor, strict=True)])

        return Packed(phase.weights, arrange, I8, f"rnn quads of {phase.gates} x {width} by {lanes}")

    def column(self, phase: Phase) -> int:
        """Elements of the packed weights of a gate of a unit: its weights, and of bytes the sum and scale ahead."""
        return self.nest.units if phase.scales is None else 2 * QUAD + self.steps * QUAD

    @property
    def steps(self) -> int:
        """Steps of a sum of bytes, four each."""
        return -(-self.nest.units // QUAD)

    def side(self, phase: Phase) -> int:
        """Elements of the packed weights of one direction."""
        return self.column(phase) * len(phase.gates) * self.padded


def _panels(blocks: np.ndarray, width: int, lanes: int) -> np.ndarray:
    """Weights [gate, unit, k] as panels of `width` units, the last only as wide as needed: each k x gate x unit."""
    gates, units, k = blocks.shape
    parts = []
    for start in range(0, units, width):
        part = blocks[:, start : start + width]
        panel = np.zeros((k, gates, -(-part.shape[1] // lanes) * lanes), blocks.dtype)
        panel[:, :, : part.shape[1]] = part.transpose(2, 0, 1)
        parts.append(panel.ravel())
    return np.concatenate(parts)


def _byte_panels(blocks: np.ndarray, factors: np.ndarray, width: int, lanes: int) -> np.ndarray:
    """Weights [gate, unit, k] of int8 and factors [gate, unit] as panels, the gates of a panel side by side."""
    parts = []
    for start in range(0, blocks.shape[1], width):
        part, factor = blocks[:, start : start + width], factors[:, start : start + width]
        gates, units, k = part.shape
        columns = -(-units // lanes) * lanes
        matrix, scale = np.zeros((k, gates, columns), np.int8), np.zeros((gates, columns), np.float32)
        matrix[:, :, :units], scale[:, :units] = part.transpose(2, 0, 1), factor
        sums = matrix.astype(np.int32).sum(0, dtype=np.int32)
        flat = matrix.reshape(k, gates * columns)
        parts += [sums.ravel().view(np.int8), scale.ravel().view(np.int8), quads(flat, gates * columns // lanes, lanes)]
    return np.concatenate(parts)


def _tiling(items: int, height: int) -> Iterator[tuple[int, int]]:
    """The heights of the tiles that cover so many items, by halves, and how many of each."""
    while height:
        yield height, items // height
        items, height = items % height, height // 2


NEST_KERNEL = Rnn()
