"""TFLite models in LiteRT, with its reference kernels and no delegates."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Mapping
from typing import Any

import numpy as np

from graphfuse.errors import InputError, one_line
from graphfuse.importers.source import Converted

Array = np.ndarray[Any, Any]


def runner(source: Converted) -> LiteRT | None:
    """What runs a TFLite file; None where the package ai-edge-litert is not installed."""
    try:
        import ai_edge_litert.interpreter  # type: ignore[import-untyped]  # noqa: F401
    except ImportError:
        return None
    return LiteRT(source)


class LiteRT:
    """A TFLite file in LiteRT. Raises InputError where LiteRT refuses it.

    reference: its reference kernels; otherwise its own choice, which is XNNPACK for what that has.
    """

    def __init__(self, source: Converted, reference: bool = True, threads: int = 1) -> None:
        self.name, self.version = "LiteRT", importlib.metadata.version("ai-edge-litert")
        spelled = source.converted
        states = {name for state in spelled.states for name in (state.input, state.output)}
        self._inputs = [value.name for value in spelled.model.graph.inputs if value.name not in states]
        self.outputs = [value.name or "" for value in spelled.model.graph.outputs if value.name not in states]
        self._path, self._reference, self._threads = str(source.path), reference, threads
        self.restart()

    def restart(self) -> None:
        """Put the variables back to what they start from."""
        from ai_edge_litert.interpreter import Interpreter, OpResolverType

        kind = OpResolverType.BUILTIN_REF if self._reference else OpResolverType.AUTO
        try:
            self._interpreter = Interpreter(self._path, num_threads=self._threads, experimental_op_resolver_type=kind)
            self._interpreter.allocate_tensors()
        except (ValueError, RuntimeError) as error:
            raise InputError("LiteRT does not load this model", why=one_line(str(error), 200)) from error

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """All outputs by name. Raises InputError when LiteRT refuses the inputs."""
        try:
            return self._run(inputs)
        except (ValueError, RuntimeError) as error:
            raise InputError("LiteRT refuses these inputs", why=one_line(str(error), 200)) from error

    def _run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        details = self._interpreter.get_input_details()
        resized = False
        for name, detail in zip(self._inputs, details, strict=True):
            if list(detail["shape"]) != list(inputs[name or ""].shape):
                self._interpreter.resize_tensor_input(detail["index"], inputs[name or ""].shape)
                resized = True
        if resized:
            self._interpreter.allocate_tensors()
        for name, detail in zip(self._inputs, self._interpreter.get_input_details(), strict=True):
            self._interpreter.set_tensor(detail["index"], np.ascontiguousarray(inputs[name or ""]))
        self._interpreter.invoke()
        results = [self._interpreter.get_tensor(d["index"]) for d in self._interpreter.get_output_details()]
        return dict(zip(self.outputs, results, strict=True))
