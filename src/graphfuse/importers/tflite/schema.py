"""A TFLite file as plain values: every offset, size and index is checked here, so that nothing behind it has to.

The flatbuffer is data from a stranger. The package `tflite` follows its offsets; whatever leads out of the file, or
would read more entries than the file has room for, is one ModelFileError.
"""

from __future__ import annotations

import importlib
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from graphfuse.errors import ModelFileError, one_line

AGAIN = "download or convert the model again"
# What the flatbuffer classes and NumPy raise on offsets, lengths and numbers that cannot be.
BROKEN = (struct.error, IndexError, KeyError, ValueError, TypeError, OverflowError, AttributeError, MemoryError)
_CUSTOM = 32  # BuiltinOperator.CUSTOM
_PLACEHOLDER = 127  # codes from here on are in the wider field
_T = TypeVar("_T")


@cache
def flatbuffer() -> Any:
    """The package with the classes of TFLite's schema. Raises ModelFileError where it is not installed."""
    try:
        return importlib.import_module("tflite")
    except ImportError as error:
        remedy = "pip install 'graphfuse[tflite]'"
        raise ModelFileError("TFLite models need the package tflite", why=str(error), remedy=remedy) from error


@dataclass(frozen=True)
class Quantization:
    """real = scale * (stored - zero); one scale (float32) and zero point (int64), or one for each index of `axis`."""

    scale: np.ndarray
    zero: np.ndarray
    axis: int = 0


@dataclass(frozen=True)
class TensorInfo:
    """A tensor of a subgraph; signature: the shape with -1 for what is open; dtype: a number of TensorType.

    shape: None where the file says that it has no rank; data: the bytes of its buffer, None for what is computed.
    """

    name: str
    dtype: int
    shape: tuple[int, ...] | None
    signature: tuple[int, ...] | None
    data: memoryview | None
    quantization: Quantization | None
    is_variable: bool
    sparsity: Any


@dataclass(frozen=True)
class OperatorInfo:
    """An operator of a subgraph: tensors by index, -1 for what is left out. `options` are flatbuffer tables."""

    type: str
    custom: str
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    options: tuple[tuple[int, Any], tuple[int, Any]]


@dataclass(frozen=True)
class SubgraphInfo:
    name: str
    tensors: tuple[TensorInfo, ...]
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    operators: tuple[OperatorInfo, ...]


@dataclass(frozen=True)
class SignatureInfo:
    """Names for a subgraph's inputs and outputs: index of the tensor -> name."""

    subgraph: int
    inputs: dict[int, str]
    outputs: dict[int, str]


@dataclass(frozen=True)
class ModelInfo:
    subgraphs: tuple[SubgraphInfo, ...]
    signatures: tuple[SignatureInfo, ...] = field(default=())


@contextmanager
def reported(where: str, what: str = "not a valid TFLite model") -> Iterator[None]:
    """Whatever a broken flatbuffer makes libraries raise becomes one ModelFileError."""
    try:
        yield
    except BROKEN as error:
        why = one_line(f"{type(error).__name__}: {error}", 200)
        raise ModelFileError(what, where=where, why=why, remedy=AGAIN) from error


def read_model(path: Path) -> ModelInfo:
    """The model in a file. Raises ModelFileError."""
    where = str(path)
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ModelFileError("cannot be read", where=where, why=error.strerror or str(error)) from error
    with reported(where):
        return _Reader(data, where).model()


