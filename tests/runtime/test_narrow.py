"""Every primitive of gf_narrow.h against NumPy and ml_dtypes: every code, every edge of rounding, random numbers."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

from graphfuse.graph.dtypes import BF16, E8M0, F16, FLOAT8
from graphfuse.ops.conversion import cast
from runtime.native import HERE, Array, Operations, compile_library, variants

HALVES = {"f16": np.dtype(np.float16), "bf16": np.dtype(ml_dtypes.bfloat16)}
FLOATS8 = {
    "e4m3fn": ml_dtypes.float8_e4m3fn, "e4m3fnuz": ml_dtypes.float8_e4m3fnuz,
    "e5m2": ml_dtypes.float8_e5m2, "e5m2fnuz": ml_dtypes.float8_e5m2fnuz,
}  # fmt: skip


@pytest.fixture(scope="module", params=variants(), ids=str)
def library(request: pytest.FixtureRequest, object_folder: Path) -> Operations:
    return Operations(compile_library(request.param, HERE / "narrow_ops.c", object_folder))


@pytest.fixture
def ops(library: Operations, capfd: pytest.CaptureFixture[str]) -> Iterator[Operations]:
    """The library; undefined behaviour that the sanitizer saw fails the test."""
    yield library
    assert "runtime error" not in capfd.readouterr().err


def every(kind: object, bits: int) -> Array:
    return np.arange(2**bits, dtype=np.uint16 if bits > 8 else np.uint8).view(kind)


def edges(codes: Array) -> Array:
    """Every number of a type, the middle between each two neighbours, and the float32 next to either side of it."""
    numbers = np.unique(codes.astype(np.float32)[np.isfinite(codes.astype(np.float32))])
    middle = ((numbers[1:].astype(np.float64) + numbers[:-1].astype(np.float64)) / 2).astype(np.float32)
    around = [middle, np.nextafter(middle, np.float32(np.inf)), np.nextafter(middle, np.float32(-np.inf))]
    past = numbers[-1] * np.array([1.01, 1.03125, 1.07, 1.25, 2, 1000], np.float64)
    special = [0.0, -0.0, np.nan, np.inf, -np.inf, 3.4028235e38, 1e-45, -1e-45, 1.1754944e-38]
    with np.errstate(over="ignore", invalid="ignore"):
        return np.concatenate([numbers, -numbers, *around, past, -past, np.array(special)]).astype(np.float32)


def same(got: Array, want: Array) -> None:
    """The same bits, but for NaN's."""
    number = ~np.isnan(want.astype(np.float32))
    np.testing.assert_array_equal(np.isnan(got.astype(np.float32)), ~number)
    np.testing.assert_array_equal(got[number].view(f"u{got.itemsize}"), want[number].view(f"u{want.itemsize}"))


@pytest.mark.parametrize("name", HALVES)
def test_halves(ops: Operations, name: str) -> None:
    codes = every(HALVES[name], 16)
    same(ops.unary(f"of_{name}", codes.view(np.uint16), np.float32), codes.astype(np.float32))
    x = edges(codes)
    with np.errstate(over="ignore", invalid="ignore"):
        want = x.astype(HALVES[name])
    same(ops.unary(f"to_{name}", x, np.uint16).view(HALVES[name]), want)
    same(ops.unary(f"round_{name}", x, np.float32), want.astype(np.float32))


