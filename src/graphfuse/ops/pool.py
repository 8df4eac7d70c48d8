"""Pooling: windows and whole images."""

from __future__ import annotations

import numpy as np

from graphfuse.graph.dims import is_static
from graphfuse.ops import expr as E
from graphfuse.ops.arithmetic import constant_power
from graphfuse.ops.registry import NotSupported, OpNode, op
from graphfuse.ops.samples import Sample, floats, ints, sample, special
from graphfuse.ops.tensor import Tensor, constant, contract, count, map_, reduce, size
from graphfuse.ops.windows import sliding


def _kernel(node: OpNode, x: Tensor) -> tuple[int, ...]:
    kernel = tuple(node.attr("kernel_shape"))
    if x.rank < 3 or len(kernel) != x.rank - 2:
        raise NotSupported(f"kernel_shape = {list(kernel)} on an input of rank {x.rank}")
    return kernel


def _window_samples() -> list[Sample]:
    image = floats(2, 3, 13, 17)
    return [
        sample(image, kernel_shape=[3, 3]),
        sample(image, kernel_shape=[3, 2], strides=[2, 2], pads=[1, 0, 1, 1]),
        sample(image, kernel_shape=[3, 3], strides=[2, 2], ceil_mode=1),
        sample(image, kernel_shape=[2, 2], strides=[3, 3], pads=[1, 1, 1, 1], ceil_mode=1),
        sample(image, kernel_shape=[2, 3], dilations=[2, 3]),
        sample(image, kernel_shape=[2, 2], auto_pad="SAME_UPPER"),
        sample(image, kernel_shape=[4, 3], auto_pad="SAME_LOWER", strides=[2, 2]),
        sample(image, kernel_shape=[3, 3], auto_pad="VALID", strides=[2, 1]),
        sample(floats(1, 2, 17), kernel_shape=[5], strides=[2], pads=[2, 2]),
        sample(floats(1, 2, 5, 6, 7), kernel_shape=[2, 3, 2], strides=[1, 2, 2]),
        sample(floats(1, 2, 17, dtype=float), kernel_shape=[3]),
    ]


@op(
    "MaxPool",
    samples=lambda: [
        *_window_samples(),
        sample(ints(1, 2, 7, 7, dtype="int8"), kernel_shape=[3, 3], pads=[1, 1, 1, 1]),
        sample(floats(1, 2, 7, 7), kernel_shape=[3, 3], outputs=2, rejected="Indices"),
    ],
)
def max_pool(node: OpNode) -> Tensor:
    x = node.input(0)
    if len(node.node.outputs) > 1 and _used(node, 1):
        raise NotSupported("the second output, Indices, is used")
    window, out = sliding(node, x.shape[2:], _kernel(node, x))
    return contract("max_pool", (x,), (*x.shape[:2], *out), window)


def _used(node: OpNode, k: int) -> bool:
    value = node.node.outputs[k]
    return bool(value.uses()) or value.is_graph_output()


@op(
    "AveragePool",
    samples=lambda: [
        *_window_samples(),
        *(
            sample(s.inputs[0], **s.attrs, count_include_pad=1)
            for s in _window_samples()
            if "pads" in s.attrs or "auto_pad" in s.attrs
        ),
    ],
)
def average_pool(node: OpNode) -> Tensor:
    x = node.input(0)
    include = bool(node.attr("count_include_pad", 0))
    window, out = sliding(node, x.shape[2:], _kernel(node, x), count_include_pad=include)
    return contract("average_pool", (x,), (*x.shape[:2], *out), window)


@op(
    "LpPool",
    samples=lambda: [
        sample(floats(2, 3, 13, 17), kernel_shape=[3, 3], fixed=[1]),
        sample(floats(2, 3, 13, 17), kernel_shape=[2, 3], strides=[2, 2], pads=[1, 1, 0, 1], p=1, fixed=[1]),
        sample(floats(2, 3, 13), kernel_shape=[3], p=3, fixed=[1]),
    ],
)
def lp_pool(node: OpNode) -> Tensor:
    """The sum over a window is a depthwise convolution with ones."""
    x, p = node.input(0), node.attr("p", 2)
    if not is_static(x.shape[1]):
        raise NotSupported("the number of channels must be known at compile time")
    channels, kernel = int(x.shape[1]), _kernel(node, x)
    window, out = sliding(node, x.shape[2:], kernel, groups=channels)
    ones = constant(np.ones((channels, 1, *kernel), x.dtype.numpy()), "ones")
    powers = map_(lambda v: constant_power(E.unary("abs", v), p), x)
    total = contract("conv", (powers, ones), (*x.shape[:2], *out), window)
    return map_(lambda v: constant_power(v, 1 / p), total)


def _global_samples() -> list[Sample]:
    return [
        sample(floats(2, 3, 13, 17)),
        sample(floats(2, 3, 17)),
        sample(floats(1, 2, 3, 4, 5)),
    ]


def _spatial_axes(x: Tensor) -> range:
    if x.rank < 3:
        raise NotSupported(f"an input of rank {x.rank} has no spatial axes")
    return range(2, x.rank)


@op("GlobalAveragePool", samples=lambda: [*_global_samples(), sample(special(1, 3, 5, 5))])
def global_average_pool(node: OpNode) -> Tensor:
    x = node.input(0)
    n = count(x, _spatial_axes(x))
    return map_(lambda s: s / E.cast(size(n), s.dtype), reduce("sum", x, _spatial_axes(x)))


@op("GlobalMaxPool", samples=_global_samples)
def global_max_pool(node: OpNode) -> Tensor:
    x = node.input(0)
    return reduce("max", x, _spatial_axes(x))
