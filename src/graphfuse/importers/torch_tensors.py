"""torch tensors as NumPy arrays and back, sharing memory."""

from __future__ import annotations

from functools import cache
from typing import Any

import ml_dtypes
import numpy as np

Array = np.ndarray[Any, Any]

# Types that NumPy lacks: torch's name -> (torch's integer of that width, NumPy's, the type of ml_dtypes).
_VIEWED = {
    "bfloat16": ("uint16", np.uint16, ml_dtypes.bfloat16),
    "float8_e4m3fn": ("uint8", np.uint8, ml_dtypes.float8_e4m3fn),
    "float8_e4m3fnuz": ("uint8", np.uint8, ml_dtypes.float8_e4m3fnuz),
    "float8_e5m2": ("uint8", np.uint8, ml_dtypes.float8_e5m2),
    "float8_e5m2fnuz": ("uint8", np.uint8, ml_dtypes.float8_e5m2fnuz),
}


@cache
def viewed() -> dict[Any, tuple[Any, Any]]:
    """For each type of torch's that NumPy lacks: torch's integer of that width, and NumPy's type."""
    import torch

    return {getattr(torch, name): (getattr(torch, bits), np.dtype(t)) for name, (bits, _, t) in _VIEWED.items()}


@cache
def _back() -> dict[Any, tuple[Any, Any]]:
    import torch

    return {np.dtype(t): (bits, getattr(torch, name)) for name, (_, bits, t) in _VIEWED.items()}


def to_array(tensor: Any) -> Array:
    """The tensor as an array, of the same memory where it is dense memory of the CPU."""
    tensor = tensor.detach()
    found = viewed().get(tensor.dtype)
    if found is None:
        array: Array = tensor.numpy(force=True)
        return array
    return tensor.contiguous().view(found[0]).numpy(force=True).view(found[1])


def to_tensor(array: Array) -> Any:
    """The array as a tensor of the same memory, which the tensor keeps alive."""
    import torch

    found = _back().get(array.dtype)
    if found is None:
        return torch.from_numpy(array)
    return torch.from_numpy(array.view(found[0])).view(found[1])
