"""Rows regions that only move data: runs of elements that lie back to back on both sides are copied whole."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from graphfuse.codegen.access import Access
from graphfuse.codegen.vector import Scope
from graphfuse.codegen.writer import Writer
from graphfuse.fusion.passes import RowProgram
from graphfuse.graph.dims import Dim, add, mul
from graphfuse.graph.dtypes import c_type, item_bytes
from graphfuse.ops.expr import Expr, Load, Var, cost
from graphfuse.ops.tensor import Tensor

# Bytes of a long run that one unit of work covers: as much as pays for waking one more thread.
RUN_BYTES = 65536
# What finding the place of a run and the call cost, in bytes that would be copied meanwhile; further for each
# instruction of an index that comes from data.
RUN_WORK = 64
INDEX_WORK = 16


@dataclass(frozen=True)
class Move:
    """The elements of `value` go to `target`, both in steps of 1 along the lanes."""

    target: Tensor
    value: Load
    to: Access
    source: Access


def moves(
    program: RowProgram, loads: Mapping[Load, Access], stores: Mapping[Tensor, Access], lane: Var | None
) -> list[Move]:
    """The copies that a region consists of, none where it does anything else or a run is no longer than an element."""
    if lane is None or program.axes or program.spills:
        return []
    found: list[Move] = []
    for t, e in (store for p in program.passes for store in p.stores):
        if not isinstance(e, Load) or e.guard is not None or e.dtype != t.dtype:
            return []
        move = Move(t, e, stores[t], loads[e])
        if not move.to.view.dtype == move.source.view.dtype == t.dtype:
            return []
        if move.to.along(lane) != 1 or move.source.along(lane) != 1 or move.source.irregular_in(lane):
            return []
        found.append(move)
    return found


def chunk(found: Sequence[Move]) -> int:
    """Elements of a long run that one unit of work covers."""
    return RUN_BYTES // max(item_bytes(m.target.dtype) for m in found)


def work(found: Sequence[Move], elements: Dim, rows: Dim) -> Dim:
    """The work of all copies, in bytes."""
    moved = sum(item_bytes(m.target.dtype) for m in found)
    indices: list[Expr] = [e for m in found for e, _ in m.source.irregular]
    return add(mul(elements, moved), mul(rows, len(found) * RUN_WORK + INDEX_WORK * sum(map(cost, indices))))


def emit(w: Writer, row: Scope, lane: Var, found: Sequence[Move]) -> None:
    """Copies elements [j0, j1) of a row."""
    scope = row.child({lane: "j0"}, w.section())
    copies = w.section()
    for m in found:
        source = scope.address(m.source, m.value.tensor)
        to = scope.destination(scope.context.views[m.target], m.to)
        if to == source:  # planned to lie where it is
            copies.line(f"(void)({to}), (void)j1;")
            continue
        copies.line(f"memcpy({to}, {source}, (size_t)(j1 - j0) * sizeof({c_type(m.target.dtype)}));")
