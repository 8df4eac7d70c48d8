"""From a graph to running native code without the command line: several models in one library, memory under guard."""

from __future__ import annotations

import ctypes
import hashlib
import os
import re
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir

from codegen import redzones
from graphfuse.artifact.manifest import Tensor as PortInfo
from graphfuse.codegen.module import Module, assemble
from graphfuse.fusion.program import lower_graph
from graphfuse.fusion.regions import Fusion, fuse
from graphfuse.importers.onnx import import_onnx
from graphfuse.kernels import CONTRACTION_KERNELS, NEST_KERNELS, rows
from graphfuse.plan.calls import Plan
from graphfuse.plan.planner import plan
from graphfuse.runtime.binder import bind_symbols
from graphfuse.runtime.preamble import pool_source, preamble, slots_source
from graphfuse.target import Target, target_for
from graphfuse.toolchain.compiler import find_compiler

HEADER = '<ir_version: 10, opset_import: ["": 21]>\n'
GUARD = 1024  # bytes around all memory given to a model, which must not change; under the sanitizer, not be touched
OFF_LINE = 8  # inputs and outputs lie where their elements may, on no boundary of vectors
STRICT = ("-Wall", "-Wextra", "-Werror")
_FACE = re.compile(r"\bmodel_(run|call|arena_bytes|output_shapes|release)\b")


@dataclass
class Emitted:
    """What the stages from fuse to emit made of one graph."""

    fusion: Fusion
    plan: Plan
    module: Module
    target: Target


def parse(text: str) -> onnx.ModelProto:
    """A model from the body of ONNX's text form: `g (float[2] x) => (float[2] y) { y = Relu(x) }`."""
    return onnx.parser.parse_model(HEADER + text)


def imported(model: onnx.ModelProto, folder: Path) -> ir.Model:
    """The model as the import stage gives it."""
    path = folder / "model.onnx"
    onnx.save(model, path)
    return import_onnx(path).model


def fused(model: ir.Model) -> Fusion:
    """The graph lowered and fused, with no rewrite before."""
    return fuse(lower_graph(model.graph))


def emitted(model: ir.Model | Fusion, cpu: str = "native") -> Emitted:
    """The graph through fuse, plan and emit, with no rewrite before."""
    target = target_for(cpu)
    fusion = model if isinstance(model, Fusion) else fused(model)
    planned = plan(fusion, CONTRACTION_KERNELS, rows.emit, target, nests=NEST_KERNELS)
    module = assemble(
        planned, (preamble(target.lanes, False), preamble(target.lanes, True)), pool_source(), slots_source()
    )
    return Emitted(fusion, planned, module, target)


def joined(modules: Sequence[Module], exact: bool = False) -> str:
    """Several modules as one C file: model k's functions are model_run_k and so on; equal kernels are written once.

    exact: for the address sanitizer, see `codegen.redzones`.
    """
    kernels: dict[str, str] = {}
    for module in modules:
        kernels.update(module.kernels)
    entries = [_FACE.sub(rf"model_\1_{k}", module.entry) for k, module in enumerate(modules)]
    pool = max((m.pool for m in modules), key=len)  # that of a model with measured sizes holds more
    if exact:
        pool, entries = redzones.exact(pool, entries)
    return "\n".join([modules[0].amalgamated_preamble, *kernels.values(), pool, *entries])


