"""Products of dequantised bytes are products of the bytes, exact in int32, times both scales."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir
from onnxscript.rewriter import MatchResult

from graphfuse.graph.origins import label
from graphfuse.rules.rule import Recognition, no, yes
from graphfuse.rules.values import Array, array, axis_of, input_of, name_of, producer, rank

STAGE = "simplify"  # before the weights of what remains are dequantised at compile time
ERROR_CLASS = "reassociated"
ORDER = 11  # ahead of what takes a Gemm apart

_BYTES = (ir.DataType.INT8, ir.DataType.UINT8)


@dataclass(frozen=True)
class _Bytes:
    """A dequantised operand: its bytes, their scale (one number, or one for each index of `axis`) and zero point."""

    value: ir.Value
    scale: Array
    zero: Array
    axis: int | None

    @property
    def known(self) -> Array | None:
        return array(self.value)


def _bytes(value: ir.Value | None) -> _Bytes | MatchResult:
    """A value as bytes and constants, or why it is none."""
    node = producer(value, "DequantizeLinear")
    if node is None or node.inputs[0] is None or node.inputs[0].dtype not in _BYTES:
        return no()
    source, scale = node.inputs[0], input_of(node, 1)
    numbers, zero = array(scale), input_of(node, 2)
    zeros = np.zeros((), np.int8 if source.dtype == ir.DataType.INT8 else np.uint8) if zero is None else array(zero)
    if numbers is None or zeros is None or scale is None:
        return no(f"the scale or zero point of {label(node)} is computed at run time", node)
    if numbers.dtype != np.float32 or node.attributes.get_int("block_size", 0) != 0:
        return no(f"{label(node)} has a scale for each block, or one that is not float32", node)
    if numbers.size == 1 and zeros.size == 1:
        return _Bytes(source, numbers.reshape(()), zeros.reshape(()), None)
    axis = axis_of(source, node.attributes.get_int("axis", 1))
    count = numbers.size
    return _Bytes(source, numbers.reshape(-1), np.broadcast_to(zeros.reshape(-1), (count,)).copy(), axis)


class _IntegerProduct(Recognition):
    """What the forms share: reading the operands, and the scales behind the product."""

    def pattern(self, op: Any, x: Any, w: Any) -> Any:
        return getattr(op, self.op_type)(x, w, _allow_other_inputs=True, _outputs=["y"])

    def check(self, context: Any, x: ir.Value, w: ir.Value, y: ir.Value, **_: Any) -> MatchResult:
        left, right = self.left(y), self.right(y)
        if isinstance(left, MatchResult):
            return left
        if isinstance(right, MatchResult):
            return right
        if left.axis is not None:
            return no(f"{x.name} has a scale for each index of an axis", x)
        return self.fits(y, left, right)

    def left(self, y: ir.Value) -> _Bytes | MatchResult:
        return _bytes(_node(y).inputs[0])

    def right(self, y: ir.Value) -> _Bytes | MatchResult:
        return _bytes(_node(y).inputs[1])

    def fits(self, y: ir.Value, left: _Bytes, right: _Bytes) -> MatchResult:
        raise NotImplementedError

    def operands(self, op: Any, y: ir.Value) -> tuple[_Bytes, _Bytes, ir.Value, ir.Value]:
        """Both operands and their zero points."""
        left, right = self.left(y), self.right(y)
        assert isinstance(left, _Bytes)
        assert isinstance(right, _Bytes)
        return left, right, _constant(op, left.zero, left.value, "zero"), _constant(op, right.zero, right.value, "zero")

    def scaled(self, op: Any, total: ir.Value, factor: Array, y: ir.Value, bias: Array | ir.Value | None) -> ir.Value:
        """The sums times the scales, and the bias."""
        result: ir.Value = op.Mul(op.Cast(total, to=int(ir.DataType.FLOAT)), _float(op, factor, f"{y.name}.scale"))
        if isinstance(bias, np.ndarray):
            bias = _float(op, bias, f"{y.name}.bias")
        return result if bias is None else op.Add(result, bias)


# MatMul(DequantizeLinear(a), DequantizeLinear(b)) -> Cast(MatMulInteger(a, b)) * (scale of a * scale of b)
class MatMulOfBytes(_IntegerProduct):
    """The scale of b may be one for each column."""

    op_type = "MatMul"

    def fits(self, y: ir.Value, left: _Bytes, right: _Bytes) -> MatchResult:
        count = rank(right.value)
        if count is None or count < 2 or (rank(left.value) or 0) < 2:
            return no()
        if right.axis is not None and (right.axis != count - 1 or count != 2):
            return no(f"{right.value.name} has a scale for each index of axis {right.axis}, not for each column", y)
        return yes()

    def rewrite(self, op: Any, y: ir.Value, **_: Any) -> ir.Value:
        left, right, za, zb = self.operands(op, y)
        total = op.MatMulInteger(left.value, right.value, za, zb)
        return self.scaled(op, total, left.scale * right.scale, y, None)


# Gemm(DequantizeLinear(a), DequantizeLinear(b), c) -> Cast(MatMulInteger(a, b')) * (scale of a * scale of b) + c
class GemmOfBytes(_IntegerProduct):
    """Constant weights are transposed at compile time."""

    op_type = "Gemm"

    def fits(self, y: ir.Value, left: _Bytes, right: _Bytes) -> MatchResult:
        node = _node(y)
        get = node.attributes
        factors = (get.get_float("alpha", 1.0), get.get_float("beta", 1.0))
        if factors != (1.0, 1.0) or get.get_int("transA", 0) != 0 or right.known is None:
            return no(f"{label(node)} scales its operands, or its weights are computed at run time", node)
        columns = 0 if get.get_int("transB", 0) else 1
        if right.axis not in (None, columns):
            return no(f"{right.value.name} has a scale for each row", y)
        return yes()

    def rewrite(self, op: Any, y: ir.Value, **_: Any) -> ir.Value:
        left, right, za, zb = self.operands(op, y)
        weights = right.value
        if _node(y).attributes.get_int("transB", 0):
            assert right.known is not None
            weights = _constant(op, np.ascontiguousarray(right.known.T), right.value, "transposed")
        total = op.MatMulInteger(left.value, weights, za, zb)
        bias = input_of(_node(y), 2)
        known = _known(bias)
        return self.scaled(op, total, left.scale * right.scale, y, bias if known is None else known)


# Conv(DequantizeLinear(x), DequantizeLinear(w), b) -> Cast(ConvInteger(x, w)) * (scale of x * scale of w) + b
class ConvOfBytes(_IntegerProduct):
    """The scale of w may be one for each channel out."""

    op_type = "Conv"

    def fits(self, y: ir.Value, left: _Bytes, right: _Bytes) -> MatchResult:
        if right.known is None:
            return no(f"the weights of {label(_node(y))} are computed at run time", right.value)
        if right.axis not in (None, 0):
            return no(f"{right.value.name} has a scale for each index of axis {right.axis}, not channel out", y)
        if np.unique(right.zero).size != 1:
            return no(f"{right.value.name} has a zero point for each channel out", y)
        bias = input_of(_node(y), 2)
        if bias is not None and _known(bias) is None:
            return no(f"the bias of {label(_node(y))} is computed at run time", bias)
        return yes()

    def rewrite(self, op: Any, y: ir.Value, **_: Any) -> ir.Value:
        left, right, zx = self.operands(op, y)[:3]
        zw = _constant(op, right.zero.reshape(-1)[:1].reshape(()), right.value, "zero")
        total = op.ConvInteger(left.value, right.value, zx, zw, **dict(_node(y).attributes))
        assert right.known is not None
        channel = (-1, *(1,) * (right.known.ndim - 2))
        factor, bias = np.asarray(left.scale * right.scale), _known(input_of(_node(y), 2))
        factor = factor.reshape(channel) if factor.size > 1 else factor
        return self.scaled(op, total, factor, y, None if bias is None else bias.reshape(channel))


def _node(y: ir.Value) -> ir.Node:
    node = y.producer()
    assert node is not None
    return node


def _known(value: ir.Value | None) -> Array | None:
    """The elements of a constant, or of a dequantised one."""
    if array(value) is not None:
        return array(value)
    node = producer(value, "DequantizeLinear")
    if node is None or node.attributes.get_int("block_size", 0) != 0:
        return None
    numbers, scale, zero = (array(input_of(node, k)) for k in range(3))
    if numbers is None or scale is None or numbers.ndim > 1 or (input_of(node, 2) is not None and zero is None):
        return None
    shifted = numbers if zero is None else numbers.astype(np.int64) - zero
    return np.asarray(shifted.astype(np.float32) * scale.astype(np.float32))


def _constant(op: Any, elements: Array, like: ir.Value, what: str) -> ir.Value:
    name = name_of(like, what)
    value: ir.Value = op.initializer(ir.tensor(elements, dtype=like.dtype, name=name), name=name)
    return value


def _float(op: Any, elements: Array, name: str) -> ir.Value:
    value: ir.Value = op.initializer(ir.tensor(elements.astype(np.float32), name=name), name=name)
    return value


RULES = (MatMulOfBytes, GemmOfBytes, ConvOfBytes)

_A = "a = DequantizeLinear(q, s, z)"
_SCALE = "s = Constant<value = float {0.05}>() z = Constant<value = uint8 {7}>()"
_W = """w = Constant<value = int8[4, 2] {1, -2, 3, 127, -128, 6, 7, 8}>() t = Constant<value = float[2] {0.5, 0.25}>()
    o = Constant<value = int8[2] {0, 3}>()"""
_K = """w = Constant<value = int8[2, 4, 1, 1] {1, -2, 3, 127, -128, 6, 7, 8}>()
    t = Constant<value = float[2] {0.5, 0.25}>() o = Constant<value = int8[2] {0, 0}>()
    b = Constant<value = float[2] {0.5, -1.5}>()"""
HITS = (
    f"g (uint8[N, 4] q) => (float[N, 2] y) {{ {_SCALE} {_W} {_A} d = DequantizeLinear(w, t, o) y = MatMul(a, d) }}",
    f"""g (uint8[N, 4] q) => (float[N, 2] y, float[N, 4] a) {{
        {_SCALE} {_W} {_A} d = DequantizeLinear(w, t, o) y = MatMul(a, d) }}""",
    f"""g (uint8[N, 3, 4] q, uint8[N, 4, 5] p) => (float[N, 3, 5] y) {{
        {_SCALE} {_A} b = DequantizeLinear(p, s) y = MatMul(a, b) }}""",
    f"""g (uint8[N, 4] q) => (float[N, 2] y) {{
        {_SCALE} w = Constant<value = int8[2, 4] {{1, -2, 3, 127, -128, 6, 7, 8}}>()
        t = Constant<value = float[2] {{0.5, 0.25}}>() i = Constant<value = int32[2] {{100, -200}}>()
        {_A} d = DequantizeLinear<axis = 0>(w, t) b = DequantizeLinear(i, s) y = Gemm<transB = 1>(a, d, b) }}""",
    f"""g (uint8[N, 4, 5, 6] q) => (float[N, 2, 7, 8] y) {{
        {_SCALE} {_K} {_A} d = DequantizeLinear<axis = 0>(w, t, o) y = Conv<pads = [1, 1, 1, 1]>(a, d, b) }}""",
)
NEAR_MISSES = (
    (
        f"""g (uint8[N, 4] q, float s) => (float[N, 2] y) {{
            {_W} a = DequantizeLinear(q, s) d = DequantizeLinear(w, t, o) y = MatMul(a, d) }}""",
        "is computed at run time",
    ),
    (
        f"""g (uint8[N, 4] q) => (float[N, 2] y) {{
            {_W} s = Constant<value = float[4] {{1., 2., 3., 4.}}>() a = DequantizeLinear(q, s)
            d = DequantizeLinear(w, t, o) y = MatMul(a, d) }}""",
        "has a scale for each index of an axis",
    ),
    (
        f"""g (uint8[N, 4] q) => (float[N, 2] y) {{
            {_SCALE} w = Constant<value = int8[4, 2] {{1, -2, 3, 127, -128, 6, 7, 8}}>()
            t = Constant<value = float[4] {{0.5, 0.25, 1., 2.}}>()
            {_A} d = DequantizeLinear<axis = 0>(w, t) y = MatMul(a, d) }}""",
        "not for each column",
    ),
)
