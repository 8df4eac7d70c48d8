"""The generic rows kernel on sizes beyond one register, one block and one chunk; every split gives the same bits."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from functools import cache

import numpy as np
import pytest

from codegen.building import Emitted, Runner, build, emitted, parse
from graphfuse.kernels.rows import BLOCK, CHUNK
from ops.cases import inferred
from ops.running import interpret

AXIS = "k = Constant<value = int64[1] {%d}>()"


@dataclass(frozen=True)
class Case:
    """A model, and the values of its sizes; inputs are drawn by their types."""

    text: str
    sizes: dict[str, int] = field(default_factory=dict)
    describe: str = ""  # how the kernel goes about it, where that is the point of the case


def reduce(op: str, shape: str, axis: int, out: str, dtype: str = "float") -> Case:
    return Case(f"g ({dtype}[{shape}] x) => ({dtype}[{out}] y) {{ {AXIS % axis} y = {op}(x, k) }}")


CASES: dict[str, Case] = {
    "one long row": Case("g (float[N] x) => (float[N] y) { a = Exp(x) y = Sub(a, x) }", {"N": 3 * CHUNK + 7}),
    "long rows": Case("g (float[3, 10007] x, float[10007] b) => (float[3, 10007] y) { a = Add(x, b) y = Tanh(a) }"),
    "many short rows": Case(
        "g (float[N, 3] x, float[3] b, float[N, 1] s) => (float[N, 3] y) { a = Add(x, b) y = Mul(a, s) }", {"N": 501}
    ),
    "a transposed operand": Case(
        "g (float[37, 70] x, float[70, 37] z) => (float[37, 70] y) { t = Transpose<perm = [1, 0]>(z) y = Add(x, t) }"
    ),
    "transposed, of open sizes": Case(
        """g (float[B, N, M] x, float[B, M, N] z, float[N] s) => (float[B, M, N] y) {
            t = Transpose<perm = [0, 2, 1]>(x) u = Mul(t, s) y = Add(u, z) }""",
        {"B": 2, "N": 35, "M": 70},
        "operands transposed",
    ),
    "transposed, smaller than a square": Case(
        "g (float[N, M] x) => (float[M, N] y) { t = Transpose<perm = [1, 0]>(x) y = Neg(t) }",
        {"N": 3, "M": 2},
        "operands transposed",
    ),
    "transposed, of no elements": Case(
        "g (float[N, M] x) => (float[M, N] y) { t = Transpose<perm = [1, 0]>(x) y = Neg(t) }", {"N": 0, "M": 50}
    ),
    "channels first, scaled": Case(
        """g (float[2, 9, 18, 40] x, float[40, 1, 1] s) => (float[2, 40, 9, 18] y, float[2, 40, 9, 18] z) {
            t = Transpose<perm = [0, 3, 1, 2]>(x) y = Mul(t, s) z = Tanh(y) }""",
        describe="operands transposed",
    ),
    "heads apart": Case(
        """g (float[2, 37, 96] x, float[96] b) => (float[2, 3, 32, 37] y) {
            a = Add(x, b) s = Constant<value = int64[4] {2, 37, 3, 32}>() r = Reshape(a, s)
            y = Transpose<perm = [0, 2, 3, 1]>(r) }""",
        describe="operands transposed",
    ),
    "two transposed operands, integers": Case(
        """g (int32[67, 50] x, int32[67, 50] z) => (int32[50, 67] y) {
            t = Transpose<perm = [1, 0]>(x) u = Transpose<perm = [1, 0]>(z) y = Add(t, u) }""",
        describe="operands transposed",
    ),
    "operands that lie across different axes": Case(
        """g (float[18, 20, 33] x, float[20, 33, 18] z, float[18, 33, 20] w) => (float[18, 20, 33] y) {
            t = Transpose<perm = [2, 0, 1]>(z) u = Transpose<perm = [0, 2, 1]>(w) a = Add(x, t) y = Add(a, u) }""",
        describe="operands transposed",
    ),
    "a transposed operand behind padding": Case(
        """g (float[50, 67] x, float[67, 52] z) => (float[67, 52] y) {
            p = Constant<value = int64[4] {1, 0, 1, 0}>() q = Pad(x, p) t = Transpose<perm = [1, 0]>(q)
            y = Add(t, z) }"""
    ),
    "a transposed copy": Case("g (float[70, 133] x) => (float[133, 70] y) { y = Transpose<perm = [1, 0]>(x) }"),
    "every second element": Case(
        """g (float[40, 150] x) => (float[40, 75] y) {
            b = Constant<value = int64[1] {1}>() e = Constant<value = int64[1] {999}>()
            s = Constant<value = int64[1] {2}>()
            a = Slice(x, b, e, b, s) y = Relu(a)
        }"""
    ),
    "backwards": Case(
        """g (float[9, 150] x) => (float[9, 150] y) {
            b = Constant<value = int64[1] {-1}>() e = Constant<value = int64[1] {-999}>()
            a = Slice(x, b, e, b, b) y = Relu(a)
        }"""
    ),
    "softmax, innermost": Case("g (float[5, 1003] x) => (float[5, 1003] y) { y = Softmax(x) }", describe="along"),
    "softmax, outermost": Case(
        "g (float[103, 230] x) => (float[103, 230] y) { y = Softmax<axis = 0>(x) }", describe="across"
    ),
    "softmax, between": Case(
        "g (float[2, 33, 150] x) => (float[2, 33, 150] y) { y = Softmax<axis = 1>(x) }", describe="across"
    ),
    "softmax of unknown sizes": Case(
        "g (float[N, M, 70] x) => (float[N, M, 70] y) { y = Softmax<axis = 1>(x) }", {"N": 3, "M": 41}, "across"
    ),
    "softmax in float64": Case("g (double[9, 133] x) => (double[9, 133] y) { y = LogSoftmax<axis = 0>(x) }"),
    "layer norm": Case(
        """g (float[N, 777] x, float[777] s, float[777] b) => (float[N, 777] y, float[N, 1] m, float[N, 1] v) {
            y, m, v = LayerNormalization(x, s, b)
        }""",
        {"N": 7},
        "along",
    ),
    "norm over an image": Case(
        "g (float[2, 5, 19, 17] x, float[5] s, float[5] b) => (float[2, 5, 19, 17] y) { "
        "y = InstanceNormalization(x, s, b) }"
    ),
    "sum of everything": Case("g (float[50, 1001] x) => (float[1, 1] y) { y = ReduceSum(x) }"),
    "sum over the outer": reduce("ReduceSum", "300, 130", 0, "1, 130"),
    "sum over the inner": reduce("ReduceSum", "13, 1300", 1, "13, 1"),
    "sum over outer and inner": Case(
        "g (float[5, 60, 70] x) => (float[1, 60, 1] y) { k = Constant<value = int64[2] {0, 2}>() y = ReduceSum(x, k) }"
    ),
    "integers": reduce("ReduceSum", "13, 300", 1, "13, 1", "int32"),
    "long integers": reduce("ReduceMax", "130, 70", 0, "1, 70", "int64"),
    "bytes": reduce("ReduceMin", "13, 300", 1, "13, 1", "uint8"),
    "positions along": Case(
        """g (float[9, 1003] x) => (int64[9, 1] y, int64[9, 1] z) {
            a = Round(x) y = ArgMax<axis = 1>(a) z = ArgMin<axis = 1, select_last_index = 1>(a)
        }"""
    ),
    "positions across": Case(
        """g (float[103, 170] x) => (int64[1, 170] y, int64[1, 170] z) {
            a = Round(x) y = ArgMax<axis = 0, select_last_index = 1>(a) z = ArgMin<axis = 0>(a)
        }"""
    ),
    "position and value": Case(
        f"""g (float[9, 203] x) => (int64[9, 1] p, float[9, 1] m) {{
            {AXIS % 1} a = Relu(x) p = ArgMax<axis = 1>(a) m = ReduceMax(a, k)
        }}"""
    ),
    "a row value and its elements": Case(
        f"""g (float[N, 210] x) => (float[N, 210] y, float[N] r) {{
            {AXIS % 1} e = Exp(x) s = ReduceSum(e, k) y = Div(e, s) l = Log(s) r = Squeeze(l, k)
        }}""",
        {"N": 11},
    ),
    "gathered columns": Case(
        "g (float[33, 60] x, int64[150] i) => (float[33, 150] y) { a = Gather<axis = 1>(x, i) y = Neg(a) }"
    ),
    "gathered, then reduced": Case(
        f"""g (float[33, 60] x, int64[150] i) => (float[1, 150] y) {{
            {AXIS % 0} a = Gather<axis = 1>(x, i) y = ReduceMax(a, k)
        }}"""
    ),
    "upsampled": Case(
        """g (float[2, 3, 17, 19] x, float[2, 3, 34, 38] z) => (float[2, 3, 34, 38] y) {
            r = Constant<value = float[0] {}>() s = Constant<value = float[4] {1, 1, 2, 2}>()
            a = Resize<mode = "linear">(x, r, s) y = Add(a, z)
        }"""
    ),
    "a chain in stages": Case(
        """g (float[7, 1307] x, float[7, 1] s, float[7, 1307] z) => (float[7, 1307] y, float[7, 1307] w) {
            e = Sigmoid(s) a = Mul(x, e) b = Mul(x, z) t = Tanh(a) u = Add(t, b) q = Abs(u) r = Sqrt(q)
            v = Exp(r) y = Div(u, v) m = Sigmoid(b) w = Sub(m, t)
        }""",
        describe="2 stages",
    ),
    "stages of gathered values and masks": Case(
        """g (float[33, 60] x, int64[150] i, float[33, 150] z) => (float[33, 150] y, bool[33, 150] p) {
            a = Gather<axis = 1>(x, i) t = Tanh(a) p = Less(t, z) b = Where(p, t, a) e = Erf(b) y = Mul(e, a)
        }""",
        describe="2 stages",
    ),
    "stages in float64": Case(
        "g (double[N] x) => (double[N] y) { a = Sigmoid(x) b = Mul(a, x) c = Tanh(b) y = Add(c, b) }",
        {"N": 3 * CHUNK + 7},
        "2 stages",
    ),
    "no stages in a short row": Case(
        "g (float[37, 5] x, float[5] s) => (float[37, 5] y) { a = Add(x, s) t = Tanh(a) e = Exp(t) y = Mul(e, s) }",
        describe="1 pass",
    ),
    "one long chain": Case(
        "g (float[N] x) => (float[N] y) { a = Sigmoid(x) b = Mul(a, x) c = Tanh(b) y = Add(c, b) }",
        {"N": 3 * CHUNK + 7},
    ),
    "bool masks": Case(
        """g (float[9, 310] x, float[310] z) => (bool[9, 310] y, float[9, 310] w) {
            a = Greater(x, z) b = Less(x, z) y = Or(a, b) w = Where(a, x, z)
        }"""
    ),
    "types of all widths": Case(
        """g (float[9, 310] x) => (double[9, 310] d, int8[9, 310] b, int64[9, 310] l) {
            d = Cast<to = 11>(x) b = Cast<to = 3>(x) l = Cast<to = 7>(x)
        }"""
    ),
}
# Sums of a thousand float32 in another order; functions within a few units in the last place.
RTOL, ATOL = 3e-5, 2e-6


@cache
def runners(cpu: str) -> dict[str, tuple[Emitted, Runner]]:
    emits = {name: emitted(inferred(parse(case.text)), cpu) for name, case in CASES.items()}
    return dict(zip(emits, zip(emits.values(), build(list(emits.values())), strict=True), strict=True))


def inputs_of(e: Emitted, sizes: dict[str, int]) -> dict[str, np.ndarray]:
    random = np.random.default_rng(0)
    values = {}
    for port in e.module.inputs:
        shape = [d if isinstance(d, int) else sizes[d] for d in port.shape]
        dtype = np.dtype(port.dtype)
        if dtype.kind == "f":
            values[port.name] = random.standard_normal(shape).astype(dtype) * 3
        else:
            values[port.name] = random.integers(0, 60, shape).astype(dtype)
    return values


@pytest.mark.parametrize("cpu", ["native", "x86_64"])
@pytest.mark.parametrize("name", CASES)
def test_rows(name: str, cpu: str) -> None:
    case = CASES[name]
    e, run = runners(cpu)[name]
    inputs = inputs_of(e, case.sizes)
    actual = run(inputs)
    for a, wanted in zip(actual, interpret(inferred(parse(case.text)), inputs, case.sizes), strict=True):
        assert a.shape == wanted.shape
        if a.dtype.kind == "f":
            np.testing.assert_allclose(a, wanted, rtol=RTOL, atol=ATOL * max(1, float(np.abs(wanted).max(initial=0))))
        else:
            np.testing.assert_array_equal(a, wanted)
    for threads in (2, 3, 7):
        again = run(inputs, threads)
        assert [x.tobytes() for x in again] == [x.tobytes() for x in actual], f"{threads} threads"
    if case.describe:
        assert any(case.describe in call.code.describe for call in e.plan.calls)


@pytest.mark.parametrize("name", ["one long row", "one long chain"])
def test_nothing_moves_with_its_neighbours(name: str) -> None:
    """An element's bits do not depend on where in a register, block or chunk it falls."""
    e, run = runners("native")[name]
    x = np.random.default_rng(0).standard_normal(3 * CHUNK + 7).astype(np.float32)
    [whole] = run({"x": x})
    for start in (1, 5, BLOCK * e.target.lanes - 1, CHUNK - 3):
        [part] = run({"x": x[start:]})
        assert part.tobytes() == whole[start:].tobytes()


