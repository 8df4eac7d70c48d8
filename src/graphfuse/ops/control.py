"""Control flow: If, Loop, Scan. Their bodies are programs of their own, lowered, fused and planned like the main graph.

A body reads tensors of the graph around it where they are (leaves with `outer`). Sizes that an iteration or the choice
of a branch decides are measured symbols, which the generated code sets as it goes.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
import onnx_ir as ir
import sympy

from graphfuse.graph.bodies import body_of, keeps_condition, scan_facts, truth, varying_axes
from graphfuse.graph.dims import Dim, measured, same
from graphfuse.graph.dtypes import BOOL, I64, DType
from graphfuse.ops.expr import Const, Expr, Size, where
from graphfuse.ops.measured import Source
from graphfuse.ops.registry import NotSupported, OpNode, op
from graphfuse.ops.tensor import (
    Body,
    Evaluator,
    Nest,
    Tensor,
    generate,
    map_,
    opaque,
    reshape,
)

# Trip counts from here on mean "until the condition ends it".
_ENDLESS = 1 << 31
_MOST_TRIPS = 1 << 46  # GF_MOST_BYTES, beyond which no size is taken for one


@dataclass(eq=False)
class Conditional(Nest):
    """One of two bodies, chosen by a scalar.

    sizes_of: for each branch, what it makes of the symbols in the results' shapes.
    """

    condition: Tensor
    branches: tuple[Body, Body]
    results: tuple[tuple[tuple[Dim, ...], DType], ...]
    sizes_of: tuple[dict[str, Dim], dict[str, Dim]]
    name: str = "conditional"
    args: tuple[Tensor, ...] = field(init=False)

    def __post_init__(self) -> None:
        self.args = tuple(dict.fromkeys([self.condition, *(t for b in self.branches for t in b.outer)]))

    @property
    def own(self) -> set[str]:
        return set(self.sizes_of[0])

    def sizes(self) -> Iterable[Dim]:
        return (d for b in self.branches for d in b.sizes)

    def meaning(self, evaluator: Evaluator) -> list[np.ndarray]:
        k = 0 if bool(evaluator.value(self.condition).reshape(())) else 1
        values, sizes = evaluator.run(self.branches[k], {}, {}, list(self.sizes_of[k].values()))
        evaluator.set_sizes(dict(zip(self.sizes_of[k], sizes, strict=True)))
        return values


@dataclass(frozen=True, eq=False)
class Carry:
    """A value that every iteration makes anew: `before` and `after` are the body's.

    sizes: the symbols of axes that may change, with their size before the first iteration and behind each.
    """

    initial: Tensor
    before: Tensor
    after: Tensor
    sizes: dict[str, tuple[Dim, Dim]]


@dataclass(frozen=True, eq=False)
class Slices:
    """What each iteration takes of a tensor: `part` in the body is its piece along an axis, which the body lacks."""

    source: Tensor
    axis: int
    reverse: bool
    part: Tensor


@dataclass(frozen=True, eq=False)
class Stack:
    """What each iteration adds to a result: `part` of the body is its piece along an axis.

    sizes: the symbols of its axes whose size the body decides, which is to be the same in every iteration.
    """

    part: Tensor
    axis: int
    reverse: bool
    sizes: dict[str, Dim]


@dataclass(eq=False)
class Iteration(Nest):
    """A body run again and again: `trips` times (None: endless), or until the condition is false.

    Results: the carried values behind the last iteration, then the stacks. `number`: the symbol of the iteration, from
    0; `count`: that of how many there were, where a condition decides. `condition`: whether there is a first iteration;
    `goes_on`, of the body: whether there is another one.
    """

    body: Body
    trips: Dim | None
    number: str
    count: str
    condition: Tensor | None
    goes_on: Tensor | None
    carried: tuple[Carry, ...]
    slices: tuple[Slices, ...]
    stacks: tuple[Stack, ...]
    results: tuple[tuple[tuple[Dim, ...], DType], ...]
    name: str = "loop"
    args: tuple[Tensor, ...] = field(init=False)

    def __post_init__(self) -> None:
        before = [c.initial for c in self.carried] + [s.source for s in self.slices]
        conditions = [] if self.condition is None else [self.condition]
        self.args = tuple(dict.fromkeys([*before, *conditions, *self.body.outer]))

    @property
    def own(self) -> set[str]:
        carried = {name for c in self.carried for name in c.sizes}
        return {self.number, self.count, *carried, *(name for s in self.stacks for name in s.sizes)}

    def sizes(self) -> Iterable[Dim]:
        trips = [] if self.trips is None else [self.trips]
        starts = [first for c in self.carried for first, _ in c.sizes.values()]
        inner = [d for d in self.body.sizes if not set(measured(d)) & self.own]
        return [*trips, *starts, *inner]

    def limits(self) -> Iterable[tuple[Dim, Dim, str]]:
        for s in self.slices:
            if self.trips is not None:
                size = s.source.shape[s.axis]
                message = f"sizes {self.trips} and {size} must be equal to be taken apart together"
                yield self.trips, size, message
                yield size, self.trips, message

    def meaning(self, evaluator: Evaluator) -> list[np.ndarray]:
        trips = _ENDLESS if self.trips is None else evaluator.size(self.trips)
        going = self.condition is None or bool(evaluator.value(self.condition).reshape(()))
        values = [evaluator.value(c.initial) for c in self.carried]
        sizes = {name: evaluator.size(first) for c in self.carried for name, (first, _) in c.sizes.items()}
        stacks: list[list[np.ndarray]] = [[] for _ in self.stacks]
        wanted = [after for c in self.carried for _, after in c.sizes.values()]
        rows = {name: size for s in self.stacks for name, size in s.sizes.items()}
        row_sizes = dict.fromkeys(rows, 0)
        count = 0
        while going and count < trips:
            leaves = dict(zip((c.before for c in self.carried), values, strict=True))
            for s in self.slices:
                at = trips - 1 - count if s.reverse else count
                leaves[s.part] = np.take(evaluator.value(s.source), at, s.axis)
            found, numbers = evaluator.run(self.body, leaves, {**sizes, self.number: count}, [*wanted, *rows.values()])
            going = self.goes_on is None or bool(found[0].reshape(()))
            found = found[len(found) - len(self.carried) - len(self.stacks) :]  # a Loop's begin with its condition
            values = found[: len(values)]
            for stack, part in zip(stacks, found[len(values) :], strict=True):
                stack.append(part)
            sizes = dict(zip(sizes, numbers, strict=False))
            row_sizes = dict(zip(rows, numbers[len(wanted) :], strict=True))
            count += 1
        evaluator.set_sizes({**sizes, **row_sizes, self.count: count})
        return [*values, *(self._stacked(evaluator, k, parts) for k, parts in enumerate(stacks))]

    def _stacked(self, evaluator: Evaluator, k: int, parts: list[np.ndarray]) -> np.ndarray:
        stack, (shape, dtype) = self.stacks[k], self.results[len(self.carried) + k]
        if not parts:
            return np.zeros([evaluator.size(d) for d in shape], dtype.numpy())
        return np.stack(parts[::-1] if stack.reverse else parts, stack.axis)


# ---------------------------------------------------------------- If


@op("If")
def if_(node: OpNode) -> list[Tensor]:
    branches = [node.node.attributes[name].as_graph() for name in ("then_branch", "else_branch")]
    condition = _scalar(node.input(0))
    known = node.dims(0)
    if known is not None and isinstance(known[0], int):
        return node.scope.inline(branches[0 if known[0] else 1])
    return _conditional(node, condition, branches)


def _scalar(x: Tensor) -> Tensor:
    return reshape(x, ()) if x.rank else x


def _conditional(node: OpNode, condition: Tensor, graphs: Sequence[ir.Graph]) -> list[Tensor]:
    bodies = (node.scope.body(graphs[0], []), node.scope.body(graphs[1], []))
    results: list[tuple[tuple[Dim, ...], DType]] = []
    sizes: tuple[dict[str, Dim], dict[str, Dim]] = ({}, {})
    for k, (a, b) in enumerate(zip(bodies[0].outputs, bodies[1].outputs, strict=True)):
        if a.rank != b.rank or a.dtype != b.dtype:
            kinds = [f"{t.dtype.name.lower()} of rank {t.rank}" for t in (a, b)]
            raise NotSupported(f"its branches give different kinds of tensors: {kinds[0]} and {kinds[1]} (output {k})")
        shape: list[Dim] = []
        for d, e in zip(a.shape, b.shape, strict=True):
            inner = set(measured(d, e)) & (bodies[0].own_sizes | bodies[1].own_sizes)
            if same(d, e) and not inner:
                shape.append(d)
                continue
            symbol = node.measures.reserve()
            sizes[0][symbol.name], sizes[1][symbol.name] = d, e
            shape.append(symbol)
        results.append((tuple(shape), a.dtype))
    nest = Conditional(condition, bodies, tuple(results), sizes)
    return _tensors(node, nest, sizes[0])


def _tensors(node: OpNode, nest: Nest, symbols: Iterable[str]) -> list[Tensor]:
    tensors = [opaque(nest, k) for k in range(len(nest.results))]
    for name in symbols:
        node.measures.sources[name] = Source(tensors[0])
    return tensors


# ---------------------------------------------------------------- Loop and Scan


@dataclass(frozen=True)
class _Form:
    """What a Loop and a Scan have in common, in words of `Iteration`.

    leads: how many inputs of the body come ahead of the carried values; pieces: source, axis and direction of each
    tensor that is taken apart; stacks: axis and direction of each that is put together.
    """

    graph: ir.Graph
    leads: int
    initials: Sequence[Tensor | None]
    trips: Dim | None
    condition: Tensor | None = None
    goes_on: bool = False
    pieces: Sequence[tuple[Tensor, int, bool]] = ()
    stacks: Sequence[tuple[int, bool]] = ()


@op("Loop")
def loop(node: OpNode) -> list[Tensor]:
    graph, start = body_of(node.node), node.optional(1)
    condition = None if start is None or truth(node.node.inputs[1]) is True else _scalar(start)
    initials = node.inputs[2:]
    stacks = [(0, False)] * (len(graph.outputs) - 1 - len(initials))
    trips = _trips(node, node.optional(0))
    goes_on = not keeps_condition(node.node)
    return _iteration(node, _Form(graph, 2, initials, trips, condition, goes_on, stacks=stacks))


def _trips(node: OpNode, most: Tensor | None) -> Dim | None:
    """The trip count of a Loop; None where only its condition ends it."""
    if most is None:
        return None
    known = node.dims(0)
    if known is None:
        return node.measure(_scalar(map_(_as_size, most)))[0]
    [count] = known
    if not isinstance(count, int):
        return count
    return None if count >= _ENDLESS else max(0, count)


def _as_size(n: Expr) -> Expr:
    """A trip count as a size: no size is negative, nor beyond all memory. So many iterations take days."""
    return where(n < 0, Const(0, I64), where(n > _MOST_TRIPS, Const(_MOST_TRIPS, I64), n))


@op("Scan")
def scan(node: OpNode) -> list[Tensor]:
    graph, facts = body_of(node.node), scan_facts(node.node)
    sources = [node.input(k) for k in range(facts.states, len(node.inputs))]
    axes = [node.axis(0 if a is None else a, x.rank) for a, x in zip(facts.input_axes, sources, strict=True)]
    pieces = list(zip(sources, axes, facts.input_reverse, strict=True))
    stacks = [(0 if a is None else a, r) for a, r in zip(facts.output_axes, facts.output_reverse, strict=True)]
    trips = sources[0].shape[axes[0]]
    return _iteration(node, _Form(graph, 0, node.inputs[: facts.states], trips, pieces=pieces, stacks=stacks))


def _iteration(node: OpNode, form: _Form) -> list[Tensor]:
    number, count = node.measures.reserve(), node.measures.reserve()
    parts = _slices(form)
    body, carried = _body(node, form, number, [s.part for s in parts])
    changing = {number.name, *body.own_sizes, *(name for c in carried for name in c.sizes)}
    rows: Dim = count if form.goes_on or form.condition is not None or form.trips is None else form.trips
    first = len(carried) + (1 if form.leads else 0)
    stacks = [
        _stack(node, part, axis, reverse, changing)
        for part, (axis, reverse) in zip(body.outputs[first:], form.stacks, strict=True)
    ]
    results = [(c.before.shape, c.before.dtype) for c in carried]
    for stack, shape in stacks:
        results.append(((*shape[: stack.axis], rows, *shape[stack.axis :]), stack.part.dtype))
    nest = Iteration(
        body,
        form.trips,
        number.name,
        count.name,
        form.condition,
        body.outputs[0] if form.goes_on else None,
        tuple(carried),
        tuple(parts),
        tuple(stack for stack, _ in stacks),
        tuple(results),
    )
    return _tensors(node, nest, nest.own)


def _slices(form: _Form) -> list[Slices]:
    inputs = form.graph.inputs[form.leads + len(form.initials) :]
    return [
        Slices(x, axis, reverse, Tensor((*x.shape[:axis], *x.shape[axis + 1 :]), x.dtype, None, value))
        for (x, axis, reverse), value in zip(form.pieces, inputs, strict=True)
    ]


def _body(node: OpNode, form: _Form, number: sympy.Symbol, parts: Sequence[Tensor]) -> tuple[Body, list[Carry]]:
    """The body for carried values of sizes that hold in every iteration."""
    leads = [generate((), lambda _: Size(number)), generate((), lambda _: Const(True, BOOL))][: form.leads]
    values = form.graph.inputs[form.leads : form.leads + len(form.initials)]
    begun = [_begun(node, value, x) for value, x in zip(values, form.initials, strict=True)]
    while True:
        body = node.scope.body(form.graph, [*leads, *(b.before for b in begun), *parts], number)
        outputs = body.outputs[1 if form.leads else 0 :]
        # An axis that turns out to have another size behind an iteration may change in each.
        varying = [_varying(b, after) for b, after in zip(begun, outputs, strict=False)]
        if not any(varying):
            break
        begun = [_begun(node, b.value, b.initial, (*b.axes, *more)) for b, more in zip(begun, varying, strict=True)]
    return body, [
        Carry(b.initial, b.before, after, {n: (b.initial.shape[k], after.shape[k]) for n, k in b.sizes.items()})
        for b, after in zip(begun, outputs, strict=False)
    ]


def _stack(node: OpNode, part: Tensor, axis: int, reverse: bool, changing: set[str]) -> tuple[Stack, tuple[Dim, ...]]:
    """What each iteration adds to a result, and its shape as seen from outside; changing: sizes of the body's own."""
    axis = node.axis(axis, part.rank + 1)
    shape, sizes = list(part.shape), {}
    for k, d in enumerate(part.shape):
        if set(measured(d)) & changing:
            shape[k] = symbol = node.measures.reserve()
            sizes[symbol.name] = d
    if sizes and (axis or reverse):
        raise NotSupported("what it stacks has sizes that depend on data, which is possible along axis 0 alone")
    return Stack(part, axis, reverse, sizes), tuple(shape)


