"""Outputs that the user's model returns as one list and the compiled model as several tensors."""

from __future__ import annotations

import json

import onnx_ir as ir

_LISTS_KEY = "graphfuse.lists"


def results(model: ir.Model) -> dict[str, tuple[str, ...] | None]:
    """What the user's model returns, in its order: name -> the names of a list's tensors, None for a tensor.

    Empty when all of it are tensors.
    """
    text = model.metadata_props.get(_LISTS_KEY)
    found = json.loads(text) if text else {}
    return {name: None if names is None else tuple(names) for name, names in found.items()}


def note_list(model: ir.Model, name: str, names: list[str]) -> None:
    """Note that an output, not yet replaced, is to be a list of tensors."""
    known = results(model) or {value.name or "": None for value in model.graph.outputs}
    model.metadata_props[_LISTS_KEY] = json.dumps({**known, name: names})
