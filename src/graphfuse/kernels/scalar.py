"""Scalar C of expressions: one number at a time, for loops whose next step hangs on the last.

Integers wrap around; a maximum or minimum with a NaN is NaN. What has no spelling here takes lane 0 of the vector's.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from graphfuse.codegen.vector import call_text, literal
from graphfuse.codegen.writer import Writer
from graphfuse.graph.dtypes import (
    BOOL,
    F32,
    F64,
    I64,
    U32,
    U64,
    DType,
    c_type,
    is_float,
    is_integer,
    item_bytes,
    suffix,
)
from graphfuse.ops.expr import Call, Const, Expr, Load, children

_WRAPPING = {"add": "+", "sub": "-", "mul": "*"}
_BITWISE = {"bitand": "&", "bitor": "|", "bitxor": "^"}
_LOGICAL = {"and": "&&", "or": "||", "xor": "!="}
_COMPARING = {"lt": "<", "le": "<=", "gt": ">", "ge": ">=", "eq": "==", "ne": "!="}


def value_type(dtype: DType) -> str:
    """The C type of a value outside memory."""
    return "int" if dtype == BOOL else c_type(dtype)


class Scalars:
    """Writes expressions as C text; what occurs twice in a statement is computed once.

    `leaf` gives the text of what is no function: variables, sizes, loads. `plain`: whether an integer expression is of
    sizes and loop variables alone, so that it cannot leave its range.
    """

    def __init__(self, leaf: Callable[[Expr, Scalars], str], plain: Callable[[Expr], bool]) -> None:
        self._leaf = leaf
        self._plain = plain
        self._uses: dict[Expr, int] = {}
        self._memo: dict[Expr, str] = {}
        self.writer: Writer | None = None

    def begin(self, writer: Writer, expressions: Sequence[Expr]) -> None:
        """A new statement: what was computed for the last one may have changed."""
        self.writer = writer
        self._memo = {}
        self._uses = {}
        stack = list(expressions)
        while stack:
            e = stack.pop()
            self._uses[e] = self._uses.get(e, 0) + 1
            if self._uses[e] == 1:
                stack += children(e)

    def text(self, e: Expr) -> str:
        """The C text of the expression's value, an operand of any operator."""
        if e in self._memo:
            return self._memo[e]
        if isinstance(e, Const):
            return _constant(e)
        text = self._call(e) if isinstance(e, Call) else self._leaf(e, self)
        if isinstance(e, (Call, Load)) and self._uses.get(e, 0) > 1 and self.writer is not None:
            text = self.writer.let(value_type(e.dtype), text, "t")
        self._memo[e] = text
        return text

    def _call(self, e: Call) -> str:
        args = [self.text(a) for a in e.args]
        operand = e.args[1].dtype if e.fn == "select" else e.args[0].dtype
        spelled = self._spelled(e, operand, args)
        if spelled is not None:
            return spelled
        lanes = [f"gf_splat_{suffix(a.dtype)}({text})" for a, text in zip(e.args, args, strict=True)]
        lane = f"({call_text(e, lanes)})[0]"
        return f"({lane} != 0)" if e.dtype == BOOL else lane

    def _spelled(self, e: Call, operand: DType, args: list[str]) -> str | None:
        if e.fn in _WRAPPING:
            return self._wrapping(e, args)
        if e.fn in _BITWISE:
            return f"({c_type(operand)})({args[0]} {_BITWISE[e.fn]} {args[1]})"
        if e.fn in _LOGICAL:
            return f"({args[0]} {_LOGICAL[e.fn]} {args[1]})"
        if e.fn in _COMPARING:
            return f"({args[0]} {_COMPARING[e.fn]} {args[1]})"
        if e.fn == "select":
            return f"({args[0]} ? {args[1]} : {args[2]})"
        if e.fn == "not":
            return f"(!{args[0]})"
        if e.fn == "bitnot":
            return f"({c_type(operand)})(~{args[0]})"
        if e.fn == "shr":
            return f"({c_type(operand)})({args[0]} >> {args[1]})"
        if e.fn in ("max", "min"):
            return self._extreme(e, operand, args)
        if e.fn == "bitcast" and (operand, e.dtype) in ((F32, U32), (F64, U64)):
            return f"gf_word_{suffix(operand)}({args[0]})"
        if e.fn == "cast":
            return _cast(operand, e.dtype, args[0])
        if e.fn in ("floordiv", "floormod") and operand == I64 and _is_positive(e.args[1]):
            return f"gf_{e.fn}({args[0]}, {args[1]})"
        if is_float(operand):
            return _float(e.fn, args)
        return None

    def _wrapping(self, e: Call, args: list[str]) -> str:
        sign = _WRAPPING[e.fn]
        if is_float(e.dtype) or (e.dtype == I64 and self._plain(e)):
            return f"({args[0]} {sign} {args[1]})"
        wide = "uint64_t" if item_bytes(e.dtype) == 8 else "uint32_t"
        return f"({c_type(e.dtype)})(({wide}){args[0]} {sign} ({wide}){args[1]})"

    def _extreme(self, e: Call, operand: DType, args: list[str]) -> str:
        if operand == I64:
            return f"gf_{e.fn}64({args[0]}, {args[1]})"
        a, b = (self._named(x, t) for x, t in zip(e.args, args, strict=True))
        sign = ">" if e.fn == "max" else "<"
        first = f"{a} {sign} {b} || {a} != {a}" if is_float(operand) else f"{a} {sign} {b}"
        return f"({first} ? {a} : {b})"

    def _named(self, e: Expr, text: str) -> str:
        """A text that may be repeated."""
        if text.isidentifier() or isinstance(e, Const) or self.writer is None:
            return text
        self._memo[e] = self.writer.let(value_type(e.dtype), text, "t")
        return self._memo[e]


def _constant(e: Const) -> str:
    if e.dtype in (U32, U64):
        return f"UINT{8 * item_bytes(e.dtype)}_C({int(e.value)})"
    text = literal(e)
    return f"({text})" if text.startswith("-") else text


def _is_positive(e: Expr) -> bool:
    if isinstance(e, Call) and e.fn == "max":
        return any(_is_positive(a) for a in e.args)
    return isinstance(e, Const) and e.value > 0


def _cast(source: DType, target: DType, text: str) -> str | None:
    if target == BOOL:
        return f"({text} != 0)"
    if is_float(source) and is_integer(target):
        return f"gf_to_int64({text})" if target == I64 else None
    return f"({c_type(target)}){text}"


def _float(fn: str, args: list[str]) -> str | None:
    if fn == "div":
        return f"({args[0]} / {args[1]})"
    if fn == "neg":
        return f"(-{args[0]})"
    return f"({args[0]} != {args[0]})" if fn == "isnan" else None
