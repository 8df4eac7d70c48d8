"""Export the zoo's well-known networks from PyTorch, strip their weights, write graphs/NAME.onnx.

Batch norm stays a node of its own (training=PRESERVE, no constant folding), the batch is symbolic, images are 224x224.
Three exports, for three looks a user's file can have:
  TorchScript exporter    resnet18, resnet50, mobilenet_v2, efficientnet_b0, vit_tiny
  torch.export, raw       resnet18_dynamo: every convolution gets a bias of zeros by Shape, Expand and CastLike
  torch.export, default   vit_tiny_dynamo: constants folded by the exporter

    pip install torch timm && python tests/zoo/export.py [NAME ...]
"""

from __future__ import annotations

import io
import sys
from pathlib import Path

import onnx
import timm
import torch

GRAPHS = Path(__file__).with_name("graphs")
OPSET = 18
MODELS = {  # name -> timm's name, exporter
    "resnet18": ("resnet18", "torchscript"),
    "resnet18_dynamo": ("resnet18", "raw"),
    "resnet50": ("resnet50", "torchscript"),
    "mobilenet_v2": ("mobilenetv2_100", "torchscript"),
    "efficientnet_b0": ("efficientnet_b0", "torchscript"),
    "vit_tiny": ("vit_tiny_patch16_224", "torchscript"),
    "vit_tiny_dynamo": ("vit_tiny_patch16_224", "default"),
}
NOTES_TO_KEEP = ("pkg.torch.onnx.name_scopes", "namespace")  # module paths; the others name files of this machine


def network(timm_name: str) -> torch.nn.Module:
    """The network with every parameter different: the exporter lets equal ones (all zeros, all ones) share a tensor."""
    torch.manual_seed(0)
    model = timm.create_model(timm_name, pretrained=False).eval()
    for tensor in model.state_dict().values():
        if tensor.is_floating_point():
            tensor.uniform_(0.5, 1.5)
    return model


def exported(model: torch.nn.Module, exporter: str) -> onnx.ModelProto:
    image = torch.zeros(2, 3, 224, 224)
    names = {"input_names": ["image"], "output_names": ["logits"], "opset_version": OPSET}
    if exporter != "torchscript":
        batch = ({0: torch.export.Dim("batch")},)
        program = torch.onnx.export(
            model, (image,), dynamo=True, optimize=exporter == "default", dynamic_shapes=batch, **names
        )
        return program.model_proto
    buffer = io.BytesIO()
    torch.onnx.export(
        model,
        (image,),
        buffer,
        dynamo=False,
        training=torch.onnx.TrainingMode.PRESERVE,
        do_constant_folding=False,
        dynamic_axes={"image": {0: "batch"}, "logits": {0: "batch"}},
        **names,
    )
    return onnx.load_from_string(buffer.getvalue())


def strip(model: onnx.ModelProto, parameters: set[str]) -> None:
    """Drop the values of all weights and every note but module paths; small constants of the exporter's own stay."""
    for tensor in model.graph.initializer:
        elements = 1
        for dim in tensor.dims:
            elements *= dim
        if tensor.data_type == onnx.TensorProto.FLOAT and (tensor.name in parameters or elements >= 64):
            tensor.ClearField("raw_data")
            tensor.ClearField("float_data")
    for node in model.graph.node:
        node.doc_string = ""
        kept = [prop for prop in node.metadata_props if prop.key in NOTES_TO_KEEP]
        del node.metadata_props[:]
        node.metadata_props.extend(kept)
    noted = [model, model.graph, *model.graph.initializer, *model.graph.value_info]
    for holder in [*noted, *model.graph.input, *model.graph.output]:
        del holder.metadata_props[:]
        holder.doc_string = ""


def main() -> None:
    for name in sys.argv[1:] or MODELS:
        timm_name, exporter = MODELS[name]
        model = network(timm_name)
        proto = exported(model, exporter)
        onnx.checker.check_model(proto)
        strip(proto, set(model.state_dict()))
        file = GRAPHS / f"{name}.onnx"
        file.write_bytes(proto.SerializeToString(deterministic=True))
        print(f"{name}: {len(proto.graph.node)} nodes, {file.stat().st_size} bytes")


if __name__ == "__main__":
    main()
