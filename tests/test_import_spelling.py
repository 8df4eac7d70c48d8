"""Models of other frameworks, spelled in ONNX's operators: what the account and the session say of them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx_ir as ir

from graphfuse.compiler import compile_model
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
