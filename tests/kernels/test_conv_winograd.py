"""Winograd convolutions: exact transforms, every shape against float64 within a derived bound, NaN and infinity.

What the method can and cannot promise. All pixels of a tile come from sums over its whole (m+2) x (m+2) input:

- Errors are relative to the largest numbers in the tile, not to those under a pixel's own window.
- A pixel that is NaN or infinite spoils outputs of the tiles that read it, and nothing else. An output whose window
  holds it is NaN or the infinity that ONNX wants; its neighbours in the tile, finite by ONNX, are right or NaN: there
  is never a wrong number. Finite pixels that a transform overflows on (F4: from a sixteenth of the largest float)
  behave like infinity.
- Weights that are not finite are refused: an output channel would be NaN where ONNX wants infinities.
"""

from __future__ import annotations

import copy
import struct
import subprocess
from collections.abc import Sequence
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import sympy

from graphfuse.graph.dims import add, evaluate
from graphfuse.graph.dtypes import F64
from graphfuse.kernels import conv_direct
from graphfuse.kernels.conv_winograd import KERNEL, tile_size, transforms
from graphfuse.kernels.window import geometry
from graphfuse.ops.tensor import Window
from graphfuse.plan.site import Kernel, Packed
from graphfuse.runtime.preamble import preamble
from graphfuse.toolchain.compiler import find_compiler

from .cases import conv, window
from .harness import (
    BIAS_RELU,
    GUARD,
    PLAIN,
    SWISH_GATE,
    X86,
    Built,
    Case,
    Configuration,
    Epilogue,
    Memory,
    build,
    callable_kernel,
    configurations,
    emit,
    every_configuration,
    reference,
    view_of,
)
from .test_sanitized import FLAGS, describe

B, H, W = sympy.symbols("B H W", integer=True, positive=True)
NCHW = (0, 1, 2, 3)
UNIT = 2.0**-24  # unit roundoff of float32
RESIDUAL = Epilogue(lambda acc, load, lib: lib.maximum(acc + load("channel") + load("full"), 0), ("channel", "full"))
# How much an epilogue enlarges the error of its sum: the slope of swish is below 1.1, and gates here are below 4.5.
SLOPE = {SWISH_GATE: 5.0}


def pads(top: int, left: int, bottom: int, right: int) -> Window:
    return window((3, 3), pads=((top, left), (bottom, right)))


NONE, SAME = pads(0, 0, 0, 0), pads(1, 1, 1, 1)


def residual_in_a_slice(case: Case) -> Case:
    """The residual lies in a larger buffer than the output."""
    leaf = case.site().views.keys() & {case.leaves["full"]}
    for t in leaf:
        case.site().views[t] = view_of(t, case.residual_order, gap=7, offset=5)
    return case


