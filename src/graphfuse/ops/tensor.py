"""Tensor programs: the one meaning of an op, as a small graph of primitives.

Every op lowers to these and to nothing else; the fusion, planning, generic kernel and reference interpreter see only
primitives, never op names:

- `Map`: every output element is a scalar function of the arguments' elements at the same (broadcast) index;
- `Reduce`: a fold over axes, which stay as size 1;
- `IndexMap` and its structured cases `Transpose`, `Reshape`, `Slice`, `Expand`: output index -> input index;
- `Generate`: output index -> element, with no data of its own (shapes, ranges, masks, weights of an interpolation);
- `Concat`, `Pad`: several index maps put together, or one with a border;
- `Contract`: a windowed sum of products (matrix product, convolution) or a windowed maximum or mean (pooling);
- `Opaque`: a result of a loop nest with a kernel of its own (`Nest`), for the few ops that are none of these.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import onnx_ir as ir

from graphfuse.graph.dims import Dim, add, mul, product, same, same_shape
from graphfuse.graph.dtypes import I8, I16, I32, I64, U8, U16, DType
from graphfuse.ops import expr as E
from graphfuse.ops.expr import Arg, Const, Expr, Load, Size, Var


@dataclass(eq=False)
class Tensor:
    """A tensor of a program: a leaf (`prim` is None: a graph value from outside) or the result of a primitive.

    `value` is the graph value it stands for, if it is one; leaves always have one. `outer`: for the leaf of a body of
    control flow that is a tensor of the graph around it, that tensor.
    """

    shape: tuple[Dim, ...]
    dtype: DType
    prim: Prim | None = None
    value: ir.Value | None = None
    outer: Tensor | None = None
    wide: Tensor | None = field(default=None, repr=False)  # the same in float32, once it is asked for: ops/narrow.py

    @property
    def rank(self) -> int:
        return len(self.shape)

    @property
    def args(self) -> tuple[Tensor, ...]:
        return () if self.prim is None else self.prim.args

    def __repr__(self) -> str:
        name = self.value.name if self.value is not None else type(self.prim).__name__
        return f"<{name} {self.dtype.name}{list(self.shape)}>"


@dataclass(eq=False)
class Prim:
    """A primitive applied to tensors."""

    args: tuple[Tensor, ...]


@dataclass(eq=False)
class Map(Prim):
    """out[i] = body(args[i]), arguments broadcast as in NumPy; `body` has `Arg` leaves."""

    body: Expr


@dataclass(eq=False)
class Reduce(Prim):
    """out[i] = fold of args[0] over `axes` (kept as size 1) by `kind`.

    Kinds: sum, prod, max, min (type of the argument), argmax, argmin (int64; the first of equals, or the last).
    `loose`: a maximum over a NaN may be any number, as the caller's result will be NaN by other ways.
    """

    kind: str
    axes: tuple[int, ...]
    last: bool = False
    loose: bool = False


IndexFunction = Callable[[Sequence[Expr]], tuple[Expr, ...]]


@dataclass(eq=False)
class IndexMap(Prim):
    """out[i] = args[0][index(i)], or `fill` where `guard(i)` is false.

    The further arguments are tensors that `index` loads from (gather indices).
    """

    index: IndexFunction
    guard: Callable[[Sequence[Expr]], Expr | None] | None = None
    fill: Expr | None = None

    def at(self, position: Sequence[Expr]) -> tuple[tuple[Expr, ...], Expr | None]:
        """The input index and guard for an output index."""
        return self.index(position), None if self.guard is None else self.guard(position)


@dataclass(eq=False)
class Transpose(IndexMap):
    """out axis k is input axis perm[k]."""

    perm: tuple[int, ...] = ()


@dataclass(eq=False)
class Reshape(IndexMap):
    """The same elements in row-major order under another shape; that is right where no size of `not_one` is 1."""

    shape: tuple[Dim, ...] = ()
    not_one: tuple[Dim, ...] = ()


@dataclass(eq=False)
class Slice(IndexMap):
    """out[i] = in[start + i * step], axis by axis; starts are dims or negative-free expressions of dims."""

    starts: tuple[Dim, ...] = ()
    steps: tuple[int, ...] = ()


@dataclass(eq=False)
class Expand(IndexMap):
    """Broadcast to a larger shape."""


@dataclass(eq=False)
class Generate(Prim):
    """out[i] = body(i); the arguments are tensors that `body` loads from."""

    body: Callable[[Sequence[Expr]], Expr]


@dataclass(eq=False)
class Concat(Prim):
    """The arguments one after another along `axis`."""

    axis: int


@dataclass(eq=False)
class Pad(Prim):
    """args[0] with a border: `before[k]` elements ahead of axis k, `after[k]` behind, each >= 0, of value `fill`."""

    before: tuple[Dim, ...]
    after: tuple[Dim, ...]
    fill: Expr


@dataclass(eq=False)
class Contract(Prim):
    """A contraction or a window fold; `kind` and `attrs` say which.

    Products of int8 and uint8 may be summed up in int32, which is then the result's type; the second argument is int8.

    - "matmul": args (a[..., M, K], b[..., K, N]), batch dimensions broadcast.
    - "conv": args (x[N, C, *spatial], w[O, C/groups, *kernel]); attrs `Window`.
    - "conv_transpose": args (x[N, C, *spatial], w[C, O/groups, *kernel]); attrs `Window`.
    - "max_pool", "average_pool": args (x[N, C, *spatial],); attrs `Window`.
    """

    kind: str
    attrs: Any = None


@dataclass(frozen=True)
class Window:
    """The sliding window of a convolution or pooling; per spatial axis, `pads` ahead then behind.

    Tap t of output o reads input o * stride + t * dilation - pads_before; the transposed convolution adds input i into
    output i * stride + t * dilation - pads_before. Output sizes are the tensor's shape. Taps outside the input count as
    zero in a convolution and are left out of a pooling; with `count_include_pad` the mean divides by the number of taps
    inside the padded input.
    """

    kernel: tuple[int, ...]
    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    pads_before: tuple[Dim, ...]
    pads_after: tuple[Dim, ...]
    groups: int = 1
    count_include_pad: bool = False


@dataclass(eq=False)
class Body:
    """A graph inside a node of control flow, lowered. `program` is what `fusion/program.py` has made of it.

    captured: its leaves that are tensors of a graph around it; sizes: the measured sizes from around it that it
    computes with; own_sizes: the names of those that it measures itself.
    """

    program: Any
    outputs: list[Tensor]
    captured: list[Tensor]
    sizes: list[Dim]
    own_sizes: frozenset[str]

    @property
    def outer(self) -> list[Tensor]:
        """The tensors around it that it reads."""
        return [leaf.outer for leaf in self.captured if leaf.outer is not None]


class Evaluator(Protocol):
    """What a nest's meaning may ask for; NumPy arrays throughout."""

    def run(
        self, body: Body, leaves: Mapping[Tensor, np.ndarray], sizes: Mapping[str, int], wanted: Sequence[Dim]
    ) -> tuple[list[np.ndarray], list[int]]:
        """The outputs of a body for these values of its inputs and measured sizes, and sizes that it comes to."""

    def set_sizes(self, sizes: Mapping[str, int]) -> None:
        """Give measured sizes their values."""

    def value(self, tensor: Tensor) -> np.ndarray:
        """The value of one of the nest's arguments."""

    def size(self, d: Dim) -> int:
        """The value of a dimension."""

    def element(self, e: Expr, shape: tuple[int, ...], known: Mapping[Expr, np.ndarray]) -> np.ndarray:
        """A scalar expression at every index of a space; `known` gives the leaves that are not loads or constants."""


