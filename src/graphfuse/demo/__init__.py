"""The embedded demo: a small residual network that reads handwritten digits, and the images its training never saw.

digits.onnx holds convolutions, batch norms, dropout and residual adds as the exporter left them; made by
tools/train_demo_model.py. The images are scikit-learn's `load_digits` (UCI optical recognition of handwritten digits,
CC BY 4.0), scaled up to 32x32.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

MODEL = Path(__file__).with_name("digits.onnx")


def held_out_images() -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Images (360, 1, 32, 32) float32 in 0..1, the model's input `image`; labels (360,) int64, the digits 0 to 9."""
    with np.load(Path(__file__).with_name("digits_test.npz")) as data:
        return data["images"].astype(np.float32) / np.float32(255), data["labels"].astype(np.int64)


def accuracy(scores: NDArray[np.float32], labels: NDArray[np.int64]) -> float:
    """The share of rows of scores (N, 10), the model's output `scores`, whose largest entry is the label."""
    return float((scores.argmax(axis=1) == labels).mean())
