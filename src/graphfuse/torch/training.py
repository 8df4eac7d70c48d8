"""Modules in training mode: refused, or exported by a stated policy."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from graphfuse.errors import InputError

_NORMS = (nn.modules.batchnorm._BatchNorm,)
_DROPOUTS = (nn.modules.dropout._DropoutNd,)

FROZEN, KEEP = "frozen", "keep"


def check_policies(batch_norm: str | None, dropout: str | None) -> None:
    """Raises InputError for a policy that there is not."""
    for name, value, known in (("batch_norm", batch_norm, FROZEN), ("dropout", dropout, KEEP)):
        if value not in (None, known):
            raise InputError(f"the policy {name} is {value!r}", remedy=f'give "{known}", or nothing')


def check_mode(module: nn.Module, where: str, batch_norm: str | None = None, dropout: str | None = None) -> None:
    """Raises InputError for a module in training mode that the policies do not cover."""
    if not module.training:
        return
    norms = [name for name, inner in module.named_modules() if isinstance(inner, _NORMS) and inner.training]
    drops = [name for name, inner in module.named_modules() if isinstance(inner, _DROPOUTS) and inner.training]
    what, left = [], []
    if norms and batch_norm is None:
        what.append(f"the batch norm {norms[0]!r} would take its statistics from each batch")
        left.append('batch_norm="frozen", which takes the running ones')
    if drops and dropout is None:
        what.append(f"the dropout {drops[0]!r} would draw at random")
        left.append('dropout="keep", which goes on drawing (Monte-Carlo dropout)')
    if not left and (batch_norm or dropout):
        return
    if not left:
        what.append("nothing in it says what that should mean")
    remedy = "call .eval() on it first" + (f", or say {' and '.join(left)}" if left else "")
    raise InputError("the module is in training mode", where=where, why="; ".join(what), remedy=remedy)


@contextmanager
def in_mode(module: nn.Module, batch_norm: str | None, dropout: str | None) -> Iterator[None]:
    """The module as the policies want it, put back afterwards."""
    before = {inner: inner.training for inner in module.modules()}
    try:
        for inner in before:
            if batch_norm == FROZEN and isinstance(inner, _NORMS):
                inner.training = False
            if dropout == KEEP and isinstance(inner, _DROPOUTS):
                inner.training = True
        with torch.no_grad():
            yield
    finally:
        for inner, training in before.items():
            inner.training = training
