"""The whole graph lowered to one tensor program: the input of fusion."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import onnx_ir as ir

from graphfuse.errors import UnsupportedModelError
from graphfuse.fusion.guards import Guard, collect_guards
from graphfuse.fusion.line_sums import split_sum
from graphfuse.graph.dims import Dim, measured, shape_of, symbol_named, symbols
from graphfuse.graph.dtypes import SUPPORTED
from graphfuse.graph.origins import label
from graphfuse.ops.measured import Measures, measured_sizes
from graphfuse.ops.registry import NotSupported, find, lower, missing
from graphfuse.ops.tensor import Body, Tensor

# Pixels that the height or width of an image is taken for where nobody says.
IMAGE = 320


Unsupported = tuple[str, str, str]
"""A node that cannot be lowered: its op, its name, the reason."""


@dataclass
class Program:
    """Tensors in topological order, and whose they are."""

    graph: ir.Graph
    tensors: list[Tensor] = field(default_factory=list)
    node_of: dict[Tensor, ir.Node] = field(default_factory=dict)
    of_value: dict[ir.Value, Tensor] = field(default_factory=dict)
    outputs: list[Tensor] = field(default_factory=list)
    guards: list[Guard] = field(default_factory=list)
    position: dict[Tensor, int] = field(default_factory=dict)
    consumers: dict[Tensor, list[Tensor]] = field(default_factory=dict)
    given: Mapping[str, int] = field(default_factory=dict)  # what the user says that sizes mostly are
    strict: bool = False  # narrow floats are rounded behind every node
    measures: Measures = field(default_factory=Measures)
    around: Program | None = None  # the program that this one is a body of
    rounds: tuple[Dim, ...] = ()  # the numbers of the iterations of the loops that it is a body of
    captured: dict[Tensor, Tensor] = field(default_factory=dict)  # tensors of `around` -> the leaves that they are here
    level: dict[Tensor, int] = field(default_factory=dict)  # see `_find_levels`
    sizes: dict[Tensor, list[str]] = field(default_factory=dict)  # names of the measured sizes that a tensor needs

    @property
    def one_item(self) -> dict[str, int]:
        """Sizes to reckon with: what the user gave; the height and width of an image are as they often are; symbols
        that lead an input's shape, and nothing else, are a batch, here of one item.
        """
        if self.around is not None:
            return self.around.one_item
        shapes = [self.of_value[v].shape for v in self.graph.inputs]
        inner = set(symbols(d for shape in shapes for d in shape[1:]))
        batch = {name: 1 for name in symbols(d for shape in shapes for d in shape[:1]) if name not in inner}
        image = dict.fromkeys(symbols(d for shape in shapes if len(shape) == 4 for d in shape[2:]), IMAGE)
        return {**image, **batch, **self.given}

    def is_output(self, tensor: Tensor) -> bool:
        return any(tensor is o for o in self.outputs)

    def is_kept(self, tensor: Tensor) -> bool:
        """Whether a tensor has to exist in memory: as an output, or because sizes are read from it."""
        return self.is_output(tensor) or tensor in self._read

    @cached_property
    def _read(self) -> set[Tensor]:
        return {s for t in self.sizes for s in self.sources(t)}

    def sources(self, tensor: Tensor) -> list[Tensor]:
        """The tensors of this program that set the measured sizes which a tensor needs."""
        found = dict.fromkeys(self.measures.tensor(name) for name in self.sizes.get(tensor, ()))
        return [t for t in found if t is not None]

    def constant(self, tensor: Tensor) -> np.ndarray | None:
        """The value of a leaf that is known at compile time."""
        if tensor.prim is not None or tensor.value is None:
            return None
        known = ir.convenience.get_const_tensor(tensor.value)
        return None if known is None else known.numpy()

    def name(self, tensor: Tensor) -> str:
        """The user's name for the node that computes a tensor, or for the graph value."""
        node = self.node_of.get(tensor)
        if node is not None:
            return label(node)
        return (tensor.value.name or "?") if tensor.value is not None else "?"


