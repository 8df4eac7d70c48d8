"""Random graphs of pointwise ops, reductions, views, placements and products, drawn by any `pick` function."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from math import prod
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

Pick = Callable[[Sequence[Any]], Any]
Shape = tuple[int, ...]

# A size that nothing else has, so that it can be made a symbol after the graph is drawn.
SYMBOLIC_SIZE = 11


@dataclass
class Drawing:
    """A graph while it is drawn: every value with its shape, latest last."""

    pick: Pick
    shapes: dict[str, Shape] = field(default_factory=dict)
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    constants: dict[str, np.ndarray] = field(default_factory=dict)
    inputs: dict[str, Shape] = field(default_factory=dict)

    def value(self) -> str:
        """Any value; a late one more often than an early one."""
        names = list(self.shapes)
        return self.pick(names[-self.pick([2, 4, len(names)]) :])

    def add(self, op: str, inputs: Sequence[str], shape: Shape, **attrs: Any) -> None:
        name = f"v{len(self.nodes)}"
        self.nodes.append(helper.make_node(op, list(inputs), [name], name=f"n_{name}", **attrs))
        self.shapes[name] = shape

    def weights(self, *shape: int, inputs: int) -> str:
        """Weights that keep a signal's size where each output sums so many inputs."""
        name = f"w{len(self.constants)}"
        values = np.random.default_rng(len(self.constants)).standard_normal(shape)
        self.constants[name] = (values / np.sqrt(inputs)).astype(np.float32)
        return name

    def integers(self, *values: int) -> str:
        name = f"k{len(self.constants)}"
        self.constants[name] = np.array(values, np.int64)
        return name


def _unary(d: Drawing) -> None:
    x = d.value()
    d.add(d.pick(["Relu", "Tanh", "Neg", "Sigmoid", "Abs"]), [x], d.shapes[x])


def _binary(d: Drawing) -> None:
    x = d.value()
    fitting = [y for y in d.shapes if _broadcast(d.shapes[x], d.shapes[y]) is not None]
    y = d.pick(fitting[-6:])
    pair = d.pick([[x, y], [y, x]])
    shape = _broadcast(d.shapes[x], d.shapes[y])
    assert shape is not None
    d.add(d.pick(["Add", "Mul", "Sub", "Max"]), pair, shape)


def _broadcast(a: Shape, b: Shape) -> Shape | None:
    try:
        return np.broadcast_shapes(a, b)
    except ValueError:
        return None


def _reduce(d: Drawing) -> None:
    x = d.value()
    shape = d.shapes[x]
    if not shape:
        return
    axes = sorted({d.pick(range(len(shape))) for _ in range(d.pick([1, 1, 2]))})
    keep = d.pick([1, 1, 0])
    out = tuple(1 if k in axes else n for k, n in enumerate(shape) if keep or k not in axes)
    d.add(d.pick(["ReduceMax", "ReduceMean", "ReduceSum"]), [x, d.integers(*axes)], out, keepdims=keep)


def _normalise(d: Drawing) -> None:
    x = d.value()
    if d.shapes[x]:
        d.add(d.pick(["Softmax", "LpNormalization"]), [x], d.shapes[x], axis=d.pick(range(len(d.shapes[x]))))


def _transpose(d: Drawing) -> None:
    x = d.value()
    perm = list(range(len(d.shapes[x])))
    if not perm:
        return
    for k in reversed(range(1, len(perm))):
        j = d.pick(range(k + 1))
        perm[j], perm[k] = perm[k], perm[j]
    d.add("Transpose", [x], tuple(d.shapes[x][k] for k in perm), perm=perm)


