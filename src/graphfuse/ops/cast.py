"""Conversion between element types."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import onnx_ir as ir

from graphfuse.graph.dtypes import (
    BF16,
    BOOL,
    E2M1,
    E4M3FN,
    E4M3FNUZ,
    E5M2,
    E5M2FNUZ,
    E8M0,
    F16,
    F32,
    F64,
    FLOAT8,
    I2,
    I4,
    I8,
    I16,
    I32,
    I64,
    SUPPORTED,
    U2,
    U4,
    U8,
    U16,
    U64,
    DType,
)  # fmt: skip
from graphfuse.ops import expr as E
from graphfuse.ops.registry import NotSupported, OpNode, op
from graphfuse.ops.samples import Sample, bools, floats, ints, sample, special
from graphfuse.ops.tensor import Tensor, map_

_MODES = ("up", "down", "nearest")


def _convert(node: OpNode, target: DType) -> Tensor:
    # Floats towards zero, integers modulo 2^n, numbers to bool by x != 0. Out-of-range floats have no defined integer.
    x = node.input(0)
    if not {target, x.dtype} <= {*SUPPORTED}:
        raise NotSupported(f"conversion from {x.dtype.name} to {target.name}")
    saturate, mode = bool(node.attr("saturate", 1)), node.attr("round_mode", "up")
    if mode not in _MODES:
        raise NotSupported(f"the rounding mode {mode!r} is none of {', '.join(_MODES)}")
    return map_(lambda v: E.cast(v, target, saturate, mode), x)


def _narrow_samples() -> list[Sample]:
    """To and from the types of a byte or less, by ONNX's evaluator; its float 8 knows no infinities that saturate."""
    wide = floats(13, 17, low=-500, high=500)
    small = np.array([0.0, -0.0, np.nan, 1e-7, -1e-7, 0.4, 1.75, -2.5, 448, -480, 1e6, -1e6, 2e-3], np.float32)
    codes = {kind: np.arange(2 ** min(kind.bitwidth, 8), dtype=np.uint8).view(kind.numpy()) for kind in _BYTES}
    return [
        *(sample(wide, to=int(kind), reference="onnx") for kind in (*FLOAT8[:4], E2M1)),
        *(sample(small, to=int(kind), reference="onnx") for kind in (*FLOAT8[:4], E2M1)),
        *(sample(small, to=int(kind), saturate=0, reference="onnx") for kind in FLOAT8[:4]),
        *(sample(np.abs(wide), to=int(E8M0), round_mode=mode, reference="onnx") for mode in _MODES),
        *(sample(floats(13, low=-7, high=8), to=int(kind), reference="onnx") for kind in (I4, U4, I2, U2)),
        *(sample(ints(13, low=-99, high=99), to=int(kind), reference="onnx") for kind in (I4, U4, I2, U2, BF16)),
        *(sample(codes[kind], to=int(F32), reference="onnx") for kind in _BYTES),
        *(sample(codes[kind], to=int(F16), reference="onnx") for kind in (E4M3FN, E5M2, I4, U2)),
        *(sample(codes[kind], to=int(I32), reference="onnx") for kind in (I4, U4, I2, U2)),
        sample(special(13, 17).astype(ml_dtypes.bfloat16), to=int(F32), reference="onnx"),
        sample(special(13, 17).astype(np.float16), to=int(BF16), reference="onnx"),
        sample(special(13, 17, dtype=np.float64), to=int(F16)),
    ]


_BYTES = (E4M3FN, E4M3FNUZ, E5M2, E5M2FNUZ, E8M0, E2M1, I4, U4, I2, U2)


@op(
    "Cast",
    samples=lambda: [
        *(sample(floats(13, 17, low=-99, high=99), to=int(t)) for t in (F32, F64, F16, I8, I32, I64, BOOL)),
        sample(special(13, 17), to=int(F64)),
        sample(special(13), to=int(BOOL)),
        sample(floats(5, dtype=np.float64) * 1e30, to=int(F32)),
        *(sample(ints(13, 17, low=-999, high=999), to=int(t)) for t in (F32, F64, I8, U8, I64, BOOL)),
        sample(bools(13, 17), to=int(F32)),
        sample(bools(13), to=int(I64)),
        sample(floats(3), to=int(DType.STRING), rejected="STRING"),
        *_narrow_samples(),
    ],
)
def cast(node: OpNode) -> Tensor:
    return _convert(node, ir.DataType(node.attr("to")))


@op("CastLike", samples=lambda: [sample(floats(13, 17), ints(1)), sample(ints(13), floats(2, dtype=np.float64))])
def cast_like(node: OpNode) -> Tensor:
    like = node.node.inputs[1]
    target = None if like is None else like.dtype
    return _convert(node, node.input(1).dtype if target is None else target)


@op(
    "BitCast",
    samples=lambda: [
        sample(special(13, 17), to=int(I32), reference="onnx"),
        sample(ints(13, dtype=np.int64), to=int(F64), reference="onnx"),
        sample(ints(13, 5, low=0, dtype=np.uint16), to=int(I16), reference="onnx"),
        sample(bools(13), to=int(U8), reference="onnx"),
        sample(floats(13, dtype=np.float64), to=int(U64), reference="onnx"),
        sample(floats(13, dtype=np.float16), to=int(U16), reference="onnx"),
        sample(floats(5), to=int(I16), rejected="width"),
    ],
)
def bit_cast(node: OpNode) -> Tensor:
    """The same bits as another type of the same width."""
    x, target = node.input(0), ir.DataType(node.attr("to"))
    if not {target, x.dtype} <= {*SUPPORTED} or target.bitwidth != x.dtype.bitwidth:
        raise NotSupported(f"{x.dtype.name} and {target.name} are not of one width")
    return map_(lambda v: E.bitcast(v, target), x)
