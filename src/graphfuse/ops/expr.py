"""Scalar expressions: the meaning of one element.

A small typed tree. Op authors write it with Python operators and the functions below; `codegen.vector` prints it
as vector C, `ops.interpret` evaluates it with NumPy. Leaves are constants, arguments of a pointwise function, loop
variables, sizes, and loads from tensors at an index.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Union

from graphfuse.graph.dims import Dim
from graphfuse.graph.dtypes import BOOL, E8M0, F32, FLOAT8, I64, DType, is_float

if TYPE_CHECKING:
    from graphfuse.ops.tensor import Tensor

Operand = Union["Expr", int, float, bool]


class Expr:
    """A scalar expression of element type `dtype`."""

    dtype: DType

    def __add__(self, other: Operand) -> Expr:
        return binary("add", self, other)

    def __radd__(self, other: Operand) -> Expr:
        return binary("add", other, self)

    def __sub__(self, other: Operand) -> Expr:
        return binary("sub", self, other)

    def __rsub__(self, other: Operand) -> Expr:
        return binary("sub", other, self)

    def __mul__(self, other: Operand) -> Expr:
        return binary("mul", self, other)

    def __rmul__(self, other: Operand) -> Expr:
        return binary("mul", other, self)

    def __truediv__(self, other: Operand) -> Expr:
        return binary("div", self, other)

    def __rtruediv__(self, other: Operand) -> Expr:
        return binary("div", other, self)

    def __neg__(self) -> Expr:
        return unary("neg", self)

    def __lt__(self, other: Operand) -> Expr:
        return compare("lt", self, other)

    def __le__(self, other: Operand) -> Expr:
        return compare("le", self, other)

    def __gt__(self, other: Operand) -> Expr:
        return compare("gt", self, other)

    def __ge__(self, other: Operand) -> Expr:
        return compare("ge", self, other)


# eq=True would make `==` structural, which is what memo tables need; comparison of elements is spelled equal(a, b).
@dataclass(frozen=True)
class Const(Expr):
    """A literal; `value` is a Python float, int or bool."""

    value: float | int | bool
    dtype: DType = F32

    def __hash__(self) -> int:
        return hash(("const", repr(self.value), self.dtype))

    def __eq__(self, other: object) -> bool:
        # repr tells 0.0 from -0.0 and makes NaN equal to itself.
        return isinstance(other, Const) and self.dtype == other.dtype and repr(self.value) == repr(other.value)


@dataclass(frozen=True)
class Arg(Expr):
    """The i-th argument of a pointwise function."""

    position: int
    dtype: DType = F32


@dataclass(frozen=True)
class Var(Expr):
    """A loop variable, an int64."""

    name: str
    dtype: DType = I64


@dataclass(frozen=True)
class Size(Expr):
    """A run-time size, an int64."""

    dim: Dim
    dtype: DType = I64


@dataclass(frozen=True)
class Load(Expr):
    """An element of a tensor at an index; where `guard` is false the element is `fill` and memory is not touched."""

    tensor: Tensor
    index: tuple[Expr, ...]
    guard: Expr | None = None
    fill: Expr | None = None
    dtype: DType = field(init=False)
    _hash: int = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "dtype", self.tensor.dtype)
        object.__setattr__(self, "_hash", hash((id(self.tensor), self.index, self.guard, self.fill)))

    def __hash__(self) -> int:
        return self._hash


@dataclass(frozen=True)
class Call(Expr):
    """A named function of scalars; the names are the keys of `FUNCTIONS`."""

    fn: str
    args: tuple[Expr, ...]
    dtype: DType
    _hash: int = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if self.fn not in FUNCTIONS:
            raise ValueError(f"unknown scalar function {self.fn!r}")
        object.__setattr__(self, "_hash", hash((self.fn, self.args, self.dtype)))

    def __hash__(self) -> int:
        return self._hash


@dataclass(frozen=True)
class Result(Expr):
    """A value that a kernel computes itself: an accumulator, a reduction's result."""

    name: str
    dtype: DType = F32


# Conversions by name: whether what is out of range becomes the largest number of a float 8 (else infinity or NaN), and
# how a power of two (float8e8m0) is rounded. Other types know no such choice.
CASTS: dict[str, tuple[bool, str]] = {
    "cast": (True, "up"),
    "cast_down": (True, "down"),
    "cast_nearest": (True, "nearest"),
    "cast_open": (False, "up"),
    "cast_open_down": (False, "down"),
    "cast_open_nearest": (False, "nearest"),
}