def lower_graph(
    graph: ir.Graph, where: str = "", given: Mapping[str, int] | None = None, strict: bool = False
) -> Program:
    """Lower every node. Raises UnsupportedModelError listing every node that can't be, with its reason.

    strict: narrow floats are rounded behind every node, see `ops/narrow.py`.
    """
    program = Program(graph, given=given or {}, strict=strict)
    unsupported: list[Unsupported] = []
    for value in graph.inputs:
        _add_leaf(program, value, unsupported)
    _lower_nodes(program, unsupported)
    if unsupported:
        raise UnsupportedModelError(
            unsupported, where=where, remedy="leave these nodes out of the model, or report them"
        )
    _complete(program)
    return program


@dataclass
class _Scope:
    """A program as its nodes of control flow see it, with the node that is being lowered."""

    program: Program
    node: ir.Node
    unsupported: list[Unsupported]

    @property
    def rounds(self) -> tuple[Dim, ...]:
        return self.program.rounds

    @property
    def is_outermost(self) -> bool:
        return self.program.around is None and self.node.graph is self.program.graph

    def body(self, graph: ir.Graph, inputs: Sequence[Tensor], number: Dim | None = None) -> Body:
        outer = self.program
        rounds = outer.rounds if number is None else (*outer.rounds, number)
        measures = outer.measures.of_body()
        program = Program(graph, strict=outer.strict, measures=measures, around=outer, rounds=rounds)
        for value, tensor in zip(graph.inputs, inputs, strict=True):
            program.of_value[value] = tensor
        found: list[Unsupported] = []
        for tensor in inputs:
            _own(program, tensor, self.node)
        _lower_nodes(program, found)
        if found or any(_operand(program, value) is None for value in graph.outputs):
            self.unsupported += found  # nothing found: what is given back was made around it, and is listed there
            raise _InBody
        _complete(program)
        used = {a for t in program.tensors for a in t.args} | set(program.outputs) | program._read
        captured = [leaf for leaf in program.captured.values() if leaf in used]
        return Body(program, program.outputs, captured, _sizes_from_around(program), frozenset(program.measures.own))

    def inline(self, graph: ir.Graph) -> list[Tensor]:
        for node in graph:
            _lower_node(self.program, node, self.unsupported)
        outputs = [_operand(self.program, value) for value in graph.outputs]
        if any(t is None for t in outputs):
            raise _InBody
        return [t for t in outputs if t is not None]


class _InBody(Exception):
    """Nodes in a body cannot be lowered; they are listed already."""


def _lower_nodes(program: Program, unsupported: list[Unsupported]) -> None:
    for value in program.graph.initializers.values():
        _add_leaf(program, value, unsupported)
    for node in program.graph:
        _lower_node(program, node, unsupported)


def _complete(program: Program) -> None:
    outputs = [_operand(program, value) for value in program.graph.outputs]
    program.outputs = [t for t in outputs if t is not None]
    _keep_live(program)
    _find_levels(program)
    program.guards = collect_guards(program.tensors, program.name)


def _sizes_from_around(program: Program) -> list[Dim]:
    """The measured sizes that a body computes with and does not measure."""
    names = {name for names in program.sizes.values() for name in names}
    names |= set(measured(*(d for t in program.outputs for d in t.shape)))
    names -= program.measures.own
    return [symbol_named(name) for name in sorted(names)]


def _operand(program: Program, value: ir.Value) -> Tensor | None:
    """The tensor of a value, which may stand in a graph around the program's; None where it could not be lowered."""
    found = program.of_value.get(value)
    if found is not None or program.around is None:
        return found
    outer = _operand(program.around, value)
    if outer is None:
        return None
    leaf = outer
    if outer.outer is not None or outer.prim is not None or program.constant(outer) is None:
        leaf = program.captured.setdefault(outer, Tensor(outer.shape, outer.dtype, None, value, outer=outer))
    program.of_value[value] = leaf
    return leaf


