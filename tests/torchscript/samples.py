"""Programs of one or few operators: name -> (program, shapes of its inputs, their element types)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F

T = torch.Tensor


@dataclass(frozen=True)
class Sample:
    """open: whether it is also read with no size known; scale: inputs are multiplied by it, then shift is added."""

    program: Callable[..., Any]
    shapes: tuple[tuple[int, ...], ...]
    dtypes: tuple[str, ...]
    open: bool = True
    scale: float = 1.0
    shift: float = 0.0


SAMPLES: dict[str, Sample] = {}


def sample(name: str, program: Callable[..., Any], *shapes: tuple[int, ...], dtypes: str = "", **options: Any) -> None:
    kinds = tuple(dtypes.split()) if dtypes else ("float32",) * len(shapes)
    SAMPLES[name] = Sample(program, shapes, kinds, **options)


# ---------------------------------------------------------------- arithmetic
for _name, _run in {
    "add": lambda x, y: x + y,
    "add_alpha": lambda x, y: torch.add(x, y, alpha=2.5),
    "sub": lambda x, y: x - y,
    "rsub": lambda x, y: 3 - x * y,
    "mul": lambda x, y: x * y,
    "div": lambda x, y: x / y,
    "maximum": torch.maximum,
    "minimum": torch.minimum,
    "atan2": torch.atan2,
    "hypot": torch.hypot,
    "logaddexp": torch.logaddexp,
    "lerp": lambda x, y: torch.lerp(x, y, 0.3),
    "remainder": torch.remainder,
    "fmod": torch.fmod,
    "floor_divide": lambda x, y: torch.floor_divide(x, y),
    "div_trunc": lambda x, y: torch.div(x, y, rounding_mode="trunc"),
    "max_other": torch.max,
    "min_other": torch.min,
    "where": lambda x, y: torch.where(x > y, x, y),
    "where_scalar": lambda x, y: torch.where(x > y, x, 0.5),
    "addcmul": lambda x, y: torch.addcmul(x, y, y, value=0.5),
    "addcdiv": lambda x, y: torch.addcdiv(x, y, y.abs() + 1),
    "masked_fill": lambda x, y: x.masked_fill(y > 0, -1.0),
    "isclose_parts": lambda x, y: (x - y).abs() < 0.1,
    "compare": lambda x, y: ((x > y) & (x >= y) | (x < y)) ^ (x <= y),
    "equalities": lambda x, y: ((x == y), (x != y)),
    "clamp_tensors": lambda x, y: torch.clamp(x, y - 1, y + 1),
}.items():
    sample(_name, _run, (3, 5, 7), (5, 1))
for _name, _run in {
    "int_div": lambda x, y: x / (y.abs() + 1),
    "int_floordiv": lambda x, y: x // (y.abs() + 1),
    "int_remainder": lambda x, y: torch.remainder(x, -(y.abs() + 1)),
    "int_add_float": lambda x, y: x + 0.5 * y,
    "int_trunc": lambda x, y: torch.div(x, y.abs() + 1, rounding_mode="trunc"),
    "bits": lambda x, y: (x & y) | (x ^ y),
    "bit_not": lambda x, y: ~x + y,
    "int_pow": lambda x, y: x**2 + y,
    "int_clamp": lambda x, y: x.clamp(-1, 1) + y,
    "int_sum": lambda x, y: (x + y).sum(1),
    "int_float32": lambda x, y: x.to(torch.float32) * y,
}.items():
    sample(_name, _run, (4, 5), (5,), dtypes="int64 int64")
sample("int32_sum", lambda x: (x.sum(), x.mean(dtype=torch.float32), x.prod(-1)), (4, 5), dtypes="int32")
sample("bools", lambda x, y: (x & y, x | ~y, x ^ y, x.any(1), y.all(), x + y, x * y), (4, 5), (5,), dtypes="bool bool")
sample("mixed", lambda x, y: x * y + 1, (4, 5), (5,), dtypes="float32 int64")
sample("half", lambda x: (x * 2).to(torch.float32), (4, 5), dtypes="float16")
sample("float64", lambda x: torch.exp(x) * 0.1, (4, 5), dtypes="float64")
sample("zero_dim", lambda x, y: x.double() * y, (4, 5), (), dtypes="float32 float32")

for _name, _run in {
    "abs": torch.abs,
    "neg": torch.neg,
    "sign": torch.sign,
    "square": torch.square,
    "exp": torch.exp,
    "exp2": torch.exp2,
    "expm1": torch.expm1,
    "sin": torch.sin,
    "cos": torch.cos,
    "tan": torch.tan,
    "atan": torch.atan,
    "sinh": torch.sinh,
    "cosh": torch.cosh,
    "asinh": torch.asinh,
    "tanh": torch.tanh,
    "sigmoid": torch.sigmoid,
    "erf": torch.erf,
    "erfc": torch.erfc,
    "floor": torch.floor,
    "ceil": torch.ceil,
    "round": torch.round,
    "trunc": torch.trunc,
    "frac": torch.frac,
    "round_2": lambda x: torch.round(x, decimals=2),
    "reciprocal": torch.reciprocal,
    "pow": lambda x: x.abs() ** 1.5,
    "scalar_pow": lambda x: 2.0**x,
    "clamp": lambda x: x.clamp(-0.5, 0.5),
    "clamp_min": lambda x: x.clamp(min=0.1),
    "isnan": lambda x: torch.isnan(x / x.round()),
    "isinf": lambda x: torch.isinf(1 / x.round()),
    "isfinite": lambda x: torch.isfinite(1 / x.round()),
    "nan_to_num": lambda x: torch.nan_to_num(x / x.round(), 7.0, 8.0, -8.0),
    "logical": lambda x: torch.logical_not(x > 0),
    "logical_and": lambda x: torch.logical_and(x, x > 0) | torch.logical_or(x > 1, x < -1),
    "inplace": lambda x: (x * 1).add_(1).mul_(2).clamp_(-1, 1),
    "true_div_int": lambda x: x / 3,
}.items():
    sample(_name, _run, (3, 7))
for _name, _run in {
    "log": torch.log,
    "log2": torch.log2,
    "log10": torch.log10,
    "log1p": torch.log1p,
    "sqrt": torch.sqrt,
    "rsqrt": torch.rsqrt,
    "acosh": lambda x: torch.acosh(x + 1),
    "logit": lambda x: torch.logit(x / 100, 1e-6),
    "asin": lambda x: torch.asin(x / 100),
    "acos": lambda x: torch.acos(x / 100),
    "atanh": lambda x: torch.atanh(x / 100),
}.items():
    sample(_name, _run, (3, 7), scale=0.2, shift=2.0)

# ---------------------------------------------------------------- activations
for _name, _run in {
    "relu": F.relu,
    "relu6": F.relu6,
    "hardtanh": F.hardtanh,
    "hardsigmoid": F.hardsigmoid,
    "hardswish": F.hardswish,
    "silu": F.silu,
    "gelu": F.gelu,
    "gelu_tanh": lambda x: F.gelu(x, approximate="tanh"),
    "mish": F.mish,
    "leaky_relu": F.leaky_relu,
    "elu": F.elu,
    "celu": lambda x: F.celu(x, 0.7),
    "selu": F.selu,
    "softplus": F.softplus,
    "softplus_beta": lambda x: F.softplus(x, 2.0, 1.0),
    "logsigmoid": F.logsigmoid,
    "softsign": F.softsign,
    "tanhshrink": F.tanhshrink,
    "hardshrink": F.hardshrink,
    "softshrink": F.softshrink,
    "glu": lambda x: F.glu(x, 1),
    "threshold": lambda x: F.threshold(x, 0.1, 0.7),
    "softmax": lambda x: F.softmax(x, 1),
    "softmax_double": lambda x: F.softmax(x, 0, dtype=torch.float64),
    "log_softmax": lambda x: F.log_softmax(x, -1),
    "dropout": lambda x: F.dropout(x, 0.5, False),
    "rrelu": lambda x: F.rrelu(x, training=False),
    "prelu": lambda x: F.prelu(x, torch.tensor([0.1, 0.2, 0.3, 0.4])),
    "relu_": lambda x: F.relu_(x + 0.1),
}.items():
    sample(_name, _run, (3, 4, 5))

# ---------------------------------------------------------------- shapes
for _name, _run in {
    "view": lambda x: x.view(3, -1),
    "reshape": lambda x: x.reshape(-1, 2, 5),
    "flatten": torch.flatten,
    "flatten_1": lambda x: x.flatten(1),
    "flatten_01": lambda x: x.flatten(0, 1),
    "unflatten": lambda x: x.unflatten(1, (2, 2)),
    "transpose": lambda x: x.transpose(0, -1),
    "permute": lambda x: x.permute(2, 0, 1),
    "t": lambda x: x[0].t(),
    "unsqueeze": lambda x: x.unsqueeze(1).unsqueeze(-1),
    "squeeze": lambda x: x.unsqueeze(1).squeeze(1),
    "expand": lambda x: x.unsqueeze(1).expand(-1, 2, -1, -1),
    "expand_as": lambda x: x[:1].expand_as(x),
    "repeat": lambda x: x.repeat(2, 1, 1, 2),
    "tile": lambda x: torch.tile(x, (2,)),
    "movedim": lambda x: x.movedim(0, 2),
    "flip": lambda x: x.flip([0, 2]),
    "roll": lambda x: x.roll(2, 1),
    "roll_all": lambda x: x.roll(3),
    "triu": lambda x: x.triu(1),
    "tril": lambda x: torch.tril(x, -1),
    "contiguous": lambda x: x.transpose(0, 1).contiguous(),
    "repeat_interleave": lambda x: x.repeat_interleave(3, 1),
    "clone": lambda x: x.clone() + x.detach(),
    "cat": lambda x: torch.cat([x, x * 2, x], 1),
    "stack": lambda x: torch.stack([x, x * 2], -1),
    "hstack": lambda x: torch.hstack([x, x]),
    "vstack": lambda x: torch.vstack([x[0], x[1]]),
    "cat_types": lambda x: torch.cat([x, torch.ones_like(x, dtype=torch.int64)]),
    "swapaxes": lambda x: x.swapaxes(0, 1),
    "sizes": lambda x: x.view(x.size(0), x.size(1) * x.size(2)) * x.size(1),
    "numel": lambda x: x.sum() / x.numel(),
    "new_zeros": lambda x: x + x.new_zeros(x.shape),
    "ones_like": lambda x: torch.ones_like(x) + torch.zeros_like(x),
    "full": lambda x: x + torch.full((x.size(0), 1, 1), 2.5),
    "full_like": lambda x: torch.full_like(x, 3, dtype=torch.int64),
    "arange_size": lambda x: x + torch.arange(x.size(2)),
    "arange_float": lambda x: x + torch.arange(0.5, 5.5, 1.0),
    "linspace": lambda x: x + torch.linspace(0, 1, 5),
    "eye": lambda x: x @ torch.eye(5),
    "type_as": lambda x: x.long().type_as(x),
    "to": lambda x: (x.to(torch.int32), x.double(), x.bool(), x.half()),
    "scalar_tensor": lambda x: x * torch.tensor(2.0),
    "broadcast": lambda x: torch.broadcast_tensors(x, x[:1, :, :1]),
}.items():
    sample(_name, _run, (3, 4, 5))
sample("squeeze_known", lambda x: (x.squeeze(), x.squeeze(0), x.squeeze(2)), (1, 3, 1, 4), open=False)
sample("meshgrid", lambda x, y: torch.meshgrid(x, y, indexing="ij"), (3,), (4,))
sample("meshgrid_xy", lambda x, y: torch.meshgrid(x, y, indexing="xy"), (3,), (4,))
sample("pixel_shuffle", lambda x: F.pixel_shuffle(x, 2), (2, 8, 3, 5))
sample("pixel_unshuffle", lambda x: F.pixel_unshuffle(x, 2), (2, 3, 6, 4), open=False)
sample("channel_shuffle", lambda x: torch.channel_shuffle(x, 2), (2, 6, 3, 5), open=False)
sample("diagonal", lambda x: x.diagonal(dim1=1, dim2=2), (2, 3, 3), open=False)

# ---------------------------------------------------------------- parts
for _name, _run in {
    "select": lambda x: x[1] + x[:, 2].sum() + x.select(2, -1).mean(),
    "slice": lambda x: x[:, 1:3, ::2],
    "slice_end": lambda x: x[..., :-1],
    "slice_start": lambda x: x[-2:],
    "narrow": lambda x: x.narrow(1, 1, 2),
    "gather": lambda x: x.gather(1, x.argsort(1)),
    "index_select": lambda x: x.index_select(1, torch.tensor([2, 0, 1])),
    "index": lambda x: x[torch.tensor([[0, 2], [1, -1]])],
    "index_two": lambda x: x[torch.tensor([0, 2]), torch.tensor([1, 3])],
    "index_apart": lambda x: x[torch.tensor([0, 2]), :, torch.tensor([1, 3])],
    "index_inner": lambda x: x[:, torch.tensor([0, 2]), torch.tensor([1, 3])],
    "index_broadcast": lambda x: x[torch.tensor([[0], [2]]), torch.tensor([1, 3])],
    "mask": lambda x: x[x > 0],
    "masked_select": lambda x: x.masked_select(x > 0),
    "nonzero": lambda x: torch.nonzero(x > 0),
    "mask_rows": lambda x: x[x.sum(2) > 0],
    "topk": lambda x: x.topk(2, 1),
    "sort": lambda x: x.sort(1, descending=True),
    "argsort": lambda x: x.argsort(2),
    "argmax": lambda x: (x.argmax(), x.argmax(1), x.argmin(-1, keepdim=True)),
    "max_dim": lambda x: (*x.max(1), *x.min(2, keepdim=True)),
    "amax": lambda x: (x.amax((0, 1)), x.amin(2)),
    "cumsum": lambda x: x.cumsum(1),
    "take": lambda x: x.take(torch.tensor([0, 7, 3])),
    "index_fill": lambda x: x.index_fill(1, torch.tensor([0, 2]), 7.0),
    "index_copy": lambda x: x.index_copy(1, torch.tensor([0, 2]), x[:, :2] * 5),
    "index_add": lambda x: x.index_add(1, torch.tensor([0, 2]), x[:, :2]),
    "scatter": lambda x: torch.zeros(3, 4, 5).scatter(2, x.argsort(2), x),
    "scatter_value": lambda x: x.scatter(2, torch.tensor([[[0, 1]]]), 9.0),
    "scatter_add": lambda x: x.scatter_add(0, torch.zeros(3, 4, 5, dtype=torch.int64), x),
    "masked_scatter": lambda x: x.masked_scatter(x > 0, torch.arange(60.0)),
    "isin": lambda x: torch.isin(x.round().long(), torch.tensor([0, 1])),
    "norm": lambda x: (x.norm(), x.norm(1, dim=1), torch.linalg.vector_norm(x, dim=2), x.norm(3.0, dim=0)),
    "var": lambda x: (x.var(), x.std(1), x.var(dim=(0, 2), unbiased=False, keepdim=True)),
    "var_mean": lambda x: torch.var_mean(x, 1),
    "logsumexp": lambda x: x.logsumexp(1),
    "prod": lambda x: x.prod(1),
    "sums": lambda x: (x.sum(), x.sum(1), x.sum((0, 2), keepdim=True), x.mean(), x.mean(-1)),
    "diff": lambda x: x.diff(),
    "count_nonzero": lambda x: torch.count_nonzero(x > 0, 1),
    "median": lambda x: x[0, 0].median(),
    "cosine": lambda x: F.cosine_similarity(x, x + 1, 1),
    "normalize": lambda x: F.normalize(x, dim=1),
    "cross": lambda x: torch.linalg.cross(x[:, :3], x[:, 1:], dim=1),
    "take_along": lambda x: torch.take_along_dim(x, x.argsort(1), 1),
    "writes_slice": lambda x: _write(x, lambda y: y[:, 1:3].zero_()),
    "writes_select": lambda x: _write(x, lambda y: y[1].add_(1)),
    "writes_strided": lambda x: _write(x, lambda y: y[:, :, ::2].mul_(3)),
    "writes_nested": lambda x: _write(x, lambda y: y[0].t()[1:3].fill_(4.0)),
    "writes_copy": lambda x: _write(x, lambda y: y[:, 0].copy_(y[:, 1] * 2)),
    "writes_index": lambda x: _write(x, lambda y: y.__setitem__(torch.tensor([0, 2]), -1.0)),
    "writes_mask": lambda x: _write(x, lambda y: y.__setitem__(y > 0, 0.0)),
    "writes_view": lambda x: _write(x, lambda y: y.view(12, 5)[3].add_(10)),
    "reads_view": lambda x: _view_first(x),
}.items():
    sample(_name, _run, (3, 4, 5), open=_name not in ("median", "take"))
sample("masks_put", lambda x, m: _write(x, lambda y: y.__setitem__(m, 2.0)), (3, 4), (3,), dtypes="float32 bool")
sample("split", lambda x: x.split(2, 1), (3, 5, 4), open=False)
sample("split_sizes", lambda x: x.split([1, 3], 1), (3, 4, 5))
sample("chunk", lambda x: x.chunk(2, 1), (3, 5, 4))
sample("unbind", lambda x: x.unbind(1), (3, 4, 5), open=False)
sample("unfold", lambda x: x.unfold(1, 3, 2), (3, 8, 5), open=False)
sample("im2col", lambda x: F.unfold(x, (3, 2), padding=1, stride=2), (2, 3, 7, 6), open=False)
sample("cumprod", lambda x: x.cumprod(1), (3, 4), open=False)
sample("one_hot", lambda x: F.one_hot(x.abs(), 5), (3, 4), dtypes="int64")
sample("embedding", lambda x: F.embedding(x.abs(), torch.arange(24.0).reshape(6, 4)), (3, 4), dtypes="int64")


def _write(x: T, change: Callable[[T], Any]) -> T:
    y = x * 1
    change(y)
    return y + 0


def _view_first(x: T) -> tuple[T, T]:
    """A view that was made before its base is written to."""
    y = x * 1
    shown = y[:, 1].unsqueeze(0)
    y.mul_(2)
    return shown + 0, y


# ---------------------------------------------------------------- products
sample("matmul", lambda x, y: x @ y, (2, 3, 4), (4, 5))
sample("mm", torch.mm, (3, 4), (4, 5))
sample("bmm", torch.bmm, (2, 3, 4), (2, 4, 5))
sample("mv", torch.mv, (3, 4), (4,))
sample("dot", torch.dot, (4,), (4,))
sample("outer", torch.outer, (3,), (4,))
sample("addmm", lambda b, x, y: torch.addmm(b, x, y, beta=0.5, alpha=2), (5,), (3, 4), (4, 5))
sample("baddbmm", lambda b, x, y: torch.baddbmm(b, x, y), (2, 3, 5), (2, 3, 4), (2, 4, 5))
sample("linear", F.linear, (2, 3, 4), (5, 4), (5,))
sample("linear_2d", F.linear, (3, 4), (5, 4), (5,))
sample("linear_no_bias", lambda x, w: F.linear(x, w), (2, 3, 4), (5, 4))
sample("einsum", lambda x, y: torch.einsum("bij, bjk -> bik", x, y), (2, 3, 4), (2, 4, 5))
sample("tensordot", lambda x, y: torch.tensordot(x, y, ([1, 2], [0, 1])), (2, 3, 4), (3, 4, 5))
sample("bilinear", F.bilinear, (3, 4), (3, 5), (6, 4, 5), (6,))
sample("attention", F.scaled_dot_product_attention, (2, 3, 5, 4), (2, 3, 7, 4), (2, 3, 7, 6))
sample("attention_causal", lambda q, k, v: F.scaled_dot_product_attention(q, k, v, is_causal=True),
       (2, 3, 5, 4), (2, 3, 5, 4), (2, 3, 5, 4))  # fmt: skip
sample("attention_mask", lambda q, k, m: F.scaled_dot_product_attention(q, k, k, m > 0, scale=0.3),
       (2, 3, 5, 4), (2, 3, 7, 4), (5, 7), shift=0.5)  # fmt: skip

# ---------------------------------------------------------------- windows
sample("conv1d", lambda x, w, b: F.conv1d(x, w, b, padding=2, dilation=2), (2, 3, 17), (5, 3, 3), (5,))
sample("conv2d", lambda x, w, b: F.conv2d(x, w, b, (2, 1), 1), (2, 4, 9, 7), (6, 4, 3, 3), (6,))
sample("conv2d_same", lambda x, w: F.conv2d(x, w, padding="same"), (2, 4, 9, 7), (6, 4, 3, 2), open=False)
sample("conv2d_groups", lambda x, w: F.conv2d(x, w, groups=2), (2, 4, 9, 7), (6, 2, 3, 3))
sample("conv2d_unbatched", lambda x, w: F.conv2d(x, w), (4, 9, 7), (6, 4, 3, 3))
sample("conv3d", lambda x, w: F.conv3d(x, w), (1, 2, 5, 5, 5), (3, 2, 3, 3, 3))
sample("conv_transpose1d", lambda x, w: F.conv_transpose1d(x, w, stride=2), (2, 3, 9), (3, 4, 3), open=False)
sample(
    "conv_transpose2d",
    lambda x, w, b: F.conv_transpose2d(x, w, b, 2, 1, 1),
    (2, 3, 5, 4),
    (3, 4, 3, 3),
    (4,),
    open=False,
)
for _name, _run in {
    "max_pool": lambda x: F.max_pool2d(x, 3, 2, 1),
    "avg_pool": lambda x: F.avg_pool2d(x, 3, 2, 1),
    "avg_pool_no_pad": lambda x: F.avg_pool2d(x, 2, 2, 1, count_include_pad=False),
    "max_pool_ceil": lambda x: F.max_pool2d(x, 2, ceil_mode=True),
    "adaptive_1": lambda x: F.adaptive_avg_pool2d(x, 1),
    "adaptive_max_1": lambda x: F.adaptive_max_pool2d(x, 1),
    "upsample_nearest": lambda x: F.interpolate(x, scale_factor=2.0),
    "upsample_nearest_size": lambda x: F.interpolate(x, size=(5, 13)),
    "upsample_bilinear": lambda x: F.interpolate(x, size=(11, 5), mode="bilinear"),
    "upsample_corners": lambda x: F.interpolate(x, scale_factor=2.0, mode="bilinear", align_corners=True),
    "upsample_bicubic": lambda x: F.interpolate(x, size=(11, 12), mode="bicubic"),
    "upsample_exact": lambda x: F.interpolate(x, size=(5, 13), mode="nearest-exact"),
    "pad": lambda x: F.pad(x, (1, 2, 0, 3), value=0.5),
    "pad_negative": lambda x: F.pad(x, (-1, -1)),
    "pad_reflect": lambda x: F.pad(x, (2, 1, 1, 0), "reflect"),
    "pad_replicate": lambda x: F.pad(x, (2, 1, 1, 0), "replicate"),
    "pad_circular": lambda x: F.pad(x, (2, 1, 1, 0), "circular"),
    "instance_norm": F.instance_norm,
    "group_norm": lambda x: F.group_norm(x, 2),
    "lrn": lambda x: F.local_response_norm(x, 3),
}.items():
    sample(_name, _run, (2, 4, 7, 9), open=_name not in ("instance_norm", "group_norm", "pad_circular"))
sample("adaptive_even", lambda x: F.adaptive_avg_pool2d(x, (2, 3)), (2, 4, 6, 9), open=False)
sample("adaptive_odd", lambda x: F.adaptive_avg_pool2d(x, (3, 4)), (2, 4, 7, 9), open=False)
sample("adaptive_max", lambda x: F.adaptive_max_pool2d(x, (3, 4)), (2, 4, 7, 9), open=False)
sample("adaptive_1d", lambda x: F.adaptive_avg_pool1d(x, 3), (2, 4, 7), open=False)
sample("pool_1d", lambda x: (F.max_pool1d(x, 2), F.avg_pool1d(x, 3, 2)), (2, 4, 9))
sample("pool_3d", lambda x: (F.max_pool3d(x, 2), F.avg_pool3d(x, 2)), (1, 2, 4, 6, 5))
sample("upsample_1d", lambda x: (F.interpolate(x, 7, mode="linear"), F.interpolate(x, scale_factor=3)), (2, 3, 5))
sample("upsample_3d", lambda x: F.interpolate(x, scale_factor=2, mode="trilinear"), (1, 2, 3, 4, 3))
sample("grid_sample", lambda x, g: F.grid_sample(x, g.tanh(), align_corners=False), (2, 3, 5, 6), (2, 4, 3, 2))
sample("affine_grid", lambda t: F.affine_grid(t, [2, 3, 4, 5], align_corners=False), (2, 2, 3), open=False)
sample("layer_norm", lambda x, w, b: F.layer_norm(x, (5,), w, b), (2, 3, 5), (5,), (5,))
sample("layer_norm_plain", lambda x: F.layer_norm(x, (3, 5)), (2, 3, 5))
sample("rms_norm", lambda x, w: F.rms_norm(x, (5,), w, 1e-5), (2, 3, 5), (5,))
sample("batch_norm", lambda x, m, w: F.batch_norm(x, m, m.abs() + 1, w, w), (2, 3, 4, 5), (3,), (3,))
sample("batch_norm_plain", lambda x, m: F.batch_norm(x, m, m.abs() + 1), (2, 3, 4), (3,), open=False)
