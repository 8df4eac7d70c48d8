"""Dimensions: a Python int when known, a sympy integer expression over the model's symbols when not.

Symbols are positive integers, as in onnx_ir.SymbolicDim, whose expressions are taken over unchanged. Those of sizes
that depend on data ("measured" ones) may be 0, and have names that no symbol of an input has.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache
from types import MappingProxyType
from typing import TypeAlias

import onnx_ir as ir
import sympy

# What an unknown size is taken for where a cost is estimated.
TYPICAL = 64

Dim: TypeAlias = "int | sympy.Expr"


def dim(value: int | ir.SymbolicDim | str | sympy.Expr) -> Dim:
    """A dimension from any of its spellings. Raises ValueError for an anonymous (nameless) dimension."""
    if isinstance(value, ir.SymbolicDim):
        if value.value is None:
            raise ValueError("anonymous dimension")
        value = value._expr  # the public face gives only text; the text parses to the same expression
    elif isinstance(value, str):
        value = ir.SymbolicDim(value)._expr
    return norm(value) if isinstance(value, int) else norm(_own_extremes(value))


class Max(sympy.Function):  # type: ignore[misc]
    """The larger of sizes: an integer of which sympy knows no more than its sign.

    sympy's own Max (of 1.14) knows its parity too, takes Max(6, 2*N)/6 for whole, and drops what rounds it.
    """

    is_integer = True

    @classmethod
    def eval(cls, *args: sympy.Expr) -> sympy.Expr | None:
        return max(args) if all(a.is_Integer for a in args) else None

    def _eval_is_positive(self) -> bool | None:
        return any(a.is_positive for a in self.args) or None

    def _eval_is_nonnegative(self) -> bool | None:
        return any(a.is_nonnegative for a in self.args) or None


class Min(sympy.Function):  # type: ignore[misc]
    """The smaller of sizes; see Max."""

    is_integer = True

    @classmethod
    def eval(cls, *args: sympy.Expr) -> sympy.Expr | None:
        return min(args) if all(a.is_Integer for a in args) else None

    def _eval_is_positive(self) -> bool | None:
        return all(a.is_positive for a in self.args) or None

    def _eval_is_nonnegative(self) -> bool | None:
        return all(a.is_nonnegative for a in self.args) or None


def _own_extremes(value: sympy.Expr) -> sympy.Expr:
    if not value.has(sympy.Max, sympy.Min):
        return value
    return value.replace(sympy.Max, Max).replace(sympy.Min, Min)


def norm(value: Dim) -> Dim:
    """The same dimension as a plain int when it is one."""
    if isinstance(value, int):
        return value
    return int(value) if value.is_Integer else value


def shape_of(value: ir.Value) -> tuple[Dim, ...]:
    """The shape of a graph value. Raises ValueError when it is unknown."""
    if value.shape is None:
        raise ValueError(f"the shape of {value.name!r} is unknown")
    return tuple(dim(d) for d in value.shape)


def is_static(*dims: Dim) -> bool:
    return all(isinstance(d, int) for d in dims)


def same(a: Dim, b: Dim) -> bool:
    """Whether two dimensions are provably equal."""
    if isinstance(a, int) and isinstance(b, int):
        return a == b
    return a == b or _is_zero(a - b)


@cache
def _is_zero(e: sympy.Expr) -> bool:
    # Sizes are kept as they were put together, in factors; only a comparison multiplies them out.
    return bool(sympy.expand(e) == 0)


def same_shape(a: Sequence[Dim], b: Sequence[Dim]) -> bool:
    return len(a) == len(b) and all(same(x, y) for x, y in zip(a, b, strict=True))


def product(dims: Iterable[Dim]) -> Dim:
    total: Dim = 1
    for d in dims:
        total = norm(total * d)
    return total


def mul(a: Dim, b: Dim) -> Dim:
    if isinstance(a, int) and isinstance(b, int):
        return a * b
    return norm(a * b)


def add(a: Dim, b: Dim) -> Dim:
    if isinstance(a, int) and isinstance(b, int):
        return a + b
    return norm(a + b)


def floordiv(a: Dim, b: Dim) -> Dim:
    if isinstance(a, int) and isinstance(b, int):
        return a // b
    return norm(sympy.floor(sympy.sympify(a) / b))


def ceildiv(a: Dim, b: Dim) -> Dim:
    if isinstance(a, int) and isinstance(b, int):
        return -(-a // b)
    return norm(sympy.floor((sympy.sympify(a) + b - 1) / b))


def maximum(*dims: Dim) -> Dim:
    if is_static(*dims):
        return max(dims)  # type: ignore[type-var]
    if any(not isinstance(d, int) and d.is_nonnegative for d in dims):
        dims = tuple(d for d in dims if not isinstance(d, int) or d > 0)
    dims = _largest_multiples(dims)
    if len(dims) == 1:
        return dims[0]
    # Not sympy's own, which would try to decide which is larger, at great length.
    return Max(*sorted(map(sympy.sympify, dims), key=sympy.default_sort_key))


def minimum(*dims: Dim) -> Dim:
    if is_static(*dims):
        return min(dims)  # type: ignore[type-var]
    return norm(_own_extremes(sympy.Min(*dims)))


def _largest_multiples(dims: Sequence[Dim]) -> tuple[Dim, ...]:
    """Of sizes that are number multiples of the same expression only the largest, each expression once."""
    largest: dict[sympy.Expr, sympy.Rational] = {}
    for d in dims:
        factor, rest = sympy.sympify(d).primitive()
        largest[rest] = max(largest.get(rest, factor), factor)
    return tuple(norm(factor * rest) for rest, factor in largest.items())


def symbols(dims: Iterable[Dim]) -> list[str]:
    """Names of the free symbols, sorted."""
    names: set[str] = set()
    for d in dims:
        if not isinstance(d, int):
            names |= {s.name for s in d.free_symbols}
    return sorted(names)


def measured_symbol(number: int) -> sympy.Symbol:
    """The symbol of a size that is read from memory while the model runs."""
    return symbol_named(f"_{number}")


def symbol_named(name: str) -> sympy.Symbol:
    """The symbol of a measured size, by its name."""
    return sympy.Symbol(name, integer=True, nonnegative=True)


def measured(*dims: Dim) -> list[str]:
    """Names of the symbols in dimensions that are known only while the model runs, sorted."""
    return [name for name in symbols(dims) if name.startswith("_")]


def evaluate(value: Dim, env: Mapping[str, int]) -> int:
    """The dimension's number with the symbols' values given. Raises KeyError for a symbol without a value."""
    if isinstance(value, int):
        return value
    return _number(value, {s: env[s.name] for s in value.free_symbols})


def _number(value: sympy.Expr, sizes: Mapping[sympy.Symbol, int]) -> int:
    # All at once: what sympy simplifies with some of the symbols known is not always the same number.
    return int(value.xreplace({s: sympy.Integer(n) for s, n in sizes.items()}))


_ASSUMED: ContextVar[Mapping[str, int]] = ContextVar("assumed sizes", default=MappingProxyType({}))


@contextmanager
def assuming(sizes: Mapping[str, int]) -> Iterator[None]:
    """Within the block, `estimate` takes these symbols for these sizes."""
    token = _ASSUMED.set(sizes)
    try:
        yield
    finally:
        _ASSUMED.reset(token)


def estimate(value: Dim) -> int:
    """A number to reckon costs with: a symbol counts as what is assumed of it (see `assuming`), else as 64."""
    if isinstance(value, int):
        return value
    known = _ASSUMED.get()
    return max(1, _number(value, {s: known.get(s.name, TYPICAL) for s in value.free_symbols}))


def steps(dims: Iterable[Dim]) -> list[sympy.Expr]:
    """What the dimensions have in common: quotients and maxima, each once, those inside others first."""
    found = {atom for d in dims if not isinstance(d, int) for atom in d.atoms(sympy.floor, Max, Min)}
    return sorted(found, key=lambda e: (e.count_ops(), str(e)))


def c_text(value: Dim, names: Mapping[str, str], known: Mapping[sympy.Expr, str] | None = None) -> str:
    """The dimension as a C expression of type int64_t.

    names: the C identifier of each symbol; known: that of steps which have been computed already.
    """
    if isinstance(value, int):
        return str(value)
    return _c(sympy.sympify(value), names, known or {})


def _c(e: sympy.Expr, names: Mapping[str, str], known: Mapping[sympy.Expr, str]) -> str:
    if e in known:
        return known[e]
    if e.is_Integer:
        return str(int(e))
    if e.is_Symbol:
        return names[e.name]
    if isinstance(e, sympy.floor):
        numerator, denominator = sympy.fraction(sympy.together(e.args[0]))
        return f"gf_floordiv({_c(sympy.expand(numerator), names, known)}, {_c(denominator, names, known)})"
    if isinstance(e, sympy.ceiling):
        return f"(-{_c(sympy.floor(-e.args[0]), names, known)})"
    if isinstance(e, sympy.Mod):
        return f"gf_floormod({_c(e.args[0], names, known)}, {_c(e.args[1], names, known)})"
    if isinstance(e, (Max, Min)):
        name = "gf_max64" if isinstance(e, Max) else "gf_min64"
        text = _c(e.args[0], names, known)
        for other in e.args[1:]:
            text = f"{name}({text}, {_c(other, names, known)})"
        return text
    if e.is_Add and all(a.as_coeff_Mul()[0].is_Integer for a in e.args):
        return "(" + " + ".join(_c(a, names, known) for a in e.args) + ")"
    if e.is_Mul:
        numerator, denominator = sympy.fraction(e)
        if denominator != 1:
            # Exact by construction: shape inference only divides where the quotient is whole.
            return f"gf_floordiv({_c(numerator, names, known)}, {_c(denominator, names, known)})"
        return "(" + " * ".join(_c(a, names, known) for a in e.args) + ")"
    if e.is_Pow and e.exp.is_Integer and e.exp > 0:
        return "(" + " * ".join([_c(e.base, names, known)] * int(e.exp)) + ")"
    numerator, denominator = sympy.fraction(sympy.together(e))
    if denominator != 1:
        return f"gf_floordiv({_c(sympy.expand(numerator), names, known)}, {_c(denominator, names, known)})"
    raise ValueError(f"no C spelling for the dimension {e}")


def saturating_text(value: Dim, names: Mapping[str, str]) -> str:
    """The dimension as a C expression in which sums and products stay at the largest integer where they pass it."""
    if isinstance(value, int) or not (value.is_Add or value.is_Mul) or sympy.fraction(value)[1] != 1:
        return c_text(value, names)
    name = "gf_add_sat" if value.is_Add else "gf_mul_sat"
    first, *others = (saturating_text(norm(a), names) for a in value.args)
    for other in others:
        first = f"{name}({first}, {other})"
    return first
