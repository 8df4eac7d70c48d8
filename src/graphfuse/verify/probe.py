"""Looking inside a compiled model: the values of its regions, and the first that differs from the reference."""

from __future__ import annotations

import ctypes
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from graphfuse.codegen.module import Module
from graphfuse.codegen.weights import chunks
from graphfuse.fusion.regions import Fusion
from graphfuse.graph.dims import evaluate, measured
from graphfuse.graph.dtypes import item_bytes, numpy_name
from graphfuse.ops.tensor import Tensor
from graphfuse.options import CompileOptions
from graphfuse.plan.calls import Plan, lifetimes
from graphfuse.plan.memory import lay_out_apart
from graphfuse.plan.view import View
from graphfuse.runtime.binder import bind_symbols, dims_array
from graphfuse.runtime.library import Library, address_of, aligned_empty, aligned_zeros
from graphfuse.toolchain.build import build

Array = np.ndarray[Any, Any]


def region_values(
    fusion: Fusion,
    plan: Plan,
    assemble: Callable[[Plan], Module],
    options: CompileOptions,
    inputs: Mapping[str, Array],
) -> dict[str, Array]:
    """What every region of a compiled model hands on, by the name of the graph value, for these inputs.

    The same kernels run, in an arena in which no value is overwritten; only the function that calls them is compiled
    anew.
    """
    apart = replace(plan, calls=plan.steps, arena=lay_out_apart(lifetimes(plan.steps, plan.kept)))
    module = assemble(apart)
    env = bind_symbols(module.inputs, [inputs[port.name].shape for port in module.inputs], module.dims)
    with tempfile.TemporaryDirectory(prefix="graphfuse-") as folder:
        path = build(module, options.target(), options, Path(folder))
        library, model_run = Library(path), ctypes.CDLL(str(path)).model_run
    model_run.argtypes = (ctypes.c_void_p,) * 6
    dims = dims_array(env, module.dims, module.measured)
    arena = aligned_zeros(max(1, library.model_arena_bytes(address_of(dims), 1)))
    weights = np.frombuffer(b"".join(chunks(module.weights)) or bytes(64), np.uint8)
    held = aligned_empty((weights.size,), np.dtype(np.uint8), weights.size)
    held[:] = weights
    given = [np.ascontiguousarray(inputs[port.name]) for port in module.inputs]
    outputs = [
        np.empty([0 if measured(d) else evaluate(d, env) for d in t.shape], numpy_name(t.dtype)) for t in plan.outputs
    ]
    tables = [np.array([address_of(a) for a in group] or [0], np.uint64) for group in (given, outputs)]
    model_run(address_of(held), *map(address_of, tables), address_of(dims), address_of(arena), 0)
    found: dict[str, Array] = {}
    memory = {"input": given, "output": outputs}
    for region in fusion.regions:
        for t in region.outputs:
            if t.value is None or not t.value.name:
                continue
            view = plan.views[t]
            if view.buffer.is_measured or measured(*view.shape, view.offset):
                continue
            if view.buffer.kind == "arena":
                start = module.arena_head + evaluate(apart.arena.offsets[view.buffer], env)
                found[t.value.name] = _as_declared(t, _read(arena[start:], view, env))
            else:
                flat = memory[view.buffer.kind][view.buffer.index]
                found[t.value.name] = _as_declared(t, _read(flat.reshape(-1).view(np.uint8), view, env))
    library.model_release(address_of(arena))
    return found


def _as_declared(t: Tensor, array: Array) -> Array:
    """The value in the type that the graph says: half precision is float32 between operators."""
    declared = t.dtype if t.value is None or t.value.dtype is None else t.value.dtype
    return array.astype(declared.numpy(), copy=False)


def _read(memory: Array, view: View, env: Mapping[str, int]) -> Array:
    size = item_bytes(view.dtype)
    start = evaluate(view.offset, env) * size
    shape = [evaluate(d, env) for d in view.shape]
    strides = [evaluate(s, env) * size for s in view.strides]
    typed = memory[start : start + (memory.size - start) // size * size].view(numpy_name(view.dtype))
    return np.lib.stride_tricks.as_strided(typed, shape, strides).copy()
