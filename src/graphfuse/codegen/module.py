"""Assembling a module: kernels named by their contents, model_run and its companions, the weights."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np
import sympy

from graphfuse.codegen.writer import Writer
from graphfuse.errors import InternalError
from graphfuse.graph.dims import Dim, add, c_text, maximum, steps, symbols
from graphfuse.graph.dtypes import item_bytes, numpy_name
from graphfuse.ops.tensor import Tensor
from graphfuse.plan.memory import aligned
from graphfuse.plan.planner import Call, Plan
from graphfuse.plan.site import KernelCode, Packed
from graphfuse.plan.view import Buffer, View

ALIGNMENT = 64

HEADER = """\
/* The face of a compiled model. No allocation, no global state; calls may run at the same time on different arenas. */
#ifndef GRAPHFUSE_MODEL_H
#define GRAPHFUSE_MODEL_H

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef struct gf_pool gf_pool;

gf_pool *gf_pool_create(int threads);
void gf_pool_destroy(gf_pool *pool);

/* Runs the model: in and out hold one pointer for each input and output, dims the sizes of the symbolic dimensions, in
 * the order of manifest.json. The arena is model_arena_bytes long and 64-byte aligned. pool may be NULL: one thread;
 * weights may be NULL in a library that has them embedded.
 * Returns 0, or the number of the run-time guard (manifest.json, from 1) that failed; nothing is computed then. */
int model_run(const void *weights, const void *const *in, void *const *out, const int64_t *dims, void *arena,
              gf_pool *pool);

/* model_run for callers from other languages, to whom each argument costs time: a holds for each input, then for each
 * output, the address of a pointer to its elements; then weights, dims, arena and pool. */
int model_call(void *const *a);

/* The arena that model_run needs for these sizes with a pool of so many threads. */
int64_t model_arena_bytes(const int64_t *dims, int threads);

/* Writes the sizes of all outputs' axes, one output after the other. */
void model_output_shapes(const int64_t *dims, int64_t *shapes);

#ifdef __cplusplus
}
#endif

#endif
"""


def model_call(inputs: int, outputs: int) -> str:
    """The C text of model_call for so many inputs and outputs."""
    w = Writer()
    ports = inputs + outputs
    with w.block("GF_API int model_call(void *const *a)"):
        w.line(f"const void *in[{max(1, inputs)}] = {{0}};")
        w.line(f"void *out[{max(1, outputs)}] = {{0}};")
        w.line(f"for (int k = 0; k < {inputs}; ++k) in[k] = *(const void *const *)a[k];")
        w.line(f"for (int k = 0; k < {outputs}; ++k) out[k] = *(void *const *)a[{inputs} + k];")
        w.line(f"return model_run(a[{ports}], in, out, a[{ports + 1}], a[{ports + 2}], a[{ports + 3}]);")
    return w.text()


@dataclass
class Port:
    """An input or output of the model; dtype is NumPy's name, shape entries are ints or expressions over symbols."""

    name: str
    dtype: str
    shape: list[int | str]


@dataclass
class Module:
    """Everything that the toolchain and the artifact need; the text is the same for the same model and options.

    kernels: function name -> C source of one function; entry: model_run and its companions.
    """

    preamble: str
    amalgamated_preamble: str
    kernels: dict[str, str]
    entry: str
    header: str
    pool: str
    weights: list[np.ndarray]
    dims: list[str]
    inputs: list[Port]
    outputs: list[Port]
    guards: list[str] = field(default_factory=list)

    @property
    def main(self) -> str:
        """What follows the preamble in the unit that calls the kernels."""
        arguments = "(void *const *p, const int64_t *d, int64_t r0, int64_t r1, int64_t c0, int64_t c1, char *scratch);"
        prototypes = "".join(f"GF_KERNEL void {name}{arguments}\n" for name in self.kernels)
        return "\n".join([self.pool, prototypes, self.entry])

    def source(self) -> str:
        """The whole model as one C file."""
        return "\n".join([self.amalgamated_preamble, *self.kernels.values(), self.pool, self.entry])

    def weight_chunks(self) -> Iterator[bytes]:
        """The contents of weights.bin: every array on a 64-byte boundary, in order."""
        return chunks(self.weights)


# In builds for profiling only: model_run with the time taken ahead of every call and behind the last.
_CLOCK = """\
#include <time.h>

static int64_t gf_nanoseconds(void) {
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
}
"""


def assemble(
    plan: Plan, preamble: tuple[str, str], pool: str, embed_weights: bool = False, profile: bool = False
) -> Module:
    """Emit the module of a plan; `preamble` is the one for separate units and the one for a single file.

    profile: add `model_profile`, which is model_run with one more argument, `int64_t *stamps`: it writes there the time
    in nanoseconds ahead of every call of the plan, and behind the last.
    """
    return _Assembler(plan, preamble, pool, embed_weights, profile).run()


