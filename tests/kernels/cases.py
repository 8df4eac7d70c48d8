"""Cases for the kernels of matrix products and windows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from graphfuse.graph.dims import Dim, add, evaluate, floordiv, mul
from graphfuse.graph.dtypes import F32, DType
from graphfuse.ops.tensor import Tensor, Window

from .harness import PLAIN, Case, Epilogue, channels_last, random_values, tensor, view_of


def matmul(
    a_shape: Sequence[Dim],
    b_shape: Sequence[Dim],
    *,
    constant: bool = True,
    dtype: DType = F32,
    operands: tuple[DType, DType] | None = None,
    epilogue: Epilogue = PLAIN,
    a_order: Sequence[int] | None = None,
    b_order: Sequence[int] | None = None,
    out_order: Sequence[int] | None = None,
    gap: int = 0,
    residual_order: Sequence[int] | None = None,
    env: Mapping[str, int] | None = None,
) -> Case:
    env = env or {}
    a_type, b_type = operands or (dtype, dtype)
    a, b = Tensor(tuple(a_shape), a_type), Tensor(tuple(b_shape), b_type)
    rank = max(a.rank, b.rank)

    def lead(t: Tensor, k: int) -> Dim:
        j = k - (rank - t.rank)
        return 1 if j < 0 else t.shape[j]

    batch = [lead(b, k) if lead(a, k) == 1 else lead(a, k) for k in range(rank - 2)]
    out = Tensor((*batch, a.shape[-2], b.shape[-1]), dtype)
    views = {a: view_of(a, a_order, gap=gap)}
    constants = {}
    if constant:
        shape = tuple(evaluate(d, env) for d in b.shape)
        constants[b] = random_values(np.random.default_rng(7), shape, b_type)
    else:
        views[b] = view_of(b, b_order, gap=gap)
    name = f"matmul {list(a.shape)} x {list(b.shape)}"
    return Case(
        name, "matmul", (a, b), views, out, view_of(out, out_order, gap=gap), rank - 1,
        epilogue=epilogue, constants=constants, env=env, residual_order=residual_order,
    )  # fmt: skip


def window(
    kernel: Sequence[int],
    *,
    strides: Sequence[int] | None = None,
    dilations: Sequence[int] | None = None,
    pads: tuple[Sequence[int], Sequence[int]] | None = None,
    groups: int = 1,
    count_include_pad: bool = False,
) -> Window:
    rank = len(kernel)
    ones, zeros = (1,) * rank, (0,) * rank
    before, after = pads or (zeros, zeros)
    return Window(
        tuple(kernel), tuple(strides or ones), tuple(dilations or ones), tuple(before), tuple(after), groups,
        count_include_pad,
    )  # fmt: skip


def conv_size(size: Dim, k: int, w: Window) -> Dim:
    extent = w.dilations[k] * (w.kernel[k] - 1) + 1
    return add(floordiv(add(add(size, add(w.pads_before[k], w.pads_after[k])), -extent), w.strides[k]), 1)


def conv(
    x_shape: Sequence[Dim],
    channels: int,
    w: Window,
    *,
    dtype: DType = F32,
    operands: tuple[DType, DType] | None = None,
    epilogue: Epilogue = PLAIN,
    x_order: Sequence[int] | None = None,
    out_order: Sequence[int] | None = None,
    residual_order: Sequence[int] | None = None,
    gap: int = 0,
    offset: int = 0,
    env: Mapping[str, int] | None = None,
) -> Case:
    """A convolution on channels-last views unless orders are given."""
    x_type, w_type = operands or (dtype, dtype)
    x = Tensor(tuple(x_shape), x_type)
    last = channels_last(x.rank)
    weight = tensor(channels, x.shape[1] // w.groups, *w.kernel, dtype=w_type)
    spatial = [conv_size(d, k, w) for k, d in enumerate(x.shape[2:])]
    out = Tensor((x.shape[0], channels, *spatial), dtype)
    values = random_values(np.random.default_rng(7), weight.shape, w_type)
    return Case(
        f"conv {list(x.shape)} -> {channels} {w}", "conv", (x, weight),
        {x: view_of(x, x_order or last, gap=gap, offset=offset)},
        out, view_of(out, out_order or last, gap=gap, offset=offset), 1,
        attrs=w, epilogue=epilogue, constants={weight: values}, env=env or {}, residual_order=residual_order or last,
    )  # fmt: skip


def pool(
    kind: str,
    x_shape: Sequence[Dim],
    w: Window,
    *,
    out_shape: Sequence[Dim] | None = None,
    dtype: DType = F32,
    epilogue: Epilogue = PLAIN,
    x_order: Sequence[int] | None = None,
    out_order: Sequence[int] | None = None,
    gap: int = 0,
    offset: int = 0,
    env: Mapping[str, int] | None = None,
) -> Case:
    """Pooling on channels-last views unless orders are given; `out_shape` where the output is rounded up."""
    x = Tensor(tuple(x_shape), dtype)
    last = channels_last(x.rank)
    spatial = out_shape or [conv_size(d, k, w) for k, d in enumerate(x.shape[2:])]
    out = Tensor((*x.shape[:2], *spatial), dtype)
    return Case(
        f"{kind} {list(x.shape)} {w}", kind, (x,), {x: view_of(x, x_order or last, gap=gap, offset=offset)},
        out, view_of(out, out_order or last, gap=gap, offset=offset), 1,
        attrs=w, epilogue=epilogue, env=env or {}, residual_order=last,
    )  # fmt: skip


def conv_transpose(
    x_shape: Sequence[Dim],
    channels: int,
    w: Window,
    *,
    more: Sequence[int] | None = None,
    dtype: DType = F32,
    epilogue: Epilogue = PLAIN,
    x_order: Sequence[int] | None = None,
    out_order: Sequence[int] | None = None,
    residual_order: Sequence[int] | None = None,
    gap: int = 0,
    offset: int = 0,
    env: Mapping[str, int] | None = None,
) -> Case:
    """A transposed convolution on channels-last views unless orders are given; `more` = output_padding."""
    x = Tensor(tuple(x_shape), dtype)
    last = channels_last(x.rank)
    weight = tensor(x.shape[1], channels // w.groups, *w.kernel, dtype=dtype)
    spatial: list[Dim] = []
    for k, d in enumerate(x.shape[2:]):
        extent = w.dilations[k] * (w.kernel[k] - 1) + 1 + (more[k] if more else 0)
        pads = add(w.pads_before[k], w.pads_after[k])
        spatial.append(add(add(mul(add(d, -1), w.strides[k]), extent), mul(-1, pads)))
    out = Tensor((x.shape[0], channels, *spatial), dtype)
    values = random_values(np.random.default_rng(7), weight.shape, dtype)
    return Case(
        f"conv_transpose {list(x.shape)} -> {channels} {w}", "conv_transpose", (x, weight),
        {x: view_of(x, x_order or last, gap=gap, offset=offset)},
        out, view_of(out, out_order or last, gap=gap, offset=offset), 1,
        attrs=w, epilogue=epilogue, constants={weight: values}, env=env or {}, residual_order=residual_order or last,
    )  # fmt: skip
