"""Imperative loop nests (`ops/loops.py`) as scalar C: what the compiler's own vectoriser makes of it is welcome.

Every index that is not seen to lie inside its axis is held there, so that data never decide which memory is touched.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from graphfuse.codegen.writer import Writer
from graphfuse.graph.dims import Dim, add, ceildiv, maximum, product, same
from graphfuse.graph.dtypes import BOOL, c_type
from graphfuse.ops.expr import Const, Expr, Load, Result, Size, Var
from graphfuse.ops.loop_nest import (
    Assign,
    Break,
    For,
    If,
    Loops,
    Phase,
    Statement,
    Store,
    While,
    expressions_of,
    statements,
)
from graphfuse.ops.tensor import Tensor
from graphfuse.ops.tensor import size as extent
from graphfuse.plan.memory import aligned
from graphfuse.plan.site import KernelCode, NestSite
from graphfuse.plan.strides import same_place
from graphfuse.plan.view import Buffer, View, dense
from graphfuse.target import Target

from .bounds import Bounds
from .function import Function
from .scalar import Scalars, value_type

# Elements that a thread copies at once at the least.
_PIECE = 4096


class LoopNest:
    """`loops`: any nest of `ops/loops.py`."""

    name = "loops"
    error_class = "exact"

    def accepts(self, site: NestSite, target: Target) -> str | None:
        return None if isinstance(site.nest, Loops) else f"a {site.nest.name} is no imperative loop nest"

    def emit(self, site: NestSite, target: Target) -> KernelCode:
        assert isinstance(site.nest, Loops)
        return _Nest(site, site.nest).emit()


@dataclass
class _Part:
    """A call of the function: rows, and what writes them."""

    rows: Dim
    phase: Phase | Tensor  # or the result that gets what it starts with


class _Nest:
    def __init__(self, site: NestSite, nest: Loops) -> None:
        self.nest = nest
        self.views = dict(site.views)
        for k, array in enumerate(nest.arrays):
            # A result that nobody wants is memory of the nest's own.
            wanted = site.results.get(k)
            self.views[array] = _in_arena(array) if wanted is None else site.views[wanted]
        self.scratch: Dim = 0
        self.private: list[tuple[Tensor, Dim]] = []
        for scratch in nest.scratch:
            self.views[scratch.array] = _in_arena(scratch.array)
            if not scratch.shared:
                self.private.append((scratch.array, self.scratch))
                self.scratch = add(self.scratch, aligned(self.views[scratch.array].buffer.bytes))
        self.fn = Function(NestSite(nest, site.results, self.views, site.constants), Var("lane"))
        every = [s for phase in nest.phases for s in statements(phase.body)]
        self.bounds = Bounds({s.local for s in every if isinstance(s, Assign) and not s.declares})
        self.scalars = Scalars(self.leaf, self.bounds.plain)
        self.locals: dict[Expr, str] = {}
        self.pointers: dict[Tensor, str] = {}
        self.written = self._written()

    def _written(self) -> set[View]:
        return {self.views[a] for a in self.nest.arrays} | {self.views[s.array] for s in self.nest.scratch}

    # ------------------------------------------------------------------ the whole

    def emit(self) -> KernelCode:
        parts = self.parts()
        call = self.fn.params.counter() if len(parts) > 1 else ""
        rows = parts[0].rows
        for part in parts[1:]:
            rows = rows if same(rows, part.rows) else maximum(rows, part.rows)
        self._declare_scratch()
        for k, part in enumerate(parts):
            with self.fn.body.block(f"if ({call} == {k})" if call else ""):
                self.part(self.fn.body, part, rows)
        shared = "rows shared among threads" if rows != 1 else "one thread"
        return KernelCode(
            hint=f"loops_{self.nest.name}",
            source=self.fn.source(),
            pointers=self.fn.params.pointers,
            dims=self.fn.params.dims,
            rows=rows,
            work=self.nest.work,
            repeat=len(parts),
            scratch=self.scratch,
            describe=f"loops of a {self.nest.name}, {shared}",
        )

    def parts(self) -> list[_Part]:
        copied = [a for a, start in self.nest.starts.items() if not self._in_place(a, start)]
        return [
            *(_Part(_copy_rows(self.views[a]), a) for a in copied),
            *(_Part(p.count, p) for p in self.nest.phases),
        ]

    def _in_place(self, array: Tensor, start: Tensor | Const) -> bool:
        return isinstance(start, Tensor) and same_place(self.views[start], self.views[array])

    def _declare_scratch(self) -> None:
        for array, offset in self.private:
            name = self.fn.body.fresh("own")
            place = f"scratch + {self.fn.dim(offset)}"
            c = c_type(array.dtype)
            self.fn.body.line(f"{c} *restrict {name} = ({c} *)(void *)({place});")
            self.fn.body.line(f"(void){name};")
            self.pointers[array] = name

    def part(self, w: Writer, part: _Part, rows: Dim) -> None:
        low, high = "r0", "r1"
        if not same(part.rows, rows):
            # The ranges of the call, drawn to this part's own rows: they meet without gaps.
            mine, all_ = self.fn.dim(part.rows), self.fn.dim(rows)
            low, high = (w.let("int64_t", f"{r} * {mine} / {all_}", "row") for r in ("r0", "r1"))
        if isinstance(part.phase, Tensor):
            self.start(w, part.phase, low, high)
            return
        self.locals = {}
        row = w.fresh("row")
        with w.loop(row, low, high):
            self.decode(w, part.phase, row)
            self.block(w, part.phase.body)

    def decode(self, w: Writer, phase: Phase, row: str) -> None:
        """The variables of a row from its number."""
        rest = row
        for k in range(len(phase.rows) - 1, -1, -1):
            var, n = phase.rows[k]
            self.bounds.enter(var, Const(0, var.dtype), extent(n))
            if k == 0:
                self.locals[var] = w.let("int64_t", rest, var.name + "_")
                continue
            size = self.fn.dim(n)
            self.locals[var] = w.let("int64_t", f"{rest} % {size}", var.name + "_")
            rest = w.let("int64_t", f"{rest} / {size}", "rest")
        for var, _ in phase.rows:
            w.line(f"(void){self.locals[var]};")

    # ------------------------------------------------------------------ what a result starts with

    def start(self, w: Writer, array: Tensor, low: str, high: str) -> None:
        start, view = self.nest.starts[array], self.views[array]
        pointer = self.pointer(array)
        source = self.views[start] if isinstance(start, Tensor) else None
        if view.is_contiguous() and (source is None or source.is_contiguous()):
            total = self.fn.dim(product(view.shape))
            first = w.let("int64_t", f"{low} * {_PIECE}", "first")
            last = w.let("int64_t", f"gf_min64({total}, {high} * {_PIECE})", "last")
            k = w.fresh("k")
            with w.loop(k, first, last):
                w.line(f"{pointer}[{k}] = {self._start_text(start, k)};")
            return
        row, k = w.fresh("row"), w.fresh("k")
        with w.loop(row, low, high):
            rest, to, at = row, [], []
            for axis in range(len(view.shape) - 2, -1, -1):
                size = self.fn.dim(view.shape[axis])
                i = w.let("int64_t", f"{rest} % {size}", "i")
                rest = w.let("int64_t", f"{rest} / {size}", "rest")
                to.append(self._term(i, view.strides[axis]))
                at += [self._term(i, source.strides[axis])] if source is not None else []
            if rest != row:
                w.line(f"(void){rest};")
            with w.loop(k, "0", self.fn.dim(view.shape[-1])):
                to.append(self._term(k, view.strides[-1]))
                at += [self._term(k, source.strides[-1])] if source is not None else []
                w.line(f"{pointer}[{' + '.join(to)}] = {self._start_text(start, ' + '.join(at))};")

    def _start_text(self, start: Tensor | Const, place: str) -> str:
        return f"{self.pointer(start)}[{place}]" if isinstance(start, Tensor) else self.scalars.text(start)

    # ------------------------------------------------------------------ statements

    def block(self, w: Writer, body: Sequence[Statement]) -> None:
        for s in body:
            if not isinstance(s, While):
                self.scalars.begin(w, expressions_of(s))
            self.statement(w, s)

    def statement(self, w: Writer, s: Statement) -> None:
        if isinstance(s, Store):
            self.store(w, s)
        elif isinstance(s, Assign):
            self.assign(w, s)
        elif isinstance(s, For):
            begin, end = self.scalars.text(s.begin), self.scalars.text(s.end)
            name = self.locals[s.var] = w.fresh(s.var.name + "_")
            self.bounds.enter(s.var, s.begin, s.end)
            if not isinstance(s.end, (Const, Size)):
                end = w.let("int64_t", end, "end")
            with w.loop(name, begin, end):
                self.block(w, s.body)
        elif isinstance(s, While):
            self.loop(w, s)
        elif isinstance(s, If):
            with w.block(f"if {_condition(self.scalars.text(s.condition))}"):
                self.block(w, s.then)
            if s.otherwise:
                with w.block("else"):
                    self.block(w, s.otherwise)
        elif isinstance(s, Break):
            w.line("break;")

    def loop(self, w: Writer, s: While) -> None:
        self.scalars.begin(w, [s.most])
        most = w.let("int64_t", self.scalars.text(s.most), "most")
        with w.loop(w.fresh("turn"), "0", most):
            self.scalars.begin(w, [s.condition])
            w.line(f"if (!{_condition(self.scalars.text(s.condition))}) break;")
            self.block(w, s.body)

    def assign(self, w: Writer, s: Assign) -> None:
        value = self.scalars.text(s.value)
        if not s.declares:
            w.line(f"{self.locals[s.local]} = {value};")
            return
        name = self.locals[s.local] = w.fresh(s.local.name + "_")
        self.bounds.define(s.local, s.value)
        w.line(f"{value_type(s.local.dtype)} {name} = {value};")
        w.line(f"(void){name};")

    def store(self, w: Writer, s: Store) -> None:
        place, empty = self.place(s.array, s.index)
        if "0" in empty:
            return
        text = f"{self.pointer(s.array)}[{place}] = {self.scalars.text(s.value)};"
        for n in empty:
            text = f"if ({n} > 0) {text}"
        w.line(text)

    # ------------------------------------------------------------------ leaves

    def leaf(self, e: Expr, scalars: Scalars) -> str:
        if isinstance(e, Size):
            return self.fn.dim(e.dim)
        if isinstance(e, (Var, Result)):
            return self.locals[e]
        assert isinstance(e, Load), e
        place, empty = self.place(e.tensor, e.index)
        if "0" in empty:
            return "0"
        text = f"{self.pointer(e.tensor)}[{place}]"
        text = f"({text} != 0)" if e.dtype == BOOL else text
        for n in empty:
            text = f"({n} > 0 ? {text} : 0)"
        if e.guard is not None:
            fill = "0" if e.fill is None else scalars.text(e.fill)
            text = f"({scalars.text(e.guard)} ? {text} : {fill})"
        return text

    def place(self, array: Tensor, index: Sequence[Expr]) -> tuple[str, list[str]]:
        """Where in memory an element is, and the sizes of axes that may have none, where it is not to be touched."""
        view = self.views[array]
        terms, empty = [], []
        for e, n, stride in zip(index, view.shape, view.strides, strict=True):
            if n == 1:
                continue
            text = self.scalars.text(e)
            if not self.bounds.surely_inside(e, n):
                size = self.fn.dim(n)
                text = text if self.bounds.clamped(e, n) else f"gf_held({text}, {size})"
                if not isinstance(n, int) or n <= 0:
                    empty.append(size)
            terms.append(self._term(text, stride))
        return " + ".join(t for t in terms if t != "0") or "0", list(dict.fromkeys(empty))

    def _term(self, text: str, stride: Dim) -> str:
        return text if stride == 1 else "0" if text == "0" else f"{text} * {self.fn.dim(stride, 's')}"

    def pointer(self, array: Tensor) -> str:
        if array in self.pointers:
            return self.pointers[array]
        view = self.views[array]
        return self.fn.params.pointer(view, view.dtype, "x", written=view in self.written)


def _in_arena(array: Tensor) -> View:
    return dense(Buffer("arena", product(array.shape), array.dtype, name="loops"), array.shape)


def _copy_rows(view: View) -> Dim:
    return ceildiv(product(view.shape), _PIECE) if view.is_contiguous() else product(view.shape[:-1])


def _condition(text: str) -> str:
    return text if text.startswith("(") and _closes_last(text) else f"({text})"


def _closes_last(text: str) -> bool:
    """Whether the first parenthesis is closed by the last character."""
    depth = 0
    for k, c in enumerate(text):
        depth += {"(": 1, ")": -1}.get(c, 0)
        if depth == 0:
            return k == len(text) - 1
    return False


NEST_KERNEL = LoopNest()
