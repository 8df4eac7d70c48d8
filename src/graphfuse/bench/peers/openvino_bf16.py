"""OpenVINO as it comes: on a processor with bfloat16 arithmetic it computes in that. Shown, but another precision."""

from __future__ import annotations

from typing import TYPE_CHECKING

from graphfuse.bench.peers.openvino import prepare_with, version

if TYPE_CHECKING:
    from graphfuse.bench.peers import Ready, Subject

__all__ = ["PACKAGES", "TOLERANCE", "VIES", "prepare", "version"]

PACKAGES = ("openvino",)
VIES = False
TOLERANCE = 0.2  # bfloat16 has 8 bits, and a deep network adds up its roundings


def prepare(subject: Subject) -> Ready:
    """The model compiled for the shapes of the inputs, in the plugin's default precision."""
    return prepare_with(subject, {})
