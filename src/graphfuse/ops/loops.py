"""Imperative loop nests over scalar expressions: what scatters, sorts, selections and running sums are made of.

A nest is written with a `Builder`, so that an op file reads like its algorithm:

    b = Builder("running sum")
    y = b.result(x.shape, x.dtype)
    with b.phase(rows) as (r,):
        total = b.variable(Const(0.0))
        with b.loop(0, columns) as k:
            b.assign(total, total + at(x, r, k))
            b.store(y, (r, k), total)
    return b.tensors()[0]

Phases run one after another. The rows of a phase are independent of each other: threads may share them, so what a row
stores no other row of the same phase reads or stores. All else runs in order. An index that cannot be seen to lie in
its axis is held there by the generated code; the meaning in Python refuses it, so that an op never relies on that.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager

from graphfuse.graph.dims import Dim, add, mul
from graphfuse.graph.dtypes import BOOL, I64, DType
from graphfuse.ops import expr as E
from graphfuse.ops.expr import Call, Const, Expr, Load, Operand, Result, Var, lift, loads_of
from graphfuse.ops.loop_nest import (
    Assign,
    Break,
    For,
    If,
    Loops,
    Phase,
    Scratch,
    Statement,
    Store,
    While,
    constant_dim,
    expressions_of,
    statements,
)
from graphfuse.ops.tensor import Tensor, opaque, size


class Builder:
    """Writes a nest statement by statement."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._results: list[Tensor] = []
        self._starts: dict[Tensor, Tensor | Const] = {}
        self._scratch: list[Scratch] = []
        self._phases: list[Phase] = []
        self._blocks: list[list[Statement]] = []
        self._names: dict[str, int] = {}
        self._limits: list[tuple[Dim, Dim, str]] = []

    def at_most(self, left: Dim, right: Dim, message: str) -> None:
        """A condition on sizes, left <= right; the message says what is wrong where it does not hold."""
        self._limits.append((left, right, message))

    def result(self, shape: Sequence[Dim], dtype: DType, start: Tensor | Const | None = None) -> Tensor:
        """One more result, to be stored to and read from by this nest only."""
        array = Tensor(tuple(shape), dtype)
        self._results.append(array)
        if start is not None:
            self._starts[array] = start
        return array

    def scratch(self, shape: Sequence[Dim], dtype: DType, shared: bool = False) -> Tensor:
        """Memory for the time of a row or, where `shared`, of the whole nest; it holds nothing known at first."""
        array = Tensor(tuple(shape), dtype)
        self._scratch.append(Scratch(array, shared))
        return array

    @contextmanager
    def phase(self, *rows: Dim) -> Iterator[tuple[Var, ...]]:
        """The body for every index of a space of rows, which are independent; with no sizes one row."""
        index = tuple(self._variable("r") for _ in rows)
        phase = Phase(tuple(zip(index, rows, strict=True)))
        self._phases.append(phase)
        with self._block(phase.body):
            yield index

    @contextmanager
    def loop(self, begin: Operand, end: Operand) -> Iterator[Var]:
        """for var in range(begin, end)"""
        var = self._variable("i")
        loop = For(var, lift(begin, I64), lift(end, I64))
        self._add(loop)
        with self._block(loop.body):
            yield var

    @contextmanager
    def each(self, sizes: Sequence[Dim]) -> Iterator[tuple[Var, ...]]:
        """A loop for every axis, the last one innermost."""
        with ExitStack() as stack:
            yield tuple(stack.enter_context(self.loop(0, size(n))) for n in sizes)

    @contextmanager
    def repeat(self, condition: Expr, most: Operand) -> Iterator[None]:
        """while condition: at most so many times"""
        loop = While(condition, lift(most, I64))
        self._add(loop)
        with self._block(loop.body):
            yield

    @contextmanager
    def when(self, condition: Expr) -> Iterator[None]:
        """if condition:"""
        branch = If(condition)
        self._add(branch)
        with self._block(branch.then):
            yield

    @contextmanager
    def otherwise(self) -> Iterator[None]:
        """else: of the `when` that is the last statement here."""
        branch = self._blocks[-1][-1]
        assert isinstance(branch, If)
        with self._block(branch.otherwise):
            yield

    def let(self, value: Expr) -> Result:
        """A name for a value that stays."""
        return self.variable(value)

    def variable(self, value: Expr) -> Result:
        """A local variable that may be assigned to."""
        local = Result(self._fresh("v"), value.dtype)
        self._add(Assign(local, value, True))
        return local

    def assign(self, local: Result, value: Operand) -> None:
        """local = value"""
        new = lift(value, local.dtype)
        assert new.dtype == local.dtype, f"{new.dtype} for a variable of {local.dtype}"
        self._add(Assign(local, new, False))

    def store(self, array: Tensor, index: Sequence[Operand], value: Operand) -> None:
        """array[index] = value"""
        new = lift(value, array.dtype)
        assert new.dtype == array.dtype, f"{new.dtype} into an array of {array.dtype}"
        assert len(index) == array.rank, "an index for every axis"
        self._add(Store(array, tuple(lift(i, I64) for i in index), new))

    def leave(self) -> None:
        """Leave the innermost loop."""
        self._add(Break())

    def tensors(self, work: Dim | None = None) -> list[Tensor]:
        """The nest's results; work: its simple operations, else estimated from the loops."""
        own = {*self._results, *(s.array for s in self._scratch)}
        read = loads_of([e for p in self._phases for s in statements(p.body) for e in expressions_of(s)])
        started = [t for t in self._starts.values() if isinstance(t, Tensor)]
        args = dict.fromkeys([*started, *(x.tensor for x in read if x.tensor not in own)])
        total: Dim = 0
        for phase in self._phases:
            total = add(total, mul(phase.count, _work(phase.body)))
        nest = Loops(
            self._name,
            tuple(args),
            tuple(self._results),
            self._starts,
            tuple(self._scratch),
            tuple(self._phases),
            total if work is None else work,
            tuple(self._limits),
        )
        return [opaque(nest, k) for k in range(len(self._results))]

    def _add(self, s: Statement) -> None:
        self._blocks[-1].append(s)

    @contextmanager
    def _block(self, body: list[Statement]) -> Iterator[None]:
        self._blocks.append(body)
        yield
        self._blocks.pop()

    def _variable(self, hint: str) -> Var:
        return Var(self._fresh(hint))

    def _fresh(self, hint: str) -> str:
        self._names[hint] = self._names.get(hint, -1) + 1
        return f"{hint}{self._names[hint]}"


