"""Prints scalar expressions as vector C: one register of GF_W lanes per expression.

Expressions are emitted once, in the outermost scope where everything they depend on is known, so loop-invariant work
leaves the loop and common subexpressions are shared. Floating-point arithmetic exists only in vector form: a tail
computes whole registers of which only part is loaded and stored, so an element's bits never depend on its position.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from graphfuse.codegen.access import Access, access
from graphfuse.codegen.conversion import bitcast_text, conversion_text
from graphfuse.codegen.params import Params
from graphfuse.codegen.writer import Writer
from graphfuse.graph.dims import Dim
from graphfuse.graph.dtypes import (
    BOOL,
    F32,
    F64,
    I64,
    NARROW,
    DType,
    c_type,
    code_name,
    is_float,
    register,
    scalar_type,
    suffix,
    vector_type,
)
from graphfuse.ops.conversion import cast
from graphfuse.ops.expr import CASTS, Call, Const, Expr, Load, Result, Size, Var, children, depends_on, loads_of
from graphfuse.ops.tensor import Tensor
from graphfuse.plan.view import View


@dataclass
class Context:
    """What is the same for a whole kernel: parameters, where tensors live, which variable runs along the lanes."""

    params: Params
    views: Mapping[Tensor, View]
    lane: Var | None
    accesses: dict[Load, Access] = field(default_factory=dict)

    def access(self, e: Load) -> Access:
        if e not in self.accesses:
            self.accesses[e] = access(self.views[e.tensor], e.index)
        return self.accesses[e]


class Scope:
    """A place in the code where some loop variables are known; scopes nest as loops do.

    `variables` maps loop variables to C text, `count` is the C name of the number of valid lanes in a tail.
    """

    def __init__(
        self,
        context: Context,
        writer: Writer,
        parent: Scope | None = None,
        variables: Mapping[Var, str] | None = None,
        count: str | None = None,
    ) -> None:
        self.context = context
        self.writer = writer
        self.parent = parent
        self.variables = dict(variables or {})
        self.depth: int = 0 if parent is None else parent.depth + 1
        self.count: str | None = count if count is not None or parent is None else parent.count
        self._bound: dict[Expr, str] = {}
        self._memo: dict[object, str] = {}
        self._depths: dict[int, tuple[Expr, int]] = {}

    def child(
        self, variables: Mapping[Var, str] | None = None, writer: Writer | None = None, count: str | None = None
    ) -> Scope:
        return Scope(self.context, writer or self.writer, self, variables, count)

    def bind(self, e: Expr, name: str) -> None:
        """From here inward the expression is held by a C variable."""
        self._bound[e] = name

    # ------------------------------------------------------------------ values

    def vector(self, e: Expr) -> str:
        """The C text of a register that holds the expression."""
        bound = self._find_bound(e)
        if bound is not None:
            return bound
        home = self._home(e)
        if e not in home._memo:
            home._memo[e] = home._emit(e)
        return home._memo[e]

    def _find_bound(self, e: Expr) -> str | None:
        scope: Scope | None = self
        while scope is not None:
            if e in scope._bound:
                return scope._bound[e]
            scope = scope.parent
        return None

    def _home(self, e: Expr) -> Scope:
        depth = self._depth(e)
        scope: Scope = self
        while scope.depth > depth:
            assert scope.parent is not None
            scope = scope.parent
        return scope

    def _depth(self, e: Expr) -> int:
        known = self._depths.get(id(e))
        if known is not None and known[0] is e:
            return known[1]
        depth = self._compute_depth(e)
        self._depths[id(e)] = (e, depth)
        return depth

    def _compute_depth(self, e: Expr) -> int:
        scope: Scope | None = self
        while scope is not None:
            if e in scope._bound or (isinstance(e, Var) and e in scope.variables):
                return scope.depth
            scope = scope.parent
        if isinstance(e, Result):
            raise KeyError(f"{e} has no value here")
        if isinstance(e, Var):
            raise KeyError(f"loop variable {e.name} is not known here")
        if isinstance(e, Load):
            acc = self.context.access(e)
            depths = [self._depth(v) for v, s in acc.strides.items() if s != 0]
            depths += [self._depth(x) for x, _ in acc.irregular]
            depths += [self._depth(x) for x in (e.guard, e.fill) if x is not None]
            return max(depths, default=0)
        return max((self._depth(c) for c in children(e)), default=0)

    def _emit(self, e: Expr) -> str:
        if isinstance(e, Const):
            return self.writer.let(vector_type(e.dtype), f"gf_splat_{register(e.dtype)}({literal(e)})", "k")
        if isinstance(e, Load):
            return self._emit_load(e)
        if isinstance(e, (Var, Size)):
            return self.writer.let("gf_i64", self._index_vector(e), "iv")
        if isinstance(e, Call):
            args = [self.vector(a) for a in e.args]
            return self.writer.let(vector_type(e.dtype), call_text(e, args), "v")
        raise TypeError(f"cannot emit {e}")

    def _index_vector(self, e: Expr) -> str:
        text = f"gf_splat_i64({self.index(e)})"
        return f"{text} + gf_cast_i32_i64(gf_iota())" if e == self.context.lane else text

    # ------------------------------------------------------------------ memory

    def _emit_load(self, e: Load) -> str:
        acc = self.context.access(e)
        name = suffix(e.dtype)
        lane = self.context.lane
        if lane is not None and self._is_lanewise(e, acc):
            return self._emit_lanewise_load(e, acc)
        pointer = self.address(acc, e.tensor)
        stride = acc.along(lane)
        text = self._load_text(name, pointer, stride)
        if e.guard is not None:
            fill = self.vector(e.fill) if e.fill is not None else f"gf_splat_{register(e.dtype)}(0)"
            text = f"{self.index(e.guard)} ? {text} : {fill}"
        return self.writer.let(vector_type(e.dtype), text, "x")

    def _load_text(self, name: str, pointer: str, stride: Dim) -> str:
        if stride == 0:
            return f"gf_splat_{name}(*({pointer}))" if name != "bool" else f"gf_splat_bool(*({pointer}) != 0)"
        if stride == 1:
            return f"gf_load_{name}({pointer})" if not self.count else f"gf_load_part_{name}({pointer}, {self.count})"
        step = self.context.params.dim(stride, "s")
        if self.count:
            return f"gf_loads_part_{name}({pointer}, {step}, {self.count})"
        return f"gf_loads_{name}({pointer}, {step})"

    def _is_lanewise(self, e: Load, acc: Access) -> bool:
        lane = self.context.lane
        assert lane is not None
        return acc.irregular_in(lane) or (e.guard is not None and depends_on(e.guard, lane))

    def _emit_lanewise_load(self, e: Load, acc: Access) -> str:
        """Gather lane by lane: the index is not affine along the lanes."""
        lane = self.context.lane
        assert lane is not None
        name, element = suffix(e.dtype), c_type(e.dtype)
        if e.dtype in NARROW:
            name, element = register(e.dtype), scalar_type(e.dtype)
        array = self.writer.fresh("e")
        counter = self.writer.fresh("l")
        writer = self.writer
        writer.line(f"{element} {array}[GF_W] = {{0}};")
        position = self.index(lane)
        # Whatever is the same for all lanes is written ahead of the loop over them.
        self.writer = writer.section()
        with writer.loop(counter, "0", self.count or "GF_W"):
            body = writer.section()
            inner = self.child({lane: f"({position} + {counter})"}, writer=body)
            if e.guard is None:
                body.line(f"{array}[{counter}] = {read_text(e.dtype, inner.address(acc, e.tensor))};")
            else:
                fill = inner.scalar(e.fill) if e.fill is not None else "0"
                body.line(f"{array}[{counter}] = {fill};")
                with body.block(f"if ({inner.index(e.guard)})"):
                    inner.writer = body.section()
                    body.line(f"{array}[{counter}] = {read_text(e.dtype, inner.address(acc, e.tensor))};")
        self.writer = writer
        return writer.let(vector_type(e.dtype), f"gf_load_{name}({array})", "x")

    def address(self, acc: Access, tensor: Tensor) -> str:
        """The C text of the pointer to the element (of the first lane)."""
        view = acc.view
        base = self.context.params.pointer(view, view.dtype, "x")
        return self._offset(acc, base, "const ")

    def _offset(self, acc: Access, base: str, qualifier: str) -> str:
        chain: list[Scope] = []
        scope: Scope | None = self
        while scope is not None:
            chain.append(scope)
            scope = scope.parent
        text = base
        owner = {v: self._depth(v) for v, s in acc.strides.items() if s != 0}
        homes = [(e, s, self._depth(e)) for e, s in acc.irregular]
        for scope in reversed(chain):
            terms = [self._term(self.index(v), s) for v, s in acc.strides.items() if s != 0 and owner[v] == scope.depth]
            terms += [self._term(self.index(e), s) for e, s, depth in homes if depth == scope.depth and s != 0]
            if scope.depth == 0 and acc.constant != 0:
                terms.append(self.context.params.dim(acc.constant, "o"))
            if terms:
                text = f"{text} + " + " + ".join(terms)
                if scope is not self:
                    text = scope._pointer(acc, text, qualifier)
        return text

    def _pointer(self, acc: Access, text: str, qualifier: str) -> str:
        key = (qualifier, text)  # what is loaded from may be stored to as well
        if key not in self._memo:
            self._memo[key] = self.writer.fresh("q")
            self.writer.line(f"{qualifier}{c_type(acc.view.dtype)} *const {self._memo[key]} = {text};")
        return self._memo[key]

    def _term(self, text: str, stride: Dim) -> str:
        return text if stride == 1 else f"{text} * {self.context.params.dim(stride, 's')}"

    # ------------------------------------------------------------------ scalars (index arithmetic)

    def index(self, e: Expr) -> str:
        """The C text of a scalar that holds an index expression (int64) or a condition (int)."""
        return self.scalar(e)

    def scalar(self, e: Expr) -> str:
        if isinstance(e, Const):
            return literal(e)
        if isinstance(e, Size):
            return self.context.params.dim(e.dim)
        if isinstance(e, Var):
            return self._variable(e)
        home = self._home(e)
        key = ("scalar", e)
        if key not in home._memo:
            home._memo[key] = home._emit_scalar(e)
        return home._memo[key]

    def _variable(self, v: Var) -> str:
        scope: Scope | None = self
        while scope is not None:
            if v in scope.variables:
                return scope.variables[v]
            scope = scope.parent
        raise KeyError(f"loop variable {v.name} is not known here")

    def _emit_scalar(self, e: Expr) -> str:
        if isinstance(e, Load):
            acc = self.context.access(e)
            text = read_text(e.dtype, self.address(acc, e.tensor))
            if e.guard is not None:
                fill = self.scalar(e.fill) if e.fill is not None else "0"
                text = f"{self.scalar(e.guard)} ? {text} : {fill}"
            return self.writer.let(scalar_type(e.dtype), text, "a")
        assert isinstance(e, Call), e
        args = [self.scalar(a) for a in e.args]
        c = "int" if e.dtype == BOOL else scalar_type(e.dtype)
        return self.writer.let(c, scalar_call_text(e, args), "a")

    # ------------------------------------------------------------------ stores

    def destination(self, view: View, acc: Access) -> str:
        """The C text of the pointer to an element (of the first lane) that is written."""
        return self._offset(acc, self.context.params.pointer(view, view.dtype, "y", written=True), "")

    def store(self, view: View, acc: Access, value: str) -> None:
        """Store a register at an address of an output."""
        name = suffix(view.dtype)
        pointer = self.destination(view, acc)
        stride = acc.along(self.context.lane)
        if stride == 0:
            self.writer.line(f"gf_store_part_{name}({pointer}, {value}, 1);")
        elif stride == 1 and not self.count:
            self.writer.line(f"gf_store_{name}({pointer}, {value});")
        elif stride == 1:
            self.writer.line(f"gf_store_part_{name}({pointer}, {value}, {self.count});")
        elif self.count:
            step = self.context.params.dim(stride, "s")
            self.writer.line(f"gf_stores_part_{name}({pointer}, {step}, {value}, {self.count});")
        else:
            step = self.context.params.dim(stride, "s")
            self.writer.line(f"gf_stores_{name}({pointer}, {step}, {value});")


def read_text(dtype: DType, pointer: str) -> str:
    """The C text of one element in memory as a scalar to compute with."""
    return f"gf_get_{suffix(dtype)}(*({pointer}))" if dtype in NARROW else f"*({pointer})"


def literal(e: Const) -> str:
    """A C literal that reads back as the same number; of a type of codes, the code."""
    if e.dtype == BOOL:
        return "1" if e.value else "0"
    if code_name(e.dtype) is not None:
        return str(int(cast(np.asarray(e.value), e.dtype).view(np.uint8)))
    if not is_float(e.dtype):
        value = int(e.value)
        if value >= 2**63:
            return f"UINT64_C({value})"
        return str(value) if abs(value) < 2**31 else ("INT64_MIN" if value == -(2**63) else f"INT64_C({value})")
    x = float(e.value)
    if math.isnan(x):
        return "NAN"
    if math.isinf(x):
        return "INFINITY" if x > 0 else "-INFINITY"
    if e.dtype == F64:
        return repr(x)
    with np.errstate(over="ignore"):
        rounded = np.float32(np.asarray(x, e.dtype.numpy()))
    if np.isinf(rounded):
        return "INFINITY" if x > 0 else "-INFINITY"
    text = str(rounded)
    return f"{text}f" if any(c in text for c in ".e") else f"{text}.0f"


_OPERATORS = {"add": "+", "sub": "-", "mul": "*", "bitand": "&", "bitor": "|", "bitxor": "^"}
_LOGICAL = {"and": "&", "or": "|", "xor": "^"}
# Functions whose result is a value of the type where the arguments are, and conversions, which round themselves.
_EXACT = frozenset({"neg", "min", "max", "relu", "abs", "select", "floor", "ceil", "round", "trunc", "sign", "bitcast"})


def call_text(e: Call, args: list[str]) -> str:
    """A scalar function applied to registers."""
    operand = e.args[1].dtype if e.fn == "select" else e.args[0].dtype
    name = register(operand)
    if e.dtype in NARROW and e.fn not in _EXACT and e.fn not in CASTS:
        # Computed in float32, and rounded as every result of the type is.
        return f"gf_round_{suffix(e.dtype)}({_function_text(e, args, name)})"
    return _function_text(e, args, name)


def _function_text(e: Call, args: list[str], name: str) -> str:
    operand = e.args[1].dtype if e.fn == "select" else e.args[0].dtype
    if e.fn in CASTS:
        return conversion_text(e, args[0])
    if e.fn == "bitcast":
        return bitcast_text(operand, e.dtype, args[0])
    if e.fn in _OPERATORS and (is_float(operand) or e.fn.startswith("bit")):
        return f"{args[0]} {_OPERATORS[e.fn]} {args[1]}"
    if e.fn in _LOGICAL:
        return f"{args[0]} {_LOGICAL[e.fn]} {args[1]}"
    if e.fn in ("not", "bitnot"):
        return f"~{args[0]}"
    if e.fn == "neg" and is_float(operand):
        return f"-{args[0]}"
    if e.fn == "div" and is_float(operand):
        return f"{args[0]} / {args[1]}"
    if e.fn == "reciprocal" and is_float(operand):
        return f"gf_splat_{name}(1) / {args[0]}"
    if e.fn in ("max", "min") and is_float(operand) and (k := _number(e)) is not None:
        return f"gf_{e.fn}k_{name}({args[k]}, {args[1 - k]})"
    if e.fn == "floordiv":
        return f"gf_div_{name}(gf_sub_{name}({args[0]}, gf_mod_{name}({args[0]}, {args[1]})), {args[1]})"
    if e.fn == "floormod":
        return f"gf_mod_{name}({args[0]}, {args[1]})"
    if e.fn in ("cast", "saturate"):
        return f"gf_{e.fn}_{name}_{suffix(e.dtype)}({args[0]})"
    return f"gf_{e.fn}_{name}({', '.join(args)})"


def _number(e: Call) -> int | None:
    """Which of two arguments is a constant and not NaN: comparing with it takes one instruction."""
    numbers = [k for k, a in enumerate(e.args) if isinstance(a, Const) and not math.isnan(float(a.value))]
    return numbers[0] if numbers else None


_SCALAR_INFIX = {
    "add": "+",
    "sub": "-",
    "mul": "*",
    "and": "&&",
    "or": "||",
    "xor": "!=",
    "bitand": "&",
    "bitor": "|",
    "lt": "<",
    "le": "<=",
    "gt": ">",
    "ge": ">=",
    "eq": "==",
    "ne": "!=",
}
_WRAPPING = ("add", "sub", "mul")
_SCALAR_FLOAT = {"floor": "floor", "ceil": "ceil", "round": "rint", "trunc": "trunc", "sqrt": "sqrt", "abs": "fabs"}


def scalar_call_text(e: Call, args: list[str]) -> str:
    """A scalar function applied to scalars: what index arithmetic needs, and no more."""
    operand = e.args[1].dtype if e.fn == "select" else e.args[0].dtype
    if e.fn in _WRAPPING and e.dtype == I64 and loads_of(e.args):
        # What comes from data may be anything: let it wrap, where C would leave it undefined.
        return f"(int64_t)((uint64_t){args[0]} {_SCALAR_INFIX[e.fn]} (uint64_t){args[1]})"
    if e.fn in _SCALAR_INFIX:
        return f"{args[0]} {_SCALAR_INFIX[e.fn]} {args[1]}"
    if e.fn == "select":
        return f"{args[0]} ? {args[1]} : {args[2]}"
    if e.fn == "not":
        return f"!{args[0]}"
    if e.fn == "neg":
        return f"-{args[0]}"
    if e.fn == "cast":
        return _scalar_cast(operand, e.dtype, args[0])
    if is_float(operand):
        if e.fn == "div":
            return f"{args[0]} / {args[1]}"
        if e.fn in _SCALAR_FLOAT:
            return f"{_SCALAR_FLOAT[e.fn]}{'f' if operand == F32 else ''}({args[0]})"
        if e.fn in ("min", "max"):
            return f"f{e.fn}{'f' if operand == F32 else ''}({args[0]}, {args[1]})"
    elif e.fn in ("floordiv", "floormod"):
        return f"gf_{e.fn}({args[0]}, {args[1]})"
    elif e.fn in ("min", "max"):
        return f"gf_{e.fn}64({args[0]}, {args[1]})"
    elif e.fn == "div":
        return f"{args[0]} / {args[1]}"
    raise NotImplementedError(f"scalar function {e.fn} of {operand.name} in index arithmetic")


def _scalar_cast(source: DType, target: DType, text: str) -> str:
    if is_float(source) and target == I64:
        return f"gf_to_int64({text})"
    return f"({c_type(target)})({text})"
