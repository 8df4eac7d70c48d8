"""What verification compares a model of PyTorch with: the module itself, or the exported program, run by torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from graphfuse.errors import InputError
from graphfuse.importers.exported import Exported, describe, require_torch
from graphfuse.importers.torch_tensors import to_array, to_tensor
from graphfuse.verify.reference import OTHERS

Array = np.ndarray[Any, Any]


def runner(source: Exported) -> TorchRunner:
    """The runner of a model of PyTorch. Raises InputError where PyTorch is not installed."""
    return TorchRunner(source)


class TorchRunner:
    """Runs what the user gave, on the inputs of the compiled model; the user's module is left as it was."""

    def __init__(self, source: Exported) -> None:
        torch = require_torch("verification against the original")
        self.name, self.version = "torch", str(torch.__version__)
        self._source = source
        graph, states = source.converted.model.graph, source.converted.states
        apart = {state.input for state in states} | {state.output for state in states}
        self._inputs = [value.name or "" for value in graph.inputs if value.name not in apart]
        self._outputs = [value.name or "" for value in graph.outputs if value.name not in apart]
        buffers = dict(source.runnable.named_buffers())
        self._buffers = {state.input: buffers[state.input] for state in states if state.input in buffers}
        self._initial = {name: buffer.detach().clone() for name, buffer in self._buffers.items()}
        self._values: dict[str, Any] = self._initial

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Any]:
        """All outputs by name. Raises InputError for inputs that the module refuses."""
        torch = require_torch("verification against the original")
        with torch.no_grad():
            try:
                self._put(self._values)
                outputs = self._source.run([to_tensor(np.array(inputs[name], order="C")) for name in self._inputs])
                self._values = {name: buffer.detach().clone() for name, buffer in self._buffers.items()}
            except Exception as error:  # whatever the user's code raises
                raise InputError("torch refuses these inputs", why=describe(error), remedy=OTHERS) from error
            finally:
                self._put(self._initial)
        arrays = [to_array(v) if isinstance(v, torch.Tensor) else np.array(v) for v in outputs]
        return dict(zip(self._outputs, arrays, strict=True))

    def restart(self) -> None:
        """Put the buffers that change back to what they start from."""
        self._values = self._initial

    def _put(self, values: Mapping[str, Any]) -> None:
        for name, buffer in self._buffers.items():
            buffer.copy_(values[name])
