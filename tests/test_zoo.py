"""The zoo's own promises: signals neither explode nor fade, the same weights every time, nothing fused beforehand."""

from __future__ import annotations

from collections import Counter

import numpy as np
import onnx
import onnxruntime
import pytest

import zoo

MASKED = -1e30  # what an attention mask leaves of a score


def every_float_value(model: onnx.ModelProto) -> dict[str, np.ndarray]:
    """The model's values one by one, batch 2, by a session that also hands out what lies in between."""
    model.graph.output.extend(
        onnx.ValueInfoProto(name=name)
        for node in model.graph.node
        for name in node.output
        if name and name not in {output.name for output in model.graph.output}
    )
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(model.SerializeToString(), options)
    names = [output.name for output in session.get_outputs() if output.type == "tensor(float)"]
    return dict(zip(names, session.run(names, zoo.inputs(model, batch=2)), strict=True))


@pytest.mark.parametrize("name", zoo.NAMES)
def test_signals_keep_their_size(name: str) -> None:
    model = zoo.load(name)
    layers = {node.output[0] for node in model.graph.node if node.op_type in ("Conv", "Gemm", "MatMul", "Add")}
    outputs = {output.name for output in model.graph.output}
    for key, full in every_float_value(model).items():
        assert np.isfinite(full).all(), key
        if key in layers | outputs:
            value = full[full > MASKED]
            assert 1e-2 < value.std() < 1e2, f"{key}: standard deviation {value.std():.3g}"
        if key in outputs:  # a network that says the same of every image would hide what a wrong kernel did early on
            assert (full[0] - full[1]).std() > 0.01 * value.std()


@pytest.mark.parametrize("name", zoo.NAMES)
def test_a_seed_decides_the_weights(name: str) -> None:
    first, same, other = (zoo.load(name, seed).SerializeToString(deterministic=True) for seed in (0, 0, 1))
    assert first == same
    assert first != other


def test_a_file_is_what_load_gives() -> None:
    assert onnx.load(zoo.path("resnet18")) == zoo.load("resnet18")


@pytest.mark.parametrize(
    "name, batch_norms, adds",
    [
        ("resnet18", 20, 8),
        ("resnet18_dynamo", 20, 8),
        ("resnet50", 53, 16),
        ("vgg11_bn", 8, 0),
        ("mobilenet_v2", 52, 10),
        ("mobilenet_v3_large", 46, 10),
        ("efficientnet_b0", 49, 9),
    ],
)
def test_batch_norms_and_residual_adds_are_nodes(name: str, batch_norms: int, adds: int) -> None:
    counts = Counter(node.op_type for node in zoo.load(name).graph.node)
    assert counts["BatchNormalization"] == batch_norms
    assert counts["Add"] == adds


def test_repeated_blocks_has_a_thousand_nodes() -> None:
    assert len(zoo.load("repeated_blocks").graph.node) == 1001
