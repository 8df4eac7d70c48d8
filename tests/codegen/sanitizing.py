"""Runs a model's one C file under the address and undefined-behaviour sanitizers, in a process of its own.

Every buffer has exactly the size that the model states, so that one element too many is an error. In a model that was
`spread`, that holds for each buffer in the arena and each array of weights too.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from codegen import redzones
from graphfuse.artifact.manifest import Tensor as PortInfo
from graphfuse.codegen.module import Module
from graphfuse.compiler import Job, emit
from graphfuse.plan.calls import Plan, arena_of
from graphfuse.runtime.binder import bind_symbols
from graphfuse.target import Target
from graphfuse.toolchain.compiler import find_compiler

# Without optimisation the checks of a whole network compile four times as fast, and see every access all the same.
FLAGS = ("-O0", "-g1", "-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-DGF_WORK_PER_THREAD=1")

_EVERYTHING = 1 << 62  # bytes: a hole that goes on to the end of the arena

# Arguments: threads, then for each run a file of the symbols' values, the inputs and the holes; outputs go to stdout.
DRIVER = """
#include <stdio.h>
#include <stdlib.h>

/* Nobody may touch the holes of an area that a file lists. */
static void poison(FILE *file, const char *area, int64_t bytes) {
  int64_t count, hole[2];
  if (fread(&count, sizeof count, 1, file) != 1) exit(3);
  for (int64_t k = 0; k < count; ++k) {
    if (fread(hole, sizeof hole, 1, file) != 1) exit(3);
    const int64_t size = hole[1] < bytes - hole[0] ? hole[1] : bytes - hole[0];
    __asan_poison_memory_region(area + hole[0], (size_t)size);
  }
}

static void *read_exactly(FILE *file, size_t bytes, size_t alignment) {
  void *data = alignment ? aligned_alloc(alignment, bytes) : malloc(bytes);
  if (fread(data, 1, bytes, file) != bytes) exit(3);
  return data;
}

