"""Graph-fusion compiler: a trained model in, a fused and verified native library out.

    import graphfuse as gf
    session = gf.compile("model.onnx")  # or gf.load("model.gf")
    y = session(x)

Importing this package is cheap: the compiler is imported when `compile` or `load` is first used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from graphfuse.compiler import compile, load

__all__ = ["__version__", "compile", "load"]
__version__ = "0.1.0"

_LAZY = ("compile", "load")


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module 'graphfuse' has no attribute '{name}'")
    from graphfuse import compiler

    return getattr(compiler, name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_LAZY})
