"""Builds a contraction site by hand, compiles what a kernel emits for it, runs it, and gives float64 references."""

from __future__ import annotations

import ctypes
import hashlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from graphfuse.graph.dims import Dim, add, evaluate, mul
from graphfuse.graph.dtypes import F32, I8, U8, DType
from graphfuse.ops.expr import Const, Expr, Load, Var, maximum, sigmoid
from graphfuse.ops.tensor import Contract, Tensor
from graphfuse.plan.site import ContractionSite, Kernel, KernelCode, Packed
from graphfuse.plan.view import Buffer, View, ordered_strides
from graphfuse.runtime.preamble import preamble
from graphfuse.target import Target, host_target, missing_here, target_for
from graphfuse.toolchain.compiler import find_compiler

GUARD = 64  # elements around every buffer, filled with what must neither be used nor change


@dataclass(frozen=True)
class Configuration:
    """An instruction-set level and a compiler; `quick` compiles without the optimisations the product has."""

    cpu: str
    cc: str
    quick: bool = True

    @property
    def target(self) -> Target:
        return target_for(self.cpu)


def configurations() -> list[Configuration]:
    """What kernels are tested with: every vector width that this machine runs, by zig and, where it is, by gcc."""
    host = host_target()
    other = "gcc" if shutil.which("gcc") else "zig"
    if host.arch != "x86_64":
        return [Configuration(host.cpu, "zig", quick=False)]
    # Only one is optimised as the product is: for all of them that would take most of the tests' time.
    wanted = [
        Configuration("x86_64_v4", "zig", quick=False),
        Configuration("x86_64_v3", other),
        Configuration("x86_64", other),
    ]
    return [c for c in wanted if not missing_here(c.target)]


every_configuration = pytest.mark.parametrize("configuration", configurations(), ids=lambda c: f"{c.cpu}-{c.cc}")
X86 = target_for("x86_64_v3")  # to ask for reasons and texts, which needs no machine


# ---------------------------------------------------------------- sites


def tensor(*shape: Dim, dtype: DType = F32) -> Tensor:
    return Tensor(tuple(shape), dtype)


def view_of(
    t: Tensor, order: Sequence[int] | None = None, *, gap: int = 0, offset: int = 0, kind: str = "arena"
) -> View:
    """The tensor in a buffer of its own, axes in the given physical order; the innermost axis has `gap` more elements
    after it and `offset` before, as a slice of a larger buffer has."""
    axes = tuple(range(t.rank)) if order is None else tuple(order)
    inner = axes[-1]
    padded = list(t.shape)
    padded[inner] = add(add(padded[inner], gap), offset)
    elements: Dim = 1
    for d in padded:
        elements = mul(elements, d)
    return View(Buffer(kind, elements, t.dtype), t.shape, ordered_strides(padded, axes), offset)


def channels_last(rank: int) -> tuple[int, ...]:
    return (0, *range(2, rank), 1)


EpilogueFunction = Callable[[Any, Callable[[str], Any], Any], Any]


@dataclass(frozen=True)
class Epilogue:
    """What happens to the accumulator: `function(acc, operand, lib)` works on expressions and on arrays."""

    function: EpilogueFunction
    operands: tuple[str, ...] = ()


class _Symbolic:
    maximum = staticmethod(maximum)
    sigmoid = staticmethod(sigmoid)


class _Numeric:
    maximum = staticmethod(np.maximum)

    @staticmethod
    def sigmoid(x: np.ndarray) -> np.ndarray:
        return 1 / (1 + np.exp(-x))


PLAIN = Epilogue(lambda acc, load, lib: acc)
BIAS_RELU = Epilogue(lambda acc, load, lib: lib.maximum(acc + load("channel"), 0), ("channel",))
RESIDUAL = Epilogue(
    lambda acc, load, lib: lib.maximum(acc * load("scale") + load("channel") + load("full"), 0),
    ("scale", "channel", "full"),
)
SWISH_GATE = Epilogue(
    lambda acc, load, lib: (acc + load("channel")) * lib.sigmoid(acc + load("channel")) * load("gate"),
    ("channel", "gate"),
)


