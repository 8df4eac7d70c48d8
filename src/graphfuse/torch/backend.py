"""The backend of torch.compile: `torch.compile(model, backend="graphfuse")`.

Each graph that Dynamo makes is compiled, its weights taken as constants; what cannot be compiled runs as it is, which a
warning says once. Weights that change are noticed by their address and version, and the graph is compiled again.
"""

from __future__ import annotations

import itertools
import warnings
import weakref
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch

from graphfuse.errors import GraphfuseError, InputError, UnsupportedModelError, one_line
from graphfuse.importers.torch_tensors import to_array, to_tensor
from graphfuse.ledger import Ledger
from graphfuse.options import CompileOptions
from graphfuse.torch.kept import Fused, fused
from graphfuse.torch.piece import Piece, PieceSource, piece_of

_WHERE = "a graph of torch.compile"
_MOST_CHANGES = 8  # times that a graph is compiled again because its weights changed
_said: set[str] = set()
_numbers = itertools.count(1)
_live: weakref.WeakValueDictionary[int, CompiledPiece] = weakref.WeakValueDictionary()


def backend(
    graph: torch.fx.GraphModule,
    example_inputs: Sequence[Any],
    *,
    mode: str | None = None,
    options: Mapping[str, Any] | None = None,
) -> Callable[..., Any]:
    """What torch.compile calls for each graph of Dynamo's.

    options: fields of `CompileOptions`, and "fallback": False to raise UnsupportedModelError where a graph cannot be
    compiled, instead of running it as it is. mode is torch.compile's, and means nothing here.
    """
    chosen = dict(options or {})
    fallback = bool(chosen.pop("fallback", True))
    tensors = [value for value in example_inputs if isinstance(value, torch.Tensor)]
    if torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors):
        what = "gradients are wanted, so torch runs the graph; under torch.no_grad() it is compiled"
        return _as_it_is(graph, what)
    try:
        # What is traced here is none of Dynamo's business, which is in the middle of tracing.
        with torch._guards.tracing(None):
            return CompiledPiece(graph, example_inputs, CompileOptions(**chosen), fallback)
    except GraphfuseError as error:
        if not fallback or isinstance(error, InputError):
            raise
        return _as_it_is(graph, f"torch runs a graph that cannot be compiled: {reason_of(error)}")


def reason_of(error: GraphfuseError) -> str:
    """The error in one line."""
    if isinstance(error, UnsupportedModelError) and error.nodes:
        return "; ".join(f"{op} {name!r}: {why}" if name else f"{op}: {why}" for op, name, why in error.nodes[:3])
    return one_line(str(error))


def pieces() -> list[CompiledPiece]:
    """The compiled graphs that are in use, in the order that they were made."""
    return [piece for _, piece in sorted(_live.items())]


def _as_it_is(graph: torch.fx.GraphModule, why: str) -> Callable[..., Any]:
    _say(why)
    return graph.forward


def _say(text: str) -> None:
    if text not in _said:
        _said.add(text)
        warnings.warn(f"graphfuse: {text}", stacklevel=2)


def _is_real(value: Any) -> bool:
    return isinstance(value, torch.Tensor) and type(value).__name__ != "FakeTensor"


class CompiledPiece:
    """A compiled graph of Dynamo's, called with the arguments that the graph takes."""

    def __init__(
        self, graph: torch.fx.GraphModule, args: Sequence[Any], options: CompileOptions, fallback: bool = True
    ) -> None:
        self.graph, self._options, self._fallback = graph, options, fallback
        self.changes = 0
        self._piece: Piece = piece_of(graph, args)
        self._build(args)
        _live[next(_numbers)] = self

    @property
    def fused(self) -> Fused:
        """The artifact."""
        return self._fused

    @property
    def ledger(self) -> Ledger:
        """What became of every operator of the graph, and why."""
        return self._fused.ledger

    def __call__(self, *args: Any) -> Any:
        for k, address, version in self._watched:
            weight = args[k]
            if weight.data_ptr() != address or weight._version != version:
                if not self._changed(args):
                    return self.graph.forward(*args)
                break
        try:
            outputs = self._run([self._array(args[k]) for k in self._inputs])
        except InputError as error:
            _say(f"torch runs a graph for inputs that the compiled one refuses: {reason_of(error)}")
            return self.graph.forward(*args)
        given = iter(outputs)
        results: list[Any] = []
        for kind, value in self._piece.results:
            if kind == "tensor":
                results.append(to_tensor(next(given)))
            else:
                results.append(value if kind == "known" else next(given).item())
        for k, array in zip(self._written, given, strict=True):
            args[k].copy_(to_tensor(array))
        return tuple(results)

    def _array(self, value: Any) -> np.ndarray:
        return to_array(value) if isinstance(value, torch.Tensor) else np.array(int(value), np.int64)

    def _build(self, args: Sequence[Any]) -> None:
        piece = self._piece
        examples = {f"inputs_{i}": self._array(args[k]) for i, k in enumerate(piece.inputs) if _is_real(args[k])}
        self._fused = fused(piece.digest(args), lambda: PieceSource(piece, args, _WHERE), self._options, examples)
        manifest = self._fused.session.manifest
        wanted = sum(kind != "known" for kind, _ in piece.results)
        extra = len(manifest.outputs) - wanted
        self._inputs = piece.inputs
        self._written: list[int] = []
        if extra:
            self._written = self._find_written([tensor.name for tensor in manifest.outputs][wanted:])
        self._run = self._fused.session._run
        self._watch(args)

    def _watch(self, args: Sequence[Any]) -> None:
        """Remember which weights are compiled in."""
        piece = self._piece
        # The weights are kept, so that none of their addresses can be another's.
        self._kept = [args[k] for k in piece.weights]
        self._watched = [(k, args[k].data_ptr(), args[k]._version) for k in piece.weights]

    def _find_written(self, names: Sequence[str]) -> list[int]:
        inputs = [tensor.name for tensor in self._fused.session.manifest.inputs]
        return [self._inputs[inputs.index(name.rpartition(".")[0])] for name in names]

    def _changed(self, args: Sequence[Any]) -> bool:
        """Take weights that are others now; False where torch had better run the graph."""
        arrays = self._fused.weights({self._piece.arguments[k].path: args[k] for k in self._piece.weights})
        if arrays is not None:
            self._fused.session.take_weights(arrays)
            self._watch(args)
            return True
        self.changes += 1
        if self.changes > _MOST_CHANGES:
            what = f"the code of a graph changed with its weights more than {_MOST_CHANGES} times, so torch runs it"
            _say(f"{what}; call torch.compile anew once they are trained")
            return False
        self._build(args)
        return True
