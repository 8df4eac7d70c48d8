"""The registry of ops: importing this package's op files fills it; the folder listing is the list of ops.

An op file declares, for each ONNX op type, one function from inputs and attributes to output tensors:

    @op("ThresholdedRelu", samples=lambda: [sample(floats(13, 17), alpha=0.5)])
    def thresholded_relu(node: OpNode) -> Tensor:
        alpha = node.attr("alpha", 1.0)
        return map_(lambda x: where(x > alpha, x, 0), node.input(0))
"""

from __future__ import annotations

import functools
import importlib
import pkgutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import onnx_ir as ir

from graphfuse.graph.dims import Dim, is_static, product, shape_of
from graphfuse.graph.dtypes import F32, NARROW
from graphfuse.ops import narrow
from graphfuse.ops.expr import Expr
from graphfuse.ops.measured import Measures, Source
from graphfuse.ops.samples import Sample
from graphfuse.ops.symbolic import known_dims
from graphfuse.ops.tensor import Body, Tensor, map_


class NotSupported(Exception):
    """Raised by an op's lowering for a form it has no meaning for; the message is the reason shown to the user."""


class Scope(Protocol):
    """What control flow asks of the program that its node belongs to."""

    @property
    def rounds(self) -> tuple[Dim, ...]:
        """The numbers of the iterations of the loops around it, outer ones first."""

    @property
    def is_outermost(self) -> bool:
        """Whether the node stands in the model's own graph, and in no body."""

    def body(self, graph: ir.Graph, inputs: Sequence[Tensor], number: Dim | None = None) -> Body:
        """A graph of the node, lowered as a program of its own, for these inputs; number: of a loop's iteration."""

    def inline(self, graph: ir.Graph) -> list[Tensor]:
        """The outputs of a graph of the node without inputs, lowered as if its nodes stood in this program."""


@dataclass
class OpNode:
    """A node of the graph as its op's lowering sees it."""

    node: ir.Node
    inputs: Sequence[Tensor | None]
    measures: Measures = field(default_factory=Measures)
    around: Scope | None = None

    def input(self, k: int) -> Tensor:
        """The k-th input, which the op requires."""
        x = self.optional(k)
        if x is None:
            raise NotSupported(f"input {k} is missing")
        return x

    def optional(self, k: int) -> Tensor | None:
        return self.inputs[k] if k < len(self.inputs) else None

    def constant(self, k: int) -> np.ndarray | None:
        """The k-th input's value when it is known at compile time, else None."""
        value = self.node.inputs[k] if k < len(self.node.inputs) else None
        if value is None:
            return None
        tensor = ir.convenience.get_const_tensor(value)
        if tensor is None:
            return None
        wide = tensor.dtype in NARROW and narrow.computes(self.node)
        return narrow.single(value) if wide else tensor.numpy()

    def required_constant(self, k: int, what: str) -> np.ndarray:
        value = self.constant(k)
        if value is None:
            raise NotSupported(f"{what} must be known at compile time")
        return value

    def dims(self, k: int) -> list[Dim] | None:
        """The k-th input, a shape-like integer tensor, as dimensions when they are known at compile time, else None."""
        value = self.constant(k)
        if value is not None:
            return [int(v) for v in value.reshape(-1)]
        x = self.optional(k)
        return None if x is None else known_dims(x)

    def integers(self, k: int, what: str) -> list[int]:
        """The k-th input's integers, which the op must know at compile time."""
        values = self.dims(k)
        if values is None or not is_static(*values):
            raise NotSupported(f"{what} must be known at compile time")
        return [int(v) for v in values]

    @property
    def scope(self) -> Scope:
        """The program around the node."""
        if self.around is None:
            raise NotSupported("control flow is lowered with the whole graph")
        return self.around

    @property
    def rounds(self) -> tuple[Dim, ...]:
        """The numbers of the iterations of the loops around the node."""
        return () if self.around is None else self.around.rounds

    def measure(self, sizes: Tensor) -> list[Dim]:
        """The elements of a tensor of integers that the program computes, each as a symbol for its value at run time.

        sizes: of rank 0 or 1, of known length; values below 0 are an error at run time.
        """
        if sizes.rank > 1 or not is_static(*sizes.shape):
            raise NotSupported("how many sizes it takes must be known at compile time")
        count = int(product(sizes.shape))
        return [self.measures.fresh(Source(sizes, k)) for k in range(count)]

    def axis(self, value: int, rank: int) -> int:
        """A possibly negative axis as 0 <= axis < rank."""
        if not -rank <= value < rank:
            raise NotSupported(f"axis {value} is out of range for rank {rank}")
        return value % rank

    def attr(self, name: str, default: Any = None) -> Any:
        """The attribute's value, else the default; a float is a float32, as ONNX's attributes are."""
        a = self.node.attributes.get(name)
        if a is None:
            return float(np.float32(default)) if isinstance(default, float) else default
        return a.as_string() if a.type == ir.AttributeType.STRING else a.value

    def output_shape(self, k: int = 0) -> tuple[Dim, ...]:
        """The inferred shape of the k-th output."""
        try:
            return shape_of(self.node.outputs[k])
        except ValueError as error:
            raise NotSupported(str(error)) from error

    def output_dtype(self, k: int = 0) -> ir.DataType:
        dtype = self.node.outputs[k].dtype
        if dtype is None:
            raise NotSupported("the output's element type is unknown")
        return F32 if dtype in NARROW and narrow.computes(self.node) else dtype


