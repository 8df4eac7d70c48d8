"""Random numbers: functions of an element's place, a seed and the node, so that every run draws the same.

The words come from a counter-based generator (`runtime/gf_random.h`): the counter is the element's row-major index, the
key the node's seed and a digest of the name of its result; the numbers of the iterations of loops around it are drawn
into the key. No state, no order: neither threads nor fusion change a draw, and two nodes with the same seed draw
different numbers. Uniform numbers have the same bits on every machine; normal ones go through logarithm and cosine,
which round as the machine's instructions do.
"""

from __future__ import annotations

import hashlib
import math
import struct
from collections.abc import Callable, Sequence

import numpy as np
import onnx_ir as ir

from graphfuse.graph.dims import Dim
from graphfuse.graph.dtypes import BF16, BOOL, F16, F32, F64, I32, I64, U32, U64, DType
from graphfuse.ops import expr as E
from graphfuse.ops.expr import Const, Expr
from graphfuse.ops.registry import NotSupported, OpNode, op
from graphfuse.ops.samples import floats, ints, sample, scalar
from graphfuse.ops.tensor import Tensor, generate, map_, reduce, reshape, size

_FLOATS = (F16, BF16, F32, F64)


def _key(node: OpNode) -> int:
    """64 bits: the seed's own (a float32 by the standard, an integer for dropout) below those of the result's name."""
    seed = node.attr("seed", 0)
    low = struct.unpack("<I", struct.pack("<f", seed))[0] if isinstance(seed, float) else int(seed) % 2**32
    name = next((v.name for v in node.node.outputs if v.name), "")
    high = int.from_bytes(hashlib.sha256(name.encode()).digest()[:4], "little")
    return high << 32 | low


def _words(node: OpNode, shape: Sequence[Dim], body: Callable[[Callable[[int], Expr]], Expr]) -> Tensor:
    """A tensor of random elements: `body` makes one from words(k), the k-th draw of 64 bits for its place."""
    key: Expr = Const(_key(node), U64)
    for number in node.rounds:
        key = E.Call("threefry", (E.cast(size(number), U64), key), U64)

    def element(i: Sequence[Expr]) -> Expr:
        place: Expr = Const(0, I64)
        for d, e in zip(shape, i, strict=True):
            place = place * size(d) + e
        counter = E.cast(place, U64)
        # No tensor has 2^56 elements, so the upper bits tell the draws for one element apart.
        return body(lambda k: E.Call("threefry", (E.binary("bitxor", counter, k << 56), key), U64))

    return generate(shape, element)


def _bits(word: Expr, first: int, count: int) -> Expr:
    """`count` bits of a word from bit `first` on, as an int64 that converts to a float without rounding."""
    shifted = E.binary("shr", word, first)
    return E.cast(shifted if first + count == 64 else E.binary("bitand", shifted, 2**count - 1), I64)


def _unit(word: Expr) -> Expr:
    """A float32 in [0, 1), a multiple of 2^-24."""
    return E.cast(E.cast(_bits(word, 40, 24), I32), F32) * 2.0**-24


def _uniform(node: OpNode, shape: Sequence[Dim], dtype: DType) -> Tensor:
    """low + u * (high - low), so that a machine that rounds product and sum at once finds the same bits.

    The products are exact in float64: a float32 times 24 bits, or in two steps times 26 and 27 bits.
    """
    low, high = (float(np.float32(node.attr(name, default))) for name, default in (("low", 0.0), ("high", 1.0)))
    width = float(np.float32(high - low))

    def single(words: Callable[[int], Expr]) -> Expr:
        if (low, width) == (0.0, 1.0):
            return E.cast(_unit(words(0)), dtype)
        u = E.cast(E.cast(_bits(words(0), 40, 24), I32), F64)
        return E.cast(E.cast(u * (width * 2.0**-24) + low, F32), dtype)

    def double(words: Callable[[int], Expr]) -> Expr:
        upper, lower = (E.cast(_bits(words(0), *bits), F64) for bits in ((38, 26), (11, 27)))
        return upper * (width * 2.0**-26) + low + lower * (width * 2.0**-53)

    return _words(node, shape, double if dtype == F64 else single)


def _normal(node: OpNode, shape: Sequence[Dim], dtype: DType) -> Tensor:
    """mean + scale * sqrt(-2 log u) * cos(2 pi v), after Box and Muller (1958)."""
    mean, scale = float(node.attr("mean", 0.0)), float(node.attr("scale", 1.0))

    def single(words: Callable[[int], Expr]) -> Expr:
        # u in (0, 1]: all of 32 bits, so that the tail reaches 6.7 deviations.
        u = (E.cast(E.cast(words(0), U32), F32) + 0.5) * 2.0**-32
        v = _unit(words(0))
        return E.cast(_deviate(u, v) * scale + mean, dtype)

    def double(words: Callable[[int], Expr]) -> Expr:
        u = (E.cast(_bits(words(0), 11, 53), F64) + 0.5) * 2.0**-53
        v = E.cast(_bits(words(1), 11, 53), F64) * 2.0**-53
        return _deviate(u, v) * scale + mean

    return _words(node, shape, double if dtype == F64 else single)


def _deviate(u: Expr, v: Expr) -> Expr:
    return E.sqrt(E.log(u) * -2.0) * E.unary("cos", v * (2 * math.pi))


Draw = Callable[[OpNode, Sequence[Dim], DType], Tensor]


def _plain(draw: Draw) -> Callable[[OpNode], Tensor]:
    def lower(node: OpNode) -> Tensor:
        shape = tuple(int(d) for d in node.attr("shape", ()))
        return draw(node, shape, _float(ir.DataType(node.attr("dtype", F32))))

    return lower


