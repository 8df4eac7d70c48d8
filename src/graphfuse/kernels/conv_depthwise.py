"""Depthwise convolution: every channel has its own window of weights."""

from __future__ import annotations

import numpy as np

from graphfuse.codegen.writer import Writer
from graphfuse.graph.dtypes import DType, is_float, suffix
from graphfuse.plan.site import ContractionSite, KernelCode, Lines, Packed
from graphfuse.target import Target

from .sliding import SlidingPlan
from .tile import panels
from .window import lines_of, refusal


class ConvDepthwise:
    """`conv_depthwise`: groups == channels in == channels out."""

    name = "conv_depthwise"
    error_class = "reassociated"
    sums_lines = True
    in_place = True

    def accepts(self, site: ContractionSite, target: Target) -> str | None:
        if (reason := refusal(site, "conv")) is not None:
            return reason
        groups, channels = site.prim.attrs.groups, (site.prim.args[0].shape[1], site.contraction.shape[1])
        if channels != (groups, groups):
            return f"{groups} groups for {channels[0]} channels in and {channels[1]} out: not one to one"
        return None

    def cost(self, site: ContractionSite, target: Target) -> float:
        """Microseconds on one thread."""
        return self._plan(site, target).microseconds()

    def lines(self, site: ContractionSite, target: Target) -> Lines | None:
        """Rows are output lines."""
        return lines_of(site)

    def emit(self, site: ContractionSite, target: Target, any_rows: bool = False) -> KernelCode:
        return self._plan(site, target).emit()

    def _plan(self, site: ContractionSite, target: Target) -> SlidingPlan:
        return SlidingPlan(site, target, lambda plan: _WeightedSum(plan))


class _WeightedSum:
    """Sum of taps times weights."""

    name = "conv_depthwise"
    counts = "none"

    def __init__(self, plan: SlidingPlan) -> None:
        vectors, lanes = plan.vectors, plan.lanes

        def arrange(w: np.ndarray) -> np.ndarray:
            # (C, 1, taps...) -> panels of (taps, C)
            return panels(w.reshape(w.shape[0], -1).T, vectors, lanes)

        key = f"depthwise panels of {vectors}x{lanes}"
        self.weights = Packed(plan.site.prim.args[1], arrange, plan.dtype, key)

    def start(self, dtype: DType) -> str:
        return "{0}"

    def step(self, sum_: str, x: str, weight: str, dtype: DType) -> str:
        if is_float(dtype):
            return f"{sum_} += {x} * {weight};"
        return f"{sum_} = gf_add_{suffix(dtype)}({sum_}, gf_mul_{suffix(dtype)}({x}, {weight}));"

    def finish(self, w: Writer, sum_: str, taps: str, dtype: DType) -> str:
        return sum_


KERNEL = ConvDepthwise()
