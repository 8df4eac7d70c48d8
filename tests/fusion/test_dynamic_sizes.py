"""Open sizes do not stand in the way of fusion: a model with all sizes open fuses as the same model with fixed ones."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest

import zoo
from graphfuse.compiler import Job, run_stages
from graphfuse.fusion.regions import Fusion
from graphfuse.options import CompileOptions

# name -> for each axis of the inputs its symbol, and the size that stands for it in the fixed model; "" stays as it is.
MODELS: dict[str, list[tuple[str, int]]] = {
    "resnet18": [("N", 2), ("", 3), ("H", 224), ("W", 224)],
    "mobilenet_v3_large": [("N", 2), ("", 3), ("H", 224), ("W", 224)],
    "efficientnet_b0": [("N", 2), ("", 3), ("H", 224), ("W", 224)],
    "convnext_atto": [("N", 2), ("", 3), ("H", 224), ("W", 224)],
    "vit_tiny": [("N", 2), ("", 3), ("", 224), ("", 224)],
    "minilm": [("N", 2), ("S", 128)],
    "lstm": [("T", 128), ("N", 2), ("", 256)],
    "pointwise_chain": [("N", 64), ("M", 65536)],
}


@pytest.mark.parametrize("name", MODELS)
def test_open_sizes_fuse_as_fixed_ones_do(name: str, tmp_path: Path) -> None:
    fixed, opened = (_fused(name, tmp_path, is_open) for is_open in (False, True))
    assert len(opened.program.tensors) >= len(fixed.regions) > 0
    assert _kinds(opened) == _kinds(fixed)


def _kinds(fusion: Fusion) -> list[tuple[str, int]]:
    """Each region's kind, and how many computing primitives it has."""
    return [(region.kind, sum(t.prim is not None for t in region.tensors)) for region in fusion.regions]


def _fused(name: str, folder: Path, is_open: bool) -> Fusion:
    model = zoo.load(name)
    for value in model.graph.input:
        for d, (symbol, size) in zip(value.type.tensor_type.shape.dim, MODELS[name], strict=True):
            if symbol and is_open:
                d.dim_param = symbol
            elif symbol:
                d.dim_value = size
    path = folder / f"{name}.onnx"
    onnx.save(model, path)
    fusion: Fusion = run_stages(Job(path, CompileOptions()), stop_after="fuse").results["fuse"]
    return fusion
