"""Samples of ops in element types other than their own, as far as the op's schema allows them."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import ml_dtypes
import numpy as np
import onnx
from onnx import helper

from graphfuse.ops.registry import Op, all_ops
from graphfuse.ops.samples import Sample
from ops.cases import OPSET, Case, case_of

FLOATS = (np.dtype(np.float16), np.dtype(ml_dtypes.bfloat16), np.dtype(np.float64))
INTEGERS = tuple(np.dtype(name) for name in ("int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64"))
SAMPLES = 3  # of one op in one type
CONVERSIONS = ("BitCast", "Cast", "CastLike")  # have samples of every type


@dataclasses.dataclass(frozen=True, eq=False)
class Retyped:
    """A case in another type, and its like in a type that the oracles know: float32 for floats, itself for integers."""

    id: str
    case: Case
    plain: Case
    dtype: np.dtype


def retyped(op: Op, samples: int = SAMPLES) -> Iterator[Retyped]:
    """Samples of an op in every other type, so many of each."""
    if op.domain or not onnx.defs.has(op.name, OPSET) or op.name in CONVERSIONS:
        return
    for dtype in (*FLOATS, *INTEGERS):
        found = 0
        for number, sample in enumerate(op.samples()):
            if found == samples or sample.rejected:
                continue
            changed = _changed(op, sample, dtype)
            if changed is not None:
                found += 1
                plain = _plain(changed, sample) if dtype in FLOATS else changed
                name = f"{op.name}-{number}-{dtype.name}"
                yield Retyped(name, case_of(op, changed, number), case_of(op, plain, number), dtype)


def all_retyped() -> Iterator[Retyped]:
    for op in all_ops():
        yield from retyped(op)


def _changed(op: Op, sample: Sample, dtype: np.dtype) -> Sample | None:
    """The sample with the operands of one type constraint in another type; None where it does not allow that."""
    schema = onnx.defs.get_schema(op.name, OPSET)
    source = np.dtype(np.float32) if dtype in FLOATS else None
    inputs = list(sample.inputs)
    moved: set[str] = set()
    for k, x in enumerate(inputs):
        formal = schema.inputs[min(k, len(schema.inputs) - 1)]
        if x is None or (x.dtype != source if source else x.dtype.kind not in "iu" or x.dtype == dtype):
            continue
        if _name(dtype) not in _allowed(schema, formal.type_str):
            continue
        if source is None and (moved - {formal.type_str} or not _fits(x, dtype)):
            continue  # one constraint at a time: others are indices and axes
        moved.add(formal.type_str)
        with np.errstate(over="ignore"):
            inputs[k] = x.astype(dtype)
    if not moved or any(_clash(schema, inputs, sample.inputs, name) for name in moved):
        return None
    return dataclasses.replace(sample, inputs=tuple(inputs))


def _clash(schema: onnx.defs.OpSchema, inputs: list, before: tuple, constraint: str) -> bool:
    """Whether operands of one constraint are of two types now that were of one before."""
    heterogeneous = not schema.inputs[-1].is_homogeneous
    ports = [(schema.inputs[min(k, len(schema.inputs) - 1)], x) for k, x in enumerate(inputs) if x is not None]
    return not heterogeneous and len({x.dtype for f, x in ports if f.type_str == constraint}) > 1


def _fits(x: np.ndarray, dtype: np.dtype) -> bool:
    limits = np.iinfo(dtype)
    return bool(x.size == 0 or (x.min() >= limits.min and x.max() <= limits.max))


def _plain(changed: Sample, sample: Sample) -> Sample:
    """The same values in float32."""
    inputs = [
        y if y is None or y.dtype not in FLOATS else y.astype(x.dtype if x is not None else np.float32)
        for x, y in zip(sample.inputs, changed.inputs, strict=True)
    ]
    return dataclasses.replace(changed, inputs=tuple(inputs))


def _allowed(schema: onnx.defs.OpSchema, type_str: str) -> set[str]:
    for constraint in schema.type_constraints:
        if constraint.type_param_str == type_str:
            return set(constraint.allowed_type_strs)
    return {type_str}


def _name(dtype: np.dtype) -> str:
    kind = helper.np_dtype_to_tensor_dtype(dtype)
    return f"tensor({onnx.TensorProto.DataType.Name(kind).lower()})"
