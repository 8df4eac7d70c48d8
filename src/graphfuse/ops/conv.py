"""Convolution and transposed convolution in one, two or three spatial dimensions.

The bias is a pointwise map after the contraction, like anything else that follows.
"""

from __future__ import annotations

from collections.abc import Sequence

from graphfuse.graph.dims import Dim, is_static
from graphfuse.ops.registry import NotSupported, OpNode, op
from graphfuse.ops.samples import Sample, floats, sample
from graphfuse.ops.tensor import Tensor, Window, contract, expand, map_, reshape
from graphfuse.ops.unfold import is_unpackable, unfolded
from graphfuse.ops.windows import sliding, transposed


def kernel_of(node: OpNode, x: Tensor, w: Tensor) -> tuple[int, ...]:
    if x.rank < 3 or w.rank != x.rank:
        raise NotSupported(f"an input of rank {x.rank} with a kernel of rank {w.rank}")
    if not is_static(*w.shape):
        raise NotSupported("the kernel's shape must be known at compile time")
    kernel = tuple(int(d) for d in w.shape[2:])
    declared = tuple(node.attr("kernel_shape", None) or kernel)
    if declared != kernel:
        raise NotSupported(f"kernel_shape = {list(declared)} differs from the kernel's {list(kernel)}")
    return kernel


def _with_channels(x: Tensor, expected: int) -> Tensor:
    """The input, whose channels are as many as the kernel takes: an unknown number is checked when the model runs."""
    if isinstance(x.shape[1], int) and x.shape[1] != expected:
        raise NotSupported(f"the input has {x.shape[1]} channels where the kernel takes {expected}")
    return expand(x, (x.shape[0], expected, *x.shape[2:]))


def _with_bias(y: Tensor, bias: Tensor | None) -> Tensor:
    if bias is None:
        return y
    shape: Sequence[Dim] = [y.shape[1] if k == 1 else 1 for k in range(y.rank)]
    return map_(lambda v, b: v + b, y, reshape(bias, shape))


def _product(kind: str, x: Tensor, w: Tensor, shape: Sequence[Dim], window: Window) -> Tensor:
    if is_unpackable(w, window, kind):
        return unfolded(kind, x, w, shape, window)
    return contract(kind, (x, w), shape, window)


def _conv_samples() -> list[Sample]:
    image = floats(2, 4, 13, 17)
    w33, w22 = floats(6, 4, 3, 3, seed=1), floats(3, 4, 2, 2, seed=1)
    return [
        sample(image, w33, floats(6), constants=[1, 2]),
        sample(image, w33, constants=[1], pads=[1, 1, 1, 1], strides=[2, 2]),
        sample(image, w33, constants=[1], pads=[0, 1, 2, 1], dilations=[2, 3]),
        sample(image, floats(6, 2, 3, 1, seed=2), floats(6), constants=[1, 2], group=2, kernel_shape=[3, 1]),
        sample(image, floats(4, 1, 3, 3, seed=3), constants=[1], group=4, pads=[1, 1, 1, 1]),
        sample(image, floats(8, 1, 3, 3, seed=3), constants=[1], group=4, auto_pad="VALID"),
        sample(image, w22, constants=[1], auto_pad="SAME_UPPER"),
        sample(image, w22, constants=[1], auto_pad="SAME_LOWER", strides=[2, 3]),
        sample(image, floats(5, 4, 1, 1, seed=4), floats(5), constants=[1, 2]),
        sample(image, w33, floats(6), pads=[1, 0, 2, 1], symbolic=False),  # weights from outside
        sample(image, floats(6, 2, 3, 1), group=2, strides=[2, 1], dilations=[1, 2], symbolic=False),
        sample(floats(1, 2, 5, 6, 7), floats(3, 2, 2, 3, 3, seed=1), floats(3), strides=[1, 2, 1], symbolic=False),
        sample(floats(1, 3, 17), floats(2, 3, 5, seed=1), constants=[1], pads=[2, 2]),
        sample(floats(1, 2, 5, 6, 7), floats(3, 2, 2, 3, 3, seed=1), floats(3), constants=[1, 2], strides=[1, 2, 1]),
        sample(floats(0, 4, 5, 5), w33, constants=[1]),
        sample(floats(2, 4, 5, 5, dtype=float), floats(3, 4, 3, 3, dtype=float, seed=1), constants=[1]),
        sample(floats(1, 4, 2, 2), w33, constants=[1], rejected="larger than the padded input"),
        sample(image, floats(6, 3, 3, 3), constants=[1], rejected="4 channels where the kernel takes 3"),
    ]


