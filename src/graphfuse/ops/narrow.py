"""float16 and bfloat16 between operators: stored narrow at the edges of a graph, float32 inside.

ONNX says that each result of a float16 operator is a float16. Inside a graph such values are float32 tensors here: an
operator's lowering gets its operands widened, so that every kernel there is computes it, and what follows it fuses as
it does in a float32 model. The values are rounded (nearest, ties to even)

- where they are outputs of a graph, or captured or carried by control flow: those are stored narrow;
- where the user says so: a Cast to the type;
- ahead of operators that would show the difference: comparisons, conversions, whatever gives integers or truth values,
  and those in `_STEPS`;
- with strict numerics behind every operator.

Elsewhere they keep the digits of float32. Operators that only move elements leave what is stored narrow as it is, and
constants are widened when the artifact is written.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from graphfuse.graph.dtypes import F32, NARROW, DType
from graphfuse.graph.exact import EXACT_KEY, exact
from graphfuse.ops import expr as E
from graphfuse.ops.expr import Arg, Call, Expr
from graphfuse.ops.tensor import Map, Tensor, constant, map_

# Operators that put elements elsewhere and compute nothing with them.
_MOVES = frozenset(
    {
        "Concat", "DepthToSpace", "Expand", "Flatten", "Gather", "GatherElements", "GatherND", "Identity", "Pad",
        "Reshape", "ReverseSequence", "Shape", "Size", "Slice", "SpaceToDepth", "Split", "Squeeze", "Tile", "Transpose",
        "Trilu", "Unsqueeze",
    }
)  # fmt: skip
# Operators that take values as they are stored: for their bits, or into bodies.
_AS_STORED = frozenset({"BitCast", "If", "Loop", "Scan"})
# Operators of floats whose result leaps where an operand crosses some value.
_STEPS = frozenset(
    {"Cast", "CastLike", "Ceil", "Floor", "Hardmax", "Mod", "Round", "Shrink", "Sign", "ThresholdedRelu", "Unique"}
)


def computes(node: ir.Node) -> bool:
    """Whether a node's lowering sees float32 where the graph says float16 or bfloat16."""
    return not (node.domain in ("", "ai.onnx") and node.op_type in _MOVES | _AS_STORED)


def operands(node: ir.Node, inputs: Sequence[Tensor | None]) -> list[Tensor | None]:
    """The tensors of a node's inputs in the types that its lowering works with."""
    types = [None if value is None else value.dtype for value in node.inputs]
    if not any(t in NARROW for t in types):
        return list(inputs)
    if not computes(node):
        stored = node.op_type not in _MOVES or any(_is_stored(x) for x in inputs)
        return [_narrow(x, t) if stored else x for x, t in zip(inputs, types, strict=False)]
    exact = node.op_type in _STEPS or any(
        v.name and v.dtype is not None and v.dtype not in NARROW for v in node.outputs
    )
    return [_widened(x, t, exact) for x, t in zip(inputs, types, strict=False)]


def results(node: ir.Node, outputs: Sequence[Tensor | None], strict: bool = False) -> list[Tensor | None]:
    """The tensors of a node's outputs: narrow where they leave the graph, else float32, rounded if strict."""
    found: list[Tensor | None] = []
    for value, x in zip(node.outputs, outputs, strict=False):
        if not isinstance(x, Tensor) or value.dtype not in NARROW or x.dtype != F32:
            found.append(x)
        elif _leaves(node, value):
            found.append(_narrow(x, value.dtype))
        else:
            found.append(rounded(x, value.dtype) if strict and computes(node) else x)
    return found + list(outputs[len(found) :])


def rounded(x: Tensor, dtype: DType) -> Tensor:
    """A float32 tensor with the values that it has in a narrow type."""
    return x if _is_rounded(x, dtype) else map_(lambda v: E.cast(E.cast(v, dtype), F32), x)


def _widened(x: Tensor | None, dtype: DType | None, exact: bool) -> Tensor | None:
    if not isinstance(x, Tensor) or dtype not in NARROW:
        return x
    if x.dtype == F32:
        return rounded(x, dtype) if exact else x
    if x.dtype != dtype:
        return x
    if x.wide is None:
        x.wide = _widened_constant(x) or map_(lambda v: E.cast(v, F32), x)
    return x.wide


def single(value: ir.Value) -> np.ndarray | None:
    """A constant of a narrow type in float32, with the digits that it was folded with; None for no constant."""
    if EXACT_KEY in value.meta:
        known = exact(value)
    else:
        tensor = ir.convenience.get_const_tensor(value)
        known = None if tensor is None else tensor.numpy()
    return None if known is None else known.astype(np.float32)


def _widened_constant(x: Tensor) -> Tensor | None:
    known = None if x.prim is not None or x.value is None else single(x.value)
    return None if known is None or x.value is None else constant(known, x.value.name or "")


def _narrow(x: Tensor | None, dtype: DType | None) -> Tensor | None:
    if not isinstance(x, Tensor) or dtype not in NARROW or x.dtype != F32:
        return x
    return map_(lambda v: E.cast(v, dtype), x)


def _is_stored(x: Tensor | None) -> bool:
    """Whether a tensor is narrow in memory, or at no cost: weights are."""
    return isinstance(x, Tensor) and x.dtype in NARROW


def _is_rounded(x: Tensor, dtype: DType) -> bool:
    body: Expr | None = x.prim.body if isinstance(x.prim, Map) else None
    return isinstance(body, Call) and body.fn == "cast" and body.args[0].dtype == dtype and _is_plain(body.args[0])


def _is_plain(e: Expr) -> bool:
    return isinstance(e, Arg) or (isinstance(e, Call) and e.fn == "cast" and isinstance(e.args[0], Arg))


def _leaves(node: ir.Node, value: ir.Value) -> bool:
    users = [use.node for use in value.uses()]
    return value.is_graph_output() or any(u.graph is not node.graph or u.op_type in _AS_STORED for u in users)
