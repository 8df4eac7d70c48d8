"""PyTorch's forms of the zoo compute what the ONNX files do (where PyTorch and timm are installed)."""

from __future__ import annotations

import numpy as np
import onnxruntime
import pytest

import zoo

torch = pytest.importorskip("torch", reason="needs PyTorch")
pytest.importorskip("timm", reason="needs timm")


@pytest.mark.parametrize(
    "name", ["resnet18", "vgg11_bn", "mobilenet_v3_large", "convnext_atto", "vit_tiny", "minilm", "lstm"]
)
def test_torch_form_agrees(name: str) -> None:
    from zoo import torch_form

    model = zoo.load(name)
    inputs = zoo.inputs(model, batch=2)
    wanted = onnxruntime.InferenceSession(model.SerializeToString()).run(None, inputs)[0]
    with torch.no_grad():
        actual = torch_form.with_weights(name, model)(*map(torch.from_numpy, inputs.values())).numpy()
    np.testing.assert_allclose(actual, wanted, rtol=1e-3, atol=1e-4 * np.abs(wanted).max())
