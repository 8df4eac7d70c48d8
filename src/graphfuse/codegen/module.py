"""Assembling a module: kernels named by their contents, model_run and its companions, the weights."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np
import sympy

from graphfuse.codegen.writer import Writer
from graphfuse.errors import InternalError
from graphfuse.fuse.guards import Guard
from graphfuse.graph.dims import (
    Dim,
    add,
    c_text,
    maximum,
    measured,
    mul,
    product,
    saturating_text,
    steps,
    symbol_named,
    symbols,
)
from graphfuse.graph.dtypes import c_type, item_bytes, numpy_name
from graphfuse.ops.tensor import Tensor
from graphfuse.plan.calls import Appended, Assign, Call, Choice, Plan, Read, Repeat
from graphfuse.plan.memory import aligned
from graphfuse.plan.site import KernelCode, Packed
from graphfuse.plan.view import Buffer, View

ALIGNMENT = 64

HEADER = """\
/* The face of a compiled model. No global state; calls may run at the same time on different arenas. Nothing is
 * allocated but in a model with sizes that depend on data (manifest.json, "measured"). */
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
 * Returns 0, or the number of the run-time guard (manifest.json, from 1) that failed; the outputs mean nothing then.
 *
 * In a model with measured sizes the arena must be zero before its first use and be given to model_release after its
 * last; dims has room behind the symbols for the measured sizes of outputs, which are written there, and out is given
 * the addresses of the outputs that have such sizes: their memory is the arena's, until the next run. Such a model
 * returns -1 where there is not enough memory. */
int model_run(const void *weights, const void *const *in, @OUT@ *out, @DIMS@ *dims, void *arena,
              gf_pool *pool);

/* model_run for callers from other languages, to whom each argument costs time: a holds for each input, then for each
 * output, the address of a pointer to its elements; then weights, dims, arena and pool. */
int model_call(void *const *a);

/* The arena that model_run needs for these sizes with a pool of so many threads. */
int64_t model_arena_bytes(const int64_t *dims, int threads);

/* Writes the sizes of all outputs' axes, one output after the other. */
void model_output_shapes(const int64_t *dims, int64_t *shapes);

/* Frees what an arena holds besides itself: tensors of measured sizes. */
void model_release(void *arena);

#ifdef __cplusplus
}
#endif

