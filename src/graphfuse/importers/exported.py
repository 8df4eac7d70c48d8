"""Programs of torch.export -> onnx_ir, by torch's own exporter, under the names of the user's modules."""

from __future__ import annotations

import copy
import dataclasses
import io
import logging
import re
import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, redirect_stderr
from functools import cached_property
from typing import Any

import onnx
import onnx_ir as ir
import onnx_ir.passes.common as passes

from graphfuse.errors import InputError, UnsupportedModelError, one_line
from graphfuse.graph.origins import DRESSING, set_origins
from graphfuse.importers.common import Imported, StateVariable
from graphfuse.importers.draws import redraw
from graphfuse.importers.exported_names import Operators, find_operators, operators_of, output_names, symbol_names
from graphfuse.importers.exported_operators import translations
from graphfuse.importers.source import Converted
from graphfuse.importers.spelling import Spelled

_SCOPES = "pkg.torch.onnx.name_scopes"
_CHANGED = ".changed"
_OPSET = 23  # the newest that the exporter has forms of operators for
# The operators among those that are younger than what it says of itself, and the opsets that have them.
_INTRODUCED = {"Gelu": 20, "GroupNormalization": 21, "RMSNormalization": 23, "RotaryEmbedding": 23, "Attention": 23}
_FREE_FROM = 2
_LARGE = 65536  # elements from which a weight is left out of a model that is only looked at


def require_torch(what: str) -> Any:
    """The package torch. Raises InputError, which says what to install, where there is none."""
    try:
        import torch
    except ImportError as error:
        remedy = "install it: pip install 'graphfuse[torch]'"
        raise InputError(f"{what} needs PyTorch, which is not installed", remedy=remedy) from error
    return torch


class Exported(Converted):
    """A program of torch.export, in memory or read from a file.

    program: a torch.export.ExportedProgram; every input that is a tensor is an input of the graph, every output that is
    one an output, in the program's order; then come the new values of inputs that the program changes in place. Sizes
    among inputs and outputs are int64 scalars. Numbers, texts and None are part of the program.
    """

    format = "torch.export"

    def __init__(self, program: Any, where: str = "the exported program", path: Any = None) -> None:
        super().__init__(where, path)
        self._program = program

    @cached_property
    def program(self) -> Any:
        """The torch.export.ExportedProgram."""
        return self.load()

    def load(self) -> Any:
        """The same, got for the first time. Raises ModelFileError."""
        return self._program

    @cached_property
    def runnable(self) -> Any:
        """The nn.Module that computes the same in torch."""
        return self.program.module()

    def run(self, tensors: Sequence[Any]) -> list[Any]:
        """What torch computes for the inputs that are tensors or sizes: the outputs that are, and what it changed."""
        from torch.utils import _pytree as pytree

        specs = [s for s in self.program.graph_signature.input_specs if s.kind.name == "USER_INPUT"]
        given = iter(tensors)
        leaves = [s.arg.value if hasattr(s.arg, "value") else next(given) for s in specs]
        leaves = [_as_number(leaf, s) for leaf, s in zip(leaves, specs, strict=True)]
        args, kwargs = pytree.tree_unflatten(leaves, self.program.call_spec.in_spec)
        outputs = pytree.tree_leaves(self.runnable(*args, **kwargs))
        wanted = [s for s in self.program.graph_signature.output_specs if s.kind.name == "USER_OUTPUT"]
        found = [value for value, s in zip(outputs, wanted, strict=True) if not hasattr(s.arg, "value")]
        inputs = {s.arg.name: leaf for s, leaf in zip(specs, leaves, strict=True)}
        changed = changed_inputs(value.name or "" for value in self.converted.model.graph.outputs)
        return [*found, *(inputs[name] for name in changed)]

    def convert(self) -> Spelled:
        torch = require_torch("a program of torch.export")
        program = self.program
        operators = find_operators(program)
        with quiet_exporter():
            try:
                exported = _translate(torch, _without_known(torch, program))
            except torch.onnx.errors.OnnxExporterError as error:
                raise _refusal(error, operators, self.where) from error
        model, decomposed = exported.model, exported.exported_program
        for node in list(model.graph):
            _leave_out_zeros(node)
        states = _set_ports(model, program, decomposed)
        passes.RemoveUnusedNodesPass()(model)  # results of torch's operators that nobody reads
        _carry_origins(model, decomposed, operators)
        return Spelled(model, operators.types, (*states, *redraw(model)))

    def read(self) -> Imported:
        imported = super().read()
        names = symbol_names(self.program)
        ranges: dict[str, tuple[int, int | None]] = {}
        for symbol, limits in self.program.range_constraints.items():
            name = names.get(str(symbol), str(symbol))
            imported.ledger.note("import", name, f"exported for sizes from {limits.lower} to {limits.upper}")
            least, most = int(limits.lower), int(limits.upper) if limits.upper.is_Integer else None
            # As in torch's own check: what is said to be 2 or more may be 0 or 1 as well.
            if least > _FREE_FROM or most is not None:
                ranges[name] = (least if least > _FREE_FROM else 0, most)
        imported.ranges = ranges
        return imported

    def proto(self, weights: bool = False) -> onnx.ModelProto:
        model = self.converted.model
        if weights:
            return ir.to_proto(model)
        model = model.clone()
        for value in model.graph.initializers.values():
            if value.const_value is not None and value.const_value.size > _LARGE:
                value.const_value = _hollow(value.const_value)
        return ir.to_proto(model)


