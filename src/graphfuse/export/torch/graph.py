"""The walk: every node of a graph as calls of PyTorch, recorded by torch.fx, weights as parameters of the module."""

from __future__ import annotations

import importlib
import pkgutil
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import torch
from torch import fx, nn

from graphfuse.errors import UnsupportedModelError
from graphfuse.export.torch.call import Call, Refused, registered, torch_dtype
from graphfuse.export.torch.names import Names, identifier, module_path, weight_path
from graphfuse.export.torch.sizes import ON_SIZES, Array, Size, as_sizes, raw
from graphfuse.graph.lists import results
from graphfuse.graph.origins import label
from graphfuse.importers.torch_tensors import to_tensor

REMEDY = "export it --to onnx, which has every operator of the standard, or compile it"
# Arrays of no more elements that nothing but arithmetic reads are numbers of the code or buffers, not parameters.
_PARAMETER = 2


def supported() -> tuple[str, ...]:
    """The operators that can be written in PyTorch, by name."""
    for info in pkgutil.iter_modules([str(Path(__file__).parent)]):
        if info.name.startswith("ops_"):
            importlib.import_module(f"{__package__}.{info.name}")
    return tuple(sorted({*registered(), "Constant", "Shape", "Size", "Identity"}))


def module_of(model: ir.Model, where: str = "") -> fx.GraphModule:
    """The graph of a model at OPSET as a module: tensors in by position, its output or a tuple of them out.

    Lists stay lists. Weights are parameters, named by their modules' paths; other arrays are buffers. The module is in
    evaluation mode. Raises UnsupportedModelError, which lists every node that cannot be written and why.
    """
    supported()
    writer = Writer(model.graph)
    refused = []
    for node in model.graph:
        try:
            writer.write(node)
        except (Refused, fx.proxy.TraceError) as reason:
            text = str(reason) if isinstance(reason, Refused) else "what it computes depends on a size of the input"
            refused.append((node.op_type, label(node), text))
            writer.give_up(node)
    if refused:
        raise UnsupportedModelError(refused, where=where, remedy=REMEDY, task="exported to PyTorch")
    return writer.finish(where, results(model))


