"""Where a chain of scalar functions is cut, and what passes from one stage to the next."""

from __future__ import annotations

from graphfuse.graph.dtypes import F32
from graphfuse.kernels.stages import Stage, stages
from graphfuse.ops import expr as E
from graphfuse.ops.expr import Const, Expr, Load, Var
from graphfuse.ops.tensor import Tensor

ROW, LANE = Var("i"), Var("j")
X = Load(Tensor((4, 300), F32, None), (ROW, LANE))
S = Load(Tensor((4,), F32, None), (ROW,))


def cuts(*results: Expr) -> list[Stage]:
    return stages(results, LANE)


def test_one_function_is_one_stage() -> None:
    assert cuts(E.exp(X) * X + E.exp(X + 1)) == [Stage((), ())]
    assert cuts(X + S) == cuts(Const(1.0)) == [Stage((), ())]


def test_each_function_of_a_chain_is_a_stage() -> None:
    a = E.sigmoid(X) * X
    b = E.sqrt(E.tanh(a) - X)
    assert cuts(a / E.exp(b)) == [Stage((), (a,)), Stage((a,), (b,)), Stage((a, b), ())]


def test_plain_loads_are_loaded_again_and_others_kept() -> None:
    guarded = Load(X.tensor, (ROW, LANE), guard=E.compare("lt", LANE, 7))
    t = E.tanh(guarded)
    assert cuts(E.exp(t) + guarded + X) == [Stage((), (t, guarded)), Stage((t, guarded), ())]


def test_what_is_the_same_for_all_lanes_is_no_stage() -> None:
    gate = E.sigmoid(E.exp(S))
    assert cuts(E.tanh(X * gate) * gate) == [Stage((), ())]


def test_a_result_of_an_early_stage_waits_for_the_last() -> None:
    a = E.tanh(X)
    assert cuts(E.exp(a), a) == [Stage((), (a,)), Stage((a,), ())]
