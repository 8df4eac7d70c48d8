"""What a kernel is asked to compute, and what it answers with."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol
from weakref import WeakKeyDictionary

import numpy as np

from graphfuse.graph.dims import Dim
from graphfuse.graph.dtypes import F32, I8, I32, NARROW, U8, DType
from graphfuse.ops.expr import Expr, Result, Var
from graphfuse.ops.tensor import Contract, Nest, Tensor, variables
from graphfuse.plan.view import View
from graphfuse.target import Target

# Answers of `ContractionSite.held_by`, and elements that are looked at ahead of all.
_HELD_BY: WeakKeyDictionary[Tensor, DType] = WeakKeyDictionary()
_SAMPLE = 64


@dataclass
class ContractionSite:
    """A contraction with everything that happens to its result while it is still in registers.

    The result's element at index (i0, i1, ...) is `accumulator`; `outputs` gives for each tensor to store its element
    at that same index, as an expression over the accumulator and loads at those variables. `views` holds the place of
    every tensor that is loaded and of every output. Outputs have the contraction's shape. `line_sums` are further
    outputs, whose last axis has size 1: the sums of an element's expression over that axis; a kernel that knows nothing
    of them (`sums_lines`) is not asked.
    """

    contraction: Tensor
    outputs: Sequence[tuple[Tensor, Expr]]
    views: dict[Tensor, View]
    constants: Callable[[Tensor], np.ndarray | None]
    line_sums: Sequence[tuple[Tensor, Expr]] = ()
    sum_block: int = 0  # products that may be added up one after another, 0 for any number: fewer round less
    accumulator: Result = field(init=False)

    def __post_init__(self) -> None:
        self.accumulator = accumulator(self.contraction)

    @property
    def prim(self) -> Contract:
        assert isinstance(self.contraction.prim, Contract)
        return self.contraction.prim

    def held_by(self, t: Tensor) -> DType:
        """The narrowest float type that holds every value of a constant of float32: half precision models' weights."""
        if t not in _HELD_BY:
            value = self.constants(t)
            _HELD_BY[t] = t.dtype if value is None or t.dtype != F32 else _narrowest(value)
        return _HELD_BY[t]

    @property
    def index(self) -> tuple[Var, ...]:
        """The loop variables of the output: i0, i1, ... in logical order."""
        return variables(self.contraction.rank)

    @property
    def narrow(self) -> bool:
        """Whether products of bytes are summed up in 32 bits."""
        return any(a.dtype in (I8, U8) for a in self.prim.args) and self.contraction.dtype == I32

    def view(self, tensor: Tensor) -> View:
        return self.views[tensor]


def _narrowest(value: np.ndarray) -> DType:
    flat = value.reshape(-1)
    for dtype in NARROW:
        kind = dtype.numpy()
        with np.errstate(over="ignore"):
            if all(np.array_equal(v.astype(kind).astype(np.float32), v) for v in (flat[:_SAMPLE], flat)):
                return dtype
    return F32


def accumulator(contraction: Tensor) -> Result:
    """The leaf that stands for the contraction's element in the outputs' expressions."""
    return Result("acc", contraction.dtype)


@dataclass(eq=False)
class Packed:
    """A constant in the arrangement a kernel wants, stored in the artifact's weights.

    `source` is the graph value it is made of and `arrange` how: it is called again when weights change.
    """

    source: Tensor
    arrange: Callable[[np.ndarray], np.ndarray]
    dtype: DType
    key: str  # same source and key = same contents


@dataclass
class KernelCode:
    """A kernel as emitted for one site: C text, and what a call of it needs.

    `source` holds `@NAME@` where the function's name goes; the name is `hint` and a digest of the text, so that
    identical kernels are one function. The function computes rows [r0, r1) and column units [c0, c1).
    """

    hint: str
    source: str
    pointers: list[object]  # View | Packed
    dims: list[Dim]
    rows: Dim
    work: Dim  # simple float operations of the whole call, for the choice of threads
    row_grain: int = 1
    columns: Dim = 1
    column_grain: int = 1
    columns_first: bool = False  # where rows and columns divide as evenly: of the operands weights are the larger
    scratch: Dim = 0  # bytes per thread, 64-byte aligned
    describe: str = ""  # one line for the ledger, e.g. "gemm 14x32 tiles, packed weights"
    parts: tuple[KernelCode, ...] = ()  # kernels whose functions the source calls
    repeat: Dim = 1  # so many calls, each after the one before; unless 1, d[0] is the number of the call

    @property
    def name(self) -> str:
        """The function's name: equal kernels of two sites have the same."""
        safe = re.sub(r"[^A-Za-z0-9_]+", "_", self.hint)[:40].strip("_")
        return f"gf_{safe}_{hashlib.sha256(self.source.encode()).hexdigest()[:8]}"


@dataclass(frozen=True)
class Lines:
    """The rows of a call as lines of images, so that a chain of calls can run strip by strip (`plan/strips.py`).

    A line is all that has the same place along the first spatial axis of the same image: pixels by channels. In a stack
    of matrices it is a row. `axis` is the axis of lines in the result and in the source. The result
    has `height` lines an image, and the call's rows are `rows_per_line` for each of them, or one for `lines_per_row` of
    them (the last of an image for what is left). Line y is made of the lines from y * stride - before on, `extent` of
    them, of `source`, as far as they exist among its `source_height` lines an image.
    """

    source: View
    images: Dim
    height: Dim
    source_height: Dim
    stride: int = 1
    before: Dim = 0
    extent: int = 1
    rows_per_line: Dim = 1
    lines_per_row: int = 1
    axis: int = 2


@dataclass
class NestSite:
    """A loop nest, the results that are wanted by their index, and where they and what it reads live."""

    nest: Nest
    results: dict[int, Tensor]
    views: dict[Tensor, View]
    constants: Callable[[Tensor], np.ndarray | None]


class NestKernel(Protocol):
    """A way to compute a family of loop nests. The code may point to arena buffers of its own making."""

    name: str
    error_class: str

    def accepts(self, site: NestSite, target: Target) -> str | None:
        """None when it can, else the reason why not."""

    def emit(self, site: NestSite, target: Target) -> KernelCode: ...


class Kernel(Protocol):
    """A way to compute a site.

    error_class: "exact", "reassociated" (the same sums in another order) or "winograd". One that has `in_place = True`
    reads each element of an epilogue's operand just before it stores the result's element there, and no other time:
    its result may take the operand's place.
    """

    name: str
    error_class: str

    def accepts(self, site: ContractionSite, target: Target) -> str | None:
        """None when it can, else the reason why not."""

    def cost(self, site: ContractionSite, target: Target) -> float:
        """Predicted time in microseconds on one thread."""

    def lines(self, site: ContractionSite, target: Target) -> Lines | None:
        """What its rows are, None when they are no lines of images."""

    def emit(self, site: ContractionSite, target: Target, any_rows: bool = False) -> KernelCode:
        """The kernel. any_rows: it is called for ranges of rows that keep to no grain."""


SIGNATURE = (
    "GF_KERNEL void @NAME@(void *const *p, const int64_t *d, int64_t r0, int64_t r1, int64_t c0, int64_t c1, "
    "char *scratch)"
)
