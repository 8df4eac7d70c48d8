"""The sums of one tile of a matrix product: c[m][v] += x[m] y[v] over k, in the ways that shapes call for.

`x` and `y` are C variables that point to the rows of A and to the panel of B; `tail`: elements of its last vector that
may be read, 0 for all.
"""

from __future__ import annotations

from graphfuse.codegen.writer import Writer
from graphfuse.graph.dtypes import suffix, vector_type

from .function import Function, affine, times
from .product import Product
from .tile import (
    PREFETCH_STEP,
    Tile,
    add_to_totals,
    declare_accumulators,
    declare_totals,
    load_totals,
    multiply_add,
)


def plain_sums(w: Writer, p: Product, fn: Function, tile: Tile, x: str, y: str, tail: int | str = 0) -> None:
    """One accumulator for every row and vector."""
    declare_accumulators(w, tile, p.dtype)
    _steps(w, p, fn, tile, x, y, ("0", fn.dim(p.operands.k, "k")), tail)


def block_sums(w: Writer, p: Product, fn: Function, tile: Tile, x: str, y: str, tail: int | str = 0) -> None:
    """The sums in blocks of `sum_block` terms."""
    first, block, k = w.fresh("first"), p.site.sum_block, fn.dim(p.operands.k, "k")
    declare_totals(w, tile, p.dtype)
    with w.loop(first, "0", k, str(block)):
        declare_accumulators(w, tile, p.dtype)
        _steps(w, p, fn, tile, x, y, (first, f"gf_min64({first} + {block}, {k})"), tail)
        add_to_totals(w, tile, p.dtype)
    load_totals(w, tile, p.dtype)


def _steps(
    w: Writer, p: Product, fn: Function, tile: Tile, x: str, y: str, terms: tuple[str, str], tail: int | str
) -> None:
    with w.loop(w.fresh("k"), *terms):
        of = lambda m: f"{x}[{times(m, p.a_step, fn.params)}]"  # noqa: E731
        multiply_add(w, tile, p.dtype, of, y, p.lanes, stored=p.stored, tail=tail)
        _advance(w, p, fn, tile, x, y)


def _advance(w: Writer, p: Product, fn: Function, tile: Tile, x: str, y: str) -> None:
    if p.prefetch:
        w.line(PREFETCH_STEP)
    w.line(f"{x} += {fn.dim(p.operands.a_k, 's')}, {y} += {fn.dim(p.b_step(tile), 's')};")


def split_sums(w: Writer, p: Product, fn: Function, tile: Tile, x: str, y: str, tail: int | str = 0) -> None:
    """Every sum in `ways` parts, each of every so manieth term, in a tile so small that it would wait for itself."""
    k, ways = p.operands.k, p.ways
    parts = Tile(tile.rows, tile.vectors * ways)
    declare_accumulators(w, parts, p.dtype)
    whole = k // ways if isinstance(k, int) else f"{fn.dim(k, 'k')} / {ways}"
    with w.loop(w.fresh("k"), "0", str(whole)):
        for part in range(ways):
            _split_step(w, p, fn, tile, x, y, part, tail)
        steps = [times(ways, step, fn.params) for step in (p.operands.a_k, p.b_step(tile))]
        w.line(f"{x} += {steps[0]}, {y} += {steps[1]};")
    for part in range(ways - 1 if not isinstance(k, int) else k % ways):
        with w.block("" if isinstance(k, int) else f"if ({fn.dim(k, 'k')} % {ways} > {part})"):
            _split_step(w, p, fn, tile, x, y, part, tail)
    for m in range(tile.rows):
        for v in range(tile.vectors):
            for part in range(1, ways):
                total = f"gf_add_{suffix(p.dtype)}(c{m}_{v}, c{m}_{part * tile.vectors + v})"
                w.line(f"c{m}_{v} = {total};")


def _split_step(w: Writer, p: Product, fn: Function, tile: Tile, x: str, y: str, part: int, tail: int | str) -> None:
    """A term of one part."""
    a = [affine([(str(m), p.a_step), (str(part), p.operands.a_k)], fn.params) for m in range(tile.rows)]
    b = f"{y} + {times(part, p.b_step(tile), fn.params)}"
    with w.block():
        of = lambda m: f"{x}[{a[m]}]"  # noqa: E731
        multiply_add(w, tile, p.dtype, of, b, p.lanes, part * tile.vectors, p.stored, tail)


def halved_sums(w: Writer, p: Product, fn: Function, tile: Tile, x: str, y: str) -> None:
    """Two rows share the last vector, of which either would fill no more than half."""
    name, vector, last = suffix(p.dtype), vector_type(p.dtype), tile.vectors - 1
    pairs = [(m, min(m + 1, tile.rows - 1)) for m in range(0, tile.rows, 2)]
    declare_accumulators(w, Tile(tile.rows, last), p.dtype)
    for m, _ in pairs:
        w.line(f"{vector} h{m} = {{0}};")
    with w.loop(w.fresh("k"), "0", fn.dim(p.operands.k, "k")):
        for v in range(tile.vectors):
            w.line(f"const {vector} w{v} = gf_load_{name}({y} + {v * p.lanes});")
        for pair in pairs:
            with w.block():
                for m in dict.fromkeys(pair):
                    w.line(f"const {vector} s{m} = gf_splat_{name}({x}[{times(m, p.a_step, fn.params)}]);")
                    w.line(" ".join(f"c{m}_{v} += s{m} * w{v};" for v in range(last)))
                w.line(f"h{pair[0]} += gf_join_{name}(s{pair[0]}, s{pair[1]}) * w{last};")
        _advance(w, p, fn, tile, x, y)
    for first, second in pairs:
        w.line(f"const {vector} c{first}_{last} = h{first};")
        if second != first:
            w.line(f"const {vector} c{second}_{last} = gf_swap_{name}(h{first});")