class Nest:
    """A loop nest that no other primitive expresses: a kernel of its own computes all of its results in one call.

    A family of such nests is a subclass (`ops/recurrence.py`); a kernel in `kernels/` that accepts the family computes
    it. Everything that it reads is in `args`, also what its expressions load.
    """

    name: str
    args: tuple[Tensor, ...]
    results: tuple[tuple[tuple[Dim, ...], DType], ...]

    @property
    def own(self) -> set[str]:
        """The names of measured sizes that it sets itself."""
        return set()

    def meaning(self, evaluator: Evaluator) -> list[np.ndarray]:
        """The results in NumPy."""
        raise NotImplementedError

    # Whether an axis may be longer than the loop over it.
    reads_parts = False

    def loads(self) -> Iterable[tuple[Load, Mapping[Expr, Dim]]]:
        """What the expressions load, with the loops' sizes by variable: an axis at a variable has to be as long."""
        return ()

    def limits(self) -> Iterable[tuple[Dim, Dim, str]]:
        """Sizes of which the first must be at most the second, and what is said where it is not."""
        return ()

    def start(self, result: int) -> Tensor | None:
        """The argument that a result begins as a copy of, and may take the place of; it is read no other way."""
        return None

    def sizes(self) -> Iterable[Dim]:
        """The sizes that it computes with, beside those in the shapes of its arguments and results."""
        return ()


@dataclass(eq=False)
class Opaque(Prim):
    """One result of a loop nest, `nest.results[index]`. Those of one nest are computed together, as far as wanted."""

    nest: Nest
    index: int = 0


# ---------------------------------------------------------------- constructors used by op files


