"""Folds in registers: the running value of a reduction, and what is left of it at the end of a row."""

from __future__ import annotations

from graphfuse.codegen.vector import Scope
from graphfuse.codegen.writer import Writer
from graphfuse.fusion.passes import Fold
from graphfuse.graph.dtypes import BOOL, DType, c_type, is_float, item_bytes, suffix, vector_type
from graphfuse.ops.expr import Var

# Independent accumulators of a fold along the lanes, to hide the latency of the addition.
ACCUMULATORS = 4


class Accumulator:
    """The running value of a fold, in one register or several independent ones."""

    def __init__(self, fold: Fold, w: Writer, along: bool) -> None:
        self.fold = fold
        self.kind = fold.prim.kind
        self.is_arg = self.kind.startswith("arg")
        self.dtype: DType = fold.value.dtype
        self.function = {"sum": "add", "prod": "mul"}.get(self.kind, self.kind)
        if fold.prim.loose and is_float(self.dtype):
            self.function += "b"  # one instruction, where the order of NaN among numbers takes three
        self.ways = ACCUMULATORS if along and not self.is_arg else 1
        self.names = [w.fresh("acc") for _ in range(self.ways)]
        start = identity(self.kind, self.dtype)
        for name in self.names:
            w.line(f"{vector_type(self.dtype)} {name} = gf_splat_{suffix(self.dtype)}({start});")
        if self.is_arg:
            self.at = w.fresh("at")
            w.line(f"gf_i64 {self.at} = gf_splat_i64(-1);")

    def fold_in(self, scope: Scope, way: int, along: bool) -> None:
        value = scope.vector(self.fold.value)
        name, s = self.names[way], suffix(self.dtype)
        if self.is_arg:
            self._fold_position(scope, value, along)
            return
        if scope.count and along:
            value = f"gf_select_{s}(gf_first({scope.count}), {value}, gf_splat_{s}({identity(self.kind, self.dtype)}))"
        scope.writer.line(f"{name} = gf_{self.function}_{s}({name}, {value});")

    def _fold_position(self, scope: Scope, value: str, along: bool) -> None:
        axis = self.fold.prim.axes[0]
        s, w = suffix(self.dtype), scope.writer
        position = scope.vector(Var(f"i{axis}"))
        order = (
            ("ge" if self.fold.prim.last else "gt")
            if self.kind == "argmax"
            else ("le" if self.fold.prim.last else "lt")
        )
        better = f"gf_{order}_{s}({value}, {self.names[0]})"
        unset = f"gf_lt_i64({self.at}, gf_splat_i64(0))"
        take = w.let("gf_mask", f"{better} | {unset}", "m")
        if is_float(self.dtype):
            # As in NumPy, the first NaN wins over every number.
            nan = w.let("gf_mask", f"gf_ne_{s}({value}, {value}) & gf_eq_{s}({self.names[0]}, {self.names[0]})", "m")
            old = w.let("gf_mask", f"gf_eq_{s}({self.names[0]}, {self.names[0]})", "m")
            take = w.let("gf_mask", f"({take} & {old}) | {nan}", "m")
        if scope.count and along:
            take = w.let("gf_mask", f"{take} & gf_first({scope.count})", "m")
        w.line(f"{self.names[0]} = gf_select_{s}({take}, {value}, {self.names[0]});")
        w.line(f"{self.at} = gf_select_i64({take}, {position}, {self.at});")

    def finish(self, w: Writer, along: bool) -> str:
        """The C name of the result, the same in every lane when folded along them."""
        s = suffix(self.dtype)
        if self.is_arg:
            return self._finish_position(w) if along else self.at
        text = self.names[0]
        for other in self.names[1:]:
            text = f"gf_{self.function}_{s}({text}, {other})"
        if along:
            horizontal = {"sum": "hsum", "prod": "hprod"}.get(self.kind, f"h{self.function}")
            text = f"gf_splat_{s}(gf_{horizontal}_{s}({text}))"
        return w.let(vector_type(self.dtype), text, "f")

    def _finish_position(self, w: Writer) -> str:
        """Among the lanes the best value wins, and of equals the first (or last) position."""
        s, c = suffix(self.dtype), c_type(self.dtype)
        values, places, best = w.fresh("e"), w.fresh("e"), w.fresh("b")
        w.line(f"{c} {values}[GF_W];")
        w.line(f"int64_t {places}[GF_W];")
        w.line(f"gf_store_{s}({values}, {self.names[0]});")
        w.line(f"gf_store_i64({places}, {self.at});")
        w.line(f"int {best} = 0;")
        sign = ">" if self.kind == "argmax" else "<"
        tie = ">" if self.fold.prim.last else "<"
        with w.block("for (int l = 1; l < GF_W; ++l)"):
            w.line(f"if ({places}[l] < 0) continue;")
            equal, better = f"{values}[l] == {values}[{best}]", f"{values}[l] {sign} {values}[{best}]"
            if is_float(self.dtype):
                nan_l, nan_b = f"{values}[l] != {values}[l]", f"{values}[{best}] != {values}[{best}]"
                equal, better = f"({equal} || ({nan_l} && {nan_b}))", f"!({nan_b}) && ({nan_l} || {better})"
            equal = f"{equal} && {places}[l] {tie} {places}[{best}]"
            w.line(f"if (({equal}) || ({better})) {best} = l;")
        return w.let("gf_i64", f"gf_splat_i64({places}[{best}])", "f")


def identity(kind: str, dtype: DType) -> str:
    """The C text of the value that a fold starts from."""
    if kind in ("sum", "prod"):
        return "0" if kind == "sum" else "1"
    lowest = kind in ("max", "argmax")
    if is_float(dtype):
        return "-INFINITY" if lowest else "INFINITY"
    if dtype == BOOL:
        return "0" if lowest else "1"
    bits = item_bytes(dtype) * 8
    signed = suffix(dtype).startswith("i")
    if lowest:
        return f"INT{bits}_MIN" if signed else "0"
    return f"INT{bits}_MAX" if signed else f"UINT{bits}_MAX"
