"""The digits of folded constants: kept in float64 beside their rounded form, so that folding twice rounds once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

Array = npt.NDArray[Any]
# In a value's `meta`: its elements in float64, or a `Scaled`.
EXACT_KEY = "graphfuse.float64"


@dataclass(frozen=True)
class Scaled:
    """Weights times factors that are broadcast against them: exact without a second copy of the weights."""

    base: Array
    factor: Array

    def elements(self) -> Array:
        return self.base * self.factor


def exact(value: ir.Value) -> Array | None:
    """A constant's elements in float64, as they were before they were last rounded; None for no constant."""
    kept = value.meta.get(EXACT_KEY)
    if isinstance(kept, Scaled):
        return kept.elements()
    if kept is None and value.const_value is not None:
        kept = value.const_value.numpy()
    return None if kept is None else np.asarray(kept, dtype=np.float64)
