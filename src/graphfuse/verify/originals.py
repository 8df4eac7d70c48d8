"""The model that a user started from, run by the framework that it was made for."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import onnx

from graphfuse.importers.common import StateVariable
from graphfuse.importers.source import Converted, Source
from graphfuse.verify.reference import Reference

Array = np.ndarray[Any, Any]

# The modules of this folder that run a format: each has `runner(source) -> Runner`.
_RUNNERS: Mapping[str, str] = {
    "PyTorch": "graphfuse.verify.torch_program",
    "TFLite": "graphfuse.verify.litert",
    "TorchScript": "graphfuse.verify.torchscript",
    "torch.export": "graphfuse.verify.torch_program",
}


class Runner(Protocol):
    """Runs a model; `name` is what computes, `version` its version. A model with states keeps them between runs."""

    name: str
    version: str

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Any]:
        """All outputs by name, no states. Raises InputError for inputs that it refuses."""
        ...

    def restart(self) -> None:
        """Put the states back to what they start from."""


class Graph(Protocol):
    """What runs a graph as it is, whose states are inputs and outputs like others."""

    name: str
    version: str

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Any]:
        """All outputs by name. Raises InputError for inputs that it refuses."""
        ...


@dataclass(frozen=True)
class Original:
    """The model to compare with: what runs it, and its graph as ONNX (with or without weights in other files).

    states: the inputs and outputs of the graph that are not its user's.
    """

    runner: Runner
    graph: Callable[[bool], onnx.ModelProto]
    states: tuple[StateVariable, ...] = ()


def original_of(model: Source | str | Path | onnx.ModelProto) -> Original:
    """What a model is compared with; a path is that of an ONNX file. Raises InputError where nothing runs it."""
    if isinstance(model, onnx.ModelProto):
        return Original(Stateful(Reference(model)), lambda _: model)
    if not isinstance(model, Source):
        path = Path(model)
        return Original(Stateful(Reference(path)), lambda weights: onnx.load(path, load_external_data=weights))
    module = _RUNNERS.get(model.format)
    if isinstance(model, Converted):
        states = model.converted.states
        runner = importlib.import_module(module).runner(model) if module else None
        return Original(runner or Stateful(Reference(model.proto(True)), states), model.proto, states)
    return Original(Stateful(Reference(model.path or model.proto(True))), model.proto)


class Stateful:
    """A graph whose states are inputs and outputs, run call after call. Raises InputError as what runs it does."""

    def __init__(self, reference: Graph, states: Sequence[StateVariable] = ()) -> None:
        self.name, self.version = reference.name, reference.version
        self._reference, self._states = reference, states
        self._values: dict[str, Array] = {}
        self.restart()

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Any]:
        """All outputs by name, no states."""
        outputs = self._reference.run({**inputs, **self._values})
        self._values = {state.input: outputs.pop(state.output) for state in self._states}
        return outputs

    def restart(self) -> None:
        """Put the states back to what they start from."""
        self._values = {state.input: state.initial for state in self._states}
