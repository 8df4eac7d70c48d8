"""to_torch: any model as a plain module of PyTorch."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import fx, nn

from graphfuse.export.onnx import rewritten_model
from graphfuse.export.torch import module_of
from graphfuse.importers.open import open_model
from graphfuse.importers.source import Source
from graphfuse.options import CompileOptions, Hints
from graphfuse.torch.source import ModuleSource, export
from graphfuse.torch.training import check_mode


def to_torch(
    model: str | Path | nn.Module,
    example_inputs: Any = None,
    *,
    dynamic_shapes: Any = None,
    shapes: Mapping[str, Any] | None = None,
    values: Mapping[str, Any] | None = None,
    allow_pickle: bool = False,
    disabled_rules: tuple[str, ...] = (),
) -> fx.GraphModule:
    """A model as a plain module: batch norms folded, recognitions applied, weights as parameters that can be trained.

    model: a file of any format, or a module in evaluation mode with `example_inputs`, a tuple of arguments or one
    tensor, and `dynamic_shapes` as torch.export takes them. The module takes its tensors by position and returns the
    output, or a tuple of them. Raises GraphfuseError; UnsupportedModelError names every operator that it cannot write.
    """
    source: Source
    if isinstance(model, nn.Module):
        check_mode(model, type(model).__name__, None, None)
        args = example_inputs if isinstance(example_inputs, tuple) else (example_inputs,)
        policies = (None, None)
        source = ModuleSource(model, export(model, args, None, dynamic_shapes, policies), policies)
    else:
        source = open_model(Path(model), allow_pickle, Hints.of(shapes or {}, values or {}))
    return module_of(rewritten_model(source, CompileOptions(disabled_rules=disabled_rules)), source.where)
