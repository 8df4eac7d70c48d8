"""Whether two programs are the same but for the values of their constants."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from graphfuse.fusion.program import Program
from graphfuse.ops.expr import Expr, Load, children
from graphfuse.ops.tensor import Body, Generate, IndexMap, Tensor, variables


def alike(a: Program, b: Program) -> list[tuple[Tensor, Tensor]] | None:
    """The leaves of two programs in pairs where everything else is equal: primitives, shapes, types, expressions.

    None where anything differs, or may differ for all that can be told (functions that no expression shows).
    """
    mine, theirs = _Listing(), _Listing()
    if mine.program(a) != theirs.program(b):
        return None
    return list(zip(mine.leaves, theirs.leaves, strict=True))


class _Untold:
    """Something that nothing is equal to, not even itself elsewhere."""


class _Listing:
    """A program as nested tuples, its tensors as numbers in the order in which they are met."""

    def __init__(self) -> None:
        self.leaves: list[Tensor] = []
        self._numbers: dict[Tensor, int] = {}

    def program(self, p: Program) -> object:
        parts = [self.tensor(t) for t in p.tensors]
        return tuple(parts), tuple(self.number(t) for t in p.outputs), tuple(g.message for g in p.guards)

    def tensor(self, t: Tensor) -> object:
        args = tuple(self.number(a) for a in t.args)
        known = (args, self.number(t), t.shape, t.dtype, type(t.prim))
        prim = t.prim
        if isinstance(prim, IndexMap):
            index, guard = prim.at(variables(t.rank))
            return known, self.expressions([*index, *(e for e in (guard, prim.fill) if e is not None)])
        if isinstance(prim, Generate):
            return known, self.expressions([prim.body(variables(t.rank))])
        if prim is None:
            return known
        fields = {f.name: getattr(prim, f.name) for f in dataclasses.fields(prim) if f.name != "args"}
        return known, self.anything(fields)

    def number(self, t: Tensor) -> int:
        if t not in self._numbers:
            self._numbers[t] = len(self._numbers)
            if t.prim is None:
                self.leaves.append(t)
        return self._numbers[t]

    def anything(self, x: Any) -> object:
        """Any part of a primitive or nest."""
        if isinstance(x, Expr):
            return self.expressions([x])
        if isinstance(x, Tensor):
            return self.number(x), x.shape, x.dtype
        if isinstance(x, Body):
            return self.program(x.program), self.anything((x.outputs, x.captured, x.sizes))
        if isinstance(x, np.ndarray):
            return x.dtype, x.shape, x.tobytes()
        if dataclasses.is_dataclass(x):
            return type(x), self.anything({f.name: getattr(x, f.name) for f in dataclasses.fields(x)})
        if isinstance(x, Mapping):
            return tuple((self.anything(k), self.anything(v)) for k, v in x.items())
        if isinstance(x, list | tuple):
            return tuple(self.anything(y) for y in x)
        if isinstance(x, set | frozenset):
            return tuple(sorted(map(str, x)))
        return _Untold() if isinstance(x, Callable) and not isinstance(x, type) else x  # type: ignore[arg-type]

    def expressions(self, roots: Sequence[Expr]) -> tuple[object, ...]:
        """The expressions as a list in which children are numbers of earlier entries."""
        places: dict[int, int] = {}
        kept: list[Expr] = []  # so that no id is used twice
        listed: list[object] = []
        stack = list(reversed(roots))
        while stack:
            e = stack[-1]
            waiting = [c for c in children(e) if id(c) not in places]
            if waiting:
                stack += reversed(waiting)
                continue
            stack.pop()
            if id(e) in places:
                continue
            places[id(e)] = len(listed)
            kept.append(e)
            below = tuple(places[id(c)] for c in children(e))
            if isinstance(e, Load):
                listed.append(("load", self.number(e.tensor), e.guard is None, e.fill is None, below))
            else:
                listed.append((type(e), getattr(e, "fn", None), e.dtype, below) if below else e)
        return (*listed, tuple(places[id(e)] for e in roots))
