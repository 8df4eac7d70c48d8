"""TFLite models in LiteRT, with its reference kernels and no delegates."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from graphfuse.errors import InputError, one_line
from graphfuse.importers.source import Converted
from graphfuse.verify.reference import OTHERS, UNVERIFIED

Array = np.ndarray[Any, Any]

# LiteRT 2.3's reference kernels: of the window of a local response normalisation they take other elements than its
# optimised kernels and TensorFlow, and of bytes every sum is the same number.
_WRONG_IN_REFERENCE = frozenset({"LOCAL_RESPONSE_NORMALIZATION", "SUM"})


def runner(source: Converted) -> LiteRT | None:
    """What runs a TFLite file; None where the package ai-edge-litert is not installed."""
    try:
        import ai_edge_litert.interpreter  # type: ignore[import-untyped]  # noqa: F401
    except ImportError:
        return None
    return LiteRT(source)


class LiteRT:
    """A TFLite file in LiteRT. Raises InputError where LiteRT refuses it.

    kernels: "reference", those that say what TFLite means; "optimised", its own for the processor; "delegates",
    its choice, which is XNNPACK for what that has.
    """

    def __init__(self, source: Converted, kernels: str = "reference", threads: int = 1) -> None:
        self.name, self.version = "LiteRT", importlib.metadata.version("ai-edge-litert")
        spelled = source.converted
        states = {name for state in spelled.states for name in (state.input, state.output)}
        self._inputs = [value.name for value in spelled.model.graph.inputs if value.name not in states]
        self.outputs = [value.name or "" for value in spelled.model.graph.outputs if value.name not in states]
        self._path, self._threads = str(source.path), threads
        wrong = _WRONG_IN_REFERENCE.intersection(spelled.operators.values())
        self._kernels = "optimised" if wrong and kernels == "reference" else kernels
        self.restart()

    def restart(self) -> None:
        """Put the variables back to what they start from."""
        from ai_edge_litert.interpreter import OpResolverType

        plain = OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES
        kinds = {"reference": [OpResolverType.BUILTIN_REF, plain], "optimised": [plain]}
        self._interpreter = self._loaded(kinds.get(self._kernels, [OpResolverType.AUTO]))

    def _loaded(self, kinds: Sequence[Any]) -> Any:
        """The model with the first set of kernels that has all that it needs: the reference kernels lack a few."""
        from ai_edge_litert.interpreter import Interpreter

        for kind in kinds:
            try:
                interpreter = Interpreter(self._path, num_threads=self._threads, experimental_op_resolver_type=kind)
                interpreter.allocate_tensors()
                return interpreter
            except (ValueError, RuntimeError) as error:
                refusal = InputError(
                    "LiteRT does not load this model", why=one_line(str(error), 200), remedy=UNVERIFIED
                )
        raise refusal

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """All outputs by name. Raises InputError when LiteRT refuses the inputs."""
        try:
            return self._run(inputs)
        except (ValueError, RuntimeError) as error:
            raise InputError("LiteRT refuses these inputs", why=one_line(str(error), 200), remedy=OTHERS) from error

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
            self._interpreter.set_tensor(detail["index"], np.asarray(inputs[name or ""], order="C"))
        self._interpreter.invoke()
        results = [self._interpreter.get_tensor(d["index"]) for d in self._interpreter.get_output_details()]
        return dict(zip(self.outputs, results, strict=True))
