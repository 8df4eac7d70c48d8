"""What is known about the indices of a loop nest while its C is written: which of them lie inside an axis for sure."""

from __future__ import annotations

from graphfuse.graph.dims import Dim, add, same
from graphfuse.graph.dtypes import I64
from graphfuse.ops.expr import Call, Const, Expr, Load, Result, Size, Var, children


class Bounds:
    """Ranges of loop variables, and values of local variables that never change."""

    def __init__(self, changing: set[Expr]) -> None:
        self._changing = changing
        self._ranges: dict[Var, tuple[Expr, Expr]] = {}
        self._values: dict[Expr, Expr] = {}

    def enter(self, var: Var, begin: Expr, end: Expr) -> None:
        """A loop's variable runs from begin to end - 1."""
        self._ranges[var] = (begin, end)

    def define(self, local: Result, value: Expr) -> None:
        """A local variable gets its first value."""
        if local not in self._changing:
            self._values[local] = value

    def plain(self, e: Expr) -> bool:
        """Whether an expression is made of sizes, loop variables and constants alone."""
        if isinstance(e, Load):
            return False
        if isinstance(e, Result):
            value = self._values.get(e)
            return value is not None and self.plain(value)
        if isinstance(e, Var):
            return all(self.plain(b) for b in self._ranges[e])
        return all(self.plain(c) for c in children(e))

    def surely_inside(self, e: Expr, extent: Dim) -> bool:
        """Whether 0 <= e < extent whenever control gets here; then the axis has elements, too."""
        if isinstance(e, Result):
            value = self._values.get(e)
            return value is not None and self.surely_inside(value, extent)
        if isinstance(e, Const):
            return isinstance(extent, int) and 0 <= e.value < extent
        if isinstance(e, Var):
            begin, end = self._ranges[e]
            return self._nonnegative(begin) and self._at_most(end, extent)
        if not isinstance(e, Call):
            return False
        if e.fn == "cast" and e.args[0].dtype != I64:
            return _masked_below(e.args[0], extent)
        if e.fn == "sub":
            a, b = e.args
            if _is(a, add(extent, -1)):
                return self.surely_inside(b, extent)
            if isinstance(b, Const) and isinstance(a, Var):
                begin, end = self._ranges[a]
                return isinstance(begin, Const) and 0 <= b.value <= begin.value and self._at_most(end, extent)
        if e.fn == "add":
            return any(self._behind(a, b, extent) for a, b in (e.args, e.args[::-1]))
        return isinstance(extent, int) and self.clamped(e, extent)

    def _behind(self, start: Expr, var: Expr, extent: Dim) -> bool:
        """Whether start + var lies inside: the variable stays below what is left of the axis behind the start."""
        if not isinstance(var, Var):
            return False
        begin, end = self._ranges[var]
        return self._nonnegative(start) and self._nonnegative(begin) and self._within_rest(end, start, extent)

    def _within_rest(self, e: Expr, start: Expr, extent: Dim) -> bool:
        """Whether e <= extent - start."""
        if isinstance(e, Result):
            value = self._values.get(e)
            return value is not None and self._within_rest(value, start, extent)
        if not isinstance(e, Call):
            return False
        if e.fn == "min":
            return any(self._within_rest(a, start, extent) for a in e.args)
        return e.fn == "sub" and _is(e.args[0], extent) and e.args[1] == start

    def clamped(self, e: Expr, extent: Dim) -> bool:
        """Whether an expression is held inside the axis by itself, where the axis has elements."""
        if isinstance(e, Result):
            value = self._values.get(e)
            return value is not None and self.clamped(value, extent)
        if not isinstance(e, Call) or e.fn != "min" or not _is(e.args[1], add(extent, -1)):
            return False
        inner = e.args[0]
        return isinstance(inner, Call) and inner.fn == "max" and inner.args[1] == Const(0, I64)

    def _nonnegative(self, e: Expr) -> bool:
        if isinstance(e, Const):
            return e.value >= 0
        if isinstance(e, Size):
            return isinstance(e.dim, int) or e.dim.is_nonnegative is True
        if isinstance(e, Var):
            return self._nonnegative(self._ranges[e][0])
        if isinstance(e, Result):
            value = self._values.get(e)
            return value is not None and self._nonnegative(value)
        if isinstance(e, Call) and e.fn in ("add", "mul"):
            return self.plain(e) and all(self._nonnegative(a) for a in e.args)
        return isinstance(e, Call) and e.fn == "max" and any(self._nonnegative(a) for a in e.args)

    def _at_most(self, e: Expr, extent: Dim) -> bool:
        """Whether e <= extent."""
        if isinstance(e, Const):
            return isinstance(extent, int) and e.value <= extent
        if isinstance(e, Size):
            return same(e.dim, extent)
        if isinstance(e, Result):
            value = self._values.get(e)
            return value is not None and self._at_most(value, extent)
        return isinstance(e, Call) and e.fn == "min" and any(self._at_most(a, extent) for a in e.args)


def _is(e: Expr, d: Dim) -> bool:
    if isinstance(e, Const):
        return isinstance(d, int) and e.value == d
    return isinstance(e, Size) and same(e.dim, d)


def _masked_below(e: Expr, extent: Dim) -> bool:
    """Whether an unsigned number is cut to bits that leave it below the size of an axis."""
    if not isinstance(e, Call) or e.fn != "bitand" or not isinstance(e.args[1], Const):
        return False
    return isinstance(extent, int) and 0 <= e.args[1].value < extent
