"""Recurrent layers: each step one pass over packed weights, the gates computed on the accumulators in registers.

The panels of the weights hold the gates of the same units side by side, so a tile of accumulators has all that its
units need: sums become gates, gates the new state, without a buffer in between. Where a step is worth sharing, every
step is a call of its own and the threads split the units, each with its share of the weights in its own cache; else
they split the items and directions, and one call runs all steps.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from graphfuse.codegen.access import access
from graphfuse.codegen.vector import Scope
from graphfuse.codegen.writer import Writer
from graphfuse.graph.dims import Dim, add, ceildiv, mul, product
from graphfuse.graph.dtypes import DType, c_type, item_bytes, suffix, vector_type
from graphfuse.ops import recurrence
from graphfuse.ops.expr import Const, Expr, Load, Result, Var, cost, substitute
from graphfuse.ops.recurrence import DIRECTION, ITEM, STEP, UNIT, Phase, Recurrence
from graphfuse.ops.tensor import Tensor
from graphfuse.plan.site import KernelCode, NestSite, Packed
from graphfuse.plan.view import Buffer, View, dense
from graphfuse.target import Target

from .function import Function, affine
from .tile import Lanes, Tile, declare_accumulators, fits, multiply_add, registers_per_vector

# Where in memory a state was left by the step before, and where this one puts it.
_PAST, _NEXT = Var("past"), Var("next")
# The work of a step, in floating-point operations, from which on its units are split among threads: what
# GF_WORK_PER_THREAD says is worth a second thread.
_SHARED_STEP = 65536
# What a batch of unknown size is reckoned with.
_USUAL_ITEMS = (1, 2, 4, 8)
# Above this many vector instructions the gates of a tile are computed in a loop over its rows.
_INLINE = 320


class Rnn:
    """`rnn`: LSTM, GRU and what else is products of a state and scalar functions."""

    name = "rnn"
    error_class = "reassociated"

    def accepts(self, site: NestSite, target: Target) -> str | None:
        return None if isinstance(site.nest, Recurrence) else f"a {site.nest.name} is no recurrent layer"

    def emit(self, site: NestSite, target: Target) -> KernelCode:
        assert isinstance(site.nest, Recurrence)
        return _Plan(site, site.nest, target).emit()


@dataclass(frozen=True)
class _Kept:
    """What is kept in memory between phases and steps: [places, directions, items, units]; 2 places where every unit
    reads all of the last step's values while new ones are written."""

    tensor: Tensor
    places: int

    def load(self, place: Expr) -> Load:
        return Load(self.tensor, self.index(place))

    def index(self, place: Expr) -> tuple[Expr, ...]:
        return (place if self.places == 2 else Const(0, UNIT.dtype), DIRECTION, ITEM, UNIT)


