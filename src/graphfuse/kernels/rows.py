"""The generic kernel: any region of maps, index maps and reductions, row by row.

The iteration space is sorted by where the data lies, axes that lie back to back are joined, and the innermost one runs
along the lanes. When that one is reduced, folds end in a horizontal step ("along" the lanes); when it is not, each
lane folds for itself ("across").
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

from graphfuse.codegen.access import Access, access
from graphfuse.codegen.params import Params
from graphfuse.codegen.vector import Context, Scope
from graphfuse.codegen.writer import Writer
from graphfuse.fusion.passes import Fold, Pass, RowProgram
from graphfuse.graph.dims import Dim, add, ceildiv, estimate, mul, product, same
from graphfuse.graph.dtypes import c_type, item_bytes, suffix, vector_type
from graphfuse.ops.expr import Const, Expr, Var, cost, loads_of, substitute, variables_of
from graphfuse.ops.tensor import Tensor, variables
from graphfuse.plan.site import SIGNATURE, KernelCode
from graphfuse.plan.view import Buffer, View, ordered_strides, surely_larger
from graphfuse.target import Target

from . import moves
from .crossing import Crossing, crossing
from .crossing import emit as emit_crossing
from .fold import Accumulator
from .stages import Stage, stages

# Elements of a long row that one unit of work covers, and vectors that one "across" block covers.
CHUNK = 4096
BLOCK = 4
# Vector instructions of an element from which on two elements are computed at a time.
LONG_CHAIN = 24
# Vectors of a block that passes through stages: so many of a few values stay in L1 beside the operands.
STAGE = 32
# So many rows keep every thread busy; the number is the same for all machines, as the C is.
ENOUGH_ROWS = 64
# The place of a register in its block: the part of a spill's address that follows the lanes.
SLOT = Var("slot")


@dataclass
class Axis:
    """One loop of the joined iteration space."""

    var: Var
    extent: Dim
    reduced: bool


def emit(program: RowProgram, views: Mapping[Tensor, View], target: Target) -> KernelCode:
    """Emit the kernel of a rows region; `views` holds every tensor that is read or stored."""
    return _Rows(program, dict(views), target).emit()


class _Rows:
    def __init__(self, program: RowProgram, views: dict[Tensor, View], target: Target) -> None:
        self.program = program
        self.target = target
        self.views = views
        self.scratch: Dim = 0
        self.spill_views = [self._place_spill(t) for t in program.spills]
        self.loads = loads_of(self._expressions())
        self.load_access = {e: access(views[e.tensor], e.index) for e in self.loads}
        self.store_access: dict[Tensor, Access] = {}
        for t in self._stored():
            self.store_access[t] = access(views[t], program.elements.canonical(t))
        self.axes = self._axes()
        self._join_axes()
        self.lane = self._choose_lane()
        self.along = self.lane is not None and self.lane.reduced
        self.moves = moves.moves(program, self.load_access, self.store_access, self.lane.var if self.lane else None)
        self.turn = self._turned()
        self.crossing = self._crossing()
        if self.lane is not None and not self.along:
            self._widen_spills()

    # ------------------------------------------------------------------ analysis

    def _expressions(self) -> list[Expr]:
        found: list[Expr] = []
        for p in self.program.passes:
            found += [f.value for f in p.folds] + [e for _, e in p.stores + p.row_stores]
        return found

    def _stored(self) -> list[Tensor]:
        return list(dict.fromkeys(t for p in self.program.passes for t, _ in p.stores + p.row_stores))

    def _place_spill(self, t: Tensor) -> View:
        buffer = Buffer("scratch", product(t.shape), t.dtype)
        strides = tuple(
            0 if d == 1 else s for d, s in zip(t.shape, ordered_strides(t.shape, range(t.rank)), strict=True)
        )
        # The offset in bytes lies in the pointer, see `_declare_spills`.
        self.views[t] = View(buffer, t.shape, strides)
        buffer.index = len(self.program.spills)
        return self.views[t]

    def _widen_spills(self) -> None:
        """Across the lanes, each lane has a spilled row of its own, those of one block side by side."""
        width = BLOCK * self.target.lanes
        places = [a for e, a in self.load_access.items() if e.tensor in self.program.spills]
        places += [a for t, a in self.store_access.items() if t in self.program.spills]
        for a in places:
            a.strides = {v: mul(s, width) for v, s in a.strides.items()} | {SLOT: 1}
            a.lane_step = 1

    def _axes(self) -> list[Axis]:
        space = variables(len(self.program.space))
        axes = [
            Axis(v, d, k in self.program.axes)
            for k, (v, d) in enumerate(zip(space, self.program.space, strict=True))
            if not (isinstance(d, int) and d == 1)
        ]
        return _by_stride(axes, self._leading_access())

    def _leading_access(self) -> Access | None:
        """The access whose layout the loops follow: the fullest store, else the fullest load."""
        stores = list(self.store_access.values())
        candidates = stores + [a for e, a in self.load_access.items() if not a.irregular]
        if not candidates:
            return None
        most = max(_rank(a) for a in candidates)
        return next(a for a in candidates if _rank(a) == most)

    def _accesses(self) -> list[Access]:
        return [*self.load_access.values(), *self.store_access.values()]

    def _pinned(self) -> set[Var]:
        """Variables whose value is used by itself (irregular indices, guards, index values): not to be joined."""
        pinned: set[Var] = set()
        for a in self._accesses():
            for e, _ in a.irregular:
                pinned |= set(variables_of(e))
        for e in self.loads:
            for part in (e.guard, e.fill):
                if part is not None:
                    pinned |= set(variables_of(part))
        plain = [_without_loads(e) for e in self._expressions()]
        for e in plain:
            pinned |= set(variables_of(e))
        for p in self.program.passes:
            for f in p.folds:
                if f.prim.kind.startswith("arg"):
                    pinned |= {a.var for a in self.axes if a.reduced}
        return pinned

    def _join_axes(self) -> None:
        pinned = self._pinned()
        k = 0
        while k + 1 < len(self.axes):
            outer, inner = self.axes[k], self.axes[k + 1]
            joinable = (
                outer.reduced == inner.reduced
                and not {outer.var, inner.var} & pinned
                and all(same(a.stride(outer.var), mul(a.stride(inner.var), inner.extent)) for a in self._accesses())
            )
            if not joinable:
                k += 1
                continue
            for a in self._accesses():
                a.strides.pop(outer.var, None)
            self.axes[k : k + 2] = [Axis(inner.var, mul(outer.extent, inner.extent), inner.reduced)]
            k = max(k - 1, 0)

    def _choose_lane(self) -> Axis | None:
        if not self.axes:
            return None
        leading = self._leading_access()
        unit = [x for x in self.axes if leading is not None and leading.stride(x.var) == 1]
        if unit:
            return unit[-1]
        # No unit stride in the leading access: the axis that most accesses step through one by one.
        votes = [(sum(a.stride(x.var) == 1 for a in self._accesses()), k) for k, x in enumerate(self.axes)]
        return self.axes[max(votes)[1]]

    def _turned(self) -> moves.Turn | None:
        """The transpose that the region is, where there are squares to turn over."""
        if self.lane is None:
            return None
        turn = moves.turned(self.program, self.load_access, self.store_access, self.lane.var)
        return turn if turn is not None and self._has_squares(turn) else None

    def _crossing(self) -> Crossing | None:
        """The operands that lie across the lanes, where there are squares of them."""
        if self.lane is None or self.along or self.moves or self.turn is not None:
            return None
        found = crossing(self.program, self.load_access, self.store_access, self.lane.var)
        return found if found is not None and self._has_squares(found) else None

    def _has_squares(self, found: moves.Turn | Crossing) -> bool:
        """Whether both axes are as long as a square is, for all that is known."""
        side = found.side(self.target.lanes)
        extents = [a.extent for a in self.axes if a.var in (found.lane, found.across)]
        return len(extents) == 2 and not any(isinstance(d, int) and d < side for d in extents)

    # ------------------------------------------------------------------ emission

    def emit(self) -> KernelCode:
        w = Writer()
        w.line(SIGNATURE)
        with w.block():
            self.head = w.section()
            self.params = Params(self.head)
            self.context = Context(self.params, self.views, self.lane.var if self.lane else None, self.load_access)
            # Axes of size 1, and those joined into the next one.
            units = {v: "0" for v in variables(len(self.program.space)) if v not in {a.var for a in self.axes}}
            self.root = Scope(self.context, w.section(), variables=units)
            self._declare_outputs()
            self._declare_spills()
            rows = self._row_loop(w)
            for unused in _unused(self):
                self.head.line(f"(void){unused};")
        return KernelCode(
            hint="rows_" + self._hint(),
            source=w.text(),
            pointers=self.params.pointers,
            dims=self.params.dims,
            rows=rows,
            work=self._work(rows),
            scratch=self.scratch,
            describe=self._describe(),
        )

    def _work(self, rows: Dim) -> Dim:
        elements = product(self.program.space)
        if self.moves:
            return moves.work(self.moves, elements, rows)
        if self.turn is not None:
            return mul(elements, 2 * item_bytes(self.turn.move.target.dtype))
        return mul(elements, sum(cost(e) for e in self._expressions()) + 2 * len(self._accesses()))

    def _hint(self) -> str:
        kinds = [f.prim.kind for p in self.program.passes for f in p.folds]
        dtype = suffix(next(iter(self._stored())).dtype) if self._stored() else "none"
        return "_".join([dtype, *kinds[:3]])

    def _describe(self) -> str:
        trips = len(self.program.passes)
        how = "along the lanes" if self.along else "across the lanes" if self.program.axes else "element by element"
        steps = len(self._stages())
        if self.moves:
            return "rows, copied in runs"
        if self.turn is not None:
            return "squares, transposed in registers"
        if self.crossing is not None:
            return "rows, element by element, operands transposed in registers"
        return f"rows, {how}, " + (f"{steps} stages" if steps > 1 else f"{trips} pass{'es' * (trips != 1)}")

    def _declare_outputs(self) -> None:
        for t in self._stored():
            if t not in self.program.spills:
                self.params.pointer(self.views[t], t.dtype, "y", written=True)

    def _declare_spills(self) -> None:
        lanes = 1 if self.lane is None or self.along else BLOCK * self.target.lanes
        for t, view in zip(self.program.spills, self.spill_views, strict=True):
            name = self.head.fresh("row")
            offset = self.params.dim(self.scratch)
            self.head.line(f"{c_type(t.dtype)} *restrict {name} = (void *)(scratch + {offset});")
            self.params.alias(view, name)
            size = mul(product(t.shape), lanes * item_bytes(t.dtype))
            self.scratch = add(self.scratch, mul(ceildiv(size, 64), 64))

    def _row_loop(self, w: Writer) -> Dim:
        """The loop over rows; returns their number. A row is one point of the outer axes, and one chunk of the lane."""
        strips = self.turn or self.crossing
        across, width = None, 0
        if strips is not None:
            across, width = next(a for a in self.axes if a.var == strips.across), strips.width
        outer = [a for a in self.axes if not a.reduced and a is not self.lane and a is not across]
        chunked = self.lane is not None and not self.lane.reduced
        counters: list[tuple[str, Dim]] = [(a.var.name, a.extent) for a in outer]
        chunk = self._chunk()
        chunks = ceildiv(self.lane.extent, chunk) if self.lane is not None and chunked else 1
        if chunks != 1:
            counters.append(("chunk", chunks))
        if across is not None:
            counters.append(("strip", ceildiv(across.extent, width)))
        if counters:
            self._start_counters(w, counters)
        with w.loop("r", "r0", "r1"):
            row = w.section()
            if chunked:
                assert self.lane is not None
                extent = self.params.dim(self.lane.extent)
                row.line(f"const int64_t j0 = {'0' if chunks == 1 else f'chunk * {chunk}'};")
                row.line(f"const int64_t j1 = {extent if chunks == 1 else f'gf_min64(j0 + {chunk}, {extent})'};")
            if across is not None:
                row.line(f"const int64_t strip0 = strip * {width};")
                extent = self.params.dim(across.extent)
                row.line(f"const int64_t strip1 = gf_min64(strip0 + {width}, {extent});")
            self._row(row, {a.var: a.var.name for a in outer})
            if counters:
                self._advance_counters(w, counters)
        return product(n for _, n in counters)

    def _chunk(self) -> int:
        if self.lane is None or self.program.axes:
            return self.target.lanes * BLOCK
        if self.turn is not None or self.crossing is not None:
            return moves.TURN_LENGTH
        extent = self.lane.extent
        longest = moves.chunk(self.moves) if self.moves else CHUNK
        others = product(a.extent for a in self.axes if a is not self.lane)
        if isinstance(extent, int) and (extent <= longest or estimate(others) >= ENOUGH_ROWS):
            lanes = self.target.lanes
            return max(lanes, -(-extent // lanes) * lanes)
        return longest

    def _start_counters(self, w: Writer, counters: Sequence[tuple[str, Dim]]) -> None:
        if len(counters) == 1:
            w.line(f"int64_t {counters[0][0]} = r0;")
            return
        w.line("int64_t rest = r0;")
        for name, extent in reversed(counters[1:]):
            n = self.params.dim(extent)
            w.line(f"int64_t {name} = rest % {n};")
            w.line(f"rest /= {n};")
        w.line(f"int64_t {counters[0][0]} = rest;")

    def _advance_counters(self, w: Writer, counters: Sequence[tuple[str, Dim]]) -> None:
        text = f"++{counters[0][0]};"
        for name, extent in counters[1:]:
            text = f"if (++{name} == {self.params.dim(extent)}) {{ {name} = 0; {text} }}"
        w.line(text)

    def _row(self, w: Writer, variables_: dict[Var, str]) -> None:
        row = self.root.child(variables_, w.section())
        if self.lane is None or self.along:
            self._passes(w, row)
            return
        if self.moves:
            moves.emit(w, row, self.lane.var, self.moves)
            return
        if self.turn is not None:
            moves.emit_turn(w, row, self.turn, self.params, self.target.lanes)
            return
        if self.crossing is not None:
            store = partial(self._step, p=self.program.passes[0], accumulators=[], way=0)
            emit_crossing(w, row, self.crossing, self.params, store)
            return
        steps = self._stages()
        if len(steps) > 1:
            self._staged(w, row, steps)
            return
        block = BLOCK if self.program.axes else self._interleave()
        w.line("int64_t j = j0;")
        lanes = "GF_W" if block == 1 else f"{block} * GF_W"
        with w.block(f"for (; j + {lanes} <= j1; j += {lanes})"):
            self._blocks(w, row, block)
        if block > 1:
            with w.block("for (; j + GF_W <= j1; j += GF_W)"):
                self._blocks(w, row, 1)
        with w.block("if (j < j1)"):
            w.line("const int64_t n = j1 - j;")
            w.line("(void)n;")  # of what is stored in one place there is one element
            self._blocks(w, row, 1, count="n")

    def _interleave(self) -> int:
        """Registers computed side by side: a long chain of functions waits for itself, two of them fill the gaps."""
        return 2 if sum(cost(e) for e in self._expressions()) >= LONG_CHAIN else 1

    def _stages(self) -> list[Stage]:
        """The stages of a long chain without reductions; none where a row is hardly longer than a register."""
        if self.lane is None or self.program.axes or len(self.program.passes) != 1:
            return []
        if isinstance(self.lane.extent, int) and self.lane.extent < 2 * self.target.lanes:
            return []
        return stages(self._expressions(), self.lane.var)

    def _staged(self, w: Writer, row: Scope, steps: Sequence[Stage]) -> None:
        """Block by block, one stage of the computation after the other; a row's last vector closes each loop."""
        with w.block(f"for (int64_t j = j0; j < j1; j += {STAGE} * GF_W)"):
            w.line(f"const int64_t whole = gf_min64((j1 - j) / GF_W, {STAGE});")
            w.line(f"const int64_t n = whole < {STAGE} ? j1 - j - whole * GF_W : 0;")
            arrays: dict[Expr, str] = {}
            for e in (e for step in steps for e in step.leaves):
                arrays[e] = w.fresh("t")
                w.line(f"{vector_type(e.dtype)} {arrays[e]}[{STAGE}];")
            for step in steps:
                with w.loop("u", "0", "whole"):
                    self._stage(row, step, arrays, w.section(), "u")
                with w.block("if (n)"):
                    self._stage(row, step, arrays, w.section(), "whole", "n")

    def _stage(
        self, row: Scope, step: Stage, arrays: Mapping[Expr, str], w: Writer, at: str, count: str | None = None
    ) -> None:
        assert self.lane is not None
        scope = row.child({self.lane.var: f"(j + {at} * GF_W)"}, w, count)
        for e in step.takes:
            scope.bind(e, w.let(vector_type(e.dtype), f"{arrays[e]}[{at}]", "w"))
        for e in step.leaves:
            w.line(f"{arrays[e]}[{at}] = {scope.vector(e)};")
        if not step.leaves:
            self._step(scope, self.program.passes[0], [], 0)

    def _blocks(self, w: Writer, row: Scope, block: int, count: str | None = None) -> None:
        assert self.lane is not None
        scopes = []
        for u in range(block):
            text = "j" if u == 0 else f"(j + {u} * GF_W)"
            scopes.append(row.child({self.lane.var: text, SLOT: "0" if u == 0 else f"{u} * GF_W"}, w.section(), count))
        self._passes(w, *scopes)

    def _passes(self, w: Writer, *rows: Scope) -> None:
        """The passes of one row, for one or several blocks of lanes at once."""
        scopes = list(rows)
        for p in self.program.passes:
            finished = self._pass(w, p, scopes)
            # What depends on this pass's results is written behind it.
            scopes = [row.child(writer=w.section()) for row in scopes]
            for row, results in zip(scopes, finished, strict=True):
                for fold, name in results:
                    row.bind(fold.result, name)
                for t, e in p.row_stores:
                    row.store(self.views[t], self.store_access[t], row.vector(e))

    def _pass(self, w: Writer, p: Pass, rows: Sequence[Scope]) -> list[list[tuple[Fold, str]]]:
        """One trip over the row; returns for each block its folds with the C names of their results."""
        if not p.folds and not p.stores:
            return [[] for _ in rows]
        folds = [[Accumulator(f, w, self.along) for f in p.folds] for _ in rows]
        loops = [a for a in self.axes if a.reduced and a is not self.lane]
        with _nest(w, [(a.var.name, "0", self.params.dim(a.extent)) for a in loops]):
            place = {a.var: a.var.name for a in loops}
            inner = [row.child(place, w.section()) for row in rows]
            if self.along:
                self._along(w, p, inner[0], folds[0])
            else:
                for scope, accumulators in zip(inner, folds, strict=True):
                    body = scope.child(writer=w)
                    self._step(body, p, accumulators, 0)
        return [[(a.fold, a.finish(w, self.along)) for a in accumulators] for accumulators in folds]

    def _along(self, w: Writer, p: Pass, scope: Scope, accumulators: Sequence[Accumulator]) -> None:
        assert self.lane is not None
        extent = self.params.dim(self.lane.extent)
        var = self.lane.var
        with w.block():
            w.line("int64_t j = 0;")
            ways = min((a.ways for a in accumulators), default=1)
            if ways > 1:
                with w.block(f"for (; j + {ways} * GF_W <= {extent}; j += {ways} * GF_W)"):
                    for u in range(ways):
                        text = "j" if u == 0 else f"(j + {u} * GF_W)"
                        self._step(scope.child({var: text}, w), p, accumulators, u)
            with w.block(f"for (; j + GF_W <= {extent}; j += GF_W)"):
                self._step(scope.child({var: "j"}, w), p, accumulators, 0)
            with w.block(f"if (j < {extent})"):
                w.line(f"const int64_t n = {extent} - j;")
                self._step(scope.child({var: "j"}, w, "n"), p, accumulators, 0)

    def _step(self, scope: Scope, p: Pass, accumulators: Sequence[Accumulator], way: int) -> None:
        """One register's worth of a pass."""
        for t, e in p.stores:
            scope.store(self.views[t], self.store_access[t], scope.vector(e))
        for a in accumulators:
            a.fold_in(scope, way, self.along)


