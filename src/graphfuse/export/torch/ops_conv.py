"""Convolutions and pooling."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from graphfuse.export.torch.call import Call, Refused, even, op, torch_pads

_CONV = {1: (nn.Conv1d, F.conv1d), 2: (nn.Conv2d, F.conv2d), 3: (nn.Conv3d, F.conv3d)}
_TRANSPOSED = {
    1: (nn.ConvTranspose1d, F.conv_transpose1d),
    2: (nn.ConvTranspose2d, F.conv_transpose2d),
    3: (nn.ConvTranspose3d, F.conv_transpose3d),
}
_MAX_POOL = {1: F.max_pool1d, 2: F.max_pool2d, 3: F.max_pool3d}
_AVERAGE_POOL = {1: F.avg_pool1d, 2: F.avg_pool2d, 3: F.avg_pool3d}


def spatial(c: Call, k: int = 0) -> int:
    """The number of spatial axes. Raises Refused where PyTorch has none such."""
    n = c.rank(k) - 2
    if n not in _CONV:
        raise Refused(f"it has {n} spatial axes, PyTorch has 1 to 3")
    return n


def paddings(c: Call, kernel: Sequence[int], strides: Sequence[int], dilations: Sequence[int]) -> list[int]:
    """ONNX's paddings, begins then ends; those of auto_pad where the sizes are known."""
    auto, n = c.attr("auto_pad"), len(kernel)
    if auto == "VALID":
        return [0] * 2 * n
    if auto in (None, "NOTSET"):
        return [int(p) for p in c.attr("pads", [0] * 2 * n)]
    totals = []
    for k, size in enumerate(c.shape(0)[2:]):
        reach = (kernel[k] - 1) * dilations[k] + 1
        if size is None and strides[k] != 1:
            raise Refused(f"auto_pad={auto} of a size known only at run time")
        outputs = -(-(size or 0) // strides[k])
        totals.append(reach - 1 if size is None else max((outputs - 1) * strides[k] + reach - size, 0))
    less, more = [t // 2 for t in totals], [t - t // 2 for t in totals]
    return less + more if auto == "SAME_UPPER" else more + less


@op("Conv")
def conv(c: Call) -> Any:
    n, shape = spatial(c), c.shape(1)
    if None in shape:
        raise Refused("the size of its kernel is known only at run time")
    sizes = [d for d in shape if d is not None]
    kernel = sizes[2:]
    strides, dilations = (list(c.attr(name, [1] * n)) for name in ("strides", "dilations"))
    pads, group = paddings(c, kernel, strides, dilations), int(c.attr("group"))
    x, padding = c[0], even(pads)
    if padding is None or min(pads) < 0:
        x, padding = F.pad(x, torch_pads(pads)), [0] * n
    module, function = _CONV[n]
    weight, bias = c.weight(1), c.weight(2) if c.has(2) else None
    if weight is None or (c.has(2) and bias is None):
        return function(x, c[1], c[2] if c.has(2) else None, strides, padding, dilations, group)
    layer = module(
        sizes[1] * group, sizes[0], tuple(kernel), tuple(strides), tuple(padding), tuple(dilations), group,
        bias=bias is not None, dtype=c.dtype(0),
    )  # fmt: skip
    return c.module(layer, 1, x, weight=weight, bias=bias)


@op("ConvInteger")
def conv_integer(c: Call) -> Any:
    """Products of bytes summed in float64, which holds them exactly."""
    n = spatial(c)
    kernel = [d or 0 for d in c.shape(1)[2:]]
    if 0 in kernel:
        raise Refused("the size of its kernel is known only at run time")
    strides, dilations = (list(c.attr(name, [1] * n)) for name in ("strides", "dilations"))
    pads = paddings(c, kernel, strides, dilations)
    x, w = c[0].to(torch.float64), c[1].to(torch.float64)
    x = x - c[2].to(torch.float64).reshape(()) if c.has(2) else x
    w = w - c[3].to(torch.float64).reshape((-1, *[1] * (n + 1)) if c.rank(3) else ()) if c.has(3) else w
    x = F.pad(x, torch_pads(pads)) if any(pads) else x
    return _CONV[n][1](x, w, None, strides, 0, dilations, int(c.attr("group"))).to(torch.int32)


@op("ConvTranspose")
def conv_transpose(c: Call) -> Any:
    n, shape = spatial(c), c.shape(1)
    if None in shape:
        raise Refused("the size of its kernel is known only at run time")
    sizes = [d for d in shape if d is not None]
    kernel, group = sizes[2:], int(c.attr("group"))
    strides, dilations = (list(c.attr(name, [1] * n)) for name in ("strides", "dilations"))
    extra = list(c.attr("output_padding", [0] * n))
    pads = _transposed_pads(c, kernel, strides, dilations, extra)
    padding, cut = even(pads), [0] * 2 * n
    if padding is None or min(pads) < 0:
        padding, cut = [0] * n, pads
    if any(e >= max(s, d) for e, s, d in zip(extra, strides, dilations, strict=True)):
        cut, extra = [a - b for a, b in zip(cut, [*[0] * n, *extra], strict=True)], [0] * n
    module, function = _TRANSPOSED[n]
    weight, bias = c.weight(1), c.weight(2) if c.has(2) else None
    uncut = not any(cut)
    if weight is None or (c.has(2) and bias is None) or (not uncut and c.has(2)):
        y = function(
            c[0], c[1], None if not uncut else c[2] if c.has(2) else None, strides, padding, extra, group, dilations
        )
        if not uncut:
            y = F.pad(y, torch_pads([-p for p in cut]))
            y = y + c[2].reshape((-1, *[1] * n)) if c.has(2) else y
        return y
    layer = module(
        sizes[0], sizes[1] * group, tuple(kernel), tuple(strides), tuple(padding), tuple(extra), group,
        bias=bias is not None, dilation=tuple(dilations), dtype=c.dtype(0),
    )  # fmt: skip
    y = c.module(layer, 1, c[0], weight=weight, bias=bias)
    return y if uncut else F.pad(y, torch_pads([-p for p in cut]))


def _transposed_pads(
    c: Call, kernel: Sequence[int], strides: Sequence[int], dilations: Sequence[int], extra: Sequence[int]
) -> list[int]:
    """What is cut off the full result, begins then ends."""
    wanted, auto = c.attr("output_shape"), c.attr("auto_pad")
    if wanted is None and not (auto or "").startswith("SAME"):
        return [int(p) for p in c.attr("pads", [0] * 2 * len(kernel))] if auto != "VALID" else [0] * 2 * len(kernel)
    less, more = [], []
    for k, size in enumerate(c.shape(0)[2:]):
        if size is None:
            raise Refused("its paddings follow from a size known only at run time")
        goal = wanted[-len(kernel) :][k] if wanted is not None else size * strides[k]
        total = (size - 1) * strides[k] + extra[k] + (kernel[k] - 1) * dilations[k] + 1 - goal
        total = total if wanted is not None else max(total, 0)
        less.append(total // 2)
        more.append(total - total // 2)
    return less + more if auto == "SAME_UPPER" else more + less


# -- pooling -------------------------------------------------------------------------------------------------------


@op("MaxPool")
def max_pool(c: Call) -> Any:
    if c.wants(1):
        raise Refused("its indices are used, which PyTorch counts otherwise")
    n, kernel = spatial(c), list(c.attr("kernel_shape"))
    strides, dilations = (list(c.attr(name, [1] * n)) for name in ("strides", "dilations"))
    pads = paddings(c, kernel, strides, dilations)
    x, padding = c[0], even(pads)
    x = x if c.is_float(0) else x.to(torch.float32)
    if padding is None or any(2 * p > k for p, k in zip(padding, kernel, strict=True)):
        x, padding = F.pad(x, torch_pads(pads), value=-math.inf), [0] * n
    y = _MAX_POOL[n](x, kernel, strides, padding, dilations, ceil_mode=bool(c.attr("ceil_mode")))
    return y if c.is_float(0) else y.to(c.dtype(0))


@op("AveragePool")
def average_pool(c: Call) -> Any:
    n, kernel = spatial(c), list(c.attr("kernel_shape"))
    strides, dilations = (list(c.attr(name, [1] * n)) for name in ("strides", "dilations"))
    if any(d != 1 for d in dilations):
        raise Refused("it has dilations, which average pooling of PyTorch has not")
    pads, count, ceil = (
        paddings(c, kernel, strides, dilations),
        bool(c.attr("count_include_pad")),
        bool(c.attr("ceil_mode")),
    )
    padding, pool = even(pads), _AVERAGE_POOL[n]
    if padding is not None and all(2 * p <= k for p, k in zip(padding, kernel, strict=True)):
        return pool(c[0], kernel, strides, padding, ceil, count)
    if ceil:
        raise Refused("it rounds sizes up and pads its sides differently")
    total = pool(F.pad(c[0], torch_pads(pads)), kernel, strides)
    return total if count else total / pool(F.pad(torch.ones_like(c[0]), torch_pads(pads)), kernel, strides)


@op("LpPool")
def lp_pool(c: Call) -> Any:
    n, kernel, p = spatial(c), list(c.attr("kernel_shape")), int(c.attr("p"))
    strides, dilations = (list(c.attr(name, [1] * n)) for name in ("strides", "dilations"))
    if any(d != 1 for d in dilations) or c.attr("ceil_mode"):
        raise Refused("it has dilations or rounds sizes up, which PyTorch's has not")
    pads = paddings(c, kernel, strides, dilations)
    x = F.pad(c[0], torch_pads(pads)) if any(pads) else c[0]
    mean = _AVERAGE_POOL[n](torch.pow(torch.abs(x), p), kernel, strides)
    return torch.pow(mean * math.prod(kernel), 1.0 / p)


def _global(reduce: Callable[[Any, tuple[int, ...], Call], Any]) -> Callable[[Call], Any]:
    return lambda c: reduce(c[0], tuple(range(2, c.rank(0))), c)


op("GlobalAveragePool")(_global(lambda x, axes, _: torch.mean(x, dim=axes, keepdim=True)))
op("GlobalMaxPool")(_global(lambda x, axes, _: torch.amax(x, dim=axes, keepdim=True)))
op("GlobalLpPool")(
    _global(lambda x, axes, c: torch.linalg.vector_norm(x, ord=float(c.attr("p")), dim=axes, keepdim=True))
)