def broadcast(*shapes: Sequence[Dim]) -> tuple[Dim, ...]:
    """NumPy's broadcasting of shapes. Two different unknown sizes are taken as equal (checked at run time)."""
    rank = max(map(len, shapes), default=0)
    result: list[Dim] = []
    for axis in range(rank):
        size: Dim = 1
        for shape in shapes:
            k = axis - (rank - len(shape))
            d = 1 if k < 0 else shape[k]
            if isinstance(size, int) and size == 1:
                size = d
            elif isinstance(d, int) and d != 1 and not isinstance(size, int):
                size = d  # the known size is the better name for the same number
            elif isinstance(d, int) and isinstance(size, int) and d not in (1, size):
                raise ValueError(f"shapes {[list(s) for s in shapes]} do not broadcast")
        result.append(size)
    return tuple(result)


def map_(function: Callable[..., Expr], *args: Tensor) -> Tensor:
    """Apply a scalar function element by element, with broadcasting."""
    body = function(*(Arg(k, a.dtype) for k, a in enumerate(args)))
    return Tensor(broadcast(*(a.shape for a in args)), body.dtype, Map(args, body))


def reduce(kind: str, x: Tensor, axes: Sequence[int], last: bool = False, loose: bool = False) -> Tensor:
    """Fold over axes; they stay as size 1. A sum or extreme over no axes is the tensor itself."""
    normal = tuple(sorted(a % x.rank for a in axes))
    if not normal:
        return x
    shape = tuple(1 if k in normal else d for k, d in enumerate(x.shape))
    dtype = I64 if kind.startswith("arg") else x.dtype
    return Tensor(shape, dtype, Reduce((x,), kind, normal, last, loose))


def count(x: Tensor, axes: Sequence[int]) -> Dim:
    """How many elements a reduction over the axes folds into one."""
    return product(x.shape[a % x.rank] for a in axes)


def transpose(x: Tensor, perm: Sequence[int]) -> Tensor:
    order = tuple(perm)
    inverse = [order.index(k) for k in range(len(order))]
    shape = tuple(x.shape[k] for k in order)
    return Tensor(shape, x.dtype, Transpose((x,), lambda i: tuple(i[k] for k in inverse), perm=order))


def reshape(x: Tensor, shape: Sequence[Dim], not_one: Sequence[Dim] = ()) -> Tensor:
    """Row-major reshape. A dimension that lines up with one of the input costs no division.

    not_one: sizes that must not be 1, which is checked at run time.
    """
    target = tuple(shape)
    if same_shape(target, x.shape) and not not_one:
        return x
    groups = reshape_groups(x.shape, target)

    def index(i: Sequence[Expr]) -> tuple[Expr, ...]:
        result: list[Expr] = []
        for ins, outs in groups:
            result += _regroup([x.shape[k] for k in ins], [target[k] for k in outs], [i[k] for k in outs])
        return tuple(result)

    return Tensor(target, x.dtype, Reshape((x,), index, shape=target, not_one=tuple(not_one)))


def reshape_groups(source: Sequence[Dim], target: Sequence[Dim]) -> list[tuple[list[int], list[int]]]:
    """Split a reshape into the smallest independent groups (input axes, output axes) of equal element count."""
    groups: list[tuple[list[int], list[int]]] = []
    i = j = 0
    while i < len(source) or j < len(target):
        ins, outs = [], []
        a: Dim = 1
        b: Dim = 1
        if i < len(source):
            ins, a, i = [i], source[i], i + 1
        if j < len(target):
            outs, b, j = [j], target[j], j + 1
        while not same(a, b):
            grow_in = _less(a, b) if i < len(source) and j < len(target) else i < len(source)
            if grow_in and i < len(source):
                ins.append(i)
                a, i = mul(a, source[i]), i + 1
            elif j < len(target):
                outs.append(j)
                b, j = mul(b, target[j]), j + 1
            else:
                break  # unknown sizes that are equal only at run time: one group to the end
        groups.append((ins, outs))
    return groups


def _less(a: Dim, b: Dim) -> bool:
    if isinstance(a, int) and isinstance(b, int):
        return a < b
    return isinstance(a, int)


def _regroup(source: Sequence[Dim], target: Sequence[Dim], i: Sequence[Expr]) -> list[Expr]:
    linear: Expr = Const(0, I64)
    real_targets = [(d, e) for d, e in zip(target, i, strict=True) if not (isinstance(d, int) and d == 1)]
    for d, e in real_targets:
        linear = linear * size(d) + e
    result: list[Expr] = []
    real = [k for k, d in enumerate(source) if not (isinstance(d, int) and d == 1)]
    stride: Dim = 1
    parts: dict[int, Expr] = {}
    for position, k in enumerate(reversed(real)):
        part = E.floordiv(linear, size(stride)) if not (isinstance(stride, int) and stride == 1) else linear
        parts[k] = part if position == len(real) - 1 else E.floormod(part, size(source[k]))
        stride = mul(stride, source[k])
    for k in range(len(source)):
        result.append(parts.get(k, Const(0, I64)))
    return result