def chunks(arrays: Iterable[np.ndarray]) -> Iterator[bytes]:
    """The bytes of arrays one after the other, each padded to whole cache lines."""
    for array in arrays:
        yield array.tobytes()
        yield b"\0" * (-array.nbytes % ALIGNMENT)


class _Assembler:
    def __init__(
        self, plan: Plan, preamble: tuple[str, str], pool: str, embed_weights: bool, profile: bool = False
    ) -> None:
        self.plan = plan
        self.embed_weights = embed_weights
        self.profile = profile
        self.preamble = preamble
        self.pool = pool
        self.kernels: dict[str, str] = {}
        self.weights: list[np.ndarray] = []
        self.weight_offsets: dict[object, int] = {}
        self.weight_end = 0
        self.dims = symbols(self._all_dims())
        self.c_names = {s: f"{_identifier(s)}_{k}" for k, s in enumerate(self.dims)}
        self.steps = {e: f"size_{k}" for k, e in enumerate(steps(set(self._all_dims())))}
        self._texts: dict[Dim, str] = {}
        self.used: set[Dim] = set()  # what occurs in the function being written

    def run(self) -> Module:
        plan = self.plan
        body = self._model_run() + model_call(len(plan.inputs), len(plan.outputs))
        weights = [self._embedded()] if self.embed_weights else []
        timed = [_CLOCK, self._model_run(timed=True)] if self.profile else []
        entry = "\n".join([*weights, self._arena_bytes(), self._output_shapes(), body, *timed])
        inputs = [self._port(t, name) for t, name in zip(plan.inputs, plan.input_names, strict=True)]
        outputs = [self._port(t, name) for t, name in zip(plan.outputs, plan.output_names, strict=True)]
        guards = [g.message for g in plan.guards]
        return Module(
            *self.preamble, self.kernels, entry, HEADER, self.pool, self.weights, self.dims, inputs, outputs, guards
        )

    def _port(self, t: Tensor, name: str) -> Port:
        return Port(name, numpy_name(t.dtype), [d if isinstance(d, int) else str(d) for d in t.shape])

    def _all_dims(self) -> Iterable[Dim]:
        plan = self.plan
        for t in [*plan.inputs, *plan.outputs]:
            yield from t.shape
        for call in plan.calls:
            yield from (call.code.rows, call.code.columns, call.code.work, call.code.scratch, call.code.repeat)
            yield from call.code.dims
            for p in call.code.pointers:
                if isinstance(p, View):
                    yield p.offset
        yield plan.arena.size
        yield from plan.arena.offsets.values()
        for g in plan.guards:
            yield from (g.left, g.right)

    def _c(self, d: Dim) -> str:
        if isinstance(d, int):
            return str(d)
        self.used.add(d)
        if d not in self._texts:
            self._texts[d] = c_text(d, self.c_names, self.steps)
        return self._texts[d]

    @contextmanager
    def _function(self, w: Writer, head: str) -> Iterator[None]:
        """A function body, with the sizes it is made of declared ahead."""
        self.used.clear()
        with w.block(head):
            w.line("(void)dims;")
            declarations = w.section()
            yield
        needed = symbols(self.used)
        for k, s in enumerate(self.dims):
            if s in needed:
                declarations.line(f"const int64_t {self.c_names[s]} = dims[{k}];")
        done: dict[sympy.Expr, str] = {}
        for e in steps(self.used):
            if e in self.steps:
                declarations.line(f"const int64_t {self.steps[e]} = {c_text(e, self.c_names, done)};")
                done[e] = self.steps[e]

    # ------------------------------------------------------------------ functions

    def _scratch(self) -> Dim:
        sizes = list(dict.fromkeys(c.code.scratch for c in self.plan.calls if c.code.scratch != 0))
        return aligned(maximum(*sizes) if len(sizes) > 1 else sizes[0]) if sizes else 0

    def _arena_bytes(self) -> str:
        w = Writer()
        with self._function(w, "GF_API int64_t model_arena_bytes(const int64_t *dims, int threads)"):
            w.line("const int64_t per_thread = threads < 1 ? 1 : threads;")
            w.line(f"return {self._c(self.plan.arena.size)} + per_thread * {self._c(self._scratch())};")
        return w.text()

    def _output_shapes(self) -> str:
        w = Writer()
        with self._function(w, "GF_API void model_output_shapes(const int64_t *dims, int64_t *shapes)"):
            sizes = [d for t in self.plan.outputs for d in t.shape]
            if not sizes:
                w.line("(void)shapes;")
            for k, d in enumerate(sizes):
                w.line(f"shapes[{k}] = {self._c(d)};")
        return w.text()

    def _model_run(self, timed: bool = False) -> str:
        """model_run, or the model_profile of a build for profiling."""
        w = Writer()
        name, more = ("model_profile", ", int64_t *stamps") if timed else ("model_run", "")
        w.line(f"GF_API int {name}(const void *weights, const void *const *in, void *const *out, const int64_t *dims,")
        with self._function(w, f"                     void *arena, gf_pool *pool{more})"):
            for name in ("weights", "in", "out", "arena", "pool"):
                w.line(f"(void){name};")
            if self.embed_weights:
                w.line("if (weights == NULL) weights = model_weights;")
            for k, g in enumerate(self.plan.guards):
                fails = ">" if g.at_most else "!="
                w.line(f"if ({self._c(g.left)} {fails} {self._c(g.right)}) return {k + 1};")
            w.line(f"char *const scratch = (char *)arena + {self._c(self.plan.arena.size)};")
            w.line("(void)scratch;")
            for k, call in enumerate(self.plan.calls):
                if timed:
                    w.line(f"stamps[{k}] = gf_nanoseconds();")
                self._call(w, call)
            if timed:
                w.line(f"stamps[{len(self.plan.calls)}] = gf_nanoseconds();")
            w.line("return 0;")
        return w.text()

    def _embedded(self) -> str:
        """The weights as an array; model_run takes it where it is given no other."""
        w = Writer()
        data = b"".join(chunks(self.weights)) or bytes(4)
        words = np.frombuffer(data, "<u4")
        w.line("static const uint32_t model_weights[] __attribute__((aligned(64))) = {")
        for start in range(0, words.size, 8):
            w.line("  " + " ".join(f"0x{word:08x}u," for word in words[start : start + 8]))
        w.line("};")
        return w.text()

    def _call(self, w: Writer, call: Call) -> None:
        name = self._kernel(call.code)
        code = call.code
        w.comment(f"{call.label}: {', '.join(call.nodes)}" if call.nodes else call.label)
        with w.block():
            w.line("void *const p[] = {")
            for p in code.pointers:
                w.line(f"  (void *)({self._pointer(p)}),")
            w.line("};")
            dims = "NULL"
            if code.dims:
                const = "const " if code.repeat == 1 else ""
                w.line(f"{const}int64_t d[] = {{" + ", ".join(self._c(d) for d in code.dims) + "};")
                dims = "d"
            scratch = self._c(aligned(code.scratch))
            split = f"{self._c(code.rows)}, {code.row_grain}, {self._c(code.columns)}, {code.column_grain}"
            if code.repeat != 1:
                w.line(f"for (; d[0] < {self._c(code.repeat)}; ++d[0])")
            fork = "gf_parallel_cols" if code.columns_first else "gf_parallel"
            w.line(f"{fork}(pool, {name}, p, {dims}, {split}, {self._c(code.work)}, scratch, {scratch});")

    def _kernel(self, code: KernelCode) -> str:
        for part in code.parts:
            self._kernel(part)
        name = code.name
        text = code.source.replace("@NAME@", name)
        if self.kernels.setdefault(name, text) != text:
            raise InternalError("two kernels have the same digest", where=name)
        return name

    def _pointer(self, p: object) -> str:
        if isinstance(p, Packed):
            return f"(const char *)weights + {self._packed(p)}"
        assert isinstance(p, View), p
        offset = self._c(p.offset * item_bytes(p.dtype))
        buffer = p.buffer
        if buffer.kind == "arena":
            base = f"(char *)arena + {self._c(self.plan.arena.offsets[buffer])}"
        elif buffer.kind == "weight":
            base = f"(const char *)weights + {self._constant(buffer)}"
        elif buffer.kind == "input":
            base = f"(const char *)in[{buffer.index}]"
        else:
            base = f"(char *)out[{buffer.index}]"
        return base if offset == "0" else f"{base} + {offset}"

    # ------------------------------------------------------------------ weights

    def _packed(self, p: Packed) -> int:
        key = (p.source, p.key)
        if key not in self.weight_offsets:
            array = _value(p.source)
            self._add_weights(key, p.arrange(array))
        return self.weight_offsets[key]

    def _constant(self, buffer: Buffer) -> int:
        source = self.plan.constants[buffer]
        if source not in self.weight_offsets:
            self._add_weights(source, _value(source))
        return self.weight_offsets[source]

    def _add_weights(self, key: object, array: np.ndarray) -> None:
        self.weight_offsets[key] = self.weight_end
        self.weights.append(np.ascontiguousarray(array))
        self.weight_end = int(add(self.weight_end, int(aligned(array.nbytes))))  # type: ignore[arg-type]


def _value(t: Tensor) -> np.ndarray:
    assert t.value is not None
    assert t.value.const_value is not None
    return t.value.const_value.numpy()


def _identifier(text: str) -> str:
    """A C identifier fragment from any text; not unique by itself."""
    safe = re.sub(r"[^A-Za-z0-9_]+", "_", text)[:40].strip("_")
    return safe if safe and not safe[0].isdigit() else f"n{safe}"
