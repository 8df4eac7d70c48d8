"""PyTorch's doors: `fuse` a module, `explain` what torch.compile makes of it, and its backend (backend.py)."""

from __future__ import annotations

from graphfuse.importers.exported import require_torch

require_torch("graphfuse.torch")


from graphfuse.torch.breaks import Explanation, explain  # noqa: E402
from graphfuse.torch.module import FusedModule, fuse  # noqa: E402
from graphfuse.torch.plain import to_torch  # noqa: E402

__all__ = ["Explanation", "FusedModule", "explain", "fuse", "to_torch"]