# Passes of a loop whose end is known only from data.
_USUAL = 16


def _work(body: Sequence[Statement]) -> Dim:
    total: Dim = 0
    for s in body:
        total = add(total, sum(E.cost(e) for e in expressions_of(s)) + 1)
        if isinstance(s, For):
            total = add(total, mul(_trips(s), _work(s.body)))
        elif isinstance(s, While):
            total = add(total, mul(4, _work(s.body)))
        elif isinstance(s, If):
            total = add(total, add(_work(s.then), _work(s.otherwise)))
    return total


def _trips(loop: For) -> Dim:
    begin, end = constant_dim(loop.begin), constant_dim(loop.end)
    if begin is not None and end is not None:
        return add(end, mul(-1, begin))
    return _USUAL


# ---------------------------------------------------------------- expressions that nests need


def at(x: Tensor, *index: Operand) -> Load:
    """The element of an argument, a result or scratch at an index."""
    return Load(x, tuple(lift(i, I64) for i in index))


def inside(index: Expr, extent: Dim) -> Expr:
    """An index from data, held inside an axis."""
    return E.minimum(E.maximum(index, 0), size(add(extent, -1)))


def wrapped(index: Expr, extent: Dim) -> Expr:
    """An index from data that counts from the end where it is negative, held inside the axis."""
    return inside(E.where(index < 0, index + size(extent), index), extent)


def both(*conditions: Expr) -> Expr:
    """All of them; those behind a false one are not looked at."""
    result = conditions[0]
    for c in conditions[1:]:
        result = Call("and", (result, c), BOOL)
    return result


def either(*conditions: Expr) -> Expr:
    """Any of them; those behind a true one are not looked at."""
    result = conditions[0]
    for c in conditions[1:]:
        result = Call("or", (result, c), BOOL)
    return result
