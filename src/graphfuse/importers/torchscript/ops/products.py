"""Matrix products, linear layers, attention, einsum."""

from __future__ import annotations

import math
from typing import Any

import torch

from graphfuse.importers.torchscript.builder import Builder
from graphfuse.importers.torchscript.registry import op
from graphfuse.importers.torchscript.values import Tensor, Unspellable


@op("matmul", "mm", "bmm", "mv", "dot", "linalg_matmul")
def matmul(
    b: Builder, self: Tensor, other: Any = None, mat2: Any = None, vec: Any = None, tensor: Any = None
) -> Tensor:
    second = next(x for x in (other, mat2, vec, tensor) if x is not None)
    return b("MatMul", self, second)


@op("chain_matmul", "linalg_multi_dot")
def multi_dot(b: Builder, tensors: list[Tensor]) -> Tensor:
    found = tensors[0]
    for x in tensors[1:]:
        found = b("MatMul", found, x)
    return found


def _weighted(b: Builder, x: Tensor, factor: Any) -> Tensor:
    if not isinstance(factor, Tensor) and factor == 1:
        return x
    return b("Mul", x, b.as_tensor(factor, b.torch_dtype(x)))


@op("addmm", "baddbmm", "addmv")
def addmm(
    b: Builder, self: Tensor, mat1: Any = None, mat2: Any = None, batch1: Any = None, batch2: Any = None,
    mat: Any = None, vec: Any = None, beta: Any = 1, alpha: Any = 1,
) -> Tensor:  # fmt: skip
    first = next(x for x in (mat1, batch1, mat) if x is not None)
    second = next(x for x in (mat2, batch2, vec) if x is not None)
    product = _weighted(b, b("MatMul", first, second), alpha)
    return product if beta == 0 else b("Add", product, _weighted(b, self, beta))


@op("outer", "ger")
def outer(b: Builder, self: Tensor, vec2: Tensor) -> Tensor:
    x, y = b.operands(self, vec2)
    return b("Mul", b("Unsqueeze", x, [1]), b("Unsqueeze", y, [0]))


def _turned(b: Builder, weight: Tensor) -> Tensor:
    """A known matrix with its axes swapped, as one constant for all layers that share it."""
    assert weight.const is not None
    return b.weight(weight.const.t(), f"{weight.path or 'weight'}.T")


@op("linear")
def linear(b: Builder, input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    if input.rank == 2 and bias is not None:
        return b("Gemm", input, weight, bias, transB=1)
    if weight.rank == 2:
        turned = b("Transpose", weight, perm=[1, 0]) if weight.const is None else _turned(b, weight)
    else:
        turned = weight
    product = b("MatMul", input, turned)
    return product if bias is None else b("Add", product, bias)


@op("bilinear")
def bilinear(b: Builder, input1: Tensor, input2: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    found = b("Einsum", input1, weight, input2, equation="...i,oij,...j->...o")
    return found if bias is None else b("Add", found, bias)


@op("einsum")
def einsum(b: Builder, equation: str, tensors: list[Tensor], path: Any = None) -> Tensor:
    return b("Einsum", *b.operands(*tensors), equation=equation.replace(" ", ""))


@op("tensordot")
def tensordot(b: Builder, self: Tensor, other: Tensor, dims_self: list[int], dims_other: list[int]) -> Tensor:
    letters = iter("abcdefghijklmnopqrstuvwxyz")
    first = [next(letters) for _ in range(self.rank)]
    second = [next(letters) for _ in range(other.rank)]
    for i, j in zip(dims_self, dims_other, strict=True):
        second[other.axis(j)] = first[self.axis(i)]
    kept = [c for c in first if c not in second] + [c for c in second if c not in first]
    return b("Einsum", self, other, equation=f"{''.join(first)},{''.join(second)}->{''.join(kept)}")


@op("cosine_similarity")
def cosine_similarity(b: Builder, x1: Tensor, x2: Tensor, dim: int = 1, eps: float = 1e-8) -> Tensor:
    from graphfuse.importers.torchscript.ops.reductions import reduce

    x, y = b.operands(x1, x2)
    low = b.const(torch.tensor(eps, dtype=b.torch_dtype(x)))
    parts = [b("Div", v, b("Max", reduce(b, "ReduceL2", v, dim, True), low)) for v in (x, y)]
    return reduce(b, "ReduceSum", b("Mul", *parts), dim, False)


@op("cross", "linalg_cross")
def cross(b: Builder, self: Tensor, other: Tensor, dim: int | None = None) -> Tensor:
    axis = next(k for k, d in enumerate(self.shape) if d == 3) if dim is None else self.axis(dim)

    def turned(x: Tensor, places: list[int]) -> Tensor:
        found: Tensor = b("Gather", x, b.const(torch.tensor(places)), axis=axis)
        return found

    first = b("Mul", turned(self, [1, 2, 0]), turned(other, [2, 0, 1]))
    return b("Sub", first, b("Mul", turned(self, [2, 0, 1]), turned(other, [1, 2, 0])))


@op("scaled_dot_product_attention")
def scaled_dot_product_attention(
    b: Builder, query: Tensor, key: Tensor, value: Tensor, attn_mask: Tensor | None = None, dropout_p: float = 0.0,
    is_causal: bool = False, scale: float | None = None, enable_gqa: bool = False,
) -> Tensor:  # fmt: skip
    if dropout_p:
        raise Unspellable("attention with dropout draws random numbers", "save the model after model.eval()")
    if enable_gqa:
        raise Unspellable("attention with groups of heads is not supported", "repeat the keys and values for all heads")
    depth = query.shape[-1]
    dtype = b.torch_dtype(query)
    if scale is not None:
        factor: Tensor = b.const(torch.tensor(scale, dtype=dtype))
    elif isinstance(depth, int):
        factor = b.const(torch.tensor(1 / math.sqrt(depth), dtype=dtype))
    else:
        factor = b("Reciprocal", b("Sqrt", b.cast(b.as_tensor(b.size(query, -1)), dtype)))
    order = [*range(key.rank - 2), key.rank - 1, key.rank - 2]
    scores = b("Mul", b("MatMul", query, b("Transpose", key, perm=order)), factor)
    if is_causal:
        ones = b.expand(b.const(torch.tensor(True)), [b.size(query, -2), b.size(key, -2)])
        attn_mask = b("Trilu", ones, upper=0)
    if attn_mask is not None:
        if b.torch_dtype(attn_mask) == torch.bool:
            low = b.const(torch.tensor(float("-inf"), dtype=dtype))
            attn_mask = b("Where", attn_mask, b.const(torch.zeros((), dtype=dtype)), low)
        scores = b("Add", scores, b.cast(attn_mask, dtype))
    return b("MatMul", b("Softmax", scores, axis=-1), value)
