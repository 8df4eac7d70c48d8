"""torch.compile with weights frozen into the program: constants folded, matrices and filters packed ahead."""

from __future__ import annotations

from typing import TYPE_CHECKING

from graphfuse.bench import torch_network
from graphfuse.bench.torch_network import PACKAGES, version

if TYPE_CHECKING:
    from graphfuse.bench.peers import Ready, Subject

__all__ = ["PACKAGES", "TOLERANCE", "VIES", "prepare", "version"]

VIES = True
TOLERANCE = 1e-3


def prepare(subject: Subject) -> Ready:
    """The module compiled for the shapes of the inputs. Raises InputError when the model has no form in PyTorch."""
    import torch
    from torch._inductor import config

    config.freezing = True
    return torch_network.prepare(subject, torch.compile)
