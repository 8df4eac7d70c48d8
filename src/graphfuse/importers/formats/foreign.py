"""Forms of model that are told apart and not read: each error says how to get to one that is."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from graphfuse.errors import ModelFileError
from graphfuse.importers.source import Format, Head, Source

_TENSORFLOW = "convert it to TFLite with tf.lite.TFLiteConverter, or to ONNX with the package tf2onnx"
_KERAS = "in Python: model.export(FILE.onnx, format='onnx'), or convert it to TFLite with tf.lite.TFLiteConverter"
_WEIGHTS = "load the weights into their module in Python, and give that to graphfuse.fuse"


def _has(*names: str) -> Callable[[Head], bool]:
    return lambda head: any(member.rpartition("/")[2] in names for member in head.members)


def _begins(*marks: bytes) -> Callable[[Head], bool]:
    return lambda head: head.bytes.startswith(marks)


# What it is, what marks it, what to do.
FOREIGN: tuple[tuple[str, Callable[[Head], bool], str], ...] = (
    ("a Keras model", _has("model.weights.h5"), _KERAS),
    ("an HDF5 file, as Keras wrote models", _begins(b"\x89HDF\r\n"), _KERAS),
    (
        "a safetensors file: weights without a program",
        lambda head: head.bytes[8:9] == b"{" and head.bytes[3:8] == bytes(5) and b'"dtype"' in head.bytes,
        _WEIGHTS,
    ),
    ("a GGUF file: weights of a language model", _begins(b"GGUF", b"ggjt"), _WEIGHTS),
    ("an archive of NumPy arrays", lambda h: bool(h.members) and all(m.endswith(".npy") for m in h.members), _WEIGHTS),
    ("a NumPy array", _begins(b"\x93NUMPY"), "give the model's file; arrays for its inputs go to --input NAME=FILE"),
    (
        "an OpenVINO model",
        lambda head: head.bytes.lstrip()[:5] in (b"<?xml", b"<net ") and b"<net " in head.bytes,
        "export the model that it was made from to ONNX",
    ),
    ("an ncnn model", _begins(b"7767517\n"), "export the model that it was made from to ONNX"),
    ("a program for onnxruntime alone (ORT format)", lambda head: head.bytes[4:8] == b"ORTM", "give the ONNX file"),
    (
        "a TorchScript program for mobiles",
        lambda head: head.bytes[4:8] == b"PTMF",
        "save the module with torch.jit.save, without optimize_for_mobile",
    ),
    (
        "an ExecuTorch program",
        lambda head: head.bytes[4:6] == b"ET",
        "save the exported program with torch.export.save",
    ),
    ("a compressed archive", _begins(b"\x1f\x8b", b"BZh", b"\xfd7zXZ", b"7z\xbc\xaf"), "unpack it first"),
    ("a tar archive", lambda head: head.bytes[257:262] == b"ustar", "unpack it first"),
    ("a zip archive of something else", lambda head: bool(head.members), "unpack it, and give the model's file"),
    (
        "a web page",
        lambda head: head.bytes.lstrip()[:14].lower().startswith((b"<!doctype html", b"<html")),
        "download the file itself, not the page about it",
    ),
    ("a pointer of Git LFS to the file", _begins(b"version https://git-lfs"), "fetch it: git lfs pull"),
    ("a text file", lambda head: _is_text(head.bytes), "give the model's file"),
)
# Folders, by a file in them.
FOLDERS = (
    ("saved_model.pb", "a SavedModel of TensorFlow", _TENSORFLOW),
    ("Manifest.json", "a Core ML package", "export the model that it was made from to ONNX"),
    ("manifest.json", "an artifact of graphfuse", "graphfuse run runs it; to compile, give the model's file"),
    ("config.json", "a folder of Hugging Face", "load the module in Python, and give it to graphfuse.fuse"),
)


def what_folder(path: Path) -> tuple[str, str] | None:
    """What a folder holds, and what to do; None for one that is like no other."""
    return next(((what, remedy) for file, what, remedy in FOLDERS if (path / file).is_file()), None)


def _is_text(start: bytes) -> bool:
    try:
        text = start.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return bool(text) and all(c.isprintable() or c in "\r\n\t" for c in text)


def _found(head: Head) -> tuple[str, str] | None:
    return next(((what, remedy) for what, marked, remedy in FOREIGN if marked(head)), None)


def _open(path: Path, _: bool) -> Source:
    from graphfuse.importers.open import head_of

    found = _found(head_of(path))
    assert found is not None, "asked only for what it holds"
    raise ModelFileError(f"this is {found[0]}, which is not read", where=str(path), remedy=found[1])


FORMAT = Format("foreign", order=90, holds=lambda head: _found(head) is not None, open=_open)
