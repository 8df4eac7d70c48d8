"""Sizes that do not fit are refused before anything is read; those that do are computed."""

from __future__ import annotations

import re

import numpy as np
import pytest

from codegen.building import Emitted, GuardFailed, build, emitted, parse
from ops.cases import inferred

Shape = tuple[int, ...]

# text, shapes that fit, shapes that do not, and the guard's words
CASES: dict[str, tuple[str, dict[str, Shape], dict[str, Shape], str]] = {
    "add": (
        "g (float[N, 6] x, float[M, 6] z) => (float[N, 6] y) { y = Add(x, z) }",
        {"x": (3, 6), "z": (3, 6)},
        {"x": (2, 6), "z": (9, 6)},
        "sizes M and N must be equal to broadcast",
    ),
    "reshape": (
        """g (float[N, 6] x) => (float[2, 12] y) {
            s = Constant<value = int64[2] {2, 12}>() a = Reshape(x, s) y = Relu(a)
        }""",
        {"x": (4, 6)},
        {"x": (1, 6)},
        "6*N elements cannot be reshaped to 24",
    ),
    "reshape to the rest": (
        "g (float[N, 6] x) => (float[4, M] y) { s = Constant<value = int64[2] {4, -1}>() y = Reshape(x, s) }",
        {"x": (4, 6)},
        {"x": (3, 6)},
        "cannot be reshaped|must be whole",
    ),
    "squeeze": (
        "g (float[N, 6] x) => (float[6] y) { k = Constant<value = int64[1] {0}>() y = Squeeze(x, k) }",
        {"x": (1, 6)},
        {"x": (3, 6)},
        "6*N elements cannot be reshaped to 6",
    ),
    "squeeze without axes": (
        "g (float[N, 1, 6] x) => (float[N, 6] y) { y = Squeeze(x) }",
        {"x": (3, 1, 6)},
        {"x": (1, 1, 6)},
        "the size N is 1, and Squeeze without axes",
    ),
    "concat": (
        "g (float[N, 6] x, float[M, 6] z) => (float[N, 12] y) { y = Concat<axis = 1>(x, z) }",
        {"x": (3, 6), "z": (3, 6)},
        {"x": (9, 6), "z": (2, 6)},
        "sizes M and N must be equal to concatenate",
    ),
    "split": (
        """g (float[N, 6] x) => (float[2, 6] y, float[3, 6] z) {
            s = Constant<value = int64[2] {2, 3}>() a, b = Split<axis = 0>(x, s) y = Relu(a) z = Exp(b)
        }""",
        {"x": (5, 6)},
        {"x": (2, 6)},
        "elements 2 to 4 of N do not exist",
    ),
    "expand": (
        "g (float[N, 6] x) => (float[5, 6] y) { s = Constant<value = int64[2] {5, 6}>() y = Expand(x, s) }",
        {"x": (5, 6)},
        {"x": (2, 6)},
        "sizes N and 5 must be equal to broadcast",
    ),
    "matrix product": (
        "g (float[4, N] x, float[M, 6] z) => (float[4, 6] y) { y = MatMul(x, z) }",
        {"x": (4, 7), "z": (7, 6)},
        {"x": (4, 9), "z": (2, 6)},
        "sizes N and M must be equal to multiply",
    ),
    "batch of products": (
        "g (float[N, 4, 5] x, float[M, 5, 6] z) => (float[N, 4, 6] y) { y = MatMul(x, z) }",
        {"x": (3, 4, 5), "z": (3, 5, 6)},
        {"x": (9, 4, 5), "z": (2, 5, 6)},
        "sizes M and N must be equal to broadcast",
    ),
    "gather by elements": (
        "g (float[M, 6] x, int64[N, 6] i) => (float[N, 6] y) { y = GatherElements<axis = 1>(x, i) }",
        {"x": (9, 6), "i": (2, 6)},
        {"x": (2, 6), "i": (9, 6)},
        "an index of size N into one of size M",
    ),
}


def emit(text: str) -> Emitted:
    return emitted(inferred(parse(text)))


def values(shapes: dict[str, Shape]) -> dict[str, np.ndarray]:
    return {k: np.ones(s, np.int64 if k == "i" else np.float32) for k, s in shapes.items()}


@pytest.mark.parametrize("name", CASES)
def test_sizes_are_checked(name: str) -> None:
    text, fitting, wrong, words = CASES[name]
    [run] = build([emit(text)])
    assert all(np.isfinite(y).all() for y in run(values(fitting)))
    with pytest.raises(GuardFailed, match=re.escape(words) if "|" not in words else words):
        run(values(wrong))


@pytest.mark.parametrize(
    "text",
    [
        "y = Relu(x)",
        "k = Constant<value = int64[1] {0}>() e = Constant<value = int64[1] {5}>() y = Slice(x, k, e)",
        "k = Constant<value = int64[1] {7}>() e = Constant<value = int64[1] {99}>() y = Slice(x, k, e)",
        "s = Constant<value = int64[1] {-1}>() y = Reshape(x, s)",
        "a = Concat<axis = 0>(x, x) b, c = Split<axis = 1, num_outputs = 2>(a) y = Add(b, c)",
        "t = Transpose<perm = [1, 0]>(x) m = MatMul(x, t) y = Softmax(m)",
        "y = Flatten(x)",
    ],
)
def test_what_fits_is_not_refused(text: str) -> None:
    """No size is refused that ONNX allows, 1 and sizes below the slices' included."""
    rank = 1 if "{-1}" in text else 2
    [run] = build([emit(f"g (float[N, 6] x) => (float[{', '.join('AB'[:rank])}] y) {{ {text} }}")])
    for n in (1, 3, 8, 100):
        run(values({"x": (n, 6)}))


def test_one_condition_is_checked_once() -> None:
    e = emit(
        """g (float[N] x, float[M] z) => (float[N] y) {
            a = Add(x, z) b = Mul(a, z) c = Sub(z, x) y = Max(b, c)
        }"""
    )
    assert len(e.module.guards) == 1
