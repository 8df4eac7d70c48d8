"""Many names as one: what repeated blocks of a model call their nodes, with `*` where they differ."""

from __future__ import annotations

import re
from collections.abc import Sequence

from graphfuse.errors import one_line

_SHOWN = 2  # different patterns told of one group; the others are counted
_DIGITS = re.compile(r"(\d+)")


def patterns(names: Sequence[str], most: int = _SHOWN) -> str:
    """The names as few patterns: ["/b.0/conv", "/b.1/conv"] -> "/b.*/conv"; beyond `most` of them, how many more."""
    skeletons: dict[tuple[str, ...], list[list[str]]] = {}
    for name in names:
        parts = _DIGITS.split(name)
        skeletons.setdefault(tuple(parts[::2]), []).append(parts)
    shown = [one_line(_merged(group)) for group in skeletons.values()]
    more = f" and {len(shown) - most} more" if len(shown) > most else ""
    return ", ".join(shown[:most]) + more


def _merged(names: Sequence[Sequence[str]]) -> str:
    """Names that differ in their numbers only, as one."""
    columns = zip(*names, strict=True)
    return "".join(column[0] if len(set(column)) == 1 else "*" for column in columns)


def amount(count: float) -> str:
    """A number of bytes for people: 1.5 MB (decimal, as files and bandwidths are)."""
    for unit, size in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= size:
            value = count / size
            return f"{value:.0f} {unit}" if value >= 100 else f"{value:.3g} {unit}"
    return f"{count:.0f} B"


def plural(count: int, noun: str) -> str:
    """ "1 node", "2 nodes"."""
    return f"{count} {noun}{'' if count == 1 else 's'}"
