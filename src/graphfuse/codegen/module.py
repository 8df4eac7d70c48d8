"""Assembling a module: kernels named by their contents, model_run and its companions, the weights."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from graphfuse.codegen.entry import Entry
from graphfuse.codegen.places import Places
from graphfuse.codegen.sizes import Sizes
from graphfuse.codegen.weights import Recipe, Weights, chunks
from graphfuse.codegen.writer import Writer
from graphfuse.graph.dims import (
    Dim,
    add,
    maximum,
    measured,
    symbol_named,
)
from graphfuse.graph.dtypes import numpy_name
from graphfuse.ops.tensor import Tensor
from graphfuse.plan.calls import Assign, Call, Plan, Repeat
from graphfuse.plan.memory import aligned

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
@STOP@
#ifdef __cplusplus
}
#endif

#endif
"""

_STOP = """
/* This model has loops of which only the data says how often they run. With `stop` other than 0 a run in this arena
 * ends when the next iteration of a loop begins, and returns -2; 0 takes that back, which every run after it needs.
 * Any thread and any signal handler may call it. The arena must be zero before its first use. */
void model_stop(void *arena, int stop);
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

    kernels: function name -> C source of one function; entry: model_run and its companions; recipes: how each of the
    weights was made.
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
    stamps: int = 0  # how many numbers model_profile writes
    learned: list[str] = field(default_factory=list)  # the measured sizes of which it writes the values
    recipes: list[Recipe] = field(default_factory=list)

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

/* One run more of a call in a body, which has taken the time since `clock`. */
static __attribute__((unused)) void gf_lap(int64_t *spent, int64_t *clock) {
  const int64_t now = gf_nanoseconds();
  spent[0] += now - *clock;
  spent[1] += 1;
  *clock = now;
}
"""


def assemble(
    plan: Plan, preamble: tuple[str, str], pool: str, slots: str, embed_weights: bool = False, profile: bool = False
) -> Module:
    """Emit the module of a plan; `preamble` is the one for separate units and the one for a single file.

    pool, slots: the C text of the thread pool, and of the memory for tensors of measured sizes.

    profile: add `model_profile`, which is model_run with one more argument, `int64_t *stamps`: it writes there the time
    in nanoseconds ahead of every call of the plan, and behind the last; for each call of a body the nanoseconds in all
    its runs, and how many there were; and what the measured sizes are in the end.
    """
    sizes, weights = Sizes(_every_size(plan)), Weights()
    places = Places(plan, sizes, weights)
    entry = Entry(plan, sizes, places, embed_weights)
    body = entry.model_run() + model_call(len(plan.inputs), len(plan.outputs), plan.returned)
    timed = [_CLOCK, entry.model_run(timed=True)] if profile else []
    companions = [_arena_bytes(plan, sizes, places), _output_shapes(plan, sizes, entry.returned), _release(places)]
    if places.stoppable:
        companions.append(_stop(places))
    module = Module(
        *preamble,
        entry.kernels,
        "\n".join([*([weights.embedded()] if embed_weights else []), *companions, body, *timed]),
        _header(entry, places),
        "\n".join([pool, slots]) if places.slots or sizes.measured else pool,
        weights.arrays,
        sizes.symbols,
        [_port(t, name) for t, name in zip(plan.inputs, plan.input_names, strict=True)],
        [_port(t, name) for t, name in zip(plan.outputs, plan.output_names, strict=True)],
        entry.messages,
        entry.returned,
        places.head,
        len(plan.calls) + 1 + 2 * len(plan.inner_calls) + len(sizes.measured) if profile else 0,
        list(sizes.measured) if profile else [],
    )
    module.recipes = weights.recipes
    return module


def _header(entry: Entry, places: Places) -> str:
    stop = _STOP if places.stoppable else ""
    return HEADER.replace("@OUT@", entry.out_type).replace("@DIMS@", entry.dims_type).replace("@STOP@", stop)


def _port(t: Tensor, name: str) -> Port:
    return Port(name, numpy_name(t.dtype), [d if isinstance(d, int) else str(d) for d in t.shape])


def _every_size(plan: Plan) -> Iterator[Dim]:
    """The sizes that the module computes with, those of bodies too."""
    for t in [*plan.inputs, *plan.outputs]:
        yield from t.shape
    for call in plan.every_call:
        yield from call.sizes
        yield from _sizes_of_control(call)
    yield plan.arena.size
    yield from plan.arena.offsets.values()
    for part in plan.every_plan:
        yield from (d for g in part.guards for d in (g.left, g.right))
        yield from (x.value for x in part.learns if isinstance(x, Assign))


def _sizes_of_control(call: Call) -> Iterator[Dim]:
    control = call.control
    if isinstance(control, Repeat):
        yield symbol_named(control.number)
        yield from () if control.trips is None else [control.trips]
        yield from (size for c in control.carriers for size in c.sizes.values())
        yield from (size for x in control.appended for size in x.sizes.values())
        changing = [*(c.sizes for c in control.carriers), *(x.sizes for x in control.appended)]
        yield from (symbol_named(name) for sizes in changing for name in sizes)


def _arena_bytes(plan: Plan, sizes: Sizes, places: Places) -> str:
    w = Writer()
    wanted = (c.code.scratch for c in plan.every_call if not measured(c.code.scratch))
    scratches = list(dict.fromkeys(size for size in wanted if size != 0))
    scratch = aligned(maximum(*scratches) if len(scratches) > 1 else scratches[0]) if scratches else 0
    with sizes.function(w, "GF_API int64_t model_arena_bytes(const int64_t *dims, int threads)"):
        w.line("const int64_t per_thread = threads < 1 ? 1 : threads;")
        w.line(f"return {sizes.text(add(places.head, plan.arena.size))} + per_thread * {sizes.text(scratch)};")
    return w.text()


def _output_shapes(plan: Plan, sizes: Sizes, returned: Sequence[str]) -> str:
    w = Writer()
    with sizes.function(w, "GF_API void model_output_shapes(const int64_t *dims, int64_t *shapes)"):
        dims = [d for t in plan.outputs for d in t.shape]
        if not dims:
            w.line("(void)shapes;")
        for k, name in enumerate(returned):
            w.line(f"const int64_t {sizes.names[name]} = dims[{len(sizes.symbols) + k}];")
        for k, d in enumerate(dims):
            w.line(f"shapes[{k}] = {sizes.text(d)};")
    return w.text()


def _release(places: Places) -> str:
    w = Writer()
    with w.block("GF_API void model_release(void *arena)"):
        w.line(f"gf_free_slots(arena, {places.slots});" if places.slots else "(void)arena;")
    return w.text()


def _stop(places: Places) -> str:
    w = Writer()
    with w.block("GF_API void model_stop(void *arena, int stop)"):
        w.line(f"__atomic_store_n({places.stop}, stop, __ATOMIC_RELAXED);")
    return w.text()
