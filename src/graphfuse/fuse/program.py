"""The whole graph lowered to one tensor program: the input of fusion."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import onnx_ir as ir

from graphfuse.errors import UnsupportedModelError
from graphfuse.fuse.guards import Guard, collect_guards
from graphfuse.fuse.line_sums import split_sum
from graphfuse.graph.dims import shape_of, symbols
from graphfuse.graph.dtypes import SUPPORTED
from graphfuse.graph.origins import label
from graphfuse.ops.measured import Measures, measured_sizes
from graphfuse.ops.registry import NotSupported, find, lower, missing
from graphfuse.ops.tensor import Tensor

# Pixels that the height or width of an image is taken for where nobody says.
IMAGE = 320


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
    level: dict[Tensor, int] = field(default_factory=dict)  # see `_find_levels`
    sizes: dict[Tensor, list[str]] = field(default_factory=dict)  # names of the measured sizes that a tensor needs

    @property
    def one_item(self) -> dict[str, int]:
        """Sizes to reckon with: what the user gave; the height and width of an image are as they often are; symbols
        that lead an input's shape, and nothing else, are a batch, here of one item.
        """
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
        return {self.measures.sources[name].tensor for names in self.sizes.values() for name in names}

    def sources(self, tensor: Tensor) -> list[Tensor]:
        """The tensors of this program that set the measured sizes which a tensor needs."""
        found = (self.measures.sources[name].tensor for name in self.sizes.get(tensor, ()))
        return list(dict.fromkeys(t for t in found if t in self.position))

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
    unsupported: list[tuple[str, str, str]] = []
    for value in graph.inputs:
        _add_leaf(program, value, unsupported)
    for value in graph.initializers.values():
        _add_leaf(program, value, unsupported)
    for node in graph:
        _lower_node(program, node, unsupported)
    if unsupported:
        raise UnsupportedModelError(
            unsupported, where=where, remedy="leave these nodes out of the model, or report them"
        )
    program.outputs = [program.of_value[value] for value in graph.outputs]
    _keep_live(program)
    _find_levels(program)
    program.guards = collect_guards(program.tensors, program.name)
    return program


def _add_leaf(program: Program, value: ir.Value, unsupported: list[tuple[str, str, str]]) -> None:
    if value in program.of_value:
        return
    constant = value.const_value
    if constant is not None:
        value.shape = value.shape or ir.Shape([d for d in constant.shape if isinstance(d, int)])
        value.dtype = value.dtype or constant.dtype
    if value.dtype is None or value.shape is None:
        unsupported.append(("Input", value.name or "?", "its shape or element type is not declared"))
        return
    program.of_value[value] = Tensor(shape_of(value), value.dtype, None, value)


def _lower_node(program: Program, node: ir.Node, unsupported: list[tuple[str, str, str]]) -> None:
    constant = node.op_type == "Constant" and node.domain in ("", "ai.onnx")
    if constant:
        value = node.outputs[0]
        value.const_value = ir.convenience.get_const_tensor(value)
        _add_leaf(program, value, unsupported)
        return
    inputs: list[Tensor | None] = []
    for operand in node.inputs:
        if operand is not None and operand not in program.of_value:
            # Its producer is unsupported and listed already; this node is too when there is no such op at all.
            if find(node) is None:
                unsupported.append((node.op_type, label(node), missing(node)))
            return
        inputs.append(None if operand is None else program.of_value[operand])
    known = len(program.measures.sources)
    try:
        outputs = lower(node, inputs, program.measures, program.strict)
        _check_types(node, outputs)
    except NotSupported as reason:
        unsupported.append((node.op_type, label(node), str(reason)))
        return
    for source in list(program.measures.sources.values())[known:]:
        _own(program, source.tensor, node)
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
            stack += [program.measures.sources[name].tensor for name in program.sizes[t]]
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