@op("Conv", samples=_conv_samples)
def conv(node: OpNode) -> Tensor:
    x, w = node.input(0), node.input(1)
    kernel, groups = kernel_of(node, x, w), node.attr("group", 1)
    channels, outputs = int(w.shape[1]) * groups, int(w.shape[0])
    x = _with_channels(x, channels)
    if outputs % groups:
        raise NotSupported(f"{outputs} output channels do not divide into {groups} groups")
    window, out = sliding(node, x.shape[2:], kernel, groups)
    return _with_bias(_product("conv", x, w, (x.shape[0], outputs, *out), window), node.optional(2))


def _conv_transpose_samples() -> list[Sample]:
    image = floats(2, 4, 5, 6)
    w33 = floats(4, 3, 3, 3, seed=1)
    return [
        sample(image, w33, floats(3), constants=[1, 2]),
        sample(image, w33, constants=[1], strides=[2, 2], pads=[1, 1, 1, 1], output_padding=[1, 1]),
        sample(image, w33, constants=[1], strides=[3, 2], pads=[0, 1, 2, 1], dilations=[2, 1]),
        sample(image, floats(4, 3, 2, 2, seed=1), floats(3), constants=[1, 2], strides=[2, 2]),
        sample(image, floats(4, 2, 3, 3, seed=1), constants=[1], group=2, strides=[2, 2]),
        sample(image, floats(4, 1, 4, 4, seed=1), constants=[1], group=4, strides=[2, 2], pads=[1, 1, 1, 1]),
        sample(image, w33, constants=[1], strides=[2, 2], auto_pad="SAME_UPPER"),
        sample(image, w33, constants=[1], strides=[2, 2], auto_pad="SAME_LOWER"),
        sample(image, w33, constants=[1], strides=[2, 3], output_shape=[10, 18], symbolic=False),
        sample(image, w33, constants=[1], strides=[2, 2], output_shape=[12, 14], symbolic=False),
        sample(image, w33, constants=[1], strides=[2, 2], auto_pad="VALID"),
        sample(floats(1, 3, 17), floats(3, 2, 5, seed=1), floats(2), constants=[1, 2], strides=[3]),
        sample(floats(1, 2, 3, 4, 5), floats(2, 3, 2, 3, 3, seed=1), constants=[1], strides=[2, 1, 2]),
        sample(image, w33, floats(3), strides=[3, 2], pads=[0, 1, 2, 1], dilations=[2, 1], symbolic=False),
        sample(image, floats(4, 2, 3, 3, seed=1), group=2, strides=[2, 2], symbolic=False),
    ]


@op("ConvTranspose", samples=_conv_transpose_samples)
def conv_transpose(node: OpNode) -> Tensor:
    x, w = node.input(0), node.input(1)
    kernel, groups = kernel_of(node, x, w), node.attr("group", 1)
    channels, outputs = int(w.shape[0]), int(w.shape[1]) * groups
    x = _with_channels(x, channels)
    if channels % groups:
        raise NotSupported(f"{channels} input channels do not divide into {groups} groups")
    window, out = transposed(node, x.shape[2:], kernel, groups)
    return _with_bias(_product("conv_transpose", x, w, (x.shape[0], outputs, *out), window), node.optional(2))
