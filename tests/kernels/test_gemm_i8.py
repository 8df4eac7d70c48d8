"""Matrix products of bytes against int64, to the last bit."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sympy

from graphfuse.graph.dtypes import I8, I32, U8
from graphfuse.kernels import dot
from graphfuse.kernels.gemm_i8 import KERNEL
from graphfuse.runtime.preamble import preamble
from graphfuse.target import missing_here, target_for
from graphfuse.toolchain.compiler import find_compiler

from . import cases, harness
from .cases import window
from .harness import (
    BIAS_RELU,
    PLAIN,
    RESIDUAL,
    X86,
    Case,
    Configuration,
    build,
    callable_kernel,
    check_all,
    configurations,
    emit,
    every_configuration,
)

S = sympy.Symbol("S", integer=True, positive=True)
B = sympy.Symbol("B", integer=True, positive=True)
NCHW = (0, 1, 2, 3)
UNSIGNED, SIGNED = {"dtype": I32, "operands": (U8, I8)}, {"dtype": I32, "operands": (I8, I8)}


def matmul(a: Sequence[Any], b: Sequence[Any], signed: bool = False, **more: Any) -> Case:
    return cases.matmul(a, b, **(SIGNED if signed else UNSIGNED), **more)


def conv(x: Sequence[Any], channels: int, signed: bool = False, **more: Any) -> Case:
    return cases.conv(x, channels, window(more.pop("kernel", (1, 1)), strides=more.pop("strides", None)),
                      **(SIGNED if signed else UNSIGNED), **more)  # fmt: skip


CASES: dict[str, Case] = {
    **{
        f"{m}x{k}x{n}{', signed' * signed}": matmul((m, k), (k, n), signed, epilogue=e)
        for (m, k, n), e in {
            (1, 1, 1): PLAIN,
            (1, 31, 5): BIAS_RELU,
            (1, 64, 1000): BIAS_RELU,
            (5, 13, 16): PLAIN,
            (7, 3, 17): RESIDUAL,
            (13, 18, 24): RESIDUAL,
            (49, 48, 33): BIAS_RELU,
            (29, 5, 144): RESIDUAL,
        }.items()
        for signed in (False, True)
    },
    "long K": matmul((14, 2501), (2501, 48)),
    "many rows": matmul((1000, 257), (257, 31), True),
    "batch, weights shared": matmul((3, 5, 17), (17, 24), epilogue=RESIDUAL),
    "batch, rows apart": matmul((3, 5, 17), (17, 24), True, epilogue=RESIDUAL, gap=3),
    "A transposed": matmul((30, 17), (17, 24), a_order=(1, 0), epilogue=BIAS_RELU),
    "A transposed, signed": matmul((30, 18), (18, 24), True, a_order=(1, 0), epilogue=BIAS_RELU),
    "unknown rows": matmul((S, 17), (17, 24), epilogue=RESIDUAL, env={"S": 37}),
    "unknown batch and rows": matmul((B, S, 17), (17, 24), True, epilogue=RESIDUAL, env={"B": 3, "S": 11}),
    "B at run time": matmul((13, 17), (17, 25), constant=False, epilogue=RESIDUAL),
    "B at run time, signed": matmul((13, 19), (19, 25), True, constant=False, epilogue=RESIDUAL),
    "B transposed at run time": matmul((13, 17), (17, 57), constant=False, b_order=(1, 0)),
    "B transposed at run time, signed": matmul((13, 18), (18, 57), True, constant=False, b_order=(1, 0)),
    "attention QK": matmul((2, 3, 21, 16), (2, 3, 16, 21), constant=False, a_order=(0, 2, 1, 3), b_order=(0, 3, 1, 2)),
    "attention PV": matmul(
        (2, 3, 21, 21), (2, 3, 21, 16), True, constant=False, b_order=(0, 2, 1, 3), out_order=(0, 2, 1, 3)
    ),
    "attention QK, unknown length": matmul(
        (2, 3, S, 16), (2, 3, 16, S), True, constant=False, a_order=(0, 2, 1, 3), b_order=(0, 3, 1, 2), env={"S": 45}
    ),
    "attention PV, unknown length": matmul(
        (B, 3, S, S), (B, 3, S, 16), constant=False, b_order=(0, 2, 1, 3), out_order=(0, 2, 1, 3), env={"S": 19, "B": 2}
    ),
    "all strides": matmul(
        (2, 7, 9), (2, 9, 21), True, constant=False, a_order=(1, 2, 0), b_order=(1, 2, 0), out_order=(2, 0, 1)
    ),
    "B broadcast": matmul((2, 3, 5, 7), (3, 7, 9), constant=False, epilogue=RESIDUAL),
    "1x1 conv": conv((2, 24, 7, 5), 33, epilogue=RESIDUAL),
    "1x1 conv, stride": conv((2, 17, 7, 9), 20, True, strides=(2, 3), epilogue=BIAS_RELU),
    "1x1 conv, slices": conv((2, 13, 5, 7), 17, True, epilogue=RESIDUAL, gap=3, offset=2),
    "1x1 conv, NCHW in": conv((2, 13, 5, 7), 17, epilogue=RESIDUAL, x_order=NCHW),
    "1-d conv": conv((2, 16, 21), 31, True, kernel=(1,), epilogue=RESIDUAL),
}  # fmt: skip


@every_configuration
def test_against_int64(configuration: Configuration, subtests: pytest.Subtests) -> None:
    check_all(CASES, KERNEL, configuration, subtests)


DOT = [Configuration("x86_64_v4+avx512vnni", "zig", quick=False), Configuration("x86_64_v3+avxvnni", "zig")]
VNNI = [c for c in DOT if not missing_here(c.target)]


@pytest.mark.parametrize("configuration", VNNI, ids=lambda c: c.cpu)
def test_with_dot_instruction(configuration: Configuration, subtests: pytest.Subtests) -> None:
    check_all(CASES, KERNEL, configuration, subtests)


@pytest.mark.parametrize("configuration", [*configurations(), *VNNI], ids=lambda c: f"{c.cpu}-{c.cc}")
@pytest.mark.parametrize(("a", "b"), [(255, -128), (255, 127), (-128, -128), (127, 127), (-128, 127)])
def test_extremes_do_not_saturate(configuration: Configuration, a: int, b: int) -> None:
    signed = a < 0 or a == 127
    case = matmul((3, 1030), (1030, 20), signed)
    case.constants[case.args[1]][...] = b
    case.filled[case.args[0]] = a
    (built,) = build({"extreme": case}, KERNEL, configuration).values()
    assert np.array_equal(built.run(), np.full((3, 20), 1030 * a * b))


def test_refusals_name_the_reason() -> None:
    assert KERNEL.accepts(cases.matmul((3, 4), (4, 5)).site(), X86) == "the operands are no bytes"
    assert KERNEL.accepts(conv((1, 4, 5, 5), 4, kernel=(3, 3)).site(), X86) == "the window is 3x3, not 1x1"


ARM = [("aarch64", ""), ("aarch64+dotprod", "sdot"), ("aarch64+i8mm", "usdot")]


@pytest.mark.parametrize(("cpu", "instruction"), ARM)
def test_compiles_for_arm(cpu: str, instruction: str, tmp_path: Path) -> None:
    target = target_for(cpu)
    some = ("7x3x17", "13x18x24, signed", "B at run time", "B at run time, signed", "all strides")
    codes = [emit(CASES[name], KERNEL, target) for name in some]
    text = "\n".join(callable_kernel(code, f"call_{k}") for k, code in enumerate(codes))
    compiler = find_compiler("zig", target)
    (tmp_path / "k.c").write_text(preamble(target.lanes, amalgamated=False) + text)
    flags = compiler.compile_flags(target, ("-Wall", "-Wextra"))
    done = subprocess.run(
        [*compiler.argv, "k.c", "-S", "-o", "k.s", *flags], capture_output=True, text=True, cwd=tmp_path, check=False
    )
    assert done.returncode == 0, done.stderr[:4000]
    assert "k.c:" not in done.stderr, done.stderr[:4000]  # no warnings
    used = set(re.findall(r"\b(u?sdot)\b", (tmp_path / "k.s").read_text()))
    assert used == ({instruction} if instruction else set())


NARROWEST = Configuration("x86_64", "zig")


@pytest.mark.skipif(bool(missing_here(NARROWEST.target)), reason="x86-64 only")
def test_with_plain_c(monkeypatch: pytest.MonkeyPatch, subtests: pytest.Subtests) -> None:
    """What a machine without any of the instructions runs."""
    undefined = "#undef __SSE2__\n#undef __SSE4_1__\n"
    monkeypatch.setattr(harness, "preamble", lambda lanes, amalgamated: undefined + preamble(lanes, amalgamated))
    check_all(CASES, KERNEL, NARROWEST, subtests)


@pytest.mark.skipif(bool(missing_here(NARROWEST.target)), reason="x86-64 only")
def test_where_the_first_operand_is_signed(monkeypatch: pytest.MonkeyPatch, subtests: pytest.Subtests) -> None:
    """The form that AArch64 has, with the instructions at hand."""
    monkeypatch.setattr(dot, "takes_signed", lambda target: True)
    check_all(CASES, KERNEL, NARROWEST, subtests)
