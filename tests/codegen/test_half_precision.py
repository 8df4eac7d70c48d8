"""Whole graphs of float16 and bfloat16: where values are rounded, and that they fuse as those of float32 do."""

from __future__ import annotations

import random
from pathlib import Path

import ml_dtypes
import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from codegen.building import Runner, build, emitted, imported, parse
from fusion.graphs import SYMBOLIC_SIZE, draw_graph, inputs_of
from graphfuse.compiler import compile_model
from graphfuse.fusion.program import lower_graph
from graphfuse.fusion.regions import Fusion, fuse
from graphfuse.options import CompileOptions
from ops.cases import inferred
from ops.running import interpret

HALVES = {"float16": np.dtype(np.float16), "bfloat16": np.dtype(ml_dtypes.bfloat16)}
SINGLE = np.dtype(np.float32)
# A sum of products that has more digits than the type, and what shows them.
STEPS = """g ({t}[64] a, {t}[64] b, {t}[64] c)
=> ({t}[64] y, bool[64] more, int32[64] whole, bool[64] large, {t}[64] f) {{
    ab = Mul(a, b)
    y = Add(ab, c)
    more = Greater(ab, c)
    whole = Cast<to = 6>(ab)
    big = Mul(ab, ab)
    large = IsInf(big)
    f = Floor(ab)
}}"""
NETWORK = """g ({t}[2, 8, 9, 9] x) => ({t}[2, 5] y) {{
    [conv] c = Conv<pads = [1, 1, 1, 1]>(x, w)
    [relu] h = Relu(c)
    [conv2] d = Conv<pads = [1, 1, 1, 1]>(h, w2)
    [add] s = Add(d, h)
    [pool] p = GlobalAveragePool(s)
    [flat] f = Flatten(p)
    [gemm] z = MatMul(f, m)
    [soft] y = Softmax(z)
}}"""


def fusion_of(model: onnx.ModelProto, folder: Path, strict: bool = False) -> Fusion:
    return fuse(lower_graph(imported(model, folder).graph, strict=strict))


def runner(model: onnx.ModelProto, folder: Path, strict: bool = False) -> Runner:
    return build([emitted(fusion_of(model, folder, strict))])[0]


def operands(kind: np.dtype) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    values = {name: rng.uniform(-300, 300, 64).astype(kind) for name in "abc"}
    # for some, the product is what it is compared with once it is rounded, and only then
    with np.errstate(over="ignore"):
        values["c"][::2] = (values["a"] * values["b"])[::2]
    return values


@pytest.mark.parametrize("name", HALVES)
@pytest.mark.parametrize("strict", [False, True])
def test_what_shows_rounding_sees_rounded_values(name: str, strict: bool, tmp_path: Path) -> None:
    kind = HALVES[name]
    given = operands(kind)
    a, b, c = given["a"], given["b"], given["c"]
    y, more, whole, large, floor = runner(parse(STEPS.format(t=name)), tmp_path, strict)(given)
    with np.errstate(over="ignore"):
        product = a * b
        exact = a.astype(np.float64) * b.astype(np.float64)
        np.testing.assert_array_equal(more, product > c)
        finite = np.isfinite(product.astype(np.float32))
        np.testing.assert_array_equal(whole[finite], product[finite].astype(np.float32).astype(np.int32))
        np.testing.assert_array_equal(floor, np.floor(product))
        # every operator rounds, or the result alone
        stepwise, once = product + c, (exact + c.astype(np.float64)).astype(np.float32).astype(kind)
    assert (stepwise != once).any()
    np.testing.assert_array_equal(y, stepwise if strict else once)
    with np.errstate(over="ignore"):
        np.testing.assert_array_equal(large[finite], np.isinf((product * product).astype(np.float32))[finite])


@pytest.mark.parametrize("name", HALVES)
def test_a_cast_of_the_users_rounds(name: str, tmp_path: Path) -> None:
    kind = HALVES[name]
    number = onnx.TensorProto.DataType.Value(name.upper())
    text = f"g (float[33] x) => (float[33] y) {{ n = Cast<to = {number}>(x)\n d = Add(n, n)\n y = Cast<to = 1>(d) }}"
    x = np.random.default_rng(1).normal(size=33).astype(np.float32)
    (y,) = runner(parse(text), tmp_path)({"x": x})
    np.testing.assert_array_equal(y, x.astype(kind).astype(np.float32) * 2)


def network(name: str, kind: np.dtype) -> onnx.ModelProto:
    rng = np.random.default_rng(2)
    model = parse(NETWORK.format(t=name))
    model.opset_import[0].version = 22  # the first that has convolutions of bfloat16
    shapes = {"w": (8, 8, 3, 3), "w2": (8, 8, 3, 3), "m": (8, 5)}
    for key, shape in shapes.items():
        model.graph.initializer.append(numpy_helper.from_array((rng.normal(size=shape) / 8).astype(kind), key))
    return model


@pytest.mark.parametrize("name", HALVES)
def test_a_network_fuses_as_in_float32_and_has_the_digits_of_its_type(name: str, tmp_path: Path) -> None:
    kind = HALVES[name]
    half, single = network(name, kind), network("float", np.dtype(np.float32))
    x = np.random.default_rng(3).normal(size=(2, 8, 9, 9)).astype(kind)
    (y,) = runner(half, tmp_path)({"x": x})
    for initializer in single.graph.initializer:  # the same weights
        rounded = numpy_helper.to_array(initializer).astype(kind).astype(np.float32)
        initializer.CopyFrom(numpy_helper.from_array(rounded, initializer.name))
    (want,) = runner(single, tmp_path)({"x": x.astype(np.float32)})
    assert y.dtype == kind
    np.testing.assert_array_equal(y, want.astype(kind))
    # one more: the input becomes float32
    assert len(fusion_of(half, tmp_path).regions) <= len(fusion_of(single, tmp_path).regions) + 1


