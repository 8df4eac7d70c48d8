"""The arena: one piece of memory for all intermediate tensors, shared by those that never live at the same time.

Buffers whose size is known only while the model runs lie elsewhere: in slots that the library allocates when it has
the size, and keeps for the next run.
"""

from __future__ import annotations

from bisect import insort
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import accumulate

from graphfuse.graph.dims import Dim, add, ceildiv, estimate, is_static, maximum, mul
from graphfuse.plan.view import Buffer

ALIGNMENT = 64
_TRIES = 40  # orders of placing buffers
_WIDE = 8 * ALIGNMENT  # bytes of an item from which on rounding each up to whole cache lines wastes little
_MOST_TRIED = 200  # buffers up to which that takes a tenth of a second


@dataclass
class Lifetime:
    """A buffer is in use from the first to the last call, both included."""

    buffer: Buffer
    first: int
    last: int

    def overlaps(self, other: Lifetime) -> bool:
        return self.first <= other.last and other.first <= self.last

    @property
    def size(self) -> Dim:
        return aligned(self.buffer.bytes)


@dataclass
class Arena:
    """Byte offsets of buffers, and the total; both may be expressions. `slots`: those of buffers of measured sizes."""

    offsets: dict[Buffer, Dim] = field(default_factory=dict)
    size: Dim = 0
    slots: dict[Buffer, int] = field(default_factory=dict)


def aligned(size: Dim) -> Dim:
    """The size rounded up to whole cache lines."""
    return mul(ceildiv(size, ALIGNMENT), ALIGNMENT)


def lay_out(lifetimes: list[Lifetime]) -> Arena:
    """Place buffers so that no two of overlapping lifetimes overlap in memory."""
    fixed = [x for x in lifetimes if not x.buffer.is_measured]
    if is_static(*(x.buffer.elements for x in fixed)):
        arena = _by_offset(fixed)
    else:
        arena = min(_by_measure(fixed), _by_slot(fixed), key=lambda arena: estimate(arena.size))
    for k, slot in enumerate(_slots([x for x in lifetimes if x.buffer.is_measured])):
        arena.slots.update((x.buffer, k) for x in slot)
    return arena


def lay_out_apart(lifetimes: list[Lifetime]) -> Arena:
    """Place buffers side by side, so that every intermediate value can still be read when the run is over."""
    arena = Arena()
    for x in lifetimes:
        if x.buffer.is_measured:
            arena.slots[x.buffer] = len(arena.slots)
            continue
        arena.offsets[x.buffer] = arena.size
        arena.size = add(arena.size, x.size)
    return arena


def _by_offset(lifetimes: list[Lifetime]) -> Arena:
    """With sizes that are known."""
    offsets, size = _packed([(int(x.size), x.first, x.last) for x in lifetimes])  # type: ignore[call-overload]
    return Arena({x.buffer: offset for x, offset in zip(lifetimes, offsets, strict=True)}, size)


def _by_measure(lifetimes: list[Lifetime]) -> Arena:
    """Buffers whose sizes are numbers of times the same expression, such as the batch, are packed like known ones.

    Those of one expression share memory with each other only.
    """
    groups: dict[Dim, list[tuple[Lifetime, int]]] = {}
    for x in lifetimes:
        count, unit = _measured(x.buffer.bytes)
        groups.setdefault(unit, []).append((x, count))
    arena = Arena()
    for unit, members in groups.items():
        offsets, size = _packed([(count, x.first, x.last) for x, count in members])
        start = arena.size
        arena.size = add(start, mul(size, unit))
        for (x, _), offset in zip(members, offsets, strict=True):
            arena.offsets[x.buffer] = add(start, mul(offset, unit))
    return arena


def _measured(size: Dim) -> tuple[int, Dim]:
    """A size as a number of bytes times an expression: 3 * 4 N M as (12, N M), rounded up to whole cache lines."""
    if isinstance(size, int):
        return int(aligned(size)), 1  # type: ignore[call-overload]
    count, unit = size.as_coeff_Mul()
    if count.is_Integer and count >= _WIDE and unit.is_integer:
        return int(aligned(int(count))), unit  # type: ignore[call-overload]
    return ALIGNMENT, ceildiv(size, ALIGNMENT)


def _packed(spans: Sequence[tuple[int, int, int]]) -> tuple[list[int], int]:
    """Offsets of buffers of (bytes, first call, last call), and the bytes that they take together.

    Greedy: one after the other at the lowest gap among those it overlaps in time, the largest first. Where that takes
    more than what lives at the same time, other orders are tried: what ended on top comes first.
    """
    order = sorted(range(len(spans)), key=lambda k: (-spans[k][0], spans[k][1]))
    least = max(live(spans), default=0)
    offsets, size = _placed(spans, order)
    tried = order
    for _ in range(_TRIES if len(spans) <= _MOST_TRIED else 0):
        if size <= least:
            break
        found, total = _placed(spans, tried)
        if total < size:
            offsets, size = found, total
        top = max(tried, key=lambda k: found[k] + spans[k][0])
        place = tried.index(top)
        # To the front; what is there already on top changes places with the next in line.
        tried = [top, *tried[:place], *tried[place + 1 :]] if place else [*tried[1:2], tried[0], *tried[2:]]
    return offsets, size


def _placed(spans: Sequence[tuple[int, int, int]], order: Sequence[int]) -> tuple[list[int], int]:
    """Offsets of all buffers, placed in this order, and the bytes that they take."""
    offsets, total = [0] * len(spans), 0
    placed: list[tuple[int, int, int, int]] = []  # (offset, end, first, last), by offset
    for k in order:
        size, first, last = spans[k]
        offset = 0
        for start, end, begin, until in placed:
            if begin > last or until < first:
                continue
            if start - offset >= size:
                break
            offset = max(offset, end)
        insort(placed, (offset, offset + size, first, last))
        offsets[k], total = offset, max(total, offset + size)
    return offsets, total


def live(spans: Sequence[tuple[int, int, int]]) -> list[int]:
    """Bytes in use at each call, for buffers of (bytes, first call, last call)."""
    change = [0] * (2 + max((last for _, _, last in spans), default=-1))
    for size, first, last in spans:
        change[first] += size
        change[last + 1] -= size
    return list(accumulate(change))[:-1]


def _by_slot(lifetimes: list[Lifetime]) -> Arena:
    """With sizes known only at run time: buffers share slots, each as large as its largest member."""
    arena = Arena()
    for slot in _slots(lifetimes):
        for x in slot:
            arena.offsets[x.buffer] = arena.size
        sizes = list(dict.fromkeys(x.size for x in slot))
        arena.size = add(arena.size, maximum(*sizes) if len(sizes) > 1 else sizes[0])
    return arena


def _slots(lifetimes: list[Lifetime]) -> list[list[Lifetime]]:
    """Buffers in groups of which no two live at the same time."""
    slots: list[list[Lifetime]] = []
    for x in sorted(lifetimes, key=lambda x: (-estimate(x.size), x.first)):
        free = [s for s in slots if not any(m.overlaps(x) for m in s)]
        if free:
            free[0].append(x)
        else:
            slots.append([x])
    return slots
