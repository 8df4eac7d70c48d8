"""A graph of Dynamo's as a program of torch.export: weights become constants, sizes those of the tensors."""

from __future__ import annotations

import operator
import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.fx.traceback
from torch import nn

from graphfuse.errors import UnsupportedModelError
from graphfuse.importers.exported import Exported, changes_in_place, describe, quiet_exporter
from graphfuse.importers.exported_names import clean_path, find_operators
from graphfuse.torch.kept import digest_of

# What an argument of the graph is.
WEIGHT, TENSOR, SIZE, NUMBER = "weight", "tensor", "size", "number"

_DRAWS = "it draws random numbers, which torch's own generator goes on with; call .eval() for inference"
_TRAINS = "it takes its statistics from the batch, in training mode; call .eval() for inference"


@dataclass(frozen=True)
class Argument:
    """An argument of the graph. path: that of a weight in its module; axis: a size is that of this argument (number,
    axis); symbols: the dimensions of a tensor, text where they are open.
    """

    kind: str
    path: str = ""
    axis: tuple[int, int] = (0, 0)
    symbols: tuple[int | str, ...] = ()


@dataclass
class Piece:
    """A graph of Dynamo's. inputs: the numbers of the arguments that stay; results: what each result is."""

    graph: torch.fx.GraphModule
    arguments: list[Argument]
    results: list[tuple[str, Any]]

    @property
    def inputs(self) -> list[int]:
        return [k for k, argument in enumerate(self.arguments) if argument.kind in (TENSOR, NUMBER)]

    @property
    def weights(self) -> list[int]:
        return [k for k, argument in enumerate(self.arguments) if argument.kind == WEIGHT]

    def digest(self, args: Sequence[Any]) -> str:
        """A digest of the graph and of the weights among its arguments."""
        modules = [m for m in self.graph.modules() if isinstance(m, torch.fx.GraphModule)]
        texts = [module.code for module in modules]
        texts += [str((a.kind, a.path, a.axis, a.symbols)) for a in self.arguments]
        texts += [f"{args[k].dtype} {tuple(args[k].shape)}" for k in self.inputs if isinstance(args[k], torch.Tensor)]
        texts += [str(list((n.meta.get("nn_module_stack") or {}).values())) for m in modules for n in m.graph.nodes]
        own = {f"own {name}": tensor for name, tensor in self.graph.state_dict().items()}
        return digest_of(
            [*texts, str(self.results)], {**own, **{self.arguments[k].path: args[k] for k in self.weights}}
        )

    def export(self, args: Sequence[Any]) -> Any:
        """The program for these arguments. Raises UnsupportedModelError."""
        module = _Run(self, args)
        inputs = [args[k] for k in self.inputs]
        auto = torch.export.Dim.AUTO
        shapes = [_open(self.arguments[k], auto) for k in self.inputs]
        with torch.no_grad(), quiet_exporter():
            try:
                program = torch.export.export(module, (inputs,), dynamic_shapes=(shapes,), strict=False)
            except Exception as error:  # whatever torch's tracer raises
                raise UnsupportedModelError([("torch.export", "", describe(error))]) from error
        # Guards of Dynamo's own sources, which mean nothing here; Dynamo and the compiled model have theirs.
        program._guards_code = []
        self._check(program)
        return program

    def _check(self, program: Any) -> None:
        for node in program.graph.nodes:
            if _draws(node):
                name = find_operators(program).names.get((id(program.graph), node.name), node.name)
                raise UnsupportedModelError([(str(node.target), name, _DRAWS)])
            if str(node.target).startswith("aten.batch_norm") and node.args[5]:
                name = find_operators(program).names.get((id(program.graph), node.name), node.name)
                raise UnsupportedModelError([(str(node.target), name, _TRAINS)])
        names = [spec.arg.name for spec in program.graph_signature.input_specs if spec.kind.name == "USER_INPUT"]
        shapes = {n.name: getattr(n.meta.get("val"), "shape", ()) for n in program.graph.nodes if n.op == "placeholder"}
        for name, k in zip(names, self.inputs, strict=True):
            for axis, (size, symbol) in enumerate(zip(shapes[name], self.arguments[k].symbols, strict=True)):
                if isinstance(symbol, str) and isinstance(size, int):
                    reason = f"dimension {axis} is open in Dynamo's graph, and {size} in what torch.export makes of it"
                    raise UnsupportedModelError([("input", name, reason)])


