"""Whole models for tests and timings, as their users would export them; weights are random, never trained.

`graphs/` holds the graphs of well-known networks with their weights stripped (made by export.py); load() fills them in.
`builders.py` builds the others. inputs() draws floats from a standard normal distribution.

    python -m zoo resnet18 resnet18.onnx      # from the folder tests/: one model as a file
"""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from platformdirs import user_cache_path

from . import builders, weights

GRAPHS = Path(__file__).with_name("graphs")

# name -> factor on the variance of convolution weights, 1 suits ReLU networks; gates and swish shrink a signal, so
# theirs is larger. All but two take `image` (batch, 3, 224, 224), the batch symbolic, to `logits` (batch, 1000);
# vgg11_bn ends in `features` (batch, 512, 7, 7); minilm takes `input_ids` and `attention_mask`, int64 (batch, 128), to
# `last_hidden_state` (batch, 128, 384).
EXPORTED: dict[str, float] = {
    "resnet18": 1.0,
    "resnet18_dynamo": 1.0,
    "resnet50": 1.0,
    "vgg11_bn": 1.0,
    "mobilenet_v2": 2.0,
    "mobilenet_v3_large": 1.3,
    "efficientnet_b0": 2.0,
    "convnext_atto": 1.0,
    "minilm": 1.0,
    "vit_tiny": 1.0,
    "vit_tiny_dynamo": 1.0,
}
BUILT: dict[str, Callable[[int], onnx.ModelProto]] = {
    "pointwise_chain": builders.pointwise_chain,
    "mlp": builders.mlp,
    "lstm": builders.lstm,
    "repeated_blocks": builders.repeated_blocks,
}
NAMES = (*EXPORTED, *BUILT)
INTEGERS = {"input_ids": (0, 30522), "attention_mask": (0, 2)}  # input -> from, to (exclusive)


def load(name: str, seed: int = 0) -> onnx.ModelProto:
    """One model of NAMES with the random weights of `seed`; KeyError for a name it does not know."""
    if name in BUILT:
        return BUILT[name](seed)
    gain = EXPORTED[name]
    model = onnx.load(GRAPHS / f"{name}.onnx")
    weights.fill(model, seed, gain)
    return model


def path(name: str, seed: int = 0) -> Path:
    """The same model as a file in the user's cache folder, written when first asked for."""
    folder = user_cache_path("graphfuse-tests") / "zoo"
    file = folder / f"{name}-{seed}-{_sources_digest()}.onnx"
    if file.exists():
        return file
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=folder, delete=False) as partial:
        partial.write(load(name, seed).SerializeToString(deterministic=True))
    os.replace(partial.name, file)  # two test processes may both write; either result is whole and the same
    return file


def inputs(model: onnx.ModelProto, seed: int = 0, **dims: int) -> dict[str, NDArray[Any]]:
    """Random values for each input of a zoo model; a symbolic dim is 1 unless given: inputs(model, batch=3)."""
    random = np.random.default_rng(seed)
    values: dict[str, NDArray[Any]] = {}
    for value in model.graph.input:
        shape = [dim.dim_value or dims.get(dim.dim_param, 1) for dim in value.type.tensor_type.shape.dim]
        if value.name in INTEGERS:
            values[value.name] = random.integers(*INTEGERS[value.name], shape)
        else:
            values[value.name] = random.standard_normal(shape, dtype=np.float32)
    return values


@cache
def _sources_digest() -> str:
    """Changes with any graph or source file of the zoo, so that a cached file is never a stale one."""
    digest = hashlib.sha256()
    for source in sorted([*GRAPHS.glob("*.onnx"), *Path(__file__).parent.glob("*.py")]):
        digest.update(source.name.encode() + b"\0" + source.read_bytes())
    return digest.hexdigest()[:16]