@contextmanager
def _nest(w: Writer, loops: Sequence[tuple[str, str, str]]) -> Iterator[None]:
    if not loops:
        yield
        return
    name, start, stop = loops[0]
    with w.loop(name, start, stop), _nest(w, loops[1:]):
        yield


def _rank(a: Access) -> int:
    return sum(1 for s in a.strides.values() if s != 0)


def _by_stride(axes: list[Axis], leading: Access | None) -> list[Axis]:
    """Axes from the largest stride to the smallest in the leading access; absent ones stay outside."""
    if leading is None:
        return axes
    result: list[Axis] = []
    for x in axes:
        k = len(result)
        s = leading.stride(x.var)
        while k > 0 and s != 0 and leading.stride(result[k - 1].var) != 0:
            if not surely_larger(s, leading.stride(result[k - 1].var)):
                break
            k -= 1
        result.insert(k, x)
    return result


def _without_loads(e: Expr) -> Expr:
    """The expression with its loads taken out, so that only directly used variables remain."""
    return substitute(e, {x: Const(0, x.dtype) for x in loads_of([e])})


def _unused(rows: _Rows) -> list[str]:
    names = ["c0", "c1"]
    if not rows.params.dims:
        names.append("d")
    if not rows.program.spills:
        names.append("scratch")
    return names
