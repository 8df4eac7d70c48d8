"""Operators for onnx's reference evaluator in plain NumPy, where its own take minutes or treat inference as training.

They run in the dtype of their inputs, float64 here, and share nothing with the kernels that they are a yardstick for.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np
from onnx.reference.op_run import OpRun

Array = np.ndarray[Any, Any]


def padding_of(
    size: Sequence[int], kernel: Sequence[int], strides: Sequence[int], pads: Sequence[int] | None, auto_pad: str
) -> list[tuple[int, int]]:
    """(begin, end) padding of every spatial axis; `kernel` counts its dilation."""
    count = len(size)
    if auto_pad in ("SAME_UPPER", "SAME_LOWER"):
        sums = [max(0, (-(-n // s) - 1) * s + k - n) for n, k, s in zip(size, kernel, strides, strict=True)]
        small = [(total // 2, total - total // 2) for total in sums]
        return small if auto_pad == "SAME_UPPER" else [(b, a) for a, b in small]
    listed = list(pads or [0] * (2 * count)) if auto_pad != "VALID" else [0] * (2 * count)
    return list(zip(listed[:count], listed[count:], strict=True))


def windows(x: Array, kernel: Sequence[int], strides: Sequence[int], dilations: Sequence[int]) -> Array:
    """Views of x (N, C, spatial...) under every kernel offset: (offsets, N, C, output spatial...)."""
    out = [
        (n - (k - 1) * d - 1) // s + 1
        for n, k, s, d in zip(x.shape[2:], kernel, strides, dilations, strict=True)
    ]  # fmt: skip
    taps = []
    for offset in itertools.product(*(range(k) for k in kernel)):
        cut = [
            slice(o * d, o * d + (n - 1) * s + 1, s)
            for o, d, n, s in zip(offset, dilations, out, strides, strict=True)
        ]  # fmt: skip
        index = (slice(None), slice(None), *cut)
        taps.append(x[index])
    return np.stack(taps)


class Conv(OpRun):  # type: ignore[misc]
    op_domain = ""

    def _run(
        self, x: Array, w: Array, b: Array | None = None, auto_pad: str = "NOTSET", dilations: Any = None,
        group: int = 1, kernel_shape: Any = None, pads: Any = None, strides: Any = None,
    ) -> tuple[Array]:  # fmt: skip
        rank = x.ndim - 2
        strides, dilations = strides or [1] * rank, dilations or [1] * rank
        reach = [(k - 1) * d + 1 for k, d in zip(w.shape[2:], dilations, strict=True)]
        x = np.pad(x, [(0, 0), (0, 0), *padding_of(x.shape[2:], reach, strides, pads, auto_pad or "NOTSET")])
        taps = windows(x, w.shape[2:], strides, dilations)
        spatial = taps.shape[3:]
        # (group, offsets * channels of the group, N * output positions)
        columns = taps.reshape(taps.shape[0], x.shape[0], group, -1, int(np.prod(spatial)))
        columns = columns.transpose(2, 0, 3, 1, 4).reshape(group, -1, x.shape[0] * int(np.prod(spatial)))
        weights = w.reshape(group, w.shape[0] // group, w.shape[1], -1).transpose(0, 1, 3, 2)
        y = weights.reshape(group, w.shape[0] // group, -1) @ columns
        y = y.reshape(w.shape[0], x.shape[0], *spatial).swapaxes(0, 1)
        return (y if b is None else y + b.reshape(-1, *[1] * rank),)


class MaxPool(OpRun):  # type: ignore[misc]
    op_domain = ""

    def _run(
        self, x: Array, auto_pad: str = "NOTSET", ceil_mode: int = 0, dilations: Any = None,
        kernel_shape: Any = None, pads: Any = None, storage_order: int = 0, strides: Any = None,
    ) -> tuple[Array]:  # fmt: skip
        if ceil_mode or len(self.onnx_node.output) > 1:
            raise NotImplementedError
        rank = x.ndim - 2
        strides, dilations = strides or [1] * rank, dilations or [1] * rank
        reach = [(k - 1) * d + 1 for k, d in zip(kernel_shape, dilations, strict=True)]
        padding = padding_of(x.shape[2:], reach, strides, pads, auto_pad or "NOTSET")
        x = np.pad(x, [(0, 0), (0, 0), *padding], constant_values=-np.inf)
        return (windows(x, kernel_shape, strides, dilations).max(axis=0),)


class AveragePool(OpRun):  # type: ignore[misc]
    op_domain = ""

    def _run(
        self, x: Array, auto_pad: str = "NOTSET", ceil_mode: int = 0, count_include_pad: int = 0,
        dilations: Any = None, kernel_shape: Any = None, pads: Any = None, strides: Any = None,
    ) -> tuple[Array]:  # fmt: skip
        if ceil_mode:
            raise NotImplementedError
        rank = x.ndim - 2
        strides, dilations = strides or [1] * rank, dilations or [1] * rank
        reach = [(k - 1) * d + 1 for k, d in zip(kernel_shape, dilations, strict=True)]
        around = [(0, 0), (0, 0), *padding_of(x.shape[2:], reach, strides, pads, auto_pad or "NOTSET")]
        counted = np.pad(np.ones_like(x), around, constant_values=float(count_include_pad))
        total = windows(np.pad(x, around), kernel_shape, strides, dilations).sum(axis=0)
        return (total / windows(counted, kernel_shape, strides, dilations).sum(axis=0),)


class BatchNormalization(OpRun):  # type: ignore[misc]
    """Inference; onnx's own mixes the batch's statistics into the given ones for models of opset 9 to 13."""

    op_domain = ""

    def _run(
        self, x: Array, scale: Array, bias: Array, mean: Array, var: Array,
        epsilon: float = 1e-5, momentum: float = 0.9, spatial: int = 1, training_mode: int = 0,
    ) -> tuple[Array]:  # fmt: skip
        if training_mode or not spatial:
            raise NotImplementedError
        a, b, mu, v = (value.reshape(-1, *[1] * (x.ndim - 2)) for value in (scale, bias, mean, var))
        return (a * (x - mu) / np.sqrt(v + epsilon) + b,)


FAST_OPS = (Conv, MaxPool, AveragePool, BatchNormalization)
