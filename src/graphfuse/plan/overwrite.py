"""Which operands a call's result may take the place of: those of which it reads each element just before it writes it.

A kernel may split its rows and columns as it likes: an element is read and written by the same step of the same thread,
and nobody reads it afterwards.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from graphfuse.fusion.passes import RowProgram
from graphfuse.fusion.regions import Region
from graphfuse.ops.expr import Expr, Load, loads_of
from graphfuse.ops.tensor import Tensor
from graphfuse.plan.site import ContractionSite, NestSite
from graphfuse.plan.view import View


def of_contraction(site: ContractionSite) -> list[View]:
    """Operands of the epilogue alone, for kernels that load and store an element in one place (`in_place`)."""
    if len(site.outputs) != 1:
        return []
    _, value = site.outputs[0]
    operands = site.prim.args
    loads = loads_of([value])
    return [
        site.view(t)
        for t in dict.fromkeys(e.tensor for e in loads)
        if t not in operands
        and _alone(t, [*operands, *(e.tensor for e in loads)], site.views)
        and all(_is_own(e, site.index) for e in loads if e.tensor is t)
    ]


def of_rows(region: Region, program: RowProgram, views: Mapping[Tensor, View]) -> list[View]:
    """Leaves that are not read again once the pass that stores the result has come by."""
    if len(region.outputs) != 1:
        return []
    [y] = region.outputs
    index = program.elements.canonical(y)
    return [views[t] for t in region.leaves if _alone(t, region.leaves, views) and _read_before(t, y, program, index)]


def of_nest(site: NestSite) -> list[View]:
    """What the only result of a loop nest starts as, where nothing else is read from there."""
    if len(site.results) != 1 or len(site.nest.results) != 1:
        return []
    start = site.nest.start(0)
    return [site.views[start]] if start is not None and _alone(start, site.nest.args, site.views) else []


def _read_before(t: Tensor, y: Tensor, program: RowProgram, index: Sequence[Expr]) -> bool:
    stored = False
    for p in program.passes:
        own = [e for x, e in (*p.stores, *p.row_stores) if x is y]
        others = [f.value for f in p.folds] + [e for x, e in (*p.stores, *p.row_stores) if x is not y]
        now = [e for e in loads_of([*own, *others]) if e.tensor is t]
        if not all(_is_own(e, index) for e in now) or (stored and now):
            return False
        stored = stored or bool(own)
        # In the pass of the store the element is loaded once, for the store itself; what else wants it finds it loaded.
        if own and now and not any(e.tensor is t for e in loads_of(own)):
            return False
    return stored


def _is_own(e: Load, index: Sequence[Expr]) -> bool:
    """Whether an element is the one at the result's own index."""
    if e.guard is not None or len(e.index) != len(index):
        return False
    return all(d == 1 or a == b for d, a, b in zip(e.tensor.shape, e.index, index, strict=True))


def _alone(t: Tensor, others: Iterable[Tensor], views: Mapping[Tensor, View]) -> bool:
    """Whether no other operand lies in the same buffer."""
    return all(x is t or x not in views or views[x].buffer is not views[t].buffer for x in others)