def _reshape(d: Drawing) -> None:
    """Join two neighbouring axes, split one, drop or add one of size 1."""
    x = d.value()
    shape = list(d.shapes[x])
    spots = list(range(len(shape) - 1))
    splits = [(k, f) for k, n in enumerate(shape) for f in (2, 3, 4) if n % f == 0 and n > f]
    how = d.pick(["join", "split", "unsqueeze", "squeeze"])
    if how == "join" and spots:
        k = d.pick(spots)
        shape[k : k + 2] = [shape[k] * shape[k + 1]]
    elif how == "split" and splits:
        k, f = d.pick(splits)
        shape[k : k + 1] = d.pick([[shape[k] // f, f], [f, shape[k] // f]])
    elif how == "squeeze" and 1 in shape:
        shape.remove(1)
    elif len(shape) < 5:
        shape.insert(d.pick(range(len(shape) + 1)), 1)
    # A symbol can only be written as -1, the rest of the elements.
    spelled = [-1 if n % SYMBOLIC_SIZE == 0 else n for n in shape]
    if spelled.count(-1) <= 1:
        d.add("Reshape", [x, d.integers(*spelled)], tuple(shape))


def _slice(d: Drawing) -> None:
    x = d.value()
    axes = [k for k in _known(d.shapes[x]) if d.shapes[x][k] > 2]
    if not axes:
        return
    k = d.pick(axes)
    start, step = d.pick([0, 1]), d.pick([1, 1, 2])
    shape = list(d.shapes[x])
    shape[k] = -(-(shape[k] - start) // step)
    d.add("Slice", [x, *(d.integers(v) for v in (start, 2**31, k, step))], tuple(shape))


def _known(shape: Shape) -> list[int]:
    """The axes that hold no symbol."""
    return [k for k, n in enumerate(shape) if n % SYMBOLIC_SIZE]


def _concat(d: Drawing) -> None:
    x = d.value()
    shape = d.shapes[x]
    axes = _known(shape)
    if not axes or prod(shape) > 2000:
        return
    k = d.pick(axes)
    rest = [y for y, s in d.shapes.items() if len(s) == len(shape) and s[:k] + s[k + 1 :] == shape[:k] + shape[k + 1 :]]
    others = [d.pick(rest) for _ in range(d.pick([1, 1, 2]))]
    size = shape[k] + sum(d.shapes[y][k] for y in others)
    d.add("Concat", [x, *others], (*shape[:k], size, *shape[k + 1 :]), axis=k)


def _pad(d: Drawing) -> None:
    x = d.value()
    shape = d.shapes[x]
    if not shape or prod(shape) > 2000:
        return
    widths = [d.pick([0, 0, 1]) if k % len(shape) in _known(shape) else 0 for k in range(2 * len(shape))]
    out = tuple(n + widths[k] + widths[len(shape) + k] for k, n in enumerate(shape))
    d.add("Pad", [x, d.integers(*widths)], out)


def _expand(d: Drawing) -> None:
    x = d.value()
    shape = d.shapes[x]
    if 1 not in shape:
        return
    out = list(shape)
    out[out.index(1)] = d.pick([2, 3, 5])
    wanted = [1 if n == o else o for n, o in zip(shape, out, strict=True)]
    d.add("Expand", [x, d.integers(*wanted)], tuple(out))


def _gather(d: Drawing) -> None:
    x = d.value()
    axes = [k for k in _known(d.shapes[x]) if d.shapes[x][k] > 1]
    if not axes:
        return
    k = d.pick(axes)
    picks = [d.pick(range(d.shapes[x][k])) for _ in range(3)]
    d.add("Gather", [x, d.integers(*picks)], (*d.shapes[x][:k], 3, *d.shapes[x][k + 1 :]), axis=k)


def _matmul(d: Drawing) -> None:
    x = d.value()
    shape = d.shapes[x]
    if len(shape) < 2 or shape[-1] % SYMBOLIC_SIZE == 0 or shape[-1] > 64:
        return
    columns = d.pick([shape[-1], 5])
    d.add("MatMul", [x, d.weights(shape[-1], columns, inputs=shape[-1])], (*shape[:-1], columns))


def _scores(d: Drawing) -> None:
    """A product of two computed values, as in attention."""
    x = d.value()
    shape = d.shapes[x]
    if len(shape) < 2 or prod(shape) > 2000:
        return
    axes = list(range(len(shape)))
    swapped = (*shape[:-2], shape[-1], shape[-2])
    d.add("Transpose", [x], swapped, perm=[*axes[:-2], axes[-1], axes[-2]])
    d.add("MatMul", [x, f"v{len(d.nodes) - 1}"], (*shape[:-1], shape[-2]))


def _window(d: Drawing) -> None:
    """A convolution or pooling that keeps the size, so that residuals fit."""
    x = d.value()
    shape = d.shapes[x]
    if not 3 <= len(shape) <= 4 or shape[1] % SYMBOLIC_SIZE == 0 or shape[1] > 24:
        return
    spatial = len(shape) - 2
    width = d.pick([1, 3, 3])
    window = {"kernel_shape": [width] * spatial, "pads": [width // 2] * 2 * spatial}
    kind = d.pick(["conv", "conv", "depthwise", "MaxPool", "AveragePool", "ConvTranspose"])
    if kind in ("MaxPool", "AveragePool"):
        d.add(kind, [x], shape, **window)
        return
    groups = shape[1] if kind == "depthwise" else 1
    w = d.weights(shape[1], shape[1] // groups, *window["kernel_shape"], inputs=shape[1] // groups * width**spatial)
    d.add("ConvTranspose" if kind == "ConvTranspose" else "Conv", [x, w], shape, group=groups, **window)


STEPS = [*[_unary, _binary] * 3, *[_reduce, _normalise, _transpose, _reshape] * 2]
STEPS += [_slice, _concat, _pad, _expand, _gather, _matmul, _scores, _window, _window]


def draw_graph(pick: Pick, symbolic: bool = False) -> onnx.ModelProto:
    """A graph of up to 14 nodes with one to three outputs; with a size unknown to the compiler where `symbolic`."""
    d = Drawing(pick)
    leading = SYMBOLIC_SIZE if symbolic else pick([4, 1, 17])
    for k, shape in enumerate([(leading, 6), (6,), (leading, 1), (2, leading, 6)]):
        d.inputs[f"x{k}"] = d.shapes[f"x{k}"] = shape
    for _ in range(pick(range(1, 15))):
        pick(STEPS)(d)
    last = list(d.shapes)[-3:]
    outputs = list(dict.fromkeys([last[-1], *(pick(last) for _ in range(pick([0, 0, 1, 2])))]))
    return _model(d, outputs)


def _model(d: Drawing, outputs: list[str]) -> onnx.ModelProto:
    graph = helper.make_graph(
        d.nodes,
        "drawn",
        [helper.make_tensor_value_info(k, TensorProto.FLOAT, _named(shape)) for k, shape in d.inputs.items()],
        [_output(d, name) for name in outputs],
        [numpy_helper.from_array(v, k) for k, v in d.constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 24)], ir_version=12)


def _output(d: Drawing, name: str) -> onnx.ValueInfoProto:
    # The sizes of what is computed are left for shape inference to find.
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, _named(d.inputs[name]) if name in d.inputs else None)


def _named(shape: Shape) -> list[int | str]:
    return ["N" if n == SYMBOLIC_SIZE else n for n in shape]


def inputs_of(model: onnx.ModelProto, seed: int = 0, n: int = SYMBOLIC_SIZE) -> dict[str, np.ndarray]:
    """Normally distributed inputs; the symbol N is n."""
    random = np.random.default_rng(seed)
    return {
        value.name: random.standard_normal([d.dim_value or n for d in value.type.tensor_type.shape.dim]).astype("f")
        for value in model.graph.input
    }
