"""Export the zoo's well-known networks from PyTorch, strip their weights, write graphs/NAME.onnx.

Batch norm stays a node of its own (training=PRESERVE, no constant folding), the batch is symbolic, images are 224x224,
sentences 128 tokens.
Three exports, for three looks a user's file can have:
  TorchScript exporter    all others
  torch.export, raw       resnet18_dynamo: every convolution gets a bias of zeros by Shape, Expand and CastLike
  torch.export, default   vit_tiny_dynamo: constants folded by the exporter

    pip install torch timm && cd tests && python -m zoo.export [NAME ...]
"""

from __future__ import annotations

import io
import sys
from pathlib import Path

import onnx
import torch

from . import torch_form

GRAPHS = Path(__file__).with_name("graphs")
OPSET = 18
EXPORTERS = {"resnet18_dynamo": "raw", "vit_tiny_dynamo": "default"}
NAMES = (*torch_form.NAMES, *EXPORTERS)
IMAGE = torch.zeros(2, 3, 224, 224)
TOKENS = torch.ones(2, 128, dtype=torch.int64)
# name -> example inputs by name, name of the output; the others take an image to logits
FORMS: dict[str, tuple[dict[str, torch.Tensor], str]] = {
    "vgg11_bn": ({"image": IMAGE}, "features"),
    "minilm": ({"input_ids": TOKENS, "attention_mask": TOKENS}, "last_hidden_state"),
}
NOTES_TO_KEEP = ("pkg.torch.onnx.name_scopes", "namespace")  # module paths; the others name files of this machine


def network(name: str) -> torch.nn.Module:
    """The network with every parameter different: the exporter lets equal ones (all zeros, all ones) share a tensor."""
    torch.manual_seed(0)
    model = torch_form.module(name).eval()
    for tensor in model.state_dict().values():
        if tensor.is_floating_point():
            tensor.uniform_(0.5, 1.5)
    return model


def exported(name: str, model: torch.nn.Module) -> onnx.ModelProto:
    examples, result = FORMS.get(name, ({"image": IMAGE}, "logits"))
    args = tuple(examples.values())
    names = {"input_names": list(examples), "output_names": [result], "opset_version": OPSET}
    if exporter := EXPORTERS.get(name):
        batch = ({0: torch.export.Dim("batch")},)
        program = torch.onnx.export(
            model, args, dynamo=True, optimize=exporter == "default", dynamic_shapes=batch, **names
        )
        return program.model_proto
    buffer = io.BytesIO()
    torch.onnx.export(
        model,
        args,
        buffer,
        dynamo=False,
        training=torch.onnx.TrainingMode.PRESERVE,
        do_constant_folding=False,
        dynamic_axes={key: {0: "batch"} for key in (*examples, result)},
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
    for name in sys.argv[1:] or NAMES:
        model = network(name.removesuffix("_dynamo"))
        proto = exported(name, model)
        onnx.checker.check_model(proto)
        strip(proto, set(model.state_dict()))
        file = GRAPHS / f"{name}.onnx"
        file.write_bytes(proto.SerializeToString(deterministic=True))
        print(f"{name}: {len(proto.graph.node)} nodes, {file.stat().st_size} bytes")


if __name__ == "__main__":
    main()