def _without_known(torch: Any, program: Any) -> Any:
    """The program without outputs that are plain values, known already, which torch's exporter takes for tensors."""
    (outputs,) = program.graph.output_node().args
    if all(value is None or isinstance(value, torch.fx.Node) for value in outputs):
        return program
    graph = torch.fx.Graph()
    kept: dict[Any, Any] = {}
    graph.graph_copy(program.graph, kept)
    graph.output(tuple(kept[value] if isinstance(value, torch.fx.Node) else None for value in outputs))
    shorter = copy.copy(program)
    shorter._graph_module = torch.fx.GraphModule(program.graph_module, graph)
    shorter._graph_module.meta.update(program.graph_module.meta)
    return shorter


def _translate(torch: Any, program: Any) -> Any:
    """torch's exporter's result, an ONNXProgram."""
    signature = program.graph_signature
    if not (signature.buffers_to_mutate or signature.user_inputs_to_mutate or changes_in_place(program)):
        return torch.onnx.export(
            program, dynamo=True, optimize=False, verbose=False, opset_version=_OPSET,
            custom_translation_table=translations(torch),
        )  # fmt: skip
    # The public function drops what a program changes in place.
    from torch.onnx._internal.exporter import _core, _registration

    registry = _registration.ONNXRegistry.from_torchlib(opset_version=_OPSET)
    for operator, spell in translations(torch).items():
        registry.register_op(operator, spell)
    exported = _core.export(program, registry=registry, optimize=False, verbose=False)
    graphs = [exported.model.graph, *(function.graph for function in exported.model.functions.values())]
    newest = max((_INTRODUCED.get(node.op_type, 0) for graph in graphs for node in graph), default=0)
    for graph in graphs:
        graph.opset_imports[""] = max(newest, graph.opset_imports.get("", 0))
    return exported


def changes_in_place(program: Any) -> bool:
    """Whether an operator writes to an argument: a program as it was traced says so in its operators alone."""
    targets = [node.target for node in program.graph.nodes if node.op == "call_function"]
    return any(getattr(getattr(target, "_schema", None), "is_mutable", False) for target in targets)


def _hollow(tensor: ir.TensorProtocol) -> ir.ExternalTensor:
    """The type and shape of a tensor, its elements in a file that there is not."""
    shape = ir.Shape(tensor.shape.numpy())
    return ir.ExternalTensor("weights", 0, tensor.nbytes, tensor.dtype, shape=shape, name=tensor.name or "")


@contextmanager
def quiet_exporter() -> Iterator[None]:
    """Keep what torch logs, warns and prints off the terminal: what matters of it is said by errors."""
    names = ("torch.onnx", "torch.onnx._internal.exporter", "torch.export", "torch.fx.experimental.symbolic_shapes")
    loggers = [logging.getLogger(name) for name in names]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings(), redirect_stderr(io.StringIO()):  # it prints whole graphs there
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def _refusal(error: BaseException, operators: Operators, where: str) -> UnsupportedModelError:
    """What the exporter lacks, under the user's names."""
    reasons = []
    cause: BaseException | None = error
    while cause is not None:
        reasons.append(str(cause))
        cause = cause.__cause__
    found = re.search(r"No ONNX function found for <OpOverload\(op='([\w.]+)'", "\n".join(reasons))
    remedy = "write it with torch's own operators, or leave it out of what is compiled"
    if found is None:
        lines = [line for line in reasons[-1].splitlines() if line.strip()]
        return UnsupportedModelError([("torch.export", where, lines[-1] if lines else "")], where=where, remedy=remedy)
    wanted = found[1]
    space = wanted.partition(".")[0]
    others = [] if space in ("aten", "prims") else [n for n, t in operators.types.items() if t.startswith(f"{space}.")]
    names = [name for name, op_type in operators.types.items() if op_type == wanted] or others
    why = "torch's exporter knows no form of it in ONNX's operators"
    nodes = [(operators.types[name], name, why) for name in dict.fromkeys([*names, *others])]
    return UnsupportedModelError(nodes or [(wanted, where, why)], where=where, remedy=remedy)


def _carry_origins(model: ir.Model, decomposed: Any, operators: Operators) -> None:
    """Make one node of each group that spells an operator of the user's stand for it."""
    bodies = {"": model.graph, **{function.name: function.graph for function in model.functions.values()}}
    for name, module in decomposed.graph_module.named_modules(remove_duplicate=False):
        graph = bodies.get(name.replace(".", "__"))
        if graph is None:
            continue
        owners = operators_of(module.graph, operators)
        groups: dict[str, list[ir.Node]] = {}
        for node in graph:
            owner = owners.get(_fx_name(node))
            if owner is not None:
                groups.setdefault(owner, []).append(node)
        for owner, nodes in groups.items():
            set_origins(_worker(nodes), [owner])


