"""Matrix products, layers of them, and attention."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from graphfuse.export.torch.call import Call, Refused, op
from graphfuse.importers.torch_tensors import to_tensor


def linear(c: Call, weight: np.ndarray[Any, Any], bias: np.ndarray[Any, Any] | None) -> Any:
    """A layer of weight [outputs, inputs], as a person writes it."""
    dtype = to_tensor(np.empty(0, weight.dtype)).dtype
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None, dtype=dtype)
    return c.module(layer, 1, c[0], weight=weight, bias=bias)


@op("MatMul")
def matmul(c: Call) -> Any:
    weight = c.weight(1) if c.rank(0) >= 1 else None
    if weight is not None and weight.ndim == 2:
        return linear(c, weight.T, c.bias_behind(weight.shape[1]))
    return torch.matmul(c[0], c[1])


@op("Gemm")
def gemm(c: Call) -> Any:
    alpha, beta = c.attr("alpha"), c.attr("beta")
    weight, bias = c.weight(1), c.weight(2) if c.has(2) else None
    plain = weight is not None and not c.attr("transA") and c.is_float(0)
    if plain and weight is not None and (bias is not None or not c.has(2)):
        weight = (weight if c.attr("transB") else weight.T) * np.asarray(alpha, weight.dtype)
        if bias is None or bias.size in (1, len(weight)):
            full = (
                None
                if bias is None
                else np.broadcast_to(bias.reshape(-1), (len(weight),)) * np.asarray(beta, bias.dtype)
            )
            return linear(c, weight, full)
    if not c.is_float(0):
        alpha, beta = int(alpha), int(beta)
    a, b = (c[k].mT if c.attr(name) else c[k] for k, name in ((0, "transA"), (1, "transB")))
    product = torch.matmul(a, b)
    product = product if alpha == 1 else alpha * product
    if not c.has(2):
        return product
    return product + (c[2] if beta == 1 else beta * c[2])


@op("MatMulInteger")
def matmul_integer(c: Call) -> Any:
    a, b = (_centred(c, k, k + 2, -1 if k else -2) for k in (0, 1))
    return torch.matmul(a, b)


def _centred(c: Call, k: int, zero: int, axis: int) -> Any:
    x = c[k].to(torch.int32)
    if not c.has(zero):
        return x
    known = c.constant(zero)
    if known is not None and not known.any():
        return x
    z = c[zero].to(torch.int32)
    return x - (z.unsqueeze(-1) if c.rank(zero) == 1 and axis == -2 else z)


@op("Einsum")
def einsum(c: Call) -> Any:
    equation = c.attr("equation").replace(" ", "")
    return torch.einsum(equation, *[c[k] for k in range(len(c))])


@op("Det")
def det(c: Call) -> Any:
    return torch.linalg.det(c[0])


@op("Attention")
def attention(c: Call) -> Any:
    if c.rank(0) != 4 or len(c) > 4 or any(c.wants(k) for k in (1, 2, 3)) or c.attr("softcap"):
        raise Refused("only four-dimensional attention without past, cap or further outputs is written")
    if c.shape(0)[1] is None or c.shape(0)[1] != c.shape(1)[1]:
        raise Refused("the numbers of heads differ")
    mask = c[3] if c.has(3) else None
    if c.has(3) and c.shape(3)[-1] != c.shape(1)[2]:
        raise Refused("its mask is not known to be as long as its keys")
    causal = bool(c.attr("is_causal"))
    if causal and mask is not None:
        raise Refused("it has a mask and is causal as well")
    scale = c.attr("scale")
    return F.scaled_dot_product_attention(c[0], c[1], c[2], attn_mask=mask, is_causal=causal, scale=scale)