int main(int argc, char **argv) {
  static const size_t input_items[] = {@INPUT_ITEMS@ 0}, output_items[] = {@OUTPUT_ITEMS@ 0};
  static const int input_ranks[] = {@INPUT_RANKS@ 0}, output_ranks[] = {@OUTPUT_RANKS@ 0};
  enum { INPUTS = @INPUTS@, OUTPUTS = @OUTPUTS@, DIMS = @DIMS@, MEASURED = @MEASURED@ };
  enum { ARENA_HEAD = @ARENA_HEAD@, WEIGHTS = @WEIGHTS@ };
  int threads = atoi(argv[1]);
  FILE *file = fopen(argv[2], "rb");
  void *weights = read_exactly(file, WEIGHTS, 64);
  fclose(file);
  gf_pool *pool = threads > 1 ? gf_pool_create(threads) : NULL;
  for (int run = 3; run < argc; ++run) {
    const void *in[INPUTS + 1] = {0};
    void *out[OUTPUTS + 1] = {0}, *given[OUTPUTS + 1] = {0};
    size_t out_bytes[OUTPUTS + 1] = {0};
    file = fopen(argv[run], "rb");
    int64_t *dims = read_exactly(file, DIMS * sizeof(int64_t), 0);
    dims = realloc(dims, (DIMS + MEASURED) * sizeof(int64_t));
    for (int k = DIMS; k < DIMS + MEASURED; ++k) dims[k] = 0;
    for (int k = 0; k < INPUTS; ++k) {
      size_t bytes = input_items[k];
      for (int axis = 0; axis < input_ranks[k]; ++axis) {
        int64_t size;
        if (fread(&size, sizeof size, 1, file) != 1) exit(3);
        bytes *= (size_t)size;
      }
      in[k] = read_exactly(file, bytes, 0);
    }
    int total = 0;
    for (int k = 0; k < OUTPUTS; ++k) total += output_ranks[k];
    int64_t *shapes = malloc((size_t)total * sizeof *shapes), *next = shapes;
    model_output_shapes(dims, shapes);
    for (int k = 0; k < OUTPUTS; ++k) {
      out_bytes[k] = output_items[k];
      for (int axis = 0; axis < output_ranks[k]; ++axis) out_bytes[k] *= (size_t)*next++;
      out[k] = given[k] = malloc(out_bytes[k]);
    }
    size_t arena_bytes = (size_t)model_arena_bytes(dims, threads);
    char *arena = aligned_alloc(64, arena_bytes);
    for (int k = 0; k < ARENA_HEAD; ++k) arena[k] = 0;
    poison(file, weights, WEIGHTS);
    poison(file, arena, (int64_t)arena_bytes);
    fclose(file);
    int status = model_run(weights, in, out, dims, arena, pool);
    if (status) return 4;
    model_output_shapes(dims, shapes);
    next = shapes;
    fwrite(shapes, sizeof *shapes, (size_t)total, stdout);
    for (int k = 0; k < OUTPUTS; ++k) {
      out_bytes[k] = output_items[k];
      for (int axis = 0; axis < output_ranks[k]; ++axis) out_bytes[k] *= (size_t)*next++;
      if (out_bytes[k]) fwrite(out[k], 1, out_bytes[k], stdout);
      free(given[k]);
    }
    model_release(arena);
    for (int k = 0; k < INPUTS; ++k) free((void *)in[k]);
    free(arena), free(shapes), free(dims);
  }
  gf_pool_destroy(pool);
  free(weights);
  return 0;
}
"""


def driver(module: Module) -> str:
    weights = sum(len(chunk) for chunk in module.weight_chunks())
    fields = {
        "INPUT_ITEMS": "".join(f"{np.dtype(p.dtype).itemsize}, " for p in module.inputs),
        "OUTPUT_ITEMS": "".join(f"{np.dtype(p.dtype).itemsize}, " for p in module.outputs),
        "INPUT_RANKS": "".join(f"{len(p.shape)}, " for p in module.inputs),
        "OUTPUT_RANKS": "".join(f"{len(p.shape)}, " for p in module.outputs),
        "INPUTS": str(len(module.inputs)),
        "OUTPUTS": str(len(module.outputs)),
        "DIMS": str(len(module.dims)),
        "MEASURED": str(len(module.measured)),
        "ARENA_HEAD": str(module.arena_head),
        "WEIGHTS": str(weights),
    }
    text = DRIVER
    for name, value in fields.items():
        text = text.replace(f"@{name}@", value)
    return text


def spread(job: Job, planned: Plan) -> tuple[Plan, Module]:
    """A plan with every buffer apart from the others, and its module."""
    with redzones.spread_out():
        plan = replace(planned, arena=arena_of(planned.calls, planned.kept))
        return plan, emit(job, plan)


def build_sanitized(module: Module, target: Target, folder: Path) -> Path:
    """The program: the model's C file and a main function, with every warning an error."""
    compiler = find_compiler("gcc", target)
    source = folder / "model.c"
    pool, entries = redzones.exact(module.pool, [module.entry])
    parts = [module.amalgamated_preamble, *module.kernels.values(), pool, *entries, driver(module)]
    source.write_text("\n".join(parts))
    with (folder / "weights.bin").open("wb") as file:
        file.writelines(module.weight_chunks())
    flags = compiler.compile_flags(target, ("-Wall", "-Wextra", "-Werror", *FLAGS))
    program = folder / "model"
    done = subprocess.run(
        [*compiler.argv, *flags, str(source), "-o", str(program), "-lm", "-lpthread"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[:4000]
    return program


def run_sanitized(
    program: Path,
    module: Module,
    runs: Sequence[Mapping[str, np.ndarray]],
    threads: int = 2,
    plan: Plan | None = None,
) -> list[list[np.ndarray]]:
    """The outputs of each run; plan: that of a `spread` module.

    AssertionError with the sanitizer's report when it finds anything.
    """
    files = []
    for k, inputs in enumerate(runs):
        arrays = [np.ascontiguousarray(inputs[p.name]) for p in module.inputs]
        ports = [PortInfo(p.name, p.dtype, tuple(p.shape)) for p in module.inputs]
        values = bind_symbols(ports, [inputs[p.name].shape for p in module.inputs], module.dims)
        file = program.with_name(f"run{k}.bin")
        with file.open("wb") as out:
            out.write(np.array([values[d] for d in module.dims], np.int64).tobytes())
            for port, array in zip(module.inputs, arrays, strict=True):
                out.write(np.array(inputs[port.name].shape, np.int64).tobytes() + array.tobytes())
            weight_holes = redzones.weight_holes(module) if plan else []
            arena_holes = redzones.arena_holes(plan, module.arena_head, _EVERYTHING, values) if plan else []
            for holes in (weight_holes, arena_holes):
                out.write(np.array([len(holes), *(x for hole in holes for x in hole)], np.int64).tobytes())
        files.append(str(file))
    done = subprocess.run(
        [str(program), str(threads), str(program.with_name("weights.bin")), *files],
        capture_output=True,
        env={**os.environ, "ASAN_OPTIONS": "detect_leaks=1", "UBSAN_OPTIONS": "print_stacktrace=1"},
        check=False,
    )
    assert done.returncode == 0, f"status {done.returncode}: {done.stderr.decode(errors='replace')[:4000]}"
    return _split(done.stdout, module, len(runs))


def _split(data: bytes, module: Module, runs: int) -> list[list[np.ndarray]]:
    """The outputs of each run: first come the sizes of all axes, then the elements."""
    results, start = [], 0
    ranks = [len(port.shape) for port in module.outputs]
    for _ in range(runs):
        outputs = []
        sizes = iter(np.frombuffer(data, np.int64, sum(ranks), start).tolist())
        start += 8 * sum(ranks)
        for port, rank in zip(module.outputs, ranks, strict=True):
            shape = [next(sizes) for _ in range(rank)]
            count = int(np.prod(shape, dtype=np.int64))
            outputs.append(np.frombuffer(data, port.dtype, count, start).reshape(shape))
            start += outputs[-1].nbytes
        results.append(outputs)
    assert start == len(data)
    return results
