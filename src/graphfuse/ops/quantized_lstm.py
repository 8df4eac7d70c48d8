"""com.microsoft's DynamicQuantizeLSTM: weights of bytes, inputs and states quantised as they come.

As onnxruntime computes it: the inputs of all steps are quantised together, the states of all items once each step; the
sums are exact in int32, multiplied by both scales, and what follows is float32.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from graphfuse.graph.dtypes import F32, I8, I32
from graphfuse.ops import expr as E
from graphfuse.ops.expr import Const
from graphfuse.ops.integer import BYTES, Operand, matrix_product
from graphfuse.ops.quantize import dynamic_scale, quantized
from graphfuse.ops.recurrence import DIRECTION
from graphfuse.ops.recurrent import REVERSE, Cell, Layer, functions_of, lstm_cell, shaped, summed_bias
from graphfuse.ops.registry import NotSupported, OpNode, op
from graphfuse.ops.samples import Sample, floats, ints, sample
from graphfuse.ops.tensor import Tensor, constant, map_

_GATES = 4


def _samples() -> list[Sample]:
    both: dict[str, Any] = {"directions": 2, "direction": "bidirectional"}
    return [
        _sample(5, 1, 3, 17),
        _sample(3, 1, 20, 40, states=True, columns=True),
        _sample(4, 1, 8, 33, **both, states=True),
        _sample(4, 2, 8, 18, direction="reverse", peepholes=True, columns=True),
        _sample(4, 1, 5, 16, clip=0.5, dtype=np.uint8),
        _sample(3, 2, 5, 190, states=True),
        _sample(3, 1, 4, 130, activations=["HardSigmoid", "Softsign", "Relu"]),
        _sample(3, 1, 4, 9, known=False, rejected="known at compile time", symbolic=False),
    ]


def _sample(
    *shape: int,
    directions: int = 1,
    states: bool = False,
    columns: bool = False,
    peepholes: bool = False,
    known: bool = True,
    dtype: Any = np.int8,
    **attributes: Any,
) -> Sample:
    """A layer on (steps, items, inputs, units); `columns`: a scale for each column of the weights."""
    steps, items, inputs, units = shape
    d, wide = directions, _GATES * units
    low, high = (-127, 128) if dtype == np.int8 else (1, 256)
    zero = 0 if dtype == np.int8 else 128
    scale_shape = (d, wide) if columns else (d,)
    zeros = np.full(scale_shape, zero, dtype)
    state = [floats(d, items, units, seed=4 + k) for k in range(2)] if states else [None, None]
    given: list[np.ndarray | None] = [
        floats(steps, items, inputs),
        ints(d, inputs, wide, low=low, high=high, dtype=dtype, seed=1),
        ints(d, units, wide, low=low, high=high, dtype=dtype, seed=2),
        floats(d, 2 * wide, low=-1, high=1, seed=3),
        None,
        *state,
        floats(d, 3 * units, seed=6) if peepholes else None,
        floats(*scale_shape, low=0.002, high=0.01, seed=7),
        zeros,
        floats(*scale_shape, low=0.002, high=0.01, seed=8),
        zeros,
    ]
    constants = [1, 2, 3, 8, 9, 10, 11] if known else []
    return sample(*given, constants=constants, outputs=3, hidden_size=units, **attributes)


@op("DynamicQuantizeLSTM", domain="com.microsoft", samples=_samples)
def dynamic_quantize_lstm(node: OpNode) -> list[Tensor]:
    """Inputs X, W, R, B, sequence_lens, initial_h, initial_c, P, then scale and zero point of W and of R.

    W is [directions, inputs, 4 units] and R [directions, units, 4 units], gates in the order i, o, f, c; their scales
    and zero points are [directions] or [directions, 4 units].
    """
    x, units, direction = node.input(0), node.attr("hidden_size"), node.attr("direction", "forward")
    if direction not in REVERSE:
        raise NotSupported(f"direction = {direction!r}")
    if not isinstance(units, int) or units < 1 or x.rank != 3 or x.dtype != F32:
        raise NotSupported("an input of float32 [steps, items, inputs] and hidden_size are needed")
    reverse, wide = REVERSE[direction], _GATES * units
    total = len(reverse) * wide
    w, w_scales = _weights(node, 1, 8, (len(reverse), x.shape[2], wide))
    r, r_scales = _weights(node, 2, 10, (len(reverse), units, wide))
    side_by_side = np.ascontiguousarray(w.transpose(1, 0, 2).reshape(w.shape[1], total))
    sums = _product(x, side_by_side, w_scales.reshape(total))
    bias, known = node.optional(3), node.constant(3)
    if bias is not None:
        shaped("the bias", bias, (len(reverse), 2 * wide))
    if known is not None:
        sums = map_(lambda v, b: v + b, sums, summed_bias(known, _GATES, False))
    lengths = node.optional(4)
    if lengths is not None:
        shaped("sequence_lens", lengths, (x.shape[1],))
    functions = functions_of(node, ("Sigmoid", "Tanh", "Tanh"), len(reverse))
    if len(set(functions)) > 1:
        raise NotSupported("other activations in one direction than in the other")
    recurrent = constant(np.ascontiguousarray(r.transpose(0, 2, 1)), "recurrent weights")
    scales = constant(r_scales, "recurrent scales")
    layer = Layer(node, _GATES, units, reverse, False, sums, recurrent, bias, known is not None, lengths, scales)
    side = Const(0, DIRECTION.dtype) if len(reverse) == 1 else DIRECTION
    return lstm_cell(Cell(layer, side, functions[0]), recurrent, reverse).tensors()


def _weights(node: OpNode, k: int, scale: int, shape: tuple[Any, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Weights less their zero points, int8 of the given shape, and the scale of each column, [directions, columns]."""
    values = node.required_constant(k, "the quantised weights")
    scales = node.required_constant(scale, "the scales of the weights")
    zero = node.constant(scale + 1)
    if node.input(k).dtype not in BYTES or values.ndim != 3:
        raise NotSupported(f"input {k} is no tensor of bytes of rank 3")
    shaped(f"input {k}", node.input(k), shape)
    directions, _, columns = values.shape
    zeros = np.zeros((1, 1), np.int32) if zero is None else zero.astype(np.int32).reshape(directions, -1)
    differences = values.astype(np.int32) - zeros[:, None]
    narrow = differences.astype(np.int8)
    if not np.array_equal(narrow, differences):
        raise NotSupported(f"weights that differ by more than {I8.name.lower()} holds from their zero points")
    wide = np.broadcast_to(scales.astype(np.float32).reshape(directions, -1), (directions, columns))
    return narrow, np.ascontiguousarray(wide)


def _product(x: Tensor, w: np.ndarray, scales: np.ndarray) -> Tensor:
    """x, quantised as a whole, times weights of int8 and their scales."""
    scale, zero = dynamic_scale(x)
    whole = quantized(x, scale, zero, BYTES[1])
    a = Operand(whole, None, map_(lambda z: E.cast(z, I32), zero))
    sums = matrix_product(a, Operand(constant(w, "input weights"), w, None))
    return map_(lambda v, s, c: E.cast(v, F32) * (s * c), sums, scale, constant(scales, "input scales"))
