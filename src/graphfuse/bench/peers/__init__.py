"""The runtimes that a model can be timed against, one file each; the folder listing is the registry.

A peer's file has `version() -> str` and `prepare(model, threads) -> Run`, and imports its runtime only inside them.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from graphfuse.errors import InputError

Array = np.ndarray[Any, Any]
Run = Callable[[Mapping[str, Array]], Mapping[str, Array]]
"""Inputs by name -> outputs by name. Raises InputError when the runtime refuses the inputs."""


@dataclass(frozen=True)
class Peer:
    """A runtime: its name, its version, and how it makes a model ready for so many threads."""

    name: str
    version: Callable[[], str]
    prepare: Callable[[Path, int], Run]


def names() -> list[str]:
    """The peers there are, sorted."""
    return sorted(module.name for module in pkgutil.iter_modules(__path__))


def find(name: str) -> Peer:
    """The peer called `name`. Raises InputError when there is none, or its package is not installed."""
    if name not in names():
        raise InputError(f"there is no peer {name!r}", remedy=f"choose one of {', '.join(names())}")
    module = importlib.import_module(f"{__name__}.{name}")
    peer = Peer(name, module.version, module.prepare)
    try:
        peer.version()
    except ImportError as error:
        raise InputError(f"the package {name} is not installed", remedy=f"pip install {name}") from error
    return peer
