"""The runtimes that a model can be timed against, one file each; the folder listing is the registry.

A peer's file says how its runtime is used at its best for one process, and imports the runtime only inside functions:

    PACKAGES   what pip installs for it
    VIES       whether it computes in float32 as we do, so that a row's best peer may be it
    TOLERANCE  error, as a share of the largest output, from which its result counts as wrong
    version() -> str, prepare(subject) -> Ready
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from graphfuse.errors import InputError

Array = np.ndarray[Any, Any]

# float32 through a hundred layers in any order of summation stays far below this; a wrong network does not.
FLOAT32_TOLERANCE = 1e-3


@dataclass(frozen=True)
class Subject:
    """What a runtime is to run: an ONNX file on inputs by name, with so many threads.

    outputs: names in the model's order; folder: where conversions may be kept for the next time; artifact: folder of
    the model compiled by graphfuse; torch_form: "module:argument", where module.with_weights(argument, onnx_model) is
    the same network as a torch.nn.Module, or "" for a conversion from ONNX.
    """

    model: Path
    inputs: Mapping[str, Array]
    outputs: tuple[str, ...]
    threads: int
    folder: Path
    artifact: Path | None = None
    torch_form: str = ""


@dataclass(frozen=True)
class Ready:
    """A model ready to run: `call` runs it once on the subject's inputs, `outputs` reads what a call returned:
    by name, a list of arrays where the model returns a sequence.

    notes: further facts about it, by name.
    """

    call: Callable[[], Any]
    outputs: Callable[[Any], Mapping[str, Any]]
    notes: Mapping[str, Any] | None = None


def names() -> list[str]:
    """The peers there are, sorted."""
    return sorted(module.name for module in pkgutil.iter_modules(__path__))


def check(wanted: Iterable[str]) -> None:
    """Raises InputError for a name that no peer has."""
    for name in wanted:
        if name not in names():
            raise InputError(f"there is no peer {name!r}", remedy=f"choose one of {', '.join(names())}")


def find(name: str) -> ModuleType:
    """The module of the peer called `name`; its runtime need not be installed. Raises InputError when there is none."""
    check([name])
    return importlib.import_module(f"{__name__}.{name}")


def vies(name: str) -> bool:
    """Whether the peer computes in float32 as graphfuse does."""
    return bool(find(name).VIES)
