"""Sizes that depend on data: symbols whose values are read from memory once a tensor of the program is computed."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

import sympy

from graphfuse.graph.dims import Dim, measured, measured_symbol
from graphfuse.ops.expr import Expr, Size, nodes_of
from graphfuse.ops.tensor import Contract, Generate, IndexMap, Map, Opaque, Pad, Slice, Tensor, variables


@dataclass(frozen=True)
class Source:
    """Where a measured size comes from: element `index` of a tensor of integers.

    With no index the control flow that `tensor` is a result of sets it; with no tensor that is yet to be lowered.
    """

    tensor: Tensor | None
    index: int | None = None


@dataclass
class Measures:
    """The measured sizes of a graph; `sources` are those of the whole model, bodies of control flow included.

    `order` lists this graph's own as they came, `own` are the same.
    """

    sources: dict[str, Source] = field(default_factory=dict)
    order: list[str] = field(default_factory=list)
    own: set[str] = field(default_factory=set)

    def fresh(self, source: Source) -> sympy.Symbol:
        """A new symbol for a size that comes from there."""
        symbol = measured_symbol(len(self.sources))
        self.sources[symbol.name] = source
        self.order.append(symbol.name)
        self.own.add(symbol.name)
        return symbol

    def reserve(self) -> sympy.Symbol:
        """A new symbol whose source follows."""
        return self.fresh(Source(None))

    def of_body(self) -> Measures:
        """Those of a body of this graph."""
        return Measures(self.sources)

    def tensor(self, name: str) -> Tensor | None:
        """The tensor of this graph that has to be computed before a size is known; None for sizes from around it."""
        return self.sources[name].tensor if name in self.own else None


def measured_sizes(t: Tensor) -> list[str]:
    """The names of the measured symbols that must have their values before a tensor can be computed."""
    names = measured(*t.shape, *(d for a in t.args for d in a.shape), *_computed_with(t))
    return [name for name in names if name not in t.prim.nest.own] if isinstance(t.prim, Opaque) else names


def _computed_with(t: Tensor) -> Iterable[Dim]:
    prim, position = t.prim, variables(t.rank)
    if isinstance(prim, Map):
        yield from _sizes_in(prim.body)
    elif isinstance(prim, Slice):
        yield from prim.starts
    elif isinstance(prim, IndexMap):
        index, guard = prim.at(position)
        for e in (*index, guard, prim.fill):
            yield from () if e is None else _sizes_in(e)
    elif isinstance(prim, Generate):
        yield from _sizes_in(prim.body(position))
    elif isinstance(prim, Pad):
        yield from (*prim.before, *prim.after)
    elif isinstance(prim, Contract) and prim.attrs is not None:
        yield from (*prim.attrs.pads_before, *prim.attrs.pads_after)
    elif isinstance(prim, Opaque):
        yield from (d for shape, _ in prim.nest.results for d in shape)
        yield from prim.nest.sizes()


def _sizes_in(e: Expr) -> Iterable[Dim]:
    return (x.dim for x in nodes_of([e]) if isinstance(x, Size))
