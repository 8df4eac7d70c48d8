"""torch.compile as it comes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from graphfuse.bench import torch_network
from graphfuse.bench.torch_network import PACKAGES, version

if TYPE_CHECKING:
    from graphfuse.bench.peers import Ready, Subject

__all__ = ["PACKAGES", "TOLERANCE", "VIES", "prepare", "version"]

VIES = False
TOLERANCE = 1e-3


def prepare(subject: Subject) -> Ready:
    """The module compiled for the shapes of the inputs. Raises InputError when the model has no form in PyTorch."""
    import torch

    return torch_network.prepare(subject, torch.compile)
