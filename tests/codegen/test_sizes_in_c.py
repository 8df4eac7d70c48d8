"""Sizes as C expressions have the same values as in Python, for every way of putting them together."""

from __future__ import annotations

import ctypes
import random

import sympy

from codegen.building import compiled
from graphfuse.graph.dims import Dim, add, c_text, ceildiv, dim, evaluate, floordiv, maximum, minimum, mul, steps
from graphfuse.runtime.preamble import preamble

NAMES = {"N": "n", "M": "m"}
VALUES = [(1, 1), (2, 7), (13, 3), (64, 64), (1000, 17)]


def drawn(pick: random.Random) -> Dim:
    size: Dim = dim(pick.choice("NM"))
    for _ in range(pick.randint(1, 6)):
        number = pick.randint(1, 9)
        other = pick.choice([dim("N"), dim("M"), number, add(dim("M"), number), mul(dim("N"), number)])
        size = pick.choice(
            [
                lambda s, o, k: add(s, o),
                lambda s, o, k: add(s, mul(-1, o)),
                lambda s, o, k: mul(s, o),
                lambda s, o, k: floordiv(s, k),
                lambda s, o, k: ceildiv(s, k),
                lambda s, o, k: maximum(s, o),
                lambda s, o, k: minimum(s, o),
                lambda s, o, k: floordiv(add(s, k), k + 1),
            ]
        )(size, other, number)
    return size


def test_c_and_python_agree() -> None:
    sizes = [drawn(random.Random(seed)) for seed in range(300)]
    known = {e: f"size_{k}" for k, e in enumerate(steps(sizes))}
    lines: list[str] = []
    done: dict[sympy.Expr, str] = {}
    for e, name in known.items():
        lines.append(f"const int64_t {name} = {c_text(e, NAMES, done)}; (void){name};")
        done[e] = name
    body = "\n".join(lines + [f"out[{k}] = {c_text(s, NAMES, known)};" for k, s in enumerate(sizes)])
    plain = "\n".join(f"out[{k}] = {c_text(s, NAMES)};" for k, s in enumerate(sizes))
    source = preamble(4, amalgamated=True)
    for name, text in (("shared", body), ("plain", plain)):
        head = f"void {name}(int64_t n, int64_t m, int64_t *out)"
        source += f"{head};\n{head} {{\n(void)n, (void)m;\n{text}\n}}\n"
    library = compiled(source, "x86_64", "gcc", ("-Wall", "-Wextra", "-Werror", "-O1"))
    for n, m in VALUES:
        wanted = [evaluate(s, {"N": n, "M": m}) for s in sizes]
        for function in (library.shared, library.plain):
            out = (ctypes.c_int64 * len(sizes))()
            function(ctypes.c_int64(n), ctypes.c_int64(m), out)
            wrong = [(str(s), n, m, g, w) for s, g, w in zip(sizes, out, wanted, strict=True) if g != w]
            assert not wrong, wrong[:3]


def test_half_of_an_even_size_by_three_is_not_whole() -> None:
    size = ceildiv(maximum(6, mul(2, dim("N"))), 6)
    assert [evaluate(size, {"N": n}) for n in (1, 3, 4, 6, 7)] == [1, 1, 2, 2, 3]
    assert evaluate(ceildiv(dim("Max(6, 2*N)"), 6), {"N": 4}) == 2
