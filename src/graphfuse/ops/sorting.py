"""Sorting in loop nests: by keys, unsigned integers in the order of the values, so that equal values stay in order.

Short rows are sorted by insertion, others by their bytes (least significant first), which takes the same time whatever
the data: two passes at a time, so that the result ends where it began; bytes that are all equal are left out.
"""

from __future__ import annotations

from graphfuse.graph.dims import Dim
from graphfuse.graph.dtypes import BOOL, F32, F64, I32, I64, U32, U64, DType, is_float, item_bytes
from graphfuse.ops import expr as E
from graphfuse.ops.expr import Const, Expr, lift
from graphfuse.ops.loops import Builder, at, both
from graphfuse.ops.tensor import Tensor, size

_FEW = 32  # up to so many insertion is faster
_DIGIT = 8


def key_type(dtype: DType) -> DType:
    """The type of the keys of values of a type."""
    return U64 if item_bytes(dtype) == 8 else U32


def sort_key(x: Expr, descending: bool = False) -> Expr:
    """An unsigned integer that is less where the value comes first. NaN is the largest value; -0 and 0 are equal."""
    key = _ascending(x)
    return E.unary("bitnot", key) if descending else key


def _ascending(x: Expr) -> Expr:
    if is_float(x.dtype):
        x = x if x.dtype == F64 else E.cast(x, F32)
        word, top = (U64, 1 << 63) if x.dtype == F64 else (U32, 1 << 31)
        bits = E.bitcast(x + 0.0, word)
        ordered = E.where(bits >= top, E.unary("bitnot", bits), E.binary("bitor", bits, top))
        return E.where(E.compare("ne", x, x), Const(2 * top - 1, word), ordered)
    if x.dtype in (BOOL, U32, U64) or x.dtype.name.startswith("U"):
        return E.cast(x, key_type(x.dtype))
    if x.dtype == I64:
        return E.binary("bitxor", E.cast(x, U64), 1 << 63)
    return E.cast(E.cast(x, I64) + (1 << 31), U32)


class Sorter:
    """Room for `most` keys, each with the number of what it belongs to (`order`), and what sorting them takes."""

    def __init__(self, b: Builder, most: Dim, dtype: DType, shared: bool = False) -> None:
        self._b = b
        self._most = most
        number = I32 if isinstance(most, int) and most < 1 << 31 else I64
        self.keys, self._spare_keys = (b.scratch((most,), dtype, shared) for _ in range(2))
        self.order, self._spare_order = (b.scratch((most,), number, shared) for _ in range(2))
        self._starts = b.scratch((1 << _DIGIT,), I64, shared)

    def put(self, place: Expr, key: Expr, number: Expr) -> None:
        """A key and its number at a place."""
        self._b.store(self.keys, (place,), key)
        self._b.store(self.order, (place,), E.cast(number, self.order.dtype))

    def number(self, place: Expr) -> Expr:
        """What the key at a place belongs to."""
        return E.cast(at(self.order, place), I64)

    def sort(self, count: Expr) -> None:
        """Sort the first `count` keys and their numbers."""
        b = self._b
        n = b.let(E.minimum(count, size(self._most)))
        if isinstance(self._most, int) and self._most <= _FEW:
            self._insert(n)
            return
        with b.when(n <= _FEW):
            self._insert(n)
        with b.otherwise():
            self._by_bytes(n)

    def _insert(self, n: Expr) -> None:
        b = self._b
        with b.loop(1, n) as i:
            key, number = b.let(at(self.keys, i)), b.let(at(self.order, i))
            j = b.variable(i)
            with b.repeat(both(j > 0, at(self.keys, j - 1) > key), size(self._most)):
                b.store(self.keys, (j,), at(self.keys, j - 1))
                b.store(self.order, (j,), at(self.order, j - 1))
                b.assign(j, j - 1)
            b.store(self.keys, (j,), key)
            b.store(self.order, (j,), number)

    def _by_bytes(self, n: Expr) -> None:
        b = self._b
        first, differing = b.let(at(self.keys, 0)), b.variable(lift(0, self.keys.dtype))
        with b.loop(0, n) as i:
            b.assign(differing, E.binary("bitor", differing, E.binary("bitxor", at(self.keys, i), first)))
        here, there = (self.keys, self.order), (self._spare_keys, self._spare_order)
        with b.loop(0, 4 * item_bytes(first.dtype) // _DIGIT) as pair:
            shift = b.let(E.cast(pair * (2 * _DIGIT), first.dtype))
            with b.when(E.compare("ne", _bits(differing, shift, 2 * _DIGIT), 0)):
                self._pass(here, there, shift, n)
                self._pass(there, here, b.let(shift + _DIGIT), n)

    def _pass(self, source: tuple[Tensor, Tensor], target: tuple[Tensor, Tensor], shift: Expr, n: Expr) -> None:
        """Move the first n pairs to where the digits at `shift` put them."""
        b, starts, digits = self._b, self._starts, 1 << _DIGIT
        with b.loop(0, digits) as d:
            b.store(starts, (d,), 0)
        with b.loop(0, n) as i:
            digit = b.let(E.cast(_bits(at(source[0], i), shift, _DIGIT), I64))
            b.store(starts, (digit,), at(starts, digit) + 1)
        before = b.variable(Const(0, I64))
        with b.loop(0, digits) as d:
            count = b.let(at(starts, d))
            b.store(starts, (d,), before)
            b.assign(before, before + count)
        with b.loop(0, n) as i:
            key = b.let(at(source[0], i))
            digit = b.let(E.cast(_bits(key, shift, _DIGIT), I64))
            place = b.let(at(starts, digit))
            b.store(target[0], (place,), key)
            b.store(target[1], (place,), at(source[1], i))
            b.store(starts, (digit,), place + 1)


def _bits(key: Expr, shift: Expr, count: int) -> Expr:
    return E.binary("bitand", E.binary("shr", key, shift), (1 << count) - 1)