def _like(draw: Draw) -> Callable[[OpNode], Tensor]:
    def lower(node: OpNode) -> Tensor:
        x = node.input(0)
        return draw(node, x.shape, _float(ir.DataType(node.attr("dtype", x.dtype))))

    return lower


def _float(dtype: DType) -> DType:
    if dtype not in _FLOATS:
        raise NotSupported(f"random numbers of type {dtype.name}")
    return dtype


# Samples can say nothing about numbers that no other generator draws: these are the cases without a choice. What is
# drawn is tested in tests/ops/test_random.py.
op(
    "RandomUniform",
    samples=lambda: [
        sample(shape=[13, 17], low=1.5, high=1.5),
        sample(shape=[3], low=-2.0, high=-2.0, dtype=int(F64), seed=3.0),
        sample(shape=[3], dtype=int(I64), rejected="INT64"),
    ],
)(_plain(_uniform))

op(
    "RandomNormal",
    samples=lambda: [
        sample(shape=[13, 17], mean=1.5, scale=0.0),
        sample(shape=[0, 3], mean=1.0),
        sample(shape=[3], mean=-2.0, scale=0.0, dtype=int(F64)),
    ],
)(_plain(_normal))

op(
    "RandomUniformLike",
    samples=lambda: [
        sample(floats(13, 17), low=1.5, high=1.5),
        sample(ints(5), low=1.0, high=1.0, dtype=int(F32)),
        sample(ints(5), rejected="INT32"),
    ],
)(_like(_uniform))

op(
    "RandomNormalLike",
    samples=lambda: [
        sample(floats(13, 17), mean=1.5, scale=0.0),
        sample(ints(5), mean=1.0, scale=0.0, dtype=int(F64)),
    ],
)(_like(_normal))


@op(
    "Bernoulli",
    samples=lambda: [
        sample(np.array([[0, 1, 1], [1, 0, 0]], np.float32)),
        sample(np.array([0, 1], np.float64), dtype=int(BOOL)),
        sample(np.array([0, 1], np.float32), dtype=int(I64), seed=2.0),
    ],
)
def bernoulli(node: OpNode) -> Tensor:
    """One with the probability that the input says: where a uniform number lies below it."""
    p = node.input(0)
    u = _words(node, p.shape, lambda words: _unit(words(0)))
    target = ir.DataType(node.attr("dtype", p.dtype))
    return map_(lambda a, b: E.cast(E.compare("lt", a, E.cast(b, F32)), target), u, p)


@op("Multinomial", samples=lambda: [sample(floats(3), rejected="rank 1")])
def multinomial(node: OpNode) -> Tensor:
    """Classes by unnormalised logarithms of probabilities: the largest after a Gumbel number is added to each.

    Maddison, Tarlow, Minka: "A* sampling" (2014), section 2.
    """
    x = node.input(0)
    if x.rank != 2:
        raise NotSupported(f"an input of rank {x.rank}")
    batch, classes = x.shape
    count = node.attr("sample_size", 1)

    def gumbel(words: Callable[[int], Expr]) -> Expr:
        u = (E.cast(E.cast(_bits(words(0), 41, 23), I32), F32) + 0.5) * 2.0**-23  # neither 0 nor 1
        return -E.log(-E.log(u))

    noise = _words(node, (batch, count, classes), gumbel)
    scores = map_(lambda a, b: a + E.cast(b, F32), noise, reshape(x, (batch, 1, classes)))
    picked = reshape(reduce("argmax", scores, (2,)), (batch, count))
    return map_(lambda v: E.cast(v, ir.DataType(node.attr("dtype", I32))), picked)


@op(
    "Dropout",
    samples=lambda: [
        sample(floats(13, 17)),
        sample(floats(13, 17), scalar(0.9), constants=[1], outputs=2),
        sample(floats(3), scalar(0.0), scalar(True, bool), constants=[1, 2], outputs=2),
        sample(floats(13, 17), scalar(0.0), scalar(True, bool), outputs=2),
        sample(floats(13, 17), scalar(0.7), scalar(False, bool), outputs=2),
        sample(floats(5, dtype=np.float64), scalar(0.0), scalar(True, bool), constants=[2]),
    ],
)
def dropout(node: OpNode) -> list[Tensor]:
    """At inference the input itself, and a mask of ones; in training what the mask keeps, divided by its share."""
    x, training, known = node.input(0), node.optional(2), node.constant(2)
    if training is None or (known is not None and not known.reshape(())):
        return [x, generate(x.shape, lambda _: Const(True, BOOL))]
    u = _words(node, x.shape, lambda words: _unit(words(0)))
    ratio = _ratio(node)
    if known is not None:
        mask = map_(lambda a, r: E.compare("ge", a, r), u, ratio)
        return [map_(_kept, mask, x, ratio), mask]
    mask = map_(lambda a, r, t: E.logical("or", E.logical("not", t), E.compare("ge", a, r)), u, ratio, training)
    kept = map_(lambda m, v, r, t: E.where(t, _kept(m, v, r), v), mask, x, ratio, training)
    return [kept, mask]


def _ratio(node: OpNode) -> Tensor:
    """The share that is dropped, as one float32."""
    known, given = node.constant(1), node.optional(1)
    if given is None or known is not None:
        value = 0.5 if known is None else float(known.reshape(()))
        return generate((), lambda _: Const(value, F32))
    return map_(lambda r: E.cast(r, F32), given)


def _kept(mask: Expr, x: Expr, ratio: Expr) -> Expr:
    scale = E.cast(1.0 / (1.0 - ratio), x.dtype)
    return E.where(mask, x * scale, 0)
