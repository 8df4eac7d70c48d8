"""ai.onnx.ml: preparation of features."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from graphfuse.graph.dims import product
from graphfuse.graph.dtypes import F32, I64, DType, is_float
from graphfuse.ops import expr as E
from graphfuse.ops.expr import Const, Expr, lift
from graphfuse.ops.loops import Builder, at, inside
from graphfuse.ops.registry import NotSupported, OpNode, op
from graphfuse.ops.samples import floats, int64, ints, sample, special
from graphfuse.ops.tensor import (
    Tensor,
    concat,
    constant,
    index_map,
    load,
    map_,
    pad,
    reduce,
    reshape,
    slice_,
)

DOMAIN = "ai.onnx.ml"
TEXT = "text is not supported, only numbers are"


def as_float(x: Tensor) -> Tensor:
    """The elements as float32."""
    return x if x.dtype == F32 else map_(lambda v: E.cast(v, F32), x)


def row_of(values: Sequence[Any] | np.ndarray, dtype: DType, name: str) -> Tensor:
    """Numbers of an attribute as a constant vector."""
    return constant(np.asarray(values).astype(dtype.numpy()), name)


@op(
    "Binarizer",
    domain=DOMAIN,
    samples=lambda: [
        sample(special(3, 5), threshold=0.25, reference="onnx"),
        sample(floats(7)),
        sample(floats(2, 3, 4), threshold=-1.0),
    ],
)
def binarizer(node: OpNode) -> Tensor:
    threshold = node.attr("threshold", 0.0)
    return map_(lambda v: E.where(v > threshold, lift(1, v.dtype), 0), node.input(0))


@op(
    "ArrayFeatureExtractor",
    domain=DOMAIN,
    samples=lambda: [
        sample(floats(3, 5), int64(0, 4, 2, 2)),
        sample(floats(5), int64(1, 3)),
        sample(ints(2, 3, 4), int64(3).reshape(1, 1)),
    ],
)
def array_feature_extractor(node: OpNode) -> Tensor:
    """Elements of the last axis by index."""
    x, indices = node.input(0), node.input(1)
    flat = reshape(indices, (product(indices.shape),))
    data = reshape(x, (1, *x.shape)) if x.rank == 1 else x

    def index(i: Sequence[Expr]) -> tuple[Expr, ...]:
        return (*i[:-1], inside(E.cast(load(flat, (i[-1],)), I64), data.shape[-1]))

    return index_map(data, (*data.shape[:-1], flat.shape[0]), index, flat)


@op(
    "Scaler",
    domain=DOMAIN,
    samples=lambda: [
        sample(floats(3, 5), offset=[0.5, 1.0, -1.0, 0.0, 2.0], scale=[1.0, 2.0, 3.0, 0.5, -1.0], fixed=[1]),
        sample(floats(3, 5), offset=[0.5], scale=[2.0]),
        sample(ints(3, 5, dtype=np.int64), offset=[0.5], scale=[2.0]),
        sample(floats(3, 5), offset=[0.5, 1.0], scale=[2.0, 1.0], rejected="2 numbers", reference="onnx"),
    ],
)
def scaler(node: OpNode) -> Tensor:
    """(x - offset) * scale, in float32."""
    x = as_float(node.input(0))
    offset, scale = (_per_feature(x, node.attr(name, ()), name) for name in ("offset", "scale"))
    return map_(lambda v, o, s: (v - o) * s, x, offset, scale)


def _per_feature(x: Tensor, values: Sequence[Any], name: str) -> Tensor:
    width = x.shape[-1] if x.rank else 1
    if len(values) != 1 and isinstance(width, int) and len(values) != width:
        raise NotSupported(f"{name} has {len(values)} numbers for {width} features")
    return row_of(values, x.dtype, name)


@op(
    "Normalizer",
    domain=DOMAIN,
    samples=lambda: [
        *(sample(floats(3, 5), norm=norm) for norm in ("MAX", "L1", "L2")),
        sample(np.zeros((2, 3), np.float32), norm="L2"),
        sample(floats(5), norm="L1"),
        sample(ints(3, 5, dtype=np.int64), norm="L2"),
        sample(floats(3, 5), norm="L3", rejected="L3", reference="onnx"),
    ],
)
def normalizer(node: OpNode) -> Tensor:
    """Rows over their largest element, sum of sizes or length; a row without any stays."""
    x, norm = as_float(node.input(0)), node.attr("norm", "MAX")
    axes = (x.rank - 1,)
    if norm == "MAX":
        total = reduce("max", x, axes)
    elif norm == "L1":
        total = reduce("sum", map_(lambda v: E.unary("abs", v), x), axes)
    elif norm == "L2":
        total = map_(E.sqrt, reduce("sum", map_(lambda v: v * v, x), axes))
    else:
        raise NotSupported(f"norm = {norm!r} is unknown")
    return map_(lambda v, n: E.where(E.equal(n, 0), v, v / n), x, total)


@op(
    "Imputer",
    domain=DOMAIN,
    samples=lambda: [
        sample(special(3, 5), imputed_value_floats=[1.0, 2.0, 3.0, 4.0, 5.0], replaced_value_float=np.nan, fixed=[1]),
        sample(np.round(floats(3, 5)), imputed_value_floats=[9.0], replaced_value_float=1.0),
        sample(ints(3, 5, dtype=np.int64), imputed_value_int64s=[7], replaced_value_int64=2),
        sample(floats(3, 5), rejected="imputed", reference="onnx"),
    ],
)
def imputer(node: OpNode) -> Tensor:
    x = node.input(0)
    kind = "floats" if is_float(x.dtype) else "int64s"
    values, replaced = node.attr(f"imputed_value_{kind}", ()), node.attr(f"replaced_value_{kind[:-1]}", 0)
    if not len(values):
        raise NotSupported(f"imputed_value_{kind} is missing")
    new = _per_feature(x, values, "imputed")
    if replaced != replaced:
        return map_(lambda v, n: E.where(E.logical("isnan", v), n, v), x, new)
    return map_(lambda v, n: E.where(E.equal(v, replaced), n, v), x, new)


@op(
    "FeatureVectorizer",
    domain=DOMAIN,
    samples=lambda: [
        sample(floats(3, 5), floats(3, 2, seed=1), inputdimensions=[5, 2], fixed=[1]),
        sample(floats(3, 5), floats(3, 2, seed=1), inputdimensions=[3, 4], fixed=[1]),
        sample(ints(3, 2, dtype=np.int64), inputdimensions=[2], fixed=[1]),
    ],
)
def feature_vectorizer(node: OpNode) -> Tensor:
    """The inputs' features side by side, of each as many as said: cut off, or filled up with zeros."""
    widths = node.attr("inputdimensions", ())
    parts = [as_float(node.input(k)) for k in range(len(node.inputs))]
    if len(widths) != len(parts):
        raise NotSupported(f"{len(widths)} inputdimensions for {len(parts)} inputs")
    return concat([_sized(x, int(width)) for x, width in zip(parts, widths, strict=True)], 1)


