"""The rewritten model as a plain module of PyTorch. Importing this imports torch.

`graph.py` walks the graph and `call.py` is what an operator's function sees; each `ops_*.py` holds a family of them. An
operator is added by a function under `@op(...)` in one of these files, or in a new one called `ops_<family>.py`.
"""

from __future__ import annotations

from graphfuse.importers.exported import require_torch

require_torch("exporting to PyTorch")

from graphfuse.export.torch.graph import module_of, supported  # noqa: E402
from graphfuse.export.torch.program import export_program, write_program  # noqa: E402

__all__ = ["export_program", "module_of", "supported", "write_program"]
