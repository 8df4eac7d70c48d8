"""What files are taken for, and what is refused: pickles are never executed, damaged files are one error."""

from __future__ import annotations

import os
import pickle
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from onnx import helper

import graphfuse as gf
from graphfuse.compiler import compile_model
from graphfuse.errors import GraphfuseError, InputError, ModelFileError, UnsupportedModelError
from graphfuse.importers.open import open_model
from graphfuse.importers.torchscript.arguments import inputs_of
from graphfuse.importers.torchscript.model import TorchScript
from graphfuse.options import Hints
from torchscript.harness import agree, opened, saved


class Evil:
    """Whoever loads a pickle of this makes a folder."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (self.path,)


class Net(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = torch.nn.Linear(3, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.linear(x).relu()


@pytest.mark.parametrize("how", ["bare", "zip", "legacy"])
def test_pickles_are_not_executed(how: str, tmp_path: Path) -> None:
    made, file = tmp_path / "made", tmp_path / "model.pt"
    if how == "bare":
        file.write_bytes(pickle.dumps(Evil(str(made)), protocol=4))
    else:
        torch.save(Evil(str(made)), file, _use_new_zipfile_serialization=how == "zip")
    with pytest.raises(ModelFileError, match=r"a pickle of an object of (os|posix)\.mkdir.*--allow-pickle"):
        open_model(file)
    assert not made.exists()


@pytest.mark.parametrize("legacy", [False, True])
def test_weights_alone_are_told(legacy: bool, tmp_path: Path) -> None:
    file = tmp_path / "weights.pt"
    torch.save(Net().state_dict(), file, _use_new_zipfile_serialization=not legacy)
    for allow in (False, True):
        with pytest.raises(ModelFileError, match="a state_dict: weights alone"):
            open_model(file, allow)
    torch.save({"epoch": 3, "model": Net().state_dict()}, file, _use_new_zipfile_serialization=not legacy)
    with pytest.raises(ModelFileError, match="a state_dict: weights alone"):
        open_model(file)


def test_a_pickled_module_is_told(tmp_path: Path) -> None:
    file = tmp_path / "module.pt"
    torch.save(Net(), file)
    with pytest.raises(ModelFileError, match=r"a pickle of an object of .*Net.*--allow-pickle"):
        open_model(file)


def test_a_trusted_module_is_compiled(tmp_path: Path) -> None:
    file = tmp_path / "module.pt"
    torch.save(Net(), file)
    with pytest.raises(UnsupportedModelError, match=r"in training mode"):
        open_model(file, allow_pickle=True, hints=Hints({"x": ("N", 3)})).read()
    torch.save(Net().eval(), file)
    with pytest.raises(InputError, match=r"arguments are like: x; say it, as in --shape x="):
        open_model(file, allow_pickle=True).read()
    compiled = compile_model(file, tmp_path / "m.gf", hints=Hints({"x": ("N", 3)}), allow_pickle=True)
    assert compiled.certificate is not None
    assert "torch" in compiled.certificate.verdict
    x = torch.randn(5, 3)
    theirs = torch.load(file, weights_only=False)(x).detach().numpy()
    np.testing.assert_allclose(compiled.session()(x.numpy()), theirs, 1e-5, 1e-6)


def test_any_object_that_is_no_module_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "object.pt"
    torch.save(Path("/tmp"), file)
    with pytest.raises(ModelFileError, match=r"which is no torch\.nn\.Module"):
        open_model(file, allow_pickle=True)


@pytest.mark.parametrize("cut", [2, 40, 1000])
def test_a_damaged_pickle_is_one_error(cut: int, tmp_path: Path) -> None:
    file = tmp_path / "model.pt"
    torch.save(Net(), file, _use_new_zipfile_serialization=False)
    file.write_bytes(file.read_bytes()[:cut])
    with pytest.raises(ModelFileError):
        open_model(file)


def _program(folder: Path) -> Path:
    return saved(torch.jit.script(Net().eval()), folder)


def test_a_damaged_program_is_one_error(tmp_path: Path) -> None:
    good = _program(tmp_path).read_bytes()
    file = tmp_path / "damaged.pt"
    for k in range(0, len(good), max(1, len(good) // 60)):
        for bad in (good[:k], good[:k] + b"\0\xff\x93" + good[k + 3 :]):
            file.write_bytes(bad)
            try:
                open_model(file, hints=Hints({"x": (2, 3)})).read()
            except GraphfuseError as error:
                assert len(str(error)) < 2000  # noqa: PT017 - some damage does not matter


@pytest.mark.parametrize("part", ["code", "data.pkl", "constants.pkl"])
def test_a_program_with_a_foreign_part_is_one_error(part: str, tmp_path: Path) -> None:
    """Code that is none, and pickles that name Python's objects: torch reads neither."""
    made, file = tmp_path / "made", tmp_path / "bad.pt"
    with zipfile.ZipFile(_program(tmp_path)) as old, zipfile.ZipFile(file, "w") as new:
        for name in old.namelist():
            data = old.read(name)
            if part == "code" and name.endswith(".py"):
                data = b"import os\nos.mkdir('" + str(made).encode() + b"')\n"
            elif name.endswith(f"/{part}"):
                data = pickle.dumps(Evil(str(made)), protocol=2)
            new.writestr(name, data)
    with pytest.raises(GraphfuseError):
        open_model(file, hints=Hints({"x": (2, 3)})).read()
    assert not made.exists()


