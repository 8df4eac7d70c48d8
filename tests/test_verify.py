"""Verification finds what is wrong, says where, and passes what is right."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.parser
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import numpy_helper

from graphfuse.artifact import Manifest, Tensor
from graphfuse.compiler import compile_model
from graphfuse.errors import InputError
from graphfuse.options import CompileOptions
from graphfuse.runtime.session import Session
from graphfuse.target import host_target
from graphfuse.verify import (
    Reference,
    Tolerance,
    compare,
    first_wrong_region,
    generate_inputs,
    integer_range,
    intermediate_values,
    plausible_dims,
    run_double,
    verify,
)
from handmade import WEIGHTS, copy_module, make_artifact, rows_module

LANES = host_target().lanes


def parse(text: str, **constants: Any) -> onnx.ModelProto:
    """A model of opset 18 from the body of a graph; `constants` become initializers."""
    model = onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["" : 18]> {text}')
    model.graph.initializer.extend(numpy_helper.from_array(np.asarray(v), k) for k, v in constants.items())
    return model


def rows_model() -> onnx.ModelProto:
    """What handmade.rows_module computes."""
    text = """rows (float[N,4] x, float[N] bias) => (float[N,4] y, int64[M] rows) {
        relu = Relu(x)
        scaled = Mul(relu, w)
        column = Unsqueeze(bias, one)
        y = Add(scaled, column)
        n = Shape(bias)
        m = Mul(n, two)
        end = Squeeze(m)
        index = Range(zero, end, step)
        rows = Div(index, two)
    }"""
    numbers = {"one": [1], "two": [2], "zero": 0, "step": 1}
    return parse(text, w=WEIGHTS, **{name: np.array(value, np.int64) for name, value in numbers.items()})


@pytest.fixture(scope="module")
def sessions(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Session]:
    """sessions() -> the rows module; sessions(old, new) -> the same with a fault in its C."""
    made: dict[tuple[str, str], Session] = {}

    def make(old: str = "", new: str = "") -> Session:
        if (old, new) not in made:
            module = rows_module(LANES)
            module.entry = module.entry.replace(old, new)
            module.kernels = {name: text.replace(old, new) for name, text in module.kernels.items()}
            folder = tmp_path_factory.mktemp("verify") / "rows.gf"
            make_artifact(folder, module)
            made[old, new] = Session(folder)
        return made[old, new]

    return make


@pytest.fixture(scope="module")
def copier(tmp_path_factory: pytest.TempPathFactory) -> Callable[[list[int | str]], Session]:
    def make(shape: list[int | str]) -> Session:
        folder = tmp_path_factory.mktemp("copy") / "copy.gf"
        make_artifact(folder, copy_module(LANES, "float32", 4, shape))
        return Session(folder)

    return make


# ---------------------------------------------------------------- the whole


def test_a_right_library_passes(sessions: Callable[..., Session], tmp_path: Path) -> None:
    onnx.save(rows_model(), tmp_path / "rows.onnx")
    certificate = verify(sessions(), tmp_path / "rows.onnx")
    assert certificate.passed
    assert [report.name for report in certificate.outputs] == ["y", "rows"]
    assert all(report.max_rel < 1e-6 for report in certificate.outputs)
    assert certificate.dims == {"N": 2}
    assert [record.shape for record in certificate.inputs] == [(2, 4), (2,)]
    assert certificate.verdict.startswith("all 2 outputs agree with onnxruntime, largest relative error")
    assert verify(sessions(), tmp_path / "rows.onnx").to_json() == certificate.to_json()


@pytest.mark.parametrize(
    "old, new, output, told",
    [
        ("+ bias[r]", "+ bias[r] * 1.01f", "y", "outside the tolerance"),
        ("+ bias[r]", "+ (r == 1 && c == 2 ? bias[r] * 1.1f : bias[r])", "y", "1 of 8 elements are outside"),
        ("x[i] > 0 ? x[i] : 0", "x[i] > 0 ? x[i] : 0 * (1 / (x[i] - x[i]))", "y", "a NaN or infinity does not match"),
        ("w[i % 4]", "w[3 - i % 4]", "y", "outside the tolerance"),
        ("index[i] = i / 2", "index[i] = i", "rows", "elements differ"),
        ("shapes[1] = 4", "shapes[1] = 5", "y", "the shape is (2, 5), expected (2, 4)"),
    ],
)
def test_a_wrong_library_fails_and_is_told_where(
    sessions: Callable[..., Session], old: str, new: str, output: str, told: str
) -> None:
    certificate = verify(sessions(old, new), rows_model())
    assert not certificate.passed
    failed = [report for report in certificate.outputs if not report.passed]
    assert [report.name for report in failed] == [output]
    assert told in certificate.verdict
    assert repr(output) in certificate.verdict
    if "c == 2" in new:
        assert failed[0].position == (1, 2)
        assert f"{failed[0].expected:.9g} at [1, 2]" in certificate.verdict


def test_a_certificate_is_strict_json(sessions: Callable[..., Session]) -> None:
    x = np.array([[np.nan, np.inf, 1, 2]], np.float32)
    certificate = verify(sessions("+ bias[r]", "+ 2 * bias[r]"), rows_model(), {"x": x, "bias": np.ones(1, np.float32)})
    fields = json.loads(certificate.to_json(), parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
    assert fields["passed"] is False
    assert fields["inputs"][0]["origin"] == "given"
    assert len(fields["inputs"][0]["sha256"]) == 64
    assert fields["outputs"][0]["finite"] < 1
    assert fields["versions"]["onnxruntime"]
    assert "rtol" in fields["rule"]


def test_sizes_and_inputs_may_be_given(sessions: Callable[..., Session]) -> None:
    assert verify(sessions(), rows_model(), dims={"N": 7}).dims == {"N": 7}
    certificate = verify(sessions(), rows_model(), {"bias": np.ones(5, np.float32)}, seed=3)
    assert certificate.dims == {"N": 5}
    assert [record.origin for record in certificate.inputs] == ["generated from seed 3", "given"]


@pytest.mark.parametrize(
    "inputs, dims, told",
    [
        ({"z": np.ones(1, np.float32)}, {}, "no input is called 'z'"),
        ({}, {"W": 3}, "no free dimension 'W'; its free dimensions are N"),
        ({"x": np.ones((2, 4), np.float32), "bias": np.ones(3, np.float32)}, {}, "N is 3|refuses these inputs"),
        ({"x": np.ones((2, 4)), "bias": np.ones(2, np.float32)}, {}, "refuses these inputs|dtype"),
    ],
)
def test_inputs_that_do_not_fit_are_refused(
    sessions: Callable[..., Session], inputs: dict[str, Any], dims: dict[str, int], told: str
) -> None:
    with pytest.raises(InputError, match=told):
        verify(sessions(), rows_model(), inputs, dims=dims)


def test_sizes_are_tried_until_the_model_takes_them(copier: Callable[[list[int | str]], Session]) -> None:
    model = parse("m (float[N,W] x) => (float[N,W] y) { y = Add(x, c) }", c=np.zeros(224, np.float32))
    assert verify(copier(["N", "W"]), model).dims == {"N": 1, "W": 224}
    never = parse("m (float[N,W] x) => (float[N,W] y) { y = Add(x, c) }", c=np.zeros(99, np.float32))
    with pytest.raises(InputError, match="give sizes for the free dimensions"):
        verify(copier(["N", "W"]), never, dims={"W": 98})


def test_inputs_that_give_only_nan_are_passed_over(copier: Callable[[list[int | str]], Session]) -> None:
    model = parse("m (float[N,W] x) => (float[N,W] y) { m = ReduceMin(x) r = Sqrt(m) e = Sub(r, r) y = Add(x, e) }")
    certificate = verify(copier(["N", "W"]), model)
    assert certificate.passed
    assert certificate.inputs[0].origin == "generated from seed 0, positive"
    assert certificate.outputs[0].finite == 1


def test_what_float64_cannot_settle_is_not_passed(sessions: Callable[..., Session]) -> None:
    # The float64 run is asked where the outputs differ; it must not excuse an error of 1 %.
    certificate = verify(sessions("+ bias[r]", "+ bias[r] * 1.01f"), rows_model())
    assert certificate.outputs[0].double_ours is not None
    assert certificate.outputs[0].double_ours > 100 * certificate.outputs[0].double_reference
    assert not certificate.passed


# ---------------------------------------------------------------- the comparer


def sample(dtype: str = "float32", shape: tuple[int, ...] = (5, 7)) -> np.ndarray:
    return np.random.default_rng(5).standard_normal(shape).astype(dtype)


@pytest.mark.parametrize("dtype", ["float32", "float64", "float16"])
def test_rounding_passes_and_one_percent_fails(dtype: str) -> None:
    b = sample(dtype)
    epsilon = float(np.finfo(dtype).eps)
    assert compare("y", b, b).passed
    assert compare("y", (b * (1 + 2 * epsilon)).astype(dtype), b).passed
    one = b.copy()
    factor = b.dtype.type(1.1 if dtype == "float16" else 1.01)
    one[2, 3] *= factor
    for wrong in (b * factor, one):
        report = compare("y", wrong, b)
        assert not report.passed
    assert report.position == (2, 3)
    assert report.ours == float(one[2, 3])
    assert report.expected == float(b[2, 3])


def test_a_permuted_output_fails() -> None:
    b = sample()
    assert not compare("y", b[::-1].copy(), b).passed
    assert not compare("y", np.roll(b, 1, axis=1), b).passed
    square = sample(shape=(6, 6))
    assert not compare("y", square.T.copy(), square).passed


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_nan_and_infinity_must_be_in_the_same_place(value: float) -> None:
    b = sample()
    b[1, 1] = value
    assert compare("y", b.copy(), b).passed
    moved = sample()
    moved[1, 2] = value
    for wrong in (sample(), moved, np.where(np.isfinite(b), b, -b if np.isinf(value) else 0).astype(np.float32)):
        report = compare("y", wrong, b)
        assert not report.passed
        assert report.position in ((1, 1), (1, 2))
    report = compare("y", b, sample())
    assert not report.passed
    assert report.position == (1, 1)


def test_the_figures_are_what_they_say() -> None:
    b = np.array([3.0, -4.0, 0.0], np.float32)
    a = b + np.array([0.0, 0.5, 0.25], np.float32)
    report = compare("y", a, b)
    scale = np.sqrt(25 / 3)
    assert report.max_abs == 0.5
    assert report.max_rel == pytest.approx(0.5 / 4)
    assert report.atol == pytest.approx(1e-4 * scale)
    assert report.position == (1,) or report.position == (2,)
    worst = [0.5 / (report.atol + 4e-4), 0.25 / report.atol]
    assert report.position == (1 + int(np.argmax(worst)),)


@given(st.integers(-40, 40), st.sampled_from([1e-6, 1e-5, 9e-5, 3e-4, 1e-2]))
def test_the_verdict_does_not_depend_on_the_unit(exponent: int, error: float) -> None:
    b = sample()
    a = b + np.float32(error)
    factor = np.float32(2.0**exponent)
    assert compare("y", a * factor, b * factor).passed == compare("y", a, b).passed


@pytest.mark.parametrize("dtype", ["int64", "int8", "uint8", "bool"])
def test_integers_and_booleans_are_equal_or_wrong(dtype: str) -> None:
    b = np.array([[0, 1], [1, 1]]).astype(dtype)
    assert compare("y", b.copy(), b).passed
    a = b.copy()
    a[1, 0] = 0
    report = compare("y", a, b, Tolerance(rtol=1.0, atol=10.0))
    assert not report.passed
    assert (report.position, report.ours, report.expected, report.max_abs) == ((1, 0), 0, 1, 1)


def test_dtype_shape_and_emptiness() -> None:
    b = sample()
    assert "dtype" in compare("y", b.astype(np.float64), b).reason
    assert "shape" in compare("y", b[:, :3], b).reason
    assert "shape" in compare("y", b.reshape(7, 5), b).reason
    assert compare("y", b[:0], b[:0]).passed
    assert compare("y", b[0, 0], b[0, 0]).passed
    zeros = np.zeros(3, np.float32)
    assert compare("y", zeros, zeros).passed
    assert not compare("y", zeros + np.float32(1e-30), zeros).passed


def test_a_tolerance_may_be_chosen() -> None:
    b = sample()
    a = b + np.float32(0.01)
    assert not compare("y", a, b).passed
    assert compare("y", a, b, Tolerance(rtol=0.0, atol=0.011)).passed
    assert not compare("y", a, b, Tolerance(rtol=0.0, atol=0.009)).passed
    assert compare("y", b * np.float32(1.01), b, Tolerance(rtol=0.011, atol=0.0)).passed


@pytest.mark.parametrize("ours, reference, passed", [(3e-3, 1e-3, True), (5e-3, 1e-3, False), (0.3, 0.1, False)])
def test_a_float64_run_judges_what_is_sensitive_to_rounding(ours: float, reference: float, passed: bool) -> None:
    exact = np.full((20,), 1.0)
    b = (exact - reference).astype(np.float32)
    a = (exact + ours).astype(np.float32)
    assert not compare("y", a, b).passed
    report = compare("y", a, b, double=exact)
    assert report.passed is passed
    assert report.double_ours == pytest.approx(ours, rel=1e-3)
    assert report.double_reference == pytest.approx(reference, rel=1e-3)


# ---------------------------------------------------------------- generated inputs


def manifest(*inputs: Tensor) -> Manifest:
    symbols = dict.fromkeys(dim for tensor in inputs for dim in tensor.shape if isinstance(dim, str) and dim.isalpha())
    return Manifest(inputs, (Tensor("y", "float32", ()),), tuple(symbols), (), host_target(), "0", "cc")


def test_generated_inputs_are_the_same_for_the_same_seed() -> None:
    described = manifest(
        Tensor("x", "float32", ("N", 3, "2*H")), Tensor("m", "bool", ("H",)), Tensor("b", "uint8", (50,))
    )
    model = parse("m (float[N] x) => (float[N] y) { y = Relu(x) }")
    dims = plausible_dims(described, 2, 64, {})
    assert dims == {"N": 2, "H": 64}
    one, two = (generate_inputs(described, model, dims, 0) for _ in range(2))
    other = generate_inputs(described, model, dims, 1)
    assert one["x"].shape == (2, 3, 128)
    for name in ("x", "m", "b"):
        np.testing.assert_array_equal(one[name], two[name])
        assert not np.array_equal(one[name], other[name])
    assert one["b"].max() > 200
    assert generate_inputs(described, model, dims, 0, positive=True)["x"].min() >= 0


def test_recurrent_states_count_samples_in_the_middle() -> None:
    described = manifest(Tensor("x", "float32", ("A", "B")), Tensor("state", "float32", (2, "C", 128)))
    assert plausible_dims(described, 1, 512, {"B": 5}) == {"A": 1, "B": 5, "C": 1}


@pytest.mark.parametrize(
    "body, constants, expected",
    [
        ("y = Gather(table, i)", {"table": np.zeros((7, 3), np.float32)}, (0, 7)),
        ("y = Gather<axis = -1>(table, i)", {"table": np.zeros((7, 3), np.float32)}, (0, 3)),
        ("j = Cast<to = 7>(i) k = Unsqueeze(j, a) y = Gather(table, k)",
         {"table": np.zeros((9, 3), np.float32), "a": np.array([0])}, (0, 9)),
        ("y = Gather(other, i)", {}, (0, 1)),
        ("o = OneHot(i, depth, values) y = Cast<to = 1>(o)",
         {"depth": np.array(5), "values": np.array([0, 1])}, (0, 5)),
        ("e = Equal(i, c) y = Cast<to = 1>(e)", {"c": np.arange(257)}, (0, 257)),
        ("y = If(yes) <then_branch = t () => (float[M] a) { a = Gather(table, i) },"
         " else_branch = e () => (float[M] b) { j = Cast<to = 7>(i) b = Gather(table, j) }>",
         {"table": np.zeros((6, 3), np.float32), "yes": np.array(True)}, (0, 6)),
        ("e = Equal(i, c) y = Cast<to = 1>(e)", {"c": np.array(3)}, (0, 10)),
        ("y = Cast<to = 1>(i)", {}, (0, 10)),
        ("y = ReduceSum(other, i)", {}, (0, 1)),
    ],
)  # fmt: skip
def test_integers_stay_in_the_range_that_the_graph_gives_them(
    body: str, constants: Mapping[str, np.ndarray], expected: tuple[int, int]
) -> None:
    model = parse(f"m (int64[N] i, float[K] other) => (float[M] y) {{ {body} }}", **constants)
    found = integer_range(model, "i")
    assert (found.low, found.high) == expected


def test_masks_and_special_values_are_recognised() -> None:
    mask = parse("m (int64[N] attention_mask) => (float[N] y) { y = Cast<to = 1>(attention_mask) }")
    assert integer_range(mask, "attention_mask").high == 2
    rate = parse("m (int64 sr) => (float y) { e = Equal(sr, c) y = Cast<to = 1>(e) }", c=np.array(16000))
    found = integer_range(rate, "sr")
    assert (found.low, found.high) == (16000, 16001)


def test_lengths_of_sequences_are_no_more_than_their_steps() -> None:
    text = "m (float[%s, B, 3] x, int32[B] n, float[1, 2, 3] w, float[1, 2, 2] r) => (float[T, 1, B, 2] y) {"
    body = " y = RNN<hidden_size = 2>(x, w, r, , n) }"
    assert [integer_range(parse(text % steps + body), "n").high for steps in ("7", "T")] == [8, 2]


# ---------------------------------------------------------------- references


def test_intermediate_values_come_by_name() -> None:
    x, bias = sample(shape=(3, 4)), sample(shape=(3,))
    values = intermediate_values(rows_model(), ["scaled", "relu"], {"x": x, "bias": bias})
    np.testing.assert_array_equal(values["relu"], np.maximum(x, 0))
    np.testing.assert_array_equal(values["scaled"], np.maximum(x, 0) * WEIGHTS)
    with pytest.raises(InputError, match="no value called 'nothing'"):
        intermediate_values(rows_model(), ["nothing"], {"x": x, "bias": bias})


def test_the_first_wrong_region_is_named() -> None:
    inputs = {"x": sample(shape=(3, 4)), "bias": sample(shape=(3,))}
    regions = [("rectify", ["relu"]), ("scale", ["unknown", "scaled"]), ("add", ["column", "y"])]
    asked: list[str] = []

    def reference(names: Sequence[str]) -> dict[str, np.ndarray]:
        asked.extend(names)
        return intermediate_values(rows_model(), [name for name in names if name != "unknown"], inputs)

    def ours_with(wrong: Mapping[str, float]) -> Callable[[Sequence[str]], dict[str, np.ndarray]]:
        return lambda names: {
            name: value * np.float32(wrong.get(name, 1))
            for name, value in intermediate_values(
                rows_model(), [name for name in names if name != "unknown"], inputs
            ).items()
        }

    assert first_wrong_region(regions, ours_with({}), reference) is None
    asked.clear()
    found = first_wrong_region(regions, ours_with({"scaled": 1.01, "y": 2.0}), reference)
    assert found is not None
    assert found.region == "scale"
    assert [report.name for report in found.reports] == ["scaled"]
    assert asked == ["relu", "unknown", "scaled"]


def test_a_float64_run_is_one() -> None:
    text = """m (float[N] x, bool c) => (float[N] y) {
        k = Constant<value_floats = [0.1, 0.2, 0.3]>()
        z = ConstantOfShape(three)
        f = Cast<to = 1>(three)
        r = If(c) <
            then_branch = t () => (float[N] a) { a = Exp(x) },
            else_branch = e () => (float[N] b) { b = Mul(x, w) }>
        s = Add(r, k)
        q = Add(s, z)
        y = Add(q, f)
    }"""
    w = np.array([0.7, 0.8, 0.9], np.float32)
    model = parse(text, w=w, three=np.array([3]))
    x = np.array([0.1, 1.7, -3.3], np.float32)
    for condition in (True, False):
        values = run_double(model, {"x": x, "c": np.array(condition)})
        assert values is not None
        wide = x.astype(np.float64)
        k = np.array([0.1, 0.2, 0.3], np.float32).astype(np.float64)
        expected = (np.exp(wide) if condition else wide * w.astype(np.float64)) + k + 3
        assert values["y"].dtype == np.float64
        np.testing.assert_allclose(values["y"], expected, rtol=1e-14)
    assert Reference(model).run({"x": x, "c": np.array(True)})["y"].dtype == np.float32


@pytest.mark.parametrize(
    "op, x, w",
    [
        ("Conv<pads = [1, 2, 0, 1], strides = [2, 1]>(x, w, b)", (2, 3, 13, 17), (4, 3, 3, 2)),
        ("Conv<group = 2, dilations = [2, 3]>(x, w, b)", (1, 4, 15, 19), (6, 2, 3, 3)),
        ('Conv<auto_pad = "SAME_UPPER", strides = [2, 3]>(x, w, b)', (1, 2, 13, 15), (5, 2, 4, 3)),
        ('Conv<auto_pad = "SAME_LOWER", strides = [2, 2]>(x, w, b)', (1, 2, 13, 15), (5, 2, 4, 3)),
        ("Conv<group = 3>(x, w)", (2, 3, 17), (3, 1, 5)),
        ("Conv<pads = [1, 1, 1, 1, 1, 1]>(x, w, b)", (1, 2, 5, 6, 7), (3, 2, 3, 3, 3)),
        ("MaxPool<kernel_shape = [3, 2], pads = [1, 0, 1, 1], strides = [2, 2]>(x)", (2, 3, 13, 17), ()),
        ("MaxPool<kernel_shape = [2], dilations = [3]>(x)", (2, 3, 13), ()),
        ("AveragePool<kernel_shape = [3, 3], pads = [1, 1, 1, 1], strides = [2, 1]>(x)", (2, 3, 13, 17), ()),
        ("AveragePool<kernel_shape = [3, 3], pads = [1, 1, 1, 1], count_include_pad = 1>(x)", (2, 3, 5, 7), ()),
        ("BatchNormalization(x, b, c, d, e)", (2, 3, 5, 7), ()),
    ],
)
def test_the_float64_operators_agree_with_onnxruntime(op: str, x: tuple[int, ...], w: tuple[int, ...]) -> None:
    generator = np.random.default_rng(3)
    channels = w[0] if w else x[1]
    constants = {name: generator.random(channels).astype(np.float32) + 0.5 for name in "bcde"}
    constants["w"] = generator.standard_normal(w or (1,)).astype(np.float32)
    used = {name: value for name, value in constants.items() if f" {name}," in op or f" {name})" in op}
    dims = ",".join(map(str, x))
    model = parse(f"m (float[{dims}] x) => (float[?] y) {{ y = {op} }}", **used)
    del model.graph.output[0].type.tensor_type.shape.dim[:]
    model.graph.output[0].type.tensor_type.ClearField("shape")
    data = {"x": generator.standard_normal(x).astype(np.float32)}
    values = run_double(model, data)
    assert values is not None
    assert values["y"].dtype == np.float64
    expected = Reference(model).run(data)["y"]
    assert values["y"].shape == expected.shape
    np.testing.assert_allclose(values["y"], expected, rtol=1e-4, atol=1e-5)


def test_no_float64_run_where_none_can_be_had() -> None:
    model = parse("m (float[N] x) => (float[N] y) { y = Foo.Bar(x) }".replace("Foo.Bar", "Relu"))
    model.graph.node[0].op_type = "NoSuchOp"
    assert run_double(model, {"x": np.ones(3, np.float32)}) is None
    with pytest.raises(InputError, match="does not load this model"):
        Reference(model)


def test_reports_are_values() -> None:
    report = compare("y", sample(), sample())
    assert replace(report, passed=True) == report


def test_a_saturating_output_has_the_scale_of_one() -> None:
    from onnx import TensorProto, helper

    from graphfuse.verify.check import _tolerance

    nodes = [helper.make_node("Sigmoid", ["x"], ["s"]), helper.make_node("Reshape", ["s", "shape"], ["y"])]
    nodes.append(helper.make_node("Neg", ["s"], ["z"]))
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in "xyz"]
    model = helper.make_model(helper.make_graph(nodes, "g", values[:1], values[1:]))
    tiny = np.array([0.0, 1e-9], np.float32)
    saturating, other = (_tolerance(model, name, Tolerance()) for name in "yz")
    assert compare("y", tiny + np.float32(1e-7), tiny, saturating).passed
    assert not compare("z", tiny + np.float32(1e-7), tiny, other).passed
    assert not compare("y", np.float32([0.5, 0.51]), np.float32([0.5, 0.5]), saturating).passed


@pytest.mark.parametrize(
    "ports, body, oracle",
    [
        ("(bfloat16[N, 8] x) => (bfloat16[N, 8] y)", "a = Add(x, x)\n y = Tanh(a)", "onnx.reference"),
        ("(float16[N, 8] x) => (float16[N, 8] y)", "a = Add(x, x)\n y = Tanh(a)", "onnxruntime"),
        ("(float[N, 8] x) => (float8e4m3fn[N, 8] y)", "y = Cast<to = 17>(x)", "onnx.reference"),
        ("(int4[N, 8] x) => (float[N, 8] y)", "y = Cast<to = 1>(x)", "onnx.reference"),
        ("(uint16[N, 8] x) => (uint16[N, 8] y)", "a = Max(x, x)\n y = Mul(a, x)", "onnx.reference"),
    ],
)
def test_element_types_that_onnxruntime_lacks_are_verified_by_the_evaluator(
    ports: str, body: str, oracle: str, tmp_path: Path
) -> None:
    model = onnx.parser.parse_model(f'<ir_version: 10, opset_import: ["": 22]> g {ports} {{ {body} }}')
    onnx.save(model, tmp_path / "model.onnx")
    certificate = compile_model(tmp_path / "model.onnx", tmp_path / "model.gf").certificate
    assert certificate is not None
    assert certificate.passed
    assert oracle in certificate.versions
    assert f"with {oracle}" in certificate.verdict


def test_an_opset_that_onnxruntime_does_not_know_is_verified_with_the_evaluator(tmp_path: Path) -> None:
    text = "g (float[3, 4] a, float[3, 4] b) => (float[3, 4] y) { y = SwiGLU<alpha = 0.5>(a, b) }"
    onnx.save(onnx.parser.parse_model(f'<ir_version: 11, opset_import: ["": 28]> {text}'), tmp_path / "m.onnx")
    certificate = compile_model(tmp_path / "m.onnx", tmp_path / "m.gf", CompileOptions(cache=False)).certificate
    assert certificate is not None
    assert certificate.passed
    assert certificate.reference == "onnx.reference"
    fused = onnx.load(tmp_path / "m.gf" / "fused.onnx")
    onnx.checker.check_model(fused)
    assert {entry.domain: entry.version for entry in fused.opset_import}[""] == 28
