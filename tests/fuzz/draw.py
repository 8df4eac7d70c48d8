"""A random model while it is drawn: every node is evaluated as it is added, so values say what fits, not rules."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from fuzz.graphs import captured, opsets, read_by
from fuzz.oracles import NoAnswer, evaluate_node

Array = np.ndarray[Any, Any]

OPSET, IR_VERSION = 24, 12
# Sizes that nothing else has, so that an axis with a multiple of one is known to depend on a symbol.
SYMBOLS = {"N": 11, "M": 13}
SIZES = (1, 1, 2, 3, 4, 5, 6, 7, 8, 16, 17)
MOST_ELEMENTS = 3000
# Beyond this a value is mostly useless to those behind it: sums of it swallow everything else.
LARGEST = 1e4

# Functions that jump: rounding noise in what they are given would decide the result.
JUMPING = frozenset(
    [
        "ArgMax",
        "ArgMin",
        "Ceil",
        "Floor",
        "Hardmax",
        "IsInf",
        "IsNaN",
        "MelWeightMatrix",
        "Mod",
        "Round",
        "Shrink",
        "Sign",
        "ThresholdedRelu",
        "TopK",
        "Unique",
        "NonZero",
    ]
)
# Results have the very bits that their inputs have, or are rounded once from exact numbers without a product.
EXACT = frozenset(
    [
        "Abs",
        "And",
        "Cast",
        "CastLike",
        "Clip",
        "Compress",
        "Concat",
        "ConstantOfShape",
        "DepthToSpace",
        "Dropout",
        "Equal",
        "Expand",
        "EyeLike",
        "Flatten",
        "Gather",
        "GatherElements",
        "GatherND",
        "Greater",
        "GreaterOrEqual",
        "Identity",
        "IsInf",
        "IsNaN",
        "Less",
        "LessOrEqual",
        "Max",
        "Min",
        "Neg",
        "Not",
        "OneHot",
        "Or",
        "PRelu",
        "Pad",
        "Range",
        "Relu",
        "Reshape",
        "ReverseSequence",
        "Scatter",
        "ScatterElements",
        "ScatterND",
        "Shape",
        "Size",
        "Slice",
        "SpaceToDepth",
        "Split",
        "Squeeze",
        "Tile",
        "Transpose",
        "Trilu",
        "Unsqueeze",
        "Where",
        "Xor",
    ]
)


# Whether their results jump is their bodies' business.
BODIES = ("If", "Loop", "Scan")


class Unfit(Exception):
    """A step that cannot be taken on the values at hand; another one is tried."""


@dataclass
class Drawing:
    """The model so far. `values`: every value at the drawn sizes; `exact`: those without rounding noise;
    `kept`: inputs whose data has a meaning (indices, say) and is the same in every run.
    """

    pick: random.Random
    values: dict[str, Array] = field(default_factory=dict)
    exact: set[str] = field(default_factory=set)
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    inputs: dict[str, tuple[int | str, ...]] = field(default_factory=dict)
    constants: dict[str, Array] = field(default_factory=dict)
    kept: set[str] = field(default_factory=set)
    fixed: bool = False  # other data would leave the domain of a node
    prefix: str = ""  # of the names of a body's values; a body has no inputs of the model

    def one(self, *choices: Any) -> Any:
        return self.any(choices)

    def any(self, choices: Sequence[Any]) -> Any:
        """One of the choices. Raises Unfit where there are none."""
        if not choices:
            raise Unfit
        return self.pick.choice(choices)

    def chance(self, p: float) -> bool:
        return self.pick.random() < p

    def noise(self) -> np.random.Generator:
        return np.random.default_rng(self.pick.getrandbits(32))

    # ------------------------------------------------------------------ values

    def value(self, *kinds: str, rank: int | None = None, least: int = 0, exact: bool = False) -> str:
        """Any value of a dtype kind (NumPy's letters; default any), late ones more often. Raises Unfit."""
        names = [
            name
            for name, v in self.values.items()
            if (not kinds or v.dtype.kind in kinds)
            and (rank is None or v.ndim == rank)
            and v.ndim >= least
            and (not exact or name in self.exact)
        ]
        return str(self.any(names[-self.one(2, 4, len(names)) :]))

    def add(self, op: str, inputs: Sequence[str], count: int = 1, domain: str = "", **attrs: Any) -> str:
        """Append a node; the name of its first result. Raises Unfit where the references refuse it, and mostly where
        its result is of no use: too large, mostly NaN.
        """
        first = f"{self.prefix}v{len(self.nodes)}"
        names = [first if k == 0 else f"{first}_{k}" for k in range(count)]
        self.fixed = self.fixed or "Linear" in op  # NaN and infinity have no integer
        node = helper.make_node(
            op, list(inputs), names, name=f"{self.prefix}n{len(self.nodes)}", domain=domain, **attrs
        )
        read = [x for x in (*inputs, *sorted(captured(node))) if x in self.values]
        rough = any(self.values[x].dtype.kind in "fV" and x not in self.exact for x in read)
        if rough and op in JUMPING:
            raise Unfit
        try:
            results = evaluate_node(node, {x: self.values[x] for x in read}, OPSET, known=set(self.constants))
        except NoAnswer as error:
            raise Unfit from error
        for result in results:
            self._judge(result, rough and op not in BODIES)
        self.nodes.append(node)
        for name, result in zip(names, results, strict=True):
            self.values[name] = result
            if result.dtype.kind in "biu" or (not rough and op in EXACT):
                self.exact.add(name)
        return names[0]

    def _judge(self, result: Array, rough: bool) -> None:
        if result.size > MOST_ELEMENTS or result.ndim > 6 or result.dtype.kind not in "biufV":
            raise Unfit
        if result.dtype.kind in "biu":
            if rough:  # comparisons and conversions jump
                raise Unfit
            return
        numbers = result.astype(np.float64)
        finite = np.isfinite(numbers)
        useless = numbers.size > 0 and (finite.mean() < 0.7 or np.abs(numbers[finite]).max(initial=0) > LARGEST)
        if useless and not self.chance(0.1):
            raise Unfit

    def constant(self, array: Any, dtype: Any = None) -> str:
        name = f"{self.prefix}c{len(self.constants)}"
        self.constants[name] = self.values[name] = np.asarray(array, dtype)
        self.exact.add(name)
        return name

    def integers(self, *values: int) -> str:
        return self.constant(values, np.int64)

    def input(self, array: Array, dims: Sequence[int | str] | None = None, kept: bool = False) -> str:
        if self.prefix:
            return self.constant(array)
        name = f"x{len(self.inputs)}"
        self.values[name] = array
        self.exact.add(name)
        self.inputs[name] = tuple(array.shape if dims is None else dims)
        if kept:
            self.kept.add(name)
        return name

    # ------------------------------------------------------------------ sizes

    def size(self) -> int:
        return int(self.one(*SIZES)) if not self.chance(0.01) else 0

    def known_axes(self, name: str) -> list[int]:
        """Axes whose size does not depend on a symbol."""
        return [k for k, n in enumerate(self.values[name].shape) if not depends(n)]

    def is_known(self, name: str) -> bool:
        return len(self.known_axes(name)) == self.values[name].ndim


def depends(size: int) -> bool:
    """Whether a size is a multiple of a symbol's."""
    return size > 0 and any(size % n == 0 for n in SYMBOLS.values())


@dataclass(frozen=True)
class Drawn:
    """A finished model; inputs() gives arrays for any sizes of its symbols."""

    seed: int
    model: onnx.ModelProto
    given: dict[str, Array]
    dims: dict[str, tuple[int | str, ...]]
    kept: frozenset[str]
    fixed: bool

    @property
    def symbols(self) -> list[str]:
        return [s for s in SYMBOLS if any(s in dims for dims in self.dims.values())]

    def inputs(self, sizes: dict[str, int], special: bool = False) -> dict[str, Array]:
        """The drawn arrays, or for other sizes new ones; `special`: zeros, NaN, infinities and extremes among them."""
        rng = np.random.default_rng([self.seed, special, *sizes.values()])
        result = {}
        for name, array in self.given.items():
            shape = tuple(sizes.get(d, SYMBOLS[d]) if isinstance(d, str) else d for d in self.dims[name])
            fits = shape == array.shape and (name in self.kept or not special)
            result[name] = array if fits else numbers(rng, shape, array.dtype, special)
        return result


def numbers(rng: np.random.Generator, shape: Sequence[int], dtype: Any, special: bool = False) -> Array:
    """Random elements of a type."""
    kind = np.dtype(dtype).kind
    if kind == "b":
        return rng.integers(0, 2, shape).astype(bool)
    if kind in "iu":
        low = 0 if kind == "u" else -9
        return rng.integers(low, 10, shape).astype(dtype)
    x = rng.standard_normal(shape).astype(dtype)
    if special and x.size:
        with np.errstate(over="ignore"):
            extremes = np.array([0.0, -0.0, np.nan, np.inf, -np.inf, 1e-30, -88.0, 104.0, 3e4, 0.5, -1.5, 1.0]).astype(
                dtype
            )
        flat = x.reshape(-1)
        at = rng.permutation(flat.size)[: max(1, flat.size // 8)]
        flat[at] = rng.choice(extremes, at.size)
    return x


def model_of(d: Drawing, outputs: Sequence[str]) -> onnx.ModelProto:
    """The drawing as a model. Names of values inside have no declared shape: that is for shape inference to find."""
    used = read_by(d.nodes) | set(outputs)
    graph = helper.make_graph(
        d.nodes,
        "drawn",
        [helper.make_tensor_value_info(k, element_type(d.values[k]), dims) for k, dims in d.inputs.items()],
        [helper.make_tensor_value_info(k, element_type(d.values[k]), d.inputs.get(k)) for k in outputs],
        [numpy_helper.from_array(v, k) for k, v in d.constants.items() if k in used],
    )
    return helper.make_model(graph, opset_imports=opsets(d.nodes, OPSET), ir_version=IR_VERSION)


def element_type(array: Array) -> int:
    """ONNX's number of an array's type."""
    return int(helper.np_dtype_to_tensor_dtype(array.dtype))
