"""Normalizations."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from graphfuse.importers.torchscript.builder import Builder
from graphfuse.importers.torchscript.registry import op
from graphfuse.importers.torchscript.values import Tensor, Unspellable


def _filled(b: Builder, x: Tensor | None, like: Tensor, value: float) -> Tensor:
    """A parameter of a normalization, or a vector of the value that stands for none."""
    if x is not None:
        return x
    channels = like.shape[1]
    if not isinstance(channels, int):
        raise Unspellable("an open number of channels is not supported")
    return b.const(torch.full((channels,), value, dtype=b.torch_dtype(like)))


@op("batch_norm")
def batch_norm(
    b: Builder, input: Tensor, weight: Tensor | None, bias: Tensor | None, running_mean: Tensor | None,
    running_var: Tensor | None, training: bool, momentum: float, eps: float, cudnn_enabled: bool = True,
) -> Tensor:  # fmt: skip
    if training and running_mean is not None:
        raise Unspellable("batch norm in training mode learns", "save the model after model.eval()")
    if running_mean is None or running_var is None:
        axes = [0, *range(2, input.rank)]
        mean = b("ReduceMean", input, axes, keepdims=0)
        apart = b("Sub", input, b("ReduceMean", input, axes, keepdims=1))
        running_mean, running_var = mean, b("ReduceMean", b("Mul", apart, apart), axes, keepdims=0)
    scale, shift = _filled(b, weight, input, 1.0), _filled(b, bias, input, 0.0)
    return b("BatchNormalization", input, scale, shift, running_mean, running_var, epsilon=eps)


@op("layer_norm")
def layer_norm(
    b: Builder, input: Tensor, normalized_shape: Sequence[int], weight: Tensor | None = None,
    bias: Tensor | None = None, eps: float = 1e-5, cudnn_enable: bool = True,
) -> Tensor:  # fmt: skip
    if weight is None:
        weight = b.const(torch.ones(tuple(normalized_shape), dtype=b.torch_dtype(input)))
    return b("LayerNormalization", input, weight, bias, axis=-len(normalized_shape), epsilon=eps)


@op("native_layer_norm")
def native_layer_norm(
    b: Builder, input: Tensor, normalized_shape: Sequence[int], weight: Tensor | None, bias: Tensor | None, eps: float
) -> tuple[Tensor, Tensor, Tensor]:
    if weight is None:
        weight = b.const(torch.ones(tuple(normalized_shape), dtype=b.torch_dtype(input)))
    axis = -len(normalized_shape)
    found = b("LayerNormalization", input, weight, bias, axis=axis, epsilon=eps, count=3)
    return found[0], found[1], found[2]


@op("rms_norm")
def rms_norm(
    b: Builder, input: Tensor, normalized_shape: Sequence[int], weight: Tensor | None = None, eps: float | None = None
) -> Tensor:
    dtype = b.torch_dtype(input)
    weight = weight if weight is not None else b.const(torch.ones(tuple(normalized_shape), dtype=dtype))
    eps = eps if eps is not None else torch.finfo(dtype).eps
    return b("RMSNormalization", input, weight, axis=-len(normalized_shape), epsilon=eps)


@op("group_norm")
def group_norm(
    b: Builder, input: Tensor, num_groups: int, weight: Tensor | None = None, bias: Tensor | None = None,
    eps: float = 1e-5, cudnn_enabled: bool = True,
) -> Tensor:  # fmt: skip
    scale, shift = _filled(b, weight, input, 1.0), _filled(b, bias, input, 0.0)
    return b("GroupNormalization", input, scale, shift, num_groups=num_groups, epsilon=eps)


@op("instance_norm")
def instance_norm(
    b: Builder, input: Tensor, weight: Tensor | None, bias: Tensor | None, running_mean: Tensor | None,
    running_var: Tensor | None, use_input_stats: bool, momentum: float, eps: float, cudnn_enabled: bool,
) -> Tensor:  # fmt: skip
    if not use_input_stats:
        return batch_norm(b, input, weight, bias, running_mean, running_var, False, momentum, eps)
    if running_mean is not None:
        raise Unspellable("instance norm that tracks statistics learns", "save the model after model.eval()")
    scale, shift = _filled(b, weight, input, 1.0), _filled(b, bias, input, 0.0)
    return b("InstanceNormalization", input, scale, shift, epsilon=eps)


@op("local_response_norm")
def local_response_norm(
    b: Builder, input: Tensor, size: int, alpha: float = 1e-4, beta: float = 0.75, k: float = 1.0
) -> Tensor:
    return b("LRN", input, size=size, alpha=alpha, beta=beta, bias=k)


@op("normalize")
def normalize(b: Builder, input: Tensor, p: Any = 2.0, dim: int = 1, eps: float = 1e-12) -> Tensor:
    from graphfuse.importers.torchscript.ops.reductions import norm

    low = b.const(torch.tensor(eps, dtype=b.torch_dtype(input)))
    return b("Div", input, b("Max", norm(b, input, p, dim, True), low))
