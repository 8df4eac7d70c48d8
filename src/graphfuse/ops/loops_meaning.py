"""The executable meaning of loop nests, in Python: one statement after another, slow and simple."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import product as cartesian

import numpy as np

from graphfuse.ops.expr import Call, Const, Expr, Load, Result, Size, Var
from graphfuse.ops.loop_nest import Assign, Break, For, If, Loops, Phase, Statement, Store, While
from graphfuse.ops.scalars import apply
from graphfuse.ops.tensor import Evaluator, Tensor


def run(nest: Loops, evaluator: Evaluator) -> list[np.ndarray]:
    """The results. Raises ValueError where an index is out of range."""
    machine = _Machine(evaluator)
    for tensor in nest.args:
        machine.arrays[tensor] = evaluator.value(tensor)
    for array in [*nest.arrays, *(s.array for s in nest.scratch)]:
        machine.arrays[array] = np.zeros([evaluator.size(d) for d in array.shape], array.dtype.numpy())
    for array, start in nest.starts.items():
        value = evaluator.value(start) if isinstance(start, Tensor) else start.value
        machine.arrays[array][...] = value
    for phase in nest.phases:
        machine.phase(phase)
    return [machine.arrays[a] for a in nest.arrays]


@dataclass
class _Machine:
    evaluator: Evaluator
    arrays: dict[Tensor, np.ndarray] = field(default_factory=dict)
    values: dict[Expr, np.ndarray] = field(default_factory=dict)

    def phase(self, phase: Phase) -> None:
        for index in cartesian(*(range(self.evaluator.size(n)) for _, n in phase.rows)):
            for (var, _), i in zip(phase.rows, index, strict=True):
                self.values[var] = np.asarray(i, np.int64)
            self.block(phase.body)

    def block(self, body: Sequence[Statement]) -> bool:
        """Run statements; whether one of them has left the innermost loop."""
        return any(self.statement(s) for s in body)

    def statement(self, s: Statement) -> bool:
        if isinstance(s, Store):
            self.arrays[s.array][self.position(s.array, s.index)] = self.eval(s.value)
        elif isinstance(s, Assign):
            self.values[s.local] = self.eval(s.value)
        elif isinstance(s, For):
            for i in range(int(self.eval(s.begin)), int(self.eval(s.end))):
                self.values[s.var] = np.asarray(i, np.int64)
                if self.block(s.body):
                    break
        elif isinstance(s, While):
            for _ in range(int(self.eval(s.most))):
                if not self.eval(s.condition) or self.block(s.body):
                    break
        elif isinstance(s, If):
            return self.block(s.then if self.eval(s.condition) else s.otherwise)
        return isinstance(s, Break)

    def position(self, array: Tensor, index: Sequence[Expr]) -> tuple[int, ...]:
        at = tuple(int(self.eval(i)) for i in index)
        for i, n in zip(at, self.arrays[array].shape, strict=True):
            if not 0 <= i < n:
                raise ValueError(f"index {at} of an array of {self.arrays[array].shape}")
        return at

    def eval(self, e: Expr) -> np.ndarray:
        if isinstance(e, (Var, Result)):
            return self.values[e]
        if isinstance(e, Const):
            return np.asarray(e.value, e.dtype.numpy())
        if isinstance(e, Size):
            return np.asarray(self.evaluator.size(e.dim), np.int64)
        if isinstance(e, Load):
            if e.guard is not None and not self.eval(e.guard):
                return np.zeros((), e.dtype.numpy()) if e.fill is None else self.eval(e.fill)
            return np.asarray(self.arrays[e.tensor][self.position(e.tensor, e.index)])
        assert isinstance(e, Call), e
        if e.fn in ("and", "or"):
            first = bool(self.eval(e.args[0]))
            return np.asarray(first if first == (e.fn == "or") else bool(self.eval(e.args[1])))
        if e.fn == "select":
            return self.eval(e.args[1] if self.eval(e.args[0]) else e.args[2])
        return apply(e.fn, [self.eval(a) for a in e.args], e.dtype)
