"""One operator of the file, as what spells it sees it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import onnx_ir as ir

from graphfuse.importers.tflite.registry import NotSpelled
from graphfuse.importers.tflite.schema import OperatorInfo, Quantization, TensorInfo, flatbuffer
from graphfuse.importers.tflite.speller import ShapedSpeller, known_array
from graphfuse.importers.tflite.tensors import DTYPES

if TYPE_CHECKING:
    from graphfuse.importers.tflite.convert import Handle, Scope

Array = np.ndarray[Any, Any]
Made: TypeAlias = "ir.Value | Handle"


class Call:
    """An operator with its operands; `s` is the speller. Outputs are in the file's own types: bytes where quantised."""

    def __init__(self, scope: Scope, info: OperatorInfo, name: str) -> None:
        self.scope, self.info, self.name = scope, info, name
        self.s: ShapedSpeller = scope.converter.speller
        self.type = info.type

    # ------------------------------------------------------------ operands

    def has(self, k: int) -> bool:
        return k < len(self.info.inputs) and self.info.inputs[k] >= 0

    def __len__(self) -> int:
        return len(self.info.inputs)

    def x(self, k: int) -> ir.Value:
        """Operand k as it is stored. Raises NotSpelled where it is left out or no tensor."""
        value = self.made(k)
        if not isinstance(value, ir.Value):
            raise NotSpelled(f"input {k} is a resource")
        return value

    def made(self, k: int) -> Made:
        if not self.has(k):
            raise NotSpelled(f"input {k} is missing")
        return self.scope.value(self.info.inputs[k])

    def every(self) -> list[ir.Value]:
        return [self.x(k) for k in range(len(self))]

    def tensor(self, k: int) -> TensorInfo:
        if not self.has(k):
            raise NotSpelled(f"input {k} is missing")
        return self.scope.info.tensors[self.info.inputs[k]]

    def out(self, k: int = 0) -> TensorInfo:
        if k >= len(self.info.outputs):
            raise NotSpelled(f"output {k} is missing")
        return self.scope.info.tensors[self.info.outputs[k]]

    def out_dtype(self, k: int = 0) -> ir.DataType:
        kind = self.out(k).dtype
        if kind not in DTYPES:
            raise NotSpelled("its result is neither numbers nor bools")
        return DTYPES[kind]

    def known(self, k: int) -> Array | None:
        """Operand k where it is a constant."""
        return known_array(self.x(k))

    def constant(self, k: int, what: str) -> Array:
        """Operand k, which has to be a constant. Raises NotSpelled."""
        known = self.known(k)
        if known is None:
            raise NotSpelled(f"{what} are not constants")
        return known

    def numbers(self, k: int, what: str) -> list[int]:
        """The integers that operand k, a constant, holds."""
        return [int(x) for x in self.constant(k, what).ravel()]

    def options(self, name: str) -> Any:
        """The operator's options; where the file has none, all are what the schema says. Raises NotSpelled."""
        schema = flatbuffer()
        union = next(u for u in (schema.BuiltinOptions, schema.BuiltinOptions2) if hasattr(u, name))
        kind, table = self.info.options[union is schema.BuiltinOptions2]
        options = getattr(schema, name)()
        if kind == 0 or table is None:
            options.Init(_EMPTY, 4)
            return options
        if kind != getattr(union, name):
            raise NotSpelled("its options are those of another operator")
        options.Init(table.Bytes, table.Pos)
        return options

    # ------------------------------------------------------------ quantisation

    @property
    def is_quantized(self) -> bool:
        """Whether it computes on bytes or words that stand for reals."""
        return self.quantized(0) is not None

    def quantized(self, k: int) -> Quantization | None:
        """What operand k's integers of 8 or 16 bits stand for, if they are such."""
        return _quantization(self.tensor(k)) if self.has(k) else None

    def out_quantized(self, k: int = 0) -> Quantization | None:
        return _quantization(self.out(k))


def _quantization(info: TensorInfo) -> Quantization | None:
    return info.quantization if info.dtype in (3, 7, 9, 17) else None


# A flatbuffer's table without fields: the offset to its vtable, which lies in front of it.
_EMPTY = bytes([4, 0, 4, 0, 4, 0, 0, 0])
