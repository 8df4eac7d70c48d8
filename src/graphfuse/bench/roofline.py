"""What each call of a plan has to compute and to move at least, and how long the machine needs for that.

A hierarchical roofline: a call takes no less than its arithmetic at the peak rate, and no less than the bytes that
cross each level of the memory hierarchy at that level's bandwidth. Which bytes come from how far is told by replaying
the plan's calls, again and again, on a least-recently-used model of the caches.
"""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache

from graphfuse.bench.limits import Limits
from graphfuse.errors import InternalError
from graphfuse.fusion.regions import Region
from graphfuse.graph.dims import evaluate
from graphfuse.graph.dtypes import item_bytes
from graphfuse.ops.expr import cost
from graphfuse.ops.tensor import Contract, Map, Opaque, Reduce, Tensor
from graphfuse.plan.calls import Call, Plan
from graphfuse.plan.site import Packed
from graphfuse.plan.view import View
from graphfuse.runtime.preamble import pool_source
from graphfuse.target import Target

_BLOCK = 16 << 10  # bytes in which the caches are modelled

Sizes = Mapping[str, int]
Weights = Mapping[tuple[Tensor, str], int]  # bytes of each packed constant, by what it is made of and how


@dataclass
class Traffic:
    """Bytes of one call by the level they are found in: read and written, each byte once."""

    read: dict[str, int] = field(default_factory=dict)
    written: dict[str, int] = field(default_factory=dict)
    weights: int = 0

    @property
    def bytes(self) -> int:
        """All that is moved."""
        return sum(self.read.values()) + sum(self.written.values())


@dataclass(frozen=True)
class CallCost:
    """What a call costs at least. flops: float operations that the model asks for, a multiply-add counted as two;
    executed: what the kernel executes of them, in operations at the peak rate (fewer with Winograd; an instruction that
    is no multiply-add counts as two).
    """

    call: Call
    flops: int
    executed: int
    traffic: Traffic


@dataclass(frozen=True)
class Bound:
    """The least time of a call in seconds, and what it is bound by: "compute", a level of memory, or "overhead"."""

    by: str
    seconds: float


def call_costs(plan: Plan, sizes: Sizes, target: Target, threads: int, weights: Weights) -> list[CallCost]:
    """The cost of each call."""
    traffics = _replayed(plan, sizes, target, threads, weights)
    return [
        CallCost(call, *_operations(call, sizes), traffic) for call, traffic in zip(plan.calls, traffics, strict=True)
    ]