@pytest.mark.parametrize(
    "shape, text, rows",
    [
        ("200, 20000", "y = Relu(x)", -(-200 * 20000 // CHUNK)),  # what lies back to back is one long row
        ("200, 20000", "y = Add(x, b)", 200),
        ("5, 20000", "y = Add(x, b)", 5 * -(-20000 // CHUNK)),  # few rows: a row is work for several threads
        ("5, 20000", "y = Softmax(x)", 5),
        ("5, 20000", "y = Softmax<axis = 0>(x)", -(-20000 // (BLOCK * 16))),
    ],
)
def test_the_unit_of_work(shape: str, text: str, rows: int) -> None:
    e = emitted(
        inferred(parse(f"g (float[{shape}] x, float[20000] b) => (float[{shape}] y) {{ {text} }}")), "x86_64_v4"
    )
    [call] = e.plan.calls
    assert call.code.rows == rows


def test_equal_text_whatever_the_names() -> None:
    texts = [
        "g (float[9, 310] x, float[310] z) => (float[9, 310] y) { a = Add(x, z) y = Tanh(a) }",
        "h (float[9, 310] image, float[310] bias) => (float[9, 310] out) { [n] q = Add(image, bias) out = Tanh(q) }",
    ]
    first, second = (emitted(inferred(parse(t))).module for t in texts)
    assert first.kernels == second.kernels
    assert re.sub(r"/\*.*?\*/", "", first.entry) == re.sub(r"/\*.*?\*/", "", second.entry)
