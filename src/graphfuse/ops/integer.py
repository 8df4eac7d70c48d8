"""Products of bytes, exact in int32: MatMulInteger, ConvInteger, QLinearMatMul, QLinearConv.

What is multiplied are the stored bytes, the second operand as int8. The zero points come in behind:

    sum (a - za) (b - zb) = sum a b - za (sum b - K zb) - zb sum a

so that with constant weights all that remains is one number for each column, and sums of rows only where zb is not 0.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from graphfuse.graph.dims import Dim, is_static
from graphfuse.graph.dtypes import F32, I8, I32, U8
from graphfuse.ops import expr as E
from graphfuse.ops.conv import kernel_of
from graphfuse.ops.expr import Const
from graphfuse.ops.quantize import along, requantized, single
from graphfuse.ops.registry import NotSupported, OpNode, op
from graphfuse.ops.samples import Sample, floats, ints, sample, scalar
from graphfuse.ops.tensor import (
    Contract,
    Tensor,
    Window,
    broadcast,
    constant,
    contract,
    map_,
    pad,
    reduce,
    reshape,
    size,
)
from graphfuse.ops.unfold import is_unpackable, unfolded
from graphfuse.ops.windows import sliding

BYTES = (I8, U8)
# Up to this size every integer is a float32.
_EXACT_FLOAT = 1 << 24


class Operand:
    """A tensor of bytes with its zero point, int32: an array where it is known, else a tensor."""

    def __init__(self, tensor: Tensor, known: np.ndarray | None, zero: np.ndarray | Tensor | None) -> None:
        if tensor.dtype not in BYTES:
            raise NotSupported(f"a product of {tensor.dtype.name.lower()} in int32")
        self.tensor, self.known = tensor, known
        self.zero: np.ndarray | Tensor = np.zeros((), np.int32) if zero is None else zero

    @classmethod
    def of(cls, node: OpNode, k: int, zero: int) -> Operand:
        """Input k of a node, whose zero point is another input, if there is one."""
        x, known, z = node.input(k), node.constant(zero), node.optional(zero)
        if known is not None:
            return cls(x, node.constant(k), known.astype(np.int32))
        return cls(x, node.constant(k), None if z is None else _i32(z))

    @property
    def is_plain(self) -> bool:
        """Whether the zero point is known to be 0."""
        return isinstance(self.zero, np.ndarray) and not self.zero.any()

    def shaped(self, rank: int, axis: int) -> Operand:
        """The zero point, a number or a vector, broadcast along one axis of a tensor of a rank."""
        shape = [-1 if k == axis else 1 for k in range(rank)]
        if isinstance(self.zero, Tensor):
            stand_in = Tensor((1,) * rank, I32)
            zero: np.ndarray | Tensor = along(self.zero, stand_in, axis) if self.zero.rank < 2 else self.zero
        elif self.zero.size == 1:
            zero = self.zero.reshape(())
        else:
            zero = self.zero.reshape(shape) if self.zero.ndim == 1 else self.zero
        return Operand(self.tensor, self.known, zero)

    def signed(self) -> Operand:
        """The same numbers as int8: what is unsigned moves down by 128, and its zero point with it."""
        if self.tensor.dtype == I8:
            return self
        if self.known is not None:
            moved = (self.known.astype(np.int16) - 128).astype(np.int8)
            x, known = constant(moved, "signed weights"), moved
        else:
            x, known = map_(lambda v: E.cast(E.binary("bitxor", v, 128), I8), self.tensor), None
        zero = map_(lambda z: z - 128, self.zero) if isinstance(self.zero, Tensor) else self.zero - np.int32(128)
        return Operand(x, known, zero)

    def zero_tensor(self) -> Tensor:
        return self.zero if isinstance(self.zero, Tensor) else constant(self.zero.astype(np.int32), "zero point")


def _i32(x: Tensor) -> Tensor:
    return map_(lambda v: E.cast(v, I32), x)


def _sum(x: Tensor, axes: Sequence[int]) -> Tensor:
    return reduce("sum", _i32(x), axes)


def matrix_product(a: Operand, b: Operand) -> Tensor:
    """(a - za)[..., M, K] times (b - zb)[..., K, N] in int32; zero points broadcast against the operands."""
    b = b.signed()
    k = a.tensor.shape[-1]
    if is_static(k, b.tensor.shape[-2]) and k != b.tensor.shape[-2]:
        raise NotSupported(f"the product of {list(a.tensor.shape)} and {list(b.tensor.shape)} is not defined")
    batch = broadcast(a.tensor.shape[:-2], b.tensor.shape[:-2])
    shape = (*batch, a.tensor.shape[-2], b.tensor.shape[-1])
    y = Tensor(shape, I32, Contract((a.tensor, b.tensor), "matmul"))
    if not a.is_plain:
        y = _less_columns(y, a, b, k)
    if not b.is_plain:
        y = map_(lambda v, s, z: v - s * z, y, _sum(a.tensor, (-1,)), b.zero_tensor())
    return y


def _less_columns(y: Tensor, a: Operand, b: Operand, k: Dim) -> Tensor:
    """y - za (sum b - K zb)."""
    if b.known is not None and isinstance(b.zero, np.ndarray) and isinstance(k, int):
        sums = b.known.astype(np.int32).sum(-2, keepdims=True, dtype=np.int32) - np.int32(k) * b.zero
        if isinstance(a.zero, np.ndarray) and a.zero.size == 1:
            return map_(lambda v, c: v - c, y, constant((sums * a.zero.reshape(())).astype(np.int32), "column sums"))
        return map_(lambda v, c, z: v - c * z, y, constant(sums.astype(np.int32), "column sums"), a.zero_tensor())
    columns = _sum(b.tensor, (-2,))
    if not b.is_plain:
        columns = map_(lambda s, z: s - z * E.cast(size(k), I32), columns, b.zero_tensor())
    return map_(lambda v, c, z: v - c * z, y, columns, a.zero_tensor())


def product_of_any_rank(a: Operand, b: Operand) -> Tensor:
    """As MatMul: a vector on the left is one row, on the right one column, and its size leaves the result."""
    if a.tensor.rank == 0 or b.tensor.rank == 0:
        raise NotSupported("a product with a tensor of rank 0")
    row, column = a.tensor.rank == 1, b.tensor.rank == 1
    left = Operand(reshape(a.tensor, (1, *a.tensor.shape)), None, a.zero) if row else a
    right = b
    if column:
        known = None if b.known is None else b.known[:, None]
        right = Operand(reshape(b.tensor, (*b.tensor.shape, 1)), known, b.zero)
    left = left.shaped(max(2, left.tensor.rank), left.tensor.rank - 2)
    right = right.shaped(max(2, right.tensor.rank), right.tensor.rank - 1)
    y = matrix_product(left, right)
    kept = [d for k, d in enumerate(y.shape) if not (row and k == y.rank - 2) and not (column and k == y.rank - 1)]
    return reshape(y, kept)


# ---------------------------------------------------------------- convolution


def convolution(x: Operand, w: Operand, window: Window, shape: Sequence[Dim]) -> Tensor:
    """The convolution of (x - zx) with (w - zw) in int32, borders counting as 0.

    zx is one number, zw one or one for each channel out.
    """
    known, zero = w.known, w.zero
    if known is None or isinstance(zero, Tensor):
        return _convolution_at_run_time(x, w, window, shape)
    differences = known.astype(np.int32) - zero.reshape([-1] + [1] * (known.ndim - 1))
    small = differences.astype(np.int8)
    padded = any(p != 0 for p in (*window.pads_before, *window.pads_after))
    movable = x.is_plain or not padded or isinstance(x.zero, np.ndarray)
    per_group = known.shape[1]
    if not np.array_equal(small, differences) or not movable or (window.groups > 1 and per_group % 4):
        return _wide_convolution(x, differences, window, shape)
    image = x.tensor
    if padded and not x.is_plain:
        assert isinstance(x.zero, np.ndarray)
        fill = Const(int(x.zero.reshape(())), image.dtype)
        image = pad(image, (0, 0, *window.pads_before), (0, 0, *window.pads_after), fill)
        none = (0,) * len(window.kernel)
        window = Window(window.kernel, window.strides, window.dilations, none, none, window.groups)
    y = Tensor(tuple(shape), I32, Contract((image, constant(small, "signed weights")), "conv", window))
    if x.is_plain:
        return y
    sums = differences.reshape(known.shape[0], -1).sum(1, dtype=np.int32).reshape(-1, *[1] * (known.ndim - 2))
    if isinstance(x.zero, np.ndarray):
        return map_(lambda v, c: v - c, y, constant((sums * x.zero.reshape(())).astype(np.int32), "sums of weights"))
    return map_(lambda v, c, z: v - c * z, y, constant(sums, "sums of weights"), single(x.zero, "the zero point"))


def _wide_convolution(x: Operand, w: np.ndarray, window: Window, shape: Sequence[Dim]) -> Tensor:
    """The differences convolved in float32, where all sums are exact there, else in int32."""
    largest = 255 * int(np.abs(w.astype(np.int64)).reshape(len(w), -1).sum(1).max(initial=0))
    dtype = F32 if largest < _EXACT_FLOAT else I32
    image = map_(lambda v, z: E.cast(E.cast(v, I32) - z, dtype), x.tensor, single(x.zero_tensor(), "the zero point"))
    y = contract("conv", (image, constant(w.astype(dtype.numpy()), "weights")), shape, window)
    return y if dtype == I32 else _i32(y)


def _convolution_at_run_time(x: Operand, w: Operand, window: Window, shape: Sequence[Dim]) -> Tensor:
    """The differences in int32, every window a column of a matrix: for weights that are computed."""
    image = map_(lambda v, z: E.cast(v, I32) - z, x.tensor, single(x.zero_tensor(), "the zero point"))
    zero = along(w.zero_tensor(), Tensor((1,) * w.tensor.rank, I32), 0)
    weights = map_(lambda v, z: E.cast(v, I32) - z, w.tensor, zero)
    if is_unpackable(weights, window, "conv"):
        return unfolded("conv", image, weights, shape, window)
    return contract("conv", (image, weights), shape, window)


def _convolved(node: OpNode, x: Operand, w: Operand) -> Tensor:
    kernel, groups = kernel_of(node, x.tensor, w.tensor), node.attr("group", 1)
    channels, outputs = int(w.tensor.shape[1]) * groups, int(w.tensor.shape[0])
    if isinstance(x.tensor.shape[1], int) and x.tensor.shape[1] != channels:
        raise NotSupported(f"the input has {x.tensor.shape[1]} channels where the kernel takes {channels}")
    if outputs % groups:
        raise NotSupported(f"{outputs} output channels do not divide into {groups} groups")
    window, out = sliding(node, x.tensor.shape[2:], kernel, groups)
    return convolution(x, w, window, (x.tensor.shape[0], outputs, *out))


# ---------------------------------------------------------------- ops


def bytes_of(*shape: int, signed: bool = False, seed: int = 0) -> np.ndarray:
    """Bytes of every value, the least and the largest among them, for samples."""
    low, high = (-128, 128) if signed else (0, 256)
    return ints(*shape, low=low, high=high, dtype=np.int8 if signed else np.uint8, seed=seed)


def _matmul_samples() -> list[Sample]:
    a, b = bytes_of(13, 17), bytes_of(17, 5, seed=1)
    signed = bytes_of(17, 5, signed=True, seed=1)
    onnx: dict[str, Any] = {"reference": "onnx"}
    return [
        sample(a, b),
        sample(a, signed, scalar(131, np.uint8), constants=[1]),
        sample(a, b, scalar(131, np.uint8), scalar(3, np.uint8), constants=[1, 2, 3]),
        sample(a, b, scalar(131, np.uint8), scalar(3, np.uint8)),
        sample(a, signed, None, ints(5, dtype=np.int8), constants=[1]),
        sample(bytes_of(13, 17, signed=True), signed, scalar(-7, np.int8), scalar(3, np.int8), **onnx),
        sample(bytes_of(2, 3, 13, 17), signed, scalar(9, np.uint8), constants=[1]),
        sample(bytes_of(2, 3, 5, 7), bytes_of(3, 7, 4), scalar(9, np.uint8), scalar(77, np.uint8), **onnx),
        sample(bytes_of(17), b, **onnx),
        sample(a, bytes_of(17), **onnx),
        sample(np.full((3, 300), 255, np.uint8), np.full((300, 2), -128, np.int8), scalar(0, np.uint8)),
        sample(np.full((3, 300), -128, np.int8), np.full((300, 2), -128, np.int8), scalar(127, np.int8), **onnx),
        sample(bytes_of(13, 17), bytes_of(18, 5), rejected="is not defined", reference="onnx"),
    ]


@op("MatMulInteger", samples=_matmul_samples)
def matmul_integer(node: OpNode) -> Tensor:
    return product_of_any_rank(Operand.of(node, 0, 2), Operand.of(node, 1, 3))


def _conv_samples() -> list[Sample]:
    x, w = bytes_of(2, 4, 9, 7), bytes_of(6, 4, 3, 3, seed=1)
    nine = scalar(9, np.uint8)
    onnx: dict[str, Any] = {"reference": "onnx"}
    return [
        sample(x, w, constants=[1]),
        sample(x, w, nine, constants=[1, 2], pads=[1, 1, 1, 1], strides=[2, 2]),
        sample(x, w, nine, scalar(128, np.uint8), constants=[1, 2, 3], pads=[0, 1, 2, 1], dilations=[2, 1]),
        sample(x, w, nine, constants=[1], pads=[1, 1, 1, 1]),
        sample(x, bytes_of(4, 1, 3, 3), nine, constants=[1, 2], group=4, auto_pad="SAME_UPPER"),
        sample(bytes_of(1, 8, 9), bytes_of(6, 4, 3), nine, scalar(128, np.uint8), constants=[1, 2, 3], group=2,
               pads=[1, 1]),
        sample(x, bytes_of(6, 4, 1, 1, signed=True), nine, ints(6, dtype=np.int8), constants=[1, 3], **onnx),
        sample(bytes_of(1, 200, 5, 5), np.full((2, 200, 3, 3), 255, np.uint8), constants=[1]),
        sample(x, w, nine, scalar(3, np.uint8), pads=[1, 0, 0, 1], symbolic=False),
        sample(x, bytes_of(6, 4, 1, 1), nine, symbolic=False),
    ]  # fmt: skip


@op("ConvInteger", samples=_conv_samples)
def conv_integer(node: OpNode) -> Tensor:
    x = Operand.of(node, 0, 2)
    if isinstance(x.zero, np.ndarray) and x.zero.size != 1:
        raise NotSupported("a zero point for each channel in")
    return _convolved(node, x, Operand.of(node, 1, 3))


def factor(node: OpNode, a: int, b: int, y: int | None, rank: int, axes: tuple[int, int]) -> Tensor:
    """a_scale * b_scale / y_scale, the scales being inputs that run along the given axes of a result of that rank."""
    stand_in = Tensor((1,) * rank, F32)
    known = [node.constant(k) for k in (a, b, y) if k is not None]
    if all(value is not None for value in known):
        arrays = [
            _array_along(v, rank, axis) for v, axis in zip(known, (*axes, axes[1]), strict=False) if v is not None
        ]
        total = arrays[0] * arrays[1] / arrays[2] if y is not None else arrays[0] * arrays[1]
        return constant(total.astype(np.float32), "factor")
    left, right = (along(node.input(k), stand_in, axis) for k, axis in zip((a, b), axes, strict=True))
    total_tensor = map_(lambda p, q: p * q, left, right)
    if y is None:
        return total_tensor
    return map_(lambda p, q: p / q, total_tensor, along(node.input(y), stand_in, axes[1]))


def _array_along(value: np.ndarray, rank: int, axis: int) -> np.ndarray:
    if value.size == 1:
        return value.reshape(())
    return value.reshape([-1 if k == axis else 1 for k in range(rank)]) if value.ndim == 1 else value


def zero_of(node: OpNode, k: int) -> Tensor | None:
    """The zero point of a result, None where it is known to be 0."""
    known = node.constant(k)
    if known is not None:
        return constant(known.reshape(()), "zero point") if np.any(known) else None
    zero = node.optional(k)
    return None if zero is None else single(zero, "the zero point")


def _qlinear_matmul_samples() -> list[Sample]:
    a, b = bytes_of(13, 17), bytes_of(17, 5, seed=1)
    scales = [scalar(0.02), scalar(0.03), scalar(0.9)]

    def case(a: np.ndarray, b: np.ndarray, za: int, zb: int, zy: int, constants: Sequence[int], **more: Any) -> Sample:
        zeros = [scalar(z, t) for z, t in ((za, a.dtype), (zb, b.dtype), (zy, a.dtype))]
        operands = (a, scales[0], zeros[0], b, scales[1], zeros[1], scales[2], zeros[2])
        return sample(*operands, constants=constants, **more)

    known = [1, 2, 3, 4, 5, 6, 7]
    columns = floats(5, low=0.01, high=0.05)
    signed, three = bytes_of(17, 5, signed=True, seed=1), scalar(3, np.uint8)
    return [
        case(a, b, 131, 120, 7, known),
        case(a, b, 131, 120, 7, []),
        case(a, signed, 131, 0, 7, known),
        case(bytes_of(13, 17, signed=True), signed, -3, 1, 7, known),
        case(bytes_of(2, 3, 7, 4), bytes_of(3, 4, 5), 131, 120, 7, [1, 2, 4, 5, 6, 7]),
        sample(a, scales[0], three, signed, columns, ints(5, dtype=np.int8), scales[2], three, constants=known),
    ]


@op("QLinearMatMul", samples=_qlinear_matmul_samples)
def qlinear_matmul(node: OpNode) -> Tensor:
    """y = saturate(round(product * (a_scale * b_scale / y_scale)) + y_zero_point)."""
    y = product_of_any_rank(Operand.of(node, 0, 2), Operand.of(node, 3, 5))
    scale = factor(node, 1, 4, 6, y.rank, (y.rank - 2, y.rank - 1))
    return requantized(y, scale, zero_of(node, 7), node.input(7).dtype)


def _qlinear_conv_samples() -> list[Sample]:
    x, w = bytes_of(2, 4, 9, 7), bytes_of(6, 4, 3, 3, seed=1)
    signed, columns = bytes_of(6, 4, 3, 3, signed=True, seed=1), floats(6, low=0.01, high=0.05)
    scales = (scalar(0.02), scalar(0.03), scalar(0.9))
    nine, known = scalar(9, np.uint8), list(range(1, 8))
    zeros = np.zeros(6, np.int8)
    bias = ints(6, low=-9999, high=9999)
    head = (x, scales[0], nine)
    return [
        sample(*head, w, scales[1], scalar(128, np.uint8), scales[2], nine, constants=known),
        sample(*head, signed, columns, zeros, scales[2], nine, bias, constants=[*known, 8], pads=[1, 1, 1, 1]),
        sample(*head, w, scales[1], nine, scales[2], nine, bias, constants=[*known, 8], strides=[2, 1]),
        sample(x, scales[0], scalar(0, np.uint8), signed, columns, zeros, scales[2], nine, constants=known,
               pads=[2, 1, 0, 1], dilations=[1, 2]),
        sample(x, scales[0], nine, bytes_of(8, 1, 3, 3), scales[1], nine, scales[2], nine, constants=known, group=4),
        sample(*head, w, scales[1], nine, scales[2], nine, constants=[3, 5], pads=[1, 0, 0, 1]),
        sample(bytes_of(1, 3, 11), scales[0], nine, bytes_of(5, 3, 4), scales[1], nine, scales[2], nine,
               constants=known, pads=[1, 1]),
    ]  # fmt: skip


@op("QLinearConv", samples=_qlinear_conv_samples)
def qlinear_conv(node: OpNode) -> Tensor:
    """y = saturate(round((convolution + B) * (x_scale * w_scale / y_scale)) + y_zero_point)."""
    y = _convolved(node, Operand.of(node, 0, 2), Operand.of(node, 3, 5))
    bias = node.optional(8)
    if bias is not None:
        y = map_(lambda v, b: v + b, y, along(bias, y, 1))
    scale = factor(node, 1, 4, 6, y.rank, (0, 1))
    return requantized(y, scale, zero_of(node, 7), node.input(7).dtype)
