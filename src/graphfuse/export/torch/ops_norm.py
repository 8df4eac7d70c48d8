"""Normalisations."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from graphfuse.export.torch.call import Call, Refused, op


@op("LayerNormalization")
def layer_norm(c: Call) -> Any:
    if c.wants(1) or c.wants(2):
        raise Refused("its mean or deviation is used")
    axis, epsilon = c.axis(), c.attr("epsilon")
    shape = c.shape(0)[axis:]
    weight, bias = c.weight(1), c.weight(2) if c.has(2) else None
    if None in shape:
        raise Refused("a normalised size is known only at run time")
    sizes = [d for d in shape if d is not None]
    if weight is not None and (bias is not None or not c.has(2)):
        layer = nn.LayerNorm(sizes, eps=epsilon, bias=bias is not None, dtype=c.dtype(0))
        full = [None if w is None else np.broadcast_to(w, sizes) for w in (weight, bias)]
        return c.module(layer, 1, c[0], weight=full[0], bias=full[1])
    y = F.layer_norm(c[0], sizes, eps=epsilon) * c[1]
    return y + c[2] if c.has(2) else y


@op("RMSNormalization")
def rms_norm(c: Call) -> Any:
    axis, x = c.axis(), c[0]
    axes = tuple(range(axis, c.rank(0)))
    return x * torch.rsqrt(torch.mean(x * x, dim=axes, keepdim=True) + c.attr("epsilon")) * c[1]


@op("BatchNormalization")
def batch_norm(c: Call) -> Any:
    if c.attr("training_mode"):
        raise Refused("it is in training mode")
    return F.batch_norm(c[0], c[3], c[4], c[1], c[2], eps=c.attr("epsilon"))


@op("InstanceNormalization")
def instance_norm(c: Call) -> Any:
    axes = tuple(range(2, c.rank(0)))
    mean = torch.mean(c[0], dim=axes, keepdim=True)
    variance = torch.var(c[0], dim=axes, keepdim=True, correction=0)
    shape = (-1, *[1] * len(axes))
    return (c[0] - mean) * torch.rsqrt(variance + c.attr("epsilon")) * c[1].reshape(shape) + c[2].reshape(shape)


@op("GroupNormalization")
def group_norm(c: Call) -> Any:
    return F.group_norm(c[0], c.attr("num_groups"), c[1], c[2], eps=c.attr("epsilon"))


@op("LpNormalization")
def lp_norm(c: Call) -> Any:
    norm = torch.linalg.vector_norm(c[0], ord=float(c.attr("p")), dim=c.axis(), keepdim=True)
    return torch.where(norm == 0, torch.zeros_like(c[0]), c[0] / norm)


@op("LRN")
def local_response_norm(c: Call) -> Any:
    size = c.attr("size")
    if size % 2 == 0:
        raise Refused("its window is even, which PyTorch centres otherwise")
    return F.local_response_norm(c[0], size, alpha=c.attr("alpha"), beta=c.attr("beta"), k=c.attr("bias"))


@op("MeanVarianceNormalization")
def mean_variance_norm(c: Call) -> Any:
    axes = tuple(int(a) for a in c.attr("axes", [0, 2, 3]))
    mean = torch.mean(c[0], dim=axes, keepdim=True)
    deviation = torch.sqrt(torch.var(c[0], dim=axes, keepdim=True, correction=0))
    return (c[0] - mean) / (deviation + 1e-9)
