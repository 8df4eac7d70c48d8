"""Random graphs of the ops that rules look at, awkward ranks and broadcasts: same values and shapes, full account."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx_ir as ir
import onnxruntime
import pytest
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from graphfuse.graph.infer import infer_shapes
from graphfuse.graph.origins import check_origins
from graphfuse.importers.onnx import import_onnx
from graphfuse.rules import recognize, simplify

onnxruntime.set_default_logger_severity(4)
GRAPHS = 120
Shape = list[int | str]  # "N" is the symbol


class Builder:
    """Appends random ops to a graph that starts with one input."""

    def __init__(self, seed: int) -> None:
        self.random, self.numbers = random.Random(seed), np.random.default_rng(seed)
        self.nodes: list[NodeProto] = []
        self.constants: list[TensorProto] = []
        first: Shape = [self.random.choice([1, 2, 3, 4]) for _ in range(self.random.randint(1, 4))]
        if self.random.random() < 0.6:
            first[0] = "N"
        self.values: list[tuple[str, Shape]] = [("x", first)]

    def constant(self, array: np.ndarray) -> str:
        name = f"c{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(np.asarray(array), name))
        return name

    def ints(self, *numbers: int) -> str:
        return self.constant(np.array(numbers, np.int64))

    def scalar(self, number: float) -> str:
        return self.constant(np.full(self.random.choice([(), (1,)]) if self.values[-1][1] else (), number, np.float32))

    def bound(self, number: float) -> str:
        return self.constant(np.array(number, np.float32))

    def floats(self, *shape: int, positive: bool = False) -> str:
        numbers = self.numbers.standard_normal(shape)
        return self.constant((np.abs(numbers) + 0.5 if positive else numbers).astype(np.float32))

    def add(self, op_type: str, inputs: list[str], shape: Shape, **attributes: object) -> str:
        name = f"v{len(self.nodes)}"
        self.nodes.append(helper.make_node(op_type, inputs, [name], **attributes))
        self.values.append((name, list(shape)))
        return name

    def step(self) -> None:
        x, shape = self.random.choice([(name, shape) for name, shape in self.values[-4:] if shape] or self.values[:1])
        self.random.choice(OPS)(self, x, shape)

    def model(self) -> ModelProto:
        outputs = [self.values[-1], *(v for v in self.values[1:-1] if self.random.random() < 0.07)]
        info = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [None] * len(shape)) for name, shape in outputs]
        source = helper.make_tensor_value_info("x", TensorProto.FLOAT, self.values[0][1])
        graph = helper.make_graph(self.nodes, "random", [source], info, self.constants)
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)


def arithmetic(b: Builder, x: str, shape: Shape) -> None:
    """A constant of any rank, which may make the result larger."""
    constant: list[int] = []
    for k in range(b.random.randint(0, len(shape) + (b.random.random() < 0.1))):
        size = shape[-1 - k] if k < len(shape) else 1
        choices = [1] + [size] * 2 * (size != "N") + [2] * (size == 1 and b.random.random() < 0.2)
        constant.insert(0, b.random.choice(choices))  # type: ignore[arg-type]
    rank = max(len(shape), len(constant))
    left, right = [1] * (rank - len(shape)) + shape, [1] * (rank - len(constant)) + constant
    op_type = b.random.choice(["Mul", "Add", "Sub", "Div"])
    operands = [x, b.floats(*constant, positive=op_type == "Div")]
    if op_type != "Div" and b.random.random() < 0.4:
        operands.reverse()
    b.add(op_type, operands, [r if d == 1 else d for d, r in zip(left, right, strict=True)])


def per_channel(b: Builder, x: str, shape: Shape) -> None:
    if len(shape) >= 2 and shape[1] != "N":
        sizes = [int(shape[1]), *[1] * (len(shape) - 2)]
        op_type = b.random.choice(["Mul", "Add", "Sub", "Div"])
        b.add(op_type, [x, b.floats(*sizes, positive=op_type == "Div")], shape)


def convolution(b: Builder, x: str, shape: Shape) -> None:
    if len(shape) < 3 or "N" in shape[1:]:
        return
    channels, spatial = int(shape[1]), [int(d) for d in shape[2:]]
    groups = b.random.choice([1, channels])
    kernel, pads = [b.random.choice([1, min(2, d)]) for d in spatial], [b.random.choice([0, 0, 1]) for _ in spatial]
    outputs = groups * b.random.choice([1, 2])
    inputs = [x, b.floats(outputs, channels // groups, *kernel)] + [b.floats(outputs)] * (b.random.random() < 0.5)
    size: Shape = [d + 2 * p - k + 1 for d, p, k in zip(spatial, pads, kernel, strict=True)]
    b.add("Conv", inputs, [shape[0], outputs, *size], group=groups, pads=pads * 2)


def transposed_convolution(b: Builder, x: str, shape: Shape) -> None:
    if len(shape) == 4 and "N" not in shape[1:]:
        channels = int(shape[1])
        groups, each = b.random.choice([1, channels]), b.random.choice([1, 2])
        inputs = [x, b.floats(channels, each, 2, 2)] + [b.floats(each * groups)] * (b.random.random() < 0.5)
        size = [2 * int(d) for d in shape[2:]]
        b.add("ConvTranspose", inputs, [shape[0], each * groups, *size], group=groups, strides=[2, 2])


def product(b: Builder, x: str, shape: Shape) -> None:
    if len(shape) < 2 or shape[-1] == "N":
        return
    inner, outer = int(shape[-1]), b.random.choice([1, 2, 3])
    if len(shape) > 2 or b.random.random() < 0.4:
        b.add("MatMul", [x, b.floats(inner, outer)], [*shape[:-1], outer])
        return
    turned = b.random.choice([0, 1])
    bias = b.random.choice([None, [outer], [1, outer], []])
    inputs = [x, b.floats(*((outer, inner) if turned else (inner, outer)))]
    inputs += [] if bias is None else [b.floats(*bias)]
    factors = {"alpha": b.random.choice([1.0, 0.5]), "beta": b.random.choice([1.0, 2.0])}
    b.add("Gemm", inputs, [shape[0], outer], transB=turned, **factors)


def batch_norm(b: Builder, x: str, shape: Shape) -> None:
    if len(shape) >= 2 and shape[1] != "N":
        c = int(shape[1])
        b.add("BatchNormalization", [x, b.floats(c), b.floats(c), b.floats(c), b.floats(c, positive=True)], shape)


def unary(b: Builder, x: str, shape: Shape) -> None:
    b.add(b.random.choice(["Neg", "Abs", "Relu", "Tanh", "Sigmoid", "Softplus", "Identity", "Dropout"]), [x], shape)


def transpose(b: Builder, x: str, shape: Shape) -> None:
    perm = b.random.sample(range(len(shape)), len(shape))
    b.add("Transpose", [x], [shape[axis] for axis in perm], perm=perm)


def reshape(b: Builder, x: str, shape: Shape) -> None:
    if shape.count("N") > 1:
        return
    rest = int(np.prod([d for d in shape if d != "N"]))
    tail = b.random.choice([[rest], [1, rest], [rest, 1]])
    head = ["N"] if "N" in shape else []
    b.add("Reshape", [x, b.ints(*[-1] * len(head), *tail)], [*head, *tail])


def computed_reshape(b: Builder, x: str, shape: Shape) -> None:
    """To the size of one axis, and the rest."""
    axis = b.random.randrange(len(shape))
    rest = [d for k, d in enumerate(shape) if k != axis]
    if shape.count("N") > 1 or ("N" in rest and any(d not in ("N", 1) for d in rest)):
        return
    sizes = b.add("Shape", [x], [len(shape)])
    one = b.add("Gather", [sizes, b.ints(axis)], [1])
    target = b.add("Concat", [one, b.ints(-1)], [2], axis=0)
    del b.values[-3:]
    last = "N" if "N" in rest else int(np.prod(rest))  # type: ignore[arg-type]
    b.add("Reshape", [x, target], [shape[axis], last])


def ones(b: Builder, x: str, shape: Shape) -> None:
    """An axis of size one more, or less."""
    if 1 in shape and b.random.random() < 0.5:
        axis = shape.index(1)
        b.add("Squeeze", [x, b.ints(axis - len(shape))], shape[:axis] + shape[axis + 1 :])
    elif len(shape) < 5:
        axis = b.random.randint(0, len(shape))
        b.add("Unsqueeze", [x, b.ints(axis)], [*shape[:axis], 1, *shape[axis:]])


def pieces(b: Builder, x: str, shape: Shape) -> None:
    axis = b.random.randrange(len(shape))
    if shape[axis] == "N":
        return
    size = int(shape[axis])
    if b.random.random() < 0.5:
        count = b.random.choice([1, 2])
        shape = [*shape[:axis], size * count, *shape[axis + 1 :]]
        b.add("Concat", [x] * count, shape, axis=axis - len(shape))
        return
    low = b.random.randrange(size)
    kept = [*shape[:axis], size - low, *shape[axis + 1 :]]
    b.add("Slice", [x, b.ints(low), b.ints(b.random.choice([size, 2**63 - 1])), b.ints(axis)], kept)


def padding(b: Builder, x: str, shape: Shape) -> None:
    before, after = ([b.random.choice([0, 0, 1]) * (d != "N") for d in shape] for _ in range(2))
    larger = [d if d == "N" else int(d) + p + q for d, p, q in zip(shape, before, after, strict=True)]
    b.add("Pad", [x, b.ints(*before, *after), *[b.scalar(1.0)] * (b.random.random() < 0.2)], larger)


def reduction(b: Builder, x: str, shape: Shape) -> None:
    axis, keep = b.random.randrange(len(shape)), b.random.choice([0, 1])
    small = [*shape[:axis], *[1] * keep, *shape[axis + 1 :]]
    b.add(b.random.choice(["ReduceSum", "ReduceMean", "ReduceMax"]), [x, b.ints(axis)], small, keepdims=keep)
    if not keep and b.random.random() < 0.6:
        halved = b.add("Mul", [b.values[-1][0], b.scalar(0.5)] if small else [b.values[-1][0], b.floats()], small)
        back = b.add("Unsqueeze", [halved, b.ints(axis)], [*shape[:axis], 1, *shape[axis + 1 :]])
        b.add("Sub", [x, back], shape)


def norm(b: Builder, x: str, shape: Shape) -> None:
    axis = b.random.choice([len(shape) - 1, b.random.randrange(len(shape))])
    small, at = [*shape[:axis], 1, *shape[axis + 1 :]], b.ints(axis - len(shape))
    top = x
    if b.random.random() < 0.7:
        top = b.add("Sub", [x, b.add("ReduceMean", [x, at], small)], shape)
    variance = b.add("ReduceMean", [b.add("Mul", [top, top], shape), at], small)
    root = b.add("Sqrt", [b.add("Add", [b.scalar(0.01), variance], small)], small)
    if b.random.random() < 0.5:
        b.add("Div", [top, root], shape)
    else:
        b.add("Mul", [b.add("Reciprocal", [root], small), top], shape)
    if b.random.random() < 0.7:
        arithmetic(b, *b.values[-1])


def activation(b: Builder, x: str, shape: Shape) -> None:
    kind = b.random.choice(["gelu", "hard_swish", "hard_sigmoid", "swish", "softmax", "clip", "square"])
    if kind == "gelu":
        inner = b.add("Erf", [b.add("Div", [x, b.scalar(2**0.5)], shape)], shape)
        scaled = b.add("Mul", [x, b.add("Add", [inner, b.scalar(1.0)], shape)], shape)
        b.add("Mul", [scaled, b.scalar(0.5)], shape)
    elif kind in ("hard_swish", "hard_sigmoid"):
        clipped = b.add("Clip", [b.add("Add", [x, b.scalar(3.0)], shape), b.bound(0.0), b.bound(6.0)], shape)
        top = b.add("Mul", [x, clipped], shape) if kind == "hard_swish" else clipped
        b.add("Div", [top, b.scalar(6.0)], shape)
    elif kind == "swish":
        b.add("Mul", [b.add("Sigmoid", [x], shape), x], shape)
    elif kind == "softmax":
        axis = b.random.randrange(len(shape))
        small, at = [*shape[:axis], 1, *shape[axis + 1 :]], b.ints(axis)
        shifted = b.add("Sub", [x, b.add("ReduceMax", [x, at], small)], shape)
        e = b.add("Exp", [shifted], shape)
        b.add("Div", [e, b.add("ReduceSum", [e, at], small)], shape)
    elif kind == "clip":
        b.add("Clip", [x, *b.random.choice([[], [b.bound(-1.0), b.bound(1.0)]])], shape)
    else:
        b.add("Pow", [x, b.scalar(b.random.choice([1.0, 2.0]))], shape)


def sibling(b: Builder, x: str, shape: Shape) -> None:
    """With another value of the same shape, so that results have several users."""
    others = [name for name, other in b.values if other == shape]
    b.add(b.random.choice(["Add", "Mul", "Sub"]), [x, b.random.choice(others)], shape)


OPS: list[Callable[[Builder, str, Shape], None]] = [
    *[arithmetic] * 5,
    *[per_channel] * 5,
    *[convolution] * 4,
    transposed_convolution,
    *[product] * 3,
    *[batch_norm] * 3,
    *[unary] * 3,
    *[transpose] * 3,
    *[reshape] * 2,
    *[computed_reshape] * 2,
    *[ones] * 2,
    *[pieces] * 2,
    padding,
    *[reduction] * 2,
    *[norm] * 2,
    *[activation] * 4,
    *[sibling] * 2,
]


def run(data: bytes, x: np.ndarray) -> list[np.ndarray]:
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    return onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"]).run(None, {"x": x})


@pytest.mark.parametrize("seed", range(GRAPHS))
def test_random_graph(tmp_path: Path, seed: int) -> None:
    builder = Builder(seed)
    while len(builder.nodes) < 3 + seed % 14:
        builder.step()
    proto = builder.model()
    (tmp_path / "m.onnx").write_bytes(proto.SerializeToString())
    imported = import_onnx(tmp_path / "m.onnx")
    model, ledger = imported.model, imported.ledger
    recognize(simplify(model, ledger), ledger)
    check_origins(model, ledger, "test")
    data = ir.to_proto(model).SerializeToString()
    for n in (3, 1, 5):
        x = builder.numbers.standard_normal([n if d == "N" else d for d in builder.values[0][1]]).astype(np.float32)
        for output, ours, theirs in zip(
            model.graph.outputs, run(data, x), run(proto.SerializeToString(), x), strict=True
        ):
            stated = [d if isinstance(d, int) else d.evaluate({"N": n}) for d in output.shape]
            assert stated == list(ours.shape) == list(theirs.shape)
            scale = max(1.0, float(np.abs(theirs).max(initial=0)))
            # Ten operations deep, with quotients by small numbers; a wrong rule is wrong in the first digit.
            np.testing.assert_allclose(ours, theirs, rtol=2e-3, atol=2e-4 * scale)
    shapes = {v.name: str(v.shape) for node in model.graph for v in node.outputs}
    infer_shapes(model)
    assert {v.name: str(v.shape) for node in model.graph for v in node.outputs} == shapes
