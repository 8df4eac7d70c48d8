"""TorchScript's own primitives, and the aten operators on Python's values: what is known is computed at once.

Each entry of the table is called with the interpreter, torch's node and the arguments, and returns the result, or
NotImplemented for arguments that are the operators' business.
"""

from __future__ import annotations

from graphfuse.importers.torchscript.prims import containers, facts, numbers, program
from graphfuse.importers.torchscript.prims.table import TABLE

__all__ = ["TABLE", "containers", "facts", "numbers", "program"]
