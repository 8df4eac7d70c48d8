"""Every rule file's own samples: hits are rewritten and stay equal, near misses stay and say why."""

from __future__ import annotations

import numpy as np
import onnx
import onnx.parser
import onnx_ir as ir
import onnxruntime
import pytest

from graphfuse.graph.infer import infer_shapes
from graphfuse.graph.origins import all_nodes, check_origins, set_origins
from graphfuse.ledger import Ledger
from graphfuse.rules import rule_files, run_stage

onnxruntime.set_default_logger_severity(3)
SIZES = {"N": 2, "H": 6, "W": 5, "A": 3, "B": 4, "C": 5}
# float32, a few operations deep, numbers of order one to ten; folding rounds the weights once more.
RTOL, ATOL = 2e-5, 2e-5

FILES = {file.name: file for file in rule_files()}
HITS = [(name, k) for name, file in FILES.items() for k in range(len(file.module.HITS))]
NEAR_MISSES = [(name, k) for name, file in FILES.items() for k in range(len(file.module.NEAR_MISSES))]


def load(text: str) -> tuple[ir.Model, Ledger]:
    """A sample as the importer would hand it on: nodes named and registered, constants lifted, shapes inferred."""
    header = '<ir_version: 11, opset_import: ["": 24]> '
    model = ir.from_proto(onnx.parser.parse_model(header + " ".join(text.split())))
    ledger = Ledger()
    ir.passes.common.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(model)
    for k, node in enumerate(all_nodes(model.graph)):
        node.name = f"{node.op_type}_{k}"
        ledger.register(node.name, node.op_type)
        set_origins(node, [node.name])
    infer_shapes(model)
    return model, ledger


def random_inputs(model: ir.Model, seed: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    feeds = {}
    for value in model.graph.inputs:
        shape = [d if isinstance(d, int) else SIZES[d.value] for d in value.shape]
        numbers = rng.standard_normal(shape) * 2
        is_bool = value.dtype == ir.DataType.BOOL
        feeds[value.name] = np.asarray(numbers > 0 if is_bool else numbers, value.dtype.numpy())
    return feeds


def run(model: ir.Model, feeds: dict[str, np.ndarray]) -> list[np.ndarray]:
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    data = ir.to_proto(model).SerializeToString()
    return onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"]).run(None, feeds)


def form(model: ir.Model) -> list[tuple]:
    """The graph's nodes, for telling whether anything changed."""
    return [
        (node.op_type, tuple(v and v.name for v in node.inputs), tuple(v.name for v in node.outputs))
        for node in all_nodes(model.graph)
    ]


def apply(name: str, model: ir.Model, ledger: Ledger) -> None:
    """Run one rule file alone."""
    stage = FILES[name].stages[0]
    run_stage(stage, model, ledger, frozenset(FILES) - {name})


@pytest.mark.parametrize("name, k", HITS)
def test_hit_is_rewritten_and_equal(name: str, k: int) -> None:
    model, ledger = load(FILES[name].module.HITS[k])
    before, names = form(model), [value.name for value in model.graph.outputs]
    feeds = [random_inputs(model, seed) for seed in range(3)]
    expected = [run(model, feed) for feed in feeds]
    apply(name, model, ledger)
    assert form(model) != before
    assert [value.name for value in model.graph.outputs] == names
    check_origins(model, ledger, name)
    onnx.checker.check_model(ir.to_proto(model))
    for feed, wanted in zip(feeds, expected, strict=True):
        for got, want in zip(run(model, feed), wanted, strict=True):
            assert got.dtype == want.dtype
            np.testing.assert_allclose(got, want, rtol=RTOL, atol=ATOL * max(1.0, float(np.abs(want).max(initial=0))))


@pytest.mark.parametrize("name, k", HITS)
def test_hit_keeps_shapes_and_settles(name: str, k: int) -> None:
    """What a rewrite says about shapes is what inference says; a second run finds nothing left to do."""
    model, ledger = load(FILES[name].module.HITS[k])
    apply(name, model, ledger)
    stated = {v.name: (str(v.shape), v.dtype) for node in model.graph for v in node.outputs}
    infer_shapes(model)
    assert {v.name: (str(v.shape), v.dtype) for node in model.graph for v in node.outputs} == stated
    after = form(model)
    apply(name, model, ledger)
    assert form(model) == after


@pytest.mark.parametrize("name, k", NEAR_MISSES)
def test_near_miss_stays_and_says_why(name: str, k: int) -> None:
    """A sample with an empty reason looks like a hit but is another formula altogether: it stays, that is all."""
    text, reason = FILES[name].module.NEAR_MISSES[k]
    model, ledger = load(text)
    before = form(model)
    apply(name, model, ledger)
    assert form(model) == before
    said = [miss.reason for miss in ledger.misses if miss.rule == name]
    assert not reason or any(reason in text for text in said), said


@pytest.mark.parametrize("name", FILES)
def test_every_rule_has_a_hit(name: str) -> None:
    assert FILES[name].module.HITS
    assert FILES[name].error_class in ("exact", "reassociated", "folded")
    assert FILES[name].module.__doc__
