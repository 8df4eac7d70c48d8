"""Operators of onnxruntime in models: their shapes are known, and one that it counts among the standard's is read."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest

from graphfuse.importers.onnx import import_onnx
from ops.running import interpret

HEADER = '<ir_version: 8, opset_import: ["": 17, "com.microsoft": 1]>\n'
MODELS = {
    "a norm in the standard's domain": """
        g (float[B, S, 8] x, float[8] g) => (float[B, S, 8] y) {
            h = SimplifiedLayerNormalization<epsilon = 0.001>(x, g)
            y = Relu(h)
        }""",
    "shapes behind a fused operator": """
        g (float[B, S, 8] x, float[8] g) => (float[M, N] y) {
            h = com.microsoft.BiasGelu(x, g)
            p = com.microsoft.FusedMatMul<transB = 1, alpha = 0.5>(h, h)
            s = Shape(p)
            first = Constant<value_ints = [0]>()
            rest = Constant<value_ints = [-1]>()
            n = Gather(s, first)
            to = Concat<axis = 0>(n, rest)
            y = Reshape(p, to)
        }""",
}


@pytest.mark.parametrize("text", MODELS.values(), ids=MODELS)
def test_results(tmp_path: Path, text: str) -> None:
    path = tmp_path / "m.onnx"
    onnx.save(onnx.parser.parse_model(HEADER + text), path)
    imported = import_onnx(path)
    assert not imported.unknown
    rng = np.random.default_rng(0)
    inputs = {"x": rng.normal(size=(2, 3, 8)).astype(np.float32), "g": rng.normal(size=8).astype(np.float32)}
    (wanted,) = ort.InferenceSession(str(path), providers=["CPUExecutionProvider"]).run(None, inputs)
    (actual,) = interpret(imported.model, inputs, {"B": 2, "S": 3})
    np.testing.assert_allclose(actual, wanted, rtol=1e-5, atol=1e-6)
