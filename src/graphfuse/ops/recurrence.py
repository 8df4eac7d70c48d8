"""Recurrent layers as a loop nest: steps in time, each a product of the last state with weights, then scalar functions.

The functions are expressions like those of any pointwise op, so every activation has its meaning from `ops/expr.py`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np

from graphfuse.graph.dims import Dim
from graphfuse.graph.dtypes import I64, DType
from graphfuse.ops.expr import Const, Expr, Load, Result, Var, loads_of
from graphfuse.ops.tensor import Evaluator, Nest, Tensor, opaque

# What an expression may depend on: the step in time, the direction, the item of the batch, the hidden unit.
STEP, DIRECTION, ITEM, UNIT = Var("t"), Var("d"), Var("b"), Var("j")


def product(k: int, dtype: DType) -> Result:
    """The unit's k-th sum of products in the phase that is being computed."""
    return Result(f"product{k}", dtype)


@dataclass(frozen=True)
class State:
    """A value that each unit of each item keeps from step to step; `Result(name)` is its value before the step.

    `final` is what becomes the nest's result, where it is more than the value after the last step.
    """

    name: str
    initial: Expr
    final: Expr | None = None


@dataclass(frozen=True)
class Phase:
    """A pass over all units: products of a vector with weights, then new values.

    product k of unit j = sum over i of weights[d, gates[k] * units + j, i] * v[i], v = what is called `source`: a state
    or a value of an earlier phase. `values`: what the phase computes, by name, from what was known before it; a state's
    name gives it its next value.

    scales: None, or the weights are int8, to be multiplied by scales[d, gates[k] * units + j]; the vectors of all items
    are quantised together to uint8 then, by what ONNX's DynamicQuantizeLinear says, and the sums are exact in int32.
    """

    source: str
    weights: Tensor
    gates: tuple[int, ...]
    values: tuple[tuple[str, Expr], ...]
    scales: Tensor | None = None


@dataclass(eq=False)
class Recurrence(Nest):
    """Steps 0 to `steps` - 1, one after another, for every item and direction; backward where `reverse` says so.

    Results: [steps, directions, items, units], the expression `emitted` in the last phase of every step; then for each
    state its last value, [directions, items, units].
    """

    reverse: tuple[bool, ...]
    steps: Dim
    items: Dim
    units: int
    dtype: DType
    states: tuple[State, ...]
    phases: tuple[Phase, ...]
    emitted: Expr
    lasts: Expr | None = None  # of step and item: where false, the values do not depend on the products
    name: str = "recurrence"
    args: tuple[Tensor, ...] = field(init=False)

    def __post_init__(self) -> None:
        final = (len(self.reverse), self.items, self.units)
        self.results = (((self.steps, *final), self.dtype), *((final, self.dtype) for _ in self.states))
        loaded = [load.tensor for load in loads_of(self.expressions)]
        scales = [p.scales for p in self.phases if p.scales is not None]
        self.args = tuple(dict.fromkeys([*loaded, *(p.weights for p in self.phases), *scales]))

    @property
    def expressions(self) -> list[Expr]:
        """Every scalar expression of the nest."""
        values = [e for p in self.phases for _, e in p.values]
        finals = [s.final for s in self.states if s.final is not None]
        lasts = [] if self.lasts is None else [self.lasts]
        return [*(s.initial for s in self.states), *values, self.emitted, *finals, *lasts]

    def tensors(self) -> list[Tensor]:
        """All results."""
        return [opaque(self, k) for k in range(len(self.results))]

    def loads(self) -> Iterable[tuple[Load, Mapping[Expr, Dim]]]:
        # Units and directions are known at compile time, and lead into axes that hold several of them.
        sizes: dict[Expr, Dim] = {STEP: self.steps, ITEM: self.items}
        return [(load, sizes) for load in loads_of(self.expressions)]

    def meaning(self, evaluator: Evaluator) -> list[np.ndarray]:
        steps, items = evaluator.size(self.steps), evaluator.size(self.items)
        shape = (len(self.reverse), items, self.units)
        grid: dict[Expr, np.ndarray] = {
            v: np.arange(n, dtype=np.int64).reshape([-1 if a == axis else 1 for a in range(3)])
            for axis, (v, n) in enumerate(zip((DIRECTION, ITEM, UNIT), shape, strict=True))
        }
        states: dict[str, np.ndarray] = {s.name: evaluator.element(s.initial, shape, grid) for s in self.states}
        emitted = np.zeros((steps, *shape), self.dtype.numpy())
        for s in range(steps):
            at = [steps - 1 - s if backward else s for backward in self.reverse]
            here = grid | {STEP: np.array(at, np.int64).reshape(-1, 1, 1)}
            new, y = self._step(evaluator, shape, here, states)
            states = {name: new[name] for name in states}
            for d, t in enumerate(at):
                emitted[t, d] = y[d]
        known = grid | self._named(states)
        finals = [Result(s.name, self.dtype) if s.final is None else s.final for s in self.states]
        return [emitted, *(np.array(evaluator.element(e, shape, known)) for e in finals)]

    def _named(self, values: Mapping[str, np.ndarray]) -> dict[Expr, np.ndarray]:
        return {Result(name, self.dtype): value for name, value in values.items()}

    def _step(
        self,
        evaluator: Evaluator,
        shape: tuple[int, ...],
        grid: Mapping[Expr, np.ndarray],
        states: Mapping[str, np.ndarray],
    ) -> tuple[dict[str, np.ndarray], np.ndarray]:
        values = dict(states)
        y = np.zeros(shape)
        for phase in self.phases:
            known = dict(grid) | self._named(values)
            weights = evaluator.value(phase.weights)
            source, factors = _operands(values[phase.source], weights.shape, phase, evaluator)
            blocks = weights.astype(np.float64).reshape(weights.shape[0], -1, self.units, weights.shape[2])
            for k, gate in enumerate(phase.gates):
                sums = np.einsum("dbi,dji->dbj", source, blocks[:, gate]) * factors[:, gate]
                known[product(k, self.dtype)] = sums.astype(self.dtype.numpy())
            new = {name: evaluator.element(e, shape, known) for name, e in phase.values}
            if phase is self.phases[-1]:
                y = evaluator.element(self.emitted, shape, known)
            values |= new
        return values, y


def _operands(
    source: np.ndarray, weights: tuple[int, ...], phase: Phase, evaluator: Evaluator
) -> tuple[np.ndarray, np.ndarray]:
    """What the weights are multiplied with, and the factors of the sums, [directions, gates, 1, units]."""
    units = source.shape[-1]
    shape = (weights[0], weights[1] // units, 1, units)
    if phase.scales is None:
        return source, np.ones(shape)
    # Every step in float32, as the compiled code and onnxruntime have it.
    least = np.minimum(source.min((1, 2), keepdims=True, initial=0), np.float32(0))
    most = np.maximum(source.max((1, 2), keepdims=True, initial=0), np.float32(0))
    scale = np.where(most == least, np.float32(1), (most - least) / np.float32(255))
    zero = np.clip(np.rint(-least / scale), 0, 255)
    whole = np.clip(np.rint(source / scale) + zero, 0, 255) - zero
    return whole, (scale * evaluator.value(phase.scales)[:, None]).reshape(shape)


def at(tensor: Tensor, *index: Expr | int) -> Load:
    """The element of a tensor at an index."""
    return Load(tensor, tuple(Const(i, I64) if isinstance(i, int) else i for i in index))
