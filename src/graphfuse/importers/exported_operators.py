"""Operators of torch in ONNX's, where torch's exporter has no form of them, or one that holds sequences."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

_SUM, _MEAN, _MAX = 0, 1, 2
_LOWEST = float("-inf")


def translations(torch: Any) -> dict[Any, Callable[..., Any]]:
    """Operator -> function that spells it while the exporter records."""
    return {torch.ops.aten.embedding_bag.padding_idx: _embedding_bag}


def _embedding_bag(
    weight: Any, indices: Any, offsets: Any, scale_grad_by_freq: bool = False, mode: int = _SUM, sparse: bool = False,
    per_sample_weights: Any = None, include_last_offset: bool = False, padding_idx: int | None = None,
) -> tuple[Any, Any, Any, Any]:  # fmt: skip
    """Rows [N, D] of a table, summed, averaged or the largest in each bag [B, D]; a bag of nothing is zeros.

    The bag of a row is told by how many bags start up to it. The other results, bag of each row, sizes of bags and
    an empty one, are for gradients.
    """
    from onnxscript import opset18

    op: Any = opset18
    offsets = op.Cast(offsets, to=7)
    if include_last_offset:
        offsets = op.Slice(offsets, [0], [-1], [0])
    count, bags = op.Shape(indices), op.Shape(offsets)
    # One more than there are rows: bags may start behind the last.
    starts = op.ScatterND(
        op.Expand(0, op.Add(count, 1)), op.Unsqueeze(offsets, [1]), op.Expand(1, bags), reduction="add"
    )
    bag = op.Sub(op.Slice(op.CumSum(starts, 0), [0], [-1], [0]), 1)
    places = op.Unsqueeze(bag, [1])
    rows = op.Gather(weight, indices)
    one = op.CastLike(1.0, weight)
    counted = op.Expand(one, count)
    if padding_idx is not None:
        held = op.Not(op.Equal(op.Cast(indices, to=7), padding_idx))
        counted = op.CastLike(held, weight)
        nothing = op.CastLike(_LOWEST if mode == _MAX else 0.0, weight)
        rows = op.Where(op.Unsqueeze(held, [1]), rows, nothing)
    if per_sample_weights is not None:
        rows = op.Mul(rows, op.Unsqueeze(per_sample_weights, [1]))
    zero = op.CastLike(0.0, weight)
    sizes = op.ScatterND(op.Expand(zero, bags), places, counted, reduction="add")
    shape = op.Concat(bags, op.Shape(weight, start=1), axis=0)
    if mode == _MAX:
        lowest = op.Expand(op.CastLike(_LOWEST, weight), shape)
        largest = op.ScatterND(lowest, places, rows, reduction="max")
        result = op.Where(op.Unsqueeze(op.Greater(sizes, zero), [1]), largest, zero)
    else:
        result = op.ScatterND(op.Expand(zero, shape), places, rows, reduction="add")
        if mode == _MEAN:
            result = op.Div(result, op.Unsqueeze(op.Max(sizes, one), [1]))
    return result, bag, op.Cast(sizes, to=7), op.Cast(op.Slice(bag, [0], [0], [0]), to=7)
