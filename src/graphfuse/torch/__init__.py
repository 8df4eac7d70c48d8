"""PyTorch's doors: `fuse` a module, a backend for `torch.compile`, and `explain`. Importing this imports torch."""

from __future__ import annotations

from graphfuse.importers.exported import require_torch

require_torch("graphfuse.torch")


from graphfuse.torch.backend import backend  # noqa: E402
from graphfuse.torch.explain import Explanation, explain  # noqa: E402
from graphfuse.torch.module import FusedModule, fuse  # noqa: E402

__all__ = ["Explanation", "FusedModule", "backend", "explain", "fuse"]
