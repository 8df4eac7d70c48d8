"""Every primitive of gf_vector.h and gf_int.h against numpy: all dtypes, odd lengths, extreme values."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from runtime.native import HERE, Array, Operations, compile_library, variants

DTYPES = {
    "f32": np.float32, "f64": np.float64,
    "i8": np.int8, "i16": np.int16, "i32": np.int32, "i64": np.int64,
    "u8": np.uint8, "u16": np.uint16, "u32": np.uint32, "u64": np.uint64,
}  # fmt: skip
FLOATS = ("f32", "f64")
INTS = tuple(name for name in DTYPES if name not in FLOATS)


@pytest.fixture(scope="module", params=variants(), ids=str)
def library(request: pytest.FixtureRequest, object_folder: Path) -> Operations:
    return Operations(compile_library(request.param, HERE / "vector_ops.c", object_folder))


@pytest.fixture
def ops(library: Operations, capfd: pytest.CaptureFixture[str]) -> Iterator[Operations]:
    """The library; undefined behaviour that the sanitizer saw fails the test."""
    yield library
    assert "runtime error" not in capfd.readouterr().err


def values(name: str) -> Array:
    """Extreme and random values, an odd number of them."""
    dtype = DTYPES[name]
    rng = np.random.default_rng(3)
    if name in FLOATS:
        info = np.finfo(dtype)
        special = [0.0, -0.0, 1, -1, 0.5, -0.5, 1.5, 2.5, -2.5, np.inf, -np.inf, np.nan, info.max, -info.max, info.tiny,
                   info.smallest_subnormal, -info.smallest_subnormal, 127, 128, -129, 255.9, 256, 65536, 2.0**31,
                   -(2.0**31), 2.0**32, 2.0**63, -(2.0**63), 2.0**64, 1e30, 3, -7]  # fmt: skip
        wide = rng.normal(size=39) * np.exp2(rng.uniform(-20, 40, 39))
        return np.array([*special, *wide], dtype)
    info = np.iinfo(dtype)
    special = [info.min, info.min + 1, info.max, info.max - 1, 0, 1, 2, 3, 5, 7, 8, 31, 63, 100]
    negative = [-1, -2, -3, -7, -100] if info.min < 0 else []
    wide = rng.integers(info.min, info.max, 32, dtype, endpoint=True)
    return np.array([*special, *negative, *wide.tolist()], dtype)


def pairs(name: str) -> tuple[Array, Array]:
    grid = np.array(list(itertools.product(values(name), repeat=2)), DTYPES[name])
    return grid[:, 0].copy(), grid[:, 1].copy()


def check(got: Array, want: Array) -> None:
    """Same bits but for NaN's; zero's sign counts."""
    np.testing.assert_array_equal(got, want)
    if got.dtype.kind == "f":
        number = ~np.isnan(got)
        np.testing.assert_array_equal(np.signbit(got[number]), np.signbit(want[number]))


def guarded(op: Callable[[int, int], int]) -> Callable[[Array, Array], Array]:
    """An operation on Python integers, elementwise, wrapped to the dtype; 0 where the divisor is 0."""

    def apply(a: Array, b: Array) -> Array:
        bits = 8 * a.itemsize
        exact = [op(x, y) if y else 0 for x, y in zip(a.tolist(), b.tolist(), strict=True)]
        unsigned = np.array([value % (1 << bits) for value in exact], f"u{a.itemsize}")
        return unsigned.view(a.dtype)

    return apply


def c_quotient(x: int, y: int) -> int:
    return abs(x) // abs(y) * (1 if (x < 0) == (y < 0) else -1)


def shift(op: Callable[[int, int], int]) -> Callable[[Array, Array], Array]:
    """A shift by a count that may be out of range (then the result is 0)."""

    def apply(a: Array, n: Array) -> Array:
        bits = 8 * a.itemsize
        exact = [op(x, k) if 0 <= k < bits else 0 for x, k in zip(a.tolist(), n.tolist(), strict=True)]
        return np.array([value % (1 << bits) for value in exact], f"u{a.itemsize}").view(a.dtype)

    return apply


def int_pow(a: Array, n: Array) -> Array:
    bits = 8 * a.itemsize

    def one(x: int, k: int) -> int:
        if k >= 0:
            return pow(x, k, 1 << bits)
        return {1: 1, -1: -1 if k % 2 else 1}.get(x, 0)

    exact = [one(x, k) % (1 << bits) for x, k in zip(a.tolist(), n.tolist(), strict=True)]
    return np.array(exact, f"u{a.itemsize}").view(a.dtype)


INT_BINARY = {
    "add": np.add, "sub": np.subtract, "mul": np.multiply, "min": np.minimum, "max": np.maximum,
    "and": np.bitwise_and, "or": np.bitwise_or, "xor": np.bitwise_xor,
    "div": guarded(c_quotient), "mod": guarded(lambda x, y: x % y),
    "fmod": guarded(lambda x, y: x - y * c_quotient(x, y)),
    "shl": shift(lambda x, k: x << k), "shr": shift(lambda x, k: x >> k), "pow": int_pow,
}  # fmt: skip
FLOAT_BINARY = {
    "add": np.add, "sub": np.subtract, "mul": np.multiply, "div": np.divide, "copysign": np.copysign,
    "fmod": np.fmod, "mod": np.mod,
}  # fmt: skip
COMPARISONS = {"lt": np.less, "le": np.less_equal, "gt": np.greater, "ge": np.greater_equal, "eq": np.equal,
               "ne": np.not_equal}  # fmt: skip


@pytest.mark.parametrize("dtype", INTS)
def test_integer_arithmetic(ops: Operations, dtype: str) -> None:
    a, b = pairs(dtype)
    with np.errstate(all="ignore"):
        for name, reference in INT_BINARY.items():
            np.testing.assert_array_equal(ops.binary(f"{name}_{dtype}", a, b, DTYPES[dtype]), reference(a, b), name)
        x = values(dtype)
        unary = {
            "neg": np.negative,
            "abs": np.abs,
            "sign": np.sign,
            "not": np.invert,
            "relu": lambda v: np.maximum(v, 0),
        }
        for name, reference in unary.items():
            np.testing.assert_array_equal(ops.unary(f"{name}_{dtype}", x, DTYPES[dtype]), reference(x), name)


@pytest.mark.parametrize("dtype", FLOATS)
def test_float_arithmetic(ops: Operations, dtype: str) -> None:
    a, b = pairs(dtype)
    with np.errstate(all="ignore"):
        for name, reference in FLOAT_BINARY.items():
            check(ops.binary(f"{name}_{dtype}", a, b, DTYPES[dtype]), reference(a, b))
        x = values(dtype)
        unary = {"neg": np.negative, "abs": np.abs, "floor": np.floor, "ceil": np.ceil, "trunc": np.trunc,
                 "round": np.rint, "sqrt": np.sqrt, "recip": np.reciprocal,
                 "rsqrt": lambda v: np.reciprocal(np.sqrt(v))}  # fmt: skip
        for name, reference in unary.items():
            check(ops.unary(f"{name}_{dtype}", x, DTYPES[dtype]), reference(x))
    np.testing.assert_array_equal(ops.unary(f"sign_{dtype}", x, DTYPES[dtype]), np.sign(x))
    np.testing.assert_array_equal(ops.unary(f"isnan_{dtype}", x, np.uint8), np.isnan(x))
    np.testing.assert_array_equal(ops.unary(f"isinf_{dtype}", x, np.uint8), np.isinf(x))


@pytest.mark.parametrize("dtype", FLOATS)
def test_minimum_and_maximum_keep_nan(ops: Operations, dtype: str) -> None:
    a, b = pairs(dtype)
    np.testing.assert_array_equal(ops.binary(f"max_{dtype}", a, b, DTYPES[dtype]), np.maximum(a, b))
    np.testing.assert_array_equal(ops.binary(f"min_{dtype}", a, b, DTYPES[dtype]), np.minimum(a, b))
    np.testing.assert_array_equal(ops.unary(f"relu_{dtype}", a, DTYPES[dtype]), np.maximum(a, 0))
    number = np.where(np.isnan(a), -1, a).astype(a.dtype)
    np.testing.assert_array_equal(ops.binary(f"maxk_{dtype}", number, b, DTYPES[dtype]), np.maximum(number, b))
    np.testing.assert_array_equal(ops.binary(f"mink_{dtype}", number, b, DTYPES[dtype]), np.minimum(number, b))


@pytest.mark.parametrize("dtype", DTYPES)
def test_comparisons_and_select(ops: Operations, dtype: str) -> None:
    a, b = pairs(dtype)
    for name, reference in COMPARISONS.items():
        np.testing.assert_array_equal(ops.binary(f"{name}_{dtype}", a, b, np.uint8), reference(a, b), name)
    n = a.size // ops.lanes * ops.lanes
    mask = (np.arange(n) * 7 % 3).astype(np.uint8)  # 0, 1 and 2: any nonzero byte is true
    out = np.empty(n, DTYPES[dtype])
    ops.call(f"select_{dtype}", mask, a, b, out, n)
    np.testing.assert_array_equal(out, np.where(mask != 0, a[:n], b[:n]))


def saturated(v: Array, target: type) -> Array:
    """Float to integer: truncated, held at the ends, NaN to 0."""
    info = np.iinfo(target)

    def one(x: float) -> int:
        if math.isnan(x):
            return 0
        return info.max if x >= info.max else info.min if x <= info.min else math.trunc(x)

    return np.array([one(x) for x in v.tolist()], target)


@pytest.mark.parametrize("source", DTYPES)
def test_casts(ops: Operations, source: str) -> None:
    v = values(source)
    for target, dtype in DTYPES.items():
        with np.errstate(all="ignore"):
            want = saturated(v, dtype) if source in FLOATS and target in INTS else v.astype(dtype)
        np.testing.assert_array_equal(ops.unary(f"cast_{source}_{target}", v, dtype), want, target)
    np.testing.assert_array_equal(ops.unary(f"cast_{source}_bool", v, np.uint8), v.astype(bool))
    flags = np.array([0, 1, 2, 255, 0], np.uint8)
    np.testing.assert_array_equal(ops.unary(f"cast_bool_{source}", flags, DTYPES[source]), flags.astype(bool))


def tree(v: list, combine: Callable) -> float:
    """Lane i with lane i + h for h = half the lanes, a quarter, ... one."""
    while len(v) > 1:
        half = len(v) // 2
        v = [combine(v[i], v[i + half]) for i in range(half)]
    return v[0]


@pytest.mark.parametrize("dtype", DTYPES)
def test_horizontal_reductions_have_a_fixed_order(ops: Operations, dtype: str) -> None:
    rng = np.random.default_rng(5)
    for trial in range(8):
        v = rng.integers(0, 100, ops.lanes).astype(DTYPES[dtype])
        if dtype in FLOATS:
            v = np.exp(rng.normal(size=ops.lanes) * 9).astype(DTYPES[dtype])
        if dtype in FLOATS and trial == 7:
            v[trial % ops.lanes] = np.nan
        out = np.empty(4, DTYPES[dtype])
        ops.call(f"horizontal_{dtype}", v, out)
        with np.errstate(all="ignore"):
            want = [tree(list(v), f) for f in (np.add, np.multiply, np.maximum, np.minimum)]
        np.testing.assert_array_equal(out, np.array(want))


@pytest.mark.parametrize("dtype", [*DTYPES, "bool"])
def test_strided_access(ops: Operations, dtype: str) -> None:
    element = DTYPES.get(dtype, np.uint8)
    source = (np.arange(400) % (2 if dtype == "bool" else 100)).astype(element)
    for start, to in itertools.product((1, 3, 0, -2), (1, 2, -3)):
        for n in range(ops.lanes + 1):
            out = np.full(200, 77, element)
            first, origin = source[100:], out[100:]
            ops.call(f"strided_{dtype}", first, start, origin, to, n)
            want = np.full(200, 77, element)
            for i in range(n):
                want[100 + i * to] = source[100 + i * start]
            np.testing.assert_array_equal(out, want)


@pytest.mark.parametrize("dtype", DTYPES)
def test_partial_vectors(ops: Operations, dtype: str) -> None:
    element = DTYPES[dtype]
    source = np.arange(1, ops.lanes + 1).astype(element)
    for n in range(ops.lanes):
        out = np.full(ops.lanes, 77, element)
        ops.call(f"partial_{dtype}", source, out, n)
        np.testing.assert_array_equal(out, np.where(np.arange(ops.lanes) < n, source, 0))
        out = np.full(ops.lanes, 77, element)
        ops.call(f"partial_store_{dtype}", source, out, n)
        np.testing.assert_array_equal(out, np.where(np.arange(ops.lanes) < n, source, 77))


@pytest.mark.parametrize("dtype", FLOATS)
def test_splat_keeps_the_sign_of_zero(ops: Operations, dtype: str) -> None:
    for x in (-0.0, 0.0, np.nan, -np.inf, 1.5):
        out = np.empty(ops.lanes, DTYPES[dtype])
        ops.call(f"splat_{dtype}", np.array([x], DTYPES[dtype]), out)
        check(out, np.full(ops.lanes, x, DTYPES[dtype]))


def test_bool_logic(ops: Operations) -> None:
    a = np.array([0, 1, 2, 255] * 9, np.uint8)
    b = np.repeat(np.array([0, 1, 3], np.uint8), 12)
    p, q = a != 0, b != 0
    for name, want in {"and": p & q, "or": p | q, "xor": p ^ q, "eq": p == q, "ne": p != q}.items():
        np.testing.assert_array_equal(ops.binary(f"{name}_bool", a, b, np.uint8), want, name)
    np.testing.assert_array_equal(ops.unary("not_bool", a, np.uint8), ~p)
    out = np.empty(2, np.uint8)
    for ones in range(ops.lanes + 1):
        mask = (np.arange(ops.lanes) < ones).astype(np.uint8)
        ops.call("any_all", mask, out)
        assert out.tolist() == [ones > 0, ones == ops.lanes]
        first = np.empty(ops.lanes, np.uint8)
        ops.call("first", ones, first)
        np.testing.assert_array_equal(first, mask)


def test_index_maths(ops: Operations) -> None:
    out = np.empty(5, np.int64)
    for a, b in itertools.product((-7, -6, -1, 0, 1, 5, 6, 7, -(2**63), 2**63 - 1), (1, 2, 3, 7, 2**40)):
        ops.call("index_maths", a, b, out)
        assert out.tolist() == [a // b, a % b, min(a, b), max(a, b), max(0, min(a, b))]


def test_index_from_float(ops: Operations) -> None:
    cases = {1.9: 1, -1.9: -1, math.nan: 0, math.inf: 2**63 - 1, -math.inf: -(2**63), 1e300: 2**63 - 1, 2.0**53: 2**53}
    assert {x: ops.to_int64(x) for x in cases} == cases


def test_float64_functions_are_libm(ops: Operations) -> None:
    x = np.linspace(-3, 3, 101)
    names = {
        "exp": np.exp, "exp2": np.exp2, "expm1": np.expm1, "tanh": np.tanh, "sin": np.sin, "cos": np.cos, "tan": np.tan,
        "atan": np.arctan, "sinh": np.sinh, "cosh": np.cosh, "asinh": np.arcsinh,
        "asin": np.arcsin, "acos": np.arccos, "atanh": np.arctanh, "log": np.log, "log1p": np.log1p,
        "acosh": np.arccosh, "erf": np.vectorize(math.erf), "sigmoid": lambda v: 1 / (1 + np.exp(-v)),
        "softplus": lambda v: np.log1p(np.exp(v)),
    }  # fmt: skip
    with np.errstate(all="ignore"):
        for name, reference in names.items():
            got = ops.unary(f"{name}_f64", x, np.float64)
            np.testing.assert_allclose(got, reference(x), rtol=1e-14, atol=1e-16, err_msg=name)
        far = np.array([-800.0, -745.0, 800.0, np.inf, -np.inf])
        np.testing.assert_array_equal(ops.unary("sigmoid_f64", far, np.float64), [0, 5e-324, 1, 1, 0])
        np.testing.assert_array_equal(ops.unary("softplus_f64", far, np.float64), [0, 5e-324, 800, np.inf, 0])


def test_lookup(ops: Operations) -> None:
    table = np.random.default_rng(4).normal(size=64)[16:48].astype(np.float32)
    spread = np.array([0, 15, 16, 31, 32, -1, 2**31 - 1, -(2**31), 7, 24, 1000, -17, 3, 12, 20, 28], np.int32)
    for k in (spread[: ops.lanes], spread[-ops.lanes :].copy()):
        small, large = np.empty(ops.lanes, np.float32), np.empty(ops.lanes, np.float32)
        ops.call("lookup", table, k, small, large)
        np.testing.assert_array_equal(small, table[k & 15])
        np.testing.assert_array_equal(large, table[k & 31])


def test_limit(ops: Operations) -> None:
    a = values("f32")
    for m in (0.5, 1.0, 300.0):
        limit = np.full_like(a, m)
        with np.errstate(invalid="ignore"):
            want = np.where(np.abs(a) <= limit, a, np.copysign(limit, a))
        check(ops.binary("limit_f32", a, limit, np.float32), want)


def test_scalef(ops: Operations) -> None:
    n = np.array([0, -0.0, 0.5, -0.5, 3.9, -3.9, 127, 127.9, 128, 129, -126, -127, -130.25, -149, -150, -151, 250, -260,
                  1e9, -1e9, 1e30, -1e30, np.inf, -np.inf, np.nan], np.float32)  # fmt: skip
    for p in (1.0, -1.5, 1.9999999, 0.70710677):
        with np.errstate(over="ignore", invalid="ignore"):
            want = (np.float64(p) * np.exp2(np.floor(np.clip(n.astype(np.float64), -1000, 1000)))).astype(np.float32)
        check(ops.binary("scalef_f32", np.full_like(n, p), n, np.float32), np.where(np.isnan(n), n, want))
