"""Elements by their indices: gathering, scattering, selecting."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from graphfuse.importers.tflite.call import Call
from graphfuse.importers.tflite.quantized import kept, real
from graphfuse.importers.tflite.registry import NotSpelled, operator

INT32, INT64 = ir.DataType.INT32, ir.DataType.INT64


@operator("GATHER")
def gather(call: Call) -> ir.Value:
    o, s, x, index = call.options("GatherOptions"), call.s, call.x(0), call.x(1)
    batch, axis, rank = o.BatchDims(), o.Axis(), s.rank(call.x(0))
    index = s.cast(index, INT32) if index.dtype not in (INT32, INT64) else index
    if batch < 0:
        batch += s.rank(index)
    axis = axis + rank if axis < 0 else axis
    if batch == 0:
        return s("Gather", x, index, axis=axis)  # type: ignore[no-any-return]
    if batch != axis:
        raise NotSpelled(f"axis {axis} with {batch} axes of items")
    # GatherND takes whole rows behind the batch's axes.
    places = s("Unsqueeze", s.ints(index), s.constant([-1]))
    return s("GatherND", x, places, batch_dims=batch)  # type: ignore[no-any-return]


@operator("GATHER_ND")
def gather_nd(call: Call) -> ir.Value:
    return call.s("GatherND", call.x(0), call.s.ints(call.x(1)))  # type: ignore[no-any-return]


@operator("EMBEDDING_LOOKUP")
def embedding_lookup(call: Call) -> ir.Value:
    """Rows of the second operand; those of a quantised table may become reals."""
    table = call.x(1) if call.out_quantized() is not None else real(call, 1)
    return call.s("Gather", table, call.x(0))  # type: ignore[no-any-return]


@operator("SCATTER_ND")
def scatter_nd(call: Call) -> ir.Value:
    """Zeros, to which the updates are added at their places."""
    s, updates = call.s, call.x(1)
    zeros = s("Expand", s.const(0, updates), s.ints(call.x(2)))
    if updates.dtype == ir.DataType.BOOL:
        raise NotSpelled("bools")
    return s("ScatterND", zeros, s.ints(call.x(0)), updates, reduction="add")  # type: ignore[no-any-return]


@operator("SPARSE_TO_DENSE")
def sparse_to_dense(call: Call) -> ir.Value:
    """The default value, but for the values at their places."""
    s, index, values = call.s, call.s.ints(call.x(0)), call.x(2)
    dense = s("Expand", call.x(3), s.ints(call.x(1)))
    rank = s.rank(dense)
    if s.rank(index) != 2:
        index = s.reshape(index, [-1, rank] if s.rank(index) == 0 else [-1, 1])
    if s.rank(values) == 0:
        count = s("Shape", index, start=0, end=1)
        values = s("Expand", values, count)
    return s("ScatterND", dense, index, values)  # type: ignore[no-any-return]


@operator("ONE_HOT")
def one_hot(call: Call) -> ir.Value:
    """Out of range all are off; ONNX counts negative indices from the end, so they are moved out."""
    o, s = call.options("OneHotOptions"), call.s
    index = s.ints(call.x(0))
    depth = s.ints(call.x(1))
    away = s("Where", s("Less", index, s.const(0, index)), depth, index)
    off_on = s("Concat", *(s.reshape(call.x(k), [1]) for k in (3, 2)), axis=0)
    return s("OneHot", away, s.reshape(depth, []), off_on, axis=o.Axis())  # type: ignore[no-any-return]


@operator("SELECT", "SELECT_V2")
def select(call: Call) -> ir.Value:
    """The older one takes a vector of conditions for whole rows."""
    s, condition = call.s, call.x(0)
    a, b = call.x(1), call.x(2)
    if call.type == "SELECT" and s.rank(condition) == 1 and s.rank(a) > 1:
        condition = s.reshape(condition, [-1] + [1] * (s.rank(a) - 1))
    if call.out_quantized() is not None and not _alike(call):
        return kept(call, s("Where", condition, real(call, 1), real(call, 2)))
    return s("Where", condition, a, b)  # type: ignore[no-any-return]


def _alike(call: Call) -> bool:
    found = [call.quantized(1), call.quantized(2), call.out_quantized()]
    return all(
        q is not None and found[0] is not None and q.scale[0] == found[0].scale[0] and q.zero[0] == found[0].zero[0]
        for q in found
    )


@operator("WHERE")
def where(call: Call) -> ir.Value:
    """The places of what is not zero, one in a row."""
    s = call.s
    return s.cast(s("Transpose", s("NonZero", call.x(0)), perm=[1, 0]), call.out_dtype())


@operator("UNIQUE")
def unique(call: Call) -> tuple[ir.Value, ir.Value]:
    s = call.s
    values, _, inverse = s("Unique", call.x(0), sorted=0, count=3)
    return values, s.cast(inverse, call.out_dtype(1))


@operator("DYNAMIC_UPDATE_SLICE")
def dynamic_update_slice(call: Call) -> ir.Value:
    """The operand with the update in it, the start held so that it fits."""
    s, x, update = call.s, call.x(0), call.x(1)
    rank = s.rank(x)
    most = s("Sub", s("Shape", x), s("Shape", update))
    start = s("Min", s("Max", s.ints(call.x(2)), s.constant([0] * rank, np.int64)), most)
    # The places of all elements of the update, one number for each axis.
    sizes = s("Shape", update)
    places = []
    for axis in range(rank):
        size = s("Gather", sizes, s.constant(axis), axis=0)
        first = s("Gather", start, s.constant(axis), axis=0)
        along = s("Add", s("Range", s.constant(0), size, s.constant(1)), first)
        along = s.reshape(along, [-1 if k == axis else 1 for k in range(rank)])
        places.append(s("Unsqueeze", s("Expand", along, sizes), s.constant([-1])))
    return s("ScatterND", x, s("Concat", *places, axis=-1), update)  # type: ignore[no-any-return]


_SEGMENTS = {"PROD": "mul", "MAX": "max", "MIN": "min", "SUM": "add"}


@operator("SEGMENT_SUM", *(f"UNSORTED_SEGMENT_{kind}" for kind in _SEGMENTS))
def segments(call: Call) -> ir.Value:
    """Rows gathered into the segment that each belongs to; negative segments are nowhere."""
    s, x, ids = call.s, call.x(0), call.s.ints(call.x(1))
    if call.type == "SEGMENT_SUM":
        count = s("Add", s("ReduceMax", ids, keepdims=0), s.constant(1))
    else:
        count = s.reshape(s.ints(call.x(2)), [])
    kind = _SEGMENTS[call.type.rpartition("_")[2]]
    dtype = x.dtype
    assert dtype is not None
    info = np.finfo(dtype.numpy()) if not dtype.is_integer() else np.iinfo(dtype.numpy())
    start = {"add": 0, "mul": 1, "max": info.min, "min": info.max}[kind]
    # One row more takes what belongs nowhere.
    spare = s("Add", count, s.constant(1))
    rest = s("Shape", x, start=s.rank(ids))
    rows = s("Expand", s.const(start, x), s("Concat", s.reshape(spare, [1]), rest, axis=0))
    place = s("Where", s("Less", ids, s.constant(0)), count, ids)
    y = s("ScatterND", rows, s("Unsqueeze", place, s.constant([-1])), x, reduction=kind)
    return s("Slice", y, s.constant([0]), s.reshape(count, [1]), s.constant([0]))  # type: ignore[no-any-return]


@operator("MATRIX_DIAG")
def matrix_diag(call: Call) -> ir.Value:
    s, x = call.s, call.x(0)
    rank = s.rank(x)
    square = s("Expand", s("Unsqueeze", x, s.constant([-1])), _square(call, x))
    on = _diagonal(call, s("Gather", s("Shape", x), s.constant(rank - 1), axis=0))
    return s("Where", on, square, s.const(0, x))  # type: ignore[no-any-return]


def _square(call: Call, x: ir.Value) -> ir.Value:
    s = call.s
    size = s("Shape", x, start=s.rank(x) - 1)
    return s("Concat", s("Shape", x), size, axis=0)  # type: ignore[no-any-return]


def _diagonal(call: Call, rows: ir.Value, columns: ir.Value | None = None) -> ir.Value:
    s = call.s
    down = s("Unsqueeze", s("Range", s.constant(0), rows, s.constant(1)), s.constant([1]))
    along = s("Range", s.constant(0), columns if columns is not None else rows, s.constant(1))
    return s("Equal", down, along)  # type: ignore[no-any-return]


@operator("MATRIX_SET_DIAG")
def matrix_set_diag(call: Call) -> ir.Value:
    """The diagonal has as many elements as the shorter of the two last axes."""
    s, x, diagonal = call.s, call.x(0), call.x(1)
    rank = s.rank(x)
    sizes = s.shape(x)[-2:]
    if not all(isinstance(d, int) for d in sizes):
        raise NotSpelled("a size that is known at run time only")
    rows, columns = (int(d) for d in sizes if isinstance(d, int))
    on = s.constant(np.eye(rows, columns, dtype=bool))
    # Element (i, j) reads diagonal[min(i, last)].
    index = s.constant(np.minimum(np.arange(rows), min(rows, columns) - 1).astype(np.int64))
    spread = s("Unsqueeze", s("Gather", diagonal, index, axis=rank - 2), s.constant([-1]))
    return s("Where", on, spread, x)  # type: ignore[no-any-return]


@operator("NON_MAX_SUPPRESSION_V4", "NON_MAX_SUPPRESSION_V5")
def non_max_suppression(call: Call) -> tuple[ir.Value, ...]:
    """The chosen boxes, as many as asked for, zeros behind them, and how many they are."""
    s, boxes, scores = call.s, call.x(0), call.x(1)
    if call.type.endswith("5"):
        sigma = call.constant(5, "its sigma")
        if sigma.ravel()[0] != 0:
            raise NotSpelled("soft suppression")
    batched = s("Unsqueeze", boxes, s.constant([0]))
    by_class = s("Unsqueeze", scores, s.constant([0, 1]))
    most = s.reshape(call.x(2), [1])
    limits = [s.reshape(call.x(k), [1]) for k in (3, 4)]
    found = s("NonMaxSuppression", batched, by_class, s.ints(most), *limits)
    chosen = s("Squeeze", s("Slice", found, s.constant([2]), s.constant([3]), s.constant([1])), s.constant([1]))
    count = s("Shape", chosen)
    missing = s("Sub", s.ints(most), count)
    pads = s("Concat", s.constant([0]), missing, axis=0)
    indices = s.cast(s("Pad", chosen, pads), call.out_dtype(0))
    number = s.reshape(s.cast(count, INT32), [])
    if call.type.endswith("4"):
        return indices, number
    values = s("Pad", s("Gather", scores, chosen), pads)
    return indices, values, number
