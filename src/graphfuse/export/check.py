"""An exported ONNX file against the model it was made from."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import helper

from graphfuse import __version__
from graphfuse.artifact.dims import symbols_of
from graphfuse.artifact.manifest import Manifest, Tensor
from graphfuse.errors import InputError
from graphfuse.importers.common import StateVariable
from graphfuse.target import target_for
from graphfuse.verify.originals import Stateful
from graphfuse.verify.reference import Reference


class ExportedSession:
    """An exported file in onnxruntime, with what verification asks of a session.

    states: inputs and outputs of the file that its user's model keeps by itself. Raises InputError where onnxruntime
    does not load the file.
    """

    threads = 1

    def __init__(self, path: Path, states: Sequence[StateVariable] = ()) -> None:
        graph = onnx.load(path, load_external_data=False).graph
        hidden = {name for state in states for name in (state.input, state.output)}
        inputs = tuple(_tensor(value) for value in graph.input if value.name not in hidden)
        outputs = tuple(_tensor(value) for value in graph.output if value.name not in hidden)
        symbols, computed = _symbols(inputs), _symbols(outputs)
        self.manifest = Manifest(
            inputs, outputs, symbols, (), target_for("native"), __version__, "",
            measured=tuple(s for s in computed if s not in symbols),
            states=tuple(_tensor(value) for value in graph.input if value.name in hidden),
        )  # fmt: skip
        self._runner = Stateful(Reference(path), states)

    def run(self, output_names: Sequence[str] | None, inputs: Mapping[str, Any]) -> list[Any]:
        """The named outputs (None: all), as a Session gives them."""
        found = self._runner.run(inputs)
        wanted = [tensor.name for tensor in self.manifest.outputs] if output_names is None else output_names
        missing = [name for name in wanted if name not in found]
        if missing:
            raise InputError(f"no output is called {missing[0]!r}")
        return [found[name] for name in wanted]

    def typed(self, inputs: Mapping[str, np.ndarray[Any, Any]]) -> dict[str, np.ndarray[Any, Any]]:
        """The arrays as they are: onnxruntime tells what does not fit."""
        return dict(inputs)

    def reset(self) -> None:
        """States back to what they start from."""
        self._runner.restart()


def _tensor(value: onnx.ValueInfoProto) -> Tensor:
    kind, dims = value.type.tensor_type, []
    for k, d in enumerate(kind.shape.dim):
        name = d.dim_param or f"{value.name}_{k}"
        dims.append(d.dim_value if d.HasField("dim_value") else re.sub(r"\W", "_", f"d_{name}"))
    return Tensor(value.name, helper.tensor_dtype_to_np_dtype(kind.elem_type).name, tuple(dims))


def _symbols(tensors: Sequence[Tensor]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(s for t in tensors for d in t.shape if isinstance(d, str) for s in symbols_of(d)))
