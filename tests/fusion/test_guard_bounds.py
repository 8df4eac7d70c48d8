"""What guards take for granted about sizes holds for all of them, 0 included."""

from __future__ import annotations

import itertools
import random

import sympy

from graphfuse.fusion.guards import _least, _may_be_zero
from graphfuse.graph.dims import Max, Min

SIZES = tuple(sympy.Symbol(name, integer=True, positive=True) for name in "HW")
HALF = sympy.Rational(1, 2)


def random_size(rng: random.Random, depth: int) -> sympy.Expr:
    if depth == 0 or rng.random() < 0.1:
        fraction = sympy.Rational(rng.randrange(-5, 6), rng.randrange(1, 4))
        return rng.choice([*SIZES, sympy.Integer(rng.randrange(-4, 5)), fraction])
    a, b = random_size(rng, depth - 1), random_size(rng, depth - 1)
    whole = sympy.floor(a), sympy.floor(b)
    return rng.choice([a + b, a - b, a * b, whole[0], sympy.floor(a / 2), Max(*whole), Min(*whole), 3 * a, -a])


def smallest(e: sympy.Expr) -> sympy.Expr:
    symbols = sorted(e.free_symbols, key=str)
    choices = itertools.product(map(sympy.Integer, range(5)), repeat=len(symbols))
    return min(e.xreplace(dict(zip(symbols, chosen, strict=True))) for chosen in choices)


def test_bounds_hold() -> None:
    rng, found = random.Random(0), 0
    for _ in range(400):
        e = _may_be_zero(sympy.sympify(random_size(rng, 4)))
        least = _least(e)
        if least is not None:
            assert least <= smallest(e), e
            found += 1
    assert found > 100


def test_sizes_of_convolutions_are_seen_to_exist() -> None:
    h = SIZES[0]
    once = sympy.floor(h / 2 - HALF) + 1
    for size in (once, sympy.floor((once - 1) / 2) + 1, 2 * once, sympy.floor(h / 2) * once):
        assert _least(_may_be_zero(size)) == 0
    assert _least(_may_be_zero(h - 1)) == -1