class Writer:
    """A module in the making. root: holds parameters and modules; values: what stands for each value of the graph."""

    def __init__(self, graph: ir.Graph) -> None:
        self.root, self._graph, self._names = nn.Module(), graph, Names()
        self._code = fx.Graph()
        self.tracer = fx.proxy.GraphAppendingTracer(self._code)
        self._values: dict[ir.Value, Any] = {}
        self._sizes: dict[ir.Value, Array] = {}
        self._dims: dict[str, Size] = {}
        self._done: set[ir.Node] = set()
        self._sum_of: dict[ir.Node, ir.Node] = {}  # a node -> the Add that is written together with it
        for value in graph.inputs:
            name = identifier(value.name or "", "x")
            self._values[value] = self.tracer.create_proxy("placeholder", name, (), {})

    def write(self, node: ir.Node) -> None:
        """Write one node. Raises Refused."""
        if node in self._done or self._on_sizes(node):
            return
        function = registered().get(node.op_type)
        if function is None:
            raise Refused("it is not in the table of operators that PyTorch is known to have")
        for value in (*node.inputs, *node.outputs):
            if value is not None and value.dtype is not None:
                torch_dtype(value.dtype)
        result = function(Call(self, node))
        outputs = result if isinstance(result, tuple) else (result,)
        for value, proxy in zip(node.outputs, outputs, strict=False):
            if proxy is not None:
                self._values[value] = proxy
        if node in self._sum_of:
            self._values[self._sum_of[node].outputs[0]] = self._values[node.outputs[0]]

    def give_up(self, node: ir.Node) -> None:
        """Go on behind a node that was refused, to find the others."""
        for value in node.outputs:
            self._values.setdefault(value, self.tracer.create_proxy("placeholder", "refused", (), {}))

    def finish(self, name: str, rows: Mapping[str, Sequence[str] | None]) -> fx.GraphModule:
        """The module, without what nobody reads. rows: how its results are lists, see `lists.results`."""
        tensors = {value.name or "": self.tensor(value) for value in self._graph.outputs}
        outputs = tuple(
            tensors[each] if names is None else [tensors[name] for name in names]
            for each, names in (rows or dict.fromkeys(tensors)).items()
        )
        self.tracer.create_proxy("output", "output", (outputs[0] if len(outputs) == 1 else outputs,), {})
        title = re.sub(r"\W", "", Path(name).stem.title()) or "Model"
        module = fx.GraphModule(self.root, self._code, title if title.isidentifier() else f"Model{title}")
        module.graph.eliminate_dead_code()
        module.graph.lint()
        module.delete_all_unused_submodules()
        module.recompile()
        return module.eval()

    # -- values -----------------------------------------------------------------------------------------------------

    def constant(self, value: ir.Value) -> Array | None:
        """The value where it is known now."""
        if value in self._graph.inputs:
            return None
        tensor = value.const_value
        node = value.producer()
        if tensor is None and node is not None and node.op_type == "Constant":
            tensor = ir.convenience.get_const_tensor(value)
        if tensor is None:
            found = self._sizes.get(value)
            if found is None or any(isinstance(v, Size) for v in found.reshape(-1)):
                return None
            return found.astype(value.dtype.numpy() if value.dtype else np.int64)
        return tensor.numpy()

    def tensor(self, value: ir.Value) -> Any:
        """What stands for a value, as a tensor."""
        if value in self._values:
            return self._values[value]
        if value in self._sizes:
            proxy = self._from_sizes(value, self._sizes[value])
        else:
            array = self.constant(value)
            if array is None:
                raise Refused("an operand of it is not written")
            proxy = self._weight(value, array)
        self._values[value] = proxy
        return proxy

    def _from_sizes(self, value: ir.Value, sizes: Array) -> Any:
        values = raw(sizes) if sizes.ndim else raw(sizes.reshape(1))[0]
        dtype = torch_dtype(value.dtype)
        return self.tracer.create_proxy("call_function", torch.tensor, (values,), {"dtype": dtype})

    def sizes(self, value: ir.Value) -> Array | None:
        """A value as integers that are known, or that the module takes from sizes of its inputs."""
        if value in self._sizes:
            return self._sizes[value]
        array = self.constant(value)
        if array is None or array.dtype.kind not in "iu":
            return None
        return array.astype(object)

    def size(self, value: ir.Value, axis: int) -> Any:
        """One size of a value: known, or that of the first tensor found to have it."""
        d = value.shape[axis] if value.shape is not None else None
        if isinstance(d, int):
            return d
        name = str(d)
        if d is None or name == "None":
            return Size(self.tensor(value).size(axis))
        if name not in self._dims:
            found = [(v, k) for v in self._graph.inputs if v.shape for k, e in enumerate(v.shape) if str(e) == name]
            source, k = found[0] if found else (value, axis)
            self._dims[name] = Size(self.tensor(source).size(k))
        return self._dims[name]

    def _on_sizes(self, node: ir.Node) -> bool:
        """Compute a node that only concerns sizes now; whether it was one."""
        out = node.outputs[0]
        if node.op_type == "Constant":
            return True
        if node.op_type in ("Shape", "Size"):
            value = node.inputs[0]
            if value is None or value.shape is None:
                raise Refused("the rank of its operand is known only at run time")
            all_sizes = as_sizes([self.size(value, k) for k in range(len(value.shape))])
            start, end = (node.attributes.get(name) for name in ("start", "end"))
            part = all_sizes[start.value if start else None : end.value if end else None]
            self._sizes[out] = part if node.op_type == "Shape" else np.asarray(np.multiply.reduce(part), object)
            return True
        if node.op_type == "Cast" and out.dtype in (ir.DataType.INT64, ir.DataType.INT32):
            found = self._sizes.get(node.inputs[0]) if node.inputs[0] is not None else None
            if found is not None:
                self._sizes[out] = found
            return found is not None
        function = ON_SIZES.get(node.op_type)
        given = [self.sizes(value) if value is not None else None for value in node.inputs]
        if function is None or not any(v in self._sizes for v in node.inputs if v is not None):
            return False
        if any(v is not None and s is None for v, s in zip(node.inputs, given, strict=True)):
            return False
        self._sizes[out] = np.asarray(function({a.name: a.value for a in node.attributes.values()}, *given), object)
        return True

    # -- modules, parameters, buffers -------------------------------------------------------------------------------

    def _weight(self, value: ir.Value, array: Array) -> Any:
        """A parameter or buffer under its own name."""
        dtype = torch_dtype(value.dtype)
        if array.size <= _PARAMETER and array.ndim <= 1 and array.dtype.kind in "iub":
            values = array.tolist()
            return self.tracer.create_proxy("call_function", torch.tensor, (values,), {"dtype": dtype})
        trains = dtype.is_floating_point and array.size > 1 and bool(np.isfinite(array).all())
        return self._hold(array, weight_path(value.name or "weight"), trains)

    def buffer(self, array: Array, node: ir.Node, name: str) -> Any:
        """A tensor of fixed values that belongs to a node."""
        return self._hold(array, f"{module_path(label(node), node.op_type, '')}.{name}", False)

    def _hold(self, array: Array, wanted: str, trains: bool) -> Any:
        path = self._names.fresh(wanted)
        *parents, name = path.split(".")
        place = self._place(parents)
        tensor = to_tensor(np.array(array, order="C"))
        if trains:
            place.register_parameter(name, nn.Parameter(tensor))
        else:
            place.register_buffer(name, tensor)
        return self.tracer.create_proxy("get_attr", path, (), {})

    def _place(self, parents: Sequence[str]) -> nn.Module:
        place = self.root
        for part in parents:
            if part not in place._modules:
                place.add_module(part, nn.Module())
            place = place.get_submodule(part)
        return place

    def module(
        self, module: nn.Module, node: ir.Node, weight: str, args: Sequence[Any], weights: dict[str, Array | None]
    ) -> Any:
        """A call of a module that takes over the weights."""
        path = self._names.fresh(module_path(label(node), node.op_type, weight))
        with torch.no_grad():
            for name, array in weights.items():
                if array is not None:
                    module.get_parameter(name).copy_(to_tensor(np.array(array, order="C")))
        *parents, name = path.split(".")
        self._place(parents).add_module(name, module)
        return self.tracer.create_proxy("call_module", path, tuple(args), {})

    def bias_behind(self, node: ir.Node, length: int) -> Array | None:
        """The bias that the only reader of a node adds; that reader is then written, too."""
        [*uses] = node.outputs[0].uses()
        if len(uses) != 1 or node.outputs[0].is_graph_output() or uses[0].node.op_type != "Add":
            return None
        add = uses[0].node
        other = add.inputs[1 - uses[0].idx]
        if other is None or len(other.uses()) != 1 or other.is_graph_output() or add.graph is not node.graph:
            return None
        bias = self.constant(other)
        if bias is None or bias.shape != (length,):
            return None
        self._done.add(add)
        self._sum_of[node] = add
        return bias
