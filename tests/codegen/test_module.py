"""The C file as a product: the same bytes every time, no warnings, literals and names that can't go wrong."""

from __future__ import annotations

import os
import re
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper

import zoo
from codegen.building import build, compiled, emitted, imported, parse
from codegen.sanitizing import build_sanitized, run_sanitized
from graphfuse.codegen.access import access
from graphfuse.codegen.vector import literal
from graphfuse.codegen.writer import Writer
from graphfuse.compiler import Job, run_stages
from graphfuse.demo import MODEL as DEMO
from graphfuse.graph.dtypes import F32, F64, I64, U64
from graphfuse.ops.expr import Const, Load, Var
from graphfuse.ops.tensor import Tensor
from graphfuse.options import CompileOptions
from graphfuse.plan.view import Buffer, dense
from graphfuse.toolchain.compiler import find_compiler
from ops.cases import inferred

HERE = Path(__file__).parent


def digests(seed: int, models: list[str]) -> str:
    """What a fresh process emits for the models, with the given seed for the hashes of strings."""
    env = {**os.environ, "PYTHONHASHSEED": str(seed), "PYTHONPATH": os.pathsep.join([str(HERE.parent), *sys.path])}
    done = subprocess.run(
        [sys.executable, str(HERE / "emit_digests.py"), *models], env=env, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


def test_the_same_bytes_in_every_process() -> None:
    """C, weights, ledger and fused.onnx do not depend on the order of anything hashed."""
    models = [*(name for name in zoo.NAMES if name != "lstm"), str(DEMO)]  # which waits for its op
    first = digests(1, models)
    assert len(first.splitlines()) == len(models)
    assert first == digests(2, models)


def test_equal_blocks_are_written_once() -> None:
    job = run_stages(Job(zoo.path("repeated_blocks"), CompileOptions()), stop_after="emit")
    assert len(job.results["plan"].calls) > 200
    assert len(job.results["emit"].kernels) < 10


def test_the_c_file_stands_alone(tmp_path: Path) -> None:
    """Any C11 compiler, no flags of ours; the header serves C++ too."""
    module = run_stages(Job(DEMO, CompileOptions(cpu="x86_64", embed_weights=True)), stop_after="emit").results["emit"]
    (tmp_path / "model.c").write_text(module.source())
    (tmp_path / "model.h").write_text(module.header)
    (tmp_path / "use.cc").write_text('#include "model.h"\nint (*run)(const void *, const void *const *) = nullptr;\n')
    strict = ["-Wall", "-Wextra", "-Werror"]
    for command in (
        ["gcc", "-std=c11", "-O3", *strict, "-shared", "-fPIC", "model.c", "-lm", "-o", "model.so"],
        ["g++", *strict, "-Wno-unused-variable", "-c", "use.cc", "-o", "use.o"],
    ):
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr[:2000]


@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v2", "vit_tiny", "pointwise_chain"])
def test_clang_has_no_complaint(name: str, tmp_path: Path) -> None:
    job = run_stages(Job(zoo.path(name), CompileOptions()), stop_after="emit")
    (tmp_path / "model.c").write_text(job.results["emit"].source())
    compiler = find_compiler("zig", job.target)
    flags = compiler.compile_flags(job.target, ("-O1", "-Wall", "-Wextra", "-Werror"))
    done = subprocess.run(
        [*compiler.argv, *flags, "-c", "model.c", "-o", "model.o"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")


# ---------------------------------------------------------------- literals

SPECIAL = ["nan", "inf", "-inf", "0.0", "-0.0", "1e-45", "1.17549435e-38", "3.4028235e38", "1e39", "0.1", "16777217.0"]


def test_literals_read_back_as_the_same_bits() -> None:
    random = np.random.default_rng(0)
    bits32 = random.integers(0, 2**32, 1500, np.uint32)
    bits64 = random.integers(0, 2**64, 1500, np.uint64)
    with np.errstate(invalid="ignore"):
        floats = [*map(float, SPECIAL), *bits32.view(np.float32).astype(float)]
    doubles = [*map(float, SPECIAL), *bits64.view(np.float64)]
    integers = [0, -1, 2**31, -(2**31), 2**63 - 1, -(2**63), *map(int, bits64.view(np.int64))]
    text = "#include <math.h>\n#include <stdint.h>\n"
    text += "const float floats[] = {" + ", ".join(literal(Const(x, F32)) for x in floats) + "};\n"
    text += "const double doubles[] = {" + ", ".join(literal(Const(x, F64)) for x in doubles) + "};\n"
    text += f"const uint64_t largest = {literal(Const(2**64 - 1, U64))};\n"
    text += "const int64_t integers[] = {" + ", ".join(literal(Const(x, I64)) for x in integers) + "};\n"
    library = compiled(text, "x86_64", "gcc", ("-Wall", "-Wextra", "-Werror", "-Wno-overflow"))

    def read(name: str, kind: str, count: int) -> bytes:
        array_type = np.ctypeslib.as_ctypes_type(np.dtype(kind)) * count
        return bytes(array_type.in_dll(library, name))

    def numbers(values: list[float], kind: str) -> np.ndarray:
        with np.errstate(over="ignore"):
            array = np.array(values).astype(kind)
        return np.where(np.isnan(array), 0, array)  # whatever the bits of a NaN

    got = np.frombuffer(read("floats", "f4", len(floats)), np.float32)
    assert (np.isnan(got) == np.isnan(floats)).all()
    assert np.where(np.isnan(got), 0, got).tobytes() == numbers(floats, "f4").tobytes()
    got = np.frombuffer(read("doubles", "f8", len(doubles)), np.float64)
    assert (np.isnan(got) == np.isnan(doubles)).all()
    assert np.where(np.isnan(got), 0, got).tobytes() == numbers(doubles, "f8").tobytes()
    assert read("largest", "u8", 1) == b"\xff" * 8
    assert read("integers", "i8", len(integers)) == struct.pack(f"{len(integers)}q", *integers)


# ---------------------------------------------------------------- names of strangers

HOSTILE = [
    'a"b',
    "x*/ int evil; /*",
    "two\nlines",
    "\\\n#include </etc/passwd>",
    "%s%n%d",
    "ünïcödé ☃",
    "??/\n",
    'a\'; system("x"); //',
    "",
    "../../etc",
    "int",
    "model_run",
    "\x00\x01\x7f",
]


def hostile_model() -> onnx.ModelProto:
    """A chain of nodes and values that bear these names, and sizes that do."""
    names = [n for n in HOSTILE if n]
    sizes = ["n*/", "1; evil"]
    values = ["in " + names[0], *(f"{n}!" for n in names)]
    nodes = [
        helper.make_node("Relu" if k % 2 else "Tanh", [values[k]], [values[k + 1]], name=n) for k, n in enumerate(names)
    ]
    graph = helper.make_graph(
        nodes,
        'g"*/',
        [helper.make_tensor_value_info(values[0], TensorProto.FLOAT, [*sizes, 3])],
        [helper.make_tensor_value_info(values[-1], TensorProto.FLOAT, [*sizes, 3])],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)


def test_names_reach_c_only_as_harmless_comments(tmp_path: Path) -> None:
    model = imported(hostile_model(), tmp_path)
    e = emitted(model)
    [run] = build([e])
    assert e.module.inputs[0].name == 'in a"b'
    x = np.linspace(-2, 2, 24, dtype=np.float32).reshape(2, 4, 3)
    [y] = run({e.module.inputs[0].name: x})
    for k in range(len([n for n in HOSTILE if n])):
        x = np.maximum(x, 0) if k % 2 else np.tanh(x)
    np.testing.assert_allclose(y, x, rtol=1e-5, atol=1e-6)
    code = re.sub(r"/\*.*?\*/", "", e.module.entry + "".join(e.module.kernels.values()), flags=re.DOTALL)
    assert code.isascii()
    assert not set(code) & set("\"'\\#$`@")
    assert not re.search(r"\b(evil|system|passwd)\b", code)


@given(st.text())
def test_a_comment_stays_a_comment(text: str) -> None:
    w = Writer()
    w.comment(text)
    [line, end] = w.text().split("\n")
    assert end == ""
    assert line.startswith("/* ")
    assert line.endswith(" */")
    inside = line[2:-2]
    assert "*/" not in inside
    assert "/*" not in inside
    assert "??" not in inside
    assert inside.isascii()
    assert inside.isprintable()


# ---------------------------------------------------------------- indices that come from data


def test_an_index_is_held_in_its_own_axis() -> None:
    """Both axes have stride 1: the axis is not to be guessed from the stride."""
    x, i = Tensor((1, 4), F32), Tensor((3,), I64)
    view = dense(Buffer("input", 4, F32), (4, 1)).transposed((1, 0))
    acc = access(view, (Const(0, I64), Load(i, (Var("i1"),))))
    assert view.strides == (1, 1)
    [(index, stride)] = acc.irregular
    assert stride == 1
    assert "3" in repr(index)
    assert x.shape == view.shape


GATHERS = {
    "rows": "g (float[9, 5] x, int64[N] i) => (float[N, 5] y) { y = Gather(x, i) }",
    "columns": "g (float[9, 5] x, int64[N] i) => (float[9, N] y) { y = Gather<axis = 1>(x, i) }",
    "into a sum": "g (float[9, 5] x, int64[N] i) => (float[N, 5] y) { a = Gather(x, i) y = Exp(a) }",
    "elements": "g (float[9, 5] x, int64[N, 5] i) => (float[N, 5] y) { y = GatherElements(x, i) }",
    "points": "g (float[9, 5] x, int64[N, 2] i) => (float[N] y) { y = GatherND(x, i) }",
    "one hot": """g (int64[N] i) => (float[N, 4] y) {
        d = Constant<value = int64 {4}>() v = Constant<value = float[2] {0, 1}>() y = OneHot(i, d, v)
    }""",
}


@pytest.mark.sanitize
@pytest.mark.parametrize("name", GATHERS)
def test_an_index_out_of_range_reads_nothing_else(name: str, tmp_path: Path) -> None:
    e = emitted(inferred(parse(GATHERS[name])))
    program = build_sanitized(e.module, e.target, tmp_path)
    x = np.ones((9, 5), np.float32)
    rank = len(next(p.shape for p in e.module.inputs if p.name == "i"))
    runs = []
    for n in (1, 40):
        shape = (n, *((5,) if name == "elements" else (2,) if name == "points" else ()))[:rank]
        random = np.random.default_rng(n)
        wild = random.choice(np.array([0, 3, -1, 9, 5, -10, 2**31, -(2**31), 2**63 - 1, -(2**63)]), shape)
        runs.append({"x": x, "i": wild})
    outputs = run_sanitized(program, e.module, runs)
    for [y], run in zip(outputs, runs, strict=True):
        assert run["i"].shape[0] in y.shape
        assert np.isin(y, [0, 1, np.float32(np.e)]).all() or name == "into a sum"
