"""A module of PyTorch as a source: exported for compiling, run itself for verification."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

import torch
from torch import nn

from graphfuse.errors import UnsupportedModelError
from graphfuse.importers.exported import Exported, describe, quiet_exporter
from graphfuse.torch.training import in_mode


class ModuleSource(Exported):
    """A module, exported; verification runs the module itself."""

    format = "PyTorch"

    def __init__(self, module: nn.Module, program: Any, policies: tuple[str | None, str | None]) -> None:
        super().__init__(program, type(module).__name__)
        self._module, self._policies = module, policies

    @cached_property
    def runnable(self) -> nn.Module:
        return self._module

    def run(self, tensors: Sequence[Any]) -> list[Any]:
        with in_mode(self._module, *self._policies):
            return super().run(tensors)


def export(
    module: nn.Module,
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any] | None,
    dynamic_shapes: Any,
    policies: tuple[str | None, str | None],
) -> Any:
    """The module as a program of torch.export. Raises UnsupportedModelError, which says where it cannot be one."""
    where = type(module).__name__
    with in_mode(module, *policies), quiet_exporter():
        try:
            return torch.export.export(module, args, dict(kwargs or {}), dynamic_shapes=dynamic_shapes, strict=False)
        except Exception as error:  # whatever the user's code and torch's tracer raise
            remedy = "graphfuse.explain(module, *inputs) shows the line; torch.compile takes it in pieces"
            nodes = [("torch.export", where, describe(error))]
            raise UnsupportedModelError(nodes, where=where, remedy=remedy) from error
