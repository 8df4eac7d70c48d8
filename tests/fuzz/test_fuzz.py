"""A bounded run of the fuzzer, what it found before, and that it notices what is wrong."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from codegen.building import parse
from fuzz.draw import IR_VERSION, OPSET, Drawn, numbers
from fuzz.found import FOUND
from fuzz.judge import Judge
from fuzz.models import draw
from fuzz.running import Build, check_batch, ways
from fuzz.shrink import Case, shrink

BATCHES, MODELS = 12, 50
BUILDS = (Build(), Build("x86_64"), Build(flags=("-O3",)))


@pytest.mark.parametrize("batch", range(BATCHES))
def test_random_models(batch: int) -> None:
    models = [draw(seed) for seed in range(batch * MODELS, (batch + 1) * MODELS)]
    tally = check_batch(models, BUILDS[batch % len(BUILDS)])
    assert not tally.failures, "\n".join(f"{f.seed} {f.way}: {f.kind} {f.text}" for f in tally.failures)
    assert tally.counts["right"] > MODELS


def as_drawn(model: onnx.ModelProto, seed: int) -> Drawn:
    """A model with inputs of sizes that are easy to tell apart."""
    dims, given = {}, {}
    for value in model.graph.input:
        kind = value.type.tensor_type
        dims[value.name] = tuple(d.dim_param or d.dim_value for d in kind.shape.dim)
        sizes = [{"N": 11, "M": 13}.get(d, d) for d in dims[value.name]]
        dtype = onnx.helper.tensor_dtype_to_np_dtype(kind.elem_type)
        given[value.name] = numbers(np.random.default_rng(seed), sizes, dtype)
    return Drawn(seed, model, given, dims, frozenset(), fixed=False)


@pytest.mark.parametrize("way", range(len(ways()) - 1))
def test_found_before(way: int) -> None:
    """By default and in one other way for each seed."""
    others = len(ways()) - 1
    header = '<ir_version: 10, opset_import: ["": 21, "ai.onnx.ml": 3]>\n'
    texts = [onnx.parser.parse_model(header + text) for text in FOUND.values()]
    models = [as_drawn(model, k * others * 3 + way) for k, model in enumerate(texts)]
    tally = check_batch(models, Build())
    names = {k * others * 3 + way: name for k, name in enumerate(FOUND)}
    assert not tally.failures, "\n".join(f"{names[f.seed]} {f.way}: {f.kind} {f.text}" for f in tally.failures)
    assert not [word for word in tally.counts if word.startswith("refused")]


def test_the_same_seed_draws_the_same_model() -> None:
    for seed in range(20):
        assert draw(seed).model.SerializeToString() == draw(seed).model.SerializeToString()


def test_judge_notices_one_percent() -> None:
    drawn = as_drawn(parse("g (float[N, 4] x) => (float[N, 4] y) { a = Exp(x) y = Tanh(a) }"), 0)
    judge = Judge(drawn.model, drawn.given)
    right = judge.wanted[0]
    assert judge([right]).how == "right"
    assert judge([right * np.float32(1.01)]).how == "wrong"
    broken = right.copy()
    broken[3, 1] = np.nan
    assert judge([broken]).how == "wrong"


def test_judge_forgives_what_rounding_decides() -> None:
    """A difference of equal numbers is noise, whatever it is divided by."""
    drawn = as_drawn(parse("g (float[N] x) => (float[N] y) { a = Exp(x) b = Log(a) d = Sub(b, x) y = Div(d, d) }"), 0)
    judge = Judge(drawn.model, drawn.given)
    assert judge([np.ones_like(judge.wanted[0])]).how in ("right", "rounding", "reference")


def test_noise_reaches_models_that_are_drawn() -> None:
    """Equal values less their mean are noise, of one size with what it is divided by."""
    model = parse("g (float[1, 3, 5] x) => (float[1, 3, 5] y) { y = MeanVarianceNormalization<axes = [1, 2]>(x) }")
    model.opset_import[0].version, model.ir_version = OPSET, IR_VERSION
    judge = Judge(model, {"x": np.full([1, 3, 5], np.tan(np.float32(0.75)))})
    assert judge([judge.wanted[0] + np.float32(0.02)]).how == "rounding"
    assert judge([judge.wanted[0] + np.float32(100)]).how == "wrong"


def test_a_wrong_model_is_shrunk(monkeypatch: pytest.MonkeyPatch) -> None:
    """A bug in one op, in a model of several: what is left is the op on next to nothing."""
    import fuzz.shrink as module

    def complaint(case: Case, way: str, build: Build) -> str:
        return "wrong" if any(node.op_type == "Softplus" for node in case.model.graph.node) else ""

    monkeypatch.setattr(module, "complaint", complaint)
    text = """g (float[N, 4] x, float[4] z) => (float[N, 4] y, float[N, 4] w, float[4] v) {
        a = Add(x, z) b = Softplus(a) c = Mul(b, x) y = Neg(c) w = Relu(a) v = Sin(z) }"""
    drawn = as_drawn(parse(text), 0)
    case, what = shrink(Case(drawn.model, drawn.given), "default", Build())
    assert what == "wrong"
    assert [node.op_type for node in case.model.graph.node] == ["Softplus"]
    assert sum(array.size for array in case.inputs.values()) <= 4
