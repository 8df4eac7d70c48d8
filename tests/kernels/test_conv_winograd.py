"""Winograd convolutions: exact transforms, every shape against float64 within a derived bound, NaN and infinity.

What the method can and cannot promise. All pixels of a tile come from sums over its whole input, two lines and two
pixels larger:

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
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import sympy

from graphfuse.graph.dims import add, evaluate
from graphfuse.graph.dtypes import F64
from graphfuse.kernels import conv_direct
from graphfuse.kernels.conv_winograd import KERNEL, SIZES, ConvWinograd
from graphfuse.kernels.window import geometry
from graphfuse.kernels.winograd import transforms
from graphfuse.ops.tensor import Window
from graphfuse.plan.site import Kernel, Packed
from graphfuse.runtime.preamble import preamble
from graphfuse.target import Target, target_for
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


def pads(top: int, left: int, bottom: int, right: int, stride: int = 1) -> Window:
    return window((3, 3), strides=(stride, stride), pads=((top, left), (bottom, right)))


NONE, SAME = pads(0, 0, 0, 0), pads(1, 1, 1, 1)
NONE_BY_2, SAME_BY_2 = pads(0, 0, 0, 0, 2), pads(1, 1, 1, 1, 2)


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
    **{
        f"{n}x{c}x{h}x{w} -> {o} by 2": conv((n, c, h, w), o, where, epilogue=RESIDUAL)
        for n, c, h, w, o, where in (
            (1, 17, 1, 1, 17, SAME_BY_2),
            (2, 31, 13, 14, 33, SAME_BY_2),
            (1, 16, 32, 16, 16, SAME_BY_2),
            (1, 24, 17, 33, 24, NONE_BY_2),
            (2, 16, 14, 3, 17, NONE_BY_2),
            (1, 17, 5, 7, 24, pads(2, 0, 1, 3, 2)),
        )
    },
    "unknown size by 2": conv((B, 17, H, W), 33, SAME_BY_2, epilogue=RESIDUAL, env={"B": 2, "H": 13, "W": 18}),
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


TRANSFORMS = [(2, 3, 1), (4, 3, 1), (3, 4, 1), (2, 3, 2), (4, 3, 2), (2, 7, 2), (1, 1, 2), (2, 5, 3)]


@pytest.mark.parametrize("m, taps, stride", TRANSFORMS)
def test_transforms_are_exact(m: int, taps: int, stride: int) -> None:
    """output @ ((weights g) * (data d)) is bilinear in g and d, so equality for all unit vectors is a proof."""
    output, weights, data = transforms(m, taps, stride)
    positions, pixels = len(data), len(data[0])
    assert pixels == stride * (m - 1) + taps
    assert all(float(np.float32(c)) == c for row in data for c in row)
    assert all(1 <= max(map(abs, row)) < 2 for row in data)
    for i in range(taps):
        for j in range(pixels):
            got = [sum(output[k][p] * weights[p][i] * data[p][j] for p in range(positions)) for k in range(m)]
            assert got == [Fraction(j == k * stride + i) for k in range(m)]


@pytest.mark.parametrize("m, taps, stride", TRANSFORMS)
def test_two_dimensions_are_the_transform_of_both(m: int, taps: int, stride: int) -> None:
    output, weights, data = (np.array(t, dtype=object) for t in transforms(m, taps, stride))
    rng = np.random.default_rng(m)
    pixels = data.shape[1]
    g, d = (np.vectorize(Fraction)(rng.integers(-9, 9, (size, size))) for size in (taps, pixels))
    got = output @ ((weights @ g @ weights.T) * (data @ d @ data.T)) @ output.T
    places = range(0, m * stride, stride)
    assert got.tolist() == [[(g * d[y : y + taps, x : x + taps]).sum() for x in places] for y in places]


def test_weights_are_rounded_once() -> None:
    case = conv((1, 16, 28, 28), 16, SAME)
    (w,) = case.constants.values()
    (packed,) = (p for p in emit(case, ConvWinograd([(4, 4)]), X86).pointers if isinstance(p, Packed))
    first = packed.arrange(w).reshape(6, 6, -1)[:, :, 0]
    _, g, _ = transforms(4, 3)
    taps = [[Fraction(float(tap)) for tap in row] for row in w[0, 0]]
    for p, q in np.ndindex(6, 6):
        exact = sum(g[p][i] * taps[i][j] * g[q][j] for i in range(3) for j in range(3))
        half = Fraction(float(np.spacing(abs(first[p, q])))) / 2
        assert abs(Fraction(float(first[p, q])) - exact) <= half * Fraction(10001, 10000)


# ---------------------------------------------------------------- the kernel


@dataclass(frozen=True)
class SmallCaches(Configuration):
    """So small that the sums of all positions do not fit beside a block's input."""

    @property
    def target(self) -> Target:
        return replace(super().target, l2=1 << 12, l3=1 << 20)


