"""Importers: a model file or module -> onnx_ir.Model at one opset, shapes inferred, every node named; reading only."""

from __future__ import annotations

from graphfuse.importers.common import Imported, UnknownValue
from graphfuse.importers.shapes import unknown_values

__all__ = ["Imported", "UnknownValue", "unknown_values"]
