"""Sums over images behind a depthwise convolution: each line's is made by the kernel that computes the line."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest

from codegen.building import build, emitted, imported, parse
from codegen.sanitizing import build_sanitized, run_sanitized

GATE = """g (float[N, {c}, {h}, {w}] x, float[{c}, 1, {k}, {k}] weights, float[{c}] bias)
    => (float[N, {c}, {oh}, {ow}] y) {{
    c = Conv<pads = [{p}, {p}, {p}, {p}], strides = [{s}, {s}], group = {c}>(x, weights, bias)
    t = Sigmoid(c) a = Mul(c, t) m = GlobalAveragePool(a) r = Relu(m) y = Mul(a, r)
}}"""
MODELS = {
    "gate": GATE.format(c=40, h=13, w=17, k=3, p=1, s=1, oh=13, ow=17),
    "gate, stride": GATE.format(c=24, h=15, w=14, k=5, p=2, s=2, oh=8, ow=7),
    "gate, open sizes": GATE.format(c=20, h="H", w="W", k=3, p=1, s=1, oh="H", ow="W"),
    "gate, large window": GATE.format(c=5, h=9, w=30, k=13, p=6, s=1, oh=9, ow=30),
    "only the mean": """g (float[N, 17, 7, 9] x, float[17, 1, 3, 3] weights, float[17] bias) => (float[N, 17, 1, 1] y) {
        c = Conv<pads = [1, 1, 1, 1], group = 17>(x, weights, bias) r = Relu(c) y = GlobalAveragePool(r)
    }""",
    "without an activation": """g (float[N, 17, 7, 9] x, float[17, 1, 3, 3] weights, float[17] bias)
        => (float[N, 17, 7, 9] c, float[N, 17, 1, 1] y) {
        c = Conv<pads = [1, 1, 1, 1], group = 17>(x, weights, bias) y = GlobalAveragePool(c)
    }""",
    "means of lines": """g (float[N, 17, 7, 9] x, float[17, 1, 3, 3] weights, float[17] bias)
        => (float[N, 17, 7, 9] y) {
        axis = Constant<value = int64[1] {-1}>()
        c = Conv<pads = [1, 1, 1, 1], group = 17>(x, weights, bias) m = ReduceMean(c, axis) y = Sub(c, m)
    }""",
    "NCHW throughout": """g (float[N, 3, 7, 9] x, float[3, 1, 3, 3] weights, float[3] bias)
        => (float[N, 3, 7, 9] c, float[N, 3] y) {
        axes = Constant<value = int64[2] {2, 3}>()
        c = Conv<pads = [1, 1, 1, 1], group = 3>(x, weights, bias) y = ReduceMean<keepdims = 0>(c, axes)
    }""",
}  # fmt: skip


def with_weights(text: str) -> onnx.ModelProto:
    """The model with its second and third input made constant."""
    model = parse(text)
    random = np.random.default_rng(0)
    for port in list(model.graph.input)[1:]:
        shape = [d.dim_value for d in port.type.tensor_type.shape.dim]
        values = random.standard_normal(shape).astype(np.float32) / 2
        model.graph.initializer.append(onnx.numpy_helper.from_array(values, port.name))
        model.graph.input.remove(port)
    return model


def image(model: onnx.ModelProto) -> np.ndarray:
    sizes = {"N": 2, "H": 11, "W": 10}
    shape = [d.dim_value or sizes[d.dim_param] for d in model.graph.input[0].type.tensor_type.shape.dim]
    return np.random.default_rng(1).standard_normal(shape, dtype=np.float32)


@pytest.mark.parametrize("cpu", ["native", "x86_64_v3", "x86_64"])
def test_equals_onnxruntime_in_the_same_bits_on_any_number_of_threads(cpu: str, tmp_path: Path) -> None:
    models = {name: with_weights(text) for name, text in MODELS.items()}
    runners = build([emitted(imported(model, tmp_path), cpu) for model in models.values()])
    for (name, model), runner in zip(models.items(), runners, strict=True):
        x = image(model)
        session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
        wanted = session.run(None, {"x": x})
        alone = runner({"x": x})
        for a, b in zip(alone, wanted, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5, err_msg=name)
        for threads in (2, 3):
            again = runner({"x": x}, threads)
            assert [a.tobytes() for a in again] == [a.tobytes() for a in alone], f"{name}, {threads} threads"


@pytest.mark.parametrize("name", ["gate", "gate, stride", "gate, open sizes", "only the mean"])
def test_nothing_reads_the_image_again(name: str, tmp_path: Path) -> None:
    """The kernel of the convolution makes the sums of lines; what is left to sum up is one value for each line."""
    fusion = emitted(imported(with_weights(MODELS[name]), tmp_path)).fusion
    first, second = fusion.regions[:2]
    assert first.kind == "contraction"
    assert any(t.shape[3] == 1 for t in first.outputs)
    assert second.space[3] == 1


@pytest.mark.sanitize
def test_sanitizers_find_nothing(tmp_path: Path) -> None:
    for k, text in enumerate(MODELS.values()):
        folder = tmp_path / str(k)
        folder.mkdir()
        model = with_weights(text)
        made = emitted(imported(model, folder))
        program = build_sanitized(made.module, made.target, folder)
        assert np.isfinite(run_sanitized(program, made.module, [{"x": image(model)}], threads=2)[0][0]).all()
