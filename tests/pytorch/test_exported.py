"""Programs of torch.export, in memory and in files."""
# ruff: noqa: E402

from __future__ import annotations

import io
import json
import pickle
import zipfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="needs PyTorch: pip install 'graphfuse[torch]'")

from torch import nn
from torch._export.serde.schema import SCHEMA_VERSION

import graphfuse as gf
from graphfuse.compiler import compile_model, load
from graphfuse.errors import InputError, ModelFileError
from graphfuse.importers.exported import Exported
from graphfuse.importers.exported_archive import _is_size
from graphfuse.importers.open import open_model
from graphfuse.options import CompileOptions


class Pair(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(4, 3)
        self.register_buffer("sum", torch.zeros(3))

    def forward(self, a: torch.Tensor, b: torch.Tensor) -> dict[str, torch.Tensor]:
        y = self.fc(a) + self.fc(b)
        self.sum.add_(y.sum(0))
        return {"y": y, "total": self.sum + 0}


@pytest.fixture(scope="module")
def program() -> Any:
    batch = torch.export.Dim("batch", min=2, max=64)
    args = (torch.randn(3, 4), torch.randn(3, 4))
    return torch.export.export(Pair().eval(), args, dynamic_shapes=({0: batch}, {0: batch}))


def test_weights_are_not_copied(program: Any) -> None:
    model = Exported(program).converted.model
    array = model.graph.initializers["fc.weight"].const_value.numpy()
    assert np.shares_memory(array, program.state_dict["fc.weight"].detach().numpy())


def test_sizes_states_and_names(program: Any, tmp_path: Path) -> None:
    compiled = compile_model(Exported(program), tmp_path / "m.gf", CompileOptions())
    session = compiled.session()
    assert compiled.certificate is not None
    assert compiled.certificate.passed
    assert "torch" in compiled.certificate.versions
    assert [(t.name, t.shape) for t in session.manifest.inputs] == [("a", ("batch", 4)), ("b", ("batch", 4))]
    assert [t.name for t in session.manifest.outputs] == ["y", "total"]
    assert ("batch", "exported for sizes from 2 to 64") in {(n.subject, n.text) for n in compiled.ledger.notes}
    assert set(compiled.ledger.names) >= {"fc/linear", "fc/linear_2", "add", "add_"}
    a, b = np.ones((5, 4), np.float32), np.ones((5, 4), np.float32)
    first, second = session(a, b), session(a, b)
    np.testing.assert_allclose(second[1], 2 * first[1], rtol=1e-5)
    np.testing.assert_allclose(first[1], first[0].sum(0), rtol=1e-5)


def test_a_program_is_fused_as_a_module_is(program: Any) -> None:
    fused = gf.fuse(program, ())
    a, b = torch.randn(6, 4), torch.randn(6, 4)
    with torch.no_grad():
        found, expected = fused(a, b), Pair.forward(Whole(program), a, b)
    torch.testing.assert_close(found["y"], expected["y"], rtol=1e-4, atol=1e-5)
    assert fused.state_dict().keys() == {"fc.weight", "fc.bias", "sum"}
    assert "torch" in fused.certificate["versions"]


class Whole:
    """What `Pair.forward` needs, with the weights of a program."""

    def __init__(self, program: Any) -> None:
        weight, bias = program.state_dict["fc.weight"], program.state_dict["fc.bias"]
        self.fc, self.sum = lambda x: nn.functional.linear(x, weight, bias), torch.zeros(3)


def test_a_file_is_known_by_its_contents(program: Any, tmp_path: Path) -> None:
    file = tmp_path / "model.onnx"
    torch.export.save(program, tmp_path / "p.pt2")
    (tmp_path / "p.pt2").rename(file)
    source = open_model(file)
    assert source.format == "torch.export"
    certificate = compile_model(source, tmp_path / "m.gf", CompileOptions()).certificate
    assert certificate is not None
    assert certificate.passed


def rewritten(
    source: Path, target: Path, change: Callable[[str, bytes], bytes], packing: int = zipfile.ZIP_STORED
) -> Path:
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w", packing) as new:
        for name in old.namelist():
            new.writestr(name, change(name, old.read(name)))
    return target


class Harm:
    """Pickled, a call that makes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return Path.touch, (self.path,)


def test_files_execute_nothing(program: Any, tmp_path: Path) -> None:
    good = tmp_path / "good.pt2"
    torch.export.save(program, good)
    mark = tmp_path / "harm"
    buffer = io.BytesIO()
    torch.save({"x": Harm(mark)}, buffer)
    call = f"__import__('pathlib').Path({str(mark)!r}).touch()"

    def sample(name: str, data: bytes) -> bytes:
        return buffer.getvalue() if name.endswith("sample_inputs/model.pt") else data

    def weight(name: str, data: bytes) -> bytes:
        if name.endswith("weights/weight_0"):
            return pickle.dumps(Harm(mark))
        return data.replace(b'"use_pickle": false', b'"use_pickle": true') if name.endswith("_config.json") else data

    def size(name: str, data: bytes) -> bytes:
        if not name.endswith("models/model.json"):
            return data

        def changed(value: Any) -> Any:
            if isinstance(value, list):
                return [changed(item) for item in value]
            if isinstance(value, dict):
                return {key: call if key == "expr_str" else changed(item) for key, item in value.items()}
            return value

        return json.dumps(changed(json.loads(data))).encode()

    def target(name: str, data: bytes) -> bytes:
        return data.replace(b"torch.ops.aten.linear.default", b"torch.os.system")

    def saves(name: str, data: bytes) -> bytes:
        return data.replace(b"torch.ops.aten.linear.default", b"torch.ops.aten.save.default")

    bad = [
        rewritten(good, tmp_path / f"bad{k}.pt2", change)
        for k, change in enumerate((sample, weight, size, target, saves))
    ]
    for file in (*bad, older(good, tmp_path / "older.pt2", buffer.getvalue())):
        with pytest.raises(ModelFileError, match=r"could execute code.*--allow-pickle"):
            _ = open_model(file).program  # type: ignore[attr-defined]
        assert not mark.exists()


def test_files_made_to_fill_memory_are_refused(program: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("graphfuse.importers.torch_archive._LEAST_BOUND", 1 << 20)
    good, bomb = tmp_path / "good.pt2", tmp_path / "bomb.pt2"
    torch.export.save(program, good)

    def grown(name: str, data: bytes) -> bytes:
        return bytes(1 << 24) if name.endswith("weights/weight_0") else data

    rewritten(good, bomb, grown, zipfile.ZIP_DEFLATED)
    with pytest.raises(ModelFileError, match=r"unpacks to more than 1 MiB.*weights/weight_0"):
        _ = open_model(bomb).program  # type: ignore[attr-defined]
    packed = rewritten(good, tmp_path / "packed.pt2", lambda name, data: data, zipfile.ZIP_DEFLATED)
    assert open_model(packed).program is not None  # type: ignore[attr-defined]


def older(source: Path, target: Path, pickled: bytes) -> Path:
    """A program that torch's reader refuses, and beside it one in the form that torch wrote before 2.8."""
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w") as new:
        new.writestr("first/nothing", b"")
        for name in old.namelist():
            new.writestr(name, old.read(name))
            if name.endswith("models/model.json"):
                new.writestr("serialized_exported_program.json", old.read(name))
        new.writestr("version", ".".join(map(str, SCHEMA_VERSION)))
        for part in ("state_dict", "constants", "example_inputs"):
            new.writestr(f"serialized_{part}.pt", pickled)
    return target


@pytest.mark.parametrize("first", [True, False])
def test_names_of_parts_are_told_apart_as_torch_does(program: Any, tmp_path: Path, first: bool) -> None:
    """torch takes capitals in the names of an archive's files for small letters, and reads one of the two files."""
    good, bad, mark = tmp_path / "good.pt2", tmp_path / "bad.pt2", tmp_path / "harm"
    torch.export.save(program, good)
    with zipfile.ZipFile(good) as old, zipfile.ZipFile(bad, "w") as new:
        for name in old.namelist():
            data = old.read(name)
            both = [(name, data)]
            if name.endswith("weights/weight_0"):
                both = [(name, pickle.dumps(Harm(mark)))]
            elif name.endswith("weights_config.json"):
                shouted = name.replace("config.json", "CONFIG.JSON")
                both.insert(0 if first else 1, (shouted, data.replace(b'"use_pickle": false', b'"use_pickle": true')))
            for member in both:
                new.writestr(*member)
    with suppress(ModelFileError):
        _ = open_model(bad).program  # type: ignore[attr-defined]
    assert not mark.exists()


@pytest.mark.parametrize(
    "text, harmless",
    [
        ("s77", True),
        ("2*s0 + 1", True),
        ("Max(1, FloorDiv(s0, 2))", True),
        ("Symbol('s77', positive=True, integer=True)", True),
        ("eval(s0)", False),
        ("().__class__", False),
        ("Symbol('print(1)')", False),
        ("[x for x in (1,)]", False),
        ("s0 :=", False),
        ("s0**2", True),
        ("Pow(Symbol('s0'), Integer(-1))", True),
        ("9**9**9", False),
        ("9**999", False),
        ("PowByNatural(9, 9*9*9)", False),
        ("((((9**99)**99)**99)**99)**99", False),
        (f"{1 << 64}", False),
    ],
)
def test_sizes_are_arithmetic(text: str, harmless: bool) -> None:
    assert _is_size(text) is harmless


def test_damaged_files_are_told(program: Any, tmp_path: Path) -> None:
    good = tmp_path / "good.pt2"
    torch.export.save(program, good)
    broken = rewritten(good, tmp_path / "broken.pt2", lambda n, d: d[:100] if n.endswith("models/model.json") else d)
    with pytest.raises(ModelFileError, match=r"damaged archive.*export the model again"):
        _ = open_model(broken).program  # type: ignore[attr-defined]


class Halved(nn.Module):
    """What is computed depends on the length, which the range of an export decides."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * 2 if x.shape[1] > 8 else x / 2


def test_sizes_outside_of_the_exported_range_are_refused(tmp_path: Path) -> None:
    length = torch.export.Dim("length", min=3, max=8)
    program = torch.export.export(Halved(), (torch.ones(2, 5),), dynamic_shapes=({1: length},))
    file = tmp_path / "model.pt2"
    torch.export.save(program, file)
    for source in (open_model(file), Exported(program)):
        compiled = compile_model(source, tmp_path / f"{type(source).__name__}.gf", CompileOptions())
        assert compiled.certificate is not None
        assert compiled.certificate.passed
        session = load(compiled.artifact)
        for size in (3, 8):
            x = np.ones((2, size), np.float32)
            np.testing.assert_array_equal(session(x), x / 2)
        for size in (2, 9):
            with pytest.raises(InputError, match=rf"is {size}.*from 3 to 8"):
                session(np.ones((2, size), np.float32))


def test_a_size_that_is_free_may_be_one() -> None:
    fused = gf.fuse(Halved().eval(), (torch.ones(2, 5),), dynamic_shapes=({0: torch.export.Dim("batch")},))
    x = torch.ones(1, 5)
    torch.testing.assert_close(fused(x), x / 2)
