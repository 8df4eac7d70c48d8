"""Operators of onnxruntime that it spells as if they were the standard's, and that the standard has by another name."""

from __future__ import annotations

import onnx
import onnx_ir as ir

from graphfuse.graph.origins import all_nodes
from graphfuse.graph.shape_rules import OPSET

_DOMAIN = "com.microsoft"
# The name in onnxruntime -> the standard's at OPSET; attributes and inputs are the same.
_STANDARD = {"SimplifiedLayerNormalization": "RMSNormalization"}


def set_apart(model: ir.Model) -> None:
    """Move these operators out of the standard domain, where the checker and the converter would not know them."""
    for node in all_nodes(model.graph):
        if node.domain == "" and node.op_type in _STANDARD and not onnx.defs.has(node.op_type, OPSET, ""):
            node.domain = _DOMAIN
            model.graph.opset_imports.setdefault(_DOMAIN, 1)


def as_standard(model: ir.Model) -> None:
    """Give these operators, in a model at OPSET, the standard's name, as far as only their first output is used."""
    for node in all_nodes(model.graph):
        if node.domain != _DOMAIN or node.op_type not in _STANDARD:
            continue
        if not any(value.uses() or value.is_graph_output() for value in node.outputs[1:]):
            node.resize_outputs(1)
            node.domain, node.op_type = "", _STANDARD[node.op_type]
