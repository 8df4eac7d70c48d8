"""The scalar functions of expressions, in NumPy."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from graphfuse.graph.dtypes import DType
from graphfuse.ops.conversion import cast
from graphfuse.ops.expr import CASTS


def apply(fn: str, args: Sequence[np.ndarray], dtype: DType) -> np.ndarray:
    """A scalar function of `expr.FUNCTIONS` on arrays; the result has the given type."""
    target = dtype.numpy()
    if fn in CASTS:
        return cast(args[0], dtype, *CASTS[fn])
    if fn == "bitcast":
        return np.asarray(args[0]).view(target)
    if fn == "saturate":
        return _saturate(args[0], target)
    if fn in _EXACT:
        return np.asarray(_EXACT[fn](*args)).astype(target)
    if fn in _DIVIDING:
        return np.asarray(_DIVIDING[fn](*args)).astype(target)
    return np.asarray(_ROUNDED[fn](*(np.asarray(a, np.float64) for a in args))).astype(target)


def _saturate(x: np.ndarray, target: np.dtype[Any]) -> np.ndarray:
    least, most = np.iinfo(target).min, np.iinfo(target).max
    return np.where(np.isnan(x), least, np.clip(np.rint(x), least, most)).astype(target)


def _divide(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Division: exact for floats, towards zero for integers, where x / 0 is taken as 0."""
    if not is_integral(x):
        return np.divide(x, y)
    q = _floor_divide(x, y)
    inexact = (np.multiply(q, y) != x) & (y != 0)
    return np.where(inexact & ((x < 0) != (y < 0)), q + 1, q)


def _floor_divide(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return np.where(y == 0, 0, np.floor_divide(x, np.where(y == 0, 1, y)))


def _floor_mod(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    if not is_integral(x):
        return np.mod(x, y)
    return np.where(y == 0, 0, np.mod(x, np.where(y == 0, 1, y)))


def _fmod(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    if not is_integral(x):
        return np.fmod(x, y)
    return np.where(y == 0, 0, np.fmod(x, np.where(y == 0, 1, y)))


def _threefry(counter: np.ndarray, key: np.ndarray) -> np.ndarray:
    """64 random bits by Threefry-2x32 with 20 rounds; `gf_random.h` names the source."""
    mask = np.uint64(0xFFFFFFFF)
    counter, key = np.broadcast_arrays(np.asarray(counter, np.uint64), np.asarray(key, np.uint64))
    x = [counter & mask, counter >> np.uint64(32)]
    k = [key & mask, key >> np.uint64(32)]
    k.append(k[0] ^ k[1] ^ np.uint64(0x1BD11BDA))
    x = [(a + b) & mask for a, b in zip(x, k, strict=False)]
    for block in range(5):
        for turn in ((13, 15, 26, 6), (17, 29, 16, 24))[block % 2]:
            x[0] = (x[0] + x[1]) & mask
            x[1] = ((x[1] << np.uint64(turn)) | (x[1] >> np.uint64(32 - turn))) & mask ^ x[0]
        x[0] = (x[0] + k[(block + 1) % 3]) & mask
        x[1] = (x[1] + k[(block + 2) % 3] + np.uint64(block + 1)) & mask
    return x[0] | x[1] << np.uint64(32)


def is_integral(x: np.ndarray) -> bool:
    """Whether an array holds integers."""
    return np.issubdtype(np.asarray(x).dtype, np.integer)


_DIVIDING: dict[str, Callable[..., Any]] = {
    "div": _divide,
    "mod": _floor_mod,
    "floormod": _floor_mod,
    "fmod": _fmod,
    "floordiv": _floor_divide,
}

# In the type of the operands: exactly rounded, or wrapping around for integers.
_EXACT: dict[str, Callable[..., Any]] = {
    "add": np.add,
    "sub": np.subtract,
    "mul": np.multiply,
    "neg": np.negative,
    "min": np.minimum,  # NaN wins, as ONNX wants
    "max": np.maximum,
    "relu": lambda x: np.maximum(x, np.zeros((), x.dtype)),
    "abs": np.abs,
    "select": np.where,
    "lt": np.less,
    "le": np.less_equal,
    "gt": np.greater,
    "ge": np.greater_equal,
    "eq": np.equal,
    "ne": np.not_equal,
    "and": np.logical_and,
    "or": np.logical_or,
    "xor": np.logical_xor,
    "not": np.logical_not,
    "bitand": np.bitwise_and,
    "bitor": np.bitwise_or,
    "bitxor": np.bitwise_xor,
    "bitnot": np.bitwise_not,
    "shl": np.left_shift,
    "shr": np.right_shift,
    "threefry": _threefry,
    "floor": np.floor,
    "ceil": np.ceil,
    "round": np.rint,  # halves to even
    "trunc": np.trunc,
    "sign": np.sign,
    "isnan": np.isnan,
    "isinf": np.isinf,
    "sqrt": np.sqrt,
    "reciprocal": lambda x: np.divide(np.ones((), x.dtype), x),
}

_erf = np.vectorize(math.erf, otypes=[np.float64])

# In float64, then rounded.
_ROUNDED: dict[str, Callable[..., Any]] = {
    "exp": np.exp,
    "exp2": np.exp2,
    "log": np.log,
    "log1p": np.log1p,
    "expm1": np.expm1,
    "sigmoid": lambda x: 1 / (1 + np.exp(-x)),
    "softplus": lambda x: np.logaddexp(0, x),
    "tanh": np.tanh,
    "erf": _erf,
    "sin": np.sin,
    "cos": np.cos,
    "tan": np.tan,
    "asin": np.arcsin,
    "acos": np.arccos,
    "atan": np.arctan,
    "sinh": np.sinh,
    "cosh": np.cosh,
    "asinh": np.arcsinh,
    "acosh": np.arccosh,
    "atanh": np.arctanh,
    "pow": np.power,
}
