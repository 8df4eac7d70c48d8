"""PyTorch as its users write it, op by op."""

from __future__ import annotations

from graphfuse.bench.torch_network import PACKAGES, prepare, version

__all__ = ["PACKAGES", "TOLERANCE", "VIES", "prepare", "version"]

VIES = False
TOLERANCE = 1e-3
