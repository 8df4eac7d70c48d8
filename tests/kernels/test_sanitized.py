"""Kernels under the address and undefined-behaviour sanitizers, on buffers of exactly the right size."""

from __future__ import annotations

import os
import shutil
import struct
import subprocess
from pathlib import Path

import numpy as np
import pytest

from graphfuse.graph.dims import evaluate
from graphfuse.plan.site import Kernel, KernelCode, Packed
from graphfuse.plan.view import View
from graphfuse.runtime.preamble import preamble
from graphfuse.toolchain.compiler import find_compiler

from . import (
    test_conv_depthwise,
    test_conv_direct,
    test_conv_first,
    test_conv_i8,
    test_conv_transpose,
    test_gemm,
    test_gemm_i8,
    test_gemv,
    test_pool,
)
from .harness import GUARD, Built, Case, Configuration, Memory, callable_kernel, compare, configurations, emit

FLAGS = ("-Og", "-fsanitize=address,undefined", "-fno-sanitize-recover=all")
CASES: list[tuple[Kernel, Case]] = [
    (module.KERNEL, module.CASES[name])
    for module, names in {
        test_gemm: (
            "7x3x17", "100x24x13", "f64", "i32", "batch, rows apart", "A transposed", "unknown batch and rows",
            "B at run time", "attention QK, unknown length", "1x1 conv, slices", "1x1 conv, NCHW all",
        ),
        test_conv_direct: (
            "3x3 17->31 on 13x13", "padding, slices", "stride 3x1", "dilation wider than the image",
            "padding wider than the window", "first layer 7x7", "NCHW all", "4 groups, NCHW", "1-d, long, unknown",
            "3-d, strides", "unknown padding",
        ),
        test_gemm_i8: (
            "1x31x5", "7x3x17, signed", "13x18x24", "batch, rows apart", "A transposed, signed", "B at run time",
            "B at run time, signed", "B transposed at run time, signed", "attention PV, unknown length", "all strides",
            "1x1 conv, slices", "1x1 conv, NCHW in",
        ),
        test_gemv: (
            "columns, one vector", "columns apart", "columns, f64", "columns, unknown sum", "columns, unknown number",
            "sums", "sums, long", "sums apart", "sums, unknown", "sums, one vector of an unknown number",
            "decoding QK, unknown length", "decoding PV, unknown length", "one column each", "one column, turned",
        ),
        test_conv_i8: (
            "3x3, padded, signed", "5x3, stride, asymmetric", "dilation", "padding wider than the window",
            "one channel", "two groups", "slices", "NCHW", "1-d, unknown", "3-d",
        ),
        test_conv_depthwise: (
            "3x3 17 on 13x14", "stride 3x1", "dilation wider than the image", "large window", "slices", "NCHW all",
            "3-d, strides", "unknown size, tiny",
        ),
        test_conv_first: (
            "four", "window larger than the image", "dilation", "slices", "NCHW all", "open batch and height",
        ),
        test_conv_transpose: ("4x4, stride 2", "asymmetric", "dilation", "depthwise", "slices", "NCHW", "1-d, long"),
        test_pool: ("max, rounded up", "mean with zeros, asymmetric", "mean, slices", "max, NCHW", "max of int8"),
    }.items()
    for name in names
]  # fmt: skip
# The narrowest vectors: their partial loads are plain C, which the sanitizers see into.
WITH_GCC = [c for c in configurations() if c.cc == "gcc"][-1:]


def describe(position: int, case: Case, code: KernelCode) -> bytes:
    """What the driver reads for one case."""
    memory = Memory(case)
    places: dict[int, int] = {}
    blocks: list[bytes] = []
    pointers: list[tuple[int, int]] = []
    for p in code.pointers:
        if isinstance(p, Packed):
            blocks.append(p.arrange(case.constants[p.source]).tobytes())
            pointers.append((len(blocks) - 1, 0))
            continue
        assert isinstance(p, View)
        if id(p.buffer) not in places:
            places[id(p.buffer)] = len(blocks)
            blocks.append(memory.arrays[id(p.buffer)][GUARD:-GUARD].tobytes())
        pointers.append((places[id(p.buffer)], evaluate(p.offset, case.env) * p.dtype.numpy().itemsize))
    dims = [evaluate(d, case.env) for d in code.dims]
    calls = Built(case, code, lambda *_: None).splits()[-1]
    numbers: list[int | bytes] = [position, len(blocks)]
    for b in blocks:
        numbers += [len(b), b]
    numbers += [len(pointers), *(n for pair in pointers for n in pair), len(dims), *dims]
    scratch = -(-evaluate(code.scratch, case.env) // 64) * 64
    numbers += [max(64, scratch), len(calls), *(n for call in calls for n in call), places[id(case.out_view.buffer)]]
    return b"".join(n if isinstance(n, bytes) else struct.pack("<q", n) for n in numbers)


@pytest.mark.sanitize
@pytest.mark.skipif(not WITH_GCC, reason="the sanitizers come with gcc")
@pytest.mark.parametrize("configuration", WITH_GCC, ids=lambda c: c.cpu)
def test_no_access_beyond_a_buffer(configuration: Configuration, tmp_path: Path) -> None:
    target = configuration.target
    codes = [emit(case, kernel, target) for kernel, case in CASES]
    functions = "\n".join(callable_kernel(code, f"call_{k}") for k, code in enumerate(codes))
    table = ", ".join(f"call_{k}" for k in range(len(codes)))
    driver = (Path(__file__).parent / "driver.c").read_text()
    text = preamble(target.lanes, amalgamated=True) + functions + f"static const gf_kernel kernels[] = {{{table}}};\n"
    (tmp_path / "cases.c").write_text(text + driver)
    compiler = find_compiler(shutil.which("gcc") or "", target)
    flags = compiler.compile_flags(target, FLAGS)
    subprocess.run([*compiler.argv, "cases.c", "-o", "cases", *flags, "-lm"], cwd=tmp_path, check=True, stderr=-1)
    described = [describe(k, case, code) for k, ((_, case), code) in enumerate(zip(CASES, codes, strict=True))]
    (tmp_path / "in").write_bytes(struct.pack("<q", len(described)) + b"".join(described))
    done = subprocess.run(
        ["./cases", "in", "out"], cwd=tmp_path, capture_output=True, text=True, env={**os.environ, "LC_ALL": "C"}
    )
    assert done.returncode == 0, done.stderr[:4000]
    written = (tmp_path / "out").read_bytes()
    for _, case in CASES:
        written = written[check_output(case, written) :]
    assert not written


def check_output(case: Case, written: bytes) -> int:
    """Compares a case's output, at the head of `written`, with the reference; the number of its bytes."""
    memory = Memory(case)
    buffer = memory.arrays[id(case.out_view.buffer)]
    count = buffer.size - 2 * GUARD
    buffer[GUARD:-GUARD] = np.frombuffer(written, buffer.dtype, count)
    compare(case, memory.strided(case.out_view))
    return count * buffer.itemsize
