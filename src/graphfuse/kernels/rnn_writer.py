"""The C of a recurrent layer: the loops of its calls, the products of a step, the gates on the accumulators."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from graphfuse.codegen.access import access
from graphfuse.codegen.vector import Scope
from graphfuse.codegen.writer import Writer
from graphfuse.graph.dims import Dim, mul, product
from graphfuse.graph.dtypes import I8, U8, DType, c_type, suffix, vector_type
from graphfuse.ops import recurrence
from graphfuse.ops.expr import Const, Expr, Load, Result, Var, cost, substitute
from graphfuse.ops.recurrence import DIRECTION, ITEM, STEP, UNIT, Phase
from graphfuse.ops.tensor import Tensor
from graphfuse.plan.site import NestSite
from graphfuse.plan.view import Buffer, View, dense

from .function import Function, affine
from .rnn_bytes import Quantized
from .tile import Lanes, Tile, declare_accumulators, multiply_add

if TYPE_CHECKING:
    from .rnn import Plan

# Where in memory a state was left by the step before, and where this one puts it.
PAST, NEXT = Var("past"), Var("next")
# Above this many vector instructions the gates of a tile are computed in a loop over its rows.
_INLINE = 320


@dataclass(frozen=True)
class Kept:
    """What is kept in memory between phases and steps: [places, directions, items, units]; 2 places where every unit
    reads all of the last step's values while new ones are written."""

    tensor: Tensor
    places: int

    def load(self, place: Expr) -> Load:
        return Load(self.tensor, self.index(place))

    def index(self, place: Expr) -> tuple[Expr, ...]:
        return (place if self.places == 2 else Const(0, UNIT.dtype), DIRECTION, ITEM, UNIT)


def in_arena(shape: Sequence[Dim], dtype: DType, name: str) -> View:
    return dense(Buffer("arena", product(shape), dtype, name=name), shape)


class LayerWriter:
    """Writes the loops of one layer."""

    def __init__(self, plan: Plan, site: NestSite, fn: Function) -> None:
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
            return self.fn.params.pointer(self.plan.packed(phase), self._weight_type(phase), "weights")
        size = mul(self.plan.directions, self.plan.side(phase))
        return self._declare(in_arena((size,), self.dtype, "packed"))

    def _weight_type(self, phase: Phase) -> DType:
        return self.dtype if phase.scales is None else I8

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
        if self.plan.quantized:
            number, direction = w.fresh("call"), w.fresh("dir")
            with w.loop(direction, "r0", "r1"), w.loop(number, "0", self.fn.dim(self.plan.calls, "calls")):
                self.one(w, number, direction, "0", items)
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
                self.end(w, side.child({PAST: f"({step} & 1)"}, w.section()), start, stop)
        with w.block(f"if ({number} > 0 && {step} < {steps})"):
            t = w.let("int64_t", self.time(direction, step, steps), "t")
            w.line(f"(void){t};")  # of a single step nothing depends
            known = {STEP: t, PAST: f"({step} & 1)", NEXT: f"(~{step} & 1)"}
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
        return {Result(name, self.dtype): kept.load(PAST) for name, kept in self.plan.kept.items()}

    def store(self, scope: Scope, kept: Kept, place: Expr, value: str) -> None:
        view = self.site.views[kept.tensor]
        scope.store(view, access(view, kept.index(place)), value)

    # ------------------------------------------------------------------ a phase of a step

    def phase(
        self, w: Writer, now: Scope, k: int, phase: Phase, direction: str, step: str, start: str, stop: str
    ) -> None:
        gates = len(phase.gates)
        kept = self.plan.kept[phase.source]
        place, side, item, _ = self.site.views[kept.tensor].strides
        past = [(f"({step} & 1)", place)] if kept.places == 2 else []
        source = w.let(
            f"{c_type(self.dtype)} *",
            f"{self.kept[phase.source]} + {affine([*past, (direction, side)], self.fn.params)}",
            "x",
        )
        element = c_type(self._weight_type(phase))
        panels = w.let(f"{element} *", f"{self.weights[k]} + {direction} * {self.plan.side(phase)}", "side")
        if phase.scales is not None:
            whole = Quantized.write(self, w, source, item)
            source, item = whole.bytes, self.plan.padded

        def panel(unit: str, vectors: int, tail: int) -> None:
            lanes = Lanes.of_panel(now, w.section(), UNIT, unit, vectors, self.plan.lanes, tail)
            base = w.let(f"{element} *", f"{panels} + {unit} * {gates * self.plan.column(phase)}", "columns")
            row = w.fresh("row")
            w.line(f"int64_t {row} = {start};")
            for height in self.plan.heights:
                with w.block(f"for (; {row} + {height} <= {stop}; {row} += {height})"):
                    vector = c_type(self.dtype if phase.scales is None else U8)
                    x = w.let(f"{vector} *", f"{source} + {affine([(row, item)], self.fn.params)}", "x")
                    depth = self.depth(w, now, height, row)
                    if phase.scales is None:
                        self.tile(w, lanes, phase, Tile(height, vectors), (x, item, base), depth, row)
                    else:
                        whole.tile(w, Tile(height, vectors * gates), x, base, depth)
                        self.gates(w, lanes, phase, Tile(height, vectors), row, "p")

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

    def gates(self, w: Writer, lanes: Lanes, phase: Phase, tile: Tile, row: str, sum_: str = "c") -> None:
        """What becomes of the sums of a tile, which are called `sum_` and their row and column."""
        n = tile.vectors * len(phase.gates)
        work = sum(cost(e) for _, e in phase.values) * tile.rows * tile.vectors
        if work <= _INLINE or tile.rows == 1:
            for m in range(tile.rows):
                at = {ITEM: f"({row} + {m})"}
                for v in range(tile.vectors):
                    self.unit(lanes[v].child(at, w), phase, [f"{sum_}{m}_{g}" for g in range(v, n, tile.vectors)])
            return
        kept, counter = w.fresh("sums"), w.fresh("m")
        names = ", ".join(f"{sum_}{r}_{c}" for r in range(tile.rows) for c in range(n))
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
            self.store(scope, kept, NEXT, value)

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
