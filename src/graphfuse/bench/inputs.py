"""Inputs to run an artifact on when its user gives none."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import inliner

from graphfuse.errors import InputError
from graphfuse.importers.source import Source
from graphfuse.runtime.session import Session
from graphfuse.verify import generate_inputs, plausible_dims
from graphfuse.verify.inputs import SIZES

Array = np.ndarray[Any, Any]


def accepted_inputs(
    session: Session,
    model: Source | Path,
    given: Mapping[str, Array],
    dims: Mapping[str, int],
    seed: int = 0,
    also: Callable[[Mapping[str, Array]], object] | None = None,
) -> dict[str, Array]:
    """The given arrays, and random ones of plausible sizes for the rest, that the session takes.

    dims: sizes of free dimensions by name, one example at a time where left out; model: what it was made from, or the
    path of an ONNX file, which tells what an integer may be; also: a further call that has to take them, by raising
    InputError when it does not. Raises InputError when a name is unknown, a size does not fit, or no sizes can be
    found.
    """
    manifest, given = session.manifest, session.typed(given)
    names = [tensor.name for tensor in manifest.inputs]
    if unknown := [name for name in given if name not in names]:
        raise InputError(f"no input is called {unknown[0]!r}", remedy=f"the inputs are {', '.join(map(repr, names))}")
    settled = {
        dim: size
        for tensor in manifest.inputs
        if tensor.name in given
        for dim, size in zip(tensor.shape, given[tensor.name].shape, strict=False)
        if dim in manifest.symbols
    }
    proto = _graph(model) if len(given) < len(names) else onnx.ModelProto()
    refused: InputError | None = None
    for other in dict.fromkeys(other for _, other in SIZES):
        sizes = plausible_dims(manifest, 1, other, {**settled, **dims})  # type: ignore[dict-item]
        arrays = {**generate_inputs(manifest, proto, sizes, seed), **given}
        arrays = {name: arrays[name] for name in names}
        try:
            session.run(None, arrays)
            if also is not None:
                also(arrays)
        except InputError as error:
            refused = refused or error
            continue
        return arrays
    assert refused is not None
    raise refused


def _graph(model: Source | Path) -> onnx.ModelProto:
    """The model with its functions inlined, weights in other files left there."""
    proto = model.proto() if isinstance(model, Source) else onnx.load(model, load_external_data=False)
    return inliner.inline_local_functions(proto)
