"""What planning makes: the calls of a program, what each needs, and where they work."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property

from graphfuse.fusion.guards import Guard
from graphfuse.fusion.regions import Fusion, Region
from graphfuse.graph.dims import Dim, add, estimate, measured
from graphfuse.ops.tensor import Tensor
from graphfuse.plan.memory import Arena, Lifetime, lay_out
from graphfuse.plan.site import Kernel, KernelCode, Lines
from graphfuse.plan.view import Buffer, View

_MANY = 1 << 16  # iterations from which on one may want to stop a loop


@dataclass(frozen=True, eq=False)
class Candidate:
    """A kernel that accepts a contraction; cost: its predicted microseconds on one thread."""

    kernel: Kernel
    cost: float
    emit: Callable[[], KernelCode]

    @cached_property
    def code(self) -> KernelCode:
        """The kernel as emitted."""
        return self.emit()


Choose = Callable[[Tensor, Sequence[Candidate]], Candidate]
"""Picks the kernel of a contraction from those that accept it, cheapest first."""


def cheapest(anchor: Tensor, candidates: Sequence[Candidate]) -> Candidate:
    """The kernel of the least predicted time."""
    return candidates[0]


def leanest(most: int) -> Choose:
    """The kernel of the least predicted time of those that want no more bytes of scratch on each thread, or least."""

    def choose(anchor: Tensor, candidates: Sequence[Candidate]) -> Candidate:
        sizes = [max(most, estimate(c.code.scratch)) for c in candidates]
        return candidates[sizes.index(min(sizes))]

    return choose


@dataclass(frozen=True)
class Read:
    """A measured size that is read from memory: element `index` of a view of integers."""

    symbol: str
    view: View
    index: int
    node: str  # the user's name for what computes it


@dataclass(frozen=True)
class Assign:
    """A measured size that is computed from others."""

    symbol: str
    value: Dim


@dataclass(eq=False)
class Choice:
    """The call of an If: the plan of one of two bodies runs, with the other's in the same `workspace`."""

    condition: View
    fusions: tuple[Fusion, ...]
    bodies: tuple[Plan, ...]
    workspace: Buffer


@dataclass(frozen=True, eq=False)
class Carrier:
    """Where a loop's carried value is: `before` and `after` change places behind each iteration.

    sizes: what becomes of its measured sizes then. `after` is None where the value stays as it is.
    """

    before: Buffer
    after: Buffer | None
    sizes: dict[str, Dim]


@dataclass(frozen=True, eq=False)
class Appended:
    """A stack to whose end each iteration adds `part`; sizes: what the iteration makes of the symbols in its shape."""

    stack: View
    part: View
    sizes: dict[str, Dim]


@dataclass(eq=False)
class Repeat:
    """The call of a Loop or Scan; see `ops.control.Iteration`.

    appended: the stacks whose size is known only behind the last iteration.
    """

    trips: Dim | None
    number: str
    count: str
    condition: View | None
    goes_on: View | None
    carriers: tuple[Carrier, ...]
    appended: tuple[Appended, ...]
    fusions: tuple[Fusion, ...]
    bodies: tuple[Plan, ...]
    workspace: Buffer

    @property
    def is_open(self) -> bool:
        """Whether it may run for ever, or nearly: no size of an input bounds how often, only the data does."""
        return self.trips is None or (isinstance(self.trips, int) and self.trips >= _MANY) or bool(measured(self.trips))


@dataclass
class Call:
    """One kernel call."""

    code: KernelCode
    label: str  # the region or copy it stands for
    nodes: tuple[str, ...]  # the user's nodes, for comments and the ledger
    region: Region | None = None
    kernel: str = ""
    results: Sequence[View] = ()  # where its outputs are
    lines: Lines | None = None  # what its rows are, where they are lines of images
    cost: float = 0.0  # predicted microseconds on one thread, of a contraction
    for_any_rows: Callable[[], KernelCode] | None = None  # the code anew, for ranges of rows that keep to no grain
    candidates: tuple[Candidate, ...] = ()  # the kernels that a contraction was chosen from, cheapest first
    parts: tuple[Call, ...] = ()  # the calls that run strip by strip in this one
    overwrites: Sequence[View] = ()  # operands whose place the only result may take
    emit_at: Callable[[View], KernelCode] | None = None  # the code anew, with that result elsewhere
    apart: Call | None = None  # what it was before results took such places
    learns: tuple[Read | Assign, ...] = ()  # sizes that become known ahead of it
    control: Choice | Repeat | None = None  # for a call of control flow; its code has no text then

    @property
    def buffers(self) -> list[Buffer]:
        """The memory that it reads and writes, each piece once."""
        views = [p for p in self.code.pointers if isinstance(p, View)]
        return memory_of([*views, *read_views(self.learns)])

    @property
    def sizes(self) -> Iterator[Dim]:
        """The sizes that have to be known to make the call."""
        code = self.code
        yield from (code.rows, code.columns, code.work, code.scratch, code.repeat, *code.dims)
        for p in code.pointers:
            if isinstance(p, View):
                yield from (p.offset, p.buffer.elements)


