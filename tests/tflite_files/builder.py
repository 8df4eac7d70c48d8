"""Small TFLite files for tests, with the object classes of the schema that LiteRT's package carries."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import flatbuffers
import ml_dtypes
import numpy as np
from ai_edge_litert import schema_py_generated as schema

Array = np.ndarray[Any, Any]

_TYPES = {
    "float32": schema.TensorType.FLOAT32,
    "float16": schema.TensorType.FLOAT16,
    "bfloat16": schema.TensorType.BFLOAT16,
    "float64": schema.TensorType.FLOAT64,
    "int8": schema.TensorType.INT8,
    "uint8": schema.TensorType.UINT8,
    "int16": schema.TensorType.INT16,
    "int32": schema.TensorType.INT32,
    "uint32": schema.TensorType.UINT32,
    "int64": schema.TensorType.INT64,
    "bool": schema.TensorType.BOOL,
    "resource": schema.TensorType.RESOURCE,
}

# Operators whose first version LiteRT does not know any more.
_VERSIONS = {"BROADCAST_TO": 2}


@dataclass(frozen=True)
class Q:
    """real = scale * (stored - zero), one or one for each index of an axis."""

    scale: float | Sequence[float]
    zero: int | Sequence[int] = 0
    axis: int = 0

    def table(self) -> Any:
        q = schema.QuantizationParametersT()
        q.scale = np.atleast_1d(np.asarray(self.scale, np.float32))
        zero = np.broadcast_to(np.atleast_1d(np.asarray(self.zero, np.int64)), q.scale.shape)
        q.zeroPoint, q.quantizedDimension = np.ascontiguousarray(zero), self.axis
        return q


@dataclass
class Graph:
    """A subgraph being built; tensors are numbers."""

    model: Model
    table: Any = field(default_factory=schema.SubGraphT)

    def __post_init__(self) -> None:
        self.table.tensors, self.table.operators = [], []
        self.table.inputs, self.table.outputs = [], []
        self.table.name = "main"

    def tensor(
        self,
        name: str,
        dtype: str,
        shape: Sequence[int],
        q: Q | None = None,
        signature: Sequence[int] | None = None,
        data: bytes | None = None,
    ) -> int:
        t = schema.TensorT()
        t.name, t.type, t.shape = name, _TYPES[dtype], np.asarray(shape, np.int32)
        t.hasRank = True
        t.shapeSignature = None if signature is None else np.asarray(signature, np.int32)
        t.quantization = q.table() if q else None
        t.buffer = 0 if data is None else self.model.buffer(data)
        self.table.tensors.append(t)
        return len(self.table.tensors) - 1

    def constant(self, array: Any, q: Q | None = None, name: str = "") -> int:
        a = np.asarray(array)
        return self.tensor(name or f"c{len(self.table.tensors)}", a.dtype.name, a.shape, q, data=a.tobytes())

    def input(self, name: str, dtype: str, shape: Sequence[int], q: Q | None = None, **more: Any) -> int:
        k = self.tensor(name, dtype, shape, q, **more)
        self.table.inputs.append(k)
        return k

    def op(
        self, kind: str, inputs: Sequence[int], outputs: Sequence[int], options: str = "", **values: Any
    ) -> Sequence[int]:
        o = schema.OperatorT()
        o.opcodeIndex = self.model.code(kind)
        o.inputs, o.outputs = list(inputs), list(outputs)
        if options:
            table = getattr(schema, f"{options}T")()
            for name, value in values.items():
                assert hasattr(table, name), name
                setattr(table, name, value)
            if hasattr(schema.BuiltinOptions, options):
                o.builtinOptionsType, o.builtinOptions = getattr(schema.BuiltinOptions, options), table
            else:
                o.builtinOptions2Type, o.builtinOptions2 = getattr(schema.BuiltinOptions2, options), table
        self.table.operators.append(o)
        return outputs

    def outputs(self, *tensors: int) -> None:
        self.table.outputs = list(tensors)


class Model:
    """Subgraphs, the first of which is the model."""

    def __init__(self) -> None:
        self.table = schema.ModelT()
        self.table.version, self.table.description = 3, "test"
        self.table.subgraphs, self.table.operatorCodes = [], []
        self.table.buffers, self.table.signatureDefs = [schema.BufferT()], []
        self._codes: list[str] = []
        self.main = self.graph()

    def graph(self) -> Graph:
        graph = Graph(self)
        self.table.subgraphs.append(graph.table)
        return graph

    def buffer(self, data: bytes) -> int:
        b = schema.BufferT()
        b.data = np.frombuffer(data, np.uint8)
        self.table.buffers.append(b)
        return len(self.table.buffers) - 1

    def code(self, kind: str) -> int:
        if kind not in self._codes:
            code = schema.OperatorCodeT()
            value = getattr(schema.BuiltinOperator, kind, schema.BuiltinOperator.CUSTOM)
            code.builtinCode, code.deprecatedBuiltinCode, code.version = value, min(value, 127), _VERSIONS.get(kind, 1)
            if value == schema.BuiltinOperator.CUSTOM:
                code.customCode = kind
            self.table.operatorCodes.append(code)
            self._codes.append(kind)
        return self._codes.index(kind)

    def sign(self, inputs: dict[str, int], outputs: dict[str, int], subgraph: int = 0) -> None:
        """Names for inputs and outputs."""
        signature = schema.SignatureDefT()
        signature.signatureKey, signature.subgraphIndex = "serving_default", subgraph
        for maps, names in (("inputs", inputs), ("outputs", outputs)):
            tables = []
            for name, index in names.items():
                entry = schema.TensorMapT()
                entry.name, entry.tensorIndex = name, index
                tables.append(entry)
            setattr(signature, maps, tables)
        self.table.signatureDefs.append(signature)

    def bytes(self) -> bytes:
        builder = flatbuffers.Builder(1024)
        builder.Finish(self.table.Pack(builder), b"TFL3")
        return bytes(builder.Output())


BFLOAT16 = ml_dtypes.bfloat16