@cache
def compiled(source: str, cpu: str, cc: str, flags: tuple[str, ...]) -> ctypes.CDLL:
    """The library of a C file; kept in the temporary folder under its contents, so that test processes share it."""
    target = target_for(cpu)
    compiler = find_compiler(cc, target)
    # However little there is to do, every call is shared among the threads.
    arguments = [*compiler.compile_flags(target, flags), "-DGF_WORK_PER_THREAD=1", "-shared"]
    folder = Path(tempfile.gettempdir()) / f"graphfuse-model-tests-{os.getuid()}"
    folder.mkdir(exist_ok=True)
    digest = hashlib.sha256("\0".join([source, *compiler.argv, compiler.version, *arguments]).encode()).hexdigest()[:24]
    library = folder / f"{digest}.so"
    if not library.exists():
        unit = folder / f"{digest}.{os.getpid()}.c"
        unit.write_text(source)
        partial = unit.with_suffix(".part")
        command = [*compiler.argv, *arguments, str(unit), "-o", str(partial), "-lm", "-lpthread"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{unit}\n{done.stderr[:4000]}"
        partial.replace(library)
        unit.unlink()
    return ctypes.CDLL(str(library))


def build(models: Sequence[Emitted], cc: str = "gcc", flags: Sequence[str] = ("-O1",)) -> list[Runner]:
    """All models, for one target, in one library."""
    cpu = models[0].target.cpu_name
    library = compiled(joined([m.module for m in models]), cpu, cc, (*STRICT, *flags))
    return [Runner(m.module, library, f"_{k}") for k, m in enumerate(models)]


class GuardFailed(Exception):
    """A run-time guard of the model refused the sizes."""


class Runner:
    """One compiled model. Memory is filled with what must not be used, and guarded by what must not change."""

    def __init__(self, module: Module, library: ctypes.CDLL, suffix: str = "", plan: Plan | None = None) -> None:
        """plan: where the module was emitted `redzones.spread_out`, so that no two buffers touch."""
        self.module = module
        self._plan = plan
        self._library = library
        self._run = getattr(library, f"model_run{suffix}")
        self._arena_bytes = getattr(library, f"model_arena_bytes{suffix}")
        self._arena_bytes.restype = ctypes.c_int64
        self._output_shapes = getattr(library, f"model_output_shapes{suffix}")
        self._output_shapes.restype = None
        self._release = getattr(library, f"model_release{suffix}")
        library.gf_pool_create.restype = ctypes.c_void_p
        self._weights = _Guarded.of(np.frombuffer(b"".join(module.weight_chunks()), np.uint8))

    def __call__(self, inputs: Mapping[str, np.ndarray], threads: int = 1) -> list[np.ndarray]:
        """The outputs. Raises GuardFailed; an AssertionError when the code wrote where it must not."""
        module = self.module
        given = [_Guarded.of(inputs[p.name], OFF_LINE) for p in module.inputs]
        ports = [PortInfo(p.name, p.dtype, tuple(p.shape)) for p in module.inputs]
        values = bind_symbols(ports, [x.array.shape for x in given], module.dims)
        sizes = len(module.dims) + len(module.measured)
        dims = (ctypes.c_int64 * max(1, sizes))(*(values[d] for d in module.dims))
        shapes = self._shapes(dims)
        if module.measured:  # a size may be less than nothing while what it comes from counts for nothing
            shapes = [tuple(max(0, d) for d in shape) for shape in shapes]
        outputs = [_Guarded(shape, p.dtype, OFF_LINE) for p, shape in zip(module.outputs, shapes, strict=True)]
        arena = _Guarded((self._arena_bytes(dims, threads),), "uint8")
        arena.array[: module.arena_head] = 0
        places = (ctypes.c_void_p * max(1, len(outputs)))(*(o.address for o in outputs))
        zones = [zone for memory in (self._weights, arena, *given, *outputs) for zone in memory.guards]
        if self._plan is not None:
            holes = redzones.arena_holes(self._plan, module.arena_head, arena.array.size, values)
            zones += [(arena.address + start, size) for start, size in holes]
            zones += [(self._weights.address + start, size) for start, size in redzones.weight_holes(module)]
        pool = self._library.gf_pool_create(threads) if threads > 1 else None
        with redzones.poisoned(zones):
            status = self._run(
                ctypes.c_void_p(self._weights.address),
                (ctypes.c_void_p * max(1, len(given)))(*(x.address for x in given)),
                places,
                dims,
                ctypes.c_void_p(arena.address),
                ctypes.c_void_p(pool),
            )
        self._library.gf_pool_destroy(ctypes.c_void_p(pool))
        if status:
            self._release(ctypes.c_void_p(arena.address))
            raise GuardFailed(module.guards[status - 1])
        results = self._results(outputs, places, dims)
        self._release(ctypes.c_void_p(arena.address))
        arena.check("the arena")
        for port, output in zip(module.outputs, outputs, strict=True):
            output.check(f"output {port.name}")
        for port, memory in zip(module.inputs, given, strict=True):
            memory.check(f"input {port.name}")
            assert memory.array.tobytes() == inputs[port.name].tobytes(), "an input was changed"
        return results

    def _results(
        self, outputs: list[_Guarded], places: ctypes.Array[ctypes.c_void_p], dims: ctypes.Array[ctypes.c_int64]
    ) -> list[np.ndarray]:
        """The outputs' values; those of measured sizes are where the model says."""
        found = []
        for place, shape, output in zip(places, self._shapes(dims), outputs, strict=False):
            if place == output.address:
                found.append(output.array)
                continue
            array = np.empty(shape, output.array.dtype)
            ctypes.memmove(array.ctypes.data, place, array.nbytes)
            found.append(array)
        return found

    def _shapes(self, dims: ctypes.Array[ctypes.c_int64]) -> list[tuple[int, ...]]:
        ranks = [len(p.shape) for p in self.module.outputs]
        sizes = (ctypes.c_int64 * max(1, sum(ranks)))()
        self._output_shapes(dims, sizes)
        flat = iter(sizes)
        return [tuple(next(flat) for _ in range(rank)) for rank in ranks]


class _Guarded:
    """An array of exactly the right size between two guards, full of ones (NaN, -1, true); `shift` bytes off a line."""

    def __init__(self, shape: tuple[int, ...], dtype: str | np.dtype, shift: int = 0) -> None:
        assert all(d >= 0 for d in shape), shape
        item = np.dtype(dtype)
        self._start, self._size = GUARD + shift, int(np.prod(shape, dtype=np.int64)) * item.itemsize
        self._bytes = _aligned(b"\xff" * (self._start + self._size + GUARD))
        self._bytes[: self._start] = self._bytes[self._start + self._size :] = 0xA5
        self.array = self._bytes[self._start : self._start + self._size].view(item).reshape(shape)
        self.address = self._bytes.ctypes.data + self._start

    @classmethod
    def of(cls, values: np.ndarray, shift: int = 0) -> _Guarded:
        """The same values."""
        guarded = cls(values.shape, values.dtype, shift)
        guarded.array[...] = values
        return guarded

    @property
    def guards(self) -> list[tuple[int, int]]:
        """The address and bytes of both guards."""
        return [(self.address - self._start, self._start), (self.address + self._size, GUARD)]

    def check(self, what: str) -> None:
        assert (self._bytes[: self._start] == 0xA5).all(), f"something was written before {what}"
        assert (self._bytes[self._start + self._size :] == 0xA5).all(), f"something was written behind {what}"


def _aligned(data: bytes) -> np.ndarray:
    raw = np.empty(len(data) + 64, np.uint8)
    start = -raw.ctypes.data % 64
    raw[start : start + len(data)] = np.frombuffer(data, np.uint8)
    return raw[start : start + len(data)]
