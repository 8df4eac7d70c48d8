"""Whole models: exported networks and published ones, compiled, verified, run, accounted for, and sanitized."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping
from functools import cache
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest

import real_models
import zoo
from codegen.sanitizing import build_sanitized, run_sanitized, spread
from graphfuse.compiler import Compiled, Job, compile_model, run_stages
from graphfuse.fusion.regions import Fusion, producers
from graphfuse.options import CompileOptions

Inputs = Mapping[str, np.ndarray]

REAL = ("basic-pitch", "centerface", "magika", "ppocrv4_det", "ppocrv4_rec", "ppocr_v2_cls", "plcmos_v2", "swift_f0")
COMPILED = zoo.NAMES
MODELS = [*COMPILED, *(pytest.param(name, marks=pytest.mark.real_model) for name in REAL)]
# Objects are kept between the processes and runs of the tests, as a user's cache keeps them.
FOLDER = Path(tempfile.gettempdir()) / f"graphfuse-model-tests-{os.getuid()}"
OPTIONS = CompileOptions(cache_dir=FOLDER / "objects", threads=2)


def path_of(name: str) -> Path:
    """The model's file; skipped when it is a published one that cannot be had."""
    if name in zoo.NAMES:
        return zoo.path(name)
    try:
        return real_models.fetch(name)
    except real_models.Unavailable as error:
        if os.environ.get("CI") == "true":
            raise
        pytest.skip(str(error))


def inputs_of(name: str, seed: int = 0, batch: int = 1) -> Inputs:
    if name in zoo.NAMES:
        return zoo.inputs(onnx.load(zoo.path(name)), seed, batch=batch)
    return real_models.inputs(name, seed)


@cache
def compiled(name: str) -> Compiled:
    folder = Path(tempfile.mkdtemp(prefix="models-", dir=_made(FOLDER)))
    return compile_model(path_of(name), folder / f"{name}.gf", OPTIONS)


def _made(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return folder


@cache
def emitted(name: str) -> Job:
    return run_stages(Job(path_of(name), OPTIONS), stop_after="emit")


def reference(name: str, inputs: Inputs) -> list[np.ndarray]:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(path_of(name), options, providers=["CPUExecutionProvider"])
    return list(session.run(None, {value.name: inputs[value.name] for value in session.get_inputs()}))


def assert_close(actual: list[np.ndarray], wanted: list[np.ndarray]) -> None:
    """To a thousandth of the largest output: float32 through a hundred layers, in another order than onnxruntime's."""
    assert len(actual) == len(wanted)
    for a, w in zip(actual, wanted, strict=True):
        assert a.shape == w.shape
        assert np.isfinite(a).all()
        np.testing.assert_allclose(a, w, rtol=1e-3, atol=1e-3 * float(np.abs(w).max()))


# ---------------------------------------------------------------- compile, verify, run


@pytest.mark.parametrize("name", MODELS)
def test_compiles_verifies_runs(name: str) -> None:
    done = compiled(name)
    assert done.certificate is not None
    assert done.certificate.passed
    inputs = inputs_of(name, seed=5)
    wanted = reference(name, inputs)
    with done.session(threads=1) as one, done.session(threads=2) as two:
        actual = one.run(None, dict(inputs))
        assert_close(actual, wanted)
        again = two.run(None, dict(inputs))
    assert [a.tobytes() for a in actual] == [b.tobytes() for b in again]


@pytest.mark.parametrize("name", [n for n in COMPILED if n != "pointwise_chain"])
def test_one_library_for_every_batch(name: str) -> None:
    with compiled(name).session() as session:
        for batch in (1, 3):
            inputs = inputs_of(name, seed=batch, batch=batch)
            assert_close(session.run(None, dict(inputs)), reference(name, inputs))


@pytest.mark.real_model
def test_one_library_for_every_image_size() -> None:
    with compiled("centerface").session() as session:
        for size in [(1, 3, 480, 640), (1, 3, 256, 416), (2, 3, 64, 96)]:
            inputs = real_models.inputs("centerface", shapes={"input.1": size})
            assert_close(session.run(None, inputs), reference("centerface", inputs))


@pytest.mark.real_model
def test_one_library_for_every_length_of_sound() -> None:
    """Below one window, at odd lengths, and over many windows: paddings and slices follow the length."""
    with compiled("swift_f0").session() as session:
        for samples in (100, 257, 5000, 33333):
            inputs = real_models.inputs("swift_f0", shapes={"audio": (1, samples)})
            assert_close(session.run(None, inputs), reference("swift_f0", inputs))


def test_an_empty_batch_gives_empty_outputs() -> None:
    with compiled("mlp").session() as session:
        [y] = session.run(None, {"x": np.zeros((0, 64), np.float32)})
    assert y.shape == (0, 10)


# ---------------------------------------------------------------- the account


@pytest.mark.parametrize("name", MODELS)
def test_every_node_has_one_record(name: str) -> None:
    ledger = emitted(name).ledger
    assert ledger.missing() == ()
    assert [record.name for record in ledger.nodes] == list(ledger.names)
    assert len(ledger.names) == len(onnx.load(path_of(name)).graph.node)


@pytest.mark.parametrize("name", MODELS)
def test_every_edge_between_regions_has_a_reason(name: str) -> None:
    job = emitted(name)
    fusion: Fusion = job.results["fuse"]
    strips = job.results["plan"].strips
    nodes = {r.name: {fusion.program.name(t) for t in r.tensors} for r in fusion.regions}
    edges = {(e.producer, e.consumer) for e in job.ledger.edges}
    assert all(e.condition for e in job.ledger.edges)
    for region in fusion.regions:
        for source in producers(fusion, region):
            if strips.get((source.name, region.name)) == "":
                continue  # no edge: the two run strip by strip
            found = any(p in nodes[source.name] and c in nodes[region.name] for p, c in edges)
            assert found, f"no record of the edge from {source.name} to {region.name}"


@pytest.mark.parametrize("name", ["resnet18", "resnet50", "mobilenet_v2"])
def test_no_kernel_for_batch_norm_activation_or_residual(name: str) -> None:
    job = emitted(name)
    for record in job.ledger.nodes:
        if record.op_type in ("BatchNormalization", "Relu", "Clip", "Add"):
            assert record.fate in ("folded", "fused"), record
    kernels = [call.kernel for call in job.results["plan"].calls]
    assert kernels.count("rows") == 1  # the mean over the image


# ---------------------------------------------------------------- sanitizers

OTHER_SIZES = {
    "centerface": {"input.1": (2, 3, 64, 96)},
    "ppocrv4_rec": {"x": (2, 3, 48, 100)},
    "swift_f0": {"audio": (1, 257)},
}

SAME_KERNELS = ("resnet18_dynamo", "vit_tiny_dynamo", "vgg11_bn")  # as in other models of the list


@pytest.mark.sanitize
@pytest.mark.parametrize("name", [m for m in MODELS if m not in SAME_KERNELS])
def test_sanitized(name: str, tmp_path: Path) -> None:
    job = emitted(name)
    runs = [inputs_of(name)]
    if name in zoo.NAMES and name != "pointwise_chain":
        runs.append(inputs_of(name, batch=3))
    if name in OTHER_SIZES:
        runs.append(real_models.inputs(name, shapes=OTHER_SIZES[name]))
    plan, module = spread(job, job.results["plan"])
    program = build_sanitized(module, job.target, tmp_path)
    for inputs, outputs in zip(runs, run_sanitized(program, module, runs, plan=plan), strict=True):
        assert_close(outputs, reference(name, inputs))
    (tmp_path / "weights.bin").unlink()  # up to 100 MB
