"""The executable meaning of tensor programs, in NumPy: simple and slow.

Everything faster is compared with this, and this is compared with onnxruntime and the ONNX reference evaluator.
Contractions and sums of floats, and the functions that are not exactly rounded in NumPy, are computed in float64 and
rounded once.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product as cartesian
from typing import Any

import numpy as np
import onnx_ir as ir

from graphfuse.graph import dims
from graphfuse.graph.dtypes import DType, is_float
from graphfuse.ops.expr import Arg, Call, Const, Expr, Load, Size, Var
from graphfuse.ops.measured import Measures, Source
from graphfuse.ops.scalars import apply, is_integral
from graphfuse.ops.tensor import (
    Body,
    Concat,
    Contract,
    Generate,
    IndexMap,
    Map,
    Nest,
    Opaque,
    Pad,
    Prim,
    Reduce,
    Tensor,
    Window,
    variables,
)


def evaluate(
    tensors: Sequence[Tensor],
    leaves: Mapping[Tensor, np.ndarray],
    env: Mapping[str, int] | None = None,
    measures: Measures | None = None,
) -> list[np.ndarray]:
    """The values of tensors.

    `leaves` gives the leaves' values; a leaf that is not in it must be a graph constant. `env` gives the symbols'
    values, `measures` those of sizes that the program itself computes. Raises ValueError where a value has not the
    shape or type that its tensor declares, or an index is out of range.
    """
    run = _Run(dict(leaves), _Sizes(env or {}))
    if measures is not None:
        run.know(measures)
    return [run.need(t) for t in tensors]


def topological(tensors: Sequence[Tensor]) -> list[Tensor]:
    """Every tensor that the given ones need, arguments first."""
    order: dict[Tensor, None] = {}
    stack: list[tuple[Tensor, bool]] = [(t, False) for t in reversed(tensors)]
    while stack:
        tensor, ready = stack.pop()
        if tensor in order:
            continue
        if ready:
            order[tensor] = None
        else:
            stack.append((tensor, True))
            stack += [(a, False) for a in reversed(tensor.args)]
    return list(order)


class _Sizes(dict[str, int]):
    """The symbols' values; one that is measured is computed when it is first asked for."""

    measured: Callable[[str], int] | None = None

    def __missing__(self, name: str) -> int:
        if self.measured is None:
            raise KeyError(name)
        self[name] = self.measured(name)
        return self[name]


