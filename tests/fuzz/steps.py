"""Steps of a drawing: each appends a node or a few, of random form, over values that are there. They raise Unfit."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import prod
from typing import Any

import numpy as np
from onnx import TensorProto, helper

from fuzz.draw import SYMBOLS, Array, Drawing, Unfit, depends, numbers

Step = Callable[[Drawing], None]

UNARY = [
    "Abs",
    "Acos",
    "Acosh",
    "Asin",
    "Asinh",
    "Atan",
    "Atanh",
    "Ceil",
    "Celu",
    "Cos",
    "Cosh",
    "Elu",
    "Erf",
    "Exp",
    "Floor",
    "Gelu",
    "HardSigmoid",
    "HardSwish",
    "Identity",
    "IsInf",
    "IsNaN",
    "LeakyRelu",
    "Log",
    "Mish",
    "Neg",
    "Reciprocal",
    "Relu",
    "Round",
    "Selu",
    "Shrink",
    "Sigmoid",
    "Sign",
    "Sin",
    "Sinh",
    "Softplus",
    "Softsign",
    "Sqrt",
    "Tan",
    "Tanh",
    "ThresholdedRelu",
]
CALM = ["Relu", "Tanh", "Neg", "Sigmoid", "Abs", "Softplus", "HardSwish", "Elu", "Erf", "Gelu"]
REDUCTIONS = [
    "ReduceL1",
    "ReduceL2",
    "ReduceLogSum",
    "ReduceLogSumExp",
    "ReduceMax",
    "ReduceMean",
    "ReduceMin",
    "ReduceProd",
    "ReduceSum",
    "ReduceSumSquare",
]
TYPES = [
    TensorProto.FLOAT,
    TensorProto.DOUBLE,
    TensorProto.INT32,
    TensorProto.INT64,
    TensorProto.BOOL,
    TensorProto.FLOAT16,
]
SMALL_TYPES = [TensorProto.INT8, TensorProto.UINT8, TensorProto.INT16, TensorProto.UINT16, TensorProto.BFLOAT16]


def unary(d: Drawing) -> None:
    d.add(d.any(CALM if d.chance(0.5) else UNARY), [d.value("f")])


def unary_integer(d: Drawing) -> None:
    x = d.value("i", "u", "b")
    op = "Not" if d.values[x].dtype == bool else d.one("Neg", "Abs", "Sign", "BitwiseNot", "Identity", "Relu")
    d.add(op, [x])


def partner(d: Drawing, x: str, constants: float = 0.5) -> str:
    """A second operand of the same type that broadcasts against x: a value, or a constant."""
    array = d.values[x]
    if not d.chance(constants):
        fitting = [y for y, v in d.values.items() if v.dtype == array.dtype and broadcasts(array.shape, v.shape)]
        return str(d.any(fitting[-8:]))
    rank = d.pick.randint(0, array.ndim) if d.chance(0.9) else array.ndim + 1
    shape = [
        d.one(1, array.shape[-1 - k]) if k < array.ndim and not depends(array.shape[-1 - k]) else 1 for k in range(rank)
    ]
    return d.constant(nice(d, shape[::-1], array.dtype))


def nice(d: Drawing, shape: Sequence[int], dtype: Any) -> Array:
    """Elements for a constant: now and then all alike, and neutral or extreme."""
    if d.chance(0.3):
        special = [0, 1, 2, -1, 0.5, 3, -0.0, 6, 100] if np.dtype(dtype).kind == "f" else [0, 1, 2, 3]
        return np.full(shape, d.any(special)).astype(dtype)
    return numbers(d.noise(), shape, dtype)


def broadcasts(a: Sequence[int], b: Sequence[int]) -> bool:
    try:
        shape = np.broadcast_shapes(tuple(a), tuple(b))
    except ValueError:
        return False
    return prod(shape) <= 3000


def binary(d: Drawing) -> None:
    x = d.value("f", "i") if d.chance(0.8) else d.value("f")
    whole = d.values[x].dtype.kind == "i"  # quotients by zero and negative powers are undefined
    op = d.one(
        "Add", "Mul", "Sub", "Add", "Mul", "Sub", "Max", "Min", *[] if whole else ["Div", "Pow"], "PRelu", "Mean", "Sum"
    )
    pair = [x, partner(d, x)]
    if d.chance(0.5) and op != "PRelu":
        pair.reverse()
    if op in ("Max", "Min", "Sum", "Mean") and d.chance(0.3):
        pair.append(partner(d, x))
    d.add(op, pair)


def modulo(d: Drawing) -> None:
    x = d.value("i", "u", "f")
    v = d.values[x]
    divisor = d.constant(d.one(2, 3, 7, 5, *[] if v.dtype.kind == "u" else [-2, -3]), v.dtype)
    if v.dtype.kind == "f" or d.chance(0.6):
        d.add("Mod", [x, divisor], fmod=1 if v.dtype.kind == "f" else d.one(0, 1))
    else:
        d.add("Div", [x, divisor])


def compare(d: Drawing) -> None:
    x = d.value("i", "f", exact=True)
    y = partner(d, x)
    if y in d.exact:
        d.add(d.one("Greater", "Less", "Equal", "GreaterOrEqual", "LessOrEqual"), [x, y])


def logic(d: Drawing) -> None:
    x = d.value("b")
    d.add(d.one("And", "Or", "Xor"), [x, partner(d, x, 0.2)])


def bits(d: Drawing) -> None:
    x = d.value("i", "u")
    y = partner(d, x)
    if d.values[x].dtype.kind == "u" and d.chance(0.5):
        d.add("BitShift", [x, y], direction=d.one("LEFT", "RIGHT"))
    else:
        d.add(d.one("BitwiseAnd", "BitwiseOr", "BitwiseXor"), [x, y])


def where(d: Drawing) -> None:
    x, condition = d.value(), d.value("b")
    if not broadcasts(d.values[x].shape, d.values[condition].shape):
        raise Unfit
    d.add("Where", [condition, *d.one([x, partner(d, x)], [partner(d, x), x])])


def clip(d: Drawing) -> None:
    x = d.value("f", "i")
    low, high = sorted(int(v) for v in d.noise().integers(-3, 7, 2))
    bounds = [d.constant(v, d.values[x].dtype) for v in (low, high)]
    d.add("Clip", [x, *d.one(bounds, bounds, bounds[:1], ["", bounds[1]])])


def cast(d: Drawing) -> None:
    x = d.value()
    target = d.any(TYPES if d.chance(0.8) else SMALL_TYPES)
    dtype = helper.tensor_dtype_to_np_dtype(target)
    if d.values[x].dtype.kind in "fV" and dtype.kind in "iu":
        limits, data = np.iinfo(dtype), d.values[x].astype(np.float64)
        if not ((data > max(limits.min, -(2.0**31))) & (data < min(limits.max, 2.0**31))).all():
            raise Unfit  # out of range is undefined
        d.fixed = True
    d.add("Cast", [x], to=target)


def some_axes(d: Drawing, rank: int) -> list[int]:
    axes = [k for k in range(rank) if d.chance(0.4)] or [d.pick.randrange(rank)]
    return [k - rank if d.chance(0.3) else k for k in axes]


def reduce(d: Drawing) -> None:
    x = d.value("f", "f", "i", least=1)
    op = d.any(REDUCTIONS) if d.chance(0.6) else d.one("ReduceSum", "ReduceMean", "ReduceMax")
    if op.startswith("ReduceLog") and d.values[x].dtype.kind == "i":
        raise Unfit  # logarithms of what is negative, or rounded on the way
    form = [x, d.integers(*some_axes(d, d.values[x].ndim))] if d.chance(0.9) else [x]
    d.add(op, form, keepdims=d.one(0, 1), noop_with_empty_axes=d.one(0, 0, 1))


def arg(d: Drawing) -> None:
    x = d.value("f", "i", least=1, exact=True)
    axis = some_axes(d, d.values[x].ndim)[0]
    d.add(d.one("ArgMax", "ArgMin"), [x], axis=axis, keepdims=d.one(0, 1), select_last_index=d.one(0, 1))


def along(d: Drawing) -> None:
    x = d.value("f", least=1)
    op = d.one("Softmax", "Softmax", "LogSoftmax", "LpNormalization", "Hardmax")
    more = {"p": d.one(1, 2)} if op == "LpNormalization" else {}
    d.add(op, [x], axis=some_axes(d, d.values[x].ndim)[0], **more)


def layer_norm(d: Drawing) -> None:
    x = d.value("f", least=1)
    shape = d.values[x].shape
    axis = d.pick.randrange(len(shape))
    rest = shape[axis:]
    if any(depends(n) for n in rest):
        raise Unfit
    scale = d.constant(numbers(d.noise(), rest, d.values[x].dtype))
    if d.chance(0.3):
        d.add("RMSNormalization", [x, scale], axis=axis)
    else:
        bias = [d.constant(numbers(d.noise(), rest, d.values[x].dtype))] if d.chance(0.7) else []
        d.add("LayerNormalization", [x, scale, *bias], axis=axis, epsilon=d.one(1e-5, 1e-3))


def channel_norm(d: Drawing) -> None:
    x = d.value("f", least=2)
    dtype, c = d.values[x].dtype, d.values[x].shape[1]
    if depends(c) or c == 0:
        raise Unfit
    vector = [d.constant(numbers(d.noise(), [c], dtype)) for _ in range(3)]
    op = d.one("BatchNormalization", "BatchNormalization", "InstanceNormalization", "GroupNormalization", "LRN")
    if op == "BatchNormalization":
        variance = d.constant(np.abs(numbers(d.noise(), [c], dtype)) + 0.5, dtype)
        d.add(op, [x, *vector, variance], epsilon=d.one(1e-5, 0.1))
    elif op == "LRN":
        d.add(op, [x], size=d.one(1, 3, 5), alpha=0.1, bias=d.one(1.0, 2.0))
    elif op == "GroupNormalization":
        d.add(op, [x, *vector[:2]], num_groups=d.any([g for g in range(1, c + 1) if c % g == 0]))
    elif not d.values[x].size:
        raise Unfit  # onnxruntime dies of them
    else:
        d.add(op, [x, *vector[:2]])


def transpose(d: Drawing) -> None:
    x = d.value(least=1)
    rank = d.values[x].ndim
    d.add("Transpose", [x], perm=d.pick.sample(range(rank), rank))


def reshape(d: Drawing) -> None:
    """Join neighbouring axes, split one, drop or add one of size 1; a symbol is spelled -1 or 0."""
    x = d.value()
    shape = list(d.values[x].shape)
    how = d.one("join", "split", "one", "flatten", "flat")
    splits = [(k, f) for k, n in enumerate(shape) for f in (2, 3, 4) if n > f and n % f == 0 and not depends(n // f)]
    if how == "join" and len(shape) > 1:
        k = d.pick.randrange(len(shape) - 1)
        shape[k : k + 2] = [shape[k] * shape[k + 1]]
    elif how == "split" and splits:
        k, f = d.any(splits)
        shape[k : k + 1] = d.one([shape[k] // f, f], [f, shape[k] // f])
    elif how == "one":
        shape.insert(d.pick.randint(0, len(shape)), 1)
    elif how == "flatten":
        d.add("Flatten", [x], axis=d.pick.randint(-len(shape), len(shape)))
        return
    else:
        shape = [prod(shape)]
    old = d.values[x].shape
    spelled = [0 if depends(n) and k < len(old) and old[k] == n and d.chance(0.6) else n for k, n in enumerate(shape)]
    spelled = [-1 if depends(n) else n for n in spelled]
    if -1 not in spelled and spelled and d.chance(0.3) and prod(shape):
        spelled[d.pick.randrange(len(spelled))] = -1
    if spelled.count(-1) > 1 or len(shape) > 6:
        raise Unfit
    d.add("Reshape", [x, d.integers(*spelled)])


def ones(d: Drawing) -> None:
    x = d.value()
    shape = d.values[x].shape
    if 1 in shape and d.chance(0.5):
        axes = [k for k, n in enumerate(shape) if n == 1 and d.chance(0.7)]
        d.add("Squeeze", [x, d.integers(*axes)] if axes else [x])
    elif len(shape) < 5:
        d.add("Unsqueeze", [x, d.integers(*some_axes(d, len(shape) + 1)[:2])])


def slice_(d: Drawing) -> None:
    x = d.value(least=1)
    shape = d.values[x].shape
    axes = [k for k in range(len(shape)) if d.chance(0.5)] or [0]
    # Along a symbol: what every size has.
    starts = [d.one(0, 1, -1, -3, 2) if not depends(shape[k]) else d.one(0, 0, -1) for k in axes]
    ends = [d.one(2**31, -1, 2, 2**62, -(2**62), 9) if not depends(shape[k]) else d.one(2**31, 2**62) for k in axes]
    steps = [d.one(1, 1, 1, 2, 3, -1, -2) for _ in axes]
    starts = [d.one(-1, 2**31) if t < 0 else s for s, t in zip(starts, steps, strict=True)]
    ends = [d.one(-(2**62), 0, -9) if t < 0 else e for e, t in zip(ends, steps, strict=True)]
    signed = [k - len(shape) if d.chance(0.2) else k for k in axes]
    d.add("Slice", [x, *(d.integers(*v) for v in (starts, ends, signed, steps))])


def split(d: Drawing) -> None:
    x = d.value(least=1)
    axes = [k for k in d.known_axes(x) if d.values[x].shape[k] > 1]
    axis = d.any(axes)
    n = d.values[x].shape[axis]
    if d.chance(0.5):
        d.add("Split", [x], count=2, axis=axis, num_outputs=2)
    else:
        first = d.pick.randint(0, n)
        d.add("Split", [x, d.integers(first, n - first)], count=2, axis=axis)


def concat(d: Drawing) -> None:
    x = d.value(least=1)
    v = d.values[x]
    axes = d.known_axes(x)
    k = d.any(axes)
    rest = [
        y for y, w in d.values.items()
        if w.dtype == v.dtype and w.ndim == v.ndim and w.shape[:k] + w.shape[k + 1 :] == v.shape[:k] + v.shape[k + 1 :]
    ]  # fmt: skip
    parts = [x, *(d.any(rest) for _ in range(d.one(0, 1, 1, 2)))]
    if d.is_known(x) and d.chance(0.2):
        parts.append(d.constant(nice(d, v.shape, v.dtype)))
    d.pick.shuffle(parts)
    d.add("Concat", parts, axis=d.one(k, k - v.ndim))


def pad(d: Drawing) -> None:
    x = d.value("f", "i", least=1)
    shape = d.values[x].shape
    mode = d.one("constant", "constant", "edge", "reflect", "wrap")
    low = -1 if mode == "constant" and d.chance(0.2) else 0
    widths = [
        0 if depends(n) else d.pick.randint(low, min(2, n - 1) if mode != "constant" else 2) if n else 0
        for n in shape * 2
    ]
    fill = [d.constant(d.one(0, 1, -2), d.values[x].dtype)] if mode == "constant" and d.chance(0.5) else []
    d.add("Pad", [x, d.integers(*widths), *fill], mode=mode)


def expand(d: Drawing) -> None:
    x = d.value()
    wanted = [d.one(1, 2, 3, 5) if n == 1 else d.one(1, n) if not depends(n) else 1 for n in d.values[x].shape]
    d.add("Expand", [x, d.integers(*[d.one(1, 2)][: d.one(0, 0, 1)], *wanted)])


def tile(d: Drawing) -> None:
    x = d.value(least=1)
    d.add("Tile", [x, d.integers(*(d.one(1, 1, 2, 3) for _ in d.values[x].shape))])


def gather(d: Drawing) -> None:
    x = d.value(least=1)
    axes = [k for k in d.known_axes(x) if d.values[x].shape[k]]
    k = d.any(axes)
    n, v = d.values[x].shape[k], d.values[x]
    op = d.one("Gather", "Gather", "GatherElements", "Gather computed")
    if op == "Gather computed":
        index = d.value("i", "u")
        if d.values[index].dtype not in (np.int32, np.int64):
            raise Unfit
        low, high = (d.constant(b, d.values[index].dtype) for b in (-n, n - 1))
        d.add("Gather", [x, d.add("Clip", [index, low, high])], axis=k)
        return
    shape = (
        [d.size() for _ in range(d.one(0, 1, 1, 2))] if op == "Gather" else [1 if depends(s) else s for s in v.shape]
    )
    index = d.constant(d.noise().integers(-n, n, shape), d.one(np.int64, np.int32))
    d.add(op, [x, index], axis=d.one(k, k - v.ndim))


def matmul(d: Drawing) -> None:
    x = d.value("f", least=1)
    shape, dtype = d.values[x].shape, d.values[x].dtype
    inner = shape[-1]
    if depends(inner):
        raise Unfit
    outer = d.size()
    lead = d.one([], [], [], [s if not depends(s) else 1 for s in shape[:-2]])
    w = d.constant((numbers(d.noise(), [*lead, inner, outer], dtype) / np.sqrt(max(1, inner))).astype(dtype))
    if len(shape) == 2 and d.chance(0.4):
        turned = d.one(0, 1)
        weights = d.constant(
            np.ascontiguousarray(d.values[w].reshape(inner, outer).T if turned else d.values[w].reshape(inner, outer))
        )
        bias = [d.constant(nice(d, d.one([outer], [1, outer], [], [1]), dtype))] if d.chance(0.7) else []
        d.add("Gemm", [x, weights, *bias], transB=turned, alpha=d.one(1.0, 0.5), beta=d.one(1.0, 2.0))
    elif d.chance(0.15) and len(shape) >= 2 and not depends(shape[-2]):
        left = d.constant((numbers(d.noise(), [d.size(), shape[-2]], dtype) / np.sqrt(max(1, shape[-2]))).astype(dtype))
        d.add("MatMul", [left, x])
    else:
        d.add("MatMul", [x, w])


def scores(d: Drawing) -> None:
    """A product of two computed values, as in attention."""
    x = d.value("f", least=2)
    rank = d.values[x].ndim
    turned = d.add("Transpose", [x], perm=[*range(rank - 2), rank - 1, rank - 2])
    d.add("MatMul", d.one([x, turned], [turned, x]))


def window(d: Drawing) -> None:
    x = d.value("f", least=3)
    v = d.values[x]
    if v.ndim > 5 or depends(v.shape[1]) or not v.shape[1]:
        raise Unfit
    rank = v.ndim - 2
    kernel = [d.one(1, 2, 3, 3) for _ in range(rank)]
    attrs: dict[str, Any] = {}
    strides = [d.one(1, 1, 2, 3) for _ in range(rank)] if d.chance(0.5) else [1] * rank
    if any(s != 1 for s in strides) or d.chance(0.1):
        attrs["strides"] = strides
    if d.chance(0.2):
        attrs["dilations"] = [d.one(1, 2) for _ in range(rank)]
    attrs |= d.one({"pads": [k // 2 for k in kernel] * 2}, {"auto_pad": d.one("SAME_UPPER", "SAME_LOWER")}, {})
    if "auto_pad" in attrs:
        attrs.pop("dilations", None)
    kind = d.one(
        "Conv",
        "Conv",
        "depthwise",
        "MaxPool",
        "AveragePool",
        "ConvTranspose",
        "GlobalAveragePool",
        "GlobalMaxPool",
        "LpPool",
    )
    if kind.startswith("Global"):
        d.add(kind, [x])
    elif kind in ("MaxPool", "AveragePool", "LpPool"):
        more = {"count_include_pad": 1} if kind == "AveragePool" and d.chance(0.4) else {}
        d.add(kind, [x], kernel_shape=kernel, ceil_mode=d.one(0, 0, 1), **attrs, **more)
    else:
        if kind == "ConvTranspose" and "auto_pad" in attrs and any(s > k for s, k in zip(strides, kernel, strict=True)):
            raise Unfit  # less than nothing would have to be cut off: the references make three things of it
        filters(d, x, kind, kernel, attrs)


def filters(d: Drawing, x: str, kind: str, kernel: list[int], attrs: dict[str, Any]) -> None:
    c, dtype = d.values[x].shape[1], d.values[x].dtype
    groups = c if kind == "depthwise" else d.any([g for g in (1, 1, 1, 2, 3) if c % g == 0])
    each = d.one(1, 2, 4, 8, 16) if groups == 1 else d.one(1, 1, 2)
    shape = [c, each] if kind == "ConvTranspose" else [each * groups, c // groups]
    terms = max(1, c // groups * prod(kernel))
    w = d.constant((numbers(d.noise(), [*shape, *kernel], dtype) / np.sqrt(terms)).astype(dtype))
    bias = [d.constant(nice(d, [each * groups], dtype))] if d.chance(0.6) else []
    d.add("ConvTranspose" if kind == "ConvTranspose" else "Conv", [x, w, *bias], group=groups, **attrs)


def computed_shape(d: Drawing) -> None:
    """A reshape or expansion to sizes that the model reads from its own shapes."""
    x = d.value(least=1)
    rank = d.values[x].ndim
    k = d.pick.randrange(rank)
    sizes = d.add("Shape", [x])
    how = d.one("rest", "expand", "fill", "range")
    if how == "rest":
        one = d.add("Gather", [sizes, d.integers(k)])
        d.add("Reshape", [x, d.add("Concat", d.one([one, d.integers(-1)], [d.integers(-1), one]), axis=0)])
    elif how == "expand":
        y = d.constant(nice(d, d.one([], [1]), d.values[x].dtype))
        d.add("Expand", [y, sizes])
    elif how == "fill":
        d.add("ConstantOfShape", [sizes])
    else:
        n = d.add("Gather", [sizes, d.constant(k, np.int64)])
        d.add("Range", [d.constant(0, np.int64), n, d.constant(d.one(1, 1, 2), np.int64)])


def constant_branch(d: Drawing) -> None:
    """Work on constants alone, which folding takes away."""
    a = d.constant(nice(d, [d.size() for _ in range(d.one(0, 1, 2, 3))], np.float32))
    d.add(d.any(CALM), [a])


def dropout(d: Drawing) -> None:
    d.add(d.one("Dropout", "Identity"), [d.value("f")])


def layer(d: Drawing) -> None:
    """What exporters spell out: normalisation, gelu, swish, softmax, attention's scaling."""
    x = d.value("f", least=1)
    if d.values[x].dtype != np.float32:
        raise Unfit
    scalar = lambda v: d.constant(np.full(d.one([], [1]), v, np.float32))  # noqa: E731
    kind = d.one("norm", "gelu", "swish", "softmax", "hard_swish")
    if kind == "norm":
        axis = d.integers(-1)
        top = d.add("Sub", [x, d.add("ReduceMean", [x, axis])])
        variance = d.add("ReduceMean", [d.add("Pow", [top, scalar(2)]), axis])
        y = d.add("Div", [top, d.add("Sqrt", [d.add("Add", [variance, scalar(1e-3)])])])
        d.add("Mul", [y, partner(d, y, 1.0)])
    elif kind == "gelu":
        e = d.add("Erf", [d.add("Div", [x, scalar(2**0.5)])])
        d.add("Mul", [d.add("Mul", [x, d.add("Add", [e, scalar(1)])]), scalar(0.5)])
    elif kind == "swish":
        d.add("Mul", [x, d.add("Sigmoid", [x])])
    elif kind == "hard_swish":
        c = d.add("Clip", [d.add("Add", [x, scalar(3)]), d.constant(0, np.float32), d.constant(6, np.float32)])
        d.add("Div", [d.add("Mul", [x, c]), scalar(6)])
    else:
        axis = d.integers(-1)
        e = d.add("Exp", [d.add("Sub", [x, d.add("ReduceMax", [x, axis])])])
        d.add("Div", [e, d.add("ReduceSum", [e, axis])])


STEPS: list[Step] = [
    *[unary, binary] * 5,
    *[reduce, transpose, reshape, slice_, concat, window, matmul] * 3,
    *[where, clip, cast, along, layer_norm, channel_norm, ones, split, pad, expand, gather, layer, computed_shape] * 2,
    *[unary_integer, modulo, compare, logic, bits, arg, tile, scores, constant_branch, dropout],
]


def new_input(d: Drawing) -> None:
    """Another input of the model: mostly float32, leading axes often unknown."""
    shape: list[int | str] = [d.size() for _ in range(d.one(0, 1, 2, 2, 3, 3, 4, 4))]
    for k in range(min(len(shape), 4)):
        if d.chance((0.5, 0.1, 0.2, 0.2)[k]):
            shape[k] = d.one("N", "N", "M")
    dtype = d.one(
        *[np.float32] * 12, np.float64, np.int64, np.int64, np.int32, bool, bool, np.float16, np.int8, np.uint8
    )
    concrete = [SYMBOLS[n] if isinstance(n, str) else n for n in shape]
    d.input(numbers(d.noise(), concrete, dtype), shape)
