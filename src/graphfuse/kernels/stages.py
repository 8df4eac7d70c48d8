"""Cuts a long chain of scalar functions into stages, each to run over a block of vectors before the next one starts.

One element's way through several elementary functions is some hundred cycles long, and the processor sees too few
elements at a time to fill them; nor do all the constants fit in registers. Stages of one function each are short, and
what passes between them waits in L1.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from graphfuse.ops.expr import FUNCTIONS, Call, Expr, Load, Var, depends_on, loads_of

# Cost of a function from which on it begins a stage of its own.
HEAVY = 14


@dataclass(frozen=True)
class Stage:
    """What a stage finds in the block and what it leaves there for later ones, in order of first use."""

    takes: tuple[Expr, ...]
    leaves: tuple[Expr, ...]


def stages(results: Sequence[Expr], lane: Var) -> list[Stage]:
    """The stages of the results' computation along `lane`; the last one leaves nothing, as it has the results.

    An expression's stage is the number of heavy functions on the longest way to it, its own included. What is the same
    for all lanes belongs to no stage, and plain loads to every one that uses them.
    """
    levels: dict[Expr, int] = {}
    varies: dict[int, bool] = {}

    def level(e: Expr) -> int:
        if e not in levels:
            below = max((level(c) for c in _arguments(e)), default=0)
            heavy = isinstance(e, Call) and FUNCTIONS[e.fn] >= HEAVY and depends_on(e, lane, varies)
            levels[e] = below + heavy
        return levels[e]

    last = max(max(map(level, results), default=0), 1)
    waiting = [e for e in levels if _is_kept(e) and depends_on(e, lane, varies)]
    crossing = _crossing(results, {e: max(levels[e], 1) for e in waiting}, last)
    return [
        Stage(
            takes=tuple(e for e, (own, users) in crossing.items() if own < n and n in users),
            leaves=tuple(e for e, (own, _) in crossing.items() if own == n),
        )
        for n in range(1, last + 1)
    ]


def _arguments(e: Expr) -> tuple[Expr, ...]:
    # What a load depends on is index arithmetic, which stays with the load.
    return e.args if isinstance(e, Call) else ()


def _is_kept(e: Expr) -> bool:
    """Whether a later stage takes the value from the block; loads without detours are as cheap again."""
    return isinstance(e, Call) or (isinstance(e, Load) and (e.guard is not None or bool(loads_of(e.index))))


def _crossing(results: Sequence[Expr], at: dict[Expr, int], last: int) -> dict[Expr, tuple[int, set[int]]]:
    """The expressions that a later stage than their own uses: their own, and those that do."""
    found: dict[Expr, tuple[int, set[int]]] = {}
    seen: set[tuple[Expr, int]] = set()

    def use(e: Expr, stage: int) -> None:
        if (e, stage) in seen:
            return
        seen.add((e, stage))
        own = at.get(e, stage)
        if own < stage:
            found.setdefault(e, (own, set()))[1].add(stage)
        for c in _arguments(e):
            use(c, own)

    for e in results:
        use(e, last)
    return found