@dataclass
class _Run:
    values: dict[Tensor, np.ndarray]
    env: _Sizes
    nests: dict[Nest, list[np.ndarray]] = field(default_factory=dict)
    measures: Measures | None = None

    def need(self, tensor: Tensor) -> np.ndarray:
        """The value of a tensor, computed with all that it depends on."""
        for t in topological([tensor]):
            if t not in self.values:
                self.values[t] = self.checked(t, self.compute(t))
        return self.values[tensor]

    def run(
        self, body: Body, leaves: Mapping[Tensor, np.ndarray], sizes: Mapping[str, int], wanted: Sequence[dims.Dim]
    ) -> tuple[list[np.ndarray], list[int]]:
        """See `Evaluator`."""
        captured = {leaf: self.need(leaf.outer) for leaf in body.captured if leaf.outer is not None}
        inner = _Run({**captured, **leaves}, _Sizes({**self.env, **sizes}))
        if self.measures is not None:
            inner.know(self.measures)
        return [inner.need(t) for t in body.outputs], [inner.size(d) for d in wanted]

    def set_sizes(self, sizes: Mapping[str, int]) -> None:
        """See `Evaluator`."""
        self.env.update(sizes)

    def know(self, measures: Measures) -> None:
        """Compute measured sizes where they are asked for."""
        self.measures = measures
        self.env.measured = lambda name: self.measure(name, measures.sources[name])

    def measure(self, name: str, source: Source) -> int:
        assert source.tensor is not None
        value = self.need(source.tensor)
        if source.index is None:  # computing the tensor has set it
            return self.env[name]
        return int(value.reshape(-1)[source.index])

    def value(self, tensor: Tensor) -> np.ndarray:
        return self.values[tensor]

    def size(self, d: dims.Dim) -> int:
        return dims.evaluate(d, self.env)

    def element(self, e: Expr, shape: tuple[int, ...], known: Mapping[Expr, np.ndarray]) -> np.ndarray:
        return np.broadcast_to(_Scope(self, [], shape=shape, known=known).eval(e), shape)

    def shape(self, tensor: Tensor) -> tuple[int, ...]:
        return tuple(dims.evaluate(d, self.env) for d in tensor.shape)

    def checked(self, tensor: Tensor, value: np.ndarray) -> np.ndarray:
        if value.shape != self.shape(tensor) or value.dtype != tensor.dtype.numpy():
            raise ValueError(f"{tensor!r} has the value {value.dtype}{list(value.shape)} where env = {dict(self.env)}")
        return value

    def compute(self, tensor: Tensor) -> np.ndarray:
        prim = tensor.prim
        if prim is None:
            constant = None if tensor.value is None else ir.convenience.get_const_tensor(tensor.value)
            if constant is None:
                raise ValueError(f"no value is given for the leaf {tensor!r}")
            return constant.numpy()
        if isinstance(prim, Opaque):
            return self.result(prim)  # control flow may set the sizes of its results
        args = [self.values[a] for a in prim.args]
        shape = self.shape(tensor)
        with np.errstate(all="ignore"):
            return self.primitive(prim, args, shape, tensor.dtype)

    def result(self, prim: Opaque) -> np.ndarray:
        """A result of a loop nest, all of which are computed at once."""
        if prim.nest not in self.nests:
            with np.errstate(all="ignore"):
                self.nests[prim.nest] = prim.nest.meaning(self)
        return self.nests[prim.nest][prim.index]

    def primitive(self, prim: Prim, args: list[np.ndarray], shape: tuple[int, ...], dtype: DType) -> np.ndarray:
        if isinstance(prim, Map):
            return np.broadcast_to(_Scope(self, args).eval(prim.body), shape)
        if isinstance(prim, Reduce):
            return _reduce(prim, args[0])
        if isinstance(prim, Generate):
            return self.at_grid(prim.body, shape)
        if isinstance(prim, IndexMap):
            return self.index_map(prim, shape)
        if isinstance(prim, Concat):
            return np.concatenate(args, prim.axis)
        if isinstance(prim, Pad):
            return self.pad(prim, args[0])
        if isinstance(prim, Contract):
            # Products of narrow integers are summed up in the result's type.
            return contract(prim, [a.astype(dtype.numpy(), copy=False) for a in args], shape, self.env)
        raise TypeError(f"no meaning for {type(prim).__name__}")

    def index_map(self, prim: IndexMap, shape: tuple[int, ...]) -> np.ndarray:
        def element(position: Sequence[Expr]) -> Expr:
            index, guard = prim.at(position)
            return Load(prim.args[0], index, guard, prim.fill)

        return self.at_grid(element, shape)

    def at_grid(self, body: Callable[[Sequence[Expr]], Expr], shape: tuple[int, ...]) -> np.ndarray:
        """body(index) for every index of a shape."""
        rank = len(shape)
        grid = {
            f"i{k}": np.arange(n, dtype=np.int64).reshape([-1 if j == k else 1 for j in range(rank)])
            for k, n in enumerate(shape)
        }
        return np.broadcast_to(_Scope(self, [], grid, shape).eval(body(variables(rank))), shape)

    def pad(self, prim: Pad, x: np.ndarray) -> np.ndarray:
        before = [dims.evaluate(d, self.env) for d in prim.before]
        after = [dims.evaluate(d, self.env) for d in prim.after]
        fill = _Scope(self, []).eval(prim.fill)
        out = np.full([b + n + a for b, n, a in zip(before, x.shape, after, strict=True)], fill, x.dtype)
        out[tuple(slice(b, b + n) for b, n in zip(before, x.shape, strict=True))] = x
        return out