CASES: dict[str, Case] = {
    **{
        f"{n}x{c}x{h}x{w} -> {o}": conv((n, c, h, w), o, where, epilogue=e)
        for n, c, h, w, o, where, e in (
            (1, 16, 1, 1, 16, SAME, PLAIN),
            (1, 17, 1, 17, 33, SAME, BIAS_RELU),
            (2, 24, 3, 5, 17, SAME, RESIDUAL),
            (1, 31, 5, 33, 24, SAME, RESIDUAL),
            (3, 40, 7, 7, 48, SAME, RESIDUAL),
            (1, 64, 13, 14, 33, SAME, BIAS_RELU),
            (3, 31, 14, 14, 17, NONE, RESIDUAL),
            (2, 16, 14, 13, 17, NONE, RESIDUAL),
            (1, 40, 3, 3, 24, NONE, BIAS_RELU),
            (2, 17, 17, 3, 48, NONE, RESIDUAL),
            (1, 24, 33, 7, 16, SAME, RESIDUAL),
            (1, 64, 33, 65, 48, SAME, RESIDUAL),
        )
    },
    "whole tiles of 4": conv((1, 16, 16, 12), 17, SAME, epilogue=RESIDUAL),
    "whole tiles of 2": conv((1, 16, 8, 6), 17, SAME, epilogue=RESIDUAL),
    "whole tiles, long epilogue": conv((1, 16, 16, 12), 17, SAME, epilogue=SWISH_GATE),
    "several panels": conv((1, 17, 13, 7), 145, SAME, epilogue=RESIDUAL),
    "padded above and left": conv((2, 17, 13, 7), 17, pads(1, 1, 0, 0), epilogue=RESIDUAL),
    "padded below and right": conv((2, 17, 13, 7), 17, pads(0, 0, 1, 1), epilogue=RESIDUAL),
    "lines padded only": conv((1, 16, 13, 7), 17, pads(0, 1, 0, 1), epilogue=RESIDUAL),
    "asymmetric": conv((1, 31, 5, 14), 17, pads(2, 0, 1, 3), epilogue=RESIDUAL),
    "padding wider than the window": conv((1, 16, 3, 1), 17, pads(5, 4, 4, 6), epilogue=RESIDUAL),
    "slices": conv((2, 17, 13, 7), 17, SAME, epilogue=RESIDUAL, gap=5, offset=3),
    "residual in a slice": residual_in_a_slice(conv((2, 24, 7, 13), 24, SAME, epilogue=RESIDUAL)),
    "NCHW out": conv((2, 17, 13, 7), 33, SAME, epilogue=RESIDUAL, out_order=NCHW),
    "NCHW residual": conv((2, 17, 13, 7), 33, SAME, epilogue=RESIDUAL, residual_order=NCHW),
    "columns before lines": conv((2, 17, 13, 7), 33, SAME, epilogue=RESIDUAL, x_order=(3, 2, 0, 1)),
    "a volume one image deep": conv(
        (1, 16, 1, 13, 7), 17, window((1, 3, 3), pads=((0, 1, 1), (0, 1, 1))), epilogue=RESIDUAL
    ),
    "a volume one image high": conv(
        (2, 16, 13, 1, 7), 17, window((3, 1, 3), pads=((1, 0, 1), (1, 0, 1))), epilogue=RESIDUAL
    ),
    "unknown batch": conv((B, 17, 13, 7), 17, SAME, epilogue=RESIDUAL, env={"B": 3}),
    "unknown size": conv((B, 24, H, W), 33, SAME, epilogue=RESIDUAL, env={"B": 2, "H": 13, "W": 17}),
    "unknown size, slices": conv(
        (B, 17, H, W), 17, pads(1, 0, 0, 1), epilogue=RESIDUAL, gap=5, offset=3, env={"B": 2, "H": 5, "W": 3}
    ),
    "unknown size, no padding": conv((1, 16, H, H), 17, NONE, epilogue=RESIDUAL, env={"H": 13}),
    "unknown padding": conv(
        (1, 16, 9, 7), 17, window((3, 3), pads=((H, 1), (1, H))), epilogue=RESIDUAL, env={"H": 2}
    ),
}  # fmt: skip


# ---------------------------------------------------------------- the transforms


@pytest.mark.parametrize("m", [2, 4])
def test_transforms_are_exact(m: int) -> None:
    """output @ ((weights g) * (data d)) is bilinear in g and d, so equality for all unit vectors is a proof."""
    output, weights, data = transforms(m)
    a = m + 2
    assert all(float(np.float32(c)) == c for row in data for c in row)
    assert all(1 <= max(map(abs, row)) < 2 for row in data)
    for i in range(3):
        for j in range(a):
            got = [sum(output[k][p] * weights[p][i] * data[p][j] for p in range(a)) for k in range(m)]
            assert got == [Fraction(j == k + i) for k in range(m)]


@pytest.mark.parametrize("m", [2, 4])
def test_two_dimensions_are_the_transform_of_both(m: int) -> None:
    output, weights, data = (np.array(t, dtype=object) for t in transforms(m))
    rng = np.random.default_rng(m)
    g, d = (np.vectorize(Fraction)(rng.integers(-9, 9, shape)) for shape in ((3, 3), (m + 2, m + 2)))
    got = output @ ((weights @ g @ weights.T) * (data @ d @ data.T)) @ output.T
    wanted = [[(g * d[y : y + 3, x : x + 3]).sum() for x in range(m)] for y in range(m)]
    assert got.tolist() == wanted


