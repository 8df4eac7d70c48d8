"""What convolutions and poolings share: padding by name, fused activations."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import onnx_ir as ir

from graphfuse.importers.tflite.registry import NotSpelled
from graphfuse.importers.tflite.speller import ShapedSpeller

SAME, VALID = 0, 1  # Padding in schema.fbs
NONE, RELU, RELU_N1_TO_1, RELU6, TANH, SIGN_BIT = range(6)  # ActivationFunctionType


def same_pads(size: int, kernel: int, stride: int, dilation: int = 1) -> tuple[int, int]:
    """What SAME adds before and behind an axis: the odd one behind."""
    reach = (kernel - 1) * dilation + 1
    total = max((math.ceil(size / stride) - 1) * stride + reach - size, 0)
    return total // 2, total - total // 2


def padding(
    kind: int,
    sizes: Sequence[int | ir.SymbolicDim],
    kernel: Sequence[int],
    strides: Sequence[int],
    dilations: Sequence[int],
) -> dict[str, Any]:
    """The attributes of ONNX that say a padding of TFLite. Raises NotSpelled for windows that cannot be."""
    if any(v < 1 for v in (*kernel, *strides, *dilations)):
        raise NotSpelled(f"a window of {list(kernel)} with strides {list(strides)}")
    if kind == VALID:
        return {}
    if kind != SAME:
        raise NotSpelled(f"padding {kind}")
    known = [size for size in sizes if isinstance(size, int)]
    if len(known) < len(sizes):
        return {"auto_pad": "SAME_UPPER"}
    pads = [same_pads(*of) for of in zip(known, kernel, strides, dilations, strict=True)]
    return {"pads": [before for before, _ in pads] + [behind for _, behind in pads]} if any(map(any, pads)) else {}


def activated(s: ShapedSpeller, y: ir.Value, activation: int) -> ir.Value:
    """A fused activation, of floats (ActivationFunctionType)."""
    if activation == NONE:
        return y
    if activation == RELU:
        return s("Relu", y)  # type: ignore[no-any-return]
    if activation in (RELU_N1_TO_1, RELU6):
        return s.clip(y, *((-1, 1) if activation == RELU_N1_TO_1 else (0, 6)))
    if activation == TANH:
        return s("Tanh", y)  # type: ignore[no-any-return]
    raise NotSpelled(f"activation {activation}")