@dataclass
class _Scope:
    """What the leaves of a scalar expression stand for; every element of an iteration space is evaluated at once."""

    run: _Run
    args: list[np.ndarray]
    grid: dict[str, np.ndarray] = field(default_factory=dict)
    shape: tuple[int, ...] = ()
    known: Mapping[Expr, np.ndarray] = field(default_factory=dict)
    memo: dict[int, np.ndarray] = field(default_factory=dict)

    def eval(self, e: Expr) -> np.ndarray:
        if id(e) not in self.memo:
            self.memo[id(e)] = self.fresh(e)
        return self.memo[id(e)]

    def fresh(self, e: Expr) -> np.ndarray:
        if isinstance(e, Const):
            return np.asarray(e.value, e.dtype.numpy())
        if e in self.known:
            return self.known[e]
        if isinstance(e, Arg):
            return self.args[e.position]
        if isinstance(e, Var):
            return self.grid[e.name]
        if isinstance(e, Size):
            return np.asarray(dims.evaluate(e.dim, self.run.env), np.int64)
        if isinstance(e, Load):
            return self.load(e)
        assert isinstance(e, Call)
        args = [self.eval(a) for a in e.args]
        return apply(e.fn, args, e.dtype)

    def load(self, e: Load) -> np.ndarray:
        source = self.run.values[e.tensor]
        inside = np.ones(self.shape, bool)
        if e.guard is not None:
            inside = np.broadcast_to(self.eval(e.guard), self.shape)
        fill = np.zeros((), source.dtype) if e.fill is None else self.eval(e.fill)
        index = []
        for k, part in enumerate(e.index):
            at = np.broadcast_to(self.eval(part), self.shape)[inside]
            if at.size and (at.min() < 0 or at.max() >= source.shape[k]):
                raise ValueError(f"index {k} of {e.tensor!r} is out of range: {at.min()}..{at.max()}")
            index.append(at)
        out = np.array(np.broadcast_to(fill, self.shape), source.dtype)
        out[inside] = source[tuple(index)]
        return out


# ---------------------------------------------------------------- folds and contractions


def _reduce(prim: Reduce, x: np.ndarray) -> np.ndarray:
    if prim.kind in ("sum", "prod"):
        wide = np.dtype(np.float64) if is_float(DType.from_numpy(x.dtype)) else x.dtype
        fold = np.sum if prim.kind == "sum" else np.prod
        return np.asarray(fold(x, prim.axes, dtype=wide, keepdims=True)).astype(x.dtype)
    if prim.kind in ("max", "min"):
        pick_one = np.max if prim.kind == "max" else np.min
        return np.asarray(pick_one(x, prim.axes, keepdims=True, initial=lowest(x.dtype, prim.kind)))
    (axis,) = prim.axes
    pick = np.argmax if prim.kind == "argmax" else np.argmin
    if prim.last:
        return x.shape[axis] - 1 - np.asarray(pick(np.flip(x, axis), axis, keepdims=True))
    return np.asarray(pick(x, axis, keepdims=True))


def lowest(dtype: np.dtype[Any], kind: str = "max") -> Any:
    """The identity of a maximum (or of a minimum) in a type."""
    sign = -1 if kind == "max" else 1
    if dtype.kind == "b":
        return sign > 0
    if is_integral(np.zeros((), dtype)):
        return np.iinfo(dtype).min if sign < 0 else np.iinfo(dtype).max
    return dtype.type(sign * math.inf)


def contract(prim: Contract, args: Sequence[np.ndarray], shape: tuple[int, ...], env: Mapping[str, int]) -> np.ndarray:
    """The meaning of a contraction, with sums of floats in float64."""
    dtype = args[0].dtype
    wide = [a.astype(np.float64) if is_float(DType.from_numpy(dtype)) else a for a in args]
    if prim.kind == "matmul":
        return np.matmul(*wide).astype(dtype)
    window: Window = prim.attrs
    before = [dims.evaluate(d, env) for d in window.pads_before]
    after = [dims.evaluate(d, env) for d in window.pads_after]
    if prim.kind == "conv":
        return _conv(wide[0], wide[1], window, before, shape).astype(dtype)
    if prim.kind == "conv_transpose":
        return _conv_transpose(wide[0], wide[1], window, before, shape).astype(dtype)
    if prim.kind == "max_pool":
        return _max_pool(args[0], window, before, shape)
    if prim.kind == "average_pool":
        return _average_pool(wide[0], window, before, after, shape).astype(dtype)
    raise ValueError(f"no meaning for the contraction {prim.kind!r}")


