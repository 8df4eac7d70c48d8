"""Files that are not models, not whole, or not safe: one clear line each, and nothing else escapes."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

import numpy as np
import onnx
import onnx.parser
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from graphfuse.errors import GraphfuseError, ModelFileError, UnsupportedModelError
from graphfuse.importers.onnx import import_onnx

WEIGHT = np.arange(12, dtype=np.float32).reshape(3, 4)


def model(text: str, opset: int = 24) -> onnx.ModelProto:
    return onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["": {opset}]> ' + " ".join(text.split()))


def matmul() -> onnx.ModelProto:
    proto = model("g (float[N, 3] x) => (float[N, 4] y) { y = MatMul(x, w) }")
    proto.graph.initializer.append(numpy_helper.from_array(WEIGHT, "w"))
    return proto


def save(folder: Path, proto: onnx.ModelProto) -> Path:
    file = folder / "model.onnx"
    file.write_bytes(proto.SerializeToString())
    return file


def external(proto: onnx.ModelProto, **entries: str) -> onnx.ModelProto:
    """The model with its first weight said to lie in another file."""
    tensor = proto.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in entries.items():
        entry = tensor.external_data.add()
        entry.key, entry.value = key, value
    return proto


def refused(file: Path | str, *words: str) -> None:
    with pytest.raises(GraphfuseError) as caught:
        import_onnx(file)
    text = str(caught.value)
    assert str(file) in text, text
    for word in words:
        assert word in text, text
    assert caught.value.exit_code == 2
    assert isinstance(caught.value, UnsupportedModelError) or "\n" not in text


def test_missing_file(tmp_path: Path) -> None:
    refused(tmp_path / "none.onnx", "no such file")


def test_a_folder_is_not_a_file(tmp_path: Path) -> None:
    refused(tmp_path, "not a file")


def test_empty_file(tmp_path: Path) -> None:
    (tmp_path / "model.onnx").touch()
    refused(tmp_path / "model.onnx", "empty")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_unreadable_file(tmp_path: Path) -> None:
    file = save(tmp_path, matmul())
    file.chmod(0)
    refused(file, "cannot be read")


@pytest.mark.parametrize("data", [b"\x00" * 64, b"hello, world", bytes(range(256)), b"\x08\x07", b"PK\x03\x04"])
def test_not_onnx(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "model.onnx").write_bytes(data)
    refused(tmp_path / "model.onnx", "not an ONNX model")


def test_every_truncation(tmp_path: Path) -> None:
    data, file = matmul().SerializeToString(), tmp_path / "model.onnx"
    for length in range(len(data)):
        file.write_bytes(data[:length])
        refused(file)


@given(place=st.integers(0, 10_000), byte=st.integers(0, 255))
def test_a_changed_byte_is_read_or_refused(tmp_path_factory: pytest.TempPathFactory, place: int, byte: int) -> None:
    data = bytearray(matmul().SerializeToString())
    data[place % len(data)] = byte
    file = tmp_path_factory.mktemp("fuzz") / "model.onnx"
    file.write_bytes(bytes(data))
    with contextlib.suppress(GraphfuseError):
        import_onnx(file)


@pytest.mark.parametrize("dims", [[3, 5], [3, 3], [2**40, 2**20], [-3, -4], [0]])
def test_dimensions_and_bytes_disagree(tmp_path: Path, dims: list[int]) -> None:
    proto = matmul()
    proto.graph.initializer[0].dims[:] = dims
    refused(save(tmp_path, proto), "'w'", "dimension")


def test_typed_data_of_the_wrong_length(tmp_path: Path) -> None:
    proto = matmul()
    tensor = proto.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.float_data.extend([1.0] * 11)
    refused(save(tmp_path, proto), "12 entries of float_data", "it has 11")


def test_unknown_element_type(tmp_path: Path) -> None:
    proto = matmul()
    proto.graph.initializer[0].data_type = 1000
    refused(save(tmp_path, proto), "unknown element type 1000")


def test_external_data_is_read(tmp_path: Path) -> None:
    (tmp_path / "w.bin").write_bytes(b"\0" * 64 + WEIGHT.tobytes())
    file = save(tmp_path, external(matmul(), location="w.bin", offset="64", length="48"))
    weights = import_onnx(file).model.graph.initializers["w"].const_value
    assert weights is not None
    np.testing.assert_array_equal(weights.numpy(), WEIGHT)


@pytest.mark.parametrize(
    "location", ["../w.bin", "/etc/passwd", "a/../../w.bin", "..\\w.bin", "C:\\w.bin", "c:w.bin", "\\\\host\\w.bin"]
)
def test_external_data_outside_the_folder(tmp_path: Path, location: str) -> None:
    (tmp_path / "w.bin").write_bytes(WEIGHT.tobytes())
    (tmp_path / "inner").mkdir()
    refused(save(tmp_path / "inner", external(matmul(), location=location)), "outside the model's folder")


def test_external_data_behind_a_link(tmp_path: Path) -> None:
    (tmp_path / "w.bin").write_bytes(WEIGHT.tobytes())
    (tmp_path / "inner").mkdir()
    (tmp_path / "inner" / "w.bin").symlink_to(tmp_path / "w.bin")
    refused(save(tmp_path / "inner", external(matmul(), location="w.bin")), "a link that leads outside")


def test_external_data_is_missing(tmp_path: Path) -> None:
    refused(save(tmp_path, external(matmul(), location="w.bin")), "'w.bin' is missing")
    refused(save(tmp_path, external(matmul())), "names no file")


@pytest.mark.parametrize(
    "entries, word",
    [
        ({"offset": "4"}, "ends at byte 52"),
        ({"offset": "-4"}, "negative offset"),
        ({"offset": "x"}, "not a number"),
        ({"length": "40"}, "its dimensions need 48 bytes"),
    ],
)
def test_external_data_of_the_wrong_size(tmp_path: Path, entries: dict[str, str], word: str) -> None:
    (tmp_path / "w.bin").write_bytes(WEIGHT.tobytes())
    refused(save(tmp_path, external(matmul(), location="w.bin", **entries)), word)


@pytest.mark.parametrize("opset, word", [(0, "too old"), (9999, "not known")])
def test_opsets_out_of_range(tmp_path: Path, opset: int, word: str) -> None:
    refused(save(tmp_path, model("g (float[N] x) => (float[N] y) { y = Relu(x) }", opset)), f"opset {opset}", word)


def test_no_opset(tmp_path: Path) -> None:
    proto = matmul()
    del proto.opset_import[:]
    refused(save(tmp_path, proto), "does not say which opset")


def test_unknown_operators_are_listed_at_once(tmp_path: Path) -> None:
    proto = model("g (float[N] x) => (float[N] y) { a = Foo(x) b = Relu(a) y = Bar(b) }")
    proto.graph.node[0].name = "first"
    refused(save(tmp_path, proto), "2 nodes", "Foo 'first'", "Bar 'Bar_2'")


@pytest.mark.parametrize(
    "text",
    [
        "g (float[N] x) => (float[N] y) { y = Relu(z) }",
        "g (float[N] x) => (float[N] y) { a = Relu(b) b = Relu(a) y = Relu(b) }",
        "g (float[N] x) => (float[N] y) { y = Relu(x) y = Exp(x) }",
        "g (float[N] x) => (float[N] y) { y = Relu(x, x) }",
        "g (float[N] x) => (float[N] y) { y = Concat(x, x) }",
        "g (float[N] x) => (float[N] z) { y = Relu(x) }",
    ],
)
def test_graphs_that_break_the_rules(tmp_path: Path, text: str) -> None:
    refused(save(tmp_path, model(text)), "not a valid ONNX model")


def test_shapes_that_do_not_fit(tmp_path: Path) -> None:
    proto = model("g (float[2, 3] x) => (float[2, 3] y) { a = Relu(x) y = Reshape(a, s) }")
    proto.graph.initializer.append(numpy_helper.from_array(np.array([-1, -1], np.int64), "s"))
    refused(save(tmp_path, proto), "not a valid ONNX model", "Reshape_1")


def test_names_and_texts_that_are_no_text(tmp_path: Path) -> None:
    data = model("g (float[N] xyzzy) => (float[N] y) { y = Relu(xyzzy) }").SerializeToString()
    (tmp_path / "a.onnx").write_bytes(data.replace(b"xyzzy", b"\xff\xfe\xfdyy"))
    refused(tmp_path / "a.onnx", "is not UTF-8")
    data = model('g (float[2] x) => (float[2] y) { y = Pad<mode = "reflect">(x, x) }').SerializeToString()
    (tmp_path / "b.onnx").write_bytes(data.replace(b"reflect", b"r\xffflect"))
    refused(tmp_path / "b.onnx", "'mode' is not UTF-8")


@pytest.mark.parametrize("equation", ["i-j", "i.j", "..ij", "......ij", "i*j", "ij->i1"])
def test_equations_that_shape_inference_would_read_for_ever(tmp_path: Path, equation: str) -> None:
    refused(
        save(tmp_path, model(f'g (float[2, 2] x) => (float[2] y) {{ y = Einsum<equation = "{equation}">(x) }}')),
        "Einsum",
    )


def test_sparse_weights(tmp_path: Path) -> None:
    proto = matmul()
    values, indices = (
        numpy_helper.from_array(np.ones(1, np.float32), "s"),
        numpy_helper.from_array(np.zeros(1, np.int64)),
    )
    proto.graph.sparse_initializer.append(helper.make_sparse_tensor(values, indices, [4]))
    refused(save(tmp_path, proto), "sparse")


def test_errors_are_model_file_errors(tmp_path: Path) -> None:
    with pytest.raises(ModelFileError):
        import_onnx(tmp_path / "none.onnx")
