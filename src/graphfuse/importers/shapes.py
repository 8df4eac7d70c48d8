"""Names for the dimensions of the model's inputs, and shapes for everything that follows from them."""

from __future__ import annotations

import json
import re

import onnx_ir as ir

from graphfuse.errors import ModelFileError, one_line
from graphfuse.graph.infer import ShapeError, infer_shapes
from graphfuse.graph.origins import DIMS_KEY, label
from graphfuse.importers.common import UnknownValue
from graphfuse.ledger import Ledger
from graphfuse.ops.shapes import register

# Spellings of "any size" that exporters write where a name belongs; equal ones do not mean equal sizes.
_ANONYMOUS = frozenset({"", "?", "*", "-1", "None", "none", "null", "unk", "unknown", "dynamic"})
# Words that read as a function in a dimension's expression.
_RESERVED = frozenset({"max", "min", "floor", "sqrt", "mod", "ceiling", "ceil", "abs"})


def name_dims(model: ir.Model, ledger: Ledger) -> None:
    """Give every unknown dimension of the inputs a name that is a valid, unique identifier.

    Dimensions that share a name in the file keep sharing one; anonymous ones (no name, "?", -1) get a name of their
    own from input and axis, such as x_d2. The user's names are kept in the model (`graph.origins.dim_names`).
    """
    spelled: dict[str, str] = {}  # the user's name -> identifier
    users: dict[str, str] = {}  # identifier -> the user's name
    for value in model.graph.inputs:
        if value.shape is None:
            continue
        dims: list[int | ir.SymbolicDim] = []
        for axis, dim in enumerate(value.shape):
            if isinstance(dim, int) and dim >= 0:
                dims.append(dim)
                continue
            text = "" if isinstance(dim, int) or dim.value is None else dim.value
            anonymous = text.strip() in _ANONYMOUS
            wanted = f"{value.name}_d{axis}" if anonymous else text
            if anonymous or text not in spelled:
                name = _identifier(wanted, users)
                users[name] = f"dimension {axis} of {value.name}" if anonymous else text
                if not anonymous:
                    spelled[text] = name
                    _note(ledger, value, axis, text, name)
                dims.append(ir.SymbolicDim(name))
            else:
                dims.append(ir.SymbolicDim(spelled[text]))
        value.shape = ir.Shape(dims)
    model.metadata_props[DIMS_KEY] = json.dumps(users)


def _note(ledger: Ledger, value: ir.Value, axis: int, text: str, name: str) -> None:
    if name != text:
        ledger.note("import", value.name or "", f"dimension {axis}, {one_line(text)!r} in the file, is called {name}")


def _identifier(text: str, taken: dict[str, str]) -> str:
    """A C and Python identifier like `text`, different from those taken."""
    base = re.sub(r"[^0-9A-Za-z_]+", "_", text).strip("_")[:60] or "dim"
    if base[0].isdigit() or base.lower() in _RESERVED:
        base = f"d_{base}"
    name, k = base, 2
    while name in taken:
        name, k = f"{base}_{k}", k + 1
    return name


def infer_or_refuse(model: ir.Model, where: str) -> None:
    """Infer every value's element type and shape from the inputs alone.

    What the file declares about values inside the graph is not trusted: exporters and editors leave it stale. `where`
    names the file in errors. Raises ModelFileError for a node that cannot take the shapes it is given.
    """
    register()
    try:
        infer_shapes(model)
    except ShapeError as error:
        why = one_line(f"{error} {error.__cause__ or ''}")
        what, remedy = "the shapes in the model do not fit together", "mend that node where the model is made"
        raise ModelFileError(what, where=where, why=why, remedy=remedy) from error


def unknown_values(model: ir.Model) -> tuple[UnknownValue, ...]:
    """The values of the graph whose element type, rank or some dimension could not be inferred."""
    names = set(dim_symbols(model))
    found = []
    for node in model.graph:
        for value in node.outputs:
            lacks = _lacks(value, names)
            if value.name and lacks:
                found.append(UnknownValue(value.name, label(node), node.op_type, lacks))
    return tuple(found)


def dim_symbols(model: ir.Model) -> tuple[str, ...]:
    """The symbols that the shapes of the inputs hold, in order."""
    dims = (dim for value in model.graph.inputs if value.shape is not None for dim in value.shape)
    return tuple(dict.fromkeys(dim.value for dim in dims if isinstance(dim, ir.SymbolicDim) and dim.value))


def _lacks(value: ir.Value, known: set[str]) -> str:
    if not isinstance(value.type, ir.TensorType):
        return "element type" if value.type is None else "not a tensor"
    if value.shape is None:
        return "rank"
    free = {
        name
        for dim in value.shape
        if isinstance(dim, ir.SymbolicDim) and dim.value
        for name in re.findall(r"[A-Za-z_]\w*", dim.value)
        if name.lower() not in _RESERVED
    }
    return f"dimensions {', '.join(sorted(free - known))}" if free - known else ""
