"""TFLite files through import, rules and lowering, and in LiteRT."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir

from graphfuse import rules
from graphfuse.importers.formats.tflite import TFLiteFile
from graphfuse.verify.litert import LiteRT
from ops.running import interpret

from .builder import Model

Array = np.ndarray[Any, Any]


def read(model: Model | bytes, folder: Path) -> TFLiteFile:
    path = folder / "model.tflite"
    path.write_bytes(model if isinstance(model, bytes) else model.bytes())
    return TFLiteFile(path)


def spelled(source: TFLiteFile) -> ir.Model:
    """The graph as it comes out of the rules; every operator of the file is accounted for."""
    imported = source.read()
    model = rules.recognize(rules.simplify(imported.model, imported.ledger), imported.ledger)
    assert {record.name for record in imported.ledger.nodes} <= set(source.converted.operators)
    return model


def ours(source: TFLiteFile, inputs: dict[str, Array], env: dict[str, int] | None = None) -> list[Array]:
    """The outputs, computed by the interpreter."""
    return interpret(spelled(source), inputs, env)


def theirs(source: TFLiteFile, inputs: dict[str, Array], reference: bool = True) -> list[Array]:
    """The outputs, computed by LiteRT's reference kernels, or by its optimised ones."""
    return list(LiteRT(source, "reference" if reference else "optimised").run(inputs).values())


__all__ = ["Array", "ours", "read", "spelled", "theirs"]