Samples = Callable[[], Sequence[Sample]]
Lowering = Callable[[OpNode], Tensor | Sequence[Tensor | None]]


@dataclass(frozen=True)
class Op:
    """An op type and its meaning."""

    name: str
    lower: Lowering
    domain: str = ""
    samples: Samples = field(default=lambda: (), repr=False)


_OPS: dict[tuple[str, str], Op] = {}
_OF_SEQUENCES = ("SplitToSequence", "ConcatFromSequence")


def op(name: str, *, domain: str = "", samples: Samples = lambda: ()) -> Callable[[Lowering], Lowering]:
    """Declare the lowering of an op type."""

    def register(lower: Lowering) -> Lowering:
        key = (domain, name)
        if key in _OPS:
            raise ValueError(f"op {name} is declared twice")
        _OPS[key] = Op(name, lower, domain, samples)
        return lower

    return register


def pointwise(name: str, function: Callable[..., Expr], *, samples: Samples = lambda: ()) -> None:
    """Declare an op whose every output element is `function` of its inputs' elements."""

    def lower(node: OpNode) -> Tensor:
        return map_(function, *(node.input(k) for k in range(len(node.inputs))))

    op(name, samples=samples)(lower)


@functools.cache
def _load_all() -> None:
    import graphfuse.ops as package

    for module in sorted(m.name for m in pkgutil.iter_modules(package.__path__)):
        importlib.import_module(f"graphfuse.ops.{module}")


def find(node: ir.Node) -> Op | None:
    """The op of a node, or None when there is none."""
    _load_all()
    domain = "" if node.domain == "ai.onnx" else node.domain
    return _OPS.get((domain, node.op_type))


def missing(node: ir.Node) -> str:
    """The reason shown for a node that has no op."""
    if not node.domain and (node.op_type.startswith(("Sequence", "Optional")) or node.op_type in _OF_SEQUENCES):
        return "what its sequence or optional holds is not known at compile time"
    return f"there is no {node.domain + '.' if node.domain else ''}{node.op_type} op"


def all_ops() -> list[Op]:
    """Every op, sorted by domain and name."""
    _load_all()
    return [_OPS[key] for key in sorted(_OPS)]


def lower(
    node: ir.Node,
    inputs: Sequence[Tensor | None],
    measures: Measures | None = None,
    strict: bool = False,
    around: Scope | None = None,
) -> list[Tensor | None]:
    """The outputs of a node as tensors over its inputs. Raises NotSupported with the reason.

    measures: takes the sizes that depend on data; those of one model are kept together. around: the program that the
    node is part of, for control flow.
    strict: narrow floats are rounded behind every node, see `ops/narrow.py`.
    """
    found = find(node)
    if found is None:
        raise NotSupported(missing(node))
    measures = Measures() if measures is None else measures
    result = found.lower(OpNode(node, narrow.operands(node, inputs), measures, around))
    outputs = narrow.results(node, [result] if isinstance(result, Tensor) else list(result), strict)
    for value, tensor in zip(node.outputs, outputs, strict=False):
        if tensor is not None and tensor.value is None:
            tensor.value = value
    return outputs
