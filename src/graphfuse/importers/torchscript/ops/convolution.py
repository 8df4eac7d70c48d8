"""Convolutions and what slides windows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from graphfuse.importers.torchscript.builder import Builder
from graphfuse.importers.torchscript.registry import op
from graphfuse.importers.torchscript.values import Nothing, Tensor, Unspellable


def spread(given: Any, count: int) -> list[int]:
    """One number for each spatial axis."""
    values = list(given) if isinstance(given, list | tuple) else [given]
    return values * count if len(values) == 1 else values


def _batched(b: Builder, x: Tensor, spatial: int) -> tuple[Tensor, bool]:
    """The input with an axis for the batch, and whether it was added."""
    if x.rank == spatial + 1:
        return b("Unsqueeze", x, [0]), True
    return x, False


def _convolution(
    b: Builder, x: Tensor, weight: Tensor, bias: Tensor | None, stride: Any, padding: Any, dilation: Any, groups: int
) -> Tensor:
    count = weight.rank - 2
    x, added = _batched(b, x, count)
    attributes: dict[str, Any] = {
        "strides": spread(stride, count), "dilations": spread(dilation, count), "group": groups
    }  # fmt: skip
    kernel = [d for d in weight.shape[2:] if isinstance(d, int)]
    if len(kernel) == count:
        attributes["kernel_shape"] = kernel
    if isinstance(padding, str):
        pads = [0] * (2 * count)
        if padding == "same":
            whole = [d * (k - 1) for d, k in zip(attributes["dilations"], kernel, strict=True)]
            pads = [w // 2 for w in whole] + [w - w // 2 for w in whole]
    else:
        pads = spread(padding, count) * 2
    y: Tensor = b("Conv", x, weight, bias, pads=pads, **attributes)
    b.shaped(y, [x.shape[0], weight.shape[0], *[None] * count])
    return b("Squeeze", y, [0]) if added else y


@op("conv1d", "conv2d", "conv3d", "_convolution_mode")
def conv(
    b: Builder, input: Tensor, weight: Tensor, bias: Tensor | None = None, stride: Any = 1, padding: Any = 0,
    dilation: Any = 1, groups: int = 1,
) -> Tensor:  # fmt: skip
    return _convolution(b, input, weight, bias, stride, padding, dilation, groups)


@op("_convolution", "convolution")
def convolution(
    b: Builder, input: Tensor, weight: Tensor, bias: Tensor | None, stride: Any, padding: Any, dilation: Any,
    transposed: bool, output_padding: Any, groups: int, benchmark: bool = False, deterministic: bool = False,
    cudnn_enabled: bool = True, allow_tf32: bool = True,
) -> Tensor:  # fmt: skip
    if transposed:
        return conv_transpose(b, input, weight, bias, stride, padding, output_padding, groups, dilation)
    return _convolution(b, input, weight, bias, stride, padding, dilation, groups)


@op("conv_transpose1d", "conv_transpose2d", "conv_transpose3d")
def conv_transpose(
    b: Builder, input: Tensor, weight: Tensor, bias: Tensor | None = None, stride: Any = 1, padding: Any = 0,
    output_padding: Any = 0, groups: int = 1, dilation: Any = 1,
) -> Tensor:  # fmt: skip
    count = weight.rank - 2
    x, added = _batched(b, input, count)
    kernel = [int(d or 0) for d in weight.shape[2:]]
    y = b(
        "ConvTranspose", x, weight, bias, strides=spread(stride, count), pads=spread(padding, count) * 2,
        dilations=spread(dilation, count), group=groups, output_padding=spread(output_padding, count),
        kernel_shape=kernel,
    )  # fmt: skip
    return b("Squeeze", y, [0]) if added else y


def _max_pool(
    b: Builder, x: Tensor, kernel_size: Any, stride: Any, padding: Any, dilation: Any, ceil_mode: bool, count: int
) -> Tensor:
    kernel = spread(kernel_size, count)
    x, added = _batched(b, x, count)
    y = b(
        "MaxPool", x, kernel_shape=kernel, strides=spread(stride, count) if stride else kernel,
        pads=spread(padding, count) * 2, dilations=spread(dilation, count), ceil_mode=int(ceil_mode),
    )  # fmt: skip
    return b("Squeeze", y, [0]) if added else y


def _pool_op(count: int) -> None:
    @op(f"max_pool{count}d")
    def max_pool(
        b: Builder, self: Tensor, kernel_size: Any, stride: Any = (), padding: Any = 0, dilation: Any = 1,
        ceil_mode: bool = False,
    ) -> Tensor:  # fmt: skip
        return _max_pool(b, self, kernel_size, stride, padding, dilation, ceil_mode, count)

    @op(f"max_pool{count}d_with_indices")
    def max_pool_with_indices(
        b: Builder, self: Tensor, kernel_size: Any, stride: Any = (), padding: Any = 0, dilation: Any = 1,
        ceil_mode: bool = False,
    ) -> tuple[Tensor, Nothing]:  # fmt: skip
        return _max_pool(b, self, kernel_size, stride, padding, dilation, ceil_mode, count), Nothing()

    @op(f"avg_pool{count}d")
    def avg_pool(
        b: Builder, self: Tensor, kernel_size: Any, stride: Any = (), padding: Any = 0, ceil_mode: bool = False,
        count_include_pad: bool = True, divisor_override: int | None = None,
    ) -> Tensor:  # fmt: skip
        kernel = spread(kernel_size, count)
        x, added = _batched(b, self, count)
        y = b(
            "AveragePool", x, kernel_shape=kernel, strides=spread(stride, count) if stride else kernel,
            pads=spread(padding, count) * 2, ceil_mode=int(ceil_mode), count_include_pad=int(count_include_pad),
        )  # fmt: skip
        if divisor_override is not None:
            if not count_include_pad or ceil_mode:
                raise Unspellable("a divisor of its own is supported only where all windows count the same")
            area = 1
            for k in kernel:
                area *= k
            y = b("Mul", y, b.const(torch.tensor(area / divisor_override, dtype=b.torch_dtype(y))))
        return b("Squeeze", y, [0]) if added else y

    @op(f"adaptive_avg_pool{count}d")
    def adaptive_avg_pool(b: Builder, self: Tensor, output_size: Any) -> Tensor:
        return _adaptive(b, self, output_size, count, "AveragePool", "GlobalAveragePool")

    @op(f"adaptive_max_pool{count}d")
    def adaptive_max_pool(b: Builder, self: Tensor, output_size: Any) -> tuple[Tensor, Nothing]:
        return _adaptive(b, self, output_size, count, "MaxPool", "GlobalMaxPool"), Nothing()


for _count in (1, 2, 3):
    _pool_op(_count)


def _adaptive(b: Builder, x: Tensor, output_size: Any, count: int, windowed: str, whole: str) -> Tensor:
    x, added = _batched(b, x, count)
    sizes = spread(output_size, count)
    if all(s == 1 for s in sizes):
        y = b(whole, x)
    else:
        y = _adaptive_windows(b, x, sizes, count, windowed)
    return b("Squeeze", y, [0]) if added else y


def _adaptive_windows(b: Builder, x: Tensor, sizes: Sequence[Any], count: int, windowed: str) -> Tensor:
    known = x.shape[-count:]
    wanted: list[Any] = [k if s is None else s for s, k in zip(sizes, known, strict=True)]
    if not all(isinstance(k, int) and isinstance(s, int) for k, s in zip(known, wanted, strict=True)):
        raise Unspellable("adaptive pooling of an open size is supported only down to 1", "give the size as a number")
    if all(int(k or 0) % s == 0 for k, s in zip(known, wanted, strict=True)):
        kernel = [int(k or 0) // s for k, s in zip(known, wanted, strict=True)]
        found: Tensor = b(windowed, x, kernel_shape=kernel, strides=kernel)
        return found
    for axis, (k, s) in enumerate(zip(known, wanted, strict=True), x.rank - count):
        x = _adaptive_axis(b, x, axis, int(k or 0), s, windowed == "AveragePool")
    return x


def _adaptive_axis(b: Builder, x: Tensor, axis: int, size: int, parts: int, mean: bool) -> Tensor:
    """Means or maxima over parts of an axis that overlap and differ in length."""
    ends = [(k * size // parts, -(-(k + 1) * size // parts)) for k in range(parts)]
    if mean:
        weights = torch.zeros(size, parts, dtype=b.torch_dtype(x))
        for k, (low, high) in enumerate(ends):
            weights[low:high, k] = 1 / (high - low)
        order = [*range(axis), *range(axis + 1, x.rank), axis]
        back = [*range(axis), x.rank - 1, *range(axis, x.rank - 1)]
        return b("Transpose", b("MatMul", b("Transpose", x, perm=order), b.const(weights)), perm=back)
    cuts = [b("ReduceMax", b("Slice", x, [low], [high], [axis]), [axis], keepdims=1) for low, high in ends]
    joined: Tensor = b("Concat", *cuts, axis=axis)
    return joined


@op("unfold")
def unfold(b: Builder, self: Tensor, dimension: int, size: int, step: int) -> Tensor:
    axis, length = self.axis(dimension), self.shape[self.axis(dimension)]
    if not isinstance(length, int):
        raise Unspellable("windows over an axis of open size are not supported", "give that size as a number")
    starts = torch.arange(0, length - size + 1, step)
    places = b.const(starts[:, None] + torch.arange(size)[None])
    taken = b("Gather", self, places, axis=axis)
    return b("Transpose", taken, perm=[*range(axis + 1), *range(axis + 2, taken.rank), axis + 1])


@op("im2col")
def im2col(b: Builder, self: Tensor, kernel_size: Any, dilation: Any, padding: Any, stride: Any) -> Tensor:
    channels = self.shape[1]
    kernel = spread(kernel_size, 2)
    if not isinstance(channels, int):
        raise Unspellable("unfold of an open number of channels is not supported")
    taps = kernel[0] * kernel[1]
    weight = torch.eye(taps, dtype=b.torch_dtype(self)).reshape(taps, 1, *kernel).repeat(channels, 1, 1, 1)
    y = _convolution(b, self, b.const(weight), None, stride, padding, dilation, channels)
    return b.reshape(y, [b.size(self, 0), channels * taps, -1])