def _sized(x: Tensor, width: int) -> Tensor:
    x = reshape(x, (1, *x.shape)) if x.rank == 1 else x
    if x.rank != 2 or not isinstance(x.shape[1], int):
        raise NotSupported("the number of features must be known at compile time")
    if x.shape[1] >= width:
        return slice_(x, [0, 0], [x.shape[0], width], [1, 1])
    return pad(x, [0, 0], [0, width - x.shape[1]], lift(0, x.dtype))


@op(
    "OneHotEncoder",
    domain=DOMAIN,
    samples=lambda: [
        sample(int64(1, 7, 3, 5), cats_int64s=[5, 1, 3]),
        sample(np.array([[1.0, 2.0], [2.0, 9.0]], np.float32), cats_int64s=[1, 2]),
        sample(int64(1, 7), cats_int64s=[5, 1], zeros=0, rejected="zeros", reference="onnx"),
        sample(int64(1, 7), cats_strings=["a", "b"], rejected="text", reference="onnx"),
    ],
)
def one_hot_encoder(node: OpNode) -> Tensor:
    x, categories = node.input(0), node.attr("cats_int64s", ())
    if not len(categories):
        raise NotSupported(TEXT)
    if not node.attr("zeros", 1):
        raise NotSupported("zeros = 0, which makes an unknown category an error")
    spread = reshape(x if x.dtype == I64 else map_(lambda v: E.cast(v, I64), x), (*x.shape, 1))
    return map_(lambda v, c: E.cast(E.equal(v, c), F32), spread, row_of(categories, I64, "categories"))