# Every scalar function, with its cost in simple vector instructions (what the fusion cost model reckons with).
FUNCTIONS: dict[str, int] = {
    **dict.fromkeys(["add", "sub", "mul", "neg", "min", "max", "relu", "abs", "select", "bitcast"], 1),
    **dict.fromkeys(CASTS, 1),
    **dict.fromkeys(["lt", "le", "gt", "ge", "eq", "ne", "and", "or", "xor", "not"], 1),
    **dict.fromkeys(["bitand", "bitor", "bitxor", "bitnot", "shl", "shr"], 1),
    **dict.fromkeys(["floor", "ceil", "round", "trunc", "sign", "isnan", "isinf"], 2),
    "saturate": 4,  # float32 to the nearest integer of a narrow type, halves to even, held inside its range
    **dict.fromkeys(["div", "sqrt", "reciprocal"], 6),
    **dict.fromkeys(["mod", "fmod", "floordiv", "floormod"], 12),
    **dict.fromkeys(["exp", "log", "sigmoid", "tanh", "exp2"], 14),
    **dict.fromkeys(["erf", "log1p", "expm1", "softplus", "sin", "cos"], 20),
    **dict.fromkeys(["tan", "asin", "acos", "atan", "sinh", "cosh", "asinh", "acosh", "atanh", "pow"], 40),
    "threefry": 110,  # 64 random bits for a counter and a key
}


def lift(value: Operand, dtype: DType) -> Expr:
    """A Python number as a constant of the given type; an expression unchanged."""
    if isinstance(value, Expr):
        return value
    if dtype == BOOL:
        return Const(bool(value), dtype)
    return Const(float(value) if is_float(dtype) else int(value), dtype)


def _common(*operands: Operand) -> DType:
    types = {o.dtype for o in operands if isinstance(o, Expr)}
    if len(types) != 1:
        raise TypeError(f"operands of different types: {sorted(t.name for t in types)}")
    return types.pop()


def binary(fn: str, a: Operand, b: Operand) -> Expr:
    dtype = _common(a, b)
    x, y = lift(a, dtype), lift(b, dtype)
    return _fold_index(fn, x, y) or Call(fn, (x, y), dtype)


def _fold_index(fn: str, x: Expr, y: Expr) -> Expr | None:
    # Index arithmetic is built mechanically by index maps; the trivial cases would bury the readable C.
    if x.dtype != I64:
        return None
    a = x.value if isinstance(x, Const) else None
    b = y.value if isinstance(y, Const) else None
    if a is not None and b is not None and fn in ("add", "sub", "mul"):
        return Const({"add": a + b, "sub": a - b, "mul": a * b}[fn], I64)
    if (fn in ("add", "sub") and b == 0) or (fn in ("mul", "floordiv") and b == 1):
        return x
    if (fn == "add" and a == 0) or (fn == "mul" and a == 1):
        return y
    if (fn == "mul" and 0 in (a, b)) or (fn == "floormod" and b == 1):
        return Const(0, I64)
    return None


def unary(fn: str, a: Expr) -> Expr:
    return Call(fn, (a,), a.dtype)


def compare(fn: str, a: Operand, b: Operand) -> Expr:
    dtype = _common(a, b)
    return Call(fn, (lift(a, dtype), lift(b, dtype)), BOOL)


def equal(a: Operand, b: Operand) -> Expr:
    return compare("eq", a, b)


def maximum(a: Operand, b: Operand) -> Expr:
    return binary("max", a, b)


def minimum(a: Operand, b: Operand) -> Expr:
    return binary("min", a, b)


def where(condition: Expr, a: Operand, b: Operand) -> Expr:
    dtype = _common(*(o for o in (a, b) if isinstance(o, Expr)))
    return Call("select", (condition, lift(a, dtype), lift(b, dtype)), dtype)


def cast(a: Expr, dtype: DType, saturate: bool = True, round_mode: str = "up") -> Expr:
    """The value in another type, as ONNX's Cast converts it; raises ValueError for an unknown rounding mode.

    Floats are rounded to nearest, ties to even, and to float8e8m0 by `round_mode`: "up", "down" or "nearest". To
    integers they are truncated and held in range (4 and 2 bits: higher bits are dropped). Integers wrap around.
    """
    if a.dtype == dtype:
        return a
    choices = {choice: name for name, choice in CASTS.items()}
    if (saturate, round_mode) not in choices:
        raise ValueError(f"unknown rounding mode {round_mode!r}")
    fn = choices[saturate, round_mode if dtype == E8M0 else "up"] if dtype in FLOAT8 else "cast"
    return Call(fn, (a,), dtype)


