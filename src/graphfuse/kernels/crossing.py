"""Rows regions that compute with transposed operands.

What is stored runs along the lanes, and an operand across them: squares of it are turned over in registers and laid
down beside, instead of gathering every lane from a row of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from graphfuse.codegen.access import Access
from graphfuse.codegen.params import Params
from graphfuse.codegen.vector import Scope
from graphfuse.codegen.writer import Writer
from graphfuse.fusion.passes import RowProgram
from graphfuse.graph.dtypes import c_type, item_bytes, suffix, vector_type
from graphfuse.ops.expr import Load, Var
from graphfuse.ops.tensor import Tensor

from .moves import TURN_BYTES

# Elements of 4 bytes fill a square with as many registers as a register has lanes.
ITEM = 4


@dataclass(frozen=True)
class Crossing:
    """Operands with unit steps along `across`, in a region whose results have theirs along `lane`."""

    operands: tuple[tuple[Load, Access], ...]
    lane: Var
    across: Var

    def side(self, lanes: int) -> int:
        """The elements along a square that is turned over in registers."""
        return lanes

    @property
    def width(self) -> int:
        """Elements of the other axis that one unit of work computes."""
        return TURN_BYTES // ITEM


def crossing(
    program: RowProgram, loads: Mapping[Load, Access], stores: Mapping[Tensor, Access], lane: Var
) -> Crossing | None:
    """The operands that lie across the lanes; None where there are none, or the region does more than map elements."""
    if program.axes or program.spills or len(program.passes) != 1 or program.passes[0].row_stores:
        return None
    if any(a.along(lane) != 1 or a.lane_step for a in stores.values()):
        return None
    found: dict[Var, list[tuple[Load, Access]]] = {}
    for e, a in loads.items():
        units = [v for v, s in a.strides.items() if s == 1]
        if e.guard is not None or a.lane_step or a.along(lane) in (0, 1) or len(units) != 1:
            continue
        if item_bytes(e.dtype) == ITEM and a.view.dtype == e.dtype and not any(map(a.irregular_in, (lane, units[0]))):
            found.setdefault(units[0], []).append((e, a))
    if not found:
        return None
    across = max(found, key=lambda v: len(found[v]))
    return Crossing(tuple(found[across]), lane, across)


def emit(w: Writer, row: Scope, c: Crossing, params: Params, step: Callable[[Scope], None]) -> None:
    """Elements [j0, j1) along the lanes of a strip of the other axis; step: computes a register's worth."""
    with w.loop("j", "j0", "j1", "GF_W"):
        w.line("const int64_t n = gf_min64(GF_W, j1 - j);")
        with w.block("if (n < GF_W)"):
            with w.loop("i", "strip0", "strip1"):
                step(row.child({c.lane: "j", c.across: "i"}, w.section(), "n"))
            w.line("continue;")
        w.line("int64_t i = strip0;")
        with w.block("for (; i + GF_W <= strip1; i += GF_W)"):
            _square(w, row, c, params, step)
        with w.block("for (; i < strip1; i++)"):
            step(row.child({c.lane: "j", c.across: "i"}, w.section()))


def _square(w: Writer, row: Scope, c: Crossing, params: Params, step: Callable[[Scope], None]) -> None:
    """As many registers as one has lanes, from (i, j) on."""
    corner = row.child({c.lane: "j", c.across: "i"}, w.section())
    turned = []
    for e, a in c.operands:
        turned.append(w.fresh("t"))
        source, wide = corner.address(a, e.tensor), params.dim(a.stride(c.lane))
        w.line(f"{c_type(e.dtype)} {turned[-1]}[GF_W * GF_W];")
        w.line(f"gf_turn_{8 * ITEM}({source}, {wide}, {turned[-1]}, GF_W);")
    with w.loop("k", "0", "GF_W"):
        names = [
            w.let(vector_type(e.dtype), f"gf_load_{suffix(e.dtype)}({name} + k * GF_W)", "x")
            for (e, _), name in zip(c.operands, turned, strict=True)
        ]
        line = row.child({c.lane: "j", c.across: "(i + k)"}, w.section())
        for (e, _), name in zip(c.operands, names, strict=True):
            line.bind(e, name)
        step(line)
