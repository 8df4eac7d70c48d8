"""Bisecting a mismatch: the first region whose values differ from the reference."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from graphfuse.verify.compare import OutputReport, Tolerance, compare

Array = np.ndarray[Any, Any]
Values = Callable[[Sequence[str]], Mapping[str, Array]]


@dataclass(frozen=True)
class WrongRegion:
    """The first region that differs, and the report on each of its values that does."""

    region: str
    reports: tuple[OutputReport, ...]


def first_wrong_region(
    regions: Sequence[tuple[str, Sequence[str]]], ours: Values, reference: Values, tolerance: Tolerance | None = None
) -> WrongRegion | None:
    """The first of `regions`, each a name and the names of its values, whose values differ; None if none does.

    regions: in the order in which they run; ours, reference: return the named values, called for one region at a time,
    no further than the first wrong one. A value that either of them does not return is not compared.
    """
    for region, names in regions:
        mine, theirs = ours(names), reference(names)
        reports = [
            compare(name, mine[name], theirs[name], tolerance) for name in names if name in mine and name in theirs
        ]
        wrong = tuple(report for report in reports if not report.passed)
        if wrong:
            return WrongRegion(region, wrong)
    return None
