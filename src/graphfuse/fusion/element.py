"""The value of one element of a region's tensors, as an expression over what the region reads.

Maps and index maps are written into their readers; a reduction or contraction inside the region stands as a named
result, which is only possible where it is read at the very row (or element) being computed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from graphfuse.graph.dims import Dim, same_shape
from graphfuse.graph.dtypes import I64
from graphfuse.ops.expr import Arg, Const, Expr, Load, Result, loads_of, substitute
from graphfuse.ops.tensor import Generate, IndexMap, Map, Reduce, Tensor, broadcast_index, variables


class Misaligned(Exception):
    """A result inside the region is read at another row than the one being computed."""


class Elements:
    """Evaluates tensors of one region at indices over its iteration space.

    `results` maps the tensors that the kernel computes itself (reductions, the contraction, spilled rows) to the leaf
    that stands for them.
    """

    def __init__(self, members: Sequence[Tensor], space: Sequence[Dim], results: dict[Tensor, Expr]) -> None:
        self.space = tuple(space)
        self.results = results
        self._members = set(map(id, members))
        self._folded = {axis for t in members if isinstance(t.prim, Reduce) for axis in t.prim.axes}
        self._memo: dict[tuple[Tensor, tuple[Expr, ...]], Expr] = {}

    def canonical(self, t: Tensor) -> tuple[Expr, ...]:
        """The index of a tensor at the current point of the space; axes of size 1 stand at 0.

        A per-row tensor may have lost or gained axes of size 1: its others are those that no reduction folds, in order.
        """
        space = variables(len(self.space))
        if same_shape(t.shape, self.space) or id(t) not in self._members:
            return tuple(_zero_if_unit(d, v) for d, v in zip(t.shape, space, strict=True))
        rows = [k for k, d in enumerate(self.space) if k not in self._folded and not is_unit(d)]
        axes = [k for k, d in enumerate(t.shape) if not is_unit(d)]
        if not same_shape([t.shape[k] for k in axes], [self.space[k] for k in rows]):
            raise Misaligned(f"{t} does not line up with the rows of {list(self.space)}")
        place = dict(zip(axes, rows, strict=True))
        return tuple(space[place[k]] if k in place else Const(0, I64) for k in range(t.rank))

    def forget(self) -> None:
        """Drop what was inlined so far: `results` has changed."""
        self._memo.clear()

    def at_canonical(self, t: Tensor) -> Expr:
        return self.element(t, self.canonical(t))

    def element(self, t: Tensor, index: tuple[Expr, ...]) -> Expr:
        """The element of a tensor at an index. Raises Misaligned."""
        index = tuple(_zero_if_unit(d, e) for d, e in zip(t.shape, index, strict=True))
        if t in self.results:
            if index == self.canonical(t):
                return self.results[t]
            if not isinstance(t.prim, Map):
                raise Misaligned(f"{t} is read at another row than its own")
        if id(t) not in self._members:
            return Load(t, index)
        key = (t, index)
        if key not in self._memo:
            self._memo[key] = self._inline(t, index)
        return self._memo[key]

    def _inline(self, t: Tensor, index: tuple[Expr, ...]) -> Expr:
        if isinstance(t.prim, Map):
            replace: dict[Expr, Expr] = {}
            for k, a in enumerate(t.prim.args):
                lead = t.rank - a.rank
                part = tuple(broadcast_index(d, t.shape[lead + j], index[lead + j]) for j, d in enumerate(a.shape))
                replace[Arg(k, a.dtype)] = self.element(a, part)
            return substitute(t.prim.body, replace)
        if isinstance(t.prim, Generate):
            return self._resolve(t.prim.body(index))
        if isinstance(t.prim, IndexMap):
            inner, guard = t.prim.at(index)
            guard = None if guard is None else self._resolve(guard)
            inner = tuple(self._resolve(e) for e in inner)
            return self._guarded(Load(t.args[0], inner, guard, t.prim.fill))
        raise Misaligned(f"{t} cannot be computed element by element")

    def _resolve(self, e: Expr) -> Expr:
        """Loads inside an index (gather indices) may be of tensors computed in this region."""
        return resolve_loads(e, self._guarded)

    def _guarded(self, x: Load) -> Expr:
        value = self.element(x.tensor, x.index)
        if x.guard is None:
            return value
        if not isinstance(value, Load) or value.guard is not None:
            raise Misaligned(f"{x.tensor} is guarded, and a computed value")
        return Load(value.tensor, value.index, x.guard, x.fill)


def is_aligned(members: Sequence[Tensor], space: Sequence[Dim]) -> bool:
    """Whether every per-row value is read at its own row, so that the members can be one rows region."""
    results: dict[Tensor, Expr] = {t: Result("fold", t.dtype) for t in members if isinstance(t.prim, Reduce)}
    elements = Elements(members, space, results)
    try:
        for t in members:
            elements.at_canonical(t.args[0] if isinstance(t.prim, Reduce) else t)
    except Misaligned:
        return False
    return True


def resolve_loads(e: Expr, function: Callable[[Load], Expr]) -> Expr:
    """The expression with every load replaced."""
    replace: dict[Expr, Expr] = {}
    for x in loads_of([e]):
        index = tuple(substitute(i, replace) for i in x.index)
        guard, fill = (None if part is None else substitute(part, replace) for part in (x.guard, x.fill))
        replace[x] = function(Load(x.tensor, index, guard, fill))
    return substitute(e, replace)


def is_unit(d: Dim) -> bool:
    """Whether a size is known to be 1."""
    return isinstance(d, int) and d == 1


def _zero_if_unit(d: Dim, e: Expr) -> Expr:
    return Const(0, I64) if is_unit(d) else e
