"""Session: a compiled model that is called on NumPy arrays."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import ml_dtypes
import numpy as np

from graphfuse.artifact.bundle import Bundle, check_runnable, read_bundle
from graphfuse.artifact.dims import symbols_of
from graphfuse.artifact.manifest import DTYPES, Manifest, Tensor
from graphfuse.errors import InputError, InternalError
from graphfuse.runtime.binder import Shape, bind_symbols, check_ranges
from graphfuse.runtime.binding import Binding, listed
from graphfuse.runtime.context import CallPlan, Context, Measured
from graphfuse.runtime.interrupt import InterruptibleCall
from graphfuse.runtime.library import ALIGNMENT, ELEMENTS, Library, Pool, Weights, aligned_empty
from graphfuse.runtime.states import States
from graphfuse.target import physical_cores

Array = np.ndarray[Any, Any]

_ndarray, _empty = np.ndarray, np.empty  # looked up once, not in every call
NO_MEMORY = -1  # what model_run returns where a tensor of measured size does not fit in memory
_MOST_PLANS = 256  # combinations of input shapes remembered by a session
_ALONE = 2  # references to an array that nobody else holds, the one counted with among them
_ALIGN_FROM = 4096  # bytes from which an output is worth aligning to a cache line


@dataclass(frozen=True)
class NodeArg:
    """An input or output as onnxruntime describes it: name, shape of numbers and symbols, type as "tensor(float)"."""

    name: str
    shape: list[int | str]
    type: str


@dataclass(frozen=True)
class _State:
    """What changes together when the number of threads does; a call works with the one it started with."""

    pool: Pool
    plans: dict[tuple[Shape, ...], CallPlan]


class Session:
    """A compiled model in memory, called on NumPy arrays.

    artifact: folder of an artifact, which is checked, or a Bundle that was; threads: threads of one call, None for one
    on each physical core. Loading runs the artifact's native code: only load artifacts whose origin you trust.

    Any number of Python threads may call one session at once: every running call has an arena of its own (kept for the
    next one), and while one call uses the thread pool in a kernel, others run theirs alone: with the same results.
    Ctrl-C ends a call from the main thread that is in a loop of unknown length, with KeyboardInterrupt as ever.
    Raises ArtifactError when the artifact cannot be used, InputError for a wrong number of threads.
    """

    def __init__(self, artifact: Bundle | str | Path, threads: int | None = None) -> None:
        bundle = artifact if isinstance(artifact, Bundle) else read_bundle(artifact)
        check_runnable(bundle.manifest, str(bundle.folder))  # code for another CPU would end the process
        self.manifest: Manifest = bundle.manifest
        self._library = Library(bundle.library)
        self._weights: Weights | None = Weights(bundle.weights)
        self._taken: Array | None = None  # what take_weights has put in their place, and what that took the place of
        self._spare: Array | None = None
        manifest = self.manifest
        self._states = States(manifest.states, bundle.states) if manifest.states else None
        # What model_run takes and gives: the states come behind the user's own.
        self._all_outputs = (*manifest.outputs, *manifest.states)
        self._input_dtypes = [dtype_of(tensor.dtype) for tensor in (*manifest.inputs, *manifest.states)]
        self._output_dtypes = [dtype_of(tensor.dtype) for tensor in self._all_outputs]
        self._input_names = [tensor.name for tensor in self.manifest.inputs]
        self._output_names = [tensor.name for tensor in self.manifest.outputs]
        self._ports = len(self._input_dtypes) + len(self._output_dtypes)
        # The outputs whose sizes are known only behind a run, by number.
        self._measured = {
            k: tensor.name for k, tensor in enumerate(self.manifest.outputs) if _is_measured(tensor, self.manifest)
        }
        self._model_call: Callable[[int], int] = self._library.model_call
        if self._library.model_stop is not None:
            self._model_call = InterruptibleCall(self._library, self._ports)
        self._free: list[Context] = []
        self._state = self._new_state(physical_cores() if threads is None else threads)

    def __call__(self, *inputs: Any, **named: Any) -> Any:
        """Runs the model on arrays in manifest order, by name, or both; returns its output, or a tuple of several.

        Inputs have exactly the dtype of the manifest; C-contiguous ones are read in place, others copied first. Outputs
        are new arrays. Raises InputError when an input is missing, unknown, of another dtype or of a shape that does
        not fit, or when a run-time guard of the model fails.
        """
        if not named and len(inputs) != len(self._input_names):
            raise self._wrong_count(len(inputs))
        outputs = self._run(self._in_order(inputs, named) if named else inputs)
        results = self._listed(outputs) if self.manifest.results else outputs
        return results[0] if len(results) == 1 else tuple(results)

    def run(self, output_names: Sequence[str] | None, inputs: Mapping[str, Any]) -> list[Any]:
        """Runs the model as onnxruntime's InferenceSession.run does: the named outputs (None: all) in a list.

        Where the user's model returns a sequence, that is a list of arrays; its arrays can be named as well. Raises
        InputError as a call does, and for an unknown output name.
        """
        outputs = self._run(self._in_order((), inputs))
        results = self._listed(outputs) if self.manifest.results else outputs
        if output_names is None:
            return results
        found: dict[str, Any] = dict(zip(self._output_names, outputs, strict=True))
        found.update(zip(self.manifest.results, results, strict=False))
        for name in output_names:
            if name not in found:
                raise InputError(f"no output is called {name!r}", remedy=f"the outputs are {listed(list(found))}")
        return [found[name] for name in output_names]

    @property
    def states(self) -> dict[str, Array]:
        """What the model keeps from one call to the next, by name, as copies; empty for most models."""
        return {} if self._states is None else self._states.current()

    def reset(self, states: Mapping[str, Array] | None = None) -> None:
        """Puts the states back to what they start from; to the arrays given, for those that are named.

        Calls of a session with states run one after the other; for several streams load it several times, or keep each
        stream's `states` and hand them back here. Raises InputError for an array that is no such state.
        """
        if self._states is not None:
            self._states.reset(states or {})
        elif states:
            raise InputError("the model keeps no states")

    def _listed(self, outputs: Sequence[Array]) -> list[Any]:
        """The outputs as the user's model returns them: tensors, and lists of them."""
        tensors = iter(outputs)
        rows = self.manifest.results.values()
        return [next(tensors) if names is None else [next(tensors) for _ in names] for names in rows]

    def bind(self, inputs: Mapping[str, Array], outputs: Mapping[str, Array] | None = None) -> Binding:
        """A call with fixed buffers, to be run again and again with next to no overhead: see Binding.

        inputs and outputs are read and written in place, so they must be C-contiguous arrays of the manifest's dtypes
        and fitting shapes, and must not overlap; outputs left out are allocated. Raises InputError when one does not.
        """
        return Binding(self, self._in_order((), inputs), outputs or {})

    def typed(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Arrays by the names of inputs, as they are; those from .npy files, which know no bfloat16, in their types."""
        dtypes = dict(zip(self._input_names, self._input_dtypes, strict=False))
        return {name: _named(x, dtypes[name]) if name in dtypes else x for name, x in inputs.items()}

    def get_inputs(self) -> list[NodeArg]:
        """The inputs in manifest order, as onnxruntime describes them."""
        return [_node_arg(tensor) for tensor in self.manifest.inputs]

    def get_outputs(self) -> list[NodeArg]:
        """The outputs in manifest order, as onnxruntime describes them."""
        return [_node_arg(tensor) for tensor in self.manifest.outputs]

    @property
    def threads(self) -> int:
        """Threads that one call may use."""
        return self._state.pool.threads

    def set_threads(self, threads: int) -> None:
        """Changes the number of threads; calls and bindings that exist keep theirs. Raises InputError below 1."""
        self._open()
        self._state = self._new_state(threads)

    def take_weights(self, arrays: Sequence[Array]) -> None:
        """Replaces what weights.bin holds by these arrays, one behind the other; existing bindings keep theirs.

        Raises InputError when they are not as large as those of the artifact.
        """
        self._open()
        ends = np.cumsum([0, *(array.nbytes + -array.nbytes % ALIGNMENT for array in arrays)])
        if int(ends[-1]) != self.manifest.weights_bytes:
            raise InputError(f"the weights are {ends[-1]} bytes, expected {self.manifest.weights_bytes}")
        # Memory that is new to the process costs more than the copy: what was used before the last is taken again.
        held, self._spare = self._spare, None
        if held is None or sys.getrefcount(held) > _ALONE or len(held) != ends[-1]:
            held = aligned_empty((int(ends[-1]),), np.dtype(np.uint8), int(ends[-1]))
        for start, array in zip(ends, arrays, strict=False):
            held[start : start + array.nbytes] = array.reshape(-1).view(np.uint8)
        self._spare, self._taken = self._taken, held
        self._weights = Weights(held)
        self._state = self._new_state(self._state.pool.threads)

    def close(self) -> None:
        """Gives back threads and memory once running calls and bindings end; later calls raise InputError."""
        self._weights = self._taken = self._spare = None
        self._free.clear()
        self._state = _State(Pool(self._library, 1), {})

    def __enter__(self) -> Session:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _new_state(self, threads: int) -> _State:
        if not 1 <= threads <= 256:
            raise InputError(f"a session cannot have {threads} threads", remedy="give a number from 1 to 256")
        return _State(Pool(self._library, threads), {})

    def _open(self) -> Weights:
        if self._weights is None:
            raise InputError("the session is closed")
        return self._weights

    def _run(self, inputs: Sequence[Any]) -> list[Array]:
        kept = self._states
        if kept is None:
            return self._run_ports(inputs)
        with kept.lock:
            if not self._measured:
                outputs = self._run_ports(inputs, kept)
                kept.advance()
                return outputs
            outputs = self._run_ports((*inputs, *kept.values))
            count = len(outputs) - len(kept)
            kept.put(outputs[count:])
            return outputs[:count]

    def _run_ports(self, inputs: Sequence[Any], kept: States | None = None) -> list[Array]:
        # Written for speed: on a small model all this takes longer than the model itself.
        weights, state = self._weights, self._state  # held until the end, whatever other threads do to the session
        try:
            context = self._free.pop()
        except IndexError:
            context = Context(self._ports, self._library)
        arguments, dtypes = context.arguments, self._input_dtypes
        shapes: tuple[Shape, ...] = ()
        copies: list[Array] = []
        k = 0
        for value in inputs:
            # carray: C-contiguous, aligned and writeable, asked for at once
            if type(value) is not _ndarray or value.dtype is not dtypes[k] or not value.flags.carray:
                value = self._ready(k, value)
                copies.append(value)
            arguments[k] = id(value) + ELEMENTS
            shapes += (value.shape,)
            k += 1
        if kept is not None:
            arguments[k : k + len(kept.before)] = kept.before
            shapes += kept.shapes
            k += len(kept.before)
        plan = state.plans.get(shapes)
        if plan is None or context.plan is not plan:
            plan = self._plan(state, shapes)
            context.adopt(plan, weights or self._open(), state.pool)
        if self._measured:
            return self._run_measured(context, plan)
        outputs = []
        for shape, dtype, nbytes in plan.outputs if kept is None else plan.outputs[: -len(kept.after)]:
            output = _empty(shape, dtype) if nbytes < _ALIGN_FROM else aligned_empty(shape, dtype, nbytes)
            arguments[k] = id(output) + ELEMENTS
            outputs.append(output)
            k += 1
        if kept is not None:
            arguments[k : k + len(kept.after)] = kept.after
        status = self._model_call(context.address)
        self._free.append(context)
        if status:
            raise self._guard_error(status)
        return outputs

    def _run_measured(self, context: Context, plan: CallPlan) -> list[Array]:
        """The rest of a call where sizes of outputs are known only behind it."""
        measured = context.measured
        if measured is None:
            ranks = [len(tensor.shape) for tensor in self._all_outputs]
            measured = context.measured = Measured(context, plan, self._library, self._measured, ranks)
        arrays = measured.given(plan)
        status = self._model_call(context.address)
        if status:
            self._free.append(context)
            raise self._guard_error(status)
        outputs = measured.found(arrays, plan)
        self._free.append(context)
        return outputs

    def _output_shapes(self, dims: int) -> list[Shape]:
        """The outputs' shapes, for the sizes at an address."""
        tensors = self._all_outputs
        sizes = (ctypes.c_int64 * max(1, sum(len(tensor.shape) for tensor in tensors)))()
        self._library.model_output_shapes(dims, ctypes.addressof(sizes))
        flat = iter(sizes)
        return [tuple(next(flat) for _ in tensor.shape) for tensor in tensors]

    def _ready(self, index: int, value: Any) -> Array:
        """The input as an aligned C-contiguous array of its dtype: itself where it is one."""
        if not isinstance(value, np.ndarray):
            value = self._as_array(index, value)
        expected = self._input_dtypes[index]
        value = _named(value, expected)
        if value.dtype != expected:
            where, remedy = f"input {self._input_names[index]!r}", "convert the array with astype"
            what = f"the dtype is {value.dtype}, expected {expected}"
            if _is_nameless(value.dtype):
                what = f"it holds {value.dtype.itemsize} bytes an element, of no type, expected {expected}"
                remedy = f"convert the array with astype({str(expected)!r}) before it is saved"
            raise InputError(what, where=where, remedy=remedy)
        flags = value.flags
        # A copy in C order keeps a rank of 0, which np.ascontiguousarray does not.
        return value if flags.c_contiguous and flags.aligned else value.copy(order="C")

    def _as_array(self, index: int, value: Any) -> Array:
        if hasattr(value, "__array__"):
            return np.asarray(value)
        what = f"this is a {type(value).__name__}, expected a NumPy array"
        remedy = "make one with numpy.asarray"
        raise InputError(what, where=f"input {self._input_names[index]!r}", remedy=remedy)

    def _plan(self, state: _State, shapes: tuple[Shape, ...]) -> CallPlan:
        """The plan for input shapes, made when they are new."""
        plan = state.plans.get(shapes)
        if plan is None:
            plan = self._new_plan(shapes, state.pool.threads)
            if len(state.plans) >= _MOST_PLANS:
                state.plans.clear()
            state.plans[shapes] = plan
        return plan

    def _new_plan(self, given: tuple[Shape, ...], threads: int) -> CallPlan:
        manifest = self.manifest
        values = bind_symbols(manifest.inputs, given[: len(manifest.inputs)], manifest.symbols)
        check_ranges(values, manifest.inputs, manifest.ranges)
        known = [values[symbol] for symbol in manifest.symbols]
        dims = (ctypes.c_int64 * max(1, len(known) + len(manifest.measured)))(*known)
        address = ctypes.addressof(dims)
        arena_bytes = self._library.model_arena_bytes(address, threads)
        outputs = []
        shapes = self._output_shapes(address)
        for k, (tensor, shape, dtype) in enumerate(zip(self._all_outputs, shapes, self._output_dtypes, strict=True)):
            if k in self._measured:
                shape = tuple(max(0, size) for size in shape)  # sizes that count for nothing yet
            if arena_bytes < 0 or any(size < 0 for size in shape):
                chosen = ", ".join(f"{name} = {value}" for name, value in values.items())
                raise InputError(f"no output {tensor.name!r} exists for inputs of these sizes", why=chosen)
            outputs.append((shape, dtype, int(np.prod(shape, dtype=np.int64)) * dtype.itemsize))
        return CallPlan(dims, address, arena_bytes, tuple(outputs))

    def _in_order(self, inputs: Sequence[Any], named: Mapping[str, Any]) -> Sequence[Any]:
        names = self._input_names
        if not inputs and len(named) == len(names):
            try:
                return [named[name] for name in names]
            except KeyError:  # told below
                pass
        rest = names[len(inputs) :]
        for name in named:
            if name not in names:
                raise InputError(f"no input is called {name!r}", remedy=f"the inputs are {listed(names)}")
            if name not in rest:
                raise InputError("this input is given twice", where=f"input {name!r}")
        if missing := [name for name in rest if name not in named]:
            raise InputError(f"missing input: {listed(missing)}", remedy=f"the inputs are {listed(names)}")
        if len(inputs) > len(names):
            raise self._wrong_count(len(inputs))
        return (*inputs, *(named[name] for name in rest))

    def _wrong_count(self, count: int) -> InputError:
        names = self._input_names
        return InputError(f"{count} inputs given, expected {len(names)}", remedy=f"the inputs are {listed(names)}")

    def _guard_error(self, status: int) -> InputError | InternalError:
        guards = self.manifest.guards
        if status == NO_MEMORY:
            return InputError("what the data asks for needs more memory than there is", remedy="use smaller inputs")
        if 0 < status <= len(guards):
            return InputError(guards[status - 1])
        return InternalError(f"the compiled model returned {status}, which means nothing")


def _named(value: Array, expected: np.dtype[Any]) -> Array:
    """The array itself; as the type of ml_dtypes that is expected where it is from a .npy file, which knows no such."""
    if not _is_nameless(value.dtype) or expected.kind != "V" or value.dtype.itemsize != expected.itemsize:
        return value
    return value.view(expected)


def _is_nameless(dtype: np.dtype[Any]) -> bool:
    return dtype.type is np.void and dtype.names is None


def dtype_of(name: str) -> np.dtype[Any]:
    """NumPy's dtype for a name in a manifest; bfloat16 and what is narrower than 16 bits come from ml_dtypes."""
    return np.dtype(getattr(ml_dtypes, name, name))


def _is_measured(tensor: Tensor, manifest: Manifest) -> bool:
    names = {*manifest.measured}
    return any(isinstance(dim, str) and names & {*symbols_of(dim)} for dim in tensor.shape)


def _node_arg(tensor: Tensor) -> NodeArg:
    return NodeArg(tensor.name, list(tensor.shape), f"tensor({DTYPES[tensor.dtype]})")
