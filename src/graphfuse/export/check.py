"""An exported file against the model it was made from."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
from onnx import helper

from graphfuse import __version__
from graphfuse.artifact.dims import symbols_of
from graphfuse.artifact.manifest import Manifest, Tensor
from graphfuse.errors import InputError
from graphfuse.graph.lists import results
from graphfuse.importers.common import StateVariable
from graphfuse.importers.exported import describe, require_torch
from graphfuse.importers.torch_tensors import to_array, to_tensor
from graphfuse.target import target_for
from graphfuse.verify.check import spelled
from graphfuse.verify.originals import Runner, Stateful
from graphfuse.verify.reference import Reference


class ExportedSession:
    """An exported file in onnxruntime, with what verification asks of a session.

    model: the graph that was written; states: inputs and outputs of the file that its user's model keeps by itself.
    Raises InputError where onnxruntime does not load the file.
    """

    threads = 1

    def __init__(self, path: Path, model: ir.Model, states: Sequence[StateVariable] = ()) -> None:
        self._hold(manifest_of(model, states=states), Stateful(Reference(path), states))

    def _hold(self, manifest: Manifest, runner: Runner) -> None:
        self.manifest, self._runner = manifest, runner

    def run(self, output_names: Sequence[str] | None, inputs: Mapping[str, Any]) -> list[Any]:
        """The named outputs (None: all), as a Session gives them."""
        found = spelled(self.manifest.results, self._runner.run(inputs))
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


class ProgramSession(ExportedSession):
    """An exported program of torch.export in torch, with what verification asks of a session.

    model: the graph that was written; inputs: the user's names, and what is known of their shapes, in the program's
    order. Raises InputError where torch does not load the file.
    """

    def __init__(
        self, path: Path, model: ir.Model, inputs: Sequence[Tensor], states: Sequence[StateVariable] = ()
    ) -> None:
        names = [[tensor.name for tensor in side] for side in (inputs, graph_ends(model)[1])]
        self._hold(manifest_of(model, inputs, states), Stateful(_Program(path, *names), states))


class _Program:
    """What `Stateful` asks of a model, of a program of torch.export."""

    def __init__(self, path: Path, inputs: Sequence[str], outputs: Sequence[str]) -> None:
        self._torch = require_torch("checking an exported program")
        self.name, self.version = "torch", str(self._torch.__version__)
        try:
            self._module = self._torch.export.load(path).module()
        except Exception as error:  # whatever torch raises
            raise InputError("torch does not load it", where=str(path), why=describe(error)) from error
        self._inputs, self._outputs = inputs, outputs

    def run(self, inputs: Mapping[str, Any]) -> dict[str, Any]:
        tensors = [to_tensor(np.array(inputs[name], order="C")) for name in self._inputs]
        with self._torch.no_grad():
            try:
                found = self._module(*tensors)
            except Exception as error:
                raise InputError("torch refuses these inputs", why=describe(error)) from error
        values = self._torch.utils._pytree.tree_leaves(found)
        return {name: to_array(value) for name, value in zip(self._outputs, values, strict=True)}


def graph_ends(model: ir.Model) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
    """The inputs and the outputs of a graph, with what is known of their shapes."""
    sides = (model.graph.inputs, model.graph.outputs)
    inputs, outputs = (tuple(_tensor(ir.serde.serialize_value(value)) for value in side) for side in sides)
    return inputs, outputs


def manifest_of(
    model: ir.Model, inputs: Sequence[Tensor] | None = None, states: Sequence[StateVariable] = ()
) -> Manifest:
    """A manifest of what a graph takes and gives, states apart. inputs: where more is known of them than it says."""
    ends = graph_ends(model)
    inputs, outputs = ends[0] if inputs is None else inputs, ends[1]
    hidden = {name for state in states for name in (state.input, state.output)}
    taken = tuple(tensor for tensor in inputs if tensor.name not in hidden)
    given = tuple(tensor for tensor in outputs if tensor.name not in hidden)
    symbols, computed = _symbols(taken), _symbols(given)
    return Manifest(
        taken, given, symbols, (), target_for("native"), __version__, "",
        measured=tuple(s for s in computed if s not in symbols),
        results={name: names for name, names in results(model).items() if name not in hidden},
        states=tuple(tensor for tensor in inputs if tensor.name in hidden),
    )  # fmt: skip


def _tensor(value: onnx.ValueInfoProto) -> Tensor:
    kind, dims = value.type.tensor_type, []
    for k, d in enumerate(kind.shape.dim):
        name = d.dim_param or f"{value.name}_{k}"
        dims.append(d.dim_value if d.HasField("dim_value") else re.sub(r"\W", "_", f"d_{name}"))
    return Tensor(value.name, helper.tensor_dtype_to_np_dtype(kind.elem_type).name, tuple(dims))


def _symbols(tensors: Sequence[Tensor]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(s for t in tensors for d in t.shape if isinstance(d, str) for s in symbols_of(d)))
