"""Affine analysis of index expressions: where in memory a load or store goes, as a function of loop variables."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from graphfuse.graph.dims import Dim, add, mul
from graphfuse.graph.dtypes import I64
from graphfuse.ops.expr import Call, Const, Expr, Size, Var, depends_on, loads_of, maximum, minimum
from graphfuse.ops.tensor import size as extent
from graphfuse.plan.view import View


@dataclass
class Access:
    """An element address: constant + sum(strides[v] * v) + sum(stride * expression), in elements of the view.

    `irregular` holds the parts that are not affine in loop variables. `lane_step`, where given, is the distance from
    lane to lane of memory that is not addressed by the lane variable.
    """

    view: View
    constant: Dim
    strides: dict[Var, Dim]
    irregular: list[tuple[Expr, Dim]] = field(default_factory=list)
    lane_step: Dim | None = None

    def along(self, lane: Var | None) -> Dim:
        """The distance in memory from one lane to the next."""
        if self.lane_step is not None:
            return self.lane_step
        return 0 if lane is None else self.stride(lane)

    def stride(self, v: Var) -> Dim:
        return self.strides.get(v, 0)

    def irregular_in(self, v: Var) -> bool:
        return any(depends_on(e, v) for e, _ in self.irregular)


def access(view: View, index: Sequence[Expr]) -> Access:
    """The address of an element of a view. The view's own offset is not part of it: pointers carry it."""
    result = Access(view, 0, {})
    for e, stride, size in zip(index, view.strides, view.shape, strict=True):
        if isinstance(size, int) and size == 1:
            continue  # only index 0 exists, whatever the expression
        if loads_of([e]):
            # An index that comes from data is held inside the axis: a stranger's index must not read elsewhere.
            result.irregular.append((minimum(maximum(e, 0), extent(size) - 1), stride))
        else:
            _accumulate(result, e, stride)
    return result


def _accumulate(result: Access, e: Expr, stride: Dim) -> None:
    if isinstance(e, Const):
        result.constant = add(result.constant, mul(int(e.value), stride))
    elif isinstance(e, Size):
        result.constant = add(result.constant, mul(e.dim, stride))
    elif isinstance(e, Var):
        result.strides[e] = add(result.stride(e), stride)
    elif isinstance(e, Call) and e.fn == "add":
        for a in e.args:
            _accumulate(result, a, stride)
    elif isinstance(e, Call) and e.fn == "sub":
        _accumulate(result, e.args[0], stride)
        _accumulate(result, e.args[1], mul(-1, stride))
    elif isinstance(e, Call) and e.fn == "mul" and (factor := _size(e.args[1])) is not None:
        _accumulate(result, e.args[0], mul(stride, factor))
    elif isinstance(e, Call) and e.fn == "mul" and (factor := _size(e.args[0])) is not None:
        _accumulate(result, e.args[1], mul(stride, factor))
    else:
        result.irregular.append((e, stride))


def _size(e: Expr) -> Dim | None:
    if isinstance(e, Const) and e.dtype == I64:
        return int(e.value)
    return e.dim if isinstance(e, Size) else None
