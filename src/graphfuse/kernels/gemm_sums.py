"""The sums of one tile of a matrix product: c[m][v] += x[m] y[v] over k, in the ways that shapes call for.

`x` and `y` are C variables that point to the tile's rows of A and to its panel of B.
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


def plain_sums(w: Writer, p: Product, fn: Function, tile: Tile, x: str, y: str) -> None:
    """One accumulator for every row and vector."""
    declare_accumulators(w, tile, p.dtype)
    _steps(w, p, fn, tile, x, y, "0", fn.dim(p.operands.k, "k"))


def block_sums(w: Writer, p: Product, fn: Function, tile: Tile, x: str, y: str) -> None:
    """The sums in blocks of `sum_block` terms."""
    first, block, k = w.fresh("first"), p.site.sum_block, fn.dim(p.operands.k, "k")
    declare_totals(w, tile, p.dtype)
    with w.loop(first, "0", k, str(block)):
        declare_accumulators(w, tile, p.dtype)
        _steps(w, p, fn, tile, x, y, first, f"gf_min64({first} + {block}, {k})")
        add_to_totals(w, tile, p.dtype)
    load_totals(w, tile, p.dtype)


def _steps(w: Writer, p: Product, fn: Function, tile: Tile, x: str, y: str, start: str, stop: str) -> None:
    with w.loop(w.fresh("k"), start, stop):
        multiply_add(w, tile, p.dtype, lambda m: f"{x}[{times(m, p.a_step, fn.params)}]", y, p.lanes, stored=p.stored)
        _advance(w, p, fn, tile, x, y)


def _advance(w: Writer, p: Product, fn: Function, tile: Tile, x: str, y: str) -> None:
    if p.prefetch:
        w.line(PREFETCH_STEP)
    w.line(f"{x} += {fn.dim(p.operands.a_k, 's')}, {y} += {tile.vectors * p.lanes};")


def split_sums(w: Writer, p: Product, fn: Function, tile: Tile, x: str, y: str) -> None:
    """Every sum in `ways` parts, each of every so manieth term, in a tile so small that it would wait for itself."""
    assert isinstance(p.operands.k, int)
    whole, rest = divmod(p.operands.k, p.ways)
    parts = Tile(tile.rows, tile.vectors * p.ways)
    declare_accumulators(w, parts, p.dtype)
    with w.loop(w.fresh("k"), "0", str(whole)):
        _split_step(w, p, fn, tile, x, y, p.ways)
        w.line(f"{x} += {p.ways} * {fn.dim(p.operands.a_k, 's')}, {y} += {parts.vectors * p.lanes};")
    if rest:
        _split_step(w, p, fn, tile, x, y, rest)
    for m in range(tile.rows):
        for v in range(tile.vectors):
            for part in range(1, p.ways):
                total = f"gf_add_{suffix(p.dtype)}(c{m}_{v}, c{m}_{part * tile.vectors + v})"
                w.line(f"c{m}_{v} = {total};")


def _split_step(w: Writer, p: Product, fn: Function, tile: Tile, x: str, y: str, terms: int) -> None:
    """One term for each of the first `terms` parts."""
    for part in range(terms):
        first = part * tile.vectors
        a = [affine([(str(m), p.a_step), (str(part), p.operands.a_k)], fn.params) for m in range(tile.rows)]
        with w.block():
            b = f"{y} + {first * p.lanes}"
            of = lambda m, a=a: f"{x}[{a[m]}]"  # noqa: E731
            multiply_add(w, tile, p.dtype, of, b, p.lanes, first, p.stored)


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
