"""Conversion between element types."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from graphfuse.graph.dtypes import BF16, BOOL, F16, F32, F64, I8, I32, I64, SUPPORTED, U8, DType
from graphfuse.ops import expr as E
from graphfuse.ops.registry import NotSupported, OpNode, op
from graphfuse.ops.samples import bools, floats, ints, sample, special
from graphfuse.ops.tensor import Tensor, map_


def _convert(x: Tensor, target: DType) -> Tensor:
    # Floats towards zero, integers modulo 2^n, numbers to bool by x != 0. Out-of-range floats have no defined integer.
    if not {target, x.dtype} <= {*SUPPORTED, F16, BF16}:
        raise NotSupported(f"conversion from {x.dtype.name} to {target.name}")
    return map_(lambda v: E.cast(v, target), x)


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
    ],
)
def cast(node: OpNode) -> Tensor:
    return _convert(node.input(0), ir.DataType(node.attr("to")))


@op("CastLike", samples=lambda: [sample(floats(13, 17), ints(1)), sample(ints(13), floats(2, dtype=np.float64))])
def cast_like(node: OpNode) -> Tensor:
    return _convert(node.input(0), node.input(1).dtype)
