"""Spelling a model of another framework in ONNX's operators."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import onnx_ir as ir
import onnx_ir.passes.common as passes

from graphfuse.graph.origins import DRESSING, set_origins
from graphfuse.graph.shape_rules import OPSET
from graphfuse.importers.common import StateVariable

Array = np.ndarray[Any, Any]
Dim = int | str


@dataclasses.dataclass(frozen=True)
class Spelled:
    """A model in ONNX's operators.

    operators: every operator of the user's, name -> type, in file order; one node of the model at most stands for each
    (see `graph.origins`), and those for which none does were known when the model was read; notes: lines for the
    ledger, (subject, text).
    """

    model: ir.Model
    operators: dict[str, str]
    states: tuple[StateVariable, ...] = ()
    notes: tuple[tuple[str, str], ...] = ()


class Speller:
    """Builds a graph: `with speller.operator(name, type):` for each operator of the user's, with calls inside it.

    speller("Conv", x, w, kernel_shape=[3, 3]) adds a node and returns its output, or a tuple where `count` is not 1;
    None is an input that is left out. Names of values made here are the operator's with a number behind.
    """

    def __init__(self) -> None:
        self.operators: dict[str, str] = {}
        self.initializers: dict[str, ir.Value] = {}
        self._inputs: list[ir.Value] = []
        self._nodes: list[ir.Node] = []
        self._made: list[ir.Node] | None = None
        self._name = ""
        self._numbers: dict[str, int] = {}
        self._shared: dict[tuple[str, tuple[int, ...], bytes], ir.Value] = {}

    @contextmanager
    def operator(self, name: str, op_type: str) -> Iterator[str]:
        """What is added inside belongs to this operator of the user's; yields its name, made unique."""
        outer = self._name, self._made
        self._name, self._made = self._unique(name or op_type), []
        self.operators[self._name] = op_type
        try:
            yield self._name
            worker = next((n for n in reversed(self._made) if n.op_type not in DRESSING), None)
            worker = worker or (self._made[-1] if self._made else None)
            if worker is not None:
                set_origins(worker, [self._name])
        finally:
            self._name, self._made = outer

    def __call__(self, op_type: str, *inputs: ir.Value | None, count: int = 1, domain: str = "", **attrs: Any) -> Any:
        """A node; attributes that are None are left out."""
        given = {key: value for key, value in attrs.items() if value is not None}
        node = ir.node(op_type, list(inputs), given, domain=domain, num_outputs=count, name=self._fresh(op_type))
        for k, value in enumerate(node.outputs):
            value.name = node.name if count == 1 else f"{node.name}.{k}"
        self._nodes.append(node)
        if self._made is not None:
            self._made.append(node)
        return node.outputs[0] if count == 1 else tuple(node.outputs)

    def input(self, name: str, dtype: ir.DataType, shape: Sequence[Dim | None] | None) -> ir.Value:
        """An input of the graph; a dimension without a number or a name is one of its own."""
        value = ir.Value(name=name, type=ir.TensorType(dtype), shape=None if shape is None else ir.Shape(shape))
        self._inputs.append(value)
        return value

    def weight(self, array: Array | ir.TensorProtocol, name: str) -> ir.Value:
        """A constant of the user's, under its name."""
        name = self._unique_value(name)
        tensor = array if isinstance(array, ir.TensorProtocol) else ir.tensor(array, name=name)
        value = ir.Value(
            name=name, shape=ir.Shape(tensor.shape.numpy()), type=ir.TensorType(tensor.dtype), const_value=tensor
        )
        self.initializers[name] = value
        return value

    def constant(self, array: Any, dtype: Any = None) -> ir.Value:
        """A small constant that the spelling needs; equal ones are one. Python integers are int64, floats float32."""
        given = np.asarray(array, dtype)
        if dtype is None and not isinstance(array, np.ndarray | np.generic) and given.dtype == np.float64:
            given = given.astype(np.float32)
        key = given.dtype.name, given.shape, given.tobytes()
        if key not in self._shared:
            self._shared[key] = self.weight(given, f"constant.{len(self._shared)}")
        return self._shared[key]

    def called(self, value: ir.Value, name: str) -> ir.Value:
        """The value under the user's name for it, where that is free."""
        value.name = self._unique_value(name)
        return value

    @contextmanager
    def body(self, name: str) -> Iterator[ir.Graph]:
        """A graph inside this one: what is added inside goes there; it may read values from around it.

        Yields the graph, to whose inputs and outputs the caller appends.
        """
        graph = ir.Graph([], [], nodes=[], name=name)
        outer, self._nodes = self._nodes, []
        try:
            yield graph
            graph.extend(self._nodes)
        finally:
            self._nodes = outer

    @contextmanager
    def inside(self, graph: ir.Graph) -> Iterator[None]:
        """What is added inside goes to the end of a body made before."""
        outer, self._nodes = self._nodes, []
        try:
            yield
            graph.extend(self._nodes)
        finally:
            self._nodes = outer

    @contextmanager
    def trial(self) -> Iterator[None]:
        """Nodes and operators that are added inside are taken back; weights stay."""
        outer, operators, numbers = (self._nodes, self._made), dict(self.operators), dict(self._numbers)
        self._nodes, self._made = [], None if self._made is None else []
        try:
            yield
        finally:
            _detach(self._nodes)
            (self._nodes, self._made), self.operators = outer, operators
            self._numbers = {**numbers, **dict.fromkeys(self.initializers, 1)}

    def spelled(self, outputs: Sequence[ir.Value], states: Sequence[StateVariable] = ()) -> Spelled:
        """The finished model; its inputs and outputs that are states come last, in the order of `states`."""
        graph = ir.Graph(
            _states_last(self._inputs, [state.input for state in states]),
            _states_last(outputs, [state.output for state in states]),
            nodes=self._nodes,
            initializers=list(self.initializers.values()),
            opset_imports={"": OPSET},
            name="main",
        )
        model = ir.Model(graph, ir_version=11)
        if any(value.type is None for value in graph.outputs):
            model = passes.ShapeInferencePass(check_type=False, strict_mode=False, data_prop=True)(model).model
        return Spelled(model, self.operators, tuple(states))

    def _fresh(self, op_type: str) -> str:
        stem = f"{self._name}:{op_type}" if self._name else op_type
        self._numbers[stem] = self._numbers.get(stem, 0) + 1
        return stem if self._numbers[stem] == 1 else f"{stem}.{self._numbers[stem]}"

    def _unique(self, name: str) -> str:
        k, wanted = 2, name
        while name in self.operators:
            name, k = f"{wanted}_{k}", k + 1
        return name

    def _unique_value(self, name: str) -> str:
        k, wanted = 2, name
        while name in self._numbers:
            name, k = f"{wanted}.{k}", k + 1
        self._numbers[name] = 1
        return name


def _detach(nodes: Sequence[ir.Node]) -> None:
    """Make the nodes, and those in their bodies, no users of any value."""
    for node in nodes:
        for attribute in node.attributes.values():
            if attribute.type == ir.AttributeType.GRAPH:
                _detach(list(attribute.as_graph()))
        for k in range(len(node.inputs)):
            node.replace_input_with(k, None)


def _states_last(values: Sequence[ir.Value], states: Sequence[str]) -> list[ir.Value]:
    by_name = {value.name: value for value in values}
    return [*(value for value in values if value.name not in states), *(by_name[name] for name in states)]
