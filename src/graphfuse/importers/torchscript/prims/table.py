"""The table of primitives: kind of node -> what runs it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from graphfuse.importers.torchscript.values import ListBox, Tensor

TABLE: dict[str, Callable[..., Any]] = {}
LONGEST = 100_000  # elements of a list, characters of a text


def prim(*kinds: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """The decorated function runs these kinds of nodes."""

    def register(run: Callable[..., Any]) -> Callable[..., Any]:
        TABLE.update(dict.fromkeys(kinds, run))
        return run

    return register


def is_open(values: Sequence[Any]) -> bool:
    """Whether any of the values depends on data."""
    return any(isinstance(v, Tensor) for v in values)


def is_open_list(items: Any) -> bool:
    """Whether only the data says how long a list is."""
    return isinstance(items, ListBox) and items.sequence is not None
