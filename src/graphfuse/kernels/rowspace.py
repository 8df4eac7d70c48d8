"""The rows of a matrix product inside a larger index space: which output axes are one flat run, which are outer.

Axes merge when every operand steps through them at one stride, as the pixels of channels-last images do.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from graphfuse.codegen.access import access
from graphfuse.codegen.writer import Writer
from graphfuse.graph.dims import Dim, mul, product, same
from graphfuse.ops.expr import Expr, Load, Var, children, depends_on, loads_of
from graphfuse.plan.site import ContractionSite

from .function import Function

Strides = Mapping[int, Dim]


@dataclass(frozen=True)
class RowSpace:
    """Row axes of the output: `inner` (merged, outermost first) is tiled, `outer` is looped over."""

    sizes: Mapping[int, Dim]
    outer: tuple[int, ...]
    inner: tuple[int, ...]

    @property
    def count(self) -> Dim:
        """Rows of one run."""
        return product(self.sizes[a] for a in self.inner)

    @property
    def total(self) -> Dim:
        return product(self.sizes[a] for a in (*self.outer, *self.inner))

    @property
    def step_axis(self) -> int | None:
        """The axis whose stride is the step from row to row."""
        return self.inner[-1] if self.inner else None

    def row_stride(self, strides: Strides) -> Dim:
        return 0 if self.step_axis is None else strides.get(self.step_axis, 0)

    def variables(self, index: Sequence[Var], row: str) -> dict[Var, str]:
        """Loop variables of the inner axes at a row: the flat number stands for the innermost, the others are 0."""
        bound = {index[a]: "0" for a in self.inner[:-1]}
        if self.step_axis is not None:
            bound[index[self.step_axis]] = row
        return bound

    def decode(self, fn: Function, w: Writer, item: str) -> dict[int, str]:
        """C variables of the outer axes at outer item number `item`."""
        names: dict[int, str] = {}
        for position in reversed(range(len(self.outer))):
            axis = self.outer[position]
            if position == 0:
                names[axis] = w.let("int64_t", item, "i")
                break
            size = fn.dim(self.sizes[axis])
            names[axis] = w.let("int64_t", f"{item} % {size}", "i")
            item = f"{item} / {size}"
        return names


def row_space(site: ContractionSite, axes: Sequence[int], operands: Sequence[Strides]) -> RowSpace:
    """Merges as many of the output's row axes (outermost first) as all operands and epilogue accesses allow."""
    shape = site.contraction.shape
    sizes = {a: shape[a] for a in axes}
    real = [a for a in axes if not (isinstance(shape[a], int) and shape[a] == 1)]
    every = [*operands, *_epilogue_strides(site)]
    fixed = _used_as_values(site)
    # Rows are what shares the second operand: where there is another one for every item, an item is one row.
    inner = [a for a in real[-1:] if all(s.get(a, 0) == 0 for s in operands[1:])]
    run: Dim = sizes[inner[0]] if inner else 1
    while inner and len(inner) < len(real):
        candidate, step = real[-len(inner) - 1], real[-1]
        nested = all(same(s.get(candidate, 0), mul(run, s.get(step, 0))) for s in every)
        if not nested or site.index[candidate] in fixed or site.index[step] in fixed:
            break
        inner = [candidate, *inner]
        run = mul(run, sizes[candidate])
    return RowSpace(sizes, tuple(real[: len(real) - len(inner)]), tuple(inner))


def _epilogue_strides(site: ContractionSite) -> list[Strides]:
    found: list[Strides] = []
    for x in loads_of([e for _, e in site.outputs]):
        acc = access(site.view(x.tensor), x.index)
        found.append({a: acc.stride(v) for a, v in enumerate(site.index)})
    found += [dict(enumerate(site.view(tensor).strides)) for tensor, _ in site.outputs]
    return found


def _used_as_values(site: ContractionSite) -> set[Var]:
    """Loop variables that the epilogue uses for more than an affine address."""
    used: set[Var] = set()
    seen: set[int] = set()

    def visit(e: Expr) -> None:
        if id(e) in seen:
            return
        seen.add(id(e))
        if isinstance(e, Var):
            used.add(e)
        elif isinstance(e, Load):
            acc = access(site.view(e.tensor), e.index)
            parts = [x for x, _ in acc.irregular] + ([] if e.guard is None else [e.guard])
            used.update(v for v in site.index if any(depends_on(x, v) for x in parts))
            if e.fill is not None:
                visit(e.fill)
        else:
            for c in children(e):
                visit(c)

    for _, e in site.outputs:
        visit(e)
    return used
