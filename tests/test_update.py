"""New weights for a compiled model: the same results as compiling it anew, without a compiler where that can be."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

import zoo
from graphfuse.compiler import Compiled, Job, run_stages
from graphfuse.errors import InputError
from graphfuse.options import CompileOptions
from graphfuse.update import Updater
from graphfuse.verify import generate_inputs, plausible_dims
from graphfuse.verify.compare import compare
from graphfuse.verify.reference import Reference

Array = np.ndarray


def compiled(path: Path, folder: Path) -> Compiled:
    job = Job(path, CompileOptions(cache=False, verify=False), folder / "m.gf", updatable=True)
    return Compiled(folder / "m.gf", run_stages(job))


def moved(updater: Updater, seed: int = 0) -> dict[str, Array]:
    """Other values for every float weight that has some spread; variances stay positive."""
    rng = np.random.default_rng(seed)
    values = {}
    for name in updater.names:
        tensor = updater._pristine.graph.initializers[name].const_value
        assert tensor is not None
        array = tensor.numpy()
        if array.dtype == np.float32 and array.size > 1:
            values[name] = (array * rng.uniform(0.9, 1.1, array.shape)).astype(np.float32)
    return values


def with_values(path: Path, values: Mapping[str, Array]) -> onnx.ModelProto:
    model = onnx.load(path)
    for tensor in model.graph.initializer:
        if tensor.name in values:
            tensor.CopyFrom(numpy_helper.from_array(values[tensor.name], tensor.name))
    return model


@pytest.mark.parametrize("name", ["mobilenet_v2", "resnet18", "lstm", "minilm", "convnext_atto"])
def test_update_is_as_compiling_anew(name: str, tmp_path: Path) -> None:
    path = zoo.path(name)
    done = compiled(path, tmp_path)
    updater, session = Updater(done.job), done.session()
    values = moved(updater)
    assert values
    arrays = updater._packed_again(values)  # nothing is planned again
    assert arrays is not None
    session.take_weights(arrays)
    model = with_values(path, values)
    inputs = generate_inputs(session.manifest, model, plausible_dims(session.manifest, 1, 64, {}), 0)
    wanted = Reference(model).run(inputs)
    outputs = session.run(None, inputs)
    for tensor, y in zip(session.manifest.outputs, outputs, strict=True):
        report = compare(tensor.name, y, wanted[tensor.name])
        assert report.passed, f"{tensor.name}: {report.reason}"
    anew = updater._planned_again(values)
    assert anew is not None
    for one, other in zip(arrays, anew, strict=True):
        np.testing.assert_array_equal(one, other)


def test_values_that_change_the_code_are_told_apart(tmp_path: Path) -> None:
    """Adding zeros is nothing: a bias that is no longer zero is an addition, and the C is another."""
    text = """<ir_version: 10, opset_import: ["": 21]> g (float[2, 3] x) => (float[2, 3] y)
        <float[3] b = {0., 0., 0.}, float[3] c = {1., 2., 3.}> { a = Add(x, b) y = Mul(a, c) }"""
    path = tmp_path / "m.onnx"
    onnx.save(onnx.parser.parse_model(text), path)
    updater = Updater(compiled(path, tmp_path).job)
    assert updater.weights({"c": np.array([4, 5, 6], np.float32)}) is not None
    assert updater.weights({"b": np.array([4, 5, 6], np.float32)}) is None


def test_what_does_not_fit_is_refused(tmp_path: Path) -> None:
    done = compiled(zoo.path("mlp"), tmp_path)
    updater, session = Updater(done.job), done.session()
    name = updater.names[0]
    for values, what in (
        ({"no such": np.zeros(1, np.float32)}, "no weight 'no such'"),
        ({name: np.zeros(1, np.float32)}, "expected float32"),
        ({name: np.zeros(updater.model({}).graph.initializers[name].shape.numpy(), np.float64)}, "this is float64"),
    ):
        with pytest.raises(InputError, match=what):
            updater.weights(values)
    with pytest.raises(InputError, match="the weights are 64 bytes"):
        session.take_weights([np.zeros(3, np.float32)])


def test_memory_of_weights_is_taken_again_where_nobody_reads_it(tmp_path: Path) -> None:
    path = zoo.path("mlp")
    done = compiled(path, tmp_path)
    updater, session = Updater(done.job), done.session()
    sizes = plausible_dims(session.manifest, 1, 64, {})
    inputs = generate_inputs(session.manifest, onnx.load(path), sizes, 0)
    addresses, bound, kept = [], None, None
    for seed in range(6):
        arrays = updater.weights(moved(updater, seed))
        assert arrays is not None
        session.take_weights(arrays)
        assert session._weights is not None
        addresses.append(session._weights.address)
        if seed == 2:
            bound, kept = session.bind(inputs), session.run(None, inputs)
    assert addresses[:4] == addresses[:2] * 2
    assert addresses[4] != addresses[2]  # the binding goes on reading it
    assert bound is not None
    assert kept is not None
    for got, wanted in zip(bound().values(), kept, strict=True):
        np.testing.assert_array_equal(got, wanted)
