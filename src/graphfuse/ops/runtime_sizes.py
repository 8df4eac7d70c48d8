"""Axes, sizes and positions that are inputs: what an op does when it learns them only at run time.

Sizes become symbols that are measured (`OpNode.measure`), so everything behind them is planned as for any other size.
"""

from __future__ import annotations

from collections.abc import Sequence

import sympy

from graphfuse.graph.dims import Dim, Min, is_static, product
from graphfuse.graph.dtypes import I64
from graphfuse.ops import expr as E
from graphfuse.ops.expr import Const, Expr, Size
from graphfuse.ops.registry import NotSupported, OpNode
from graphfuse.ops.symbolic import MAX_ELEMENTS, elements
from graphfuse.ops.tensor import Tensor, generate, load, size

# A size that no tensor has: an error at run time.
IMPOSSIBLE = Const(-1, I64)


def items(x: Tensor) -> list[Expr]:
    """The elements of a short tensor of integers, of rank 0 or 1, as int64; those known at compile time as such."""
    if x.rank > 1 or not is_static(*x.shape) or int(product(x.shape)) > MAX_ELEMENTS:
        raise NotSupported("how many axes or sizes it takes must be known at compile time")
    known = elements(x)
    places = [()] if x.rank == 0 else [(Const(k, I64),) for k in range(len(known))]
    return [E.cast(load(x, at), I64) if d is None else size(d) for at, d in zip(places, known, strict=True)]


def chosen(k: Expr, values: Sequence[Expr]) -> Expr:
    """values[k]."""
    result: Expr = values[-1] if values else Const(0, I64)
    for j in range(len(values) - 2, -1, -1):
        result = E.where(E.equal(k, j), values[j], result)
    return result


def vector(values: Sequence[Expr], *sources: Tensor) -> Tensor:
    """Integers as a tensor of rank 1; `sources` are the tensors that they load from."""
    return generate((len(values),), lambda i: chosen(i[0], values), *sources)


def measure_sizes(node: OpNode, values: Sequence[Expr], *sources: Tensor) -> list[Dim]:
    """The sizes that expressions over the elements of `sources` give at run time."""
    unknown = [v for v in values if not isinstance(v, (Const, Size))]
    found = iter(node.measure(vector(unknown, *sources)) if unknown else ())
    return [int(v.value) if isinstance(v, Const) else v.dim if isinstance(v, Size) else next(found) for v in values]


def any_of(conditions: Sequence[Expr]) -> Expr:
    result = conditions[0]
    for condition in conditions[1:]:
        result = E.logical("or", result, condition)
    return result


def hits(axes: Sequence[Expr], rank: int) -> list[Expr]:
    """For each of `rank` axes whether it is among those given, which may count from the end."""
    return [any_of([E.logical("or", E.equal(a, k), E.equal(a, k - rank)) for a in axes]) for k in range(rank)]


def ranks_among(flags: Sequence[Expr]) -> list[Expr]:
    """For each flag how many of those before it are not set."""
    count: Expr = Const(0, I64)
    result = []
    for flag in flags:
        result.append(count)
        count = count + E.where(flag, Const(0, I64), Const(1, I64))
    return result


def without(shape: Sequence[Dim], gone: Sequence[Expr], count: int) -> list[Expr]:
    """The sizes of the `count` axes that stay when those with a flag go."""
    places = ranks_among(gone)
    result = []
    for j in range(count):
        total: Expr = IMPOSSIBLE
        for k in range(len(shape) - 1, -1, -1):
            here = E.logical("and", E.logical("not", gone[k]), E.equal(places[k], j))
            total = E.where(here, size(shape[k]), total)
        result.append(total)
    return result


def with_ones(shape: Sequence[Dim], added: Sequence[Expr]) -> list[Expr]:
    """The sizes when axes of size 1 come in where a flag is set."""
    sizes = [size(d) for d in shape]
    return [E.where(flag, Const(1, I64), chosen(k, sizes)) for flag, k in zip(added, ranks_among(added), strict=True)]


def some(count: Dim) -> Dim:
    """1 where there are any, else 0. Not what `minimum` makes of it, which takes sizes for positive."""
    return min(1, count) if isinstance(count, int) else Min(sympy.Integer(1), count)


def quotient_up(a: Expr, b: Expr) -> Expr:
    """a / b rounded up, for b other than 0."""
    return 0 - E.floordiv(0 - a, b)
