"""The register tile shared by the contractions: MR rows by NV vectors of accumulators, fed by broadcast times vector.

Every accumulator is one chain of multiply-adds over k in ascending order, so an element has the same bits whatever tile
it falls into.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from graphfuse.codegen.access import access
from graphfuse.codegen.vector import Scope
from graphfuse.codegen.writer import Writer
from graphfuse.graph.dims import Dim, estimate
from graphfuse.graph.dtypes import DType, is_float, item_bytes, suffix, vector_type
from graphfuse.ops.expr import Var, cost
from graphfuse.plan.site import ContractionSite
from graphfuse.target import Target

# Above this many vector instructions the epilogue of a tile is a loop over its rows and not straight-line code.
_INLINE_EPILOGUE = 320


@dataclass(frozen=True)
class Tile:
    """Accumulators held in registers: `rows` by `vectors`."""

    rows: int
    vectors: int


def registers_per_vector(target: Target, dtype: DType) -> int:
    """Machine registers that one vector takes: every dtype has as many lanes as float32."""
    return max(1, item_bytes(dtype) // 4)


def fits(tile: Tile, target: Target, dtype: DType) -> bool:
    """Whether accumulators, one row of B and what multiplies them stay in registers."""
    # Without fused multiply-add the product needs a place besides the broadcast element of A.
    extra = 1 if target.lanes > 4 else 2
    need = tile.rows * tile.vectors + tile.vectors + extra
    return need * registers_per_vector(target, dtype) <= max(
        target.vector_registers, 4 * registers_per_vector(target, dtype)
    )


def step_cycles(tile: Tile) -> float:
    """Cycles of one k step: two multiply-adds and two loads a cycle, four cycles until a sum can be added to again."""
    return max(tile.rows * tile.vectors / 2, 0.54 * (tile.rows + tile.vectors), 4.0)


def choose_tile(
    target: Target, dtype: DType, rows: Dim, vectors: Dim, *, most_rows: int = 32, wide_k: bool = False
) -> Tile:
    """The tile that wastes least on `rows` by `vectors`; an unknown number of rows counts as its estimate and as many.

    `wide_k`: a vector's column of B is so long that panels come from L2 and not from L1.
    """
    m = estimate(rows)
    n = vectors if isinstance(vectors, int) else 1000 * estimate(vectors)
    best: tuple[float, Tile] | None = None
    for v in range(1, min(8, n) + 1):
        for r in range(1, (min(most_rows, m) if isinstance(rows, int) else most_rows) + 1):
            tile = Tile(r, v)
            if not fits(tile, target, dtype):
                continue
            total = _total_cycles(tile, m, n, wide_k)
            if not isinstance(rows, int):
                total += _total_cycles(tile, 1000 * m, n, wide_k) / 1000
            if best is None or total < best[0] * 0.999:
                best = (total, tile)
    assert best is not None
    return best[1]


def _total_cycles(tile: Tile, m: int, n: int, wide_k: bool) -> float:
    row_parts = [(m // tile.rows, tile.rows), (1, m % tile.rows)]
    column_parts = [(n // tile.vectors, tile.vectors), (1, n % tile.vectors)]
    total = 0.0
    for row_count, r in row_parts:
        for column_count, v in column_parts:
            if r and v:
                # B comes from L2 when its panel is larger than L1: about 24 bytes, 3/8 of a vector, a cycle
                streamed = v * (8 / 3) if wide_k else 0.0
                total += row_count * column_count * (max(step_cycles(Tile(r, v)), streamed) + 0.25)
    return total


def with_weights(products: float, weight_bytes: float) -> float:
    """Microseconds on one of two threads, for products that take so many, when the weights come from memory.

    In a network the weights were last used a run ago. What memory feeds is shared, and most of it is hidden behind the
    products.
    """
    streamed = 2 * weight_bytes / 23e3
    return float((products**4 + streamed**4) ** 0.25)


def row_variants(rows: Dim, tile_rows: int, any_rows: bool = False) -> list[int]:
    """The tile heights to emit, largest first; together they cover every range that starts at a multiple of
    `tile_rows` and ends at one or at `rows`, or with `any_rows` every range.
    """
    tails = {estimate(rows) % tile_rows} - {0}
    if isinstance(rows, int) and not any_rows:
        return ([tile_rows] if rows >= tile_rows else []) + list(tails)
    halves = [tile_rows >> k for k in range(tile_rows.bit_length())]
    return sorted({*halves, *tails}, reverse=True)


# ---------------------------------------------------------------- arithmetic


def declare_accumulators(w: Writer, tile: Tile, dtype: DType) -> None:
    for m in range(tile.rows):
        names = ", ".join(f"c{m}_{v} = {{0}}" for v in range(tile.vectors))
        w.line(f"{vector_type(dtype)} {names};")


def multiply_add(
    w: Writer,
    tile: Tile,
    dtype: DType,
    a: Callable[[int], str],
    b: str,
    lanes: int,
    first: int = 0,
    stored: DType | None = None,
    tail: int | str = 0,
) -> None:
    """One k step: c[m][first + v] += a(m) * b[v], `a` the scalar's C text and `b` a pointer to `vectors` vectors.

    stored: the type of `b` in memory where it is another; tail: elements of the last vector that exist, 0 for all.
    """
    name, vector = suffix(dtype), vector_type(dtype)
    for v in range(tile.vectors):
        place = b if v == 0 else f"{b} + {v * lanes}"
        kind, part = ("_part", f", {tail}") if tail and v == tile.vectors - 1 else ("", "")
        w.line(f"const {vector} w{v} = gf_load{kind}_{suffix(stored or dtype)}({place}{part});")
    for m in range(tile.rows):
        sums = []
        for v in range(tile.vectors):
            c = f"c{m}_{first + v}"
            sums.append(
                f"{c} += s * w{v};" if is_float(dtype) else f"{c} = gf_add_{name}({c}, gf_mul_{name}(s, w{v}));"
            )
        w.line(f"{{ const {vector} s = gf_splat_{name}({a(m)}); {' '.join(sums)} }}")


def declare_totals(w: Writer, tile: Tile, dtype: DType) -> None:
    """Memory for sums that are made of blocks (`ContractionSite.sum_block`), each summed up in registers."""
    w.line(f"{vector_type(dtype)} totals[{tile.rows * tile.vectors}] = {{{{0}}}};")


def add_to_totals(w: Writer, tile: Tile, dtype: DType) -> None:
    """The end of a block."""
    for m in range(tile.rows):
        for v in range(tile.vectors):
            total = f"totals[{m * tile.vectors + v}]"
            w.line(f"{total} = gf_add_{suffix(dtype)}({total}, c{m}_{v});")


def load_totals(w: Writer, tile: Tile, dtype: DType) -> None:
    """The accumulators again, once all blocks are summed up."""
    for m in range(tile.rows):
        names = ", ".join(f"c{m}_{v} = totals[{m * tile.vectors + v}]" for v in range(tile.vectors))
        w.line(f"const {vector_type(dtype)} {names};")


def declare_prefetch(w: Writer, next_panel: str, step_bytes: int, tiles: str) -> None:
    """Get ready to fetch the next panel of B into L2 while the tiles of this one are computed.

    Each k step of each of the `tiles` tiles fetches its share, so weights that lie in memory arrive at an even rate
    and not in a burst at the start of every panel. `step_bytes` = bytes of B in a k step.
    """
    w.line(f"uintptr_t ahead = (uintptr_t)({next_panel});")
    w.line(f"const int64_t hop = gf_min64(64, {step_bytes} / ({tiles}) + 1);")


PREFETCH_STEP = "__builtin_prefetch((const void *)ahead, 0, 2), ahead += (uintptr_t)hop;"


# ---------------------------------------------------------------- epilogue


class Lanes:
    """The vectors of one panel: a scope for each, in which the lane variable and a tail's count are known."""

    def __init__(self, scopes: Sequence[Scope]) -> None:
        self._scopes = tuple(scopes)

    @classmethod
    def of_panel(
        cls, parent: Scope, w: Writer, lane: Var, start: str, vectors: int, lanes: int, tail: int | str = 0
    ) -> Lanes:
        """`vectors` vectors from channel `start` (an identifier); `tail` = valid lanes of the last one, 0 for all.

        What depends on channels alone (bias, scales) is computed at `w`.
        """
        scopes = []
        for v in range(vectors):
            text = start if v == 0 else f"({start} + {v * lanes})"
            count = str(tail) if tail and v == vectors - 1 else None
            scopes.append(parent.child({lane: text}, writer=w, count=count))
        return cls(scopes)

    def child(self, variables: Mapping[Var, str], w: Writer) -> Lanes:
        """The same vectors where more loop variables are known."""
        return Lanes([scope.child(variables, writer=w) for scope in self._scopes])

    def __getitem__(self, v: int) -> Scope:
        return self._scopes[v]

    def __len__(self) -> int:
        return len(self._scopes)