@dataclass
class Case:
    """One contraction on made-up data.

    `lane`: the output axis that channels run along. `outputs` lists views of the result, in the planner's stead.
    `env` gives sizes to symbols.
    """

    name: str
    kind: str
    args: tuple[Tensor, ...]
    views: dict[Tensor, View]
    out: Tensor
    out_view: View
    lane: int
    attrs: Any = None
    epilogue: Epilogue = PLAIN
    constants: dict[Tensor, np.ndarray] = field(default_factory=dict)
    env: Mapping[str, int] = field(default_factory=dict)
    residual_order: Sequence[int] | None = None
    seed: int = 0
    small_integers: bool = False
    filled: dict[Tensor, float] = field(default_factory=dict)  # operands whose elements are all the same

    def site(self) -> ContractionSite:
        if not hasattr(self, "_site"):
            self._site = self._make_site()
        return self._site

    def _make_site(self) -> ContractionSite:
        contraction = Tensor(self.out.shape, self.out.dtype, Contract(self.args, self.kind, self.attrs))
        self.leaves = {name: self._leaf(name) for name in self.epilogue.operands}
        views = dict(self.views) | {self.out: self.out_view}
        views |= {leaf: self._leaf_view(name, leaf) for name, leaf in self.leaves.items()}
        site = ContractionSite(contraction, [], views, lambda t: self.constants.get(t))
        value = self.epilogue.function(site.accumulator, lambda name: self._load(name, site.index), _Symbolic)
        site.outputs = [(self.out, value)]
        return site

    def _leaf(self, name: str) -> Tensor:
        shape = list(self.out.shape)
        if name in ("channel", "scale"):
            shape = [shape[self.lane]]
        elif name == "gate":
            shape = [d if k in (0, self.lane) else 1 for k, d in enumerate(shape)]
        return Tensor(tuple(shape), self.out.dtype)

    def _leaf_view(self, name: str, leaf: Tensor) -> View:
        return view_of(leaf, self.residual_order if name == "full" else None)

    def _load(self, name: str, index: Sequence[Var]) -> Expr:
        leaf = self.leaves[name]
        if leaf.rank == 1 and self.out.rank != 1:
            return Load(leaf, (index[self.lane],))
        zero = Const(0, Var("i").dtype)
        return Load(leaf, tuple(zero if d == 1 else v for d, v in zip(leaf.shape, index, strict=True)))


# ---------------------------------------------------------------- memory


class Memory:
    """NumPy arrays behind the buffers of a case, with guards before and after each."""

    def __init__(self, case: Case) -> None:
        self.case = case
        self.case.site()
        self.arrays: dict[int, np.ndarray] = {}
        self.buffers: dict[int, Buffer] = {}
        rng = np.random.default_rng(case.seed)
        for t, view in case.site().views.items():
            self._allocate(view.buffer)
            if t is not case.out:
                self.strided(view)[...] = self._values(rng, t, view)
        self.untouched = {key: array.copy() for key, array in self.arrays.items()}

    def _values(self, rng: np.random.Generator, t: Tensor, view: View) -> np.ndarray:
        if t in self.case.constants:
            return self.case.constants[t]
        if t in self.case.filled:
            return np.full((), self.case.filled[t])
        shape = tuple(evaluate(d, self.case.env) for d in view.shape)
        return random_values(rng, shape, t.dtype)

    def _allocate(self, buffer: Buffer) -> None:
        if id(buffer) in self.arrays:
            return
        count = evaluate(buffer.elements, self.case.env) + 2 * GUARD
        dtype = buffer.dtype.numpy()
        fill = np.nan if np.issubdtype(dtype, np.floating) else 77
        self.arrays[id(buffer)] = aligned(count, dtype)
        self.arrays[id(buffer)][...] = fill
        self.buffers[id(buffer)] = buffer

    def strided(self, view: View) -> np.ndarray:
        array = self.arrays[id(view.buffer)][GUARD + evaluate(view.offset, self.case.env) :]
        shape = [evaluate(d, self.case.env) for d in view.shape]
        strides = [evaluate(s, self.case.env) * array.itemsize for s in view.strides]
        return np.lib.stride_tricks.as_strided(array, shape, strides)

    def address(self, view: View) -> int:
        array = self.arrays[id(view.buffer)]
        return int(array.ctypes.data) + (GUARD + evaluate(view.offset, self.case.env)) * array.itemsize

    def changed_outside(self, view: View) -> bool:
        """Whether anything but the elements of the view differs from what it was."""
        kept = self.arrays[id(view.buffer)].copy()
        self.strided(view)[...] = self._original(view)
        same = all(np.array_equal(a, self.untouched[k], equal_nan=a.dtype.kind == "f") for k, a in self.arrays.items())
        self.arrays[id(view.buffer)][...] = kept
        return not same

    def _original(self, view: View) -> np.ndarray:
        now = self.arrays[id(view.buffer)]
        self.arrays[id(view.buffer)] = self.untouched[id(view.buffer)]
        values = self.strided(view).copy()
        self.arrays[id(view.buffer)] = now
        return values


