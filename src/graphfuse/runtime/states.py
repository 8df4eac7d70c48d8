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

Array = np.ndarray[Any, Any]


class States:
    """The states of one session: `values` in the order of the manifest, changed only by whoever holds `lock`.

    Raises ArtifactError when the file that holds what they start from has another size.
    """

    def __init__(self, tensors: Sequence[Tensor], initial: Path | None) -> None:
        self.tensors = tensors
        self.lock = threading.Lock()
        self._initial = _read(tensors, initial)
        self.values: list[Array] = list(self._initial)

    def __len__(self) -> int:
        return len(self.tensors)

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
            self.values = values


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
