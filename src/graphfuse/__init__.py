"""Graph-fusion compiler: a trained model in, a fused and verified native library out.

    import graphfuse as gf
    session = gf.compile("model.onnx")  # or gf.load("model.gf")
    y = session(x)

Importing this package is cheap: the compiler is imported when `compile` finds nothing in the cache.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from graphfuse.runtime.session import Session
    from graphfuse.torch import Explanation, FusedModule

__all__ = ["__version__", "compile", "explain", "fuse", "load", "to_torch"]
__version__ = "0.1.0"


def compile(
    path: str | Path,
    *,
    shapes: Mapping[str, str | Sequence[int | str]] | None = None,
    values: Mapping[str, Any] | None = None,
    allow_pickle: bool = False,
    **options: Any,
) -> Session:
    """A session for a model file, compiled for this machine and cached by content.

    shapes, values: of arguments, where the file does not say them: {"x": (1, 3, "H", "W")} or {"x": "1x16:int64"},
    {"sr": 16000}; allow_pickle: that Python code in a pickle may be executed; options: fields of
    `graphfuse.options.CompileOptions`. Raises GraphfuseError.
    """
    from pathlib import Path

    from graphfuse.artifact.reuse import Search
    from graphfuse.errors import ArtifactError
    from graphfuse.options import CompileOptions, Hints

    hints = Hints.of(shapes or {}, values or {})
    chosen = CompileOptions(**options)
    search = Search(Path(path), chosen, hints.key()) if chosen.cache else None
    from graphfuse.runtime.session import Session

    found = search.result() if search is not None else None
    if found is not None:
        try:
            return Session(found, threads=chosen.threads)
        except ArtifactError:  # pruned meanwhile
            options["cache"] = False
    from graphfuse import compiler

    return compiler.compile(path, hints, allow_pickle, **options)


def load(artifact: str | Path, threads: int | None = None) -> Session:
    """A session for an artifact folder. Raises ArtifactError."""
    from graphfuse.runtime.session import Session

    return Session(artifact, threads=threads)


def fuse(module: Any, example_inputs: Any = (), **options: Any) -> FusedModule:
    """A module of PyTorch, or a program of torch.export, compiled to a callable that takes its place.

    See `graphfuse.torch.fuse`. Raises GraphfuseError, InputError where PyTorch is not installed.
    """
    from graphfuse import torch

    return torch.fuse(module, example_inputs, **options)


def explain(model: Any, *args: Any, **kwargs: Any) -> Explanation:
    """What torch.compile makes of a module for these arguments: see `graphfuse.torch.explain`.

    Raises GraphfuseError, InputError where PyTorch is not installed.
    """
    from graphfuse import torch

    return torch.explain(model, *args, **kwargs)


def to_torch(model: Any, example_inputs: Any = None, **options: Any) -> Any:
    """A model file, or a module of PyTorch, as a plain trainable nn.Module: see `graphfuse.torch.to_torch`.

    Raises GraphfuseError, InputError where PyTorch is not installed.
    """
    from graphfuse import torch

    return torch.to_torch(model, example_inputs, **options)
