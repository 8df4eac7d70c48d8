"""The arrays of a TFLite file: what a buffer holds, dense or sparse, whole bytes or half ones."""

from __future__ import annotations

import math
from typing import Any

import ml_dtypes
import numpy as np
import onnx_ir as ir

from graphfuse.errors import ModelFileError
from graphfuse.importers.tflite.schema import AGAIN, BROKEN, TensorInfo

Array = np.ndarray[Any, Any]

# TensorType in schema.fbs: its number -> ONNX's type.
DTYPES: dict[int, ir.DataType] = {
    0: ir.DataType.FLOAT,
    1: ir.DataType.FLOAT16,
    2: ir.DataType.INT32,
    3: ir.DataType.UINT8,
    4: ir.DataType.INT64,
    6: ir.DataType.BOOL,
    7: ir.DataType.INT16,
    9: ir.DataType.INT8,
    10: ir.DataType.DOUBLE,
    12: ir.DataType.UINT64,
    15: ir.DataType.UINT32,
    16: ir.DataType.UINT16,
    17: ir.DataType.INT8,  # int4, which the kernels widen
    18: ir.DataType.BFLOAT16,
}
RESOURCE, INT4 = 13, 17
NAMES = {5: "texts", 8: "complex numbers", 11: "complex numbers", RESOURCE: "resources", 14: "variants"}


def dtype_of(info: TensorInfo, where: str) -> ir.DataType:
    """ONNX's type for a tensor's elements. Raises ModelFileError for those that have none."""
    if info.dtype not in DTYPES:
        kind = NAMES.get(info.dtype, f"type {info.dtype}")
        raise ModelFileError(f"tensor {info.name!r} holds {kind}", where=where, remedy="leave that part out")
    return DTYPES[info.dtype]


def array_of(info: TensorInfo, where: str) -> Array:
    """The constant that a tensor is, densely. Raises ModelFileError: too few or too many bytes for its shape."""
    assert info.data is not None
    dtype, shape = dtype_of(info, where), info.shape or ()
    kind = ml_dtypes.bfloat16 if dtype == ir.DataType.BFLOAT16 else dtype.numpy()
    elements, item = math.prod(shape), np.dtype(kind).itemsize
    if info.sparsity is not None:
        return _dense(info, shape, np.dtype(kind), where)
    needed = (elements + 1) // 2 if info.dtype == INT4 else elements * item
    if len(info.data) != needed:
        raise ModelFileError(
            f"tensor {info.name!r} has {len(info.data)} bytes of data where its shape {list(shape)} needs {needed}",
            where=where,
            remedy=AGAIN,
        )
    if info.dtype == INT4:
        return _halves(np.frombuffer(info.data, np.uint8))[:elements].reshape(shape)
    return np.frombuffer(info.data, np.dtype(kind).newbyteorder("<") if item > 1 and dtype != ir.DataType.BFLOAT16
                         else kind).reshape(shape)  # fmt: skip


def _halves(pairs: Array) -> Array:
    """Signed numbers of four bits, the lower half of a byte first."""
    both = np.stack([pairs & 15, pairs >> 4], axis=-1).reshape(-1).astype(np.int8)
    return np.where(both > 7, both - 16, both).astype(np.int8)


def _dense(info: TensorInfo, shape: tuple[int, ...], kind: np.dtype[Any], where: str) -> Array:
    try:
        return _densified(info, shape, kind)
    except BROKEN as error:
        what = f"tensor {info.name!r} has a damaged sparsity"
        raise ModelFileError(what, where=where, why=str(error), remedy=AGAIN) from error


def _densified(info: TensorInfo, shape: tuple[int, ...], kind: np.dtype[Any]) -> Array:
    """The format of SparsityParameters in schema.fbs (TACO's): dimensions in traversal order, blocks behind them."""
    assert info.data is not None
    stored = _halves(np.frombuffer(info.data, np.uint8)) if info.dtype == INT4 else np.frombuffer(info.data, kind)
    sparsity, rank = info.sparsity, len(shape)
    order = [int(k) for k in sparsity.TraversalOrderAsNumpy()]
    blocked = [int(k) for k in sparsity.BlockMapAsNumpy()] if sparsity.BlockMapLength() else []
    if sorted(order) != list(range(rank + len(blocked))) or sparsity.DimMetadataLength() != len(order):
        raise ValueError("its dimensions are not those of the tensor")
    metadata = [sparsity.DimMetadata(k) for k in range(len(order))]
    block = {rank + k: metadata[order.index(rank + k)].DenseSize() for k in range(len(blocked))}
    sizes = [shape[axis] if axis < rank else block[axis] for axis in range(len(order))]
    for k, axis in enumerate(blocked):
        if sizes[rank + k] < 1 or sizes[axis] % sizes[rank + k]:
            raise ValueError("a block does not divide its dimension")
        sizes[axis] //= sizes[rank + k]
    compressed = {
        level: (_vector(entry.ArraySegments, entry.ArraySegmentsType()),
                _vector(entry.ArrayIndices, entry.ArrayIndicesType()))
        for level, entry in enumerate(metadata) if entry.Format() != 0
    }  # fmt: skip
    # Places at any level are those that are stored in the end, or each has a segment further on.
    most = max(1, len(stored), *(len(segments) for segments, _ in compressed.values()))
    # Every stored element, level by level: its index in each dimension passed so far.
    count, places = 1, np.zeros((1, 0), np.int64)
    for level in range(len(order)):
        if level not in compressed:
            n = sizes[order[level]]
            if count * n > most:
                raise ValueError("it has fewer elements than its dimensions say")
            index, repeat = np.tile(np.arange(n), count), np.repeat(np.arange(count), n)
        else:
            segments, index = compressed[level]
            lengths = np.diff(segments)
            if len(segments) != count + 1 or segments[0] != 0 or segments[-1] != len(index) or np.any(lengths < 0):
                raise ValueError("its segments do not fit together")
            repeat = np.repeat(np.arange(count), lengths)
            if len(index) and (index.min() < 0 or index.max() >= sizes[order[level]]):
                raise ValueError("an index lies outside its dimension")
        places, count = np.concatenate([places[repeat], index[:, None]], axis=1), len(index)
    if count > len(stored):
        raise ValueError(f"{len(stored)} elements are there where {count} are placed")
    by_axis = {axis: places[:, level] for level, axis in enumerate(order)}
    for k, axis in enumerate(blocked):
        by_axis[axis] = by_axis[axis] * block[rank + k] + by_axis[rank + k]
    result = np.zeros(shape, kind)
    result[tuple(by_axis[axis] for axis in range(rank))] = stored[:count]
    return result


def _vector(get: Any, kind: int) -> Array:
    """A SparseIndexVector: 1 is int32, 2 uint16, 3 uint8."""
    table = get()
    if table is None or kind not in (1, 2, 3):
        raise ValueError("its indices are missing")
    from graphfuse.importers.tflite.schema import flatbuffer

    vector = getattr(flatbuffer(), {1: "Int32Vector", 2: "Uint16Vector", 3: "Uint8Vector"}[kind])()
    vector.Init(table.Bytes, table.Pos)
    found = vector.ValuesAsNumpy()
    return np.zeros(0, np.int64) if isinstance(found, int) else np.asarray(found).astype(np.int64)
