"""The zoo's exported networks as PyTorch modules: what export.py exports, and what PyTorch runs in comparisons."""

from __future__ import annotations

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
    network = module(name)
    values = {tensor.name: tensor for tensor in model.graph.initializer}
    state = network.state_dict()
    for key, tensor in state.items():
        if key.endswith("num_batches_tracked"):  # counts training steps
            continue
        if key not in values:
            raise ValueError(f"{name}: the parameter {key} is no initializer of the exported model")
        state[key] = torch.from_numpy(numpy_helper.to_array(values[key]).copy()).reshape(tensor.shape)
    network.load_state_dict(state)
    return network
