"""What a model keeps from one call to the next."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from graphfuse.artifact.manifest import Tensor
from graphfuse.errors import ArtifactError, InputError
from graphfuse.runtime.binder import Shape
from graphfuse.runtime.library import ELEMENTS, aligned_empty

Array = np.ndarray[Any, Any]


class States:
    """The states of one session, in the order of the manifest; looked at and changed by whoever holds `lock`.

    They lie in two sets of arrays: a call reads them in one and leaves what they become in the other, and then the sets
    change places. shapes: of all states; before, after: what model_call takes for the arrays of both sets. Raises
    ArtifactError when the file that holds what they start from has another size.
    """

    def __init__(self, tensors: Sequence[Tensor], initial: Path | None) -> None:
        self.tensors = tensors
        self.lock = threading.Lock()
        self._initial = _read(tensors, initial)
        self.shapes: tuple[Shape, ...] = tuple([x.shape for x in self._initial])
        self._sets = [[aligned_empty(x.shape, x.dtype, x.nbytes) for x in self._initial] for _ in range(2)]
        self.before: list[Any]
        self.after: list[Any]
        self.before, self.after = ([id(x) + ELEMENTS for x in some] for some in self._sets)
        self.put(self._initial)

    def __len__(self) -> int:
        return len(self.tensors)

    @property
    def values(self) -> list[Array]:
        """The states as they are; the next call but one writes over these arrays."""
        return self._sets[0]

    def put(self, values: Sequence[Array]) -> None:
        """Copy these into the states."""
        for own, value in zip(self._sets[0], values, strict=True):
            own[...] = value

    def advance(self) -> None:
        """What a call has left for `after` are the states from now on."""
        self._sets.reverse()
        self.before, self.after = self.after, self.before

    def current(self) -> dict[str, Array]:
        """Copies of all states, by name."""
        with self.lock:
            return {tensor.name: value.copy() for tensor, value in zip(self.tensors, self.values, strict=True)}

    def reset(self, given: Mapping[str, Array]) -> None:
        """Back to the start; to the arrays given, for states that are named. Raises InputError."""
        names = [tensor.name for tensor in self.tensors]
        if unknown := [name for name in given if name not in names]:
            listed = ", ".join(map(repr, names))
            raise InputError(f"no state is called {unknown[0]!r}", remedy=f"the states are {listed}")
        values = [
            _checked(tensor, given[tensor.name]) if tensor.name in given else start
            for tensor, start in zip(self.tensors, self._initial, strict=True)
        ]
        with self.lock:
            self.put(values)


def _checked(tensor: Tensor, value: Array) -> Array:
    dtype = np.dtype(getattr(ml_dtypes, tensor.dtype, tensor.dtype))
    if not isinstance(value, np.ndarray) or value.dtype != dtype or value.shape != tensor.shape:
        given = f"{value.dtype} {value.shape}" if isinstance(value, np.ndarray) else type(value).__name__
        raise InputError(f"this is {given}, expected {dtype} {tensor.shape}", where=f"state {tensor.name!r}")
    return value.copy(order="C")


def _read(tensors: Sequence[Tensor], path: Path | None) -> list[Array]:
    data = b"" if path is None else path.read_bytes()
    arrays, at = [], 0
    for tensor in tensors:
        dtype = np.dtype(getattr(ml_dtypes, tensor.dtype, tensor.dtype))
        count = int(np.prod(tensor.shape, dtype=np.int64))  # type: ignore[arg-type]
        piece = data[at : at + count * dtype.itemsize]
        if len(piece) < count * dtype.itemsize:
            raise ArtifactError("the states are cut short", where=str(path), remedy="compile the model anew")
        arrays.append(np.frombuffer(piece, dtype).reshape(tensor.shape).copy())  # type: ignore[arg-type]
        at += len(piece)
    return arrays