class _Reader:
    def __init__(self, data: bytes, where: str) -> None:
        self.data, self.where = data, where
        # Every entry of a vector takes four bytes of the file, so a file whose parts do not overlap has no more.
        self.budget = len(data) // 4

    def model(self) -> ModelInfo:
        schema = flatbuffer()
        model = schema.Model.GetRootAs(self.data, 0)
        if model.Version() != 3:
            raise ModelFileError(f"TFLite version {model.Version()} is not known", where=self.where, why="3 is")
        codes = self.entries(model.OperatorCodesLength(), model.OperatorCodes, self._code)
        self.buffers = self.entries(model.BuffersLength(), model.Buffers, self._buffer)
        self.codes = codes
        subgraphs = self.entries(model.SubgraphsLength(), model.Subgraphs, self._subgraph)
        if not subgraphs:
            raise ModelFileError("the model holds no graph", where=self.where, remedy=AGAIN)
        signatures = self.entries(model.SignatureDefsLength(), model.SignatureDefs, self._signature)
        for signature in signatures:
            self._index(signature.subgraph, len(subgraphs), "subgraph")
        return ModelInfo(subgraphs, signatures)

    def entries(self, count: int, get: Callable[[int], Any], read: Callable[[Any], _T]) -> tuple[_T, ...]:
        """The entries of a vector of tables."""
        self._spend(count)
        return tuple(read(get(k)) for k in range(count))

    def _spend(self, count: int) -> None:
        self.budget -= count
        if self.budget < 0:
            raise ModelFileError("not a valid TFLite model", where=self.where, why="a vector is too long", remedy=AGAIN)

    def numbers(self, vector: Any) -> tuple[int, ...]:
        """A vector of integers; the flatbuffer classes give 0 for one that is not there."""
        if isinstance(vector, int):
            return ()
        self._spend(len(vector))
        return tuple(int(x) for x in vector)

    def _index(self, k: int, count: int, what: str) -> int:
        if not 0 <= k < count:
            why = f"{what} {k} of {count}"
            raise ModelFileError("not a valid TFLite model", where=self.where, why=why, remedy=AGAIN)
        return k

    def _code(self, entry: Any) -> tuple[str, str]:
        code = entry.BuiltinCode() if entry.DeprecatedBuiltinCode() == _PLACEHOLDER else entry.DeprecatedBuiltinCode()
        code = code or entry.BuiltinCode()
        if code == _CUSTOM:
            return "CUSTOM", one_line(_text(entry.CustomCode()), 80)
        return _operator_names().get(code, f"operator {code}"), ""

    def _buffer(self, entry: Any) -> memoryview | None:
        offset, size = entry.Offset(), entry.Size()
        if offset > 1:  # behind the flatbuffer, in files of more than 2 GB
            if offset + size > len(self.data):
                raise IndexError(f"a buffer ends at {offset + size} of {len(self.data)} bytes")
            return memoryview(self.data)[offset : offset + size]
        found = entry.DataAsNumpy()
        return None if isinstance(found, int) or not len(found) else memoryview(found)

    def _subgraph(self, entry: Any) -> SubgraphInfo:
        tensors = self.entries(entry.TensorsLength(), entry.Tensors, self._tensor)

        def indices(vector: Any, optional: bool = False) -> tuple[int, ...]:
            found = self.numbers(vector)
            return tuple(k if optional and k == -1 else self._index(k, len(tensors), "tensor") for k in found)

        def operator(entry: Any) -> OperatorInfo:
            type_, custom = self.codes[self._index(entry.OpcodeIndex(), len(self.codes), "operator code")]
            options = entry.BuiltinOptionsType(), entry.BuiltinOptions()
            more = entry.BuiltinOptions2Type(), entry.BuiltinOptions2()
            inputs, outputs = indices(entry.InputsAsNumpy(), True), indices(entry.OutputsAsNumpy())
            return OperatorInfo(type_, custom, inputs, outputs, (options, more))

        operators = self.entries(entry.OperatorsLength(), entry.Operators, operator)
        inputs, outputs = indices(entry.InputsAsNumpy()), indices(entry.OutputsAsNumpy())
        return SubgraphInfo(_text(entry.Name()), tensors, inputs, outputs, operators)

    def _tensor(self, entry: Any) -> TensorInfo:
        shape, signature = self.numbers(entry.ShapeAsNumpy()), self.numbers(entry.ShapeSignatureAsNumpy())
        name = one_line(_text(entry.Name()), 200)
        if any(d < 0 for d in shape):
            raise ModelFileError(f"tensor {name!r} has the shape {list(shape)}", where=self.where, remedy=AGAIN)
        if signature and (len(signature) != len(shape) or any(d < -1 for d in signature)):
            raise ModelFileError(f"tensor {name!r} has the shape {list(signature)}", where=self.where, remedy=AGAIN)
        return TensorInfo(
            name,
            entry.Type(),
            shape if shape or entry.HasRank() or entry.Buffer() else None,
            signature or None,
            self.buffers[self._index(entry.Buffer(), len(self.buffers), "buffer")] if self.buffers else None,
            self._quantization(entry.Quantization(), name),
            bool(entry.IsVariable()),
            entry.Sparsity(),
        )

    def _quantization(self, entry: Any, name: str) -> Quantization | None:
        if entry is not None and entry.DetailsType() > 1:  # blocks of an axis, which later schemas know
            what = f"tensor {name!r} is quantised in blocks"
            raise ModelFileError(what, where=self.where, remedy="quantise it for each tensor or channel")
        if entry is None or not entry.ScaleLength():
            return None
        scale = np.array(entry.ScaleAsNumpy(), np.float32)
        zero = entry.ZeroPointAsNumpy() if entry.ZeroPointLength() else np.zeros(1, np.int64)
        self._spend(len(scale))
        if len(zero) not in (1, len(scale)) or not np.all(np.isfinite(scale)):
            raise ModelFileError(f"tensor {name!r} has a damaged quantisation", where=self.where, remedy=AGAIN)
        return Quantization(scale, np.broadcast_to(zero, scale.shape).astype(np.int64), entry.QuantizedDimension())

    def _signature(self, entry: Any) -> SignatureInfo:
        def named(entry: Any) -> tuple[int, str]:
            return entry.TensorIndex(), one_line(_text(entry.Name()), 200)

        inputs = self.entries(entry.InputsLength(), entry.Inputs, named)
        outputs = self.entries(entry.OutputsLength(), entry.Outputs, named)
        return SignatureInfo(entry.SubgraphIndex(), dict(inputs), dict(outputs))


def _text(value: bytes | None) -> str:
    return "" if value is None else value.decode("utf-8", "replace")


@cache
def _operator_names() -> dict[int, str]:
    names = vars(flatbuffer().BuiltinOperator)
    return {code: name for name, code in names.items() if isinstance(code, int) and not name.startswith("_")}
