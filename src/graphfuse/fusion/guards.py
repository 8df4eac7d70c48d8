"""What the compiler takes for granted about sizes known only at run time; the library checks it before it computes.

Shape inference believes a model: that sizes fit where they meet. A caller's inputs may say otherwise, and then memory
would be read that is not the tensor's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cache

import sympy

from graphfuse.graph.dims import Dim, Max, Min, add, mul, norm, product, same
from graphfuse.ops.expr import Load, Var, loads_of
from graphfuse.ops.runtime_sizes import some
from graphfuse.ops.tensor import (
    Concat,
    Contract,
    Expand,
    Generate,
    IndexMap,
    Map,
    Opaque,
    Reshape,
    Slice,
    Tensor,
    Transpose,
    variables,
)


@dataclass(frozen=True)
class Guard:
    """A condition on sizes: left == right, or left <= right where `at_most`."""

    left: Dim
    right: Dim
    message: str
    at_most: bool = False


def collect_guards(tensors: Iterable[Tensor], name: Callable[[Tensor], str]) -> list[Guard]:
    """The guards of a program, each condition once; `name` gives the user's name for a tensor's node."""
    found: dict[tuple[str, ...], Guard] = {}
    for t in tensors:
        for g in (*_exists(t), *_guards(t)):
            if same(g.left, g.right) or (g.at_most and _surely_at_most(g.left, g.right)):
                continue
            sizes = [str(g.left), str(g.right)]
            key = ("<=", *sizes) if g.at_most else ("==", *sorted(sizes))
            found.setdefault(key, Guard(g.left, g.right, f"{name(t)}: {g.message}", g.at_most))
    return list(found.values())


def _exists(t: Tensor) -> Iterator[Guard]:
    for d in t.shape:
        if not isinstance(d, int):
            yield Guard(0, d, f"the size {d} must not be negative", at_most=True)


def _guards(t: Tensor) -> Iterator[Guard]:
    if isinstance(t.prim, (Map, Expand)):
        for a in t.args:
            yield from _fits(a.shape, t.shape[t.rank - a.rank :])
    elif isinstance(t.prim, Reshape):
        yield from _reshaped(t)
    elif isinstance(t.prim, Concat):
        yield from _concatenated(t)
    elif isinstance(t.prim, Slice):
        yield from _sliced(t)
    elif isinstance(t.prim, Contract):
        yield from _contracted(t)
    elif isinstance(t.prim, Opaque):
        yield from _looped(t)
    elif isinstance(t.prim, (IndexMap, Generate)) and not isinstance(t.prim, Transpose):
        yield from _indexed(t)


def _fits(shape: Iterable[Dim], target: Iterable[Dim]) -> Iterator[Guard]:
    for d, out in zip(shape, target, strict=True):
        if not (isinstance(d, int) and d == 1):
            yield Guard(d, out, f"sizes {d} and {out} must be equal to broadcast")


def _reshaped(t: Tensor) -> Iterator[Guard]:
    assert isinstance(t.prim, Reshape)
    for d in t.prim.not_one:
        message = f"the size {d} is 1, and Squeeze without axes would take the axis away: name the axes"
        yield Guard(mul(2, some(d)), d, message, at_most=True)
    count, wanted = product(t.args[0].shape), product(t.shape)
    yield Guard(count, wanted, f"{count} elements cannot be reshaped to {wanted}")
    for d in t.shape:
        numerator, denominator = (1, 1) if isinstance(d, int) else sympy.fraction(sympy.together(d))
        if denominator != 1:
            whole = norm(denominator * sympy.floor(numerator / denominator))
            yield Guard(norm(numerator), whole, f"the size {d} must be whole")


def _concatenated(t: Tensor) -> Iterator[Guard]:
    assert isinstance(t.prim, Concat)
    for a in t.args:
        for k, (d, out) in enumerate(zip(a.shape, t.shape, strict=True)):
            if k != t.prim.axis:
                yield Guard(d, out, f"sizes {d} and {out} must be equal to concatenate")


def _sliced(t: Tensor) -> Iterator[Guard]:
    assert isinstance(t.prim, Slice)
    for start, step, n, size in zip(t.prim.starts, t.prim.steps, t.shape, t.args[0].shape, strict=True):
        last = add(start, mul(step, add(n, -1)))
        low, high = (start, last) if step > 0 else (last, start)
        if _surely_at_most(0, low) and _surely_at_most(add(high, 1), size):
            continue
        beyond = f"elements {low} to {high} of {size} do not exist"
        # Where nothing is taken, it does not matter from where.
        taken = 1 if _surely_at_most(1, n) else some(n)
        yield Guard(0, mul(taken, low), beyond, at_most=True)
        yield Guard(mul(taken, add(high, 1)), size, beyond, at_most=True)


def _contracted(t: Tensor) -> Iterator[Guard]:
    assert isinstance(t.prim, Contract)
    if t.prim.kind == "matmul":
        a, b = t.args
        k, other = a.shape[-1], b.shape[-2]
        yield Guard(k, other, f"sizes {k} and {other} must be equal to multiply")
        for x in t.args:
            yield from _fits(x.shape[:-2], t.shape[t.rank - x.rank : -2])
    elif t.prim.kind in ("conv", "conv_transpose"):
        x, w = t.args
        channels = mul(w.shape[1], t.prim.attrs.groups) if t.prim.kind == "conv" else w.shape[0]
        yield Guard(x.shape[1], channels, f"the weights are for {channels} channels, not {x.shape[1]}")


def _indexed(t: Tensor) -> Iterator[Guard]:
    """Where an index is an output index as it is, the axis must be as long; indices from data are held at run time."""
    position = variables(t.rank)
    if isinstance(t.prim, Generate):
        loads = loads_of([t.prim.body(position)])
    else:
        assert isinstance(t.prim, IndexMap)
        at, outside = t.prim.at(position)
        loads = loads_of([Load(t.args[0], at, outside)])
    for load in loads:
        for e, size in zip(load.index, load.tensor.shape, strict=True):
            if isinstance(e, Var):
                n = t.shape[position.index(e)]
                yield Guard(n, size, f"an index of size {n} into one of size {size}", at_most=True)
            elif not isinstance(size, int) and load.guard is None and not _divides(size, product(t.shape)):
                yield Guard(some(product(t.shape)), size, f"an index into no elements ({size})", at_most=True)


def _divides(size: Dim, count: Dim) -> bool:
    """Whether the count is some number of times the size, and so 0 where the size is."""
    return bool(sympy.fraction(sympy.cancel(sympy.sympify(count) / size))[1] == 1)


def _looped(t: Tensor) -> Iterator[Guard]:
    """What a loop nest loads at a loop's variable must be as long as the loop, or no shorter."""
    assert isinstance(t.prim, Opaque)
    nest = t.prim.nest
    for load, sizes in nest.loads():
        for e, size in zip(load.index, load.tensor.shape, strict=True):
            if e in sizes and nest.reads_parts:
                yield Guard(sizes[e], size, f"size {size} must be at least {sizes[e]}", at_most=True)
            elif e in sizes:
                yield Guard(sizes[e], size, f"sizes {size} and {sizes[e]} must be equal")
    yield from (Guard(left, right, message, at_most=True) for left, right, message in nest.limits())