def piece_of(graph: torch.fx.GraphModule, args: Sequence[Any]) -> Piece:
    """What the arguments and results of a graph of Dynamo's are. Raises UnsupportedModelError."""
    nodes = [node for node in graph.graph.nodes if node.op == "placeholder"]
    shapes = [_symbols(node, value) for node, value in zip(nodes, args, strict=True)]
    written = _written(graph)
    arguments = [_argument(node, value, shapes, written) for node, value in zip(nodes, args, strict=True)]
    piece = Piece(graph, arguments, _results(graph))
    _refuse_views(graph, nodes)
    return piece


class PieceSource(Exported):
    """A graph of Dynamo's with its arguments, exported when it is asked for."""

    format = "PyTorch"

    def __init__(self, piece: Piece, args: Sequence[Any], where: str) -> None:
        super().__init__(None, where)
        self._piece, self._args = piece, list(args)

    def load(self) -> Any:
        with torch._guards.tracing(None):
            program = self._piece.export(self._args)
        if written := _written_weights(program):
            reason = f"the graph writes to the weight {min(written)!r}, which was taken for a constant"
            raise UnsupportedModelError([("weight", min(written), reason)])
        return program


def _written_weights(program: Any) -> set[str]:
    if not changes_in_place(program):
        return set()
    with quiet_exporter():
        signature = program.run_decompositions({}).graph_signature
    return set(signature.buffers_to_mutate.values()) | set(getattr(signature, "parameters_to_mutate", {}).values())


class _Run(nn.Module):
    """Runs a piece on the arguments that stay; its weights are those of this module, at their old paths."""

    def __init__(self, piece: Piece, args: Sequence[Any]) -> None:
        super().__init__()
        object.__setattr__(self, "piece", piece)
        for k in piece.weights:
            _put(self, piece.arguments[k].path, args[k])

    piece: Piece

    def forward(self, inputs: Sequence[Any]) -> Any:
        piece = self.piece
        values: list[Any] = [None] * len(piece.arguments)
        for k, value in zip(piece.inputs, inputs, strict=True):
            values[k] = value
        for k, argument in enumerate(piece.arguments):
            if argument.kind == WEIGHT:
                values[k] = operator.attrgetter(argument.path)(self)
            elif argument.kind == SIZE:
                values[k] = values[argument.axis[0]].shape[argument.axis[1]]
        with torch.fx.traceback.preserve_node_meta():
            return torch.fx.Interpreter(piece.graph).run(*values)


def _put(module: nn.Module, path: str, tensor: torch.Tensor) -> None:
    *outer, name = path.split(".")
    for part in outer:
        if part not in module._modules:
            module.add_module(part, nn.Module())
        inner = module._modules[part]
        assert inner is not None
        module = inner
    if isinstance(tensor, nn.Parameter):
        module.register_parameter(name, tensor)
    else:
        module.register_buffer(name, tensor)


def _open(argument: Argument, auto: Any) -> Any:
    if argument.kind == NUMBER:
        return auto
    return {axis: auto for axis, symbol in enumerate(argument.symbols) if isinstance(symbol, str)}


def _symbols(node: torch.fx.Node, value: Any) -> tuple[int | str, ...]:
    known = node.meta.get("example_value")
    shape = known.shape if isinstance(known, torch.Tensor) else getattr(value, "shape", ())
    return tuple(int(d) if isinstance(d, int) else str(d) for d in shape)


def _written(graph: torch.fx.GraphModule) -> set[str]:
    """The arguments that the graph writes to: Dynamo's own run of it left a mark."""
    return {n.name for n in graph.graph.nodes if n.op == "placeholder" and _version(n.meta.get("example_value"))}


