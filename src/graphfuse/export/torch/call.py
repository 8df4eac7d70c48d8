"""One node of the graph as the function that writes it in PyTorch sees it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import onnx_ir as ir
import torch
from torch import nn

from graphfuse.export.torch.sizes import raw
from graphfuse.graph.shape_rules import OPSET

if TYPE_CHECKING:
    from graphfuse.export.torch.graph import Writer

Array = np.ndarray[Any, Any]
Write = Callable[["Call"], Any]

DTYPES = {
    ir.DataType.FLOAT: torch.float32,
    ir.DataType.DOUBLE: torch.float64,
    ir.DataType.FLOAT16: torch.float16,
    ir.DataType.BFLOAT16: torch.bfloat16,
    ir.DataType.INT8: torch.int8,
    ir.DataType.INT16: torch.int16,
    ir.DataType.INT32: torch.int32,
    ir.DataType.INT64: torch.int64,
    ir.DataType.UINT8: torch.uint8,
    ir.DataType.BOOL: torch.bool,
}
_OPS: dict[str, Write] = {}


class Refused(Exception):
    """A node that is not written, with the reason: what about it PyTorch does not have."""


def op(*names: str) -> Callable[[Write], Write]:
    """Registers the function that writes operators of the standard, of the opset that graphs are converted to.

    It takes a Call and returns what stands for the output, or a tuple for several outputs (None: nobody may use it).
    Raises Refused for forms that it does not cover.
    """

    def register(write: Write) -> Write:
        _OPS.update(dict.fromkeys(names, write))
        return write

    return register


def registered() -> dict[str, Write]:
    """Every operator that has a function."""
    return _OPS


class Call:
    """A node: its operands as proxies that record what is done with them, its attributes, what is known of both."""

    def __init__(self, writer: Writer, node: ir.Node) -> None:
        self.node, self._writer = node, writer

    # -- operands ---------------------------------------------------------------------------------------------------

    def __getitem__(self, k: int) -> Any:
        """Operand k as a tensor."""
        return self._writer.tensor(self._value(k))

    def __len__(self) -> int:
        return len(self.node.inputs)

    def has(self, k: int) -> bool:
        """Whether operand k is given."""
        return k < len(self.node.inputs) and self.node.inputs[k] is not None

    def scalar_or(self, k: int) -> Any:
        """Operand k as a Python number where it is one that is known, else as a tensor."""
        array = self.constant(k)
        ours = array is not None and array.size == 1 and array.dtype in _INLINE
        return array.item() if ours and array is not None and np.isfinite(array).all() else self[k]

    def constant(self, k: int) -> Array | None:
        """Operand k where it is known now."""
        return self._writer.constant(self._value(k)) if self.has(k) else None

    def known(self, k: int, what: str) -> Array:
        """The same. Raises Refused where it is not known."""
        array = self.constant(k)
        if array is None:
            raise Refused(f"{what} is known only at run time")
        return array

    def integers(self, k: int, what: str) -> list[Any]:
        """Operand k as Python integers, or what stands for them. Raises Refused where they depend on data."""
        found = self._writer.sizes(self._value(k))
        if found is None:
            raise Refused(f"{what} depends on data")
        return raw(found)

    def shape(self, k: int) -> list[int | None]:
        """Sizes of operand k, None for those that are not known."""
        return _known_shape(self._value(k))

    def rank(self, k: int) -> int:
        return len(self.shape(k))

    def size(self, k: int, axis: int) -> Any:
        """One size of operand k: an integer, or what stands for it."""
        return raw([self._writer.size(self._value(k), axis)])[0]

    def dtype(self, k: int) -> torch.dtype:
        return torch_dtype(self._value(k).dtype)

    def is_float(self, k: int) -> bool:
        return bool(self.dtype(k).is_floating_point)

    # -- attributes and results -------------------------------------------------------------------------------------

    def attr(self, name: str, default: Any = None) -> Any:
        """An attribute's value; where not given, the standard's default, or this one."""
        given = self.node.attributes.get(name)
        if given is not None:
            value = given.value
            return list(value) if isinstance(value, tuple) else value
        if default is not None:
            return default
        newest = (
            OPSET if onnx.defs.has(self.node.op_type, max_inclusive_version=OPSET) else onnx.defs.onnx_opset_version()
        )
        declared = onnx.defs.get_schema(self.node.op_type, newest).attributes.get(name)
        if declared is None or not declared.default_value.name:
            return None
        value = onnx.helper.get_attribute_value(declared.default_value)
        return value.decode() if isinstance(value, bytes) else value

    def axis(self, name: str = "axis", rank: int | None = None) -> int:
        """The attribute `axis`, counted from the front."""
        rank = self.rank(0) if rank is None else rank
        value = int(self.attr(name))
        return value + rank if value < 0 else value

    def wants(self, k: int) -> bool:
        """Whether somebody reads output k."""
        return k < len(self.node.outputs) and (
            bool(self.node.outputs[k].uses()) or self.node.outputs[k].is_graph_output()
        )

    def out_dtype(self, k: int = 0) -> torch.dtype:
        return torch_dtype(self.node.outputs[k].dtype)

    def out_shape(self, k: int = 0) -> list[int | None] | None:
        """Sizes of output k, None for those not known; None where not even their number is."""
        return None if self.node.outputs[k].shape is None else _known_shape(self.node.outputs[k])

    def same_size(self, k: int, axis: int, out_axis: int) -> bool:
        """Whether an axis of operand k and one of the output are known to have the same size."""
        theirs, ours = self._value(k).shape, self.node.outputs[0].shape
        return theirs is not None and ours is not None and str(theirs[axis]) == str(ours[out_axis]) != "None"

    # -- what is written --------------------------------------------------------------------------------------------

    def call(self, function: Any, *args: Any, **kwargs: Any) -> Any:
        """A call of a function none of whose arguments is a tensor: torch.zeros, for one."""
        return self._writer.tracer.create_proxy("call_function", function, args, kwargs)

    def weight(self, k: int) -> Array | None:
        """Operand k as floating point numbers that this node alone uses: a module may own them."""
        value = self._value(k) if self.has(k) else None
        if value is None or len(value.uses()) != 1 or value.is_graph_output():
            return None
        array = self._writer.constant(value)
        return array if array is not None and torch_dtype(value.dtype).is_floating_point else None

    def module(self, module: nn.Module, k: int, *args: Any, **weights: Array | None) -> Any:
        """A call of a module that holds `weights`, named for operand k. None: it has no such weight."""
        return self._writer.module(module, self.node, self._value(k).name or "", args, weights)

    def buffer(self, array: Array, name: str) -> Any:
        """A tensor of fixed values, named for this node."""
        return self._writer.buffer(array, self.node, name)

    def bias_behind(self, length: int) -> Array | None:
        """The bias of `length` elements that one Add puts on the output, which is then taken as written."""
        return self._writer.bias_behind(self.node, length)

    def _value(self, k: int) -> ir.Value:
        value = self.node.inputs[k] if k < len(self.node.inputs) else None
        if value is None:
            raise Refused(f"operand {k} is missing")
        return value


_INLINE = (np.float32, np.float64, np.int64, np.int32, np.int16, np.int8, np.uint8)


def torch_dtype(dtype: ir.DataType | None) -> torch.dtype:
    """PyTorch's type. Raises Refused where it computes with none such."""
    found = DTYPES.get(dtype) if dtype is not None else None
    if found is None:
        raise Refused(f"PyTorch does not compute with {dtype.name.lower() if dtype is not None else 'its type'}")
    return found


def _known_shape(value: ir.Value) -> list[int | None]:
    if value.shape is None:
        raise Refused("the rank of an operand is known only at run time")
    return [d if isinstance(d, int) else None for d in value.shape]


def even(pads: Sequence[int]) -> list[int] | None:
    """ONNX's paddings as one number an axis, None where the two sides differ."""
    half = len(pads) // 2
    return list(pads[:half]) if list(pads[:half]) == list(pads[half:]) else None


def torch_pads(pads: Sequence[Any]) -> list[Any]:
    """ONNX's paddings, all begins and then all ends, in the order of F.pad: last axis first."""
    half = len(pads) // 2
    return [pads[k + side * half] for k in reversed(range(half)) for side in (0, 1)]