def size(d: Dim) -> Expr:
    """A dimension as an index expression."""
    return Const(d, I64) if isinstance(d, int) else Size(d)


def slice_(x: Tensor, starts: Sequence[Dim], shape: Sequence[Dim], steps: Sequence[int]) -> Tensor:
    first, step = tuple(starts), tuple(steps)

    def index(i: Sequence[Expr]) -> tuple[Expr, ...]:
        return tuple(size(s) + e * Const(t, I64) for s, t, e in zip(first, step, i, strict=True))

    return Tensor(tuple(shape), x.dtype, Slice((x,), index, starts=first, steps=step))


def expand(x: Tensor, shape: Sequence[Dim]) -> Tensor:
    target = broadcast(x.shape, shape)
    if same_shape(target, x.shape):
        return x
    lead = len(target) - x.rank

    def index(i: Sequence[Expr]) -> tuple[Expr, ...]:
        return tuple(broadcast_index(d, target[lead + k], i[lead + k]) for k, d in enumerate(x.shape))

    return Tensor(target, x.dtype, Expand((x,), index))


def broadcast_index(d: Dim, out: Dim, i: Expr) -> Expr:
    """The index into an axis of size d that is broadcast to size out."""
    return Const(0, I64) if isinstance(d, int) and d == 1 else i


def index_map(
    x: Tensor,
    shape: Sequence[Dim],
    index: IndexFunction,
    *more: Tensor,
    guard: Callable[[Sequence[Expr]], Expr | None] | None = None,
    fill: Expr | None = None,
) -> Tensor:
    """A general index map; `more` are the tensors that `index` loads from."""
    return Tensor(tuple(shape), x.dtype, IndexMap((x, *more), index, guard, fill))


def generate(shape: Sequence[Dim], body: Callable[[Sequence[Expr]], Expr], *more: Tensor) -> Tensor:
    """A tensor whose elements are a function of their index; `more` are the tensors that `body` loads from."""
    target = tuple(shape)
    return Tensor(target, body(variables(len(target))).dtype, Generate(more, body))


def concat(parts: Sequence[Tensor], axis: int) -> Tensor:
    """The tensors one after another along an axis."""
    first = parts[0]
    total: Dim = 0
    for part in parts:
        total = add(total, part.shape[axis])
    # Where the parts name the same size differently, a known number is the better name.
    shape = [next((p.shape[k] for p in parts if isinstance(p.shape[k], int)), d) for k, d in enumerate(first.shape)]
    shape[axis] = total
    return Tensor(tuple(shape), first.dtype, Concat(tuple(parts), axis))


def pad(x: Tensor, before: Sequence[Dim], after: Sequence[Dim], fill: Expr) -> Tensor:
    """A border of constant value; every width >= 0."""
    shape = tuple(add(add(d, b), a) for d, b, a in zip(x.shape, before, after, strict=True))
    return Tensor(shape, x.dtype, Pad((x,), tuple(before), tuple(after), fill))


def contract(kind: str, args: Sequence[Tensor], shape: Sequence[Dim], attrs: Any = None) -> Tensor:
    """A contraction or window fold with the given output shape; the type is that of the first argument.

    Products of integers of 8 and 16 bits are summed up in int32 and then wrap, which comes to the same.
    """
    dtype = args[0].dtype
    if dtype in (I8, U8, I16, U16) and not kind.endswith("pool"):
        wide = contract(kind, [map_(lambda v: E.cast(v, I32), a) for a in args], shape, attrs)
        return map_(lambda v: E.cast(v, dtype), wide)
    return Tensor(tuple(shape), args[0].dtype, Contract(tuple(args), kind, attrs))


def opaque(nest: Nest, index: int) -> Tensor:
    """One of the results of a loop nest."""
    shape, dtype = nest.results[index]
    return Tensor(shape, dtype, Opaque(nest.args, nest, index))


def constant(array: np.ndarray, name: str) -> Tensor:
    """A tensor known at compile time that is no value of the graph, such as weights in another order."""
    value = ir.Value(name=name, const_value=ir.tensor(np.ascontiguousarray(array).reshape(array.shape)))
    return Tensor(array.shape, DType.from_numpy(array.dtype), None, value)


def variables(rank: int) -> tuple[Var, ...]:
    """The canonical loop variables of an iteration space: i0, i1, ..."""
    return tuple(Var(f"i{k}") for k in range(rank))


def load(x: Tensor, index: Sequence[Expr]) -> Load:
    return Load(x, tuple(index))