@dataclass(frozen=True)
class _Begun:
    """A carried value as the body first sees it; sizes: the symbols of the axes that may change."""

    value: ir.Value
    initial: Tensor
    before: Tensor
    sizes: dict[str, int]

    @property
    def axes(self) -> tuple[int, ...]:
        return tuple(self.sizes.values())


def _begun(node: OpNode, value: ir.Value, initial: Tensor | None, axes: Sequence[int] | None = None) -> _Begun:
    if initial is None:
        raise NotSupported(f"its loop-carried value {value.name!r} has no beginning")
    axes = varying_axes(value) if axes is None else axes
    if axes is None:
        raise NotSupported(f"its loop-carried value {value.name!r} changes its rank")
    symbols = {axis: node.measures.reserve() for axis in axes}
    shape = tuple(symbols.get(k, d) for k, d in enumerate(initial.shape))
    before = Tensor(shape, initial.dtype, None, value)
    return _Begun(value, initial, before, {symbol.name: axis for axis, symbol in symbols.items()})


def _varying(begun: _Begun, after: Tensor) -> list[int]:
    """The axes that an iteration changes, beside those that are known to."""
    before = begun.before
    if before.rank != after.rank or before.dtype != after.dtype:
        raise NotSupported(f"its loop-carried value {begun.value.name!r} changes its rank or type")
    fixed = [k for k in range(before.rank) if k not in begun.axes]
    return [k for k in fixed if not same(before.shape[k], after.shape[k])]