def size_of(case: Case, configuration: Configuration, kernel: ConvWinograd = KERNEL) -> tuple[int, int]:
    """Lines and pixels of an output tile."""
    plan = kernel.plan(case.site(), configuration.target)
    return plan.my, plan.mx


def magnitudes(m: int, stride: int) -> list[np.ndarray]:
    """|A|, |G|, |D| of an axis; lines that are not transformed are summed tap by tap."""
    if m == 1:
        return [np.ones((1, 3)), np.eye(3), np.eye(3)]
    return [np.abs(np.array(t, np.float64)) for t in transforms(m, 3, stride)]


def bound(case: Case, size: tuple[int, int]) -> np.ndarray:
    """How far each sum may be from the exact one, to first order, whatever the order of operations.

    With A, G, D the output, weight and input transforms: (C + 17) u |A| sum_c(|G||w||G|' * |D||x||D|') |A|'. On the
    way to an output an element is rounded at most 3 times in each dimension of the input's transform, once as a
    weight, C times in product and sums (three times as many where lines are not transformed), 5 times in each
    dimension of the output's transform.
    """
    g = geometry(case.site())
    x, w = operands(case)
    image = np.abs(x).reshape(*x.shape[:2], *(evaluate(d, case.env) for d in g.size[1:]))
    spatial, before = ([evaluate(d, case.env) for d in dims[1:]] for dims in (g.out, g.before))
    stride = g.strides[1]
    whole_tiles = [-(-n // m) * m for n, m in zip(spatial, size, strict=True)]
    reach = [(n - 1) * stride + 3 for n in whole_tiles]
    after = [max(0, r - b - n) for r, b, n in zip(reach, before, image.shape[2:], strict=True)]
    image = np.pad(image, [(0, 0), (0, 0), *zip(before, after, strict=True)])[:, :, : reach[0], : reach[1]]
    (a_y, g_y, d_y), (a_x, g_x, d_x) = (magnitudes(m, stride) for m in size)
    windows = np.lib.stride_tricks.sliding_window_view(image, (d_y.shape[1], d_x.shape[1]), (2, 3))
    tiles = windows[:, :, :: size[0] * stride, :: size[1] * stride]
    taps = g_y @ np.abs(w).reshape(*w.shape[:2], 3, 3) @ g_x.T
    sums = a_y @ np.einsum("ncyxpq,ocpq->noyxpq", d_y @ tiles @ d_x.T, taps, optimize=True) @ a_x.T
    whole = sums.transpose(0, 1, 2, 4, 3, 5).reshape(*sums.shape[:2], *whole_tiles)
    pixels = whole[:, :, : spatial[0], : spatial[1]]
    terms = x.shape[1] * (3 if size[0] == 1 else 1)
    return (terms + 17) * UNIT * pixels.reshape([evaluate(d, case.env) for d in case.out.shape])


def operands(case: Case) -> tuple[np.ndarray, np.ndarray]:
    """Input and weights in float64."""
    x, w = case.args
    return Memory(case).strided(case.views[x]).astype(np.float64), case.constants[w].astype(np.float64)


def check_error(case: Case, actual: np.ndarray, size: tuple[int, int]) -> None:
    """Fails where a result is farther from the reference than its bound; an epilogue adds two roundings."""
    expected = reference(case)
    allowed = SLOPE.get(case.epilogue, 1.0) * (1.1 * bound(case, size) + 16 * UNIT)
    worst = np.max(np.abs(actual - expected) / allowed)  # NaN is not below 1
    assert worst <= 1, f"{worst:.3g} times the bound, {np.abs(actual - expected).max():.3g} off"


def check(built: Built, size: tuple[int, int]) -> None:
    """A case whole and split, against the reference."""
    whole = built.run()
    check_error(built.case, whole, size)
    for split in built.splits():
        assert np.array_equal(whole, built.run(split)), f"other bits when split as {split}"


def at(built: Built, **env: int) -> Built:
    """The same code for other sizes."""
    case = copy.copy(built.case)
    case.env = env
    return Built(case, built.code, built.function)


def build_one(case: Case, configuration: Configuration, kernel: Kernel = KERNEL) -> Built:
    return build({"case": case}, kernel, configuration)["case"]


def check_all(configuration: Configuration, kernel: ConvWinograd, subtests: pytest.Subtests) -> None:
    for name, built in build(CASES, kernel, configuration).items():
        with subtests.test(msg=name):
            check(built, size_of(built.case, configuration, kernel))


@every_configuration
def test_against_float64(configuration: Configuration, subtests: pytest.Subtests) -> None:
    check_all(configuration, KERNEL, subtests)


@pytest.mark.parametrize("size", SIZES, ids=lambda size: f"F{size[0]}x{size[1]}")
def test_every_size_of_tiles(size: tuple[int, int], subtests: pytest.Subtests) -> None:
    # Lines are kept for images of known width and stride 1; others take another size there.
    check_all(configurations()[-1], ConvWinograd([size, (2, 2)] if size[0] == 1 else [size]), subtests)


@pytest.mark.parametrize("size", [(1, 2), (2, 4)], ids=lambda size: f"F{size[0]}x{size[1]}")
def test_position_by_position(size: tuple[int, int], subtests: pytest.Subtests) -> None:
    usual = configurations()[-1]
    configuration = SmallCaches(usual.cpu, usual.cc, usual.quick)
    kernel = ConvWinograd([size])
    shapes = ((64, 72, SAME), (33, 145, SAME), (33, 145, SAME_BY_2))
    cases = {
        f"{c} -> {o}": conv((2, c, 17, 14), o, where, epilogue=RESIDUAL)
        for c, o, where in shapes
        if size[0] > 1 or where is SAME
    }
    for name, built in build(cases, kernel, configuration).items():
        assert kernel.plan(built.case.site(), configuration.target).by_position
        with subtests.test(msg=name):
            check(built, size)


@every_configuration
def test_one_code_for_every_size(configuration: Configuration, subtests: pytest.Subtests) -> None:
    case = CASES["unknown size"]
    built = build_one(case, configuration)
    for n, h, w in ((1, 1, 1), (3, 1, 14), (2, 33, 3), (1, 7, 17), (1, 14, 14), (2, 4, 8), (1, 40, 72)):
        with subtests.test(msg=f"{n} images of {h}x{w}"):
            check(at(built, B=n, H=h, W=w), size_of(case, configuration))


@pytest.mark.parametrize("size", SIZES, ids=lambda size: f"F{size[0]}x{size[1]}")
def test_every_split_gives_the_same_bits(size: tuple[int, int]) -> None:
    case = conv((2, 16, 17, 14), 145, SAME, epilogue=RESIDUAL)
    built = build_one(case, configurations()[0], ConvWinograd([size]))
    rows, columns = built.rows, built.columns
    assert (rows, built.code.row_grain, built.code.column_grain) == (2 * -(-17 // size[0]), 1, 1)
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
    """The more tiles share the transformed weights, the more of those may be."""
    target = target_for("x86_64_v4")

    def size(case: Case) -> tuple[int, int]:
        plan = KERNEL.plan(case.site(), target)
        return plan.my, plan.mx

    assert size(conv((1, 64, 56, 56), 64, SAME)) == (4, 4)
    assert size(conv((1, 256, 14, 14), 256, SAME)) == (2, 4)
    assert size(conv((1, 512, 7, 7), 512, SAME)) == (1, 2)
    assert size(conv((16, 512, 7, 7), 512, SAME)) == (4, 4)
    assert size(conv((1, 64, 56, 56), 128, SAME_BY_2)) == (4, 4)
    assert size(conv((1, 128, 28, 28), 256, SAME_BY_2)) == (2, 2)
    assert size(CASES["unknown size"]) == (4, 4)


@pytest.mark.parametrize("size", SIZES)
def test_lines(size: tuple[int, int]) -> None:
    """A row of tiles is so many lines of the output."""
    for before in (1, 2):
        site = conv((1, 16, 7, 7), 16, pads(before, 0, 0, 0)).site()
        lines = ConvWinograd([size]).lines(site, X86)
        assert lines is not None
        assert (lines.lines_per_row, lines.stride, lines.before, lines.extent) == (size[0], 1, before, 3)


# ---------------------------------------------------------------- accuracy


# Largest error by size of tiles: in units of u times the largest sum of |w||x| (F2 1.5 and F4 37 were seen), and in
# terms of the direct convolution's own largest error on the same numbers (0.9 and 11).
ACCURACY = {(1, 2): (4, 2), (2, 2): (4, 2), (2, 4): (24, 8), (4, 4): (64, 16)}


@pytest.mark.parametrize("channels", [16, 128])
@pytest.mark.parametrize("size, stride", [*((size, 1) for size in SIZES), ((2, 2), 2), ((2, 4), 2), ((4, 4), 2)])
@every_configuration
def test_accuracy(configuration: Configuration, size: tuple[int, int], stride: int, channels: int) -> None:
    case = conv((1, channels, 16, 16), 32, pads(1, 1, 1, 1, stride))
    exact = reference(case)
    error = np.abs(build_one(case, configuration, ConvWinograd([size])).run() - exact).max()
    direct = np.abs(build_one(case, configuration, conv_direct.KERNEL).run() - exact).max()
    magnitude = copy.copy(case)
    x, w = case.args
    magnitude.constants = {t: np.abs(v).astype(np.float32) for t, v in zip((x, w), operands(case), strict=True)}
    in_units, in_direct = ACCURACY[size]
    assert error <= in_units * UNIT * reference(magnitude).max()
    assert error <= in_direct * direct


@pytest.mark.parametrize("size", SIZES)
def test_a_large_pixel_costs_its_tiles_their_digits(size: tuple[int, int]) -> None:
    """And no more than the bound says; tiles that do not read it keep every bit."""
    case = conv((1, 16, 17, 17), 17, SAME)
    built = build_one(case, configurations()[0], ConvWinograd([size]))
    small = built.run()
    large = with_input(case, {(0, 3, 8, 8): 1e6})
    result = Built(large, built.code, built.function).run()
    check_error(large, result, size)
    far = ~reads(large, 8, 8, size)
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


def reads(case: Case, line: int, column: int, tile: tuple[int, int]) -> np.ndarray:
    """Which output pixels, by line and column, lie in tiles whose input holds a pixel."""
    masks = []
    spatial = case.out.shape[2:]
    for size, pad, place, m in zip(spatial, case.attrs.pads_before, (line, column), tile, strict=True):
        first = np.arange(size) // m * m - pad
        masks.append((first <= place) & (place < first + m + 2))
    return np.outer(*masks)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf], ids=str)
@pytest.mark.parametrize("size", SIZES)
def test_pixels_that_are_not_finite(size: tuple[int, int], value: float) -> None:
    h, w = 13, 14
    case = conv((2, 17, h, w), 17, SAME)
    built = build_one(case, configurations()[0], ConvWinograd([size]))
    clean = built.run()
    for line, column in ((0, 0), (3, 2), size, (h - 1, w - 1)):
        poisoned = with_input(case, {(1, 16, line, column): value})
        with np.errstate(invalid="ignore"):
            result, expected = Built(poisoned, built.code, built.function).run(), reference(poisoned)
        near = reads(poisoned, line, column, size)
        assert np.array_equal(result[0], clean[0])
        assert np.array_equal(result[1][:, ~near], clean[1][:, ~near])
        finite, infinite = np.isfinite(result), np.isinf(result)
        assert not finite[~np.isfinite(expected)].any()
        assert np.array_equal(result[infinite], expected[infinite])
        error = np.abs(result[finite] - expected[finite])
        assert (error <= bound(case, size)[finite]).all()


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
    strides = [window((3, 3), strides=s) for s in ((1, 2), (2, 1), (3, 3))]
    for other in (*strides, window((3, 3), dilations=(2, 1)), window((3, 3), groups=2)):
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
    "unknown size, slices", "2x31x13x14 -> 33 by 2",
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
        check_error(case, memory.strided(case.out_view), size_of(case, configuration))
    assert not written


@pytest.mark.sanitize
@pytest.mark.skipif(not WITH_GCC, reason="the sanitizers come with gcc")
def test_the_sanitizer_sees_a_row_too_many(tmp_path: Path) -> None:
    done = run_sanitized([CASES["whole tiles of 4"]], WITH_GCC[-1], tmp_path, more_rows=1)
    assert done.returncode != 0
    assert "heap-buffer-overflow" in done.stderr
