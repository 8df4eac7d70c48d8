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