def _surely_at_most(left: Dim, right: Dim) -> bool:
    """Whether left <= right whatever the sizes are, and here they may be 0."""
    if isinstance(left, Min) and right in left.args:
        return True
    difference = _may_be_zero(sympy.sympify(right) - left)
    if difference.is_nonnegative or sympy.expand(difference).is_nonnegative:
        return True
    least = _least(difference)
    return least is not None and bool(least >= 0)


def _least(e: sympy.Expr) -> sympy.Expr | None:
    """A number that an expression over sizes is never below, None where none is seen; each size counts by itself."""
    if e.is_Rational:
        return e
    if e.is_Symbol:
        return sympy.Integer(0) if e.is_nonnegative else None
    parts = [_least(a) for a in e.args]
    found = [p for p in parts if p is not None]
    if isinstance(e, Max) and found:
        return max(found)
    if len(found) < len(parts):
        return None
    if isinstance(e, sympy.floor):
        return sympy.floor(found[0])
    if isinstance(e, Min):
        return min(found)
    if e.is_Add:
        return sum(found, sympy.Integer(0))
    if e.is_Mul:
        # One part may be below 0, next to numbers above.
        below = [p for p, a in zip(found, e.args, strict=True) if p < 0]
        numbers = all(a.is_Rational for p, a in zip(found, e.args, strict=True) if p >= 0)
        return sympy.prod(found) if not below or (len(below) == 1 and numbers and not e.args[0].is_negative) else None
    return None


@cache
def _may_be_zero(e: sympy.Expr) -> sympy.Expr:
    sizes = {s: sympy.Symbol(s.name, integer=True, nonnegative=True) for s in e.free_symbols}
    return e.xreplace(sizes)
