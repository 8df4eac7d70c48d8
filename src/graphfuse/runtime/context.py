"""What one running call of a session needs for itself: arguments, an arena, and the results whose size it finds."""

from __future__ import annotations

import ctypes
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from graphfuse.errors import InputError
from graphfuse.runtime.binder import Shape
from graphfuse.runtime.library import ELEMENTS, Library, Pool, Weights, address_of, aligned_empty, aligned_zeros

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class CallPlan:
    """What one combination of input shapes leads to; outputs: (shape, dtype, bytes) of each.

    For an output whose sizes are measured its shape and bytes mean nothing: see `Measured`.
    """

    dims: ctypes.Array[ctypes.c_int64]
    dims_address: int
    arena_bytes: int
    outputs: tuple[tuple[Shape, np.dtype[Any], int], ...]


class Context:
    """What one running call needs for itself: the arguments of model_call, and an arena, which only grows."""

    def __init__(self, ports: int, library: Library) -> None:
        self.arguments = (ctypes.c_void_p * (ports + 4))()
        self.address = ctypes.addressof(self.arguments)
        self.plan: CallPlan | None = None
        self.measured: Measured | None = None
        self._ports = ports
        self._release = library.model_release
        self._arena_bytes = -1
        self._arena_address = 0

    def __del__(self) -> None:
        if self._arena_address:
            self._release(self._arena_address)

    def adopt(self, plan: CallPlan, weights: Weights, pool: Pool) -> None:
        """Makes it ready for calls of a plan. Raises InputError when there is not enough memory."""
        if self._arena_bytes < plan.arena_bytes:
            self._reserve(plan.arena_bytes)
        self.arguments[self._ports :] = [weights.address, plan.dims_address, self._arena_address, pool.address]
        self.plan, self.measured = plan, None

    def _reserve(self, nbytes: int) -> None:
        """Makes the arena at least so large. Raises InputError when there is not so much memory."""
        self.plan = None
        self._arena_bytes = -1
        if self._arena_address:
            self._release(self._arena_address)
        self._arena_address = 0
        self._arena: Array | None = None  # freed before the larger one is taken
        try:
            self._arena = aligned_zeros(nbytes)
        except MemoryError as error:
            what = f"inputs of these sizes need {nbytes} bytes of working memory, which there are not"
            raise InputError(what, remedy="use smaller inputs or fewer threads") from error
        self._arena_address = address_of(self._arena)
        self._arena_bytes = nbytes


class Measured:
    """The outputs of calls of one plan in one context, where sizes of some are known only behind a call.

    outputs: the numbers of those, with their names; ranks: of all outputs. The model writes the sizes behind the values
    of the symbols, and where such outputs are instead of their elements; they are copied out of the arena.
    """

    def __init__(
        self, context: Context, plan: CallPlan, library: Library, outputs: dict[int, str], ranks: Sequence[int]
    ) -> None:
        self._outputs, self._ranks = outputs, ranks
        self._dims = type(plan.dims).from_buffer_copy(plan.dims)
        self._places = (ctypes.c_void_p * len(ranks))()
        self._sizes = (ctypes.c_int64 * max(1, sum(ranks)))()
        self._addresses = ctypes.addressof(self._dims), ctypes.addressof(self._sizes)
        self._output_shapes = library.model_output_shapes
        self._arguments = context.arguments
        self._first = len(context.arguments) - 4 - len(ranks)
        context.arguments[len(context.arguments) - 3] = self._addresses[0]
        for k in outputs:
            place = ctypes.addressof(self._places) + k * ctypes.sizeof(ctypes.c_void_p)
            context.arguments[self._first + k] = place

    def given(self, plan: CallPlan) -> list[Array | None]:
        """Arrays for the outputs of known sizes, which are the next call's arguments then."""
        arrays: list[Array | None] = []
        for k, (shape, dtype, nbytes) in enumerate(plan.outputs):
            array = None if k in self._outputs else aligned_empty(shape, dtype, nbytes)
            if array is not None:
                self._arguments[self._first + k] = id(array) + ELEMENTS
            arrays.append(array)
        return arrays

    def found(self, arrays: Sequence[Array | None], plan: CallPlan) -> list[Array]:
        """All outputs behind a call. Raises InputError when there is not enough memory for one."""
        self._output_shapes(*self._addresses)
        sizes, start = list(self._sizes), 0
        results: list[Array] = []
        for k, (array, rank) in enumerate(zip(arrays, self._ranks, strict=True)):
            shape = tuple(sizes[start : start + rank])
            start += rank
            results.append(
                _copied(self._places[k], shape, plan.outputs[k][1], self._outputs[k]) if array is None else array
            )
        return results


def _copied(address: int | None, shape: Shape, dtype: np.dtype[Any], name: str) -> Array:
    """The array of that shape at an address, as one of its own. Raises InputError where it does not fit in memory."""
    count = math.prod(shape)
    try:
        array = np.empty(shape, dtype)
    except (MemoryError, ValueError) as error:
        raise InputError(f"there is no memory for a result of shape {shape}", where=f"output {name!r}") from error
    if count and address:
        ctypes.memmove(array.ctypes.data, address, count * dtype.itemsize)
    return array
