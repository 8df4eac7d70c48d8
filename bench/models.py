"""The models of the comparison: the zoo of tests/, and published models."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from graphfuse.bench.suite import Spec

TESTS = Path(__file__).resolve().parents[1] / "tests"
sys.path.insert(0, str(TESTS))

import real_models  # noqa: E402
import zoo  # noqa: E402

ZOO = (
    "resnet18",
    "resnet50",
    "vgg11_bn",
    "mobilenet_v2",
    "mobilenet_v3_large",
    "efficientnet_b0",
    "convnext_atto",
    "vit_tiny",
    "minilm",
    "pointwise_chain",
    "mlp",
    "lstm",
)
TORCH_FORMS = ("lstm", "minilm", *(name for name in ZOO if name in zoo.EXPORTED))
BATCHES = {"resnet50": (1, 8), "mobilenet_v2": (1, 8), "vit_tiny": (1, 8)}

Inputs = tuple[Path, Mapping[str, np.ndarray[Any, Any]]]


def specs() -> list[Spec]:
    """Every model on every batch it is measured on."""
    found = []
    for name in ZOO:
        form = f"zoo.torch_form:{name}" if name in TORCH_FORMS else ""
        for batch in BATCHES.get(name, (1,)):
            found.append(Spec(name, partial(_from_zoo, name, batch), batch, form, (TESTS,)))
    return found + [Spec(name, partial(_real, name)) for name in real_models.NAMES]


def _from_zoo(name: str, batch: int) -> Inputs:
    path = zoo.path(name)
    inputs = zoo.inputs(onnx.load(path, load_external_data=False), batch=batch)
    if "attention_mask" in inputs:  # a full sentence
        inputs["attention_mask"] = np.ones_like(inputs["attention_mask"])
    return path, inputs


def _real(name: str) -> Inputs:
    return real_models.fetch(name), real_models.inputs(name)
