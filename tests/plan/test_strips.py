"""Chains of kernels run strip by strip: the same bits as one after the other, in less memory."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import zoo
from codegen.building import Emitted, build, fused, imported
from codegen.sanitizing import build_sanitized, run_sanitized
from graphfuse.codegen import strip
from graphfuse.codegen.module import assemble
from graphfuse.compiler import Job, run_stages
from graphfuse.graph.dims import assuming, evaluate
from graphfuse.kernels import CONTRACTION_KERNELS, rows
from graphfuse.options import CompileOptions
from graphfuse.plan.calls import Plan, lifetimes
from graphfuse.plan.memory import lay_out
from graphfuse.plan.planner import plan
from graphfuse.plan.strips import LONGEST, join, links
from graphfuse.runtime.preamble import pool_source, preamble, slots_source
from graphfuse.target import target_for

Layer = tuple[str, dict[str, object]]


def conv(channels: int, kernel: int, **attributes: object) -> Layer:
    return "Conv", {"channels": channels, "kernel_shape": [kernel, kernel], **attributes}


def depthwise(kernel: int, **attributes: object) -> Layer:
    return "Conv", {"channels": 0, "kernel_shape": [kernel, kernel], **attributes}


def pool(kernel: int, **attributes: object) -> Layer:
    return "MaxPool", {"kernel_shape": [kernel, kernel], **attributes}


def same(kernel: int) -> dict[str, object]:
    return {"pads": [kernel // 2] * 4}


def network(layers: list[Layer], image: list[int | str], seed: int = 0) -> onnx.ModelProto:
    """Layers one after the other, each with a relu, on x of shape `image`."""
    random = np.random.default_rng(seed)
    nodes, weights = [], []
    current, channels = "x", int(image[1])
    for k, (op, settings) in enumerate(layers):
        attributes = dict(settings)
        operands = [current]
        if op == "Conv":
            out = int(attributes.pop("channels")) or channels  # type: ignore[call-overload]
            groups = channels if settings["channels"] == 0 else 1
            window = attributes["kernel_shape"]
            w = random.normal(0, 0.3, (out, channels // groups, *window)).astype(np.float32)  # type: ignore[misc]
            weights.append(numpy_helper.from_array(w, f"w{k}"))
            attributes["group"] = groups
            operands.append(f"w{k}")
            channels = out
        if op == "Scale":  # as squeeze-and-excitation does
            nodes.append(helper.make_node("GlobalAveragePool", [current], [f"mean{k}"], name=f"mean{k}"))
            w = random.normal(0, 0.3, (channels, channels, 1, 1)).astype(np.float32)
            weights.append(numpy_helper.from_array(w, f"w{k}"))
            nodes.append(helper.make_node("Conv", [f"mean{k}", f"w{k}"], [f"dense{k}"], name=f"dense{k}"))
            nodes.append(helper.make_node("Sigmoid", [f"dense{k}"], [f"gate{k}"], name=f"gate{k}"))
            op, operands = "Mul", [current, f"gate{k}"]
        nodes.append(helper.make_node(op, operands, [f"y{k}"], name=f"layer{k}", **attributes))
        nodes.append(helper.make_node("Relu", [f"y{k}"], [f"z{k}"], name=f"relu{k}"))
        current = f"z{k}"
    graph = helper.make_graph(
        nodes,
        "network",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, image)],
        [helper.make_tensor_value_info(current, TensorProto.FLOAT, None)],
        weights,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)


def perceptron(rows: list[int | str], widths: list[int]) -> onnx.ModelProto:
    """Matrix products one after the other, each with a relu, on x of shape rows + widths[:1]."""
    random = np.random.default_rng(0)
    nodes, weights, current = [], [], "x"
    for k, (a, b) in enumerate(pairwise(widths)):
        weights.append(numpy_helper.from_array(random.normal(0, 0.3, (a, b)).astype(np.float32), f"w{k}"))
        nodes.append(helper.make_node("MatMul", [current, f"w{k}"], [f"y{k}"], name=f"layer{k}"))
        nodes.append(helper.make_node("Relu", [f"y{k}"], [f"z{k}"], name=f"relu{k}"))
        current = f"z{k}"
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [*rows, widths[0]])
    y = helper.make_tensor_value_info(current, TensorProto.FLOAT, None)
    graph = helper.make_graph(nodes, "perceptron", [x], [y], weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)


NETWORKS: dict[str, onnx.ModelProto] = {
    "matrices": perceptron(["N", 37], [24, 72, 24]),
    "matrix": perceptron([53], [17, 40, 33, 16]),
    "open rows": perceptron(["N", "H", "W"], [16, 50, 20]),
    "inverted residual": network([conv(24, 1), depthwise(3, **same(3)), conv(16, 1)], ["N", 16, 13, 11]),
    "stride 2": network([conv(24, 1), depthwise(3, strides=[2, 2], **same(3)), conv(16, 1)], ["N", 16, 14, 15]),
    "windows of five": network([conv(20, 1), depthwise(5, pads=[2, 2, 2, 2]), conv(16, 1)], [2, 16, 9, 12]),
    "first layers": network(
        [conv(16, 7, strides=[2, 2], **same(7)), pool(3, strides=[2, 2], **same(3))], [2, 3, 31, 33]
    ),
    "no padding": network([conv(16, 3), conv(24, 3), pool(2, strides=[2, 2])], ["N", 16, 18, 17]),
    "winograd twice": network([conv(32, 3, **same(3)), conv(32, 3, **same(3))], ["N", 32, 21, 18]),
    "winograd then stride": network([conv(32, 3, **same(3)), conv(16, 3, strides=[2, 2], **same(3))], [1, 16, 26, 30]),
    "dilated": network([conv(16, 1), depthwise(3, dilations=[3, 3], pads=[3, 3, 3, 3])], [2, 16, 15, 14]),
    "padded on one side": network([conv(16, 1), conv(16, 3, pads=[2, 0, 0, 2]), conv(20, 1)], [3, 16, 10, 11]),
    "gaps between windows": network([conv(16, 1), depthwise(2, strides=[3, 3]), conv(16, 1)], [2, 16, 14, 14]),
    "skipped pixels": network([conv(16, 3, **same(3)), conv(16, 1, strides=[2, 2])], ["N", 16, 15, 13]),
    "sizes unknown": network([conv(24, 1), depthwise(3, **same(3)), conv(16, 1)], ["N", 16, "H", "W"]),
    "scaled channels": network([depthwise(3, **same(3)), ("Scale", {}), conv(24, 1)], ["N", 16, 13, 11]),
    "one line": network([conv(24, 1), depthwise(3, **same(3)), conv(16, 1)], [2, 16, 1, 12]),
}


def chained(model: onnx.ModelProto, height: int, folder: Path, cpu: str = "native") -> tuple[Emitted, Emitted]:
    """The model as it is planned, and with every chain there can be, in strips of `height` rows."""
    target = target_for(cpu)
    fusion = fused(imported(model, folder))
    apart = plan(fusion, CONTRACTION_KERNELS, rows.emit, target)
    together = all_chains(apart, height)
    assert any(call.parts for call in together.calls), "no chain at all"

    def emitted(planned: Plan) -> Emitted:
        module = assemble(
            planned, (preamble(target.lanes, False), preamble(target.lanes, True)), pool_source(), slots_source()
        )
        return Emitted(fusion, planned, module, target)

    return emitted(apart), emitted(together)


def all_chains(apart: Plan, height: int) -> Plan:
    calls, first, linked = [], 0, links(apart)
    with assuming(apart.one_item):
        for k in range(len(apart.calls)):
            if k == len(linked) or not linked[k] or k - first + 1 == LONGEST:
                calls.append(join(apart.calls[first : k + 1], strip, height))
                first = k + 1
        return replace(apart, calls=calls, arena=lay_out(lifetimes(calls)))


def image(model: onnx.ModelProto, **sizes: int) -> np.ndarray:
    dims = model.graph.input[0].type.tensor_type.shape.dim
    shape = [d.dim_value or sizes.get(d.dim_param, 3) for d in dims]
    return np.random.default_rng(1).standard_normal(shape, dtype=np.float32)


@pytest.mark.parametrize("height, cpu", [(1, "native"), (3, "native"), (50, "native"), (2, "x86_64")])
def test_the_same_bits_on_any_number_of_threads(height: int, cpu: str, tmp_path: Path) -> None:
    pairs = {name: chained(model, height, tmp_path, cpu) for name, model in NETWORKS.items()}
    runners = build([emitted for pair in pairs.values() for emitted in pair])
    for k, (name, model) in enumerate(NETWORKS.items()):
        apart, together = runners[2 * k : 2 * k + 2]
        for sizes in ({"N": 1, "H": 12, "W": 9}, {"N": 3, "H": 1, "W": 17}):
            x = image(model, **sizes)
            wanted = apart({"x": x})[0]
            for threads in (1, 2, 3):
                actual = together({"x": x}, threads)[0]
                assert actual.tobytes() == wanted.tobytes(), f"{name}, {threads} threads, {sizes}"


@pytest.mark.sanitize
def test_sanitizers_find_nothing(tmp_path: Path) -> None:
    for k, (name, model) in enumerate(NETWORKS.items()):
        folder = tmp_path / str(k)
        folder.mkdir()
        _, together = chained(model, 1 + k % 3, folder)
        program = build_sanitized(together.module, together.target, folder)
        runs = [{"x": image(model, N=2, H=7, W=10)}]
        assert np.isfinite(run_sanitized(program, together.module, runs, threads=2)[0][0]).all(), name


def test_what_is_read_elsewhere_is_not_chained(tmp_path: Path) -> None:
    """A result that is also returned, or added behind the next layer, has to exist whole."""
    model = network([conv(16, 1), depthwise(3, **same(3))], [1, 16, 9, 9])
    model.graph.output.append(helper.make_tensor_value_info("z0", TensorProto.FLOAT, None))
    planned = plan(fused(imported(model, tmp_path)), CONTRACTION_KERNELS, rows.emit, target_for("native"))
    assert links(planned) == [False]
    model = network([conv(16, 1), depthwise(3, **same(3)), conv(16, 1)], [1, 16, 9, 9])
    model.graph.node.append(helper.make_node("Add", ["z2", "z0"], ["sum"], name="sum"))
    model.graph.output[0].name = "sum"
    planned = plan(fused(imported(model, tmp_path)), CONTRACTION_KERNELS, rows.emit, target_for("native"))
    assert links(planned) == [False, True]


@pytest.mark.parametrize("name, most", [("mobilenet_v2", 0.35), ("resnet50", 1.0)])
def test_memory_mode_shrinks_the_arena(name: str, most: float) -> None:
    """The arena of one image on two threads, scratch included."""

    def arena(options: CompileOptions) -> int:
        planned = run_stages(Job(zoo.path(name), options), stop_after="plan").results["plan"]
        scratch = max(evaluate(call.code.scratch, {"batch": 1}) for call in planned.calls)
        return evaluate(planned.arena.size, {"batch": 1}) + 2 * scratch

    assert arena(CompileOptions(optimize="memory")) <= most * arena(CompileOptions(strips=False))