def threads_of(call: Call, sizes: Sizes, threads: int) -> int:
    """How many of the threads a call is shared among, as gf_parallel decides."""
    code = call.code
    rows = -(-evaluate(code.rows, sizes) // code.row_grain)
    columns = -(-evaluate(code.columns, sizes) // code.column_grain)
    pays = 1 + max(0, evaluate(code.work, sizes)) // work_per_thread()
    return max(1, min(threads, pays, max(rows, columns)))


@cache
def work_per_thread() -> int:
    """The work from which on a further thread pays, as the pool's source has it."""
    found = re.search(r"#define GF_WORK_PER_THREAD (\d+)", pool_source())
    if found is None:
        raise InternalError("the thread pool does not say what work pays for a thread")
    return int(found[1])


def bound(found: CallCost, limits: Limits) -> Bound:
    """The roof that a call is under; limits: those for the threads that it is shared among."""
    roofs = [Bound("compute", found.executed / limits.flops), Bound("overhead", limits.fork)]
    names = [level.name for level in limits.levels]
    for k, level in enumerate(limits.levels):
        if level.name == "L1":
            continue  # what a kernel does inside L1 is its own affair
        beyond = names[k:]
        read = sum(count for name, count in found.traffic.read.items() if name in beyond)
        written = sum(count for name, count in found.traffic.written.items() if name in beyond)
        roofs.append(Bound(level.name, read / level.read + written / level.write))
    return max(roofs, key=lambda roof: roof.seconds)


# ---------------------------------------------------------------- arithmetic


def _operations(call: Call, sizes: Sizes) -> tuple[int, int]:
    """(flops, executed) of one call."""
    asked = instructions = 0
    contracts = False
    for t in (t for region in regions_of(call) for t in region.tensors):
        elements = _product(t.shape, sizes)
        if isinstance(t.prim, Map):
            asked += elements * cost(t.prim.body)
            instructions += elements * cost(t.prim.body)
        elif isinstance(t.prim, Reduce):
            asked += _product(t.args[0].shape, sizes)
            instructions += _product(t.args[0].shape, sizes)
        elif isinstance(t.prim, Contract):
            contracts = True
            asked += elements * _taps(t, sizes)
        elif isinstance(t.prim, Opaque):
            contracts = True
    if not contracts:
        return asked, 2 * instructions
    work = evaluate(call.code.work, sizes)
    return asked or work, work + 2 * instructions


def regions_of(call: Call) -> Sequence[Region]:
    """The regions that a call computes, all of a chain; none for a copy."""
    return [step.region for step in (call.parts or (call,)) if step.region is not None]


def _taps(t: Tensor, sizes: Sizes) -> int:
    """Operations for one element of a contraction: two for each product, one for each element of a pooled window."""
    assert isinstance(t.prim, Contract)
    if t.prim.kind == "matmul":
        return 2 * evaluate(t.prim.args[0].shape[-1], sizes)
    if t.prim.kind == "conv":
        return 2 * _product(t.prim.args[1].shape[1:], sizes)
    window = _product(t.prim.attrs.kernel, sizes)
    if t.prim.kind != "conv_transpose":
        return window
    steps = _product(t.prim.attrs.strides, sizes)
    return max(1, 2 * window * evaluate(t.prim.args[1].shape[0], sizes) // (t.prim.attrs.groups * steps))


def _product(dims: Iterable[object], sizes: Sizes) -> int:
    total = 1
    for d in dims:
        total *= evaluate(d, sizes)  # type: ignore[arg-type]
    return total


# ---------------------------------------------------------------- memory


def _replayed(plan: Plan, sizes: Sizes, target: Target, threads: int, weights: Weights) -> list[Traffic]:
    """The traffic of each call when the model has been run before."""
    caches = [_Cache("L2", target.l2 * threads), _Cache("L3", max(target.l3, target.l2 * threads))]
    offsets = {buffer: evaluate(offset, sizes) for buffer, offset in plan.arena.offsets.items()}
    found: list[Traffic] = []
    for _ in range(2):
        found = []
        written: set[object] = set()
        for call in plan.calls:
            traffic = Traffic()
            results = _results(call, plan)
            for pointer in dict.fromkeys((call.apart or call).code.pointers):
                if isinstance(pointer, Packed):
                    size = weights.get((pointer.source, pointer.key), 0)
                    traffic.weights += size
                    _touch(caches, traffic.read, ("packed", pointer.source, pointer.key), 0, size, size)
                    continue
                assert isinstance(pointer, View)
                buffer = pointer.buffer
                start, span, size = _extent(pointer, sizes)
                place: object = buffer
                if buffer in offsets:
                    place, start = "arena", start + offsets[buffer]
                writes = pointer in results or buffer.kind == "output" or (place == "arena" and buffer not in written)
                traffic.weights += size if buffer.kind == "weight" else 0
                _touch(caches, traffic.written if writes else traffic.read, place, start, span, size)
            written |= set((call.apart or call).buffers)
            found.append(traffic)
    return found


def _results(call: Call, plan: Plan) -> set[View]:
    return {plan.views[t] for region in regions_of(call) for t in region.outputs}


def _extent(view: View, sizes: Sizes) -> tuple[int, int, int]:
    """(first byte, bytes from the first to the last, bytes that are touched) of a view in its buffer."""
    item = item_bytes(view.dtype)
    count, reach = 1, 1
    for d, s in zip(view.shape, view.strides, strict=True):
        extent, stride = evaluate(d, sizes), abs(evaluate(s, sizes))
        count *= extent if stride else 1
        reach += max(extent - 1, 0) * stride
    return evaluate(view.offset, sizes) * item, reach * item, min(count, reach) * item


class _Cache:
    """Blocks in order of their last use, the oldest leaves."""

    def __init__(self, name: str, size: int) -> None:
        self.name = name
        self.room = max(1, size // _BLOCK)
        self.blocks: OrderedDict[tuple[object, int], None] = OrderedDict()

    def touch(self, block: tuple[object, int]) -> bool:
        """Use a block; whether it was there."""
        known = block in self.blocks
        self.blocks[block] = None
        self.blocks.move_to_end(block)
        if len(self.blocks) > self.room:
            self.blocks.popitem(last=False)
        return known


def _touch(caches: Sequence[_Cache], into: dict[str, int], place: object, start: int, span: int, size: int) -> None:
    """Use memory [start, start + span), of which `size` bytes are touched, and account for them by where they were."""
    if not size:
        return
    blocks = range(start // _BLOCK, (start + span - 1) // _BLOCK + 1)
    told = 0
    for k, block in enumerate(blocks, start=1):
        hits = [cache.name for cache in caches if cache.touch((place, block))]
        level = hits[0] if hits else "memory"
        share = size * k // len(blocks) - told
        told += share
        into[level] = into.get(level, 0) + share
