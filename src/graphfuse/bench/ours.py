"""graphfuse as one of the runtimes: an artifact loaded into a session, called as its users call it."""

from __future__ import annotations

import ctypes
from collections.abc import Mapping
from typing import Any

import numpy as np

from graphfuse import __version__
from graphfuse.artifact.bundle import Bundle, read_bundle
from graphfuse.bench.peers import Ready, Subject
from graphfuse.errors import InputError
from graphfuse.runtime.binder import bind_symbols
from graphfuse.runtime.library import Library
from graphfuse.runtime.session import Session

Array = np.ndarray[Any, Any]

PACKAGES: tuple[str, ...] = ()
VIES = False
TOLERANCE = 1e-3


def version() -> str:
    return __version__


def prepare(subject: Subject) -> Ready:
    """The artifact loaded. Raises GraphfuseError."""
    if subject.artifact is None:
        raise InputError("the model is not compiled")
    bundle = read_bundle(subject.artifact)
    session = Session(bundle, threads=subject.threads)
    inputs, names = dict(subject.inputs), list(subject.outputs)
    order = list(bundle.manifest.results) or [tensor.name for tensor in session.get_outputs()]

    def outputs(values: list[Any]) -> Mapping[str, Any]:
        return {name: values[order.index(name)] for name in names}

    session.run(None, inputs)
    return Ready(lambda: session.run(None, inputs), outputs, {"arena_bytes": _arena_bytes(bundle, subject)})


def _arena_bytes(bundle: Bundle, subject: Subject) -> int:
    manifest = bundle.manifest
    shapes = [subject.inputs[tensor.name].shape for tensor in manifest.inputs]
    values = bind_symbols(manifest.inputs, shapes, manifest.symbols)
    dims = (ctypes.c_int64 * max(1, len(values)))(*(values[symbol] for symbol in manifest.symbols))
    return Library(bundle.library).model_arena_bytes(ctypes.addressof(dims), subject.threads)
