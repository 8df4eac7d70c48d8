"""Networks of the zoo as PyTorch modules: what export.py exports, and what PyTorch runs in comparisons."""

from __future__ import annotations

import numpy as np
import onnx
import torch
from onnx import numpy_helper

TIMM = {  # zoo name without the exporter's suffix -> timm's name
    "resnet18": "resnet18",
    "resnet50": "resnet50",
    "vgg11_bn": "vgg11_bn",
    "mobilenet_v2": "mobilenetv2_100",
    "mobilenet_v3_large": "mobilenetv3_large_100",
    "efficientnet_b0": "efficientnet_b0",
    "convnext_atto": "convnext_atto",
    "vit_tiny": "vit_tiny_patch16_224",
}
NAMES = (*TIMM, "minilm")


def module(name: str) -> torch.nn.Module:
    """The network as its library makes it, in evaluation mode; of vgg11_bn the features alone."""
    if name == "minilm":
        from .minilm import MiniLM

        return MiniLM().eval()
    import timm

    model = timm.create_model(TIMM[name], pretrained=False).eval()
    return model.features if name == "vgg11_bn" else model


def with_weights(name: str, model: onnx.ModelProto) -> torch.nn.Module:
    """The network with the weights of its exported form. Raises ValueError when a parameter has no initializer."""
    values = {tensor.name: tensor for tensor in model.graph.initializer}
    if name == "lstm":
        return _lstm({key: numpy_helper.to_array(value) for key, value in values.items()})
    network = module(name)
    state = network.state_dict()
    for key, tensor in state.items():
        if key.endswith("num_batches_tracked"):  # counts training steps
            continue
        if key not in values:
            raise ValueError(f"{name}: the parameter {key} is no initializer of the exported model")
        state[key] = torch.from_numpy(numpy_helper.to_array(values[key]).copy()).reshape(tensor.shape)
    network.load_state_dict(state)
    return network


class Hidden(torch.nn.Module):
    """A recurrent layer without its last state."""

    def __init__(self, layer: torch.nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layer(x)[0]


def _lstm(values: dict[str, np.ndarray]) -> torch.nn.Module:
    width = values["lstm.weight_hh"].shape[-1]
    layer = torch.nn.LSTM(values["lstm.weight_ih"].shape[-1], width)

    def reordered(value: np.ndarray) -> torch.Tensor:
        """ONNX stacks the gates as input, output, forget, cell; PyTorch as input, forget, cell, output."""
        gates = value.reshape(4, width, -1)
        return torch.from_numpy(gates[[0, 2, 3, 1]].reshape(value.shape).copy())

    bias_ih, bias_hh = np.split(values["lstm.bias"][0], 2)
    layer.load_state_dict(
        {
            "weight_ih_l0": reordered(values["lstm.weight_ih"][0]),
            "weight_hh_l0": reordered(values["lstm.weight_hh"][0]),
            "bias_ih_l0": reordered(bias_ih),
            "bias_hh_l0": reordered(bias_hh),
        }
    )
    return Hidden(layer.eval())
