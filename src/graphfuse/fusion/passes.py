"""A rows region as passes over the row: what each pass folds and stores.

A row is what one reduction folds. Pass 0 reads the row and folds what needs no other fold; pass 1 may use those
results, and so on; softmax has three passes. A region without reductions has one pass. An expensive value that a later
pass needs again is spilled to a row of scratch in L1; a cheap one is computed again.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from graphfuse.fusion.element import Elements, is_unit
from graphfuse.fusion.regions import Region, reduced
from graphfuse.graph.dims import Dim, same_shape
from graphfuse.ops.expr import Expr, Load, Result, cost
from graphfuse.ops.tensor import Map, Reduce, Tensor

# A value of at least this cost (simple vector instructions) is loaded again rather than computed again.
SPILL_COST = 10


@dataclass
class Fold:
    """One reduction: `value` over the row goes into `result`; its kind is that of `prim`."""

    prim: Reduce
    value: Expr
    result: Result


@dataclass
class Pass:
    """Folds and element stores of one trip over the row; `row_stores` follow it, once per row."""

    folds: list[Fold] = field(default_factory=list)
    stores: list[tuple[Tensor, Expr]] = field(default_factory=list)
    row_stores: list[tuple[Tensor, Expr]] = field(default_factory=list)


@dataclass
class RowProgram:
    """The schedule of a rows region."""

    space: tuple[Dim, ...]
    axes: tuple[int, ...]
    passes: list[Pass]
    spills: list[Tensor]  # leaves that stand for rows of scratch, of the space's shape with kept axes at 1
    elements: Elements


def schedule(region: Region) -> RowProgram:
    """Schedule a region. Raises Misaligned when a per-row value is read at another row."""
    axes = region.axes or ()
    ready = _ready(region)
    results: dict[Tensor, Expr] = {}
    elements = Elements(region.tensors, region.space, results)
    folds = [t for t in region.tensors if isinstance(t.prim, Reduce)]
    result_of = {t: Result(f"fold{k}", t.dtype) for k, t in enumerate(folds)}
    results.update(result_of)
    last = max([ready[t] - 1 for t in folds] + [ready[t] for t in region.tensors if _is_full(region, t)], default=0)
    passes = [Pass() for _ in range(max(last, 0) + 1)]
    outputs = set(map(id, region.outputs))
    spills: list[Tensor] = []
    # Over axes of size 1 there is no loop between the passes: every value is still at hand.
    trips = any(not is_unit(region.space[k]) for k in axes)
    for number, current in enumerate(passes):
        for t in folds:
            if ready[t] - 1 == number:
                value = elements.at_canonical(t.args[0])
                assert isinstance(t.prim, Reduce)
                current.folds.append(Fold(t.prim, value, result_of[t]))
        kept: list[tuple[Tensor, Tensor, Expr]] = []
        for t in region.tensors:
            if ready[t] != number or not _is_full(region, t):
                continue
            if id(t) in outputs:
                kept.append((t, t, elements.at_canonical(t)))
            elif trips and _worth_spilling(region, t, ready, number):
                row = Tensor(tuple(d if k in axes else 1 for k, d in enumerate(region.space)), t.dtype)
                spills.append(row)
                kept.append((t, row, elements.at_canonical(t)))
        current.stores = [(place, value) for _, place, value in kept]
        # From the next pass on, what this one stored is read back rather than computed again.
        for t, place, value in kept:
            if trips and number + 1 < len(passes) and cost(value) >= SPILL_COST:
                results[t] = Load(place, elements.canonical(place))
        elements.forget()
    for t in region.tensors:
        if id(t) in outputs and not _is_full(region, t):
            passes[max(ready[t] - 1, 0)].row_stores.append((t, elements.at_canonical(t)))
        elif id(t) in outputs and isinstance(t.prim, Reduce):
            passes[ready[t] - 1].row_stores.append((t, elements.at_canonical(t)))
    return RowProgram(region.space, axes, passes, spills, elements)


def _is_full(region: Region, t: Tensor) -> bool:
    """Whether a tensor has an element for every point of the space (not only one per row)."""
    if region.axes is None:
        return True
    if same_shape(t.shape, reduced(region.space, region.axes)) and not same_shape(region.space, t.shape):
        return False
    return same_shape(t.shape, region.space) and not isinstance(t.prim, Reduce)


def _ready(region: Region) -> dict[Tensor, int]:
    """The pass in which each tensor's elements can first be computed."""
    ready: dict[Tensor, int] = {}
    for t in region.tensors:
        base = max((ready[a] for a in t.args if a in ready), default=0)
        ready[t] = base + 1 if isinstance(t.prim, Reduce) else base
    return ready


def _worth_spilling(region: Region, t: Tensor, ready: dict[Tensor, int], number: int) -> bool:
    if not isinstance(t.prim, Map) or cost(t.prim.body) < SPILL_COST:
        return False
    readers = [x for x in region.tensors if any(a is t for a in x.args)]
    here = any(ready[x] == number or (isinstance(x.prim, Reduce) and ready[x] == number + 1) for x in readers)
    later = any(_needed_after(region, x, ready, number) for x in readers)
    return here and later


def _needed_after(region: Region, t: Tensor, ready: dict[Tensor, int], number: int) -> bool:
    if isinstance(t.prim, Reduce):
        return ready[t] > number + 1
    if ready[t] > number:
        return True
    return any(_needed_after(region, x, ready, number) for x in region.tensors if any(a is t for a in x.args))
