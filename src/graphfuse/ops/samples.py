"""Small cases that ops declare beside their meaning; the tests of every op are made from them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

SPECIAL = (0.0, -0.0, float("nan"), float("inf"), float("-inf"), 0.5, -0.5, 1.5, 2.5, -2.5, 1e-30, 100.0, -100.0)


@dataclass(frozen=True, eq=False)
class Sample:
    """One node with its inputs.

    `inputs` that are None are absent; those listed in `constants` are known at compile time. `rejected` is a part of
    the reason with which the form is refused, or empty. Where `symbolic`, the lowering also works with every size above
    1 unknown, but for the axes in `fixed`. `reference` names the oracle: "onnxruntime" or "onnx" (its reference
    evaluator).
    """

    inputs: tuple[np.ndarray | None, ...]
    attrs: dict[str, Any]
    constants: tuple[int, ...] = ()
    outputs: int = 1
    fixed: tuple[int, ...] = ()
    symbolic: bool = True
    reference: str = "onnxruntime"
    rejected: str = ""


def sample(
    *inputs: np.ndarray | None,
    constants: Sequence[int] = (),
    outputs: int = 1,
    fixed: Sequence[int] = (),
    symbolic: bool = True,
    reference: str = "onnxruntime",
    rejected: str = "",
    **attrs: Any,
) -> Sample:
    """A sample; keywords that are not its own are the node's attributes."""
    return Sample(inputs, attrs, tuple(constants), outputs, tuple(fixed), symbolic, reference, rejected)


def floats(*shape: int, low: float = -3.0, high: float = 3.0, dtype: Any = np.float32, seed: int = 0) -> np.ndarray:
    """Uniform numbers, the same on every run."""
    rng = np.random.default_rng([seed, *shape])
    return rng.uniform(low, high, shape).astype(dtype)


def special(*shape: int, dtype: Any = np.float32) -> np.ndarray:
    """Numbers that begin with zeros, NaN, infinities, halves and extremes."""
    x = floats(*shape, dtype=dtype)
    n = min(x.size, len(SPECIAL))
    x.reshape(-1)[:n] = SPECIAL[:n]
    return x


def ints(*shape: int, low: int = -9, high: int = 10, dtype: Any = np.int32, seed: int = 0) -> np.ndarray:
    """Integers in [low, high), the same on every run."""
    rng = np.random.default_rng([seed, *shape])
    return rng.integers(low, high, shape).astype(dtype)


def bools(*shape: int, seed: int = 0) -> np.ndarray:
    """Truth values, the same on every run."""
    return np.random.default_rng([seed, *shape]).integers(0, 2, shape).astype(bool)


def int64(*values: int) -> np.ndarray:
    """A 1-D int64 tensor, as axes and shapes are given."""
    return np.array(values, np.int64)


def scalar(value: float | int | bool, dtype: Any = np.float32) -> np.ndarray:
    """A tensor of rank 0."""
    return np.array(value, dtype)