def test_weights_are_rounded_once() -> None:
    case = conv((1, 16, 28, 28), 16, SAME)
    (w,) = case.constants.values()
    (packed,) = (p for p in emit(case, KERNEL, X86).pointers if isinstance(p, Packed))
    first = packed.arrange(w).reshape(6, 6, -1)[:, :, 0]
    _, g, _ = transforms(4)
    taps = [[Fraction(float(tap)) for tap in row] for row in w[0, 0]]
    for p, q in np.ndindex(6, 6):
        exact = sum(g[p][i] * taps[i][j] * g[q][j] for i in range(3) for j in range(3))
        half = Fraction(float(np.spacing(abs(first[p, q])))) / 2
        assert abs(Fraction(float(first[p, q])) - exact) <= half * Fraction(10001, 10000)


# ---------------------------------------------------------------- the kernel


def bound(case: Case) -> np.ndarray:
    """How far each sum may be from the exact one, to first order, whatever the order of operations.

    With A, G, D the output, weight and input transforms: (C + 17) u |A| sum_c(|G||w||G|' * |D||x||D|') |A|'. On the
    way to an output an element is rounded at most 3 times in each dimension of the input's transform, once as a
    weight, C times in product and sums, 5 times in each dimension of the output's transform.
    """
    g, m = geometry(case.site()), tile_size(geometry(case.site()))
    x, w = operands(case)
    image = np.abs(x).reshape(*x.shape[:2], *(evaluate(d, case.env) for d in g.size[1:]))
    spatial, before = ([evaluate(d, case.env) for d in dims[1:]] for dims in (g.out, g.before))
    reach = [-(-n // m) * m + 2 for n in spatial]
    after = [max(0, r - b - n) for r, b, n in zip(reach, before, image.shape[2:], strict=True)]
    image = np.pad(image, [(0, 0), (0, 0), *zip(before, after, strict=True)])[:, :, : reach[0], : reach[1]]
    output, weights, data = (np.abs(np.array(t, np.float64)) for t in transforms(m))
    tiles = np.lib.stride_tricks.sliding_window_view(image, (m + 2, m + 2), (2, 3))[:, :, ::m, ::m]
    taps = weights @ np.abs(w).reshape(*w.shape[:2], 3, 3) @ weights.T
    sums = output @ np.einsum("ncyxpq,ocpq->noyxpq", data @ tiles @ data.T, taps, optimize=True) @ output.T
    whole = sums.transpose(0, 1, 2, 4, 3, 5).reshape(*sums.shape[:2], reach[0] - 2, reach[1] - 2)
    pixels = whole[:, :, : spatial[0], : spatial[1]]
    return (x.shape[1] + 17) * UNIT * pixels.reshape([evaluate(d, case.env) for d in case.out.shape])


def operands(case: Case) -> tuple[np.ndarray, np.ndarray]:
    """Input and weights in float64."""
    x, w = case.args
    return Memory(case).strided(case.views[x]).astype(np.float64), case.constants[w].astype(np.float64)


def check_error(case: Case, actual: np.ndarray) -> None:
    """Fails where a result is farther from the reference than its bound; an epilogue adds two roundings."""
    expected = reference(case)
    allowed = SLOPE.get(case.epilogue, 1.0) * (1.1 * bound(case) + 16 * UNIT)
    worst = np.max(np.abs(actual - expected) / allowed)  # NaN is not below 1
    assert worst <= 1, f"{worst:.3g} times the bound, {np.abs(actual - expected).max():.3g} off"


def check(built: Built) -> None:
    """A case whole and split, against the reference."""
    whole = built.run()
    check_error(built.case, whole)
    for split in built.splits():
        assert np.array_equal(whole, built.run(split)), f"other bits when split as {split}"


def at(built: Built, **env: int) -> Built:
    """The same code for other sizes."""
    case = copy.copy(built.case)
    case.env = env
    return Built(case, built.code, built.function)


def build_one(case: Case, configuration: Configuration, kernel: Kernel = KERNEL) -> Built:
    return build({"case": case}, kernel, configuration)["case"]


@every_configuration
def test_against_float64(configuration: Configuration, subtests: pytest.Subtests) -> None:
    for name, built in build(CASES, KERNEL, configuration).items():
        with subtests.test(msg=name):
            check(built)


@every_configuration
def test_one_code_for_every_size(configuration: Configuration, subtests: pytest.Subtests) -> None:
    built = build_one(CASES["unknown size"], configuration)
    for n, h, w in ((1, 1, 1), (3, 1, 14), (2, 33, 3), (1, 7, 17), (1, 14, 14), (2, 4, 8), (1, 40, 72)):
        with subtests.test(msg=f"{n} images of {h}x{w}"):
            check(at(built, B=n, H=h, W=w))


@every_configuration
def test_every_split_gives_the_same_bits(configuration: Configuration) -> None:
    built = build_one(conv((2, 16, 17, 14), 145, SAME, epilogue=RESIDUAL), configuration)
    rows, columns = built.rows, built.columns
    assert (rows, built.code.row_grain, built.code.column_grain) == (10, 1, 1)
    assert columns > 1
    whole = built.run()
    pieces = [(r, r + 1, c, c + 1) for c in reversed(range(columns)) for r in reversed(range(rows))]
    assert np.array_equal(whole, built.run(pieces))
    # Each element is written by one piece alone: memory is full of NaN before.
    assert (sum(~np.isnan(built.run([piece])) for piece in pieces) == 1).all()
    for k in range(1, rows):
        assert np.array_equal(whole, built.run([(k, rows, 0, columns), (0, k, 0, columns)])), f"rows cut at {k}"
    for k in range(1, columns):
        assert np.array_equal(whole, built.run([(0, rows, k, columns), (0, rows, 0, k)])), f"columns cut at {k}"


def test_tiles_are_large_where_there_are_enough() -> None:
    def size(case: Case) -> int:
        return tile_size(geometry(case.site()))

    assert size(conv((1, 16, 8, 8), 16, SAME)) == 2
    assert size(conv((3, 16, 8, 8), 16, SAME)) == 4
    assert size(conv((1, 16, 12, 13), 16, SAME)) == 4
    assert size(CASES["unknown size"]) == 4


def test_rows_in() -> None:
    """Lines of the input under rows of tiles, padding not cut off."""
    large, small = conv((1, 16, 28, 28), 16, SAME).site(), conv((1, 16, 7, 7), 16, pads(2, 0, 0, 0)).site()
    assert KERNEL.rows_in(large, 0, 1) == (-1, 5)
    assert KERNEL.rows_in(large, 3, 7) == (11, 29)
    assert KERNEL.rows_in(small, 0, 1) == (-2, 2)
    assert KERNEL.rows_in(small, 1, 3) == (0, 6)


# ---------------------------------------------------------------- accuracy


# Largest error of F2 and F4: in units of u times the largest sum of |w||x| (1.5 and 37 were seen), and in terms of the
# direct convolution's own largest error on the same numbers (0.9 and 11).
ACCURACY = {2: (4, 2), 4: (64, 16)}


@pytest.mark.parametrize("channels", [16, 128])
@pytest.mark.parametrize("size, m", [(8, 2), (28, 4)])
@every_configuration
def test_accuracy(configuration: Configuration, size: int, m: int, channels: int) -> None:
    case = conv((1, channels, size, size), 32, SAME)
    assert tile_size(geometry(case.site())) == m
    exact = reference(case)
    error = np.abs(build_one(case, configuration).run() - exact).max()
    direct = np.abs(build_one(case, configuration, conv_direct.KERNEL).run() - exact).max()
    magnitude = copy.copy(case)
    x, w = case.args
    magnitude.constants = {t: np.abs(v).astype(np.float32) for t, v in zip((x, w), operands(case), strict=True)}
    in_units, in_direct = ACCURACY[m]
    assert error <= in_units * UNIT * reference(magnitude).max()
    assert error <= in_direct * direct


@pytest.mark.parametrize("m, size", [(2, 7), (4, 17)])
def test_a_large_pixel_costs_its_tiles_their_digits(m: int, size: int) -> None:
    """And no more than the bound says; tiles that do not read it keep every bit."""
    case = conv((1, 16, size, size), 17, SAME)
    small = build_one(case, configurations()[0]).run()
    large = with_input(case, {(0, 3, size // 2, size // 2): 1e6})
    result = build_one(large, configurations()[0]).run()
    check_error(large, result)
    far = ~reads(large, size // 2, size // 2)
    assert np.array_equal(result[..., far], small[..., far])


# ---------------------------------------------------------------- NaN and infinity


def with_input(case: Case, pixels: dict[tuple[int, ...], float]) -> Case:
    """The case with these elements of the input changed."""
    changed = copy.copy(case)
    x = case.args[0]
    values = Memory(case).strided(case.views[x]).copy()
    for place, value in pixels.items():
        values[place] = value
    changed.constants = {**case.constants, x: values}
    return changed


def reads(case: Case, line: int, column: int) -> np.ndarray:
    """Which output pixels, by line and column, lie in tiles whose input holds a pixel."""
    m = tile_size(geometry(case.site()))
    masks = []
    for size, pad, place in zip(case.out.shape[2:], case.attrs.pads_before, (line, column), strict=True):
        first = np.arange(size) // m * m - pad
        masks.append((first <= place) & (place < first + m + 2))
    return np.outer(*masks)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf], ids=str)
@pytest.mark.parametrize("h, w, m", [(13, 14, 4), (5, 7, 2)])
@every_configuration
def test_pixels_that_are_not_finite(configuration: Configuration, h: int, w: int, m: int, value: float) -> None:
    case = conv((2, 17, h, w), 17, SAME)
    assert tile_size(geometry(case.site())) == m
    built = build_one(case, configuration)
    clean = built.run()
    for line, column in ((0, 0), (3, 2), (m, m), (h - 1, w - 1)):
        poisoned = with_input(case, {(1, 16, line, column): value})
        with np.errstate(invalid="ignore"):
            result, expected = Built(poisoned, built.code, built.function).run(), reference(poisoned)
        near = reads(poisoned, line, column)
        assert np.array_equal(result[0], clean[0])
        assert np.array_equal(result[1][:, ~near], clean[1][:, ~near])
        finite, infinite = np.isfinite(result), np.isinf(result)
        assert not finite[~np.isfinite(expected)].any()
        assert np.array_equal(result[infinite], expected[infinite])
        error = np.abs(result[finite] - expected[finite])
        assert (error <= bound(case)[finite]).all()


@every_configuration
def test_a_relu_does_not_hide_nan(configuration: Configuration) -> None:
    case = with_input(conv((1, 16, 13, 14), 17, SAME, epilogue=RESIDUAL), {(0, 5, 6, 6): np.nan})
    assert np.isnan(build_one(case, configuration).run()[0, :, 5:8, 5:8]).all()


# ---------------------------------------------------------------- refusals


def refusal_of(case: Case) -> str | None:
    return KERNEL.accepts(case.site(), X86)


def test_refusals_name_the_reason() -> None:
    assert refusal_of(conv((1, 16, 9, 9), 16, SAME)) is None
    assert refusal_of(conv((1, 16, 9, 9), 16, SAME, dtype=F64)) == "no conv of DOUBLE"
    assert refusal_of(conv((1, 16, 9, 9), 16, window((5, 5)))) == "the window is 5x5, not 3x3"
    assert refusal_of(conv((1, 16, 9, 9), 16, window((1, 3)))) == "the window is 1x3, not 3x3"
    assert refusal_of(conv((1, 16, 9), 16, window((3,)))) == "the window is 3, not 3x3"
    assert refusal_of(conv((1, 16, 5, 9, 9), 16, window((3, 3, 3)))) == "the window is 3x3x3, not 3x3"
    for other in (window((3, 3), strides=(1, 2)), window((3, 3), dilations=(2, 1)), window((3, 3), groups=2)):
        assert refusal_of(conv((1, 32, 9, 9), 32, other)) == "stride, dilation or groups"
    assert refusal_of(conv((1, 16, 9, 9), 16, SAME, x_order=NCHW)) == "the channels are not the innermost axis"
    assert refusal_of(conv((1, 7, 9, 9), 16, SAME)) == "fewer channels than lanes"
    assert refusal_of(conv((1, 16, 9, 9), 7, SAME)) == "fewer channels than lanes"
    assert refusal_of(conv((1, 16, 9, 9), 16, pads(-1, 0, 0, 0))) == "negative padding"
    unknown = conv((1, 16, 9, 9), 16, SAME)
    unknown.constants.clear()
    assert refusal_of(unknown) == "the weights are not known at compile time"


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf], ids=str)
def test_weights_that_are_not_finite_are_refused(value: float) -> None:
    case = conv((1, 16, 9, 9), 16, SAME)
    case.constants[case.args[1]][3, 2, 1, 0] = value
    assert refusal_of(case) == "a weight is NaN or infinite"


# ---------------------------------------------------------------- memory

SANITIZED = (
    "2x24x3x5 -> 17", "whole tiles of 4", "asymmetric", "padding wider than the window", "slices",
    "unknown size, slices",
)  # fmt: skip
WITH_GCC = [c for c in configurations() if c.cc == "gcc"]


def run_sanitized(
    cases: Sequence[Case], configuration: Configuration, folder: Path, more_rows: int = 0
) -> subprocess.CompletedProcess[str]:
    """Runs all cases in a program under the sanitizers; the outputs, one after another, are its file "out"."""
    target = configuration.target
    codes = [emit(case, KERNEL, target) for case in cases]
    codes = [replace(code, rows=add(code.rows, more_rows)) for code in codes]
    functions = "".join(callable_kernel(code, f"call_{k}") for k, code in enumerate(codes))
    table = ", ".join(f"call_{k}" for k in range(len(codes)))
    text = preamble(target.lanes, amalgamated=True) + functions + f"static const gf_kernel kernels[] = {{{table}}};\n"
    (folder / "cases.c").write_text(text + (Path(__file__).parent / "driver.c").read_text())
    compiler = find_compiler("gcc", target)
    command = [*compiler.argv, "cases.c", "-o", "cases", *compiler.compile_flags(target, FLAGS), "-lm"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[:4000]
    described = [describe(k, case, code) for k, (case, code) in enumerate(zip(cases, codes, strict=True))]
    (folder / "in").write_bytes(struct.pack("<q", len(described)) + b"".join(described))
    return subprocess.run(["./cases", "in", "out"], cwd=folder, capture_output=True, text=True)


@pytest.mark.sanitize
@pytest.mark.skipif(not WITH_GCC, reason="the sanitizers come with gcc")
@pytest.mark.parametrize("configuration", WITH_GCC, ids=lambda c: c.cpu)
def test_no_access_beyond_a_buffer(configuration: Configuration, tmp_path: Path) -> None:
    """Every buffer, packed weights and scratch too, has exactly its size."""
    cases = [CASES[name] for name in SANITIZED]
    done = run_sanitized(cases, configuration, tmp_path)
    assert done.returncode == 0, done.stderr[:4000]
    written = (tmp_path / "out").read_bytes()
    for case in cases:
        memory = Memory(case)
        buffer = memory.arrays[id(case.out_view.buffer)][GUARD:-GUARD]
        buffer[...] = np.frombuffer(written, buffer.dtype, buffer.size)
        written = written[buffer.nbytes :]
        check_error(case, memory.strided(case.out_view))
    assert not written


@pytest.mark.sanitize
@pytest.mark.skipif(not WITH_GCC, reason="the sanitizers come with gcc")
def test_the_sanitizer_sees_a_row_too_many(tmp_path: Path) -> None:
    done = run_sanitized([CASES["whole tiles of 4"]], WITH_GCC[-1], tmp_path, more_rows=1)
    assert done.returncode != 0
    assert "heap-buffer-overflow" in done.stderr
