"""What every importer returns."""

from __future__ import annotations

import dataclasses

import onnx_ir as ir

from graphfuse.ledger import Ledger


@dataclasses.dataclass(frozen=True)
class UnknownValue:
    """A value whose element type or shape could not be inferred. node: the user's node that makes it."""

    value: str
    node: str
    op_type: str
    lacks: str


@dataclasses.dataclass
class Imported:
    """A model at `OPSET`, its ledger with every node registered, and what could not be inferred about its values."""

    model: ir.Model
    ledger: Ledger
    unknown: tuple[UnknownValue, ...] = ()
