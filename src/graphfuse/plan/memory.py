"""The arena: one piece of memory for all intermediate tensors, shared by those that never live at the same time."""

from __future__ import annotations

from dataclasses import dataclass, field

from graphfuse.graph.dims import Dim, add, ceildiv, estimate, is_static, maximum, mul
from graphfuse.plan.view import Buffer

ALIGNMENT = 64


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
    """Byte offsets of buffers, and the total; both may be expressions."""

    offsets: dict[Buffer, Dim] = field(default_factory=dict)
    size: Dim = 0


def aligned(size: Dim) -> Dim:
    """The size rounded up to whole cache lines."""
    return mul(ceildiv(size, ALIGNMENT), ALIGNMENT)


def lay_out(lifetimes: list[Lifetime]) -> Arena:
    """Place buffers so that no two of overlapping lifetimes overlap in memory."""
    if is_static(*(x.buffer.elements for x in lifetimes)):
        return _by_offset(lifetimes)
    return _by_slot(lifetimes)


def lay_out_apart(lifetimes: list[Lifetime]) -> Arena:
    """Place buffers side by side, so that every intermediate value can still be read when the run is over."""
    arena = Arena()
    for x in lifetimes:
        arena.offsets[x.buffer] = arena.size
        arena.size = add(arena.size, x.size)
    return arena


def _by_offset(lifetimes: list[Lifetime]) -> Arena:
    """Greedy by size: the largest first, each at the lowest gap among those it overlaps in time."""
    arena = Arena()
    placed: list[tuple[int, int, Lifetime]] = []
    for x in sorted(lifetimes, key=lambda x: (-int(x.size), x.first)):  # type: ignore[arg-type]
        size, offset = int(x.size), 0  # type: ignore[arg-type]
        for start, end, _ in sorted((p for p in placed if p[2].overlaps(x)), key=lambda p: p[:2]):
            if start - offset >= size:
                break
            offset = max(offset, end)
        placed.append((offset, offset + size, x))
        arena.offsets[x.buffer] = offset
        arena.size = max(int(arena.size), offset + size)  # type: ignore[arg-type]
    return arena


def _by_slot(lifetimes: list[Lifetime]) -> Arena:
    """With sizes known only at run time: buffers share slots, each as large as its largest member."""
    slots: list[list[Lifetime]] = []
    for x in sorted(lifetimes, key=lambda x: (-estimate(x.size), x.first)):
        free = [s for s in slots if not any(m.overlaps(x) for m in s)]
        if free:
            free[0].append(x)
        else:
            slots.append([x])
    arena = Arena()
    for slot in slots:
        for x in slot:
            arena.offsets[x.buffer] = arena.size
        sizes = list(dict.fromkeys(x.size for x in slot))
        arena.size = add(arena.size, maximum(*sizes) if len(sizes) > 1 else sizes[0])
    return arena
