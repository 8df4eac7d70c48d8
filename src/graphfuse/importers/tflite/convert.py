"""Walks a TFLite model's subgraphs and spells their operators."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
from onnx_shape_inference import OpUsageError, ShapeInferenceError  # type: ignore[import-untyped]

from graphfuse.errors import ModelFileError, UnsupportedModelError, one_line
from graphfuse.importers.common import StateVariable
from graphfuse.importers.spelling import Spelled
from graphfuse.importers.tflite.call import Call
from graphfuse.importers.tflite.registry import NotSpelled, spellings
from graphfuse.importers.tflite.schema import (
    AGAIN,
    BROKEN,
    ModelInfo,
    OperatorInfo,
    SubgraphInfo,
    TensorInfo,
    read_model,
)
from graphfuse.importers.tflite.speller import ShapedSpeller
from graphfuse.importers.tflite.tensors import RESOURCE, array_of, dtype_of

# Calls of subgraphs inside subgraphs, and operators that they amount to.
_DEEPEST, _MOST_OPERATORS = 16, 200_000
_LARGEST_STATE = 1 << 30  # bytes
# Sparse weights may be larger than the file that holds them, but not without bound: bytes, all together.
_LARGEST_DENSE = 1 << 30


@dataclass(frozen=True)
class Handle:
    """What a tensor of type RESOURCE holds: the name of a variable."""

    key: str


@dataclass
class Variable:
    """A resource variable: its state's name and start, and what it holds at this point of the walk."""

    input: ir.Value
    initial: np.ndarray[Any, Any]
    value: ir.Value


def convert_file(path: Path) -> Spelled:
    """A TFLite file in ONNX's operators. Raises ModelFileError or UnsupportedModelError."""
    model = read_model(path)
    return Converter(model, str(path)).spelled()


