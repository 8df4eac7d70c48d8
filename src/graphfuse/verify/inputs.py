"""Generated inputs that a model may plausibly be given: sizes for free dimensions, values within range."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import ml_dtypes
import numpy as np
import onnx
from onnx import numpy_helper

from graphfuse.artifact.dims import evaluate
from graphfuse.artifact.manifest import Manifest, Tensor
from graphfuse.errors import InputError
from graphfuse.verify.reference import every_graph

Array = np.ndarray[Any, Any]

# Tried in order until the reference accepts one: (size of a batch, of any other free dimension). 2 and 64 first: a
# batch above 1 shows layout faults, 64 halves six times; then image, token, and sound sizes that models insist on.
SIZES = ((2, 64), (1, 64), (1, 224), (2, 16), (1, 16), (1, 320), (1, 512), (1, 16000), (1, 1))
# What does not change which element an index means, so that its range is found behind it.
_PASSING = frozenset(
    {"Cast", "Concat", "Expand", "Flatten", "Identity", "Reshape", "Slice", "Squeeze", "Tile", "Transpose", "Unsqueeze"}
)
_INDEX_INPUT = {"Gather": 1, "GatherElements": 1, "OneHot": 0, "ScatterElements": 1}
_REDUCTIONS = ("L1", "L2", "LogSum", "LogSumExp", "Max", "Mean", "Min", "Prod", "Sum", "SumSquare")
_AXES_INPUT = {"CumProd": 1, "CumSum": 1, "Squeeze": 1, "Unsqueeze": 1, **{f"Reduce{name}": 1 for name in _REDUCTIONS}}
_LENGTHS_INPUT = {"LSTM": 4, "GRU": 4, "RNN": 4}
_SEARCH_NODES = 200
_LARGEST_CONSTANT = 65536  # elements of a constant that is looked into


@dataclass(frozen=True)
class Range:
    """Values that an integer input may take: low <= value < high."""

    low: int
    high: int


def generate_inputs(
    manifest: Manifest, model: onnx.ModelProto, dims: Mapping[str, int], seed: int, positive: bool = False
) -> dict[str, Array]:
    """One array for every input of the manifest, free dimensions as in `dims`, the same for the same seed.

    Floats are normal with mean 0 and deviation 1 (positive: uniform in [0, 1)); uint8 covers all its values; other
    integers stay in the range that `integer_range` finds in `model`. Raises InputError for a symbol without a value.
    """
    arrays = {}
    for index, tensor in enumerate(manifest.inputs):
        shape = tuple(_size(tensor, dim, dims) for dim in tensor.shape)
        generator = np.random.default_rng([seed, index])
        arrays[tensor.name] = _values(generator, tensor, shape, model, positive)
    return arrays


def plausible_dims(manifest: Manifest, batch: int, other: int, chosen: Mapping[str, int]) -> dict[str, int]:
    """A size for every symbol: `chosen` where it names one, `batch` for leading dimensions, else `other`, in its range.

    Raises InputError for a chosen name that is no symbol of the model.
    """
    for name in chosen:
        if name not in manifest.symbols:
            known = ", ".join(manifest.symbols) or "none"
            raise InputError(f"the model has no free dimension {name!r}", remedy=f"its free dimensions are {known}")
    batches = {tensor.shape[axis] for tensor in manifest.inputs if (axis := _batch_axis(tensor)) is not None}
    sizes = {name: batch if name in batches else other for name in manifest.symbols}
    for name, (least, most) in manifest.ranges.items():
        sizes[name] = max(least, sizes[name] if most is None else min(most, sizes[name]))
    return {**sizes, **chosen}


def _batch_axis(tensor: Tensor) -> int | None:
    """The axis that counts samples: the first, or the second of a recurrent state (layers, samples, features)."""
    free = [isinstance(dim, str) for dim in tensor.shape]
    if free == [False, True, False]:
        return 1
    return 0 if len(free) > 1 else None


def integer_range(model: onnx.ModelProto, name: str) -> Range:
    """The values that the integer input `name` may take, by what the graph does with it.

    An index into an axis of known size is below that size; the length of a sequence is no more than its steps, and 0 or
    1 where their number is open; what is compared with constants has values from their range;
    a mask is 0 or 1; any other is a digit. One constant that a whole array is compared with marks a special case, such
    as padding, and sets no range.
    """
    constants = _constants(model)
    sizes = _sizes(model, constants)
    single = all(size == 1 for size in sizes.get(name, (None,)))
    limits: list[int] = []
    compared: list[Range] = []
    for node, position in _uses(model, name):
        limits += _limit(node, position, constants, sizes)
        other = constants.get(node.input[1 - position]) if node.op_type == "Equal" else None
        if other is not None and other.size > (0 if single else 1):
            compared.append(Range(int(other.min()), int(other.max()) + 1))
    if limits:
        return Range(0, max(1, min(limits)))
    if compared:
        return compared[0]
    return Range(0, 2) if "mask" in name.lower() else Range(0, 10)


def _size(tensor: Tensor, dim: int | str, dims: Mapping[str, int]) -> int:
    try:
        return dim if isinstance(dim, int) else evaluate(dim, dims)
    except (KeyError, ValueError) as error:
        raise InputError(f"the dimension {dim} has no value", where=f"input {tensor.name!r}") from error


def _values(
    generator: np.random.Generator, tensor: Tensor, shape: tuple[int, ...], model: onnx.ModelProto, positive: bool
) -> Array:
    if tensor.dtype == "bool":
        return generator.integers(0, 2, shape).astype(bool)
    dtype = np.dtype(getattr(ml_dtypes, tensor.dtype, tensor.dtype))
    if "float" in tensor.dtype:
        positive = positive or tensor.dtype == "float8_e8m0fnu"  # powers of two
        return (generator.random(shape) if positive else generator.standard_normal(shape)).astype(dtype)
    if tensor.dtype in ("uint8", "int4", "uint4", "int2", "uint2"):
        return generator.integers(0, 256, shape).astype(dtype)
    limits = integer_range(model, tensor.name)
    return generator.integers(limits.low, limits.high, shape).astype(dtype)


def _uses(model: onnx.ModelProto, name: str) -> Iterator[tuple[onnx.NodeProto, int]]:
    """(node, input position) of everything that reads the value or what it passes through unchanged."""
    pending, seen = [name], {name}
    for _ in range(_SEARCH_NODES):
        if not pending:
            return
        value = pending.pop(0)
        for node in (node for graph in every_graph(model.graph) for node in graph.node):
            for position, read in enumerate(node.input):
                if read != value:
                    continue
                yield node, position
                passed = node.op_type in _PASSING and (position == 0 or node.op_type == "Concat")
                fresh = [out for out in node.output if passed and out not in seen]
                seen.update(fresh)
                pending += fresh


def _limit(
    node: onnx.NodeProto, position: int, constants: Mapping[str, Array], sizes: Mapping[str, Sequence[int | None]]
) -> list[int]:
    """The number of values that an index has in this use; empty where the use sets no limit or it is not known."""
    if _LENGTHS_INPUT.get(node.op_type) == position:
        x, layout = sizes.get(node.input[0], ()), _attribute(node, "layout")
        steps = x[layout] if 0 <= layout < len(x) else None
        return [2 if steps is None else steps + 1]
    if _AXES_INPUT.get(node.op_type) == position:
        return [1]  # the first axis is sure to be there
    if _INDEX_INPUT.get(node.op_type) != position:
        return []
    if node.op_type == "OneHot":
        depth = constants.get(node.input[1])
        return [int(depth.flat[0])] if depth is not None and depth.size else []
    shape = sizes.get(node.input[0])
    axis = _attribute(node, "axis")
    if shape is None or not -len(shape) <= axis < len(shape):
        return [1]  # an index into something of unknown size: only the first is sure to be there
    size = shape[axis]
    return [1 if size is None else size]


def _attribute(node: onnx.NodeProto, name: str) -> int:
    """An integer attribute whose default is 0."""
    return next((attribute.i for attribute in node.attribute if attribute.name == name), 0)


def _constants(model: onnx.ModelProto) -> dict[str, Array]:
    """Small constants by name, those of bodies included; external data is left where it is."""
    tensors = []
    for graph in every_graph(model.graph):
        tensors += [(tensor.name, tensor) for tensor in graph.initializer]
        for node in graph.node:
            if node.op_type == "Constant":
                tensors += [(node.output[0], attribute.t) for attribute in node.attribute if attribute.name == "value"]
    return {
        name: numpy_helper.to_array(tensor)
        for name, tensor in tensors
        if tensor.data_location != onnx.TensorProto.EXTERNAL and int(np.prod(tensor.dims)) <= _LARGEST_CONSTANT
    }


def _sizes(model: onnx.ModelProto, constants: Mapping[str, Array]) -> dict[str, tuple[int | None, ...]]:
    """Shapes by value name as far as the file tells them; None for a free dimension."""
    sizes: dict[str, tuple[int | None, ...]] = {name: value.shape for name, value in constants.items()}
    for info in (*model.graph.input, *model.graph.value_info):
        if info.type.tensor_type.HasField("shape"):
            dims = info.type.tensor_type.shape.dim
            sizes[info.name] = tuple(d.dim_value if d.HasField("dim_value") else None for d in dims)
    sizes |= {tensor.name: tuple(tensor.dims) for tensor in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type == "Constant":
            sizes[node.output[0]] = next((tuple(a.t.dims) for a in node.attribute if a.name == "value"), ())
    return sizes