def bitcast(a: Expr, dtype: DType) -> Expr:
    """The value whose bits are the same; raises TypeError for types of different widths."""
    if dtype.bitwidth != a.dtype.bitwidth:
        raise TypeError(f"{a.dtype.name} and {dtype.name} have different widths")
    return a if a.dtype == dtype else Call("bitcast", (a,), dtype)


def saturate(a: Expr, dtype: DType) -> Expr:
    """The nearest integer of a type of 8 or 16 bits, halves to even, held inside its range; NaN gives the least."""
    return Call("saturate", (a,), dtype)


def logical(fn: str, *args: Expr) -> Expr:
    return Call(fn, args, BOOL)


def floordiv(a: Operand, b: Operand) -> Expr:
    return binary("floordiv", a, b)


def floormod(a: Operand, b: Operand) -> Expr:
    return binary("floormod", a, b)


def exp(a: Expr) -> Expr:
    return unary("exp", a)


def log(a: Expr) -> Expr:
    return unary("log", a)


def sqrt(a: Expr) -> Expr:
    return unary("sqrt", a)


def tanh(a: Expr) -> Expr:
    return unary("tanh", a)


def erf(a: Expr) -> Expr:
    return unary("erf", a)


def sigmoid(a: Expr) -> Expr:
    return unary("sigmoid", a)


def children(e: Expr) -> tuple[Expr, ...]:
    """Direct subexpressions, index and guard of a load included."""
    if isinstance(e, Call):
        return e.args
    if isinstance(e, Load):
        return e.index + tuple(x for x in (e.guard, e.fill) if x is not None)
    return ()


def cost(e: Expr) -> int:
    """Simple vector instructions to evaluate the expression once; shared subexpressions count once."""
    seen: set[int] = set()

    def visit(x: Expr) -> int:
        if id(x) in seen:
            return 0
        seen.add(id(x))
        own = FUNCTIONS[x.fn] if isinstance(x, Call) else 0
        return own + sum(visit(c) for c in children(x))

    return visit(e)


def substitute(e: Expr, replace: dict[Expr, Expr], memo: dict[int, Expr] | None = None) -> Expr:
    """The expression with every occurrence of a key replaced by its value; sharing is kept."""
    memo = {} if memo is None else memo
    if e in replace:
        return replace[e]
    if id(e) in memo:
        return memo[id(e)]
    result = e
    if isinstance(e, Call):
        args = tuple(substitute(a, replace, memo) for a in e.args)
        result = e if all(a is b for a, b in zip(args, e.args, strict=True)) else rebuild(e, args)
    elif isinstance(e, Load):
        index = tuple(substitute(a, replace, memo) for a in e.index)
        guard = None if e.guard is None else substitute(e.guard, replace, memo)
        fill = None if e.fill is None else substitute(e.fill, replace, memo)
        result = Load(e.tensor, index, guard, fill)
    memo[id(e)] = result
    return result


def rebuild(e: Call, args: tuple[Expr, ...]) -> Expr:
    """The call with other arguments, index arithmetic simplified."""
    if len(args) == 2:
        folded = _fold_index(e.fn, *args)
        if folded is not None:
            return folded
    return Call(e.fn, args, e.dtype)


def depends_on(e: Expr, v: Var, memo: dict[int, bool] | None = None) -> bool:
    """Whether a loop variable occurs in the expression (indices and guards of loads included)."""
    memo = {} if memo is None else memo
    if e == v:
        return True
    if id(e) not in memo:
        memo[id(e)] = any(depends_on(c, v, memo) for c in children(e))
    return memo[id(e)]


def variables_of(e: Expr) -> dict[Var, None]:
    """The loop variables that occur in the expression, in order of first occurrence."""
    found: dict[Var, None] = {}
    seen: set[int] = set()

    def visit(x: Expr) -> None:
        if id(x) in seen:
            return
        seen.add(id(x))
        if isinstance(x, Var):
            found[x] = None
        for c in children(x):
            visit(c)

    visit(e)
    return found


def nodes_of(exprs: Sequence[Expr]) -> list[Expr]:
    """Every part of the expressions, each once, those inside others first."""
    found: list[Expr] = []
    seen: set[int] = set()

    def visit(x: Expr) -> None:
        if id(x) in seen:
            return
        seen.add(id(x))
        for c in children(x):
            visit(c)
        found.append(x)

    for e in exprs:
        visit(e)
    return found


def loads_of(exprs: Sequence[Expr]) -> list[Load]:
    """Every load in the expressions, inner ones (of gather indices) too, each once, in order."""
    return list(dict.fromkeys(x for x in nodes_of(exprs) if isinstance(x, Load)))
