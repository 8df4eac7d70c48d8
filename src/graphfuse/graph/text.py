"""The one text form of a graph: ONNX's textual syntax, large constants by name only."""

from __future__ import annotations

import onnx_ir as ir


def model_text(model: ir.Model) -> str:
    """The model in ONNX's textual syntax, without the contents of its weights."""
    return str(ir.to_onnx_text(model, exclude_initializers=True))
