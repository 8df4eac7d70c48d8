"""Window functions and the filters of the mel scale."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
import onnx_ir as ir

from graphfuse.graph import dims as D
from graphfuse.graph.dims import Dim
from graphfuse.graph.dtypes import F64, I64, DType
from graphfuse.ops import expr as E
from graphfuse.ops.expr import Const, Expr
from graphfuse.ops.registry import OpNode, op
from graphfuse.ops.samples import Sample, sample, scalar
from graphfuse.ops.tensor import Tensor, constant, generate, load, size

# Cosines of the window's turn, its second harmonic, ...: as in the function bodies of the standard.
_WINDOWS = {
    "HannWindow": (0.5, -0.5),
    "HammingWindow": (25 / 46, -21 / 46),
    "BlackmanWindow": (0.42, -0.5, 0.08),
}


def _window_samples() -> list[Sample]:
    n = scalar(10, np.int64)
    return [
        sample(n, constants=[0]),
        sample(n, constants=[0], periodic=0),
        sample(scalar(7, np.int32), constants=[0], output_datatype=11),
        sample(n),
        sample(n, periodic=0),
    ]


def _window(name: str, weights: Sequence[float]) -> None:
    def lower(node: OpNode) -> Tensor:
        (n,) = node.dims(0) or node.measure(node.input(0))
        dtype = DType(node.attr("output_datatype", 1))
        turn = n if node.attr("periodic", 1) else D.add(n, -1)
        if isinstance(n, int):
            with np.errstate(all="ignore"):
                angle = 2 * np.pi * np.arange(n) / np.float64(int(turn))
            total = sum(w * np.cos(k * angle) for k, w in enumerate(weights))
            return constant(np.asarray(total).astype(dtype.numpy()), "window")

        def element(i: Sequence[Expr]) -> Expr:
            angle = E.cast(i[0], F64) * (2 * math.pi) / E.cast(size(turn), F64)
            total: Expr = Const(weights[0], F64)
            for k, w in enumerate(weights[1:], 1):
                total = total + E.unary("cos", angle * k) * w
            return E.cast(total, dtype)

        return generate((n,), element)

    op(name, samples=_window_samples)(lower)


for _name, _weights in _WINDOWS.items():
    _window(_name, _weights)


def _mel_samples() -> list[Sample]:
    bands = (scalar(8, np.int64), scalar(32, np.int64), scalar(8192, np.int64), scalar(60.0), scalar(3000.0))
    return [
        sample(*bands, constants=range(5)),
        sample(*bands),
        sample(*bands, constants=[0, 1]),
        sample(*bands, constants=range(5), output_datatype=11, reference="onnx"),
    ]


@op("MelWeightMatrix", samples=_mel_samples)
def mel_weight_matrix(node: OpNode) -> Tensor:
    """Triangles over the bins of a spectrum, their corners evenly spaced on the mel scale."""
    (bands,) = node.dims(0) or node.measure(node.input(0))
    (length,) = node.dims(1) or node.measure(node.input(1))
    dtype = DType(node.attr("output_datatype", 1))
    shape: tuple[Dim, Dim] = (D.add(D.floordiv(length, 2), 1), bands)
    known = [node.constant(k) for k in (2, 3, 4)]
    if all(k is not None for k in known) and isinstance(bands, int) and isinstance(length, int):
        rate, low, high = (float(k.reshape(()).item()) for k in known if k is not None)
        return constant(_mel_matrix(bands, length, rate, low, high).astype(dtype.numpy()), "mel")
    return generate(shape, _mel_element(node, bands, length, dtype), *(node.input(k) for k in (2, 3, 4)))


def _mel_matrix(bands: int, length: int, rate: float, low: float, high: float) -> np.ndarray:
    least, most = (2595 * math.log10(1 + f / 700) for f in (low, high))
    mels = least + np.arange(bands + 2) * ((most - least) / (bands + 2))
    corners = np.floor((length + 1) * (700 * (10 ** (mels / 2595) - 1)) / rate).astype(int)
    left, centre, right = corners[:-2], corners[1:-1], corners[2:]
    j = np.arange(length // 2 + 1)[:, None]
    with np.errstate(all="ignore"):
        rising = np.where(left == centre, j == centre, (j - left) / (centre - left))
        falling = (right - j) / (right - centre)
    matrix = np.where((j >= left) & (j <= centre), rising, 0.0)
    return np.where((j >= centre) & (j < right), falling, matrix)


def _mel_element(node: OpNode, bands: Dim, length: Dim, dtype: ir.DataType) -> Callable[[Sequence[Expr]], Expr]:
    def number(k: int) -> Expr:
        x = node.input(k)
        return E.cast(load(x, (Const(0, I64),) * x.rank), F64)

    def mel(f: Expr) -> Expr:
        return E.log(f / 700 + 1) * (2595 / math.log(10))

    def element(i: Sequence[Expr]) -> Expr:
        rate, low, high = number(2), number(3), number(4)
        step = (mel(high) - mel(low)) / E.cast(size(bands) + 2, F64)

        def corner(k: Expr) -> Expr:
            hertz = (E.exp((mel(low) + E.cast(k, F64) * step) * (math.log(10) / 2595)) - 1) * 700
            return E.unary("floor", hertz * E.cast(size(length) + 1, F64) / rate)

        j = E.cast(i[0], F64)
        left, centre, right = corner(i[1]), corner(i[1] + 1), corner(i[1] + 2)
        rising = E.where(E.equal(left, centre), 1, (j - left) / (centre - left))
        up = E.where(E.logical("and", j >= left, j <= centre), rising, 0)
        down = E.where(E.logical("and", j >= centre, j < right), (right - j) / (right - centre), up)
        return E.cast(down, dtype)

    return element