@dataclass
class Plan:
    """Everything the emit stage needs."""

    calls: list[Call]
    arena: Arena
    inputs: list[Tensor]
    outputs: list[Tensor]
    input_names: list[str]
    output_names: list[str]
    guards: list[Guard]
    views: dict[Tensor, View]
    constants: dict[Buffer, Tensor]  # weight buffers holding a constant as it is
    copies: dict[Tensor, str] = field(default_factory=dict)  # views and placements that cost a copy, and why
    one_item: dict[str, int] = field(default_factory=dict)  # the sizes that costs were reckoned with
    # Labels of neighbouring calls -> why they do not run strip by strip, "" where they do.
    strips: dict[tuple[str, str], str] = field(default_factory=dict)
    homes: dict[Buffer, Buffer] = field(default_factory=dict)  # buffers of results that took the place of an operand
    learns: tuple[Read | Assign, ...] = ()  # sizes that become known behind the last call
    ends: tuple[View, ...] = ()  # what control flow reads of a body behind its last call
    returned: dict[int, View] = field(default_factory=dict)  # outputs of measured sizes, by number: where they are

    @property
    def kept(self) -> list[Buffer]:
        """The buffers that are read when the last call is over."""
        return memory_of([*self.returned.values(), *read_views(self.learns), *self.ends])

    @property
    def steps(self) -> list[Call]:
        """The calls with nothing overwritten, each chain as the calls that it is made of: they fit `views`."""
        return [step for call in self.calls for step in (call.parts or (call.apart or call,))]

    @property
    def every_call(self) -> Iterator[Call]:
        """The calls with those of all bodies."""
        for call in self.calls:
            yield call
            for body in call.control.bodies if call.control else ():
                yield from body.every_call

    @property
    def inner_calls(self) -> list[Call]:
        """The calls of all bodies."""
        return [
            inner
            for call in self.calls
            for body in (call.control.bodies if call.control else ())
            for inner in body.every_call
        ]

    @property
    def every_plan(self) -> Iterator[Plan]:
        """This plan and those of all bodies."""
        yield self
        for call in self.every_call:
            yield from call.control.bodies if call.control else ()


def lifetimes(calls: Sequence[Call], kept: Sequence[Buffer] = ()) -> list[Lifetime]:
    """From which call to which each arena buffer is in use; those `kept` are until the end."""
    spans: dict[Buffer, Lifetime] = {}
    for k, call in enumerate(calls):
        for buffer in call.buffers:
            if buffer.kind != "arena":
                continue
            if buffer not in spans:
                spans[buffer] = Lifetime(buffer, k, k)
            spans[buffer].last = k
    for buffer in kept:
        if buffer in spans:
            spans[buffer].last = len(calls)
    return list(spans.values())


def read_views(learns: Sequence[Read | Assign]) -> list[View]:
    """Where sizes are read."""
    return [x.view for x in learns if isinstance(x, Read)]


def memory_of(views: Sequence[View]) -> list[Buffer]:
    """The buffers behind views, each once; those behind a pointer are all that it may point to."""
    return list(dict.fromkeys(root for view in views for root in view.buffer.roots))


def arena_of(calls: Sequence[Call], kept: Sequence[Buffer] = ()) -> Arena:
    """Places for the buffers of calls and of the bodies in them; those `kept` live until the end."""
    arena = lay_out(lifetimes(calls, kept))
    for call in calls:
        if call.control is None:
            continue
        start = arena.offsets.get(call.control.workspace, 0)
        first = 1 + max(arena.slots.values(), default=-1)
        for body in call.control.bodies:
            arena.offsets.update((x, add(start, offset)) for x, offset in body.arena.offsets.items())
            arena.slots.update((x, first + slot) for x, slot in body.arena.slots.items())
    return arena
