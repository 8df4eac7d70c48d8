"""Kernel families. A module of this folder that declares `KERNEL` adds it to what the planner may choose from."""

from __future__ import annotations

import pkgutil
from importlib import import_module

from graphfuse.plan.site import Kernel


def _discover() -> tuple[Kernel, ...]:
    """The kernels of this folder's modules, by module name: the same list, in the same order, every run."""
    names = sorted(module.name for module in pkgutil.iter_modules(__path__))
    modules = [import_module(f"{__name__}.{name}") for name in names]
    return tuple(module.KERNEL for module in modules if hasattr(module, "KERNEL"))


# For contractions (matrix products, convolutions, pooling). Several may accept a site: the cheapest is taken.
CONTRACTION_KERNELS: tuple[Kernel, ...] = _discover()