def aligned(count: int, dtype: np.dtype) -> np.ndarray:
    """An array at a multiple of 64 bytes, as the arena and the weights are."""
    raw = np.zeros(count * dtype.itemsize + 64, np.uint8)
    start = -int(raw.ctypes.data) % 64
    return raw[start : start + count * dtype.itemsize].view(dtype)


def random_values(rng: np.random.Generator, shape: Sequence[int], dtype: DType) -> np.ndarray:
    if np.issubdtype(dtype.numpy(), np.floating):
        return rng.standard_normal(shape).astype(dtype.numpy())
    if dtype in (I8, U8):
        least, most = np.iinfo(dtype.numpy()).min, np.iinfo(dtype.numpy()).max
        return rng.integers(least, most + 1, shape).astype(dtype.numpy())
    return rng.integers(0 if "U" in dtype.name else -9, 9, shape).astype(dtype.numpy())


# ---------------------------------------------------------------- compiling and calling

ARGUMENTS = "void *const *p, const int64_t *d, int64_t r0, int64_t r1, int64_t c0, int64_t c1, char *scratch"


def callable_kernel(code: KernelCode, name: str) -> str:
    """The kernel with a face that can be called from outside by `name`."""
    body = code.source.replace("@NAME@", f"kernel_{name}")
    face = f"void {name}({ARGUMENTS})"
    return f"{body}\n{face};\n{face} {{ kernel_{name}(p, d, r0, r1, c0, c1, scratch); }}\n"


def compiled(text: str, configuration: Configuration) -> ctypes.CDLL:
    """C text, the preamble put before it, as a library; kept from run to run by what it is made of."""
    target = configuration.target
    compiler = find_compiler(configuration.cc, target)
    whole = preamble(target.lanes, amalgamated=False) + text
    quick = ("-O1",) if configuration.quick else ()
    flags = [*compiler.compile_flags(target, ("-Wall", "-Wextra", "-Werror", *quick)), "-shared", "-lm"]
    digest = hashlib.sha256("\0".join([whole, *compiler.argv, compiler.version, *flags]).encode()).hexdigest()[:24]
    folder = Path(tempfile.gettempdir()) / f"graphfuse-kernel-tests-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    library = folder / f"{digest}.so"
    if not library.exists():
        with tempfile.TemporaryDirectory(dir=folder) as work:
            unit = Path(work) / "kernels.c"
            unit.write_text(whole)
            arguments = [*compiler.argv, "kernels.c", "-o", "kernels.so", *flags]
            done = subprocess.run(arguments, capture_output=True, text=True, cwd=work)
            assert done.returncode == 0, done.stderr[:4000]
            (Path(work) / "kernels.so").replace(library)
    return ctypes.CDLL(str(library))


@dataclass
class Built:
    """A compiled kernel for one case."""

    case: Case
    code: KernelCode
    function: Callable[..., None]

    def arguments(self, memory: Memory) -> tuple[Any, Any, list[np.ndarray]]:
        keep: list[np.ndarray] = []
        addresses = []
        for p in self.code.pointers:
            if isinstance(p, Packed):
                arranged = p.arrange(self.case.constants[p.source])
                assert arranged.dtype == p.dtype.numpy()
                packed = aligned(arranged.size, arranged.dtype)
                packed[...] = arranged.ravel()
                keep.append(packed)
                addresses.append(int(packed.ctypes.data))
            else:
                assert isinstance(p, View)
                addresses.append(memory.address(p))
        dims = [evaluate(d, self.case.env) for d in self.code.dims]
        return (ctypes.c_void_p * max(1, len(addresses)))(*addresses), (ctypes.c_int64 * max(1, len(dims)))(*dims), keep

    def run(self, splits: Sequence[tuple[int, int, int, int]] | None = None) -> np.ndarray:
        """The output after calling the kernel on every (r0, r1, c0, c1); the whole range when None."""
        memory = Memory(self.case)
        p, d, keep = self.arguments(memory)
        scratch = np.full(evaluate(self.code.scratch, self.case.env) + 128, 0xFF, np.uint8)
        base = (int(scratch.ctypes.data) + 63) // 64 * 64
        for r0, r1, c0, c1 in splits or [(0, self.rows, 0, self.columns)]:
            scratch[...] = 0xFF
            self.function(p, d, *map(ctypes.c_int64, (r0, r1, c0, c1)), ctypes.c_void_p(base))
        del keep
        end = evaluate(self.code.scratch, self.case.env) + (base - int(scratch.ctypes.data))
        assert (scratch[end:] == 0xFF).all(), "wrote beyond its scratch"
        assert not memory.changed_outside(self.case.out_view), "wrote outside its output"
        return memory.strided(self.case.out_view).copy()

    @property
    def rows(self) -> int:
        return evaluate(self.code.rows, self.case.env)

    @property
    def columns(self) -> int:
        return evaluate(self.code.columns, self.case.env)

    def splits(self) -> list[list[tuple[int, int, int, int]]]:
        """Ways to divide the work as threads would: by rows, by columns, and by both."""
        grain_r, grain_c = self.code.row_grain, self.code.column_grain
        row_cuts = sorted({0, self.rows, *(k * grain_r for k in (1, 2, 5) if k * grain_r < self.rows)})
        column_cuts = sorted({0, self.columns, *(k * grain_c for k in (1, 2) if k * grain_c < self.columns)})
        rows = list(pairwise(row_cuts))
        columns = list(pairwise(column_cuts))
        return [
            [(a, b, 0, self.columns) for a, b in rows],
            [(0, self.rows, a, b) for a, b in columns],
            [(a, b, c, d) for c, d in reversed(columns) for a, b in rows],
        ]