def _fx_name(node: ir.Node) -> str:
    """The FX node that an ONNX node comes from: the last of its scopes."""
    text = node.metadata_props.get(_SCOPES, "")
    return text.rpartition(", ")[2].strip("[]'\"") if text else ""


def _worker(nodes: list[ir.Node]) -> ir.Node:
    real = [node for node in nodes if node.op_type != "Constant"] or nodes
    return next((node for node in reversed(real) if node.op_type not in DRESSING), real[-1])


def _leave_out_zeros(node: ir.Node) -> None:
    """Drop the bias of zeros, computed at run time, that the exporter gives a convolution without one."""
    if node.op_type not in ("Conv", "ConvTranspose") or len(node.inputs) < 3:
        return
    chain = [node.inputs[2]]
    for op_type in ("Expand", "CastLike", "Constant"):
        maker = chain[-1].producer() if chain[-1] is not None else None
        if maker is None or maker.op_type != op_type:
            return
        chain.append(maker.inputs[0] if maker.inputs else None)
    known = ir.convenience.get_const_tensor(chain[2]) if chain[2] is not None else None
    if known is not None and not known.numpy().any():
        node.replace_input_with(2, None)


# ---------------------------------------------------------------- inputs, outputs, states


def _set_ports(model: ir.Model, program: Any, decomposed: Any) -> list[StateVariable]:
    """Names of dimensions and outputs, the states, and what the program changes in place."""
    graph, signature = model.graph, decomposed.graph_signature
    made: dict[str | None, ir.Value] = {value.name: value for node in graph for value in node.outputs}
    made.update((value.name, value) for value in (*graph.inputs, *graph.initializers.values()))
    names = symbol_names(program)
    for value in graph.inputs:
        if value.shape is not None:
            value.shape = ir.Shape([d if isinstance(d, int) else names.get(str(d.value), d.value) for d in value.shape])
    outputs = list(graph.outputs)
    wanted = output_names(program, len(outputs))
    for name, target in signature.user_inputs_to_mutate.items():
        outputs.append(made[name])
        wanted.append(f"{target}{_CHANGED}")
    states = []
    for name, target in signature.buffers_to_mutate.items():
        initial = graph.initializers.pop(target)
        assert initial.const_value is not None
        array = initial.const_value.numpy().copy()
        initial.const_value = None
        graph.inputs.append(initial)
        outputs.append(made.get(name, initial))
        wanted.append(f"{target}.next")
        states.append(StateVariable(target, f"{target}.next", array))
    graph.outputs.clear()
    graph.outputs.extend(_owned(graph, outputs, wanted))
    return [
        dataclasses.replace(state, output=value.name or "")
        for state, value in zip(states, graph.outputs[len(outputs) - len(states) :], strict=True)
    ]


def _owned(graph: ir.Graph, outputs: Iterable[ir.Value], names: Iterable[str]) -> list[ir.Value]:
    """The outputs under these names, each a value of its own that a node makes; copies where need be."""
    inner = {value.name: value for node in graph for value in node.outputs}
    taken = {value.name for value in graph.inputs} | set(graph.initializers)
    owned: list[ir.Value] = []
    for value, wanted in zip(outputs, names, strict=True):
        name = next(n for n in _numbered(wanted) if n not in taken)
        if inner.get(name, value) is not value:
            inner[name].name = next(n for n in _numbered(f"{name}:value") if n not in inner)
        if value.producer() is None or value in owned:
            copy = ir.node("Identity", [value], name=f"{name}:Identity")
            graph.append(copy)
            copy.outputs[0].type, copy.outputs[0].shape = value.type, value.shape
            value = copy.outputs[0]
        value.name = name
        taken.add(name)
        owned.append(value)
    return owned


def _numbered(name: str) -> Iterator[str]:
    yield name
    k = 2
    while True:
        yield f"{name}_{k}"
        k += 1


def _as_number(leaf: Any, spec: Any) -> Any:
    return int(leaf) if type(spec.arg).__name__ == "SymIntArgument" else leaf


def changed_inputs(outputs: Iterable[str]) -> list[str]:
    """The inputs that a program changes in place, by the names of the outputs that hold their new values."""
    return [name.partition(_CHANGED)[0] for name in outputs if _CHANGED in name]


def describe(error: BaseException) -> str:
    """An error of torch's in one line: its first, without the advice that follows."""
    lines = [line for line in str(error).splitlines() if line.strip()]
    if lines and "data-dependent" in lines[0].lower():
        return "a branch, a loop or a number in Python depends on the values of a tensor, known only when it runs"
    return one_line(f"{type(error).__name__}: {lines[0] if lines else ''}", 300)