#endif
"""


def model_call(inputs: int, outputs: int, returned: Iterable[int] = ()) -> str:
    """The C text of model_call for so many inputs and outputs; the addresses of outputs `returned` are written back."""
    w = Writer()
    ports = inputs + outputs
    with w.block("GF_API int model_call(void *const *a)"):
        w.line(f"const void *in[{max(1, inputs)}] = {{0}};")
        w.line(f"void *out[{max(1, outputs)}] = {{0}};")
        w.line(f"for (int k = 0; k < {inputs}; ++k) in[k] = *(const void *const *)a[k];")
        w.line(f"for (int k = 0; k < {outputs}; ++k) out[k] = *(void *const *)a[{inputs} + k];")
        w.line(f"const int status = model_run(a[{ports}], in, out, a[{ports + 1}], a[{ports + 2}], a[{ports + 3}]);")
        for k in returned:
            w.line(f"*(void **)a[{inputs + k}] = out[{k}];")
        w.line("return status;")
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
    measured: list[str] = field(default_factory=list)  # sizes of outputs that depend on data, behind `dims`
    arena_head: int = 0  # bytes of the arena ahead of all buffers

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
    plan: Plan, preamble: tuple[str, str], pool: str, slots: str, embed_weights: bool = False, profile: bool = False
) -> Module:
    """Emit the module of a plan; `preamble` is the one for separate units and the one for a single file.

    pool, slots: the C text of the thread pool, and of the memory for tensors of measured sizes.

    profile: add `model_profile`, which is model_run with one more argument, `int64_t *stamps`: it writes there the time
    in nanoseconds ahead of every call of the plan, and behind the last.
    """
    return _Assembler(plan, preamble, pool, slots, embed_weights, profile).run()


def chunks(arrays: Iterable[np.ndarray]) -> Iterator[bytes]:
    """The bytes of arrays one after the other, each padded to whole cache lines."""
    for array in arrays:
        yield array.tobytes()
        yield b"\0" * (-array.nbytes % ALIGNMENT)


_SLOT_BYTES = 24  # of a gf_slot


@dataclass
class _Progress:
    """What has been written of a function: sizes that are known, guards that are checked, memory that is taken."""

    known: set[str] = field(default_factory=set)
    guarded: set[int] = field(default_factory=set)
    taken: set[str] = field(default_factory=set)

    def copy(self) -> _Progress:
        """What a body of control flow begins with."""
        return _Progress(set(self.known), set(self.guarded), set(self.taken))


def _sizes_of_control(call: Call) -> Iterator[Dim]:
    control = call.control
    if isinstance(control, Repeat):
        yield symbol_named(control.number)
        yield from () if control.trips is None else [control.trips]
        yield from (size for c in control.carriers for size in c.sizes.values())
        yield from (size for x in control.appended for size in x.sizes.values())
        changing = [*(c.sizes for c in control.carriers), *(x.sizes for x in control.appended)]
        yield from (symbol_named(name) for sizes in changing for name in sizes)


class _Assembler:
    def __init__(
        self, plan: Plan, preamble: tuple[str, str], pool: str, slots: str, embed_weights: bool, profile: bool
    ) -> None:
        self.plan = plan
        self.every_call = list(plan.every_call)
        self.every_plan = [plan, *(b for call in self.every_call if call.control for b in call.control.bodies)]
        self.embed_weights = embed_weights
        self.profile = profile
        self.preamble = preamble
        self.pool = pool
        self.slots_text = slots
        self.kernels: dict[str, str] = {}
        self.weights: list[np.ndarray] = []
        self.weight_offsets: dict[object, int] = {}
        self.weight_end = 0
        sizes = list(self._all_dims())
        self.dims = [s for s in symbols(sizes) if not s.startswith("_")]
        self.late = measured(*sizes)
        self.returned = measured(*(d for t in plan.outputs for d in t.shape))
        self.c_names = {s: f"{_identifier(s)}_{k}" for k, s in enumerate(self.dims)}
        self.c_names.update((s, f"measured{s}") for s in self.late)
        self.steps = {e: f"size_{k}" for k, e in enumerate(e for e in steps(set(sizes)) if not measured(e))}
        self._texts: dict[Dim, str] = {}
        self.used: set[Dim] = set()  # what occurs in the function being written
        self.messages = [g.message for g in plan.guards]
        self.pointer_names, self.place_names = self._name_memory()
        self.slots = max(plan.arena.slots.values(), default=-1) + 1 + self._has_late_scratch()

    def _name_memory(self) -> tuple[dict[Buffer, str], dict[Buffer, str]]:
        """The C variables of loops' carried values, and of other tensors in slots."""
        carriers = [c for call in self.every_call if isinstance(call.control, Repeat) for c in call.control.carriers]
        pointers: dict[Buffer, str] = {}
        for k, c in enumerate(carriers):
            pointers[c.before] = f"carried_{k}"
            if c.after is not None:
                pointers[c.after] = f"next_{k}"
        behind = {place for buffer in pointers for place in buffer.behind}
        others = [buffer for buffer in self.plan.arena.slots if buffer not in behind]
        # A result in the place of an operand is the same memory under the same name.
        homes = {buffer: self._home(buffer) for buffer in others}
        names = {home: f"memory_{k}" for k, home in enumerate(dict.fromkeys(homes.values()))}
        return pointers, {buffer: names[home] for buffer, home in homes.items()}

    def _home(self, buffer: Buffer) -> Buffer:
        for plan in self.every_plan:
            while buffer in plan.homes:
                buffer = plan.homes[buffer]
        return buffer

    def run(self) -> Module:
        plan = self.plan
        body = self._model_run() + model_call(len(plan.inputs), len(plan.outputs), plan.returned)
        weights = [self._embedded()] if self.embed_weights else []
        pool = "\n".join([self.pool, self.slots_text]) if self.slots or self.late else self.pool
        timed = [_CLOCK, self._model_run(timed=True)] if self.profile else []
        companions = [self._arena_bytes(), self._output_shapes(), self._release()]
        entry = "\n".join([*weights, *companions, body, *timed])
        inputs = [self._port(t, name) for t, name in zip(plan.inputs, plan.input_names, strict=True)]
        outputs = [self._port(t, name) for t, name in zip(plan.outputs, plan.output_names, strict=True)]
        header = HEADER.replace("@OUT@", self._out_type).replace("@DIMS@", self._dims_type)
        return Module(
            *self.preamble,
            self.kernels,
            entry,
            header,
            pool,
            self.weights,
            self.dims,
            inputs,
            outputs,
            self.messages,
            self.returned,
            self._head,
        )

    @property
    def _out_type(self) -> str:
        return "void *" if self.plan.returned else "void *const"

    @property
    def _dims_type(self) -> str:
        return "int64_t" if self.returned else "const int64_t"

    def _port(self, t: Tensor, name: str) -> Port:
        return Port(name, numpy_name(t.dtype), [d if isinstance(d, int) else str(d) for d in t.shape])

    def _all_dims(self) -> Iterable[Dim]:
        plan = self.plan
        for t in [*plan.inputs, *plan.outputs]:
            yield from t.shape
        for call in self.every_call:
            yield from call.sizes
            yield from _sizes_of_control(call)
        yield plan.arena.size
        yield from plan.arena.offsets.values()
        for part in self.every_plan:
            yield from (d for g in part.guards for d in (g.left, g.right))
            yield from (x.value for x in part.learns if isinstance(x, Assign))

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

    @property
    def _head(self) -> int:
        """The bytes at the beginning of the arena that the slots take."""
        return int(aligned(self.slots * _SLOT_BYTES))  # type: ignore[call-overload]

    def _has_late_scratch(self) -> bool:
        return any(measured(c.code.scratch) for c in self.every_call)

    def _scratch(self) -> Dim:
        wanted = (c.code.scratch for c in self.every_call if not measured(c.code.scratch))
        sizes = list(dict.fromkeys(size for size in wanted if size != 0))
        return aligned(maximum(*sizes) if len(sizes) > 1 else sizes[0]) if sizes else 0

    def _arena_bytes(self) -> str:
        w = Writer()
        with self._function(w, "GF_API int64_t model_arena_bytes(const int64_t *dims, int threads)"):
            w.line("const int64_t per_thread = threads < 1 ? 1 : threads;")
            whole = self._c(add(self._head, self.plan.arena.size))
            w.line(f"return {whole} + per_thread * {self._c(self._scratch())};")
        return w.text()

    def _output_shapes(self) -> str:
        w = Writer()
        with self._function(w, "GF_API void model_output_shapes(const int64_t *dims, int64_t *shapes)"):
            sizes = [d for t in self.plan.outputs for d in t.shape]
            if not sizes:
                w.line("(void)shapes;")
            for k, name in enumerate(self.returned):
                w.line(f"const int64_t {self.c_names[name]} = dims[{len(self.dims) + k}];")
            for k, d in enumerate(sizes):
                w.line(f"shapes[{k}] = {self._c(d)};")
        return w.text()

    def _release(self) -> str:
        w = Writer()
        with w.block("GF_API void model_release(void *arena)"):
            w.line(f"gf_free_slots(arena, {self.slots});" if self.slots else "(void)arena;")
        return w.text()

    def _model_run(self, timed: bool = False) -> str:
        """model_run, or the model_profile of a build for profiling."""
        w = Writer()
        name, more = ("model_profile", ", int64_t *stamps") if timed else ("model_run", "")
        arguments = f"const void *weights, const void *const *in, {self._out_type} *out, {self._dims_type} *dims,"
        w.line(f"GF_API int {name}({arguments}")
        with self._function(w, f"                     void *arena, gf_pool *pool{more})"):
            for name in ("weights", "in", "out", "arena", "pool"):
                w.line(f"(void){name};")
            if self.embed_weights:
                w.line("if (weights == NULL) weights = model_weights;")
            for s in self.late:
                w.line(f"int64_t {self.c_names[s]} = 0;")
            if self.slots:
                w.line("gf_slot *const slots = arena;")
            for memory in dict.fromkeys(self.place_names.values()):
                w.line(f"char *{memory} = NULL;")
            for buffer, pointer in self.pointer_names.items():
                self._pointer_variables(w, buffer, pointer)
            at = _Progress()
            self._guards(w, self.plan.guards, at)
            w.line(f"char *const scratch = (char *)arena + {self._c(add(self._head, self.plan.arena.size))};")
            w.line("(void)scratch;")
            for k, call in enumerate(self.plan.calls):
                if timed:
                    w.line(f"stamps[{k}] = gf_nanoseconds();")
                self._call(w, self.plan, call, at)
            if timed:
                w.line(f"stamps[{len(self.plan.calls)}] = gf_nanoseconds();")
            self._learn(w, self.plan, self.plan.learns, at)
            for k, view in self.plan.returned.items():
                w.line(f"out[{k}] = {self._pointer(view)};")
            for k, s in enumerate(self.returned):
                w.line(f"dims[{len(self.dims) + k}] = {self.c_names[s]};")
            w.line("return 0;")
        return w.text()

    def _pointer_variables(self, w: Writer, buffer: Buffer, name: str) -> None:
        """Where a carried value is, `carried_0`, or where its next is computed, `next_0`; and in which slot."""
        place = buffer.behind[-1 if name.startswith("next") else 0]
        if place in self.plan.arena.slots:
            w.line(f"char *{name} = NULL;")
            w.line(f"int {name}_slot = {self.plan.arena.slots[place]};")
        else:
            w.line(f"char *{name} = (char *)arena + {self._c(add(self._head, self.plan.arena.offsets[place]))};")

    def _guards(self, w: Writer, guards: Sequence[Guard], at: _Progress) -> None:
        """The guards whose sizes are all known by now."""
        for g in guards:
            if id(g) not in at.guarded and all(s in at.known for s in measured(g.left, g.right)):
                at.guarded.add(id(g))
                fails = ">" if g.at_most else "!="
                w.line(f"if ({self._c(g.left)} {fails} {self._c(g.right)}) return {self._status(g.message)};")

    def _learn(self, w: Writer, plan: Plan, learns: Sequence[Read | Assign], at: _Progress) -> None:
        """Measured sizes get their values; those that come from data are checked."""
        for x in learns:
            at.known.add(x.symbol)
            name = self.c_names[x.symbol]
            if isinstance(x, Assign):
                w.line(f"{name} = {self._c(x.value)};")
                continue
            view = x.view
            element = mul(x.index, view.strides[0]) if view.strides else 0
            place = f"(const {c_type(view.dtype)} *)({self._pointer(view)})"
            w.line(f"{name} = (int64_t)({place})[{self._c(element)}];")
            message = f"{x.node}: a size that it computes is negative, or beyond all memory"
            w.line(f"if ({name} < 0 || {name} > GF_MOST_BYTES) return {self._status(message)};")
        if learns:
            self._guards(w, plan.guards, at)

    def _status(self, message: str) -> int:
        """What model_run returns to say so."""
        if message not in self.messages:
            self.messages.append(message)
        return self.messages.index(message) + 1

    def _take(self, w: Writer, call: Call, at: _Progress) -> None:
        """Memory for what the call is the first to name, where the size is known only now."""
        for p in call.code.pointers:
            buffer = p.buffer if isinstance(p, View) else None
            if buffer is None or not buffer.is_measured or not at.known.issuperset(measured(buffer.elements)):
                continue
            place = buffer.resolved
            name = self.pointer_names.get(place) or self.place_names.get(place)
            if name is None or name in at.taken:
                continue
            at.taken.add(name)
            self._grow(w, place, self._saturating(buffer.bytes), "0")

    def _grow(self, w: Writer, place: Buffer, size: str, kept: str) -> None:
        name = self.pointer_names.get(place) or self.place_names[place]
        slot = f"{name}_slot" if place in self.pointer_names else self.plan.arena.slots[place]
        w.line(f"if (({name} = gf_take(&slots[{slot}], {size}, {kept})) == NULL) return -1;")

    def _saturating(self, size: Dim) -> str:
        self.used.add(size)
        return saturating_text(size, self.c_names)

    # ------------------------------------------------------------------ control flow

    def _choice(self, w: Writer, control: Choice, at: _Progress) -> None:
        progress = [at.copy() for _ in control.bodies]
        with w.block(f"if (*(const uint8_t *)({self._pointer(control.condition)}))"):
            self._body(w, control.bodies[0], progress[0])
        with w.block("else"):
            self._body(w, control.bodies[1], progress[1])
        for end in progress:
            at.known |= end.known
            at.taken |= end.taken

    def _repeat(self, w: Writer, call: Call, control: Repeat, at: _Progress) -> None:
        number = self.c_names[control.number]
        at.known |= {control.number, *(name for c in control.carriers for name in c.sizes)}
        at.taken |= {self.pointer_names[c.before] for c in control.carriers}
        ends = control.condition is not None or control.goes_on is not None
        if ends:
            start = "1" if control.condition is None else f"*(const uint8_t *)({self._pointer(control.condition)})"
            w.line(f"int going = {start};")
        conditions = [] if control.trips is None else [f"{number} < {self._c(control.trips)}"]
        with w.block(f"for ({number} = 0; {' && '.join([*conditions, *(['going'] if ends else [])])}; ++{number})"):
            inside = at.copy()
            self._body(w, control.bodies[0], inside)
            for x in control.appended:
                self._add_row(w, control, x, call)
            if control.goes_on is not None:
                w.line(f"going = *(const uint8_t *)({self._pointer(control.goes_on)});")
            self._advance(w, control)
        if control.count in self.late:
            w.line(f"{self.c_names[control.count]} = {number};")
        at.known.add(control.count)
        at.known |= {name for x in control.appended for name in x.sizes}
        at.taken |= {self.place_names[x.stack.buffer] for x in control.appended}

    def _add_row(self, w: Writer, control: Repeat, x: Appended, call: Call) -> None:
        """Put what an iteration adds to a stack behind the rows of those before."""
        number = symbol_named(control.number)
        for name, size in x.sizes.items():
            mine, now = self.c_names[name], self._c(size)
            w.line(f"if ({self.c_names[control.number]} == 0) {mine} = {now};")
            message = f"{call.nodes[0]}: what it stacks has another shape in every iteration"
            w.line(f"if ({mine} != {now}) return {self._status(message)};")
        row = mul(product(x.stack.shape[1:]), item_bytes(x.stack.dtype))
        self._grow(w, x.stack.buffer, self._saturating(mul(number + 1, row)), self._c(mul(number, row)))
        stack = f"{self.place_names[x.stack.buffer]} + {self._c(mul(number, row))}"
        w.line(f"if ({self._c(row)} > 0) memcpy({stack}, {self._pointer(x.part)}, (size_t){self._c(row)});")

    def _advance(self, w: Writer, control: Repeat) -> None:
        """What an iteration made becomes what the next one begins with."""
        changes = {name: size for c in control.carriers for name, size in c.sizes.items()}
        for name, size in changes.items():
            w.line(f"const int64_t next{name} = {self._c(size)};")
        for name in changes:
            w.line(f"{self.c_names[name]} = next{name};")
        for c in control.carriers:
            if c.after is None:
                continue
            now, then = self.pointer_names[c.before], self.pointer_names[c.after]
            with w.block():
                w.line(f"char *const place = {now};")
                w.line(f"{now} = {then}, {then} = place;")
                if c.before.is_measured:
                    w.line(f"const int slot = {now}_slot;")
                    w.line(f"{now}_slot = {then}_slot, {then}_slot = slot;")

    def _body(self, w: Writer, plan: Plan, at: _Progress) -> None:
        self._guards(w, plan.guards, at)
        for call in plan.calls:
            self._call(w, plan, call, at)
        self._learn(w, plan, plan.learns, at)

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

    def _call(self, w: Writer, plan: Plan, call: Call, at: _Progress) -> None:
        code = call.code
        self._learn(w, plan, call.learns, at)
        self._take(w, call, at)
        if call.control is not None:
            w.comment(f"{call.label}: {', '.join(call.nodes)}")
            with w.block():
                if isinstance(call.control, Choice):
                    self._choice(w, call.control, at)
                else:
                    self._repeat(w, call, call.control, at)
            return
        name = self._kernel(code)
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
            if measured(code.scratch):
                threads = "(pool == NULL ? 1 : gf_pool_threads(pool))"
                size = f"gf_mul_sat({self._saturating(aligned(code.scratch))}, {threads})"
                w.line(f"char *const scratch = gf_take(&slots[{self.slots - 1}], {size}, 0);")
                w.line("if (scratch == NULL) return -1;")
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
        buffer = p.buffer.resolved
        if buffer in self.pointer_names:
            base = self.pointer_names[buffer]
        elif buffer in self.place_names:
            base = self.place_names[buffer]
        elif buffer.kind == "arena":
            base = f"(char *)arena + {self._c(add(self._head, self.plan.arena.offsets[buffer]))}"
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
