"""The arena: what is needed at the same time never shares memory, for every size."""

from __future__ import annotations

import random
from itertools import combinations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from codegen.building import emitted
from fusion.graphs import draw_graph
from graphfuse.graph.dims import Dim, dim, evaluate
from graphfuse.graph.dtypes import F32
from graphfuse.plan.calls import Plan
from graphfuse.plan.memory import ALIGNMENT, Arena, Lifetime, lay_out
from graphfuse.plan.view import Buffer, View
from ops.cases import inferred


def lifetimes(sizes: list[tuple[Dim, int, int]]) -> list[Lifetime]:
    return [Lifetime(Buffer("arena", n, F32), first, first + length) for n, first, length in sizes]


def check_disjoint(arena: Arena, uses: list[Lifetime], env: dict[str, int]) -> None:
    places = []
    total = evaluate(arena.size, env)
    for x in uses:
        start = evaluate(arena.offsets[x.buffer], env)
        end = start + evaluate(x.buffer.bytes, env)
        assert start % ALIGNMENT == 0
        assert 0 <= start <= end <= total
        places.append((x, start, end))
    for (x, a, b), (y, c, d) in combinations(places, 2):
        apart = b <= c or d <= a or x.last < y.first or y.last < x.first
        assert apart, f"[{a}, {b}) and [{c}, {d}) are in use at the same time"


spans = st.tuples(st.integers(0, 400), st.integers(0, 12), st.integers(0, 6))


@given(st.lists(spans, max_size=12))
@settings(max_examples=200)
def test_known_sizes(drawn: list[tuple[int, int, int]]) -> None:
    uses = lifetimes(drawn)  # type: ignore[arg-type]
    check_disjoint(lay_out(uses), uses, {})


@given(st.lists(st.tuples(spans, st.sampled_from(["", "N", "M", "N*M"])), max_size=10))
@settings(max_examples=40)
def test_unknown_sizes(drawn: list[tuple[tuple[int, int, int], str]]) -> None:
    uses = lifetimes([(n * dim(symbol) if symbol else n, first, length) for (n, first, length), symbol in drawn])
    arena = lay_out(uses)
    for n, m in [(1, 1), (3, 50), (50, 3), (64, 64)]:
        check_disjoint(arena, uses, {"N": n, "M": m})


def test_memory_is_used_again() -> None:
    chain = lifetimes([(1000, k, 1) for k in range(10)])
    assert lay_out(chain).size == 2 * 4032


# ---------------------------------------------------------------- whole plans


def uses_of(plan: Plan) -> list[Lifetime]:
    """When each arena buffer is touched, from the arguments of the calls alone."""
    calls: dict[Buffer, list[int]] = {}
    for k, call in enumerate(plan.calls):
        for p in call.code.pointers:
            if isinstance(p, View) and p.buffer.kind == "arena":
                calls.setdefault(p.buffer, []).append(k)
    return [Lifetime(buffer, min(ks), max(ks)) for buffer, ks in calls.items()]


def check_inside(plan: Plan, env: dict[str, int]) -> None:
    """Every view that a call is given lies inside its buffer."""
    for call in plan.calls:
        for p in call.code.pointers:
            if not isinstance(p, View):
                continue
            sizes = [evaluate(d, env) for d in p.shape]
            steps = [(n - 1) * evaluate(s, env) for n, s in zip(sizes, p.strides, strict=True)]
            first = evaluate(p.offset, env) + sum(min(0, s) for s in steps)
            last = evaluate(p.offset, env) + sum(max(0, s) for s in steps)
            assert 0 <= first <= last < evaluate(p.buffer.elements, env)


@pytest.mark.parametrize("block", range(4))
def test_no_plan_overlaps(block: int) -> None:
    for seed in range(40 * block, 40 * block + 40):
        planned = emitted(inferred(draw_graph(random.Random(seed).choice, symbolic=seed % 2 == 0))).plan
        for n in (11, 1, 64):
            check_disjoint(planned.arena, uses_of(planned), {"N": n})
            check_inside(planned, {"N": n})
