"""Models of other frameworks, spelled in ONNX's operators: what the account and the session say of them."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

from graphfuse.compiler import compile_model, load
from graphfuse.errors import ArtifactError, InputError
from graphfuse.importers.common import StateVariable
from graphfuse.importers.source import Converted
from graphfuse.importers.spelling import Spelled, Speller
from graphfuse.options import CompileOptions


class Made(Converted):
    """y = relu(x * 2 if flag else -x), of three operators, one of which is known at once."""

    format = "test"

    def convert(self) -> Spelled:
        speller = Speller()
        x = speller.input("x", ir.DataType.FLOAT, ["N", 3])
        flag = speller.input("flag", ir.DataType.BOOL, [])
        with speller.operator("size", "size_of"):
            pass
        with speller.operator("choose", "choose"):
            with speller.body("twice") as twice:
                twice.outputs.append(speller("Mul", x, speller.constant(2.0)))
            with speller.body("negated") as negated:
                negated.outputs.append(speller("Neg", x))
            y = speller("If", flag, then_branch=twice, else_branch=negated)
        with speller.operator("", "relu"):
            y = speller.called(speller("Relu", speller("Transpose", y, perm=[1, 0])), "y")
            turned = speller("Transpose", y, perm=[1, 0])
        return speller.spelled([turned, y])


def test_every_operator_has_one_record(tmp_path: Path) -> None:
    compiled = compile_model(Made("a model"), tmp_path / "m.gf", CompileOptions(cache=False))
    records = {record.name: record for record in compiled.ledger.nodes}
    assert list(records) == ["size", "choose", "relu"]
    assert [compiled.ledger.op_type(name) for name in records] == ["size_of", "choose", "relu"]
    assert records["size"].fate == "folded"
    assert compiled.certificate is not None
    assert compiled.certificate.passed


def test_it_runs_under_its_own_names(tmp_path: Path) -> None:
    session = compile_model(Made("a model"), tmp_path / "m.gf", CompileOptions(cache=False)).session()
    x = np.random.default_rng(0).standard_normal((5, 3)).astype(np.float32)
    for flag, wanted in ((True, 2 * x), (False, -x)):
        y, turned = session.run(["y", session.get_outputs()[0].name], {"x": x, "flag": np.array(flag)})
        np.testing.assert_array_equal(y, np.maximum(wanted, 0).T)
        np.testing.assert_array_equal(turned, np.maximum(wanted, 0))


def test_names_are_made_unique() -> None:
    speller = Speller()
    with speller.operator("a", "one") as first:
        pass
    with speller.operator("a", "one") as second:
        assert speller.constant(1) is speller.constant(1)
        assert speller.weight(np.zeros(2), "w").name == "w"
        assert speller.weight(np.zeros(2), "w").name == "w.2"
    assert (first, second) == ("a", "a_2")


class Counting(Converted):
    """y = x + how often it was called before, kept as a state; the state of the user's file is between two inputs."""

    format = "test"

    def convert(self) -> Spelled:
        speller = Speller()
        before = speller.input("count", ir.DataType.FLOAT, [2])
        x = speller.input("x", ir.DataType.FLOAT, ["N", 2])
        with speller.operator("count", "count"):
            after = speller.called(speller("Add", before, speller.constant(1.0)), "count.next")
        with speller.operator("add", "add"):
            y = speller.called(speller("Add", x, before), "y")
        return speller.spelled([after, y], [StateVariable("count", "count.next", np.array([5, 7], np.float32))])


@pytest.fixture(scope="module")
def counting(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("states") / "m.gf"
    certificate = compile_model(Counting("a model"), folder, CompileOptions(cache=False)).certificate
    assert certificate is not None
    assert certificate.passed
    return folder


def test_states_are_kept_between_calls(counting: Path) -> None:
    session = load(counting)
    assert [arg.name for arg in session.get_inputs()] == ["x"]
    assert [arg.name for arg in session.get_outputs()] == ["y"]
    x = np.zeros((3, 2), np.float32)
    for k in range(3):
        np.testing.assert_array_equal(session(x), x + np.array([5, 7]) + k)
    np.testing.assert_array_equal(session.states["count"], [8, 10])
    session.reset()
    np.testing.assert_array_equal(session.run(None, {"x": x})[0], x + np.array([5, 7]))
    session.reset({"count": np.array([1, 2], np.float32)})
    np.testing.assert_array_equal(session(x), x + np.array([1, 2]))


def test_a_binding_goes_on_from_the_states(counting: Path) -> None:
    session = load(counting)
    x = np.zeros((1, 2), np.float32)
    session(x)
    binding = session.bind({"x": x})
    for k in range(3):
        np.testing.assert_array_equal(binding()["y"], x + np.array([6, 8]) + k)
    np.testing.assert_array_equal(session.states["count"], [6, 8])


def test_a_wrong_state_is_refused(counting: Path) -> None:
    session = load(counting)
    for given, what in (
        ({"count": np.zeros(3, np.float32)}, "state 'count'"),
        ({"c": np.zeros(2)}, "no state is called"),
    ):
        with pytest.raises(InputError, match=what):
            session.reset(given)


def test_states_that_are_cut_short_are_told(counting: Path, tmp_path: Path) -> None:
    shutil.copytree(counting, tmp_path / "m.gf")
    (tmp_path / "m.gf" / "states.bin").write_bytes(b"1234")
    with pytest.raises(ArtifactError, match=r"states\.bin"):
        load(tmp_path / "m.gf")
