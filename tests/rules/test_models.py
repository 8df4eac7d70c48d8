"""The two stages on whole networks: same results, complete account, nothing left that a rule should have taken."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest

import real_models
import zoo
from graphfuse.graph.infer import infer_shapes
from graphfuse.graph.origins import all_nodes, check_origins, origins
from graphfuse.importers.onnx import import_onnx
from graphfuse.rules import recognize, rule_files, simplify

onnxruntime.set_default_logger_severity(4)
ALL_RULES = frozenset(file.name for file in rule_files())
# Folded weights are rounded once more and norms are summed in another order: float32 noise through up to 80 layers,
# relative to the largest output.
TOLERANCE = 5e-5
REAL = ("basic-pitch", "centerface", "magika", "ppocrv4_det", "ppocrv4_rec", "ppocr_v2_cls", "plcmos_v2", "silero_vad")


def run(model: str | bytes, feeds: dict[str, np.ndarray]) -> list[np.ndarray]:
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"]).run(None, feeds)


def prepared(file: Path, disabled: frozenset[str] = frozenset()) -> tuple[ir.Model, Counter[str]]:
    """The model after both stages, its account checked, and how many of each op it has."""
    imported = import_onnx(file)
    model, ledger = imported.model, imported.ledger
    recognize(simplify(model, ledger, disabled), ledger, disabled)
    check_origins(model, ledger, "test")
    carried = [name for node in all_nodes(model.graph) for name in origins(node)]
    settled = [record.name for record in ledger.nodes]
    assert sorted(carried + settled) == sorted(ledger.names)
    assert all(record.reason and record.by for record in ledger.nodes)
    return model, Counter(node.op_type for node in model.graph)


def compare(file: Path, model: ir.Model, feeds: dict[str, np.ndarray], tolerance: float = TOLERANCE) -> None:
    got = run(ir.to_proto(model).SerializeToString(), feeds)
    for ours, theirs in zip(got, run(str(file), feeds), strict=True):
        assert ours.shape == theirs.shape
        assert ours.dtype == theirs.dtype
        atol = tolerance * (float(np.abs(theirs).max()) + 0.02)  # probabilities near zero come from numbers near one
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=atol)


@pytest.mark.parametrize("name", zoo.NAMES)
def test_zoo_model_is_the_same(name: str) -> None:
    file = zoo.path(name)
    model, ops = prepared(file)
    compare(file, model, zoo.inputs(onnx.load(file), batch=2))
    for op_type in ("BatchNormalization", "Identity", "Dropout", "Constant", "Erf", "Pow"):
        assert not ops[op_type], op_type


@pytest.mark.parametrize("name", ["resnet18_dynamo", "mobilenet_v2", "vit_tiny"])
def test_zoo_model_without_any_rule(name: str) -> None:
    file = zoo.path(name)
    model, _ = prepared(file, ALL_RULES)
    compare(file, model, zoo.inputs(onnx.load(file), batch=2), 0.0)


MIXTURE = """g (float[N, 4, H, 6] x) => (float[N, P, 3] y) {
    w = Constant<value = float[3, 4, 1, 1] {1., -2., 3., 0.5, 0.25, -1., 2., 1., 0.5, 1., -1., 0.125}>()
    g = Constant<value = float[3] {1.5, 0.5, -2.0}>() v = Constant<value = float[3] {1.0, 0.5, 2.0}>()
    three = Constant<value = float {3.0}>() six = Constant<value = float {6.0}>() zero = Constant<value = float {0.0}>()
    p = Constant<value = int64[8] {0, 0, 1, 1, 0, 0, 1, 1}>() one = Constant<value = float {1.0}>()
    root = Constant<value = float {1.4142135}>() half = Constant<value = float {0.5}>()
    two = Constant<value = float {2.0}>() eps = Constant<value = float {0.001}>() k = Constant<value = int64[1] {-1}>()
    minus = Constant<value = int64[1] {-1}>() m = Constant<value = float[3, 3] {1., 2., 3., 4., 5., 6., 7., 8., 9.}>()
    padded = Pad(x, p) c = Conv(padded, w) n = BatchNormalization(c, g, g, g, v) d = Dropout(n)
    u = Add(d, three) r = Clip(u, zero, six) q = Mul(d, r) h = Div(q, six) s = Shape<start = 0, end = 2>(h)
    t = Concat<axis = 0>(s, minus) f = Reshape(h, t) z = Transpose<perm = [0, 2, 1]>(f)
    mu = ReduceMean(z, k) e = Sub(z, mu) e2 = Pow(e, two) var = ReduceMean(e2, k) ve = Add(var, eps) sd = Sqrt(ve)
    l = Div(e, sd) lg = Mul(l, g) lb = Add(lg, v) a = MatMul(lb, m) ab = Add(a, g) i = Identity(ab)
    j = Div(i, root) er = Erf(j) o = Add(er, one) io = Mul(i, o) ge = Mul(io, half) ex = Exp(ge)
    su = ReduceSum(ex, k) y = Div(ex, su) }"""


@pytest.mark.parametrize("rule", sorted(ALL_RULES))
def test_every_rule_can_be_switched_off(tmp_path: Path, rule: str) -> None:
    proto = onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["": 18]> {" ".join(MIXTURE.split())}')
    (tmp_path / "m.onnx").write_bytes(proto.SerializeToString())
    model, ops = prepared(tmp_path / "m.onnx", frozenset({rule}))
    x = np.random.default_rng(0).standard_normal((2, 4, 5, 6)).astype(np.float32)
    compare(tmp_path / "m.onnx", model, {"x": x})
    if rule == "recognize_mish":  # which has nothing to do here, so that everything else is at work
        left = {"Conv": 1, "HardSwish": 1, "LayerNormalization": 1, "MatMul": 1, "Gelu": 1, "Softmax": 1}
        assert ops == {**left, "Reshape": 1, "Transpose": 1, "Add": 1}


@pytest.mark.parametrize("name", ["resnet18_dynamo", "efficientnet_b0", "vit_tiny", "vit_tiny_dynamo"])
def test_shapes_after_rewriting_are_those_of_inference(name: str) -> None:
    model, _ = prepared(zoo.path(name))
    stated = {v.name: (str(v.shape), v.dtype) for node in model.graph for v in node.outputs}
    infer_shapes(model)
    assert {v.name: (str(v.shape), v.dtype) for node in model.graph for v in node.outputs} == stated


@pytest.mark.parametrize(
    "name, expected",
    [
        ("resnet18", {"Conv": 20, "Relu": 17, "Add": 8}),
        ("resnet18_dynamo", {"Conv": 20, "Relu": 17, "Add": 8}),
        ("resnet50", {"Conv": 53, "Relu": 49, "Add": 16}),
        ("mobilenet_v2", {"Conv": 52, "Clip": 35, "Add": 10}),
        ("efficientnet_b0", {"Conv": 81, "Swish": 49, "Mul": 16}),
        ("vit_tiny", {"Gelu": 12, "LayerNormalization": 25, "Softmax": 12, "Where": 0, "Equal": 0, "Cast": 0}),
        ("vit_tiny_dynamo", {"Gelu": 12, "LayerNormalization": 25, "Softmax": 12, "Where": 0, "Equal": 0, "Cast": 0}),
    ],
)
def test_zoo_model_has_what_is_left(name: str, expected: dict[str, int]) -> None:
    _, ops = prepared(zoo.path(name))
    assert {op_type: ops[op_type] for op_type in expected} == expected


@pytest.mark.real_model
@pytest.mark.parametrize("name", REAL)
def test_real_model_is_the_same(name: str, real_model: Callable[[str], Path]) -> None:
    file = real_model(name)
    model, ops = prepared(file)
    assert not ops["BatchNormalization"]
    feeds = real_models.inputs(name, seed=1)
    if name != "silero_vad":  # its batch size is part of its state
        first = next(iter(feeds))
        if feeds[first].shape[0] == 1:
            feeds[first] = np.concatenate([feeds[first], feeds[first][::-1]])
    compare(file, model, feeds)


@pytest.mark.real_model
@pytest.mark.parametrize(
    "name, expected",
    [
        ("centerface", {"Conv": 60, "Relu": 42, "Add": 13}),
        ("magika", {"Gelu": 2, "LayerNormalization": 2, "Softmax": 1, "Erf": 0, "Tanh": 0, "Expand": 0, "Shape": 0}),
        ("ppocrv4_det", {"HardSwish": 24, "HardSigmoid": 10, "Clip": 0, "Div": 0}),
        ("ppocrv4_rec", {"LayerNormalization": 5, "HardSwish": 28, "Swish": 7, "Softmax": 3, "Shape": 0, "Flatten": 0}),
        ("ppocr_v2_cls", {"HardSwish": 18, "HardSigmoid": 9, "Clip": 0, "Shape": 0}),
    ],
)
def test_real_model_has_what_is_left(name: str, expected: dict[str, int], real_model: Callable[[str], Path]) -> None:
    _, ops = prepared(real_model(name))
    assert {op_type: ops[op_type] for op_type in expected} == expected
