"""Programs through the importer, and what torch makes of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from graphfuse.importers.open import open_model
from graphfuse.importers.torchscript.arguments import inputs_of
from graphfuse.importers.torchscript.model import TorchScript
from graphfuse.options import Hints
from graphfuse.verify.originals import Stateful
from graphfuse.verify.reference import Reference
from graphfuse.verify.torchscript import runner


def saved(program: Any, folder: Path) -> Path:
    """The program in a file."""
    path = folder / "model.pt"
    torch.jit.save(program, str(path))
    return path


def opened(
    path: Path, shapes: Mapping[str, Any], values: Mapping[str, Any] | None = None, **dtypes: str
) -> TorchScript:
    source = open_model(path, hints=Hints(dict(shapes), dtypes, dict(values or {})))
    assert isinstance(source, TorchScript)
    return source


def arrays_like(shapes: Sequence[Sequence[int]], dtypes: Sequence[str], seed: int = 0) -> list[np.ndarray[Any, Any]]:
    """Arrays of these shapes and types: floats normal, integers from -3 to 3, booleans."""
    random = np.random.default_rng(seed)
    made = []
    for shape, dtype in zip(shapes, dtypes, strict=True):
        if dtype == "bool":
            made.append(random.integers(0, 2, shape).astype(bool))
        elif "int" in dtype:
            made.append(random.integers(0 if dtype[0] == "u" else -3, 4, shape).astype(dtype))
        else:
            made.append(random.standard_normal(shape).astype(dtype))
    return made


def agree(source: TorchScript, calls: Sequence[Mapping[str, Any]], rtol: float = 1e-5, atol: float = 1e-5) -> None:
    """The spelled graph in onnxruntime and the program in torch return the same, call after call."""
    converted = source.converted
    ours = Stateful(Reference(source.proto(True)), converted.states)
    theirs = runner(source)
    for inputs in calls:
        expected, found = theirs.run(inputs), ours.run(inputs)
        assert list(found) == list(expected)
        for name, wanted in expected.items():
            assert found[name].dtype == wanted.dtype, f"{name}: {found[name].dtype}, not {wanted.dtype}"
            assert found[name].shape == wanted.shape, f"{name}: {found[name].shape}, not {wanted.shape}"
            np.testing.assert_allclose(
                np.asarray(found[name], np.float64) if wanted.dtype != bool else found[name],
                np.asarray(wanted, np.float64) if wanted.dtype != bool else wanted,
                rtol, atol, err_msg=name,
            )  # fmt: skip


def agree_on(
    function: Callable[..., Any],
    arrays: Sequence[np.ndarray[Any, Any]],
    folder: Path,
    *,
    open_sizes: bool = False,
    **tolerances: float,
) -> TorchScript:
    """The function, traced, saved and read again, with known sizes or with none known."""
    tensors = [torch.from_numpy(array) for array in arrays]
    program = torch.jit.trace(_Module(function), tuple(tensors), check_trace=False)
    path = saved(program, folder)
    names = [a.name for a in torch.jit.load(str(path)).forward.schema.arguments[1:]]
    shapes: dict[str, Any] = {}
    for name, array in zip(names, arrays, strict=True):
        shapes[name] = tuple(f"{name}_{k}" for k in range(array.ndim)) if open_sizes else array.shape
    dtypes = {name: array.dtype.name for name, array in zip(names, arrays, strict=True)}
    source = opened(path, shapes, None, **dtypes)
    assert [i.name for i in inputs_of(source.arguments)] == names
    agree(source, [dict(zip(names, arrays, strict=True))], **tolerances)
    return source


class _Module(torch.nn.Module):
    """A function as a module, which is what files hold."""

    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__()
        self.function = function

    def forward(self, *args: torch.Tensor) -> Any:
        return self.function(*args)
