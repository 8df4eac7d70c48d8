"""The artifact: its folder and its manifest."""

from __future__ import annotations

from graphfuse.artifact.bundle import Bundle, Staging, read_bundle, stage_bundle, write_bundle
from graphfuse.artifact.manifest import Manifest, Tensor

__all__ = ["Bundle", "Manifest", "Staging", "Tensor", "read_bundle", "stage_bundle", "write_bundle"]
