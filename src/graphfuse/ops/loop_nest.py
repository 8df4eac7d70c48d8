"""Imperative loop nests: statements over scalar expressions, in phases. `ops/loops.py` writes them.

`ops/loops_meaning.py` runs them in Python, `kernels/loops.py` writes them as C.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TypeAlias

import numpy as np

from graphfuse.graph.dims import Dim, product
from graphfuse.graph.dtypes import I64
from graphfuse.ops import expr as E
from graphfuse.ops.expr import Const, Expr, Load, Result, Size, Var, loads_of
from graphfuse.ops.tensor import Evaluator, Nest, Tensor

# ---------------------------------------------------------------- statements


@dataclass(eq=False)
class Store:
    """array[index] = value; the array is a result or scratch."""

    array: Tensor
    index: tuple[Expr, ...]
    value: Expr


@dataclass(eq=False)
class Assign:
    """A local variable, declared where `declares`, takes a value."""

    local: Result
    value: Expr
    declares: bool


@dataclass(eq=False)
class For:
    """The body for var = begin, begin + 1, ... as long as it is less than `end`."""

    var: Var
    begin: Expr
    end: Expr
    body: list[Statement] = field(default_factory=list)


@dataclass(eq=False)
class While:
    """The body as long as the condition holds, and at most so many times."""

    condition: Expr
    most: Expr
    body: list[Statement] = field(default_factory=list)


@dataclass(eq=False)
class If:
    """One of two bodies."""

    condition: Expr
    then: list[Statement] = field(default_factory=list)
    otherwise: list[Statement] = field(default_factory=list)


@dataclass(eq=False)
class Break:
    """Leaves the innermost loop."""


Statement: TypeAlias = "Store | Assign | For | While | If | Break"


@dataclass(eq=False)
class Phase:
    """A body for every index of a space of rows."""

    rows: tuple[tuple[Var, Dim], ...]
    body: list[Statement] = field(default_factory=list)

    @property
    def count(self) -> Dim:
        return product(n for _, n in self.rows)


@dataclass(eq=False)
class Scratch:
    """Memory of the nest's own: a thread's, anew for each row, or `shared` by all threads and phases."""

    array: Tensor
    shared: bool


@dataclass(eq=False)
class Loops(Nest):
    """Phases over results and scratch. `starts`: for a result what it holds before the first phase: another tensor's
    elements (whose place it may take where nobody needs that any more) or a constant; without one, nothing known.
    """

    name: str
    args: tuple[Tensor, ...]
    arrays: tuple[Tensor, ...]  # the results as the statements know them
    starts: dict[Tensor, Tensor | Const]
    scratch: tuple[Scratch, ...]
    phases: tuple[Phase, ...]
    work: Dim
    limited: tuple[tuple[Dim, Dim, str], ...] = ()
    reads_parts = True

    def __post_init__(self) -> None:
        self.results = tuple((a.shape, a.dtype) for a in self.arrays)

    def loads(self) -> Iterable[tuple[Load, Mapping[Expr, Dim]]]:
        for phase in self.phases:
            sizes: dict[Expr, Dim] = dict(phase.rows)
            for s in statements(phase.body):
                if isinstance(s, For) and s.begin == Const(0, I64) and (end := constant_dim(s.end)) is not None:
                    sizes[s.var] = end
            expressions = [e for s in statements(phase.body) for e in expressions_of(s)]
            for load in loads_of(expressions):
                if load.tensor in self.args:
                    yield load, sizes

    def start(self, result: int) -> Tensor | None:
        start = self.starts.get(self.arrays[result])
        expressions = [e for p in self.phases for s in statements(p.body) for e in expressions_of(s)]
        read = any(load.tensor is start for load in loads_of(expressions))
        return start if isinstance(start, Tensor) and not read else None

    def limits(self) -> Iterable[tuple[Dim, Dim, str]]:
        return self.limited

    def sizes(self) -> Iterable[Dim]:
        yield self.work
        yield from (d for left, right, _ in self.limited for d in (left, right))
        for scratch in self.scratch:
            yield from scratch.array.shape
        for phase in self.phases:
            yield from (n for _, n in phase.rows)
            for s in statements(phase.body):
                yield from (x.dim for e in expressions_of(s) for x in _leaves(e) if isinstance(x, Size))

    def meaning(self, evaluator: Evaluator) -> list[np.ndarray]:
        from graphfuse.ops.loops_meaning import run

        return run(self, evaluator)


def statements(body: Iterable[Statement]) -> Iterator[Statement]:
    """Every statement of a body, inner ones behind the one that holds them."""
    for s in body:
        yield s
        if isinstance(s, (For, While)):
            yield from statements(s.body)
        elif isinstance(s, If):
            yield from statements(s.then)
            yield from statements(s.otherwise)


def expressions_of(s: Statement) -> tuple[Expr, ...]:
    """The expressions that a statement evaluates itself."""
    if isinstance(s, Store):
        return (*s.index, s.value)
    if isinstance(s, Assign):
        return (s.value,)
    if isinstance(s, For):
        return (s.begin, s.end)
    if isinstance(s, While):
        return (s.condition, s.most)
    return (s.condition,) if isinstance(s, If) else ()


def _leaves(e: Expr) -> Iterator[Expr]:
    seen: set[int] = set()
    stack = [e]
    while stack:
        x = stack.pop()
        if id(x) in seen:
            continue
        seen.add(id(x))
        parts = E.children(x)
        stack += parts
        if not parts:
            yield x


def constant_dim(e: Expr) -> Dim | None:
    """The size that an expression is, if it is one."""
    if isinstance(e, Const):
        return int(e.value)
    return e.dim if isinstance(e, Size) else None
