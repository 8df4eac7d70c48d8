"""Resampling: Resize where PyTorch computes the same, sampling on grids."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from graphfuse.export.torch.call import Call, Refused, op

_LINEAR = {1: "linear", 2: "bilinear", 3: "trilinear"}


@op("Resize")
def resize(c: Call) -> Any:
    axes, wanted, scales = _targets(c)
    mode, where = c.attr("mode"), c.attr("coordinate_transformation_mode")
    if c.attr("antialias") or c.attr("exclude_outside") or where == "tf_crop_and_resize":
        raise Refused("it is antialiased, crops, or leaves out what lies outside")
    if not axes:
        return c[0]
    if mode != "nearest" and not c.is_float(0):
        raise Refused(f"PyTorch interpolates floating point numbers, not {c.dtype(0)}")
    if mode == "nearest":
        return _nearest(c, axes, wanted, scales)
    n = len(axes)
    if axes != list(range(c.rank(0)))[2:] and axes != list(range(c.rank(0)))[-n:]:
        raise Refused("it resizes axes that are not the last ones")
    if n > c.rank(0) - 2 or (mode == "cubic" and n > 2):
        raise Refused("PyTorch resizes images with two axes in front")
    if where == "half_pixel" or (where == "pytorch_half_pixel" and 1 not in wanted):
        corners = False
    elif where == "align_corners":
        corners = True
    else:
        raise Refused(f"PyTorch has no coordinates {where!r}")
    space = c.rank(0) - 2
    wanted, scales = ([c.size(0, k) for k in range(2, c.rank(0) - n)] + wanted, [1.0] * (space - n) + scales)
    if mode == "cubic" and (space != 2 or c.attr("cubic_coeff_a") != -0.75):
        raise Refused("PyTorch has cubic interpolation of images only, with the coefficient -0.75")
    name = "bicubic" if mode == "cubic" else _LINEAR[space]
    if corners or all(_is_exact(c, k + 2, s, d) for k, (s, d) in enumerate(zip(scales, wanted, strict=True))):
        given = {"size": wanted} if all(isinstance(d, int) for d in wanted) else {"scale_factor": scales}
        return F.interpolate(c[0], mode=name, align_corners=corners, **given)
    return F.interpolate(c[0], mode=name, align_corners=False, scale_factor=scales, recompute_scale_factor=False)


def _is_exact(c: Call, axis: int, scale: float, size: Any) -> bool:
    known = c.shape(0)[axis]
    return float(scale).is_integer() if known is None else bool(known * scale == size)


def _targets(c: Call) -> tuple[list[int], list[Any], list[float]]:
    """The axes that are resized, their new sizes, and the factors."""
    rank, shape = c.rank(0), c.shape(0)
    axes = [int(a) % rank for a in c.attr("axes", list(range(rank)))]
    if c.has(2) and (c.constant(2) is None or c.known(2, "its scales").size):
        given = [float(s) for s in c.known(2, "its scales")]
        scales = dict(zip(axes, given, strict=True))
        sizes: dict[int, Any] = {a: _scaled(shape[a], s) for a, s in scales.items()}
    else:
        if c.attr("keep_aspect_ratio_policy") != "stretch":
            raise Refused("it keeps the ratio of its sides")
        sizes = dict(zip(axes, c.integers(3, "its size"), strict=True))
        scales = {}
        for a, d in sizes.items():
            ours = shape[a]
            if c.same_size(0, a, a):
                scales[a] = 1.0
            elif ours is None or not isinstance(d, int):
                raise Refused("its scale is known only at run time")
            else:
                scales[a] = d / ours
    moved = sorted(a for a in axes if scales[a] != 1.0)
    return moved, [sizes[a] for a in moved], [scales[a] for a in moved]


def _scaled(size: int | None, scale: float) -> int | None:
    return None if size is None else int(size * scale)


def _nearest(c: Call, axes: list[int], wanted: list[Any], scales: list[float]) -> Any:
    where, rounding = c.attr("coordinate_transformation_mode"), c.attr("nearest_mode")
    whole = all(float(s).is_integer() for s in scales)
    floors = (where == "asymmetric" and rounding == "floor") or (
        where in ("half_pixel", "pytorch_half_pixel") and rounding.startswith("round")
    )
    rank = c.rank(0)
    if whole and floors and c.is_float(0) and axes == list(range(rank))[-len(axes) :] and axes[0] >= 2 and rank <= 5:
        factors = [1.0] * (rank - 2 - len(axes)) + scales
        return F.interpolate(c[0], scale_factor=factors, mode="nearest")
    x = c[0]
    for axis, size, scale in zip(axes, wanted, scales, strict=True):
        ours = c.shape(0)[axis]
        if ours is None or not isinstance(size, int):
            raise Refused("it takes the nearest of a size known only at run time, by no whole factor")
        x = torch.index_select(x, axis, c.buffer(_taken(ours, size, scale, where, rounding), f"index{axis}"))
    return x


def _taken(ours: int, size: int, scale: float, where: str, rounding: str) -> np.ndarray[Any, Any]:
    """Which element each of the new ones is."""
    k, scale = np.arange(size, dtype=np.float32), np.float32(scale)  # type: ignore[assignment]
    if where == "asymmetric":
        place = k / scale
    elif where == "align_corners":
        place = k * (ours - 1) / (size - 1) if size > 1 else k * 0
    elif where == "half_pixel_symmetric":
        shift = ours / 2 * (1 - size / (scale * ours))
        place = shift + (k + 0.5) / scale - 0.5
    else:
        place = k * 0 if where == "pytorch_half_pixel" and size == 1 else (k + 0.5) / scale - 0.5
    rounded = {
        "round_prefer_floor": np.ceil(place - 0.5),
        "round_prefer_ceil": np.floor(place + 0.5),
        "floor": np.floor(place),
        "ceil": np.ceil(place),
    }[rounding]
    return np.clip(rounded, 0, ours - 1).astype(np.int64)


@op("GridSample")
def grid_sample(c: Call) -> Any:
    mode = {"linear": "bilinear", "cubic": "bicubic"}.get(c.attr("mode"), c.attr("mode"))
    if not c.is_float(0):
        raise Refused(f"PyTorch samples floating point numbers, not {c.dtype(0)}")
    if c.rank(0) not in (4, 5):
        raise Refused("PyTorch samples images and volumes only")
    corners = bool(c.attr("align_corners"))
    return F.grid_sample(c[0], c[1], mode=mode, padding_mode=c.attr("padding_mode"), align_corners=corners)


@op("AffineGrid")
def affine_grid(c: Call) -> Any:
    return F.affine_grid(c[0], c.integers(1, "its size"), align_corners=bool(c.attr("align_corners")))
