"""What every importer returns."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import numpy as np
import onnx_ir as ir

from graphfuse.ledger import Ledger


@dataclasses.dataclass(frozen=True)
class UnknownValue:
    """A value whose element type or shape could not be inferred. node: the user's node that makes it."""

    value: str
    node: str
    op_type: str
    lacks: str


@dataclasses.dataclass(frozen=True)
class StateVariable:
    """What a model keeps from one call to the next: an input of its graph that the next call gets from an output.

    initial: the value that the first call starts from.
    """

    input: str
    output: str
    initial: np.ndarray


@dataclasses.dataclass
class Imported:
    """A model at `OPSET`, its ledger with every node registered, and what could not be inferred about its values.

    ranges: the least and the largest size (None: any) that the model means something for, by the names of dimensions.
    """

    model: ir.Model
    ledger: Ledger
    unknown: tuple[UnknownValue, ...] = ()
    states: tuple[StateVariable, ...] = ()
    ranges: Mapping[str, tuple[int, int | None]] = dataclasses.field(default_factory=dict)