def _add_leaf(program: Program, value: ir.Value, unsupported: list[Unsupported]) -> None:
    if value in program.of_value:
        return
    constant = value.const_value
    if constant is not None:
        value.shape = value.shape or ir.Shape([d for d in constant.shape if isinstance(d, int)])
        value.dtype = value.dtype or constant.dtype
    if value.dtype is None or value.shape is None:
        unsupported.append(("Input", value.name or "?", "its shape or element type is not declared"))
        return
    if value.dtype not in SUPPORTED:
        kind = "strings" if value.dtype == ir.DataType.STRING else value.dtype.name.lower()
        unsupported.append(("Input", value.name or "?", f"its elements are {kind}, which are not supported"))
        return
    program.of_value[value] = Tensor(shape_of(value), value.dtype, None, value)


def _lower_node(program: Program, node: ir.Node, unsupported: list[Unsupported]) -> None:
    constant = node.op_type == "Constant" and node.domain in ("", "ai.onnx")
    if constant:
        value = node.outputs[0]
        value.const_value = ir.convenience.get_const_tensor(value)
        _add_leaf(program, value, unsupported)
        return
    inputs: list[Tensor | None] = []
    for operand in node.inputs:
        tensor = None if operand is None else _operand(program, operand)
        if operand is not None and tensor is None:
            # Its producer is unsupported and listed already; this node is too when there is no such op at all.
            if find(node) is None:
                unsupported.append((node.op_type, label(node), missing(node)))
            return
        inputs.append(tensor)
    known = len(program.measures.order)
    try:
        outputs = lower(node, inputs, program.measures, program.strict, _Scope(program, node, unsupported))
        _check_types(node, outputs)
    except _InBody:
        return
    except NotSupported as reason:
        unsupported.append((node.op_type, label(node), str(reason)))
        return
    for name in program.measures.order[known:]:
        source = program.measures.tensor(name)
        if source is not None:
            _own(program, source, node)
    for value, tensor in zip(node.outputs, outputs, strict=False):
        if tensor is not None:
            program.of_value[value] = tensor
            _own(program, tensor, node)


def _check_types(node: ir.Node, outputs: Sequence[Tensor | None]) -> None:
    for tensor in outputs:
        if tensor is not None and tensor.dtype not in SUPPORTED:
            raise NotSupported(f"element type {tensor.dtype.name.lower()} is not supported yet")


def _own(program: Program, tensor: Tensor, node: ir.Node) -> None:
    """Assign the tensors that this node added to the program to it, arguments first."""
    if tensor.prim is None or tensor in program.node_of:
        return
    stack: list[tuple[Tensor, bool]] = [(tensor, False)]
    while stack:
        t, ready = stack.pop()
        if t.prim is None or t in program.node_of:
            continue
        if ready:
            lines = split_sum(t)
            for made in [t] if lines is None else [lines, t]:
                program.node_of[made] = node
                program.tensors.append(made)
        else:
            stack.append((t, True))
            stack += [(a, False) for a in reversed(t.args)]


def _keep_live(program: Program) -> None:
    live: set[int] = set()
    stack = list(program.outputs)
    while stack:
        t = stack.pop()
        if id(t) in live:
            continue
        live.add(id(t))
        stack += t.args
        if program.measures.sources:
            program.sizes[t] = measured_sizes(t)
            stack += program.sources(t)
    program.tensors = [t for t in program.tensors if id(t) in live]
    program.position = {t: k for k, t in enumerate(program.tensors)}
    for t in program.tensors:
        for a in dict.fromkeys(t.args):
            program.consumers.setdefault(a, []).append(t)


def _find_levels(program: Program) -> None:
    """How many sizes in a row have to be read from memory before a tensor can be computed.

    Tensors of one level share kernels; those of a higher one wait for a size that a lower one computes.
    """
    for t in program.tensors:
        after = [program.level.get(s, 0) + 1 for s in program.sources(t)]
        program.level[t] = max([0, *after, *(program.level.get(a, 0) for a in t.args)])
