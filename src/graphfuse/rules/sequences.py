"""What is inside a sequence or an optional, read off the nodes that make it."""

from __future__ import annotations

import onnx_ir as ir

from graphfuse.rules.values import array, input_of

# A sequence longer than this is not spelled out.
LONGEST = 1024

Parts = tuple[ir.Value, ...]


def is_sequence(value: ir.Value | None) -> bool:
    """Whether the value is a sequence, or an optional one."""
    kind = None if value is None else value.type
    if isinstance(kind, ir.OptionalType):
        kind = kind.elem_type
    return isinstance(kind, ir.SequenceType)


def position(node: ir.Node, k: int) -> int | None:
    """The k-th input, a constant position in a sequence; None when it is not known."""
    elements = array(input_of(node, k))
    return None if elements is None or elements.size != 1 else int(elements.reshape(()))


def parts(value: ir.Value | None) -> Parts | None:
    """The tensors of a sequence, or None when they are not known at compile time."""
    node = None if value is None else value.producer()
    if node is None or node.domain != "":
        return None
    if node.op_type == "SequenceConstruct":
        given = tuple(node.inputs)
        return None if None in given else tuple(v for v in given if v is not None)
    if node.op_type == "SequenceEmpty":
        return ()
    if node.op_type in ("Identity", "Optional", "OptionalGetElement") and node.inputs:
        return parts(node.inputs[0])
    if node.op_type in ("SequenceInsert", "SequenceErase"):
        return _edited(node)
    return None


def _edited(node: ir.Node) -> Parts | None:
    before = parts(node.inputs[0])
    if before is None:
        return None
    inserts = node.op_type == "SequenceInsert"
    where = 2 if inserts else 1
    if input_of(node, where) is None:
        at: int | None = len(before) if inserts else len(before) - 1
    else:
        at = position(node, where)
    if at is None or not -len(before) <= at <= len(before) - (not inserts):
        return None
    after = list(before)
    if inserts:
        tensor = node.inputs[1]
        assert tensor is not None
        after.insert(at, tensor)
    else:
        del after[at]
    return tuple(after) if len(after) <= LONGEST else None


def content(value: ir.Value | None) -> tuple[bool, ir.Value | None] | None:
    """Whether an optional holds something, and what; None when that is not known at compile time.

    What is no optional holds itself.
    """
    if value is None:
        return False, None
    node = value.producer()
    if node is not None and node.domain == "" and node.op_type == "Optional":
        inner = node.inputs[0] if node.inputs else None
        return inner is not None, inner
    if node is not None and node.domain == "" and node.op_type == "Identity":
        return content(node.inputs[0])
    if isinstance(value.type, ir.OptionalType) or value.type is None:
        return None
    return True, value