class Restored(torch.nn.Module):
    """Has code that torch runs as it reads the file."""

    def __init__(self) -> None:
        super().__init__()
        self.k = 1
        self.training = False

    @torch.jit.export
    def __getstate__(self) -> tuple[int, bool]:
        return self.k, self.training

    @torch.jit.export
    def __setstate__(self, state: tuple[int, bool]) -> None:
        self.k = state[0]
        self.training = state[1]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.k


@pytest.mark.parametrize("where", ["state", "forward"])
def test_code_that_writes_files_is_refused(where: str, tmp_path: Path) -> None:
    made, file = tmp_path / "made", tmp_path / "bad.pt"
    call = f'ops.aten.save(1, "{made}")\n'.encode()
    model = saved(torch.jit.script(Restored() if where == "state" else Net().eval()), tmp_path)
    before = b"    self.training = (state)[1]\n" if where == "state" else b"    linear = self.linear\n"
    with zipfile.ZipFile(model) as old, zipfile.ZipFile(file, "w") as new:
        assert any(before in old.read(name) for name in old.namelist())
        for name in old.namelist():
            data = old.read(name)
            if not name.endswith("debug_pkl"):
                new.writestr(name, data.replace(before, before + b"    _0 = " + call))
    with pytest.raises(ModelFileError, match=r"could execute code.*pass --allow-pickle"):
        open_model(file, hints=Hints({"x": (2, 3)})).read()
    assert not made.exists()


def test_files_made_to_fill_memory_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("graphfuse.importers.torch_archive._LEAST_BOUND", 1 << 20)
    bomb = tmp_path / "bomb.pt"
    model = saved(torch.jit.script(Net().eval()), tmp_path)
    with zipfile.ZipFile(model) as old, zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED) as new:
        for name in old.namelist():
            new.writestr(name, bytes(1 << 24) if name.endswith("/data/0") else old.read(name))
    with pytest.raises(ModelFileError, match=r"unpacks to more than 1 MiB.*data/0"):
        open_model(bomb, hints=Hints({"x": (2, 3)})).read()


def test_a_trusted_file_restores_its_state_itself(tmp_path: Path) -> None:
    file = saved(torch.jit.script(Restored()), tmp_path)
    hints = Hints({"x": (2, 3)})
    with pytest.raises(ModelFileError, match="__setstate__"):
        open_model(file, hints=hints).read()
    assert "Add" in [node.op_type for node in open_model(file, True, hints).read().model.graph]


def test_what_the_file_does_not_say_is_asked_for(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"arguments are like: x; say it, as in --shape x=1x3x224x224"):
        open_model(_program(tmp_path)).read()
    with pytest.raises(InputError, match=r"no argument 'y'; its arguments are 'x'"):
        open_model(_program(tmp_path), hints=Hints({"y": (2, 3)})).read()


def test_hints_are_checked(tmp_path: Path) -> None:
    for shape, what in (("1xx3", "is no shape"), ("1x-3", "is no shape"), ("1x3:float31", "no element type 'float31'")):
        with pytest.raises(InputError, match=what):
            Hints.of({"x": shape}, {})
    assert Hints.of({"x": "Nx16:int64", "y": ""}, {}).shapes == {"x": ("N", 16), "y": ()}
    value = helper.make_tensor_value_info("x", 1, [1, 3])
    graph = helper.make_graph(
        [helper.make_node("Relu", ["x"], ["y"])], "g", [value], [helper.make_tensor_value_info("y", 1, [1, 3])]
    )
    model = tmp_path / "model.onnx"
    model.write_bytes(helper.make_model(graph).SerializeToString())
    with pytest.raises(InputError, match="taken for ONNX, which says that itself"):
        open_model(model, hints=Hints.of({"x": "1x3"}, {}))


def test_traces_say_their_shapes(tmp_path: Path) -> None:
    example = torch.ones(2, 3), torch.ones(4, dtype=torch.int64)
    path = saved(torch.jit.trace(Picks().eval(), example), tmp_path)
    source = open_model(path)
    assert isinstance(source, TorchScript)
    inputs = list(inputs_of(source.arguments))
    assert [(i.name, i.dtype.name, i.shape) for i in inputs] == [("x", "FLOAT", (2, 3)), ("k", "INT64", (4,))]
    agree(source, [{"x": np.ones((2, 3), np.float32), "k": np.array([0, 1, 1, 0])}])
    other = opened(path, {"x": ("N", 3)})
    agree(other, [{"x": np.ones((5, 3), np.float32), "k": np.array([0, 4, 1, 0])}])


class Picks(torch.nn.Module):
    def forward(self, x: torch.Tensor, k: torch.Tensor) -> torch.Tensor:
        return x[k] * 2


def test_compile_takes_shapes_and_values(tmp_path: Path) -> None:
    path = saved(torch.jit.script(Scales()), tmp_path)
    session = gf.compile(path, shapes={"x": "Nx3"}, values={"by": 3}, cache=False)
    np.testing.assert_array_equal(session(np.ones((4, 3), np.float32)), np.full((4, 3), 3, np.float32))


class Scales(torch.nn.Module):
    def forward(self, x: torch.Tensor, by: int) -> torch.Tensor:
        return x * by


def test_without_torch_the_error_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = _program(tmp_path)
    monkeypatch.setattr("importlib.util.find_spec", lambda name, package=None: None)
    with pytest.raises(ModelFileError, match=r"TorchScript.*pip install 'graphfuse\[torch\]'"):
        open_model(path)
