"""The cases of ONNX's backend test suite: a model, the data to feed it, what it must give and how exactly."""

from __future__ import annotations

import re
import warnings
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper
from onnx.backend.test.case.test_case import TestCase
from onnx.backend.test.loader import load_model_tests

KINDS = ("node", "simple", "pytorch-converted", "pytorch-operator", "light")
_PACKAGE = Path(onnx.__file__).parent.parent
_LIGHT = "onnx/backend/test/data/light/"
# Marks that the suite adds to a case's name for other forms of the same node: its function body, an older opset.
_VARIANT = re.compile(r"_(?:expanded|ver\d+).*$")
# Nodes that stand beside the one a case is about.
_HELPERS = frozenset({"Constant", "Identity"})


@dataclass(frozen=True)
class Case:
    """A case. op: what the suite tests in it, "" outside the kind "node"; rtol, atol: its own tolerance."""

    name: str
    kind: str
    op: str
    rtol: float
    atol: float
    source: TestCase = field(repr=False, compare=False)

    @property
    def key(self) -> str:
        return f"{self.kind}/{self.name}"

    def model(self) -> onnx.ModelProto:
        if self.source.model is not None:
            return self.source.model
        return onnx.load(self._model_file())

    def data_sets(self) -> list[tuple[dict[str, Any], list[Any]]]:
        """For each data set what goes in, by name, and the outputs in order; sequences are lists, absent is None."""
        model = self.model()
        if self.kind == "light":
            return [self._made_data(model)]
        names = [value.name for value in model.graph.input]
        if self.source.data_sets is not None:
            sets = [([_array(x) for x in ins], [_array(x) for x in outs]) for ins, outs in self.source.data_sets]
        else:
            sets = [_read_set(folder, model) for folder in sorted(self._model_file().parent.glob("test_data_set_*"))]
        return [(dict(zip(names, ins, strict=False)), outs) for ins, outs in sets]

    def _model_file(self) -> Path:
        if self.kind == "light":
            return _PACKAGE / str(self.source.url)
        return Path(str(self.source.model_dir)) / "model.onnx"

    def _made_data(self, model: onnx.ModelProto) -> tuple[dict[str, Any], list[Any]]:
        """Inputs as onnx's own runner makes them for the light models, and the outputs beside the model's file."""
        constants = {tensor.name for tensor in model.graph.initializer}
        ins = {v.name: _ramp(v) for v in model.graph.input if v.name not in constants}
        stem = self._model_file().with_suffix("")
        files = [Path(f"{stem}_output_{k}.pb") for k in range(len(model.graph.output))]
        return ins, [numpy_helper.to_array(onnx.TensorProto.FromString(file.read_bytes())) for file in files]


@cache
def all_cases() -> tuple[Case, ...]:
    """Every case of the installed `onnx`, kind by kind, sorted by name."""
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")  # the suite overflows on purpose while it makes its data
        node = sorted(load_model_tests(kind="node"), key=lambda t: t.name)
    ops = {test.name: _main_op(test.model) for test in node}
    found = [_case(test, "node", ops.get(_VARIANT.sub("", test.name), ops[test.name])) for test in node]
    for kind in KINDS[1:-1]:
        found += [_case(test, kind, "") for test in sorted(load_model_tests(kind=kind), key=lambda t: t.name)]
    light = [test for test in load_model_tests(kind="real") if str(test.url).startswith(_LIGHT)]
    return (*found, *(_case(test, "light", "") for test in sorted(light, key=lambda t: t.name)))


def _case(test: TestCase, kind: str, op: str) -> Case:
    return Case(test.name, kind, op, test.rtol, test.atol, test)


def _main_op(model: onnx.ModelProto) -> str:
    nodes = [node for node in model.graph.node if node.op_type not in _HELPERS] or list(model.graph.node)
    return nodes[-1].op_type


def _ramp(value: onnx.ValueInfoProto) -> np.ndarray:
    shape = [d.dim_value if d.HasField("dim_value") else 1 for d in value.type.tensor_type.shape.dim]
    count = int(np.prod(shape))
    ramp: np.ndarray = (np.arange(count).reshape(shape) / count).astype(np.float32)
    return ramp


def _array(value: Any) -> Any:
    return numpy_helper.to_array(value) if isinstance(value, onnx.TensorProto) else value


def _read_set(folder: Path, model: onnx.ModelProto) -> tuple[list[Any], list[Any]]:
    ins = [_read(folder / f"input_{k}.pb", v.type) for k, v in enumerate(model.graph.input)]
    outs = [_read(folder / f"output_{k}.pb", v.type) for k, v in enumerate(model.graph.output)]
    return [x for x, there in ins if there], [x for x, there in outs if there]


def _read(file: Path, kind: onnx.TypeProto) -> tuple[Any, bool]:
    """What a file holds, as its declared type says, and whether it is there."""
    if not file.exists():
        return None, False
    data = file.read_bytes()
    if kind.HasField("sequence_type"):
        return numpy_helper.to_list(onnx.SequenceProto.FromString(data)), True
    if kind.HasField("optional_type"):
        return numpy_helper.to_optional(onnx.OptionalProto.FromString(data)), True
    return numpy_helper.to_array(onnx.TensorProto.FromString(data)), True
