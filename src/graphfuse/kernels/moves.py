"""Rows regions that only move data.

Runs of elements that lie back to back on both sides are copied whole. Where the runs of one side cross those of the
other, as in a transpose, squares of registers are turned over.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from graphfuse.codegen.access import Access
from graphfuse.codegen.params import Params
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
# Bytes of the other axis that one unit of work turns over: whole cache lines of each row that is read, and few rows
# that are written, whose lines may share a set of the cache; and elements of the axis along the lanes.
CACHE_LINE = 64
TURN_BYTES = 128
TURN_LENGTH = 1024


@dataclass(frozen=True)
class Move:
    """The elements of `value` go to `target`, both in steps of 1 along the lanes."""

    target: Tensor
    value: Load
    to: Access
    source: Access


@dataclass(frozen=True)
class Turn:
    """A move whose source has its unit steps along `across`, and its target along `lane`."""

    move: Move
    lane: Var
    across: Var

    def side(self, lanes: int) -> int:
        """The elements along a square that is turned over in registers."""
        return {1: 16, 2: 8, 4: lanes, 8: lanes // 2}[item_bytes(self.move.target.dtype)]

    @property
    def width(self) -> int:
        """Elements of the other axis that one unit of work turns over."""
        item = item_bytes(self.move.target.dtype)
        return max(CACHE_LINE // item, TURN_BYTES // max(item, 4))


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


def turned(
    program: RowProgram, found: Mapping[Load, Access], stores: Mapping[Tensor, Access], lane: Var
) -> Turn | None:
    """The transpose that a region consists of; None where it does anything else."""
    if program.axes or program.spills or len(program.passes) != 1 or len(program.passes[0].stores) != 1:
        return None
    [(target, value)] = program.passes[0].stores
    if program.passes[0].row_stores or not isinstance(value, Load) or value.guard is not None:
        return None
    move = Move(target, value, stores[target], found[value])
    if not move.to.view.dtype == move.source.view.dtype == target.dtype == value.dtype:
        return None
    if move.to.along(lane) != 1 or move.source.along(lane) in (0, 1) or move.to.lane_step or move.source.lane_step:
        return None
    across = [v for v, s in move.source.strides.items() if s == 1 and v != lane]
    if len(across) != 1 or move.to.irregular or any(move.source.irregular_in(v) for v in (lane, across[0])):
        return None
    return Turn(move, lane, across[0])


def emit_turn(w: Writer, row: Scope, turn: Turn, params: Params, lanes: int) -> None:
    """Transposes elements [j0, j1) along the lanes and a strip of the other axis; of cut squares one at a time."""
    move = turn.move
    wide, high = params.dim(move.source.stride(turn.lane)), params.dim(move.to.stride(turn.across))
    side, kind = turn.side(lanes), c_type(move.target.dtype)
    whole = f"j + {side} <= j1 && i + {side} <= strip1"
    with w.loop("j", "j0", "j1", str(side)), w.loop("i", "strip0", "strip1", str(side)):
        scope = row.child({turn.lane: "j", turn.across: "i"}, w.section())
        source, to = w.fresh("from"), w.fresh("to")
        w.line(f"const {kind} *{source} = {scope.address(move.source, move.value.tensor)};")
        w.line(f"{kind} *{to} = {scope.destination(scope.context.views[move.target], move.to)};")
        with w.block(f"if ({whole})"):
            w.line(f"gf_turn_{8 * item_bytes(move.target.dtype)}({source}, {wide}, {to}, {high});")
            w.line("continue;")
        w.line(f"const int64_t height = gf_min64({side}, strip1 - i), width = gf_min64({side}, j1 - j);")
        with w.loop("k", "0", "height"), w.loop("l", "0", "width"):
            w.line(f"{to}[k * {high} + l] = {source}[l * {wide} + k];")
