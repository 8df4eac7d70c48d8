"""TorchScript programs run by torch itself."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from graphfuse.errors import InputError, one_line
from graphfuse.importers.torchscript.arguments import call_with, leaves
from graphfuse.importers.torchscript.model import TorchScript
from graphfuse.importers.torchscript.values import array_of
from graphfuse.verify.reference import OTHERS

Array = np.ndarray[Any, Any]


class Torch:
    """The program of a file; what it keeps between calls starts anew with `restart`."""

    name = "torch"

    def __init__(self, source: TorchScript) -> None:
        self.version = str(torch.__version__)
        self._source = source
        self._module = source.fresh_module()
        self._used = False

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Any]:
        """All outputs by name. Raises InputError where the program does not take these inputs."""
        arguments = call_with(self._source.arguments, inputs)
        self._used = True
        try:
            with torch.no_grad():
                result = self._module(*arguments)
        except (RuntimeError, torch.jit.Error) as error:
            lines = [line for line in str(error).strip().splitlines() if line.strip()]
            why = one_line(lines[-1] if lines else "", 200)
            raise InputError("torch refuses these inputs", why=why, remedy=OTHERS) from error
        return {name: _array(value) for name, value in leaves(result)}

    def restart(self) -> None:
        """Put the states back to what they are in the file."""
        if self._used and self._source.converted.states:
            self._module = self._source.fresh_module()
            self._used = False


def _array(value: Any) -> Array:
    return array_of(value if isinstance(value, torch.Tensor) else torch.tensor(value))


def runner(source: TorchScript) -> Torch:
    """What `verify.originals` asks for."""
    return Torch(source)
