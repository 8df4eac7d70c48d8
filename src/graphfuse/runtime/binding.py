"""A call of a session with fixed buffers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from graphfuse.errors import InputError
from graphfuse.runtime.binder import Shape
from graphfuse.runtime.context import Context
from graphfuse.runtime.library import ELEMENTS, aligned_empty

if TYPE_CHECKING:
    from graphfuse.runtime.session import Session

Array = np.ndarray[Any, Any]


class Binding:
    """A call of a session with fixed buffers: fill `inputs`, call, read `outputs` (both by name).

    Calling costs about a microsecond over the model itself, allocates nothing, and returns `outputs`. It keeps the
    number of threads and the memory of the session, has its own arena, goes on from the session's states by itself, and
    must not be called twice at the same time.
    """

    def __init__(self, session: Session, inputs: Sequence[Any], outputs: Mapping[str, Array]) -> None:
        weights, state, manifest = session._open(), session._state, session.manifest
        if session._measured:
            name = session._output_names[min(session._measured)]
            what = "its size depends on data, so it cannot be bound"
            raise InputError(what, where=f"output {name!r}", remedy="call the session itself")
        for name in outputs:
            if name not in session._output_names:
                remedy = f"the outputs are {listed(session._output_names)}"
                raise InputError(f"no output is called {name!r}", remedy=remedy)
        arrays = [session._ready(k, value) for k, value in enumerate(inputs)]
        for tensor, value, array in zip(manifest.inputs, inputs, arrays, strict=True):
            if array is not value:
                what, remedy = "only a C-contiguous NumPy array can be bound", "copy it with numpy.ascontiguousarray"
                raise InputError(what, where=f"input {tensor.name!r}", remedy=remedy)
        kept = session._states
        before = [] if kept is None else list(kept.current().values())
        plan = session._plan(state, tuple([array.shape for array in (*arrays, *before)]))
        context = Context(session._ports, session._library)
        context.adopt(plan, weights, state.pool)
        self.inputs: dict[str, Array] = dict(zip(session._input_names, arrays, strict=True))
        self.outputs: dict[str, Array] = {}
        for name, (shape, dtype, nbytes) in zip(session._output_names, plan.outputs, strict=False):
            array = outputs[name] if name in outputs else aligned_empty(shape, dtype, nbytes)
            _check_output(name, array, shape, dtype)
            self._check_overlap(name, array)
            self.outputs[name] = array
        after = [array.copy() for array in before]
        self._states = list(zip(before, after, strict=True))
        ports = [*self.inputs.values(), *before, *self.outputs.values(), *after]
        context.arguments[: len(ports)] = [id(array) + ELEMENTS for array in ports]
        self._keep = (session, weights, state, plan, context, ports)
        self._model_call, self._address = session._model_call, context.address

    def __call__(self) -> dict[str, Array]:
        """Runs the model on what `inputs` hold now. Raises InputError when a run-time guard of the model fails."""
        status = self._model_call(self._address)
        if status:
            raise self._keep[0]._guard_error(status)
        for before, after in self._states:
            before[...] = after
        return self.outputs

    def _check_overlap(self, name: str, array: Array) -> None:
        for kind, others in (("input", self.inputs), ("output", self.outputs)):
            for other, buffer in others.items():
                if np.may_share_memory(array, buffer):
                    remedy = "give each a buffer of its own"
                    raise InputError(f"it overlaps the {kind} {other!r}", where=f"output {name!r}", remedy=remedy)


def _check_output(name: str, array: Array, shape: Shape, dtype: np.dtype[Any]) -> None:
    where = f"output {name!r}"
    if not isinstance(array, np.ndarray) or array.dtype != dtype or array.shape != shape:
        given = f"{array.dtype} {array.shape}" if isinstance(array, np.ndarray) else type(array).__name__
        raise InputError(f"the buffer is {given}, expected {dtype} {shape}", where=where)
    if not (array.flags.c_contiguous and array.flags.aligned and array.flags.writeable):
        remedy = "make it with numpy.empty, or leave it out"
        raise InputError("only a C-contiguous writable NumPy array can be bound", where=where, remedy=remedy)


def listed(names: Sequence[str]) -> str:
    """Names in quotation marks, for messages."""
    return ", ".join(map(repr, names))
