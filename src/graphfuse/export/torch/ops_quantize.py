"""Quantisation, spelled in floating point arithmetic on tensors of bytes."""

from __future__ import annotations

from typing import Any

import torch

from graphfuse.export.torch.call import Call, Refused, op


def _along(c: Call, k: int) -> Any:
    """A scale or zero point, laid along the axis that it belongs to."""
    if c.attr("block_size"):
        raise Refused("it is quantised in blocks")
    if c.rank(k) == 0 or c.shape(k) == [1]:
        return c[k].reshape(()) if c.rank(k) else c[k]
    shape = [1] * c.rank(0)
    shape[c.axis()] = -1
    return c[k].reshape(shape)


@op("QuantizeLinear")
def quantize(c: Call) -> Any:
    target = c.out_dtype()
    if target.is_floating_point:
        raise Refused(f"it quantises to {target}")
    limits = torch.iinfo(target)
    steps = torch.round(c[0] / _along(c, 1))
    steps = steps + _along(c, 2).to(c.dtype(0)) if c.has(2) else steps
    return torch.clamp(steps, limits.min, limits.max).to(target)


@op("DequantizeLinear")
def dequantize(c: Call) -> Any:
    wide, x = c.out_dtype(), c[0]
    zero = c.constant(2) if c.has(2) else None
    if c.has(2) and (zero is None or zero.any()):
        x = x.to(torch.int32) - _along(c, 2).to(torch.int32)
    return x.to(wide) * _along(c, 1)


@op("DynamicQuantizeLinear")
def dynamic_quantize(c: Call) -> Any:
    x = c[0]
    high, low = torch.clamp(torch.amax(x), min=0.0), torch.clamp(torch.amin(x), max=0.0)
    scale = torch.where(high == low, 1.0, (high - low) / 255.0)
    zero = torch.clamp(torch.round(-low / scale), 0, 255)
    y = torch.clamp(torch.round(x / scale) + zero, 0, 255)
    return y.to(torch.uint8), scale, zero.to(torch.uint8)
