"""The model that a user started from, run by the framework that it was made for."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import onnx

from graphfuse.importers.source import Source
from graphfuse.verify.reference import Reference

Array = np.ndarray[Any, Any]

# The modules of this folder that run a format: each has `runner(source) -> Runner`.
_RUNNERS: Mapping[str, str] = {}


class Runner(Protocol):
    """Runs a model; `name` is what computes, `version` its version."""

    name: str
    version: str

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Any]:
        """All outputs by name. Raises InputError for inputs that it refuses."""
        ...


@dataclass(frozen=True)
class Original:
    """The model to compare with: what runs it, and its graph as ONNX (with or without weights in other files)."""

    runner: Runner
    graph: Callable[[bool], onnx.ModelProto]


def original_of(model: Source | str | Path | onnx.ModelProto) -> Original:
    """What a model is compared with; a path is that of an ONNX file. Raises InputError where nothing runs it."""
    if isinstance(model, onnx.ModelProto):
        return Original(Reference(model), lambda _: model)
    if not isinstance(model, Source):
        path = Path(model)
        return Original(Reference(path), lambda weights: onnx.load(path, load_external_data=weights))
    module = _RUNNERS.get(model.format)
    runner = importlib.import_module(module).runner(model) if module else Reference(model.path or model.proto(True))
    return Original(runner, model.proto)
