"""Models with control flow: written by hand, and made at random; run by onnxruntime."""

from __future__ import annotations

import random

import numpy as np
import onnx
import onnx.parser
import onnxruntime
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, helper, numpy_helper

Feeds = dict[str, np.ndarray]


def parse(text: str, opset: int = 21) -> ModelProto:
    return onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["": {opset}]> ' + " ".join(text.split()))


def run(proto: ModelProto, feeds: Feeds) -> list:
    """What onnxruntime makes of a model; inputs that it does not have are left out."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])
    names = {value.name for value in session.get_inputs()}
    return session.run(None, {k: v for k, v in feeds.items() if k in names})


def int64(value: int) -> np.ndarray:
    return np.array(value, np.int64)


def random_case(seed: int) -> tuple[ModelProto, list[Feeds]]:
    """A random model, and inputs of several sizes."""
    rng = np.random.default_rng(seed)
    x, z, w = (rng.standard_normal(shape, np.float32) for shape in ((2, 3), (2, 3), (3, 2, 3)))
    cases = [
        {"x": x, "z": z, "w": w, "m": rng.standard_normal((m, 2, 3), np.float32), "n": int64(n), "c": np.array(c)}
        for m, n, c in ((2, 3, True), (1, 0, True), (3, 12, False))
    ]
    return Builder(seed).model(), cases


class Builder:
    """Random nested control flow over float[2, 3] tensors, with captured, unused and constant values."""

    def __init__(self, seed: int) -> None:
        self.random, self.numbers = random.Random(seed), np.random.default_rng(seed)
        self.count = 0
        self.constants: list[TensorProto] = []

    def name(self, stem: str) -> str:
        self.count += 1
        return f"{stem}{self.count}"

    def constant(self, array: np.ndarray) -> str:
        name = self.name("k")
        self.constants.append(numpy_helper.from_array(np.asarray(array), name))
        return name

    def pointwise(self, nodes: list[NodeProto], values: list[str]) -> str:
        op_type = self.random.choice(["Add", "Sub", "Tanh", "Neg", "Sigmoid", "Min", "Identity", "Abs", "MatMul"])
        inputs = [self.random.choice(values[-6:])]
        if op_type in ("Add", "Sub", "Min"):
            weights = self.constant(self.numbers.standard_normal((2, 3)).astype(np.float32))
            inputs.append(self.random.choice([self.random.choice(values), weights]))
        if op_type == "MatMul":
            inputs.append(self.constant(self.numbers.standard_normal((3, 3)).astype(np.float32) / 3))
        nodes.append(helper.make_node(op_type, inputs, [self.name("v")]))
        return nodes[-1].output[0]

    def condition(self, nodes: list[NodeProto], values: list[str]) -> str:
        kind = self.random.random()
        if kind < 0.25:
            return self.constant(np.array(self.random.random() < 0.6))
        if kind < 0.4:
            return "c"
        total, result = self.name("t"), self.name("b")
        nodes.append(helper.make_node("ReduceSum", [self.random.choice(values)], [total], keepdims=0))
        nodes.append(helper.make_node("Less", [total, self.constant(np.float32(self.random.uniform(-2, 3)))], [result]))
        return result

    def step(self, nodes: list[NodeProto], values: list[str], depth: int) -> None:
        kind = self.random.random()
        if depth == 0 or kind < 0.6:
            values.append(self.pointwise(nodes, values))
            return
        if kind < 0.75:
            self.branch(nodes, values, depth - 1)
        elif kind < 0.87:
            self.loop(nodes, values, depth - 1)
        elif kind < 0.93:
            self.growth(nodes, values)
        else:
            self.scan(nodes, values, depth - 1)

    def body(self, values: list[str], depth: int, inputs: list, results: int, extra: list) -> tuple[GraphProto, list]:
        nodes: list[NodeProto] = []
        inner = [*values, *(v.name for v in inputs if v.type.tensor_type.elem_type == TensorProto.FLOAT)]
        first = len(inner)
        for _ in range(self.random.randint(1, 4)):
            self.step(nodes, inner, depth)
        made = inner[first:]
        outputs = []
        for _ in range(results):
            copy = self.name("r")
            source = self.random.choice(made if self.random.random() < 0.8 else inner)
            nodes.append(helper.make_node("Identity", [source], [copy]))
            outputs.append(copy)
        lead = [make(nodes, inner) for make in extra]
        info = [helper.make_tensor_value_info(name, TensorProto.BOOL, []) for name in lead]
        info += [helper.make_tensor_value_info(name, TensorProto.FLOAT, [2, 3]) for name in outputs]
        return helper.make_graph(nodes, self.name("g"), inputs, info), outputs

    def branch(self, nodes: list[NodeProto], values: list[str], depth: int) -> None:
        condition, results = self.condition(nodes, values), self.random.randint(1, 3)
        bodies = [self.body(values, depth, [], results, [])[0] for _ in range(2)]
        outputs = [self.name("i") for _ in range(results)]
        nodes.append(helper.make_node("If", [condition], outputs, then_branch=bodies[0], else_branch=bodies[1]))
        values += outputs[: self.random.randint(1, results)]

    def loop(self, nodes: list[NodeProto], values: list[str], depth: int) -> None:
        starts, passed = self.condition(nodes, values), self.name("p")
        carried, stacked = self.random.randint(1, 3), self.random.randint(0, 2)
        inputs = [helper.make_tensor_value_info(self.name("n"), TensorProto.INT64, [])]
        inputs.append(helper.make_tensor_value_info(passed, TensorProto.BOOL, []))
        inputs += [helper.make_tensor_value_info(self.name("a"), TensorProto.FLOAT, [2, 3]) for _ in range(carried)]

        def ends(inner: list[NodeProto], known: list[str]) -> str:
            inner.append(helper.make_node("Identity", [self.random.choice([passed, passed, "c"])], [self.name("q")]))
            return inner[-1].output[0] if self.random.random() < 0.6 else self.own(inner, self.condition(inner, known))

        body, _ = self.body(values, depth, inputs, carried + stacked, [ends])
        trips = self.random.choice(["n", self.constant(int64(self.random.choice([0, 1, 2, 4, 10])))])
        outputs = [self.name("l") for _ in range(carried + stacked)]
        initial = [self.random.choice(values) for _ in range(carried)]
        nodes.append(helper.make_node("Loop", [trips, starts, *initial], outputs, body=body))
        values += outputs[: self.random.randint(1, carried)]
        for stack in outputs[carried:]:
            values.append(self.sum(nodes, stack, 0))

    def growth(self, nodes: list[NodeProto], values: list[str]) -> None:
        """A loop that appends rows to what it carries, and now and then asks how many there are."""
        row, size = self.constant(np.array([[1, -2, 0.5]], np.float32)), self.random.choice([2, 3, 4])
        first, zero = self.constant(np.array([0], np.int64)), self.constant(int64(0))
        names = {key: self.name(key) for key in ("i", "p", "a", "d", "s", "h", "e", "b", "u", "r", "q", "g", "t", "m")}
        text = f"""agraph (int64 {names["i"]}, bool {names["p"]}, float[G, 3] {names["a"]})
            => (bool {names["q"]}, float[H, 3] {names["r"]}, float[3] {names["t"]}) {{
            {names["q"]} = Identity({names["p"]}) {names["s"]} = Shape({names["a"]})
            {names["h"]} = Gather({names["s"]}, {zero}) {names["e"]} = Equal({names["h"]}, {self.constant(int64(size))})
            {names["u"]} = If({names["e"]}) <
                then_branch = b1 () => (float[J, 3] {names["b"]}) {{ {names["b"]} = Neg({row}) }},
                else_branch = b2 () => (float[K, 3] {names["d"]}) {{
                    {names["d"]} = Gather({self.random.choice(values)}, {first}) }}>
            {names["r"]} = Concat<axis = 0>({names["a"]}, {names["u"]})
            {names["t"]} = ReduceSum<keepdims = 0>({names["r"]}, {first}) }}"""
        starts = self.random.choice([self.random.choice(values), row, self.constant(np.zeros((0, 3), np.float32))])
        trips = self.random.choice(["n", self.constant(int64(self.random.choice([0, 2, 12])))])
        outputs = [self.name("l"), self.name("l")]
        yes = self.constant(np.array(True))
        body = onnx.parser.parse_graph(text)
        nodes.append(helper.make_node("Loop", [trips, yes, starts], outputs, body=body))
        sums = [self.sum(nodes, output, 0) for output in outputs]
        for total in sums:
            nodes.append(helper.make_node("Add", [self.random.choice(values), total], [self.name("v")]))
            values.append(nodes[-1].output[0])

    def own(self, nodes: list[NodeProto], value: str) -> str:
        nodes.append(helper.make_node("Identity", [value], [self.name("q")]))
        return nodes[-1].output[0]

    def sum(self, nodes: list[NodeProto], stack: str, axis: int) -> str:
        result = self.name("s")
        axes = self.constant(np.array([axis], np.int64))
        nodes.append(helper.make_node("ReduceSum", [stack, axes], [result], keepdims=0))
        return result

    def scan(self, nodes: list[NodeProto], values: list[str], depth: int) -> None:
        states, stacked = self.random.randint(1, 2), self.random.randint(0, 2)
        inputs = [helper.make_tensor_value_info(self.name("a"), TensorProto.FLOAT, [2, 3]) for _ in range(states + 1)]
        body, _ = self.body(values, depth, inputs, states + stacked, [])
        axes, ways = (
            [self.random.randint(-3, 2) for _ in range(stacked)],
            [self.random.randint(0, 1) for _ in range(stacked)],
        )
        outputs = [self.name("l") for _ in range(states + stacked)]
        given = [*(self.random.choice(values) for _ in range(states)), self.random.choice(["m", "w"])]
        direction = [self.random.randint(0, 1)]
        ends = {"scan_output_axes": axes, "scan_output_directions": ways} if stacked else {}
        about = {"num_scan_inputs": 1, "scan_input_directions": direction, **ends}
        nodes.append(helper.make_node("Scan", given, outputs, body=body, **about))
        values += outputs[: self.random.randint(1, states)]
        for stack, axis in zip(outputs[states:], axes, strict=True):
            values.append(self.sum(nodes, stack, axis))

    def model(self) -> ModelProto:
        nodes: list[NodeProto] = []
        values = ["x", "z"]
        while not any(node.op_type in ("If", "Loop", "Scan") for node in nodes) or len(nodes) < 5:
            self.step(nodes, values, 3)
        results = list(dict.fromkeys([values[-1], self.random.choice(values[2:])]))
        info = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in results]
        for output in info:
            output.type.tensor_type.ClearField("shape")
        floats = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [2, 3]) for name in ("x", "z")]
        rest = [
            helper.make_tensor_value_info("m", TensorProto.FLOAT, ["M", 2, 3]),
            helper.make_tensor_value_info("w", TensorProto.FLOAT, [3, 2, 3]),
            helper.make_tensor_value_info("n", TensorProto.INT64, []),
            helper.make_tensor_value_info("c", TensorProto.BOOL, []),
        ]
        graph = helper.make_graph(nodes, "random", [*floats, *rest], info, self.constants)
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)
