"""The arithmetic of Winograd convolutions: transforms F(m, taps) as exact matrices, and as C on vector registers.

The transforms follow A. Lavin and S. Gray, "Fast Algorithms for Convolutional Neural Networks" (2015), for the
interpolation points given below, by Cook and Toom's construction.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction
from functools import cache

from graphfuse.codegen.writer import Writer

# Finite interpolation points by their number; infinity is one more. Chosen for the least error, and in pairs of
# opposite sign, so that the two of a pair share their sums. The five have a quarter of the error of 0, 1, -1, 2, -2.
# With seven, for F(6, 3), it is four times that of five at best.
POINTS: dict[int, tuple[Fraction | int, ...]] = {
    2: (0, 1),
    3: (0, 1, -1),
    4: (Fraction(3, 8), Fraction(-3, 8), Fraction(5, 4), Fraction(-5, 4)),
    5: (0, Fraction(3, 4), Fraction(-3, 4), Fraction(3, 2), Fraction(-3, 2)),
}

Matrix = list[list[Fraction]]


@cache
def transforms(m: int, taps: int, stride: int = 1) -> tuple[Matrix, Matrix, Matrix]:
    """(output m x p, weights p x taps, input p x pixels) transforms of m outputs by p multiplications.

    Of a stride s, the taps k, k + s, k + 2 s, ... meet inputs that are s apart: s convolutions of stride 1, whose
    outputs are added. So the transforms stand side by side, that of a single tap being the inputs themselves.
    """
    pixels = stride * (m - 1) + taps
    output: Matrix = [[] for _ in range(m)]
    weights: Matrix = []
    data: Matrix = []
    for phase in range(min(stride, taps)):
        count = -(-(taps - phase) // stride)
        out, w, d = cook_toom(m, count) if count > 1 else (identity(m), [[Fraction(1)]] * m, identity(m))
        output = [row + more for row, more in zip(output, out, strict=True)]
        weights += [_spread(row, taps, phase, stride) for row in w]
        data += [_spread(row, pixels, phase, stride) for row in d]
    return output, weights, data


def _spread(row: Sequence[Fraction], length: int, first: int, step: int) -> list[Fraction]:
    """The numbers of a row a step apart, zeros between them."""
    spread = [Fraction(0)] * length
    spread[first : first + step * len(row) : step] = row
    return spread


def cook_toom(m: int, taps: int) -> tuple[Matrix, Matrix, Matrix]:
    """(output m x a, weights a x taps, input a x a) transforms of F(m, taps), a = m + taps - 1.

    Row i of the input transform is scaled so that floats hold it exactly, its largest number from 1 to 2; the weights
    carry the factor.
    """
    points = [Fraction(p) for p in POINTS[m + taps - 2]]
    a = m + taps - 1
    output = [[p**i for p in points] + [Fraction(int(i == m - 1))] for i in range(m)]
    weights = [[p**j for j in range(taps)] for p in points] + [[Fraction(int(j == taps - 1)) for j in range(taps)]]
    # The input transform is the transpose of interpolation: row i holds the coefficients of prod_{k != i}(x - p_k).
    data: Matrix = []
    for i, p in enumerate(points):
        others = [q for k, q in enumerate(points) if k != i]
        row = _expand(others)
        scale = Fraction(1)
        for q in others:
            scale *= p - q
        data.append([c / scale for c in row] + [Fraction(0)] * (a - len(row)))
    data.append(_expand(points))
    for i in range(a):
        whole = math.lcm(*(c.denominator for c in data[i]))
        largest = max(int(abs(c) * whole) for c in data[i])
        factor = Fraction(whole, 1 << (largest.bit_length() - 1))
        data[i] = [c * factor for c in data[i]]
        weights[i] = [c / factor for c in weights[i]]
    return output, weights, data


def _expand(roots: Sequence[Fraction]) -> list[Fraction]:
    """Coefficients of prod(x - root), lowest power first."""
    row = [Fraction(1)]
    for r in roots:
        shifted = [Fraction(0), *row]
        row = [s - r * c for s, c in zip(shifted, [*row, Fraction(0)], strict=True)]
    return row


def identity(n: int) -> Matrix:
    return [[Fraction(int(i == j)) for j in range(n)] for i in range(n)]


# ---------------------------------------------------------------- matrix times registers, as C


def row_groups(matrix: Matrix) -> list[list[int]]:
    """The rows in order; two neighbours that differ in signs only are one group, as they share their sums."""
    groups: list[list[int]] = []
    row = 0
    while row < len(matrix):
        pair = row + 1 < len(matrix) and all(map(_same_size, matrix[row], matrix[row + 1]))
        groups.append([row, row + 1] if pair else [row])
        row += len(groups[-1])
    return groups


def by_rows(w: Writer, matrix: Matrix, names: Sequence[str]) -> list[str]:
    """C text of matrix times the vector of registers, for an input transform: pairs of rows share their sums."""
    texts: list[str] = []
    for group in row_groups(matrix):
        row = matrix[group[0]]
        if len(group) == 1:
            texts.append(_sum(row, names))
            continue
        following = matrix[group[1]]
        same = [c if c == d else Fraction(0) for c, d in zip(row, following, strict=True)]
        other = [c if c == -d else Fraction(0) for c, d in zip(row, following, strict=True)]
        even, odd = w.let("gf_f32", _sum(same, names), "even"), w.let("gf_f32", _sum(other, names), "odd")
        texts += [f"{even} + {odd}", f"{even} - {odd}"]
    return texts


def by_columns(w: Writer, matrix: Matrix, names: Sequence[str]) -> list[str]:
    """C text of matrix times the vector of registers, for an output transform: pairs of columns share their sums."""
    terms: list[tuple[str, list[Fraction]]] = []
    columns = [list(column) for column in zip(*matrix, strict=True)]
    k = 0
    while k < len(columns):
        if k + 1 == len(columns) or not all(map(_same_size, columns[k], columns[k + 1])):
            terms.append((names[k], columns[k]))
            k += 1
            continue
        pairs = list(zip(columns[k], columns[k + 1], strict=True))
        for sign, same in (("+", True), ("-", False)):
            column = [c if (c == d) == same else Fraction(0) for c, d in pairs]
            if any(column):
                terms.append((w.let("gf_f32", f"{names[k]} {sign} {names[k + 1]}", "pair"), column))
        k += 2
    return [_sum([column[i] for _, column in terms], [name for name, _ in terms]) for i in range(len(matrix))]


def _same_size(x: Fraction, y: Fraction) -> bool:
    return abs(x) == abs(y)


def _sum(row: Sequence[Fraction], names: Sequence[str]) -> str:
    parts: list[str] = []
    for c, name in zip(row, names, strict=True):
        if c == 0:
            continue
        sign = "-" if c < 0 else "+" if parts else ""
        factor = "" if abs(c) == 1 else f"gf_splat_f32({float(abs(c))!r}f) * "
        parts.append(f"{sign} {factor}{name}" if parts else f"{sign}{factor}{name}")
    return " ".join(parts) or "(gf_f32){0}"