class _Plan:
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
        self.by_step = not self.constant or (most >= _SHARED_STEP and not self._shared_by_rows())
        self.kept = self._memory()
        self.calls = add(mul(nest.steps, len(nest.phases)), 2 if self.finals else 1)

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

    def _memory(self) -> dict[str, _Kept]:
        nest, states = self.nest, [s.name for s in self.nest.states]
        sources = [p.source for p in nest.phases]
        names = dict.fromkeys([*states, *(name for p in nest.phases for name, _ in p.values)])
        padded = self.vectors * self.lanes
        kept = {}
        for name in names:
            places = 2 if name in states and name in sources else 1
            shape = (places, self.directions, nest.items, padded)
            kept[name] = _Kept(Tensor(shape, nest.dtype), places)
        return kept

    def emit(self) -> KernelCode:
        nest, dtype = self.nest, self.nest.dtype
        views = dict(self.site.views)
        for name, kept in self.kept.items():
            views[kept.tensor] = _in_arena(kept.tensor.shape, dtype, name)
        site = NestSite(nest, self.site.results, views, self.site.constants)
        fn = Function(site, UNIT)
        call = fn.params.counter() if self.by_step else ""
        _Writer(self, site, fn).whole(fn.body, call)
        grain = 1 if self.by_step else max(1, min(self.tile.rows, -(-self._known_items() // 2)))
        sharing = "threads split the units of a step" if self.by_step else "threads split items and directions"
        weights = "packed weights" if self.constant else "weights packed at run time"
        everything = product([self.step_work, self.directions, nest.steps, len(nest.phases)])
        return KernelCode(
            hint=f"rnn_{suffix(dtype)}_{self.tile.rows}x{self.gates}x{self.width}",
            source=fn.source(),
            pointers=fn.params.pointers,
            dims=fn.params.dims,
            rows=1 if self.by_step else mul(self.directions, nest.items),
            work=self.step_work if self.by_step else everything,
            row_grain=grain,
            columns=self.columns,
            column_grain=1 if self.by_step else self.columns,
            repeat=mul(self.directions, self.calls) if self.by_step else 1,
            describe=f"recurrence of {nest.units} units, {self.gates} gates in registers, {weights}, {sharing}",
        )

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

        def arrange(w: np.ndarray) -> np.ndarray:
            blocks = w.reshape(w.shape[0], -1, units, w.shape[2])[:, list(phase.gates)]  # [d, gate, unit, k]
            return np.concatenate([_panels(side, width, lanes) for side in blocks])

        key = f"rnn panels of {phase.gates} x {width} by {lanes}"
        return Packed(phase.weights, arrange, self.nest.dtype, key)

    def side(self, phase: Phase) -> int:
        """Elements of the packed weights of one direction."""
        return self.nest.units * len(phase.gates) * self.vectors * self.lanes


def _in_arena(shape: Sequence[Dim], dtype: DType, name: str) -> View:
    return dense(Buffer("arena", product(shape), dtype, name=name), shape)


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


def _tiling(items: int, height: int) -> Iterator[tuple[int, int]]:
    """The heights of the tiles that cover so many items, by halves, and how many of each."""
    while height:
        yield height, items // height
        items, height = items % height, height // 2


class _Writer:
    """Writes the loops of one layer."""

    def __init__(self, plan: _Plan, site: NestSite, fn: Function) -> None:
        self.plan = plan
        self.nest = plan.nest
        self.dtype = plan.nest.dtype
        self.site = site
        self.fn = fn
        self.weights = [self._weights(phase) for phase in plan.nest.phases]
        self.kept = {name: self._declare(site.views[kept.tensor]) for name, kept in plan.kept.items()}

    def _declare(self, view: View) -> str:
        """A pointer to memory that is read and written."""
        return self.fn.params.pointer(view, self.dtype, "kept", written=True)

    def _weights(self, phase: Phase) -> str:
        if self.plan.constant:
            return self.fn.params.pointer(self.plan.packed(phase), self.dtype, "weights")
        size = mul(self.plan.directions, self.plan.side(phase))
        return self._declare(_in_arena((size,), self.dtype, "packed"))

    # ------------------------------------------------------------------ calls

    def whole(self, w: Writer, call: str) -> None:
        """The body: calls as the caller counts them, or all of them for each direction's items."""
        items = self.fn.dim(self.nest.items, "n")
        if self.plan.by_step:
            direction = w.fresh("dir")
            if self.plan.directions == 1:
                w.line(f"const int64_t {direction} = 0;")
            else:
                # One after the other: the weights of one are enough for the caches.
                calls = self.fn.dim(self.plan.calls, "calls")
                w.line(f"const int64_t {direction} = {call} / {calls};")
                call = f"{call} % {calls}"
            self.one(w, w.let("int64_t", call, "call"), direction, "0", items)
            return
        with w.block("for (int64_t r = r0; r < r1;)"):
            direction = w.let("int64_t", f"r / {items}", "dir")
            start = w.let("int64_t", f"r % {items}", "start")
            stop = w.let("int64_t", f"gf_min64({items}, {start} + r1 - r)", "stop")
            w.line(f"r += {stop} - {start};")
            number = w.fresh("call")
            with w.loop(number, "0", self.fn.dim(self.plan.calls, "calls")):
                self.one(w, number, direction, start, stop)

    def one(self, w: Writer, number: str, direction: str, start: str, stop: str) -> None:
        """Call 0 sets the states, then come the phases of each step, and a last call for the states' last values."""
        side = self.fn.root.child({DIRECTION: direction}, w.section())
        phases = len(self.nest.phases)
        steps = self.fn.dim(self.nest.steps, "steps")
        with w.block(f"if ({number} == 0)"):
            self.begin(w, side, direction, start, stop)
        step = w.let("int64_t", f"({number} - 1) / {phases}" if phases > 1 else f"{number} - 1", "step")
        if self.plan.finals:
            with w.block(f"if ({step} == {steps})"):
                self.end(w, side.child({_PAST: f"({step} & 1)"}, w.section()), start, stop)
        with w.block(f"if ({number} > 0 && {step} < {steps})"):
            t = w.let("int64_t", self.time(direction, step, steps), "t")
            w.line(f"(void){t};")  # of a single step nothing depends
            known = {STEP: t, _PAST: f"({step} & 1)", _NEXT: f"(~{step} & 1)"}
            now = side.child(known, w.section())
            for k, phase in enumerate(self.nest.phases):
                head = f"if (({number} - 1) % {phases} == {k})" if phases > 1 else ""
                with w.block(head):
                    inside = now.child({}, w.section())
                    self.phase(w, inside, k, phase, direction, step, start, stop)

    def time(self, direction: str, step: str, steps: str) -> str:
        reverse = self.nest.reverse
        if not any(reverse):
            return step
        backward = f"{steps} - 1 - {step}"
        return backward if all(reverse) else f"{direction} == {reverse.index(True)} ? {backward} : {step}"

    # ------------------------------------------------------------------ columns and items

    def columns(self, w: Writer, body: Callable[[str, int, int], None], backward: str = "") -> None:
        """Panels [c0, c1): `body(first unit, vectors, valid lanes of the last one or 0 for all)`.

        Where `backward` (C text) holds, from the last one to the first: what a step has left in the caches is used
        first by the next.
        """
        full, rest = divmod(self.nest.units, self.plan.width)
        vectors, lanes = self.plan.tile.vectors, self.plan.lanes
        i = w.fresh("i")
        with w.loop(i, "c0", "c1"):
            panel = w.let("int64_t", f"{backward} ? c0 + c1 - 1 - {i} : {i}", "panel") if backward else i
            unit = w.let("int64_t", f"{panel} * {self.plan.width}", "unit")
            if full:
                with w.block(f"if ({panel} < {full})" if rest else ""):
                    body(unit, vectors, 0)
            if rest:
                with w.block(f"if ({panel} == {full})" if full else ""):
                    body(unit, -(-rest // lanes), rest % lanes)

    def each(self, w: Writer, scope: Scope, start: str, stop: str, body: Callable[[Scope], None]) -> None:
        """Every vector of units of every item by itself."""

        def panel(unit: str, vectors: int, tail: int) -> None:
            lanes = Lanes.of_panel(scope, w.section(), UNIT, unit, vectors, self.plan.lanes, tail)
            b = w.fresh("b")
            with w.loop(b, start, stop):
                for v in range(vectors):
                    body(lanes[v].child({ITEM: b}, w))

        self.columns(w, panel)

    def begin(self, w: Writer, side: Scope, direction: str, start: str, stop: str) -> None:
        if not self.plan.constant:
            for pointer, phase in zip(self.weights, self.nest.phases, strict=True):
                self.pack(w, pointer, phase, direction)

        def initial(scope: Scope) -> None:
            for state in self.nest.states:
                self.store(scope, self.plan.kept[state.name], Const(0, UNIT.dtype), scope.vector(state.initial))

        self.each(w, side.child({}, w.section()), start, stop, initial)

    def end(self, w: Writer, scope: Scope, start: str, stop: str) -> None:
        def final(scope: Scope) -> None:
            for k, tensor in sorted(self.plan.finals.items()):
                state = self.nest.states[k]
                e = Result(state.name, self.dtype) if state.final is None else state.final
                view = self.site.views[tensor]
                value = scope.vector(substitute(e, self.from_memory()))
                scope.store(view, access(view, (DIRECTION, ITEM, UNIT)), value)

        self.each(w, scope, start, stop, final)

    def from_memory(self) -> dict[Expr, Expr]:
        """Where the values are that a phase finds."""
        return {Result(name, self.dtype): kept.load(_PAST) for name, kept in self.plan.kept.items()}

    def store(self, scope: Scope, kept: _Kept, place: Expr, value: str) -> None:
        view = self.site.views[kept.tensor]
        scope.store(view, access(view, kept.index(place)), value)

    # ------------------------------------------------------------------ a phase of a step

    def phase(
        self, w: Writer, now: Scope, k: int, phase: Phase, direction: str, step: str, start: str, stop: str
    ) -> None:
        gates, units = len(phase.gates), self.nest.units
        kept = self.plan.kept[phase.source]
        place, side, item, _ = self.site.views[kept.tensor].strides
        past = [(f"({step} & 1)", place)] if kept.places == 2 else []
        source = w.let(
            f"{c_type(self.dtype)} *",
            f"{self.kept[phase.source]} + {affine([*past, (direction, side)], self.fn.params)}",
            "x",
        )
        panels = w.let(f"{c_type(self.dtype)} *", f"{self.weights[k]} + {direction} * {self.plan.side(phase)}", "side")

        def panel(unit: str, vectors: int, tail: int) -> None:
            lanes = Lanes.of_panel(now, w.section(), UNIT, unit, vectors, self.plan.lanes, tail)
            base = w.let(f"{c_type(self.dtype)} *", f"{panels} + {unit} * {gates * units}", "columns")
            row = w.fresh("row")
            w.line(f"int64_t {row} = {start};")
            for height in self.plan.heights:
                with w.block(f"for (; {row} + {height} <= {stop}; {row} += {height})"):
                    x = w.let(f"{c_type(self.dtype)} *", f"{source} + {affine([(row, item)], self.fn.params)}", "x")
                    depth = self.depth(w, now, height, row)
                    self.tile(w, lanes, phase, Tile(height, vectors), (x, item, base), depth, row)

        self.columns(w, panel, f"({step} & 1)")

    def tile(
        self, w: Writer, lanes: Lanes, phase: Phase, tile: Tile, operands: tuple[str, Dim, str], depth: str, row: str
    ) -> None:
        """`operands`: the first item's vector, the distance from item to item, the panel of weights."""
        x, item, base = operands
        sums = Tile(tile.rows, tile.vectors * len(phase.gates))
        k, y = w.fresh("k"), w.fresh("y")
        w.line(f"const {c_type(self.dtype)} *{y} = {base};")
        declare_accumulators(w, sums, self.dtype)
        step = self.fn.dim(item, "s")
        with w.loop(k, "0", depth):
            multiply_add(w, sums, self.dtype, lambda m: f"{x}[{m} * {step} + {k}]", y, self.plan.lanes)
            w.line(f"{y} += {sums.vectors * self.plan.lanes};")
        self.gates(w, lanes, phase, tile, row)

    def depth(self, w: Writer, now: Scope, rows: int, row: str) -> str:
        """How many products to add up: none where the sequences of all items of the tile are over."""
        units = str(self.nest.units)
        if self.nest.lasts is None:
            return units
        lasts = [now.child({ITEM: f"({row} + {m})"}, w).index(self.nest.lasts) for m in range(rows)]
        return w.let("int64_t", f"{' || '.join(lasts)} ? {units} : 0", "depth")

    def gates(self, w: Writer, lanes: Lanes, phase: Phase, tile: Tile, row: str) -> None:
        """What becomes of the sums of a tile."""
        n = tile.vectors * len(phase.gates)
        work = sum(cost(e) for _, e in phase.values) * tile.rows * tile.vectors
        if work <= _INLINE or tile.rows == 1:
            for m in range(tile.rows):
                at = {ITEM: f"({row} + {m})"}
                for v in range(tile.vectors):
                    self.unit(lanes[v].child(at, w), phase, [f"c{m}_{g}" for g in range(v, n, tile.vectors)])
            return
        kept, counter = w.fresh("sums"), w.fresh("m")
        names = ", ".join(f"c{r}_{c}" for r in range(tile.rows) for c in range(n))
        w.line(f"const {vector_type(self.dtype)} {kept}[{tile.rows * n}] = {{{names}}};")
        with w.loop(counter, "0", str(tile.rows)):
            at = {ITEM: f"({row} + {counter})"}
            for v in range(tile.vectors):
                sums = [f"{kept}[{counter} * {n} + {g}]" for g in range(v, n, tile.vectors)]
                self.unit(lanes[v].child(at, w), phase, sums)

    def unit(self, scope: Scope, phase: Phase, sums: Sequence[str]) -> None:
        """The values of one vector of units, from its gates' sums."""
        for k, text in enumerate(sums):
            scope.bind(recurrence.product(k, self.dtype), text)
        known = self.from_memory()
        values = [(self.plan.kept[name], scope.vector(substitute(e, known))) for name, e in phase.values]
        emitted = self.site.results.get(0) if phase is self.nest.phases[-1] else None
        if emitted is not None:
            view = self.site.views[emitted]
            value = scope.vector(substitute(self.nest.emitted, known))
            scope.store(view, access(view, (STEP, DIRECTION, ITEM, UNIT)), value)
        for kept, value in values:
            self.store(scope, kept, _NEXT, value)

    # ------------------------------------------------------------------ packing at run time

    def pack(self, w: Writer, pointer: str, phase: Phase, direction: str) -> None:
        """Copy the panels [c0, c1) of weights that are not known at compile time."""
        view, units, name = self.site.views[phase.weights], self.nest.units, suffix(self.dtype)
        source = self.fn.params.pointer(view, self.dtype, "from")
        step = self.fn.dim(view.strides[1], "s")

        def panel(unit: str, vectors: int, tail: int) -> None:
            gates, k = len(phase.gates), w.fresh("k")
            start = f"{direction} * {self.plan.side(phase)} + {unit} * {gates * units}"
            to = w.fresh("to")
            w.line(f"{c_type(self.dtype)} *{to} = {pointer} + {start};")
            with w.loop(k, "0", str(units)):
                for g, gate in enumerate(phase.gates):
                    for v in range(vectors):
                        first = f"({unit} + {gate * units + v * self.plan.lanes})"
                        terms = [(direction, view.strides[0]), (first, view.strides[1]), (k, view.strides[2])]
                        place = f"{source} + {affine(terms, self.fn.params)}"
                        part = (
                            f"_part_{name}({place}, {step}, {tail})"
                            if tail and v == vectors - 1
                            else f"_{name}({place}, {step})"
                        )
                        w.line(f"gf_store_{name}({to} + {(g * vectors + v) * self.plan.lanes}, gf_loads{part});")
                w.line(f"{to} += {gates * vectors * self.plan.lanes};")

        self.columns(w, panel)


NEST_KERNEL = Rnn()
