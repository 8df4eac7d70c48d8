"""A model as a PyTorch module: the library's own where there is one, else converted from ONNX."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx

from graphfuse.errors import InputError, one_line

if TYPE_CHECKING:
    from graphfuse.bench.peers import Ready, Subject

PACKAGES = ("torch", "torchvision", "timm", "onnx2torch")

Module = Any  # torch.nn.Module, where torch may be missing


def version() -> str:
    import torch

    return str(torch.__version__).split("+")[0]


def prepare(subject: Subject, wrap: Callable[[Module], Module] = lambda module: module) -> Ready:
    """The module, wrapped, run once on tensors that share the inputs' memory; no gradients are kept.

    Raises InputError when the model has no form in PyTorch.
    """
    import torch

    from graphfuse.bench.peers import Ready

    torch.set_num_threads(subject.threads)
    torch.set_num_interop_threads(1)
    torch.set_grad_enabled(False)
    module = wrap(network(subject))
    tensors = [torch.from_numpy(np.array(array)) for array in subject.inputs.values()]
    module(*tensors)

    def outputs(found: Any) -> Mapping[str, np.ndarray[Any, Any]]:
        values = found if isinstance(found, tuple | list) else (found,)
        return {name: value.numpy().copy() for name, value in zip(subject.outputs, values, strict=True)}

    return Ready(lambda: module(*tensors), outputs)


def network(subject: Subject) -> Module:
    """The module in evaluation mode, with the model's weights. Raises InputError when there is none."""
    model = onnx.load(subject.model)
    if subject.torch_form:
        name, _, argument = subject.torch_form.partition(":")
        return importlib.import_module(name).with_weights(argument, model).eval()
    import onnx2torch

    constants_to_initializers(model.graph)
    try:
        return onnx2torch.convert(model).eval()
    except Exception as error:  # the converter raises whatever it stumbles over
        why = one_line(str(error) or type(error).__name__, 120)
        raise InputError("no PyTorch form", why=f"onnx2torch: {why}") from error


def constants_to_initializers(graph: onnx.GraphProto) -> None:
    """The converter looks for weights among initializers alone; some exporters write them as nodes."""
    constants = [node for node in graph.node if node.op_type == "Constant" and node.attribute[0].name == "value"]
    for node in constants:
        tensor = node.attribute[0].t
        tensor.name = node.output[0]
        graph.initializer.append(tensor)
        graph.node.remove(node)
