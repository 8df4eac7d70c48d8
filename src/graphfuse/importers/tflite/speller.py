"""A speller that knows the types and shapes of what it has made, and TFLite's habits about them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir
from onnx_shape_inference import ShapeInferenceContext, ShapeInferenceError, registry  # type: ignore[import-untyped]

from graphfuse.graph.shape_rules import OPSET
from graphfuse.importers.spelling import Dim, Speller
from graphfuse.importers.tflite.registry import NotSpelled
from graphfuse.ops.shapes import register

Array = np.ndarray[Any, Any]

# The library's rules leave the shape open where these cannot broadcast.
_BROADCASTS = frozenset(
    {"Add", "And", "Div", "Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual", "Max", "Min", "Mul", "Or",
     "Pow", "Sub", "Where", "Xor"}
)  # fmt: skip


class ShapedSpeller(Speller):
    """Every value has its type, and its shape as far as it follows from the inputs."""

    def __init__(self) -> None:
        super().__init__()
        register()
        self._context = ShapeInferenceContext({"": OPSET})

    def __call__(self, op_type: str, *inputs: ir.Value | None, count: int = 1, domain: str = "", **attrs: Any) -> Any:
        made = super().__call__(op_type, *inputs, count=count, domain=domain, **attrs)
        node = (made if count == 1 else made[0]).producer()
        rule = registry.get(domain, op_type, version=OPSET)
        if rule is not None:
            rule(self._context, node)
        if op_type in _BROADCASTS and node.outputs[0].shape is None:
            shapes = [None if x is None or x.shape is None else list(x.shape) for x in inputs]
            if None not in shapes:
                message = f"{shapes} do not broadcast"
                raise ShapeInferenceError(node_name=node.name, op_type=op_type, domain=domain, message=message)
        return made

    def input(self, name: str, dtype: ir.DataType, shape: Sequence[Dim | None] | None) -> ir.Value:
        return super().input(self._unique_value(name), dtype, shape)

    def reserve(self, name: str) -> str:
        """A name that no value will have unless it is given to one."""
        return self._unique_value(name)

    # ------------------------------------------------------------ what is known

    def rank(self, x: ir.Value) -> int:
        """Raises NotSpelled where it is not known."""
        return len(self.shape(x))

    def shape(self, x: ir.Value) -> list[int | ir.SymbolicDim]:
        """Raises NotSpelled where the rank is not known."""
        if x.shape is None:
            raise NotSpelled(f"the rank of {x.name!r} is not known before the model runs")
        return list(x.shape)

    def sizes(self, x: ir.Value) -> list[int]:
        """Raises NotSpelled where a size is not known before the model runs."""
        sizes = [d for d in self.shape(x) if isinstance(d, int)]
        if len(sizes) < self.rank(x):
            raise NotSpelled(f"a size of {x.name!r} is not known before the model runs")
        return sizes

    # ------------------------------------------------------------ small words

    def const(self, array: Any, like: ir.Value | ir.DataType) -> ir.Value:
        """A constant of another value's type."""
        dtype = like if isinstance(like, ir.DataType) else like.dtype
        assert dtype is not None
        return self.constant(np.asarray(array).astype(dtype.numpy()))

    def cast(self, x: ir.Value, dtype: ir.DataType) -> ir.Value:
        """The value itself where it has the type."""
        if x.dtype == dtype:
            return x
        known = known_array(x)
        if known is not None and known.size <= 64:
            return self.constant(known.astype(dtype.numpy()))
        return self("Cast", x, to=int(dtype))  # type: ignore[no-any-return]

    def ints(self, x: ir.Value) -> ir.Value:
        """As int64, which ONNX has sizes and indices in."""
        return self.cast(x, ir.DataType.INT64)

    def transpose(self, x: ir.Value, perm: Iterable[int]) -> ir.Value:
        order = list(perm)
        if order == sorted(order):
            return x
        known = known_array(x)
        if known is not None:
            return self.weight(np.ascontiguousarray(known.transpose(order)), f"{x.name}.transposed")
        return self("Transpose", x, perm=order)  # type: ignore[no-any-return]

    def channels_first(self, x: ir.Value) -> ir.Value:
        """From [N, ..., C] to [N, C, ...]."""
        rank = self.rank(x)
        return self.transpose(x, [0, rank - 1, *range(1, rank - 1)])

    def channels_last(self, x: ir.Value) -> ir.Value:
        rank = self.rank(x)
        return self.transpose(x, [0, *range(2, rank), 1])

    def reshape(self, x: ir.Value, shape: Sequence[int]) -> ir.Value:
        """To a shape in which -1 is the size that follows and 0 the size at the same place."""
        known = known_array(x)
        if known is not None and 0 not in shape:
            return self.weight(known.reshape(shape), f"{x.name}.reshaped")
        return self("Reshape", x, self.constant(list(shape), np.int64))  # type: ignore[no-any-return]

    def clip(self, x: ir.Value, least: Any = None, most: Any = None) -> ir.Value:
        ends = [None if end is None else self.const(end, x) for end in (least, most)]
        return self("Clip", x, *ends)  # type: ignore[no-any-return]


def known_array(x: ir.Value) -> Array | None:
    """The constant that a value is."""
    return None if x.const_value is None else x.const_value.numpy()