def line_sum(k: int, v: int) -> str:
    """The C variable of the site's line sum number k, in vector v of the panel."""
    return f"line{k}_{v}"


def finish(site: ContractionSite, scope: Scope, value: str, v: int = 0) -> None:
    """Evaluate and store every output of the site for one vector, whose accumulated sum is the C variable `value`.

    Its elements are added to the line sums of vector v of the panel.
    """
    scope.bind(site.accumulator, value)
    for tensor, expression in site.outputs:
        view = site.view(tensor)
        scope.store(view, access(view, site.index), scope.vector(expression))
    for k, (_, expression) in enumerate(site.line_sums):
        scope.writer.line(f"{line_sum(k, v)} += {scope.vector(expression)};")


def finish_tile(
    site: ContractionSite, w: Writer, lanes: Lanes, tile: Tile, row: Callable[[str], Mapping[Var, str]]
) -> None:
    """The epilogue of a whole tile; `row` gives the loop variables of tile row `m` (C text of a number)."""
    work = sum(cost(e) + 1 for _, e in (*site.outputs, *site.line_sums)) * tile.rows * tile.vectors
    if work <= _INLINE_EPILOGUE or tile.rows == 1:
        for m in range(tile.rows):
            for v in range(tile.vectors):
                finish(site, lanes[v].child(row(str(m)), w), f"c{m}_{v}", v)
        return
    vector = vector_type(site.contraction.dtype)
    sums = ", ".join(f"c{m}_{v}" for m in range(tile.rows) for v in range(tile.vectors))
    kept, counter = w.fresh("t"), w.fresh("m")
    w.line(f"const {vector} {kept}[{tile.rows * tile.vectors}] = {{{sums}}};")
    with w.loop(counter, "0", str(tile.rows)):
        for v in range(tile.vectors):
            place = counter if tile.vectors == 1 else f"{counter} * {tile.vectors} + {v}"
            value = w.let(vector, f"{kept}[{place}]", "sum")
            finish(site, lanes[v].child(row(counter), w), value, v)


# ---------------------------------------------------------------- weights


def panels(matrix: np.ndarray, tile_vectors: int, lanes: int) -> np.ndarray:
    """A (K, N) matrix as panels, one after another: each K x (vectors * lanes), the last one only as wide as needed.

    Columns beyond N are zero.
    """
    k, n = matrix.shape
    width = tile_vectors * lanes
    parts = []
    for start in range(0, n, width):
        part = matrix[:, start : start + width]
        padded = -(-part.shape[1] // lanes) * lanes
        panel = np.zeros((k, padded), matrix.dtype)
        panel[:, : part.shape[1]] = part
        parts.append(panel.ravel())
    return np.concatenate(parts) if parts else np.zeros(0, matrix.dtype)