class Converter:
    """One model being spelled; `variables` are as the walk has left them."""

    def __init__(self, model: ModelInfo, where: str) -> None:
        self.model, self.where = model, where
        self.speller = ShapedSpeller()
        self.variables: dict[str, Variable] = {}
        self.initial: dict[str, np.ndarray[Any, Any]] = {}
        self.depth = 0
        self._left = _MOST_OPERATORS
        self._inside: list[int] = []
        self._dense: dict[int, np.ndarray[Any, Any]] = {}

    def spelled(self) -> Spelled:
        self._refuse_unknown()
        # The first subgraph is the model; its signature, if it has one, names its inputs and outputs.
        signature = next((s for s in self.model.signatures if s.subgraph == 0), None)
        info = self.model.subgraphs[0]
        scope = Scope(self, info)
        names = [self._name(info, index, signature.outputs if signature else {}, "output") for index in info.outputs]
        for index in dict.fromkeys(info.inputs):
            name = self._name(info, index, signature.inputs if signature else {}, "input")
            scope.values[index] = self._input(info.tensors[index], name)
        names = [self.speller.reserve(name) for name in names]
        with self._within(0):
            scope.run()
        outputs = [self._output(scope, index, name) for index, name in zip(info.outputs, names, strict=True)]
        states = []
        for key, variable in self.variables.items():
            after = self.speller("Identity", variable.value)
            after = self.speller.called(after, f"{variable.input.name}.next")
            outputs.append(after)
            assert variable.input.name is not None
            states.append(StateVariable(variable.input.name, after.name or key, variable.initial))
        return self.speller.spelled(outputs, states)

    def array(self, info: TensorInfo) -> np.ndarray[Any, Any]:
        """The constant that a tensor is; a sparse one is made dense once. Raises ModelFileError."""
        if info.sparsity is None:
            return array_of(info, self.where)
        if id(info) not in self._dense:
            size = math.prod(info.shape or ()) * dtype_of(info, self.where).itemsize
            if size + sum(array.nbytes for array in self._dense.values()) > _LARGEST_DENSE:
                what = f"tensor {info.name!r} makes the sparse weights take more than {_LARGEST_DENSE >> 20} MiB"
                raise ModelFileError(what, where=self.where, remedy="store them densely")
            self._dense[id(info)] = array_of(info, self.where)
        return self._dense[id(info)]

    @staticmethod
    def _name(info: SubgraphInfo, index: int, signature: dict[int, str], what: str) -> str:
        return signature.get(index) or info.tensors[index].name or f"{what}_{index}"

    def _input(self, info: TensorInfo, name: str) -> ir.Value:
        dtype = dtype_of(info, self.where)
        dims = info.signature or info.shape
        stem = re.sub(r"\W+", "_", name, flags=re.ASCII)[:40]
        shape = None if dims is None else [f"{stem}_d{axis}" if d < 0 else d for axis, d in enumerate(dims)]
        return self.speller.input(name, dtype, shape)

    def _output(self, scope: Scope, index: int, name: str) -> ir.Value:
        value = scope.value(index)
        if not isinstance(value, ir.Value):
            raise ModelFileError(f"output {name!r} is a resource", where=self.where, remedy="leave it out")
        # A result of its own, under its own name: it may be an input, a constant, or another output as well.
        result: ir.Value = self.speller("Identity", value)
        result.name = name
        return result

    def _refuse_unknown(self) -> None:
        """Raises UnsupportedModelError with every operator that nothing spells."""
        known, refused = spellings(), []
        for graph in self.model.subgraphs:
            for k, op in enumerate(graph.operators):
                if op.type == "CUSTOM":
                    reason = "a custom operator: only its own library knows what it computes"
                    refused.append((op.custom or op.type, operator_name(graph, op, k), reason))
                elif op.type not in known:
                    refused.append((op.type, operator_name(graph, op, k), "not supported"))
        if refused:
            remedy = "convert the model again without them: say it with TensorFlow's own operators, or cut it in parts"
            raise UnsupportedModelError(refused, where=self.where, remedy=remedy)

    # ------------------------------------------------------------ subgraphs

    def subgraph(self, k: int) -> SubgraphInfo:
        if not 0 <= k < len(self.model.subgraphs):
            raise NotSpelled(f"it calls subgraph {k} of {len(self.model.subgraphs)}")
        return self.model.subgraphs[k]

    def inline(self, k: int, given: Sequence[ir.Value | Handle]) -> list[ir.Value | Handle]:
        """The outputs of a subgraph for some inputs, spelled at this place."""
        info = self.subgraph(k)
        if len(given) != len(info.inputs):
            raise NotSpelled(f"it gives {len(given)} inputs to a subgraph of {len(info.inputs)}")
        scope = Scope(self, info)
        scope.values.update(zip(info.inputs, given, strict=True))
        with self._within(k):
            scope.run()
        return [scope.value(index) for index in info.outputs]

    @contextmanager
    def _within(self, k: int) -> Iterator[None]:
        if k in self._inside:
            raise ModelFileError(f"subgraph {k} calls itself", where=self.where, remedy=AGAIN)
        if len(self._inside) >= _DEEPEST:
            raise ModelFileError(f"more than {_DEEPEST} subgraphs inside each other", where=self.where, remedy=AGAIN)
        self._inside.append(k)
        try:
            yield
        finally:
            self._inside.pop()

    def spend(self) -> None:
        """Subgraphs that call one another many times may not amount to a model without bound."""
        self._left -= 1
        if self._left < 0:
            raise ModelFileError(f"more than {_MOST_OPERATORS} operators", where=self.where, remedy=AGAIN)

    # ------------------------------------------------------------ variables

    def variable(self, key: str, like: TensorInfo | None = None) -> Variable:
        """The variable of a name; one that nothing initialises is zeros, like the tensor that reads it."""
        if key not in self.variables:
            initial = self.initial.get(key)
            if initial is None:
                if like is None or like.shape is None:
                    raise NotSpelled(f"variable {key!r} has no first value")
                dtype = dtype_of(like, self.where)
                if math.prod(like.shape) * dtype.itemsize > _LARGEST_STATE:
                    raise NotSpelled(f"variable {key!r} is too large: {list(like.shape)}")
                initial = np.zeros(like.shape, dtype.numpy())
            value = self.speller.input(key, ir.DataType.from_numpy(initial.dtype), initial.shape)
            self.variables[key] = Variable(value, initial, value)
        return self.variables[key]

    def initialize(self, k: int) -> None:
        """What a subgraph that is called once assigns to variables; it may only assign constants."""
        info = self.subgraph(k)
        handles: dict[int, str] = {}
        for op in info.operators:
            if op.type == "VAR_HANDLE":
                handles[op.outputs[0]] = handle_key(Call(Scope(self, info), op, ""))
                continue
            value = info.tensors[op.inputs[1]] if op.type == "ASSIGN_VARIABLE" and len(op.inputs) == 2 else None
            if value is None or value.data is None or op.inputs[0] not in handles:
                raise NotSpelled(f"its subgraph does more than assign constants: {op.type}")
            self.initial[handles[op.inputs[0]]] = self.array(value)


