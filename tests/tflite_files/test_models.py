"""Published TFLite models: they agree with LiteRT, and no layout of theirs costs a transpose or a copy."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("ai_edge_litert")

import real_models
from graphfuse.compiler import Compiled, Job, compile_model, run_stages
from graphfuse.importers.open import open_model
from graphfuse.importers.source import Converted
from graphfuse.ops.tensor import Concat, Pad, Slice
from graphfuse.options import CompileOptions
from graphfuse.verify.litert import LiteRT

Fetch = Callable[[str], Path]
# Transposes of the converted graph that no other undoes: those between a file's channels-last inputs and its first
# convolution, and in okay_nabu, whose images are one wide, around convolutions over states. None of them moves memory.
VIEWS = {"hand_landmark_lite": 1, "basic-pitch.tflite": 4, "okay_nabu": 9}

# Operators of the file that may cost a copy by what they are.
OWN = ("CONCATENATION", "PAD", "STRIDED_SLICE")


def converted(path: Path) -> Converted:
    source = open_model(path)
    assert isinstance(source, Converted)
    return source


def compiled(path: Path, folder: Path) -> Compiled:
    result = compile_model(converted(path), folder / "m.gf")
    assert result.certificate is not None
    assert result.certificate.passed
    assert "LiteRT" in result.certificate.verdict
    return result


@pytest.mark.parametrize("name", ["hand_landmark_lite", "basic-pitch.tflite"])
def test_floats_agree_with_litert(name: str, real_model: Fetch, tmp_path: Path) -> None:
    path = real_model(name)
    session, reference = compiled(path, tmp_path).session(), LiteRT(converted(path))
    for seed in range(2):
        inputs = real_models.inputs(name, seed)
        for output, wanted in reference.run(inputs).items():
            (got,) = session.run([output], inputs)
            np.testing.assert_allclose(got, wanted, rtol=1e-3, atol=2e-4)


def test_okay_nabu_is_exact_call_after_call(real_model: Fetch, tmp_path: Path) -> None:
    """As the reference kernels have it, states included; LiteRT's other kernels differ from those by one step."""
    path = real_model("okay_nabu")
    session = compiled(path, tmp_path).session()
    kinds = ("reference", "optimised", "delegates")
    runners = {kind: LiteRT(converted(path), kind) for kind in kinds}
    random, apart = np.random.default_rng(0), dict.fromkeys(kinds, 0)
    levels = random.integers(-128, 60, (8, 1, 1, 40))
    for step in range(400):
        level = levels[step // 50]
        x = np.clip(level + random.normal(0, 25, (1, 3, 40)), -128, 127).astype(np.int8)
        got = int(session.run(None, {session.get_inputs()[0].name: x})[0].item())
        for kind, runner in runners.items():
            (wanted,) = runner.run({session.get_inputs()[0].name: x}).values()
            assert abs(got - int(wanted.item())) <= (0 if kind == "reference" else 1)
            apart[kind] += got != int(wanted.item())
    assert apart["reference"] == 0
    assert apart["delegates"] > 0  # or the inputs say nothing


def test_two_forms_of_one_model_agree(real_model: Fetch, tmp_path: Path) -> None:
    tflite = compiled(real_model("basic-pitch.tflite"), tmp_path).session()
    onnx = compile_model(real_model("basic-pitch"), tmp_path / "o.gf", CompileOptions(verify=False)).session()
    (audio,) = real_models.inputs("basic-pitch").values()
    ones = tflite.run(None, {tflite.get_inputs()[0].name: audio})
    others = onnx.run(None, {onnx.get_inputs()[0].name: audio})
    # Their outputs have other names, and two of the three have the same shape.
    for value in ones:
        alike = [other for other in others if other.shape == value.shape]
        assert alike
        assert min(np.abs(value - other).max() for other in alike) < 1e-3


@pytest.mark.parametrize("name", VIEWS)
def test_no_transpose_is_added(name: str, real_model: Fetch) -> None:
    """The transposes left are views; what the plan copies has another reason than the order of axes."""
    job = Job(real_model(name), CompileOptions())
    run_stages(job, stop_after="plan")
    graph = job.results["recognize"].graph
    assert sum(node.op_type == "Transpose" for node in graph) <= VIEWS[name]
    copies = job.results["plan"].copies
    # A border, a concat of what lives elsewhere (a state, an output), a state that is part of another tensor.
    assert all(isinstance(tensor.prim, Concat | Pad | Slice) for tensor in copies)
    written = sum(kind in OWN for kind in job.source.converted.operators.values())
    assert len(copies) <= written