@pytest.mark.parametrize("name", HALVES)
def test_wide_numbers_are_rounded_once(ops: Operations, name: str) -> None:
    kind, target = HALVES[name], {"f16": F16, "bf16": BF16}[name]
    near = edges(every(kind, 16)).astype(np.float64)
    x = np.concatenate([near, np.nextafter(near, np.inf), np.nextafter(near, -np.inf), [1e300, -1e300, 1e-300]])
    with np.errstate(over="ignore", invalid="ignore"):
        same(ops.unary(f"f64_{name}", x, np.uint16).view(kind), cast(x, target))
    for width in (np.int32, np.uint32, np.int64, np.uint64):
        limits = np.iinfo(width)
        exponents = 2 ** np.arange(limits.bits - 2, dtype=np.uint64)
        odd = np.concatenate([exponents * np.uint64(3) // np.uint64(2) + np.uint64(k) for k in (0, 1, 2)])
        odd = np.concatenate([odd, exponents + exponents // np.uint64(256), odd - np.uint64(1)])
        values = np.concatenate([odd.astype(width), np.array([limits.min, limits.max, 65519, 65520], width)])
        with np.errstate(over="ignore", invalid="ignore"):
            same(
                ops.unary(f"{np.dtype(width).str[1:2]}{limits.bits}_{name}", values, np.uint16).view(kind),
                cast(values, target),
            )


@pytest.mark.parametrize("name", HALVES)
def test_memory(ops: Operations, name: str) -> None:
    lanes = ops.lanes
    a = np.linspace(-3, 3, 3 * lanes).astype(HALVES[name])
    bits = a.view(np.uint16)
    for n in range(lanes + 1):
        out = np.full(2 * lanes, 7, np.uint16)
        ops.call(f"strided_{name}", bits, 3, out, 2, n)
        np.testing.assert_array_equal(out[: 2 * n : 2], bits[: 3 * n : 3])
        assert (out[2 * n :] == 7).all()
        assert (out[1 : 2 * n : 2] == 7).all()
    for n in range(lanes):
        out = np.full(lanes, 7, np.uint16)
        ops.call(f"partial_{name}", bits, out, n)
        np.testing.assert_array_equal(out, [*bits[:n], *[7] * (lanes - n)])
    out = np.zeros(lanes, np.uint16)
    ops.call(f"whole_{name}", bits, out)
    np.testing.assert_array_equal(out, bits[:lanes])
    splat = np.zeros(lanes, np.float32)
    ops.call(f"splat_{name}", bits, splat)
    np.testing.assert_array_equal(splat, np.full(lanes, a[0].astype(np.float32)))


@pytest.mark.parametrize("name", FLOATS8)
def test_float8(ops: Operations, name: str) -> None:
    kind = np.dtype(FLOATS8[name])
    target = next(t for t in FLOAT8 if t.numpy() == kind)
    codes = every(kind, 8)
    same(ops.unary(f"of_{name}", codes.view(np.uint8), np.float32), codes.astype(np.float32))
    x = edges(codes)
    same(ops.unary(f"to_{name}", x, np.uint8).view(kind), cast(x, target, True))
    same(ops.unary(f"open_{name}", x, np.uint8).view(kind), x.astype(kind))


def test_float4(ops: Operations) -> None:
    kind = np.dtype(ml_dtypes.float4_e2m1fn)
    codes = every(kind, 4)
    same(ops.unary("of_e2m1", codes.view(np.uint8), np.float32), codes.astype(np.float32))
    x = edges(codes)
    x = x[~np.isnan(x)]
    same(ops.unary("to_e2m1", x, np.uint8).view(kind), x.astype(kind))
    assert ops.unary("to_e2m1", np.array([np.nan], np.float32), np.uint8) == [8]


def test_powers_of_two(ops: Operations) -> None:
    kind = np.dtype(ml_dtypes.float8_e8m0fnu)
    codes = every(kind, 8)
    same(ops.unary("of_e8m0", codes.view(np.uint8), np.float32), codes.astype(np.float32))
    x = np.abs(edges(codes))
    for mode in ("up", "nearest", "down"):
        same(ops.unary(f"{mode}_e8m0", x, np.uint8).view(kind), cast(x, E8M0, True, mode))
    same(ops.unary("open_e8m0", x, np.uint8).view(kind), cast(x, E8M0, False, "nearest"))
    # what ONNX's table says
    table = np.array([0.0, np.nan, np.inf, 3.4e38, 1e-45], np.float32)
    assert ops.unary("up_e8m0", table, np.uint8).tolist() == [0, 255, 254, 254, 0]
    assert ops.unary("open_e8m0", table, np.uint8).tolist() == [255] * 5


def test_small_integers(ops: Operations) -> None:
    low, high = np.arange(16, dtype=np.uint8), np.arange(256, dtype=np.uint8)
    assert ops.unary("of_i4", low, np.int8).tolist() == [*range(8), *range(-8, 0)]
    assert ops.unary("of_u4", low, np.uint8).tolist() == [*range(16)]
    assert ops.unary("of_i2", low[:4], np.int8).tolist() == [0, 1, -2, -1]
    assert ops.unary("of_u2", low[:4], np.uint8).tolist() == [0, 1, 2, 3]
    # bits above those of the type do not count
    np.testing.assert_array_equal(ops.unary("of_i4", high, np.int8), ((high.astype(int) & 15) ^ 8) - 8)
    assert ops.unary("low4_i32", np.array([-9, 300, 15], np.int32), np.uint8).tolist() == [7, 12, 15]
    assert ops.unary("low2_u64", np.array([2**63 + 3, 4], np.uint64), np.uint8).tolist() == [3, 0]
