"""Strict numerics: no rule and no kernel that rounds what the model does not round, and the model verifies."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from graphfuse.compiler import STRICT, Compiled, Job, compile_model, run_stages
from graphfuse.graph.text import model_text
from graphfuse.kernels import CONTRACTION_KERNELS
from graphfuse.options import CompileOptions
from graphfuse.rules import rule_files
from graphfuse.verify.reference import to_double

FOLDED = tuple(file.name for file in rule_files() if file.error_class == "folded")
WINOGRAD = tuple(kernel.name for kernel in CONTRACTION_KERNELS if kernel.error_class == "winograd")


def network() -> onnx.ModelProto:
    """Two 3x3 convolutions, batch norm after one and before the other, a scale, a Gemm with alpha: work for folding."""
    rng = np.random.default_rng(0)

    def constant(name: str, *shape: int, mean: float = 0.0) -> onnx.TensorProto:
        return numpy_helper.from_array((mean + 0.1 * rng.standard_normal(shape)).astype(np.float32), name)

    channels = [constant(f"{n}{k}", 64, mean=float(n in "gv")) for k in (1, 2) for n in "gbmv"]
    nodes = [
        helper.make_node("Conv", ["x", "w1"], ["c1"], name="conv1", pads=[1, 1, 1, 1]),
        helper.make_node("BatchNormalization", ["c1", "g1", "b1", "m1", "v1"], ["n1"], name="norm1"),
        helper.make_node("Relu", ["n1"], ["r1"], name="relu1"),
        helper.make_node("BatchNormalization", ["r1", "g2", "b2", "m2", "v2"], ["n2"], name="norm2"),
        helper.make_node("Conv", ["n2", "w2"], ["c2"], name="conv2", pads=[1, 1, 1, 1]),
        helper.make_node("Mul", ["c2", "scale"], ["s"], name="scale"),
        helper.make_node("GlobalAveragePool", ["s"], ["p"], name="pool"),
        helper.make_node("Flatten", ["p"], ["f"], name="flatten"),
        helper.make_node("Gemm", ["f", "w3"], ["y"], name="classify", transB=1, alpha=0.5),
    ]
    graph = helper.make_graph(
        nodes,
        "network",
        [helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, ["N", 64, 28, 28])],
        [helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, ["N", 10])],
        [
            constant("w1", 64, 64, 3, 3), constant("w2", 64, 64, 3, 3), constant("scale", 64, 1, 1, mean=1.0),
            constant("w3", 10, 64), *channels,
        ],
    )  # fmt: skip
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("strict") / "network.onnx"
    onnx.save(network(), file)
    return file


@pytest.fixture(scope="module")
def compiled(path: Path) -> dict[str, Compiled]:
    return {
        numerics: compile_model(path, path.with_name(f"{numerics}.gf"), CompileOptions(numerics=numerics))
        for numerics in ("default", "strict")
    }


def kernels(compilation: Compiled) -> set[str]:
    return {call.kernel for call in compilation.job.results["plan"].calls}


def rewritten(path: Path, options: CompileOptions) -> str:
    return model_text(run_stages(Job(path, options), stop_after="recognize").results["recognize"])


def test_every_class_of_error_is_one_that_is_known() -> None:
    classes = {file.error_class for file in rule_files()} | {kernel.error_class for kernel in CONTRACTION_KERNELS}
    assert classes == {"exact", "reassociated", "folded", "winograd"}
    assert STRICT == ("exact", "reassociated")
    assert {"fold_batch_norm", "fold_affine", "simplify_batch_norm"} <= set(FOLDED)
    assert WINOGRAD == ("conv_winograd",)


def test_by_default_the_network_uses_what_strict_leaves_out(compiled: dict[str, Compiled]) -> None:
    assert set(WINOGRAD) <= kernels(compiled["default"])
    by = {record.name: record.by for record in compiled["default"].ledger.nodes}
    assert (by["norm1"], by["scale"]) == ("fold_batch_norm", "fold_affine")


def test_strict_uses_none_of_it(compiled: dict[str, Compiled]) -> None:
    ledger = compiled["strict"].ledger
    assert not set(WINOGRAD) & kernels(compiled["strict"])
    assert not {record.by for record in ledger.nodes} & set(FOLDED)
    assert not {miss.rule for miss in ledger.misses} & set(FOLDED)
    assert not ledger.missing()


def test_strict_is_the_same_as_naming_every_folding_rule(path: Path) -> None:
    strict = rewritten(path, CompileOptions(numerics="strict"))
    assert strict == rewritten(path, CompileOptions(disabled_rules=FOLDED))
    assert strict != rewritten(path, CompileOptions())
    assert strict.count("BatchNormalization") >= 2


@pytest.mark.parametrize("numerics", ["default", "strict"])
def test_the_network_verifies(compiled: dict[str, Compiled], numerics: str) -> None:
    certificate = compiled[numerics].certificate
    assert certificate is not None
    assert certificate.passed


def products(k: int) -> onnx.ModelProto:
    """A matrix product of k terms and one with a run-time operand; a 3x3 and a transposed convolution of k channels."""
    rng = np.random.default_rng(k)

    def constant(name: str, *shape: int) -> onnx.TensorProto:
        return numpy_helper.from_array(rng.standard_normal(shape).astype(np.float32), name)

    nodes = [
        helper.make_node("MatMul", ["a", "b"], ["product"]),
        helper.make_node("MatMul", ["a", "at"], ["square"]),
        helper.make_node("Conv", ["x", "w"], ["conv"], pads=[1, 1, 1, 1]),
        helper.make_node("ConvTranspose", ["x", "v"], ["spread"], strides=[2, 2]),
    ]
    inputs = {"a": [9, k], "at": [k, 11], "x": [1, k, 7, 6]}
    graph = helper.make_graph(
        nodes,
        "products",
        [helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shape) for name, shape in inputs.items()],
        [
            helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None)
            for name in ("product", "square", "conv", "spread")
        ],
        [constant("b", k, 37), constant("w", 40, k, 3, 3), constant("v", k, 33, 2, 2)],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)


@pytest.mark.parametrize("k", [1, 128, 129, 700])
def test_long_sums_round_less(k: int, tmp_path: Path) -> None:
    """Strict numerics adds up in blocks: no farther from float64 than usual, and closer where sums are long."""
    model = products(k)
    onnx.save(model, tmp_path / "products.onnx")
    rng = np.random.default_rng(1)
    shapes = {v.name: [d.dim_value for d in v.type.tensor_type.shape.dim] for v in model.graph.input}
    x = {name: rng.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}
    exact = onnx.reference.ReferenceEvaluator(to_double(model)).run(None, {n: v.astype(float) for n, v in x.items()})
    errors = []
    for numerics in ("default", "strict"):
        compiled = compile_model(tmp_path / "products.onnx", tmp_path / numerics, CompileOptions(numerics=numerics))
        found = compiled.session().run(None, x)
        errors.append(
            [float(np.sqrt(np.mean((f - e) ** 2) / np.mean(e**2))) for f, e in zip(found, exact, strict=True)]
        )
    assert max(errors[1]) < 4e-7
    if k == 700:
        assert all(strict < 0.7 * usual for usual, strict in zip(*errors, strict=True)), errors
