"""Maximum and average pooling: windows over each channel."""

from __future__ import annotations

from graphfuse.codegen.writer import Writer
from graphfuse.graph.dtypes import F32, F64, I8, I16, I32, I64, U8, U16, U32, U64, DType, is_float, suffix, vector_type
from graphfuse.plan.site import ContractionSite, KernelCode, Lines, Packed
from graphfuse.target import Target

from .sliding import Fold, SlidingPlan
from .window import lines_of, refusal

_FLOATS = (F32, F64)
_ORDERED = (*_FLOATS, I8, U8, I16, U16, I32, U32, I64, U64)


class Pool:
    """`pool`: max_pool and average_pool. Padding never wins a maximum; NaN does."""

    name = "pool"
    error_class = "reassociated"
    in_place = True

    def accepts(self, site: ContractionSite, target: Target) -> str | None:
        kind = site.prim.kind
        if kind not in ("max_pool", "average_pool"):
            return f"{kind} is not pooling"
        return refusal(site, kind, _ORDERED if kind == "max_pool" else _FLOATS)

    def cost(self, site: ContractionSite, target: Target) -> float:
        """Microseconds on one thread."""
        return self._plan(site, target).microseconds()

    def lines(self, site: ContractionSite, target: Target) -> Lines | None:
        """Rows are output lines."""
        return lines_of(site)

    def emit(self, site: ContractionSite, target: Target, any_rows: bool = False) -> KernelCode:
        return self._plan(site, target).emit()

    def _plan(self, site: ContractionSite, target: Target) -> SlidingPlan:
        fold: Fold = _Maximum()
        if site.prim.kind == "average_pool":
            fold = _Mean(site.prim.attrs.count_include_pad)
        return SlidingPlan(site, target, lambda plan: fold)


class _Maximum:
    """The largest tap; NaN where one is NaN."""

    name = "max_pool"
    weights: Packed | None = None
    counts = "none"

    def start(self, dtype: DType) -> str:
        return f"gf_splat_{suffix(dtype)}({_lowest(dtype)})"

    def step(self, sum_: str, x: str, weight: str, dtype: DType) -> str:
        return f"{sum_} = gf_max_{suffix(dtype)}({sum_}, {x});"

    def finish(self, w: Writer, sum_: str, taps: str, dtype: DType) -> str:
        return sum_


def _lowest(dtype: DType) -> str:
    if is_float(dtype):
        return "-INFINITY"
    return "0" if suffix(dtype).startswith("u") else f"INT{8 * dtype.numpy().itemsize}_MIN"


class _Mean:
    """The sum of the taps over their number; with `padded` the zeros around the image count too."""

    name = "average_pool"
    weights: Packed | None = None

    def __init__(self, padded: bool) -> None:
        self.counts = "padded" if padded else "inside"

    def start(self, dtype: DType) -> str:
        return "{0}"

    def step(self, sum_: str, x: str, weight: str, dtype: DType) -> str:
        return f"{sum_} += {x};"

    def finish(self, w: Writer, sum_: str, taps: str, dtype: DType) -> str:
        name = suffix(dtype)
        return w.let(vector_type(dtype), f"{sum_} / gf_splat_{name}({taps})", "mean")


KERNEL = Pool()
