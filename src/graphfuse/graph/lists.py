"""Outputs that the user's model returns as one list and the compiled model as several tensors."""

from __future__ import annotations

import json

import onnx_ir as ir

from graphfuse.errors import UnsupportedModelError

_LISTS_KEY = "graphfuse.lists"


def results(model: ir.Model) -> dict[str, tuple[str, ...] | None]:
    """What the user's model returns, in its order: name -> the names of a list's tensors, None for a tensor.

    Empty when all of it are tensors.
    """
    text = model.metadata_props.get(_LISTS_KEY)
    found = json.loads(text) if text else {}
    return {name: None if names is None else tuple(names) for name, names in found.items()}


def carry_lists(model: ir.Model, other: ir.Model) -> None:
    """Note on another model what is noted on this one."""
    if _LISTS_KEY in model.metadata_props:
        other.metadata_props[_LISTS_KEY] = model.metadata_props[_LISTS_KEY]


def return_lists(model: ir.Model) -> ir.Model:
    """The model with its lists put together again: it returns what the user's model does.

    Raises UnsupportedModelError for a list of no tensors, whose type is not known any more.
    """
    rows = results(model)
    if not rows:
        return model
    model = model.clone()
    del model.metadata_props[_LISTS_KEY]
    tensors = {value.name: value for value in model.graph.outputs}
    model.graph.outputs.clear()
    for name, names in rows.items():
        if names is None:
            model.graph.outputs.append(tensors[name])
            continue
        if not names:
            remedy = "leave the output out of the model"
            raise UnsupportedModelError([("output", name, "a list of no tensors")], remedy=remedy)
        node = ir.node("SequenceConstruct", [tensors[each] for each in names], name=name)
        (whole,) = node.outputs
        whole.name, whole.type = name, ir.SequenceType(ir.TensorType(tensors[names[0]].dtype or ir.DataType.UNDEFINED))
        model.graph.append(node)
        model.graph.outputs.append(whole)
    return model


def note_list(model: ir.Model, name: str, names: list[str]) -> None:
    """Note that an output, not yet replaced, is to be a list of tensors."""
    known = results(model) or {value.name or "": None for value in model.graph.outputs}
    model.metadata_props[_LISTS_KEY] = json.dumps({**known, name: names})
