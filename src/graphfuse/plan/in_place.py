"""Results in the place of operands that nobody needs any more: less memory, and stores to lines that the cache holds.

Runs on the finished calls, chains included; a chain's own result stays where it is, as other threads may still read the
lines that it would overwrite.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from graphfuse.graph.dims import Dim, assuming, estimate, mul, same
from graphfuse.plan.calls import Assign, Call, Plan, Read, arena_of, lifetimes
from graphfuse.plan.memory import Lifetime
from graphfuse.plan.view import Buffer, View


def take_places(plan: Plan) -> Plan:
    """The plan with every result that can in the place of a dying operand; as it was where the arena would grow."""
    with assuming(plan.one_item):
        calls, homes = _merged(plan)
        returned = {k: _at_home(view, homes) for k, view in plan.returned.items()}
        moved = replace(plan, calls=calls, learns=_learns(plan.learns, homes), returned=returned, homes=homes)
        arena = arena_of(calls, moved.kept)
        if not homes or estimate(arena.size) > estimate(plan.arena.size):
            return plan
        for buffer, home in homes.items():
            places: dict[Buffer, Any] = arena.slots if home.is_measured else arena.offsets
            places[buffer] = places[home]
        return replace(moved, arena=arena)


def _merged(plan: Plan) -> tuple[list[Call], dict[Buffer, Buffer]]:
    """The calls on fewer buffers, and for each buffer that is gone the one in whose place its tensor is."""
    calls = list(plan.calls)
    spans = {x.buffer: x for x in lifetimes(calls, plan.kept)}
    homes: dict[Buffer, Buffer] = {}
    for k, before in enumerate(plan.calls):
        calls[k] = call = _moved(before, homes)
        chosen = _place(call, k, spans)
        if chosen is None or before.emit_at is None:
            continue
        mine, place = call.results[0].buffer, call.overwrites[chosen]
        spans[place.buffer].last = spans.pop(mine).last
        homes[mine] = place.buffer
        # The operand is known to the kernel by the view it had, so that it and the result are one pointer.
        inside = replace(before, code=before.emit_at(before.overwrites[chosen]), apart=before)
        calls[k] = _moved(inside, homes)
    return calls, homes


def _place(call: Call, k: int, spans: dict[Buffer, Lifetime]) -> int | None:
    """Which of the operands the result of call k can take the place of."""
    if len(call.results) != 1:
        return None
    [result] = call.results
    if result.buffer.kind != "arena" or spans[result.buffer].first != k or not _is_whole(result):
        return None
    for n, view in enumerate(call.overwrites):
        dies = view.buffer.kind == "arena" and spans[view.buffer].last == k and _is_whole(view)
        if dies and _same_layout(view, result) and _uses(call, view.buffer) == 1:
            return n
    return None


def _is_whole(view: View) -> bool:
    """Whether a view begins where its buffer does and is dense: it steps through every element."""
    if view.offset != 0:
        return False
    steps = sorted(
        ((s, d) for s, d in zip(view.strides, view.shape, strict=True) if d != 1), key=lambda item: estimate(item[0])
    )
    expected: Dim = 1
    for stride, d in steps:
        if not same(stride, expected):
            return False
        expected = mul(stride, d)
    return same(view.buffer.elements, expected)


def _same_layout(a: View, b: View) -> bool:
    return (
        a.dtype == b.dtype
        and len(a.shape) == len(b.shape)
        and all(same(d, e) for d, e in zip(a.shape, b.shape, strict=True))
        and all(d == 1 or same(s, t) for d, s, t in zip(a.shape, a.strides, b.strides, strict=True))
    )


def _uses(call: Call, buffer: Buffer) -> int:
    return sum(isinstance(p, View) and p.buffer is buffer for p in call.code.pointers)


def _moved(call: Call, homes: dict[Buffer, Buffer]) -> Call:
    """The call with pointers to where tensors have gone; its text does not change."""
    if not homes:
        return call
    pointers = [_at_home(p, homes) if isinstance(p, View) else p for p in call.code.pointers]
    return replace(
        call,
        code=replace(call.code, pointers=pointers),
        learns=_learns(call.learns, homes),
        results=[_at_home(view, homes) for view in call.results],
        overwrites=[_at_home(view, homes) for view in call.overwrites],
        apart=call.apart or call,
    )


def _learns(learns: Sequence[Read | Assign], homes: dict[Buffer, Buffer]) -> tuple[Read | Assign, ...]:
    return tuple(replace(x, view=_at_home(x.view, homes)) if isinstance(x, Read) else x for x in learns)


def _at_home(view: View, homes: dict[Buffer, Buffer]) -> View:
    buffer = view.buffer
    while buffer in homes:
        buffer = homes[buffer]
    return view if buffer is view.buffer else replace(view, buffer=buffer)
