"""Which neighbouring calls become one that runs strip by strip, and how high the strips are.

In strips the results between the kernels of a chain never exist whole: each thread holds a window of their lines in its
scratch. That saves arena, and the traffic of results too large for the cache of a core. It costs the lines that two
threads both compute where their parts meet, weights that are read again for every strip, and parts that are less even.
`"speed"` chains calls where time is predicted to be won; `"memory"` finds the chains with the smallest arena first, and
among those the fastest.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import accumulate, pairwise
from typing import Protocol

from graphfuse.graph.dims import Dim, assuming, estimate, mul, product, same
from graphfuse.graph.dtypes import item_bytes
from graphfuse.plan.calls import Call, Plan, arena_of, lifetimes
from graphfuse.plan.memory import aligned
from graphfuse.plan.site import KernelCode, Lines, Packed
from graphfuse.plan.view import Buffer, View
from graphfuse.target import Target

# The longest chain: an inverted residual is three, and what two threads both compute grows with each more.
LONGEST = 4
# Heights that are tried, in rows of the last kernel.
_HEIGHTS = (1, 2, 4, 8, 16, 32, 64)
# What the last cache gives one core where a kernel streams through it; reading and writing count alike.
_BYTES_PER_US = 120_000
# What a call inside a strip costs beside its work.
_CALL_US = 0.05
# A chain has to be predicted to win this share of its time: predictions are no better.
_MARGIN = 0.02
# How much larger than the smallest an arena may be where time is won by it.
_SLACK = 1.02


@dataclass(frozen=True)
class Link:
    """A kernel of a chain: its code, what its rows are, and the view that its result is."""

    code: KernelCode
    lines: Lines
    result: View


class Writer(Protocol):
    """How a chain is written: `codegen/strip.py`."""

    def emit(self, links: Sequence[Link], height: int) -> KernelCode:
        """The chain as one kernel, in strips of `height` rows of the last."""

    def scratch_bytes(self, links: Sequence[Link], height: int) -> Dim:
        """The scratch of one thread."""


@dataclass(frozen=True)
class Chain:
    """Calls [first, last], in strips of `height` rows of the last; `gain` = predicted microseconds won."""

    first: int
    last: int
    height: int = 0
    gain: float = 0.0
    live: int = 0


def chain_calls(plan: Plan, writer: Writer, target: Target, optimize: str, gain: Gain | None = None) -> Plan:
    """The plan with calls made one where that pays, its arena laid out anew.

    optimize: "speed" or "memory"; gain: the microseconds that a chain was measured to win, None for one that was not.
    """
    with assuming(plan.one_item):
        chooser = _Chooser(plan, writer, target, optimize, gain)
        chains = chooser.run()
        return replace(joined(plan, writer, chains), strips=chooser.verdicts(chains))


def possible_chains(plan: Plan, writer: Writer, target: Target) -> list[Chain]:
    """Every chain that could be made, in order of its first call, with its predicted gain."""
    with assuming(plan.one_item):
        return [c for options in _Chooser(plan, writer, target, "speed").options for c in options if c.height]


def joined(plan: Plan, writer: Writer, chains: Sequence[Chain]) -> Plan:
    """The plan with these chains made, which do not overlap; other calls stay as they are."""
    at = {c.first: c for c in chains}
    calls: list[Call] = []
    k = 0
    with assuming(plan.one_item):
        while k < len(plan.calls):
            chain = at.get(k, Chain(k, k))
            calls.append(join(plan.calls[k : chain.last + 1], writer, chain.height))
            k = chain.last + 1
        return replace(plan, calls=calls, arena=arena_of(calls, plan.kept))


Gain = Callable[[Chain], float | None]


def join(calls: Sequence[Call], writer: Writer, height: int) -> Call:
    """Calls, each of which reads the one before, as one call in strips of so many rows of the last; one as it is."""
    if len(calls) == 1:
        return calls[0]
    nodes = tuple(dict.fromkeys(name for call in calls for name in call.nodes))
    label = " > ".join(call.label for call in calls)
    parts = tuple(replace(call, code=call.for_any_rows()) if call.for_any_rows else call for call in calls)
    code = writer.emit([_link(call) for call in parts], height)
    learns = calls[0].learns
    return Call(code, label, nodes, None, "strips", results=calls[-1].results, parts=parts, learns=learns)


def _link(call: Call) -> Link:
    assert call.lines is not None
    return Link(call.code, call.lines, call.results[0])


def links(plan: Plan) -> list[bool]:
    """For every call but the last, whether it can run strip by strip with the next."""
    uses = _uses(plan)
    return [why_apart(a, b, uses) is None for a, b in pairwise(plan.calls)]


def _uses(plan: Plan) -> dict[Buffer, int]:
    """How many calls name each buffer; what is read behind the last counts as one more."""
    uses: dict[Buffer, int] = dict.fromkeys(plan.kept, 1)
    for call in plan.calls:
        for buffer in call.buffers:
            uses[buffer] = uses.get(buffer, 0) + 1
    return uses


def why_apart(first: Call, second: Call, uses: Mapping[Buffer, int]) -> str | None:
    """Why two neighbouring calls cannot run strip by strip; None when they can. uses: calls that name a buffer."""
    if first.lines is None or second.lines is None:
        return "the rows of one of the two are not lines of images"
    if second.learns:
        return "a size is read from memory in between"
    if len(first.results) != 1:
        return "the first has more than one result"
    result = first.results[0]
    if second.lines.source != result:
        return "the second does not read the first's result as its image"
    if result.buffer.kind != "arena" or uses.get(result.buffer) != 2:
        return "the result in between is used elsewhere too"
    if (
        first.lines.axis != second.lines.axis
        or not _has_lines(result, first.lines)
        or not same(second.lines.source_height, first.lines.height)
    ):
        return "the result in between has gaps between its lines"
    if not same(first.lines.images, second.lines.images):
        return "a line of the one is not a line of the other"  # all channels of a pixel, and those of one channel
    for call in (first, second):
        if sum(isinstance(p, View) and p.buffer is result.buffer for p in call.code.pointers) != 1:
            return "the result in between is read in more than one way"
    return None


def _has_lines(view: View, lines: Lines) -> bool:
    """Whether lines follow each other without gaps, image after image, in a buffer of their own."""
    if view.offset != 0 or not same(view.buffer.elements, product(view.shape)):
        return False
    line = view.strides[lines.axis]
    if not same(product([lines.images, lines.height, line]), view.buffer.elements):
        return False
    return view.is_contiguous() or (lines.axis == 2 and same(view.strides[0], mul(lines.height, line)))


class _Chooser:
    def __init__(self, plan: Plan, writer: Writer, target: Target, optimize: str, gain: Gain | None = None) -> None:
        self.plan, self.calls, self.writer, self.target, self.optimize = plan, plan.calls, writer, target, optimize
        self.measured: Gain = gain or (lambda _: None)
        self.linked = links(plan)
        self.born, self.dead = _bytes_over_time(plan)
        self.last_use = {x.buffer: x.last for x in lifetimes(plan.calls, plan.kept)}

    def run(self) -> list[Chain]:
        options = self.options
        if self.optimize != "memory":
            return self._best(options, limit=None)
        return self._best(options, limit=int(self._least_live(options) * _SLACK))

    @cached_property
    def options(self) -> list[list[Chain]]:
        """For each call the chains that begin with it; the first is the call alone."""
        return [list(self._chains_from(k)) for k in range(len(self.calls))]

    def _chains_from(self, first: int) -> Iterator[Chain]:
        own = estimate(self.calls[first].code.scratch) * self.target.cores
        yield Chain(first, first, live=self._live(first, first) + own - self._overwritten(first))
        last = first
        while last + 1 < len(self.calls) and last - first + 1 < LONGEST and self.linked[last]:
            last += 1
            yield from self._heights(first, last)

    def _heights(self, first: int, last: int) -> Iterator[Chain]:
        """The chain in strips of every height that fits in the cache of a core, or of one."""
        members = self.calls[first : last + 1]
        linked = [_link(call) for call in members]
        most = _rows(members[-1])
        for height in _HEIGHTS:
            scratch = estimate(self.writer.scratch_bytes(linked, height))
            if height > 1 and (scratch > self.target.l2 // 2 or height >= 2 * most):
                return
            gain = self._gain(members, height, scratch)
            live = self._live(first, last) + scratch * self.target.cores
            chain = Chain(first, last, height, gain, live)
            measured = self.measured(chain)
            yield chain if measured is None else replace(chain, gain=measured)

    def verdicts(self, chains: Sequence[Chain]) -> dict[tuple[str, str], str]:
        """For each two neighbouring calls why they are apart, "" where they are not."""
        uses = _uses(self.plan)
        inside = {k for c in chains for k in range(c.first, c.last)}
        found: dict[tuple[str, str], str] = {}
        for k, (a, b) in enumerate(pairwise(self.calls)):
            reason = "" if k in inside else why_apart(a, b, uses)
            if reason is None:
                best = max(c.gain for c in self.options[k] if c.last == k + 1)
                reason = f"predicted to take {-best:.1f} us longer" if best < 0 else "another chain wins more"
            found[a.label, b.label] = reason
        return found

    def _best(self, options: list[list[Chain]], limit: int | None) -> list[Chain]:
        """The chains of most gain; without a limit only such as gain, with one only such as stay within it."""
        gains = [0.0] + [-math.inf] * len(self.calls)
        came: list[Chain] = []
        by_end: list[Chain | None] = [None] * len(self.calls)
        for k, chains in enumerate(options):
            for c in chains:
                allowed = c.live <= limit if limit is not None else c.first == c.last or c.gain > 0
                if allowed and gains[k] + c.gain > gains[c.last + 1]:
                    gains[c.last + 1] = gains[k] + c.gain
                    by_end[c.last] = c
        end = len(self.calls)
        while end > 0:
            chain = by_end[end - 1]
            assert chain is not None, "the limit is one that some way keeps to"
            came.append(chain)
            end = chain.first
        return came[::-1]

    # ------------------------------------------------------------------ memory

    def _live(self, first: int, last: int) -> int:
        """Bytes of the arena in use while calls [first, last] run as one."""
        held = [estimate(aligned(call.results[0].buffer.bytes)) for call in self.calls[first:last]]
        return self.born[last] - self.dead[first] - sum(held)

    def _overwritten(self, k: int) -> int:
        """Bytes of the result of call k where it can take the place of an operand that nobody reads after it."""
        call = self.calls[k]
        dying = [v for v in call.overwrites if self.last_use.get(v.buffer) == k]
        return estimate(aligned(call.results[0].buffer.bytes)) if dying else 0

    def _least_live(self, options: list[list[Chain]]) -> int:
        """The smallest that the largest live size can be."""
        best = [0.0] + [math.inf] * len(self.calls)
        for k, chains in enumerate(options):
            for c in chains:
                best[c.last + 1] = min(best[c.last + 1], max(best[k], c.live))
        return int(best[-1])

    # ------------------------------------------------------------------ time

    def _gain(self, members: Sequence[Call], height: int, scratch: int) -> float:
        """Predicted microseconds won on all cores of the target."""
        cores = self.target.cores
        rows = _rows(members[-1])
        parts = min(cores, rows)
        apart = sum(m.cost for m in members) / cores
        share = -(-rows // parts)
        together = sum(m.cost * f for m, f in zip(members, self._computed(members, share, parts), strict=True))
        together *= share / rows
        strips = -(-share // height)
        weights = sum(_weight_bytes(m) for m in members)
        if weights + scratch > self.target.l2 * 3 // 4:
            together += (strips - 1) * weights / _BYTES_PER_US
        together += strips * len(members) * _CALL_US
        saved = sum(self._traffic(m) for m in members[:-1]) / cores
        return saved + apart * (1 - _MARGIN) - together

    def _computed(self, members: Sequence[Call], share: int, parts: int) -> list[float]:
        """How many lines each member computes on the busiest thread, over those that are its share."""
        found = [1.0]
        lines = members[-1].lines
        assert lines is not None
        needed = ideal = float(share * lines.lines_per_row)
        for member, reader in zip(reversed(members[:-1]), reversed(members[1:]), strict=True):
            assert reader.lines is not None
            assert member.lines is not None
            halo = reader.lines.extent - reader.lines.stride + (member.lines.lines_per_row - 1)
            ideal *= reader.lines.stride
            # a part at the image's end has a neighbour on one side only
            sides = 0.0 if parts == 1 else 0.5 if parts == 2 else 1.0
            needed = needed * reader.lines.stride + halo * sides
            found.append(needed / ideal)
        return found[::-1]

    def _traffic(self, member: Call) -> float:
        """Microseconds that writing and reading a member's result takes where it does not stay in the core's cache."""
        size = estimate(member.results[0].buffer.bytes)
        kept = self.target.l2 // 2 * self.target.cores
        return 2 * max(0, size - kept) / _BYTES_PER_US


def _bytes_over_time(plan: Plan) -> tuple[list[int], list[int]]:
    """For every call the bytes of the buffers first used in it or before, and of those last used before it."""
    born, dead = [0] * len(plan.calls), [0] * (len(plan.calls) + 2)
    for x in lifetimes(plan.calls, plan.kept):
        born[x.first] += estimate(x.size)
        dead[x.last + 1] += estimate(x.size)
    return list(accumulate(born)), list(accumulate(dead))


def _rows(call: Call) -> int:
    """Rows of a chain that ends in this call: its lines, or groups of lines."""
    assert call.lines is not None
    return max(1, -(-estimate(mul(call.lines.images, call.lines.height)) // call.lines.lines_per_row))


def _weight_bytes(call: Call) -> int:
    return sum(
        estimate(product(p.source.shape)) * item_bytes(p.dtype) for p in call.code.pointers if isinstance(p, Packed)
    )