def _taps(window: Window) -> list[tuple[int, ...]]:
    return list(cartesian(*(range(k) for k in window.kernel)))


def _tap(
    x: np.ndarray, tap: Sequence[int], window: Window, before: Sequence[int], out: Sequence[int], fill: Any
) -> np.ndarray:
    """What a window tap sees at every output position: x[..., o * stride + t * dilation - before], or fill outside."""
    result = np.full((*x.shape[:2], *out), fill, x.dtype)
    outs, ins = [slice(None)] * 2, [slice(None)] * 2
    for k, t in enumerate(tap):
        stride, offset, n = window.strides[k], t * window.dilations[k] - before[k], x.shape[2 + k]
        first = max(0, -(offset // stride))  # the first o with o * stride + offset >= 0
        last = min(out[k] - 1, (n - 1 - offset) // stride)
        if last < first:
            return result
        outs.append(slice(first, last + 1))
        ins.append(slice(first * stride + offset, last * stride + offset + 1, stride))
    result[tuple(outs)] = x[tuple(ins)]
    return result


def _corner(at: Sequence[int]) -> Any:
    """An index into the last axes."""
    return (..., *at)


def _at_tap(w: np.ndarray, tap: Sequence[int]) -> np.ndarray:
    return w[_corner(tap)]


def _conv(x: np.ndarray, w: np.ndarray, window: Window, before: Sequence[int], shape: tuple[int, ...]) -> np.ndarray:
    groups = window.groups
    out = np.zeros((shape[0], groups, shape[1] // groups, *shape[2:]), x.dtype)
    for tap in _taps(window):
        seen = _tap(x, tap, window, before, shape[2:], 0)
        seen = seen.reshape(x.shape[0], groups, x.shape[1] // groups, *shape[2:])
        weights = _at_tap(w, tap).reshape(groups, shape[1] // groups, w.shape[1])
        out += np.einsum("ngc...,goc->ngo...", seen, weights)
    return out.reshape(shape)


def _conv_transpose(
    x: np.ndarray, w: np.ndarray, window: Window, before: Sequence[int], shape: tuple[int, ...]
) -> np.ndarray:
    groups, rank = window.groups, len(window.kernel)
    grouped = x.reshape(x.shape[0], groups, x.shape[1] // groups, *x.shape[2:])
    out = np.zeros((shape[0], groups, shape[1] // groups, *shape[2:]), x.dtype)
    for tap in _taps(window):
        weights = _at_tap(w, tap).reshape(groups, x.shape[1] // groups, w.shape[1])
        added = np.einsum("ngc...,gco->ngo...", grouped, weights)
        for at in cartesian(*(range(n) for n in x.shape[2:])):
            o = [at[k] * window.strides[k] + tap[k] * window.dilations[k] - before[k] for k in range(rank)]
            if all(0 <= o[k] < shape[2 + k] for k in range(rank)):
                out[_corner(o)] += added[_corner(at)]
    return out.reshape(shape)


def _max_pool(x: np.ndarray, window: Window, before: Sequence[int], shape: tuple[int, ...]) -> np.ndarray:
    fill = lowest(x.dtype)
    out = np.full(shape, fill, x.dtype)
    for tap in _taps(window):
        out = np.maximum(out, _tap(x, tap, window, before, shape[2:], fill))
    return out


def _average_pool(
    x: np.ndarray, window: Window, before: Sequence[int], after: Sequence[int], shape: tuple[int, ...]
) -> np.ndarray:
    counted = np.ones((1, 1, *x.shape[2:]))
    if window.count_include_pad:
        widths = [(0, 0), (0, 0), *zip(before, after, strict=True)]
        counted = np.pad(counted, widths, constant_values=1.0)
    total, count = np.zeros(shape), np.zeros((1, 1, *shape[2:]))
    for tap in _taps(window):
        total += _tap(x, tap, window, before, shape[2:], 0)
        offset = [0] * len(before) if window.count_include_pad else before
        count += _tap(counted, tap, window, offset, shape[2:], 0)
    return total / count
