"""The native side of a session: libmodel.so, its weights in memory, its thread pool."""

from __future__ import annotations

import ctypes
import mmap
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from graphfuse.errors import ArtifactError, InternalError
from graphfuse.toolchain.files import disk_errors

_POINTER, _INT, _INT64 = ctypes.c_void_p, ctypes.c_int, ctypes.c_int64
# name -> (result, arguments) of every function that an artifact exports.
_FACE: dict[str, tuple[Any, tuple[Any, ...]]] = {
    "model_call": (_INT, (_POINTER,)),
    "model_arena_bytes": (_INT64, (_POINTER, _INT)),
    "model_output_shapes": (None, (_POINTER, _POINTER)),
    "model_release": (None, (_POINTER,)),
    "gf_pool_create": (_POINTER, (_INT,)),
    "gf_pool_destroy": (None, (_POINTER,)),
    "gf_pool_threads": (_INT, (_POINTER,)),
}
# The same of what only models with loops of unknown length export.
_MAY_HAVE: dict[str, tuple[Any, tuple[Any, ...]]] = {"model_stop": (None, (_POINTER, _INT))}
ALIGNMENT = 64  # bytes of a cache line and of the widest vector


class Library:
    """The functions of one libmodel.so, addresses given as plain integers. It stays loaded until the process ends."""

    def __init__(self, path: Path) -> None:
        functions = _load(path)
        self.model_call: Callable[[int], int] = functions["model_call"]
        self.model_arena_bytes: Callable[[int, int], int] = functions["model_arena_bytes"]
        self.model_output_shapes: Callable[[int, int], None] = functions["model_output_shapes"]
        self.model_release: Callable[[int], None] = functions["model_release"]
        self.model_stop: Callable[[int, int], None] | None = functions.get("model_stop")
        self.gf_pool_create: Callable[[int], int | None] = functions["gf_pool_create"]
        self.gf_pool_destroy: Callable[[int], None] = functions["gf_pool_destroy"]
        self.gf_pool_threads: Callable[[int], int] = functions["gf_pool_threads"]


class Pool:
    """A thread pool of the library, which ends its threads when nobody holds it any more. One thread needs no pool."""

    def __init__(self, library: Library, threads: int) -> None:
        self._destroy = library.gf_pool_destroy
        self.address = library.gf_pool_create(threads) if threads > 1 else None
        # Fewer than asked for where the system refuses to start one: results are the same.
        self.threads = 1 if self.address is None else library.gf_pool_threads(self.address)

    def __del__(self) -> None:
        address: int | None = getattr(self, "address", None)  # absent when __init__ failed
        if address is not None:
            self._destroy(address)


class Weights:
    """weights.bin mapped read-only, shared by all processes that run the model; None: the library holds the weights.

    An array of bytes that starts on a cache line is what such a file holds, in memory.
    """

    def __init__(self, path: Path | np.ndarray[Any, Any] | None) -> None:
        self.address: int | None = None
        if isinstance(path, np.ndarray):
            self._array = path
            self.address = path.ctypes.data
            return
        if path is None:
            return
        with path.open("rb") as file:
            # Pages are mapped now, so that the first call is as fast as the others.
            flags = mmap.MAP_PRIVATE | getattr(mmap, "MAP_POPULATE", 0)
            mapped = mmap.mmap(file.fileno(), 0, flags=flags, prot=mmap.PROT_READ)
        self._array = np.frombuffer(mapped, dtype=np.uint8)
        self.address = self._array.ctypes.data


# id(array) + ELEMENTS is where NumPy's array object holds the address of its elements: right behind what every Python
# object begins with. C extensions are compiled to read it there, so it stays; asking an array for the address itself
# takes as long as running a small model.
ELEMENTS = object.__basicsize__


def _is_layout_known() -> bool:
    samples: list[np.ndarray[Any, Any]] = [np.empty(3), np.empty((2, 5), np.uint8)[1:], np.array(1.0)]
    return all(ctypes.c_void_p.from_address(id(a) + ELEMENTS).value == a.ctypes.data for a in samples)


if not _is_layout_known():
    raise ImportError("this NumPy's arrays are laid out in a way that graphfuse does not know: use a released version")

_addressof = ctypes.addressof
_from_buffer: Callable[[Any], ctypes.c_char] = ctypes.c_char.from_buffer


def aligned_empty(shape: tuple[int, ...], dtype: np.dtype[Any], nbytes: int) -> np.ndarray[Any, Any]:
    """An uninitialised array of `nbytes` bytes that starts on a cache line."""
    buffer = np.empty(nbytes + ALIGNMENT, np.uint8)
    return np.ndarray(shape, dtype, buffer, -address_of(buffer) % ALIGNMENT)


def aligned_zeros(nbytes: int) -> np.ndarray[Any, Any]:
    """So many bytes of 0 that start on a cache line; the system hands out a page when it is first touched."""
    buffer = np.zeros(nbytes + ALIGNMENT, np.uint8)
    return np.ndarray((nbytes,), np.uint8, buffer, -address_of(buffer) % ALIGNMENT)


def address_of(array: np.ndarray[Any, Any]) -> int:
    """The address of an array's first element."""
    try:
        # A quarter of the time of `array.ctypes.data`; refuses read-only and empty arrays, and dtypes that C lacks.
        return _addressof(_from_buffer(array))
    except (TypeError, ValueError, BufferError):
        return int(array.ctypes.data)


def _load(path: Path) -> dict[str, Callable[..., Any]]:
    """The exported functions, typed. Raises ArtifactError if the loader refuses the file or a function is missing."""
    with (
        disk_errors(ArtifactError, path, "set TMPDIR to a folder that can be written"),
        tempfile.TemporaryDirectory(prefix="graphfuse-") as folder,
    ):
        # The loader takes a path that it has seen for the library it saw there, even if the file was replaced since.
        alias = Path(folder, path.name)
        alias.symlink_to(os.path.abspath(path))
        try:
            library = ctypes.CDLL(str(alias))
        except OSError as error:
            remedy = "compile the model for this machine"
            raise ArtifactError("the library does not load", where=str(path), why=str(error), remedy=remedy) from error
    functions: dict[str, Callable[..., Any]] = {}
    for name, (result, arguments) in {**_FACE, **_MAY_HAVE}.items():
        try:
            function = getattr(library, name)
        except AttributeError as error:
            if name in _MAY_HAVE:
                continue
            raise InternalError(f"the library lacks {name}", where=str(path)) from error
        function.restype, function.argtypes = result, arguments
        functions[name] = function
    return functions
