"""Outputs that the user's model returns as one list and the compiled model as several tensors."""

from __future__ import annotations

import json

import onnx_ir as ir

_LISTS_KEY = "graphfuse.lists"


def lists(model: ir.Model) -> dict[str, tuple[str, ...]]:
    """The outputs that are lists of tensors, in the user's order: the user's name -> the tensors' names."""
    text = model.metadata_props.get(_LISTS_KEY)
    return {name: tuple(names) for name, names in json.loads(text).items()} if text else {}


def note_list(model: ir.Model, name: str, names: list[str]) -> None:
    """Note that an output is a list of tensors."""
    model.metadata_props[_LISTS_KEY] = json.dumps({**lists(model), name: names})
