"""Whether two graphs compute the same from the same inputs, node by node."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir


def same_values(pairs: Sequence[tuple[ir.Value, ir.Value]]) -> bool:
    """Whether each pair is made by the same operators from equal constants and inputs of the same name.

    Values made by control flow are never found to be the same.
    """
    waiting = list(pairs)
    seen: set[tuple[int, int]] = set()
    while waiting:
        one, two = waiting.pop()
        if (id(one), id(two)) in seen:
            continue
        seen.add((id(one), id(two)))
        maker, other = one.producer(), two.producer()
        if maker is None or other is None:
            if maker is not other or not _same_leaf(one, two):
                return False
            continue
        if not _same_node(maker, other) or one.index() != two.index():
            return False
        for x, y in zip(maker.inputs, other.inputs, strict=True):
            if (x is None) != (y is None):
                return False
            if x is not None and y is not None:
                waiting.append((x, y))
    return True


def _same_leaf(one: ir.Value, two: ir.Value) -> bool:
    if one.const_value is None or two.const_value is None:
        return one.const_value is two.const_value and one.name == two.name
    x, y = one.const_value.numpy(), two.const_value.numpy()
    return x.dtype == y.dtype and x.shape == y.shape and x.tobytes() == y.tobytes()


def _same_node(one: ir.Node, two: ir.Node) -> bool:
    if one.op_identifier() != two.op_identifier() or len(one.inputs) != len(two.inputs):
        return False
    if set(one.attributes) != set(two.attributes):
        return False
    return all(_same_attribute(a, two.attributes[name]) for name, a in one.attributes.items())


def _same_attribute(one: ir.Attr, two: ir.Attr) -> bool:
    if one.type != two.type or one.type in (ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS):
        return False
    if one.type == ir.AttributeType.TENSOR:
        return bool(np.array_equal(one.value.numpy(), two.value.numpy(), equal_nan=True))
    return bool(one.value == two.value)