def emit(case: Case, kernel: Kernel, target: Target) -> KernelCode:
    site = case.site()
    reason = kernel.accepts(site, target)
    assert reason is None, reason
    assert kernel.cost(site, target) > 0
    return kernel.emit(site, target)


def build(cases: Mapping[str, Case], kernel: Kernel, configuration: Configuration) -> dict[str, Built]:
    """The kernels of all cases, compiled as one unit."""
    codes = [emit(case, kernel, configuration.target) for case in cases.values()]
    text = "\n".join(callable_kernel(code, f"call_{k}") for k, code in enumerate(codes))
    library = compiled(text, configuration)
    return {
        name: Built(case, code, getattr(library, f"call_{k}"))
        for k, ((name, case), code) in enumerate(zip(cases.items(), codes, strict=True))
    }


def check_all(cases: Mapping[str, Case], kernel: Kernel, configuration: Configuration, subtests: Any) -> None:
    """Every case as a subtest: whole and split, against the reference."""
    for name, built in build(cases, kernel, configuration).items():
        with subtests.test(msg=name):
            check(built)


def check(built: Built) -> None:
    """Runs a case whole and split, and compares with the reference."""
    whole = built.run()
    compare(built.case, whole)
    for split in built.splits():
        again = built.run(split)
        assert np.array_equal(whole, again, equal_nan=whole.dtype.kind == "f"), f"other bits when split as {split}"


def compare(case: Case, actual: np.ndarray) -> None:
    """Fails unless the result is the reference's, for floats within rounding of sums this long."""
    expected = reference(case)
    if actual.dtype.kind != "f":
        np.testing.assert_array_equal(actual, expected.astype(actual.dtype))
        return
    scale = float(np.max(np.abs(expected))) if expected.size and np.isfinite(expected).all() else 1.0
    tolerance = 3e-6 if case.out.dtype == F32 else 1e-14
    np.testing.assert_allclose(actual, expected, rtol=tolerance * 10, atol=tolerance * max(1.0, scale))


# ---------------------------------------------------------------- float64 references


def reference(case: Case) -> np.ndarray:
    memory = Memory(case)
    kind = np.float64 if case.out.dtype.numpy().kind == "f" else np.int64
    args = [
        memory.strided(case.views[a]).astype(kind) if a in case.views else case.constants[a].astype(kind)
        for a in case.args
    ]
    value = CONTRACTIONS[case.kind](*args, case)
    shape = value.shape

    def operand(name: str) -> np.ndarray:
        leaf = case.leaves[name]
        array = memory.strided(case.site().views[leaf]).astype(kind)
        if array.ndim == 1 and len(shape) > 1:
            array = array.reshape([-1 if k == case.lane else 1 for k in range(len(shape))])
        return array

    return np.asarray(case.epilogue.function(value, operand, _Numeric))


def _matmul(a: np.ndarray, b: np.ndarray, case: Case) -> np.ndarray:
    return a @ b