def _version(value: Any) -> int:
    return value._version if isinstance(value, torch.Tensor) and not value.is_inference() else 0


def _argument(
    node: torch.fx.Node, value: Any, shapes: Sequence[tuple[int | str, ...]], written: Collection[str]
) -> Argument:
    if isinstance(value, torch.Tensor):
        if value.device.type != "cpu":
            reason = f"it lies on {value.device}; graphfuse computes on the CPU"
            raise UnsupportedModelError([("input", node.name, reason)])
        static = isinstance(value, nn.Parameter) or getattr(value, "_dynamo_static_input_type", None) is not None
        if static and node.name not in written and not value.is_inference():
            return Argument(WEIGHT, path=_path(node))
        return Argument(TENSOR, symbols=_symbols(node, value))
    if isinstance(value, torch.SymInt | int):
        text = str(value)
        for k, shape in enumerate(shapes):
            if text in shape and isinstance(value, torch.SymInt):
                return Argument(SIZE, axis=(k, shape.index(text)))
        return Argument(NUMBER)
    raise UnsupportedModelError([("input", node.name, f"a {type(value).__name__} cannot be an input")])


def _path(node: torch.fx.Node) -> str:
    """The path of a weight: "layer1.0.conv1.weight"."""
    source = getattr(node.meta.get("grapharg"), "source", None)
    name = getattr(source, "name", "")
    name = name() if callable(name) else name
    path = clean_path(re.sub(r"\._(parameters|buffers)\b", "", str(name)))
    return path if re.fullmatch(r"\w+(\.\w+)*", path) else node.name


def _results(graph: torch.fx.GraphModule) -> list[tuple[str, Any]]:
    (outputs,) = next(node for node in reversed(graph.graph.nodes) if node.op == "output").args
    found: list[tuple[str, Any]] = []
    for value in outputs:
        known = value.meta.get("example_value") if isinstance(value, torch.fx.Node) else None
        if not isinstance(value, torch.fx.Node):
            found.append(("known", value))
        elif isinstance(known, torch.Tensor):
            found.append(("tensor", None))
        elif isinstance(known, torch.SymInt | int):
            found.append(("size", None))
        else:
            reason = f"a result of type {type(known).__name__}"
            raise UnsupportedModelError([(str(value.target), value.name, reason)])
    return found


def _refuse_views(graph: torch.fx.GraphModule, inputs: Sequence[torch.fx.Node]) -> None:
    """Refuse results that are views of an input: what writes to one has to reach the other."""
    (outputs,) = next(node for node in reversed(graph.graph.nodes) if node.op == "output").args
    storages = {_storage(node): node.name for node in inputs}
    for value in outputs:
        place = _storage(value) if isinstance(value, torch.fx.Node) else None
        if place is not None and place in storages:
            reason = f"a result is a view of the input {storages[place]}, and shares its memory"
            raise UnsupportedModelError([(str(value.target), value.name, reason)])


def _storage(node: torch.fx.Node) -> int | None:
    value = node.meta.get("example_value")
    try:
        return value.untyped_storage()._cdata if isinstance(value, torch.Tensor) else None
    except (NotImplementedError, RuntimeError):  # a tensor without storage
        return None


def _draws(node: torch.fx.Node) -> bool:
    """Whether an operator takes random numbers; dropout does in training only."""
    if torch.Tag.nondeterministic_seeded not in getattr(node.target, "tags", ()):
        return False
    schema = getattr(node.target, "_schema", None)
    names = [argument.name for argument in schema.arguments] if schema is not None else []
    for wanted in ("train", "training"):
        if wanted in names:
            place = names.index(wanted)
            given = node.args[place] if place < len(node.args) else node.kwargs.get(wanted, False)
            return bool(given)
    for wanted in ("dropout_p", "dropout"):
        if wanted in names:
            place = names.index(wanted)
            given = node.args[place] if place < len(node.args) else node.kwargs.get(wanted, 0.0)
            return bool(given)
    return True
