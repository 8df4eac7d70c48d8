"""Kernel families. A module of this folder that declares `KERNEL` adds it to what the planner may choose from.

One that declares `NEST_KERNEL` computes a family of loop nests.
"""

from __future__ import annotations

import pkgutil
from collections.abc import Iterator
from importlib import import_module
from types import ModuleType

from graphfuse.plan.site import Kernel, NestKernel


def _modules() -> Iterator[ModuleType]:
    """This folder's modules by name: the same list, in the same order, every run."""
    for name in sorted(module.name for module in pkgutil.iter_modules(__path__)):
        yield import_module(f"{__name__}.{name}")


# For contractions (matrix products, convolutions, pooling). Several may accept a site: the cheapest is taken.
CONTRACTION_KERNELS: tuple[Kernel, ...] = tuple(m.KERNEL for m in _modules() if hasattr(m, "KERNEL"))
# For loop nests. The first that accepts a site is taken.
NEST_KERNELS: tuple[NestKernel, ...] = tuple(m.NEST_KERNEL for m in _modules() if hasattr(m, "NEST_KERNEL"))
