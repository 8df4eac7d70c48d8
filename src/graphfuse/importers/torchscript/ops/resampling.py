"""Padding, interpolation, sampling on a grid."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from graphfuse.importers.torchscript.builder import Builder
from graphfuse.importers.torchscript.registry import op
from graphfuse.importers.torchscript.values import Tensor, Unspellable


@op("pad")
def pad(b: Builder, self: Tensor, pad: Sequence[Any], mode: str = "constant", value: Any = None) -> Tensor:
    modes = {"constant": "constant", "reflect": "reflect", "replicate": "edge", "circular": "wrap"}
    pairs = [(pad[k], pad[k + 1]) for k in range(0, len(pad), 2)][::-1]  # the last axis comes first
    first = self.rank - len(pairs)
    low, high = [0] * first + [p[0] for p in pairs], [0] * first + [p[1] for p in pairs]
    filling = b.as_tensor(value if value is not None else 0, b.torch_dtype(self)) if mode == "constant" else None
    if b.torch_dtype(self) == torch.bool and mode != "constant":
        raise Unspellable("booleans are padded with constants only")
    y: Tensor = b("Pad", self, b.vector([*low, *high]), filling, mode=modes[mode])
    known = [
        d + lo + hi if all(isinstance(n, int) for n in (d, lo, hi)) else d if (lo, hi) == (0, 0) else None
        for d, lo, hi in zip(self.shape, low, high, strict=True)
    ]
    return b.shaped(y, known)


@op("constant_pad_nd")
def constant_pad_nd(b: Builder, self: Tensor, pad: Sequence[Any], value: Any = 0) -> Tensor:
    return _pad(b, self, pad, "constant", value)


_pad = pad


def _padding(names: Sequence[str], mode: str) -> None:
    @op(*names)
    def spell(b: Builder, self: Tensor, padding: Sequence[Any]) -> Tensor:
        return _pad(b, self, padding, mode)


_padding([f"reflection_pad{k}d" for k in (1, 2, 3)], "reflect")
_padding([f"replication_pad{k}d" for k in (1, 2, 3)], "replicate")


def _resize(
    b: Builder, x: Tensor, output_size: Any, scales: Sequence[Any] | None, align_corners: Any, mode: str, nearest: str
) -> Tensor:
    count = x.rank - 2
    attributes: dict[str, Any] = {"mode": mode, "antialias": 0}
    if mode == "nearest":
        attributes |= {"coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
        if nearest == "exact":
            attributes |= {"coordinate_transformation_mode": "half_pixel", "nearest_mode": "round_prefer_ceil"}
    else:
        how = "align_corners" if align_corners else "half_pixel" if mode == "cubic" else "pytorch_half_pixel"
        attributes["coordinate_transformation_mode"] = how
        if mode == "cubic":
            attributes["cubic_coeff_a"] = -0.75
    if output_size is not None:
        sizes = b.vector([*b.sizes(x)[:2], *output_size])
        y: Tensor = b("Resize", x, None, None, sizes, **attributes)
        return b.shaped(y, [*x.shape[:2], *(d if isinstance(d, int) else None for d in output_size)])
    given = [s for s in (scales or []) if s is not None]
    if len(given) != count or any(isinstance(s, Tensor) for s in given):
        raise Unspellable("a scale that depends on data is not supported")
    if all(isinstance(d, int) for d in x.shape[2:]) and all(float(s).is_integer() for s in given):
        wanted = [int(d or 0) * int(s) for d, s in zip(x.shape[2:], given, strict=True)]
        return _resize(b, x, wanted, None, align_corners, mode, nearest)
    factors = b.const(torch.tensor([1.0, 1.0, *(float(s) for s in given)], dtype=torch.float32))
    return b("Resize", x, None, factors, **attributes)


def _upsample(name: str, mode: str, nearest: str = "") -> None:
    @op(name)
    def spell(
        b: Builder, self: Any = None, output_size: Any = None, align_corners: Any = None, scales: Any = None,
        scales_h: Any = None, scales_w: Any = None, scales_d: Any = None, input: Any = None, scale_factors: Any = None,
    ) -> Tensor:  # fmt: skip
        x = self if self is not None else input
        each = [s for s in (scales, scales_d, scales_h, scales_w) if s is not None]
        return _resize(b, x, output_size, scale_factors or each, align_corners, mode, nearest)


for _count, _linear in ((1, "linear"), (2, "bilinear"), (3, "trilinear")):
    _upsample(f"upsample_{_linear}{_count}d", "linear")
    _upsample(f"upsample_nearest{_count}d", "nearest", "floor")
    _upsample(f"_upsample_nearest_exact{_count}d", "nearest", "exact")
_upsample("upsample_bicubic2d", "cubic")


@op("__interpolate", "interpolate")
def interpolate(
    b: Builder, input: Tensor, size: Any = None, scale_factor: Any = None, mode: str = "nearest",
    align_corners: Any = None, recompute_scale_factor: Any = None, antialias: bool = False,
) -> Tensor:  # fmt: skip
    if antialias:
        raise Unspellable("interpolation with antialiasing is not supported")
    count = input.rank - 2
    sizes = size if size is None or isinstance(size, list) else [size] * count
    scales = scale_factor if scale_factor is None or isinstance(scale_factor, list) else [scale_factor] * count
    kind = "nearest" if mode.startswith("nearest") else "cubic" if mode == "bicubic" else "linear"
    return _resize(b, input, sizes, scales, align_corners, kind, "exact" if mode == "nearest-exact" else "floor")


@op("grid_sampler", "grid_sampler_2d", "grid_sampler_3d")
def grid_sampler(
    b: Builder, input: Tensor, grid: Tensor, interpolation_mode: int, padding_mode: int, align_corners: bool
) -> Tensor:
    mode = ("linear", "nearest", "cubic")[interpolation_mode]
    padding = ("zeros", "border", "reflection")[padding_mode]
    return b("GridSample", input, grid, mode=mode, padding_mode=padding, align_corners=int(align_corners))


@op("affine_grid_generator")
def affine_grid_generator(b: Builder, theta: Tensor, size: Sequence[Any], align_corners: bool) -> Tensor:
    return b("AffineGrid", theta, b.vector(size), align_corners=int(align_corners))