def _conv(x: np.ndarray, w: np.ndarray, case: Case) -> np.ndarray:
    """Tap by tap: a strided slice of the padded input times a slice of the weights."""
    a = case.attrs
    per_in, per_out = w.shape[1], w.shape[0] // a.groups
    out = np.zeros([evaluate(d, case.env) for d in case.out.shape], x.dtype)
    for tap, part in zip(np.ndindex(*a.kernel), _taps(x, case, 0.0), strict=True):
        for g in range(a.groups):
            xs = part[:, g * per_in : (g + 1) * per_in]
            ws = w[(slice(g * per_out, (g + 1) * per_out), slice(None), *tap)]
            out[:, g * per_out : (g + 1) * per_out] += np.einsum("nc...,oc->no...", xs, ws)
    return out


def _taps(x: np.ndarray, case: Case, fill: float) -> list[np.ndarray]:
    """The input under every tap of the window, `fill` outside the image."""
    a = case.attrs
    spatial = [evaluate(d, case.env) for d in case.out.shape[2:]]
    before = [evaluate(p, case.env) for p in a.pads_before]
    reach = [
        (n - 1) * s + d * (k - 1) + 1 for n, s, d, k in zip(spatial, a.strides, a.dilations, a.kernel, strict=True)
    ]
    after = [max(0, r - b - n) for r, b, n in zip(reach, before, x.shape[2:], strict=True)]
    padded = np.pad(x, [(0, 0), (0, 0), *zip(before, after, strict=True)], constant_values=fill)
    found = []
    for tap in np.ndindex(*a.kernel):
        cut = tuple(
            slice(t * d, t * d + (n - 1) * s + 1, s)
            for t, d, n, s in zip(tap, a.dilations, spatial, a.strides, strict=True)
        )
        found.append(padded[(slice(None), slice(None), *cut)])
    return found


def _conv_transpose(x: np.ndarray, w: np.ndarray, case: Case) -> np.ndarray:
    """Every input pixel adds its weights to the output, which is then cut to its place."""
    a = case.attrs
    per_in, per_out = x.shape[1] // a.groups, w.shape[1]
    spatial = [evaluate(d, case.env) for d in case.out.shape[2:]]
    before = [evaluate(p, case.env) for p in a.pads_before]
    full = [
        (n - 1) * s + d * (k - 1) + 1 for n, s, d, k in zip(x.shape[2:], a.strides, a.dilations, a.kernel, strict=True)
    ]
    room = [max(f, b + n) for f, b, n in zip(full, before, spatial, strict=True)]
    out = np.zeros((x.shape[0], per_out * a.groups, *room), x.dtype)
    for tap in np.ndindex(*a.kernel):
        cut = tuple(
            slice(t * d, t * d + (n - 1) * s + 1, s)
            for t, d, n, s in zip(tap, a.dilations, x.shape[2:], a.strides, strict=True)
        )
        for g in range(a.groups):
            xs = x[:, g * per_in : (g + 1) * per_in]
            ws = w[(slice(g * per_in, (g + 1) * per_in), slice(None), *tap)]
            out[(slice(None), slice(g * per_out, (g + 1) * per_out), *cut)] += np.einsum("nc...,co->no...", xs, ws)
    return out[(slice(None), slice(None), *(slice(b, b + n) for b, n in zip(before, spatial, strict=True)))]


def _max_pool(x: np.ndarray, case: Case) -> np.ndarray:
    lowest = -np.inf if x.dtype.kind == "f" else np.iinfo(case.out.dtype.numpy()).min
    return np.maximum.reduce(_taps(x, case, lowest))


def _average_pool(x: np.ndarray, case: Case) -> np.ndarray:
    a = case.attrs
    total = np.add.reduce(_taps(x, case, 0.0))
    ones = np.ones_like(x[:1, :1])
    if not a.count_include_pad:
        return total / np.add.reduce(_taps(ones, case, 0.0))
    # Zeros around the image count, what a rounded-up output reaches beyond them does not.
    pads = [(evaluate(b, case.env), evaluate(e, case.env)) for b, e in zip(a.pads_before, a.pads_after, strict=True)]
    counted = np.pad(ones, [(0, 0), (0, 0), *pads], constant_values=1.0)
    inner = replace(case, attrs=replace(a, pads_before=(0,) * len(pads), pads_after=(0,) * len(pads)))
    return total / np.add.reduce(_taps(counted, inner, 0.0))


CONTRACTIONS: dict[str, Callable[..., np.ndarray]] = {
    "matmul": _matmul,
    "conv": _conv,
    "conv_transpose": _conv_transpose,
    "max_pool": _max_pool,
    "average_pool": _average_pool,
}