@pytest.mark.parametrize("name", HALVES)
@pytest.mark.parametrize("cpu", ["native", "x86_64"])
def test_large_weights_of_few_rows_stay_narrow(name: str, cpu: str, tmp_path: Path) -> None:
    """Two products of the same shape, of which only one loses nothing: they are not taken for each other."""
    kind = HALVES[name]
    rng = np.random.default_rng(4)
    exact = (rng.normal(size=(1024, 1024)) / 32).astype(kind).astype(np.float32)
    digits = (rng.normal(size=(1024, 1024)) / 32).astype(np.float32)
    model = parse("g (float[3, 1024] x) => (float[3, 1024] y, float[3, 1024] z) { y = MatMul(x, w) z = MatMul(x, v) }")
    model.graph.initializer.extend([numpy_helper.from_array(exact, "w"), numpy_helper.from_array(digits, "v")])
    made = emitted(imported(model, tmp_path), cpu)
    expects_narrow = name == "bfloat16" or made.target.converts_f16
    assert [a.dtype for a in made.module.weights] == [kind if expects_narrow else np.float32, np.float32]
    x = rng.normal(size=(3, 1024)).astype(np.float32)
    for got, weights in zip(build([made])[0]({"x": x}), (exact, digits), strict=True):
        np.testing.assert_allclose(got, x.astype(np.float64) @ weights, rtol=1e-4, atol=1e-4)


def retyped(model: onnx.ModelProto, before: np.dtype, kind: np.dtype) -> onnx.ModelProto:
    """A model with one type in place of another: ports and constants."""
    changed = onnx.ModelProto()
    changed.CopyFrom(model)
    old, number = (onnx.helper.np_dtype_to_tensor_dtype(t) for t in (before, kind))
    for port in (*changed.graph.input, *changed.graph.output):
        if port.type.tensor_type.elem_type == old:
            port.type.tensor_type.elem_type = number
    for tensor in changed.graph.initializer:
        if tensor.data_type == old:
            tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor).astype(kind), tensor.name))
    changed.opset_import[0].version = 24
    return changed


@pytest.mark.parametrize("name", HALVES)
@pytest.mark.parametrize("symbolic", [False, True])
def test_random_graphs(name: str, symbolic: bool) -> None:
    """As the interpreter computes them in float32, but for the digits that the type has not."""
    kind = HALVES[name]
    seeds = range(100, 120)
    graphs = [draw_graph(random.Random(seed).choice, symbolic) for seed in seeds]
    halves = [retyped(model, SINGLE, kind) for model in graphs]
    runners = build([emitted(inferred(model)) for model in halves])
    digit = float(ml_dtypes.finfo(kind).eps)
    for seed, half, run in zip(seeds, halves, runners, strict=True):
        plain = retyped(half, kind, SINGLE)
        inputs = {key: x.astype(kind) if x.dtype == np.float32 else x for key, x in inputs_of(plain, seed).items()}
        singles = {key: x.astype(np.float32) if x.dtype == kind else x for key, x in inputs.items()}
        wanted = interpret(inferred(plain), singles, {"N": SYMBOLIC_SIZE})
        actual = run(inputs)
        assert [a.tobytes() for a in actual] == [b.tobytes() for b in run(inputs, threads=2)], seed
        for a, w in zip(actual, wanted, strict=True):
            if w.dtype != np.float32:
                np.testing.assert_array_equal(a, w)
                continue
            assert a.dtype == kind
            largest = max(1.0, float(np.abs(w).max(initial=0)))
            close = np.abs(a.astype(np.float32) - w) <= 4 * digit * largest
            assert (close | (np.abs(w) > 6e4)).all(), f"graph {seed}"


@pytest.mark.parametrize("name", HALVES)
def test_folded_weights_keep_their_digits(name: str, tmp_path: Path) -> None:
    """A batch norm folded into a convolution rounds the result alone, not the weights."""
    kind = HALVES[name]
    rng = np.random.default_rng(5)
    text = """g ({t}[1, 64, 5, 5] x) => ({t}[1, 8, 5, 5] y) {{
        c = Conv(x, w)
        y = BatchNormalization(c, scale, shift, mean, variance)
    }}"""
    model = parse(text.format(t=name))
    model.opset_import[0].version = 22
    weights = {"w": rng.normal(size=(8, 64, 1, 1)), "scale": rng.uniform(0.5, 2, 8), "shift": rng.normal(size=8)}
    weights |= {"mean": rng.normal(size=8), "variance": rng.uniform(0.5, 2, 8)}
    weights = {key: value.astype(kind) for key, value in weights.items()}
    model.graph.initializer.extend(numpy_helper.from_array(value, key) for key, value in weights.items())
    onnx.save(model, tmp_path / "model.onnx")
    compiled = compile_model(tmp_path / "model.onnx", tmp_path / "model.gf", CompileOptions(verify=False))
    x = rng.normal(size=(1, 64, 5, 5)).astype(kind)
    w, scale, shift, mean, variance = (value.astype(np.float64) for value in weights.values())
    sums = np.einsum("ncyx,oc->noyx", x.astype(np.float64), w[:, :, 0, 0])
    channel = (slice(None), None, None)
    want = (sums - mean[channel]) / np.sqrt(variance[channel] + 1e-5) * scale[channel] + shift[channel]
    got = compiled.session()(x).astype(np.float64)
    half_a_digit = float(ml_dtypes.finfo(kind).eps) / 2
    assert (np.abs(got - want) <= 1.01 * half_a_digit * np.abs(want) + 1e-4).all()