class Scope:
    """One run through a subgraph: what each of its tensors is."""

    def __init__(self, converter: Converter, info: SubgraphInfo) -> None:
        self.converter, self.info = converter, info
        self.values: dict[int, ir.Value | Handle] = {}

    def value(self, index: int) -> ir.Value | Handle:
        """Raises NotSpelled for a tensor that nothing has computed."""
        if index not in self.values:
            info = self.info.tensors[index]
            empty = info.shape is not None and 0 in info.shape and info.dtype != RESOURCE
            if info.data is None and not empty:
                raise NotSpelled(f"tensor {info.name!r} is read before anything computes it")
            array = self.converter.array(info) if info.data is not None else (
                np.zeros(info.shape or 0, dtype_of(info, self.converter.where).numpy()))  # fmt: skip
            self.values[index] = self.converter.speller.weight(array, info.name or f"tensor_{index}")
        return self.values[index]

    def run(self) -> None:
        """Spells every operator. Raises ModelFileError or UnsupportedModelError that names it."""
        for k, op in enumerate(self.info.operators):
            self.converter.spend()
            self._spell(op, operator_name(self.info, op, k))

    def _spell(self, op: OperatorInfo, wanted: str) -> None:
        converter = self.converter
        with converter.speller.operator(wanted, op.type) as name:
            where = f"{converter.where}: operator {name!r} ({op.type})"
            try:
                made = spellings()[op.type](Call(self, op, name))
                self._keep(op, made)
            except NotSpelled as error:
                remedy = "convert the model again without this form of the operator"
                raise UnsupportedModelError(
                    [(op.type, name, str(error))], where=converter.where, remedy=remedy
                ) from error
            except (ShapeInferenceError, OpUsageError) as error:
                why = one_line(f"{error} {error.__cause__ or ''}", 200)
                raise ModelFileError("its operands do not fit together", where=where, why=why, remedy=AGAIN) from error
            except (*BROKEN, ArithmeticError) as error:
                why = one_line(f"{type(error).__name__}: {error}", 200)
                raise ModelFileError("it is damaged", where=where, why=why, remedy=AGAIN) from error

    def _keep(self, op: OperatorInfo, made: Any) -> None:
        results = () if made is None else tuple(made) if isinstance(made, tuple | list) else (made,)
        if len(results) != len(op.outputs):
            raise NotSpelled(f"it has {len(op.outputs)} outputs, not {len(results)}")
        for index, value in zip(op.outputs, results, strict=True):
            info = self.info.tensors[index]
            if isinstance(value, ir.Value):
                wanted = dtype_of(info, self.converter.where)
                if value.dtype != wanted:
                    raise NotSpelled(f"its result {info.name!r} is {wanted.name.lower()}")
            self.values[index] = value


def operator_name(graph: SubgraphInfo, op: OperatorInfo, k: int) -> str:
    """An operator is called by its first result, or, as one without results, by what it takes first."""
    index = next((index for index in (*op.outputs, *op.inputs) if index >= 0), None)
    return (graph.tensors[index].name if index is not None else "") or f"{op.type}_{k}"


def handle_key(call: Call) -> str:
    """The name of the variable that a VAR_HANDLE stands for."""
    options = call.options("VarHandleOptions")
    container, name = ((text or b"").decode("utf-8", "replace") for text in (options.Container(), options.SharedName()))
    key = one_line(f"{container}/{name}" if container else name, 200)
    return key or "variable"
