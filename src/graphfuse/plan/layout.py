"""In which order the axes of a tensor lie in memory: channels last behind convolutions and pooling, carried onward."""

from __future__ import annotations

from graphfuse.graph.dims import same_shape
from graphfuse.ops.tensor import Concat, Contract, IndexMap, Map, Pad, Reduce, Reshape, Tensor, Transpose
from graphfuse.plan.view import Buffer, dense, physical_order

Order = tuple[int, ...]


class Layouts:
    """The preferred axis order of each tensor, from outermost to innermost; what it was computed from decides."""

    def __init__(self) -> None:
        self._orders: dict[Tensor, Order] = {}

    def order(self, t: Tensor) -> Order:
        stack = [t]
        while stack:
            x = stack[-1]
            waiting = [a for a in x.args if a not in self._orders]
            if x in self._orders:
                stack.pop()
            elif waiting:
                stack += waiting
            else:
                self._orders[x] = self._derive(x)
                stack.pop()
        return self._orders[t]

    def _derive(self, t: Tensor) -> Order:
        natural = tuple(range(t.rank))
        if isinstance(t.prim, Contract):
            return natural if t.prim.kind == "matmul" else channels_last(t.rank)
        if isinstance(t.prim, Transpose):
            return tuple(t.prim.perm.index(k) for k in self._orders[t.args[0]])
        if isinstance(t.prim, Reshape):
            return self._through_reshape(t)
        if isinstance(t.prim, Map):
            # A constant of the full shape is as it is in the file; what was computed last knows better.
            alike = [a for a in t.args if same_shape(a.shape, t.shape)]
            computed = [a for a in alike if a.prim is not None]
            return self._orders[(computed or alike)[0]] if alike else natural
        if isinstance(t.prim, (Reduce, Concat, Pad, IndexMap)) and t.args and t.args[0].rank == t.rank:
            return self._orders[t.args[0]]
        return natural

    def _through_reshape(self, t: Tensor) -> Order:
        source = t.args[0]
        buffer = Buffer("layout", 0, t.dtype)
        view = dense(buffer, source.shape, self._orders[source]).reshaped(t.shape)
        return tuple(range(t.rank)) if view is None else physical_order(view)


def channels_last(rank: int) -> Order:
    """(N, C, *spatial) with the channels innermost."""
    return (0, *range(2, rank), 1) if rank >= 3 else tuple(range(rank))
