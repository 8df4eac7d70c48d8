"""Which form of model a file is taken for: by its contents, whatever it is called."""

from __future__ import annotations

import io
import json
import struct
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest

from graphfuse.demo import MODEL as DEMO
from graphfuse.errors import ModelFileError
from graphfuse.importers.open import all_formats, open_model


def zipped(*names: str) -> bytes:
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w") as archive:
        for name in names:
            archive.writestr(name, b"x")
    return data.getvalue()


def tarred() -> bytes:
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("a"))
    return data.getvalue()


def npz() -> bytes:
    data = io.BytesIO()
    np.savez(data, a=np.zeros(3))
    return data.getvalue()


def npy() -> bytes:
    data = io.BytesIO()
    np.save(data, np.zeros(3))
    return data.getvalue()


def safetensors() -> bytes:
    head = json.dumps({"w": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}).encode()
    return struct.pack("<Q", len(head)) + head + bytes(4)


FOREIGN = {
    "Keras model": zipped("metadata.json", "config.json", "model.weights.h5"),
    "HDF5": b"\x89HDF\r\n\x1a\n" + bytes(100),
    "safetensors": safetensors(),
    "GGUF": b"GGUF" + bytes(60),
    "archive of NumPy arrays": npz(),
    "NumPy array": npy(),
    "OpenVINO": b'<?xml version="1.0"?>\n<net name="a" version="11">',
    "ncnn": b"7767517\n10 10\n",
    "onnxruntime alone": b"\x10\0\0\0ORTM" + bytes(60),
    "for mobiles": b"\x10\0\0\0PTMF" + bytes(60),
    "ExecuTorch": b"\x10\0\0\0ET12" + bytes(60),
    "compressed": b"\x1f\x8b\x08" + bytes(60),
    "tar archive": tarred(),
    "zip archive of something else": zipped("a.txt"),
    "web page": b"\n<!DOCTYPE html><html>",
    "Git LFS": b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n",
    "text file": b'name: "a"\nlayer {\n',
}


@pytest.mark.parametrize("what", FOREIGN)
def test_what_is_not_read_is_named(what: str, tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(FOREIGN[what])
    with pytest.raises(ModelFileError, match=what) as caught:
        open_model(path)
    assert caught.value.where == str(path)
    assert caught.value.remedy


@pytest.mark.parametrize(
    ("file", "what"),
    [
        ("saved_model.pb", "SavedModel"),
        ("Manifest.json", "Core ML"),
        ("manifest.json", "an artifact of graphfuse"),
        ("config.json", "Hugging Face"),
        ("other", "not a file"),
    ],
)
def test_folders_are_named(file: str, what: str, tmp_path: Path) -> None:
    (tmp_path / file).write_text("{}")
    with pytest.raises(ModelFileError, match=what):
        open_model(tmp_path)


def test_a_name_says_nothing(tmp_path: Path) -> None:
    (tmp_path / "model.tflite").write_bytes(Path(DEMO).read_bytes())
    assert open_model(tmp_path / "model.tflite").format == "ONNX"


def test_formats_are_asked_in_a_fixed_order() -> None:
    names = [f.name for f in all_formats()]
    assert names[-1] == "ONNX"
    assert len(set(names)) == len(names)


def test_a_damaged_archive_is_told(tmp_path: Path) -> None:
    (tmp_path / "m.pt2").write_bytes(zipped("a", "b")[:-10])
    with pytest.raises(ModelFileError, match="damaged zip archive"):
        open_model(tmp_path / "m.pt2")