def _table(node: OpNode, side: str) -> tuple[np.ndarray, DType]:
    """The keys or values of a label encoder."""
    for kind, dtype in (("int64s", I64), ("floats", F32)):
        values = node.attr(f"{side}_{kind}")
        if values is not None and len(values):
            return np.asarray(values).astype(dtype.numpy()), dtype
    tensor = node.attr(f"{side}_tensor")
    if tensor is None or tensor.dtype == DType.STRING:
        raise NotSupported(TEXT)
    return tensor.numpy().reshape(-1), tensor.dtype


@op(
    "LabelEncoder",
    domain=DOMAIN,
    samples=lambda: [
        sample(int64(1, 7, 3, 5, -2), keys_int64s=[5, 1, 3, 9], values_floats=[0.5, 1.5, 2.5, 3.5], default_float=-7.0),
        sample(int64(1, 7, 3).reshape(3, 1), keys_int64s=[7], values_int64s=[70]),
        sample(
            np.array([1.0, np.nan, 2.5], np.float32),
            keys_floats=[2.5, 1.0, float("nan")],
            values_int64s=[25, 10, -9],
        ),
        sample(int64(1, 7), keys_int64s=[1], values_strings=["a"], rejected="text", reference="onnx"),
        sample(int64(1, 7), keys_int64s=[1, 2], values_int64s=[1], rejected="2 keys", reference="onnx"),
    ],
)
def label_encoder(node: OpNode) -> Tensor:
    """Each element's value by its key, found by halving; NaN is a key like any other."""
    x = node.input(0)
    (keys, _), (values, dtype) = _table(node, "keys"), _table(node, "values")
    if len(keys) != len(values):
        raise NotSupported(f"{len(keys)} keys for {len(values)} values")
    if x.dtype != DType.from_numpy(keys.dtype):
        raise NotSupported(f"keys of {keys.dtype} for elements of {x.dtype.name.lower()}")
    given = node.attr("default_tensor")
    fallback = given.numpy().reshape(-1)[0] if given is not None else None
    if fallback is None:
        fallback = node.attr("default_float", -0.0) if is_float(dtype) else node.attr("default_int64", -1)
    empty = Const(float(fallback) if is_float(dtype) else int(fallback), dtype)
    # Of equal keys the last counts; NaN is sorted behind all numbers.
    latest = {_spelled(k): n for n, k in enumerate(keys)}
    order = sorted(latest.values(), key=lambda n: (keys[n] != keys[n], keys[n]))
    numbers = [n for n in order if keys[n] == keys[n]]
    missing = next((Const(values[n].item(), dtype) for n in order if keys[n] != keys[n]), empty)
    table, results = row_of(keys[numbers], x.dtype, "keys"), row_of(values[numbers], dtype, "values")
    b = Builder("label_encoder")
    y = b.result(x.shape, dtype)
    count = len(numbers)
    with b.phase(*x.shape) as i:
        v = b.let(at(x, *i))
        low, high = b.variable(Const(0, I64)), b.variable(Const(count, I64))
        with b.repeat(low < high, count.bit_length() + 1):
            middle = b.let(E.floordiv(low + high, 2))
            with b.when(at(table, inside(middle, max(1, count))) < v):
                b.assign(low, middle + 1)
            with b.otherwise():
                b.assign(high, middle)
        found = inside(low, max(1, count))
        value: Expr = empty
        if count:
            value = E.where(E.logical("and", low < count, E.equal(at(table, found), v)), at(results, found), empty)
        if is_float(x.dtype):
            value = E.where(E.logical("isnan", v), missing, value)
        b.store(y, i, value)
    return b.tensors()[0]


def _spelled(key: Any) -> Any:
    return "nan" if key != key else key.item()
