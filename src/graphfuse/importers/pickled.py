"""Modules of PyTorch that came out of a pickle which the user trusts: exported as torch.export does it."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

from graphfuse.errors import InputError, UnsupportedModelError
from graphfuse.importers.exported import Exported, describe, quiet_exporter, require_torch

_OPEN = 4  # an example of a size that stays open: neither 0 nor 1, which torch.export takes for special


class Pickled(Exported):
    """A module, exported for the shapes that the user gives for its arguments."""

    format = "PyTorch"
    takes_hints = True

    def __init__(self, module: Any, path: Path) -> None:
        super().__init__(None, str(path), path)
        self._module = module

    def load(self) -> Any:
        """The exported program. Raises InputError for what nobody says of the arguments, UnsupportedModelError."""
        torch = require_torch("a pickled module")
        module, hints = self._module, self.hints
        if module.training:
            nodes = [("torch.nn.Module", type(module).__name__, "the module is in training mode")]
            raise UnsupportedModelError(nodes, where=self.where, remedy="save the model after model.eval()")
        self._check_names()
        given: dict[str, Any] = dict(hints.values)
        dynamic: dict[str, Any] = dict.fromkeys(given)
        dims: dict[str, Any] = {}
        for name, shape in hints.shapes.items():
            sizes = [size if isinstance(size, int) else _OPEN for size in shape]
            given[name] = torch.zeros(sizes, dtype=getattr(torch, hints.dtypes.get(name, "float32")))
            names = {k: size for k, size in enumerate(shape) if isinstance(size, str)}
            dynamic[name] = {k: dims.setdefault(size, torch.export.Dim(size)) for k, size in names.items()} or None
        with torch.no_grad(), quiet_exporter():
            try:
                return torch.export.export(module, (), given, dynamic_shapes=dynamic, strict=False)
            except Exception as error:  # whatever the module's code and torch's tracer raise
                nodes = [("torch.export", type(module).__name__, describe(error))]
                raise UnsupportedModelError(nodes, where=self.where) from error

    def _check_names(self) -> None:
        parameters = inspect.signature(self._module.forward).parameters
        names = list(parameters)
        hints = self.hints
        for given in (*hints.shapes, *hints.values):
            if given not in names:
                remedy = f"its arguments are {', '.join(map(repr, names))}"
                raise InputError(f"the model has no argument {given!r}", where=self.where, remedy=remedy)
        plain = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
        needed = [n for n, p in parameters.items() if p.default is inspect.Parameter.empty and p.kind in plain]
        if missing := [n for n in needed if n not in hints.shapes and n not in hints.values]:
            raise InputError(
                f"the file does not say what its arguments are like: {', '.join(missing)}", where=self.where,
                remedy=f"say it, as in {' '.join(f'--shape {n}=1x3x224x224' for n in missing)}",
            )  # fmt: skip
