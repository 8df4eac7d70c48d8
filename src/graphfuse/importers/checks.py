"""Checks on an ONNX file before anything is built from it: models are data from strangers.

Declared sizes are compared with the bytes that are there before memory is asked for, and external data may only lie
inside the model's own folder.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from pathlib import Path

import onnx
import onnx_ir as ir
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

from graphfuse.errors import ModelFileError, one_line
from graphfuse.graph.shape_rules import OPSET

OLDEST_OPSET = 1
NEWEST_OPSET = onnx.defs.onnx_opset_version()

_SIDE = r"[A-Za-z ]*(?:\.\.\.[A-Za-z ]*)?"
_EQUATION = re.compile(rf"{_SIDE}(?:,{_SIDE})*(?:->{_SIDE})?")
_EXPORT_AGAIN = "export or download the model again"
# The field that holds a tensor's elements when raw_data does not, and how many of its entries make one element.
_TYPED_FIELDS: dict[int, str] = {
    onnx.TensorProto.FLOAT: "float_data",
    onnx.TensorProto.COMPLEX64: "float_data",
    onnx.TensorProto.DOUBLE: "double_data",
    onnx.TensorProto.COMPLEX128: "double_data",
    onnx.TensorProto.INT64: "int64_data",
    onnx.TensorProto.UINT32: "uint64_data",
    onnx.TensorProto.UINT64: "uint64_data",
    onnx.TensorProto.STRING: "string_data",
}
_ENTRIES_PER_ELEMENT: dict[int, int] = {onnx.TensorProto.COMPLEX64: 2, onnx.TensorProto.COMPLEX128: 2}


def read_proto(path: Path) -> onnx.ModelProto:
    """The model in a file, its external data not yet read.

    Raises ModelFileError: no such file, not a file, not readable, not ONNX, truncated.
    """
    where = str(path)
    if not path.exists():
        raise ModelFileError("no such file", where=where, remedy="check the path")
    if not path.is_file():
        raise ModelFileError("not a file", where=where, remedy="give the path of an .onnx file")
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ModelFileError("cannot be read", where=where, why=error.strerror or str(error)) from error
    if not data:
        raise ModelFileError("the file is empty", where=where, remedy=_EXPORT_AGAIN)
    proto = onnx.ModelProto()
    try:
        proto.ParseFromString(data)
    except DecodeError as error:
        raise ModelFileError("not an ONNX model, or truncated", where=where, remedy=_EXPORT_AGAIN) from error
    if not proto.HasField("graph") or not proto.ir_version:
        raise ModelFileError("not an ONNX model", where=where, why="it holds no graph", remedy=_EXPORT_AGAIN)
    return proto


def check_opset(proto: onnx.ModelProto, where: str) -> int:
    """The version of the standard operator set the model uses.

    Raises ModelFileError when it states none, or one outside OLDEST_OPSET..NEWEST_OPSET.
    """
    versions = {entry.version for entry in proto.opset_import if entry.domain in ("", "ai.onnx")}
    if not versions and proto.opset_import:
        return OPSET  # no operator of the standard set: any will do
    if not versions:
        raise ModelFileError("the model does not say which opset it uses", where=where, remedy=_EXPORT_AGAIN)
    version = max(versions)
    if version < OLDEST_OPSET:
        raise ModelFileError(
            f"opset {version} is too old",
            where=where,
            why=f"opsets {OLDEST_OPSET} to {NEWEST_OPSET} are read",
            remedy=f"export the model again at opset {OLDEST_OPSET} or later",
        )
    if version > NEWEST_OPSET:
        raise ModelFileError(
            f"opset {version} is not known",
            where=where,
            why=f"opsets {OLDEST_OPSET} to {NEWEST_OPSET} are read",
            remedy="upgrade the package onnx, or export the model at an earlier opset",
        )
    return version


def check_tensors(proto: onnx.ModelProto, path: Path) -> None:
    """Check that every tensor has exactly the data its type and dimensions ask for.

    Raises ModelFileError naming the tensor: unknown element type, negative dimension, too little or too much data,
    external data that is missing, too short, or outside the model's folder.
    """
    for tensor in _tensors(proto):
        where = f"{path}: tensor {one_line(tensor.name)!r}"
        try:
            dtype = ir.DataType(tensor.data_type)
        except ValueError as error:
            raise ModelFileError(f"unknown element type {tensor.data_type}", where=where) from error
        if dtype == ir.DataType.UNDEFINED:
            raise ModelFileError("the tensor has no element type", where=where, remedy=_EXPORT_AGAIN)
        if any(d < 0 for d in tensor.dims):
            raise ModelFileError(f"negative dimension in {list(tensor.dims)}", where=where, remedy=_EXPORT_AGAIN)
        elements = math.prod(tensor.dims)
        if tensor.data_location == onnx.TensorProto.EXTERNAL:
            _check_external(tensor, dtype, elements, path, where)
        elif tensor.HasField("raw_data"):
            _check_bytes(len(tensor.raw_data), dtype, elements, where)
        else:
            _check_typed(tensor, dtype, elements, where)


def external_files(proto: onnx.ModelProto, path: Path) -> list[str]:
    """The files beside a model that hold some of its data, as the model names them, each once.

    Raises ModelFileError for one that is missing, or outside the model's folder.
    """
    found: dict[str, None] = {}
    for tensor in _tensors(proto):
        if tensor.data_location != onnx.TensorProto.EXTERNAL:
            continue
        for location in (entry.value for entry in tensor.external_data if entry.key == "location"):
            if location not in found:
                external_file(path.parent, location, f"{path}: tensor {one_line(tensor.name)!r}")
            found[location] = None
    return list(found)


def check_text(proto: onnx.ModelProto, where: str) -> None:
    """Check that every name and text attribute is text. Raises ModelFileError: bytes that are no UTF-8."""
    for name in _names(proto):
        if not isinstance(name, str):
            raise ModelFileError(f"the name {name!r} is not UTF-8", where=where, remedy=_EXPORT_AGAIN)
    for attribute in _attributes(proto):
        try:
            for text in (attribute.s, *attribute.strings):
                text.decode()
        except UnicodeDecodeError as error:
            what = f"the text in attribute {attribute.name!r} is not UTF-8"
            raise ModelFileError(what, where=where, remedy=_EXPORT_AGAIN) from error
        # The inference of shapes in the package onnx never ends on others.
        if attribute.name == "equation" and not _EQUATION.fullmatch(attribute.s.decode()):
            raise ModelFileError(f"{one_line(attribute.s.decode())!r} is no equation of an Einsum", where=where)


def _check_bytes(present: int, dtype: ir.DataType, elements: int, where: str) -> None:
    if dtype == ir.DataType.STRING:
        raise ModelFileError("a tensor of strings cannot be raw bytes", where=where, remedy=_EXPORT_AGAIN)
    needed = _bytes(dtype, elements)
    if present != needed:
        raise ModelFileError(f"its dimensions need {needed} bytes, it has {present}", where=where, remedy=_EXPORT_AGAIN)


def _check_typed(tensor: onnx.TensorProto, dtype: ir.DataType, elements: int, where: str) -> None:
    field = _TYPED_FIELDS.get(tensor.data_type, "int32_data")
    present = len(getattr(tensor, field))
    needed = elements * _ENTRIES_PER_ELEMENT.get(tensor.data_type, 1)
    if field == "int32_data" and dtype.bitwidth < 8:
        needed = _bytes(dtype, elements)  # packed: several elements in one entry
    if present != needed:
        raise ModelFileError(
            f"its dimensions need {needed} entries of {field}, it has {present}", where=where, remedy=_EXPORT_AGAIN
        )


def _check_external(tensor: onnx.TensorProto, dtype: ir.DataType, elements: int, path: Path, where: str) -> None:
    if dtype == ir.DataType.STRING:
        raise ModelFileError("a tensor of strings cannot be external data", where=where, remedy=_EXPORT_AGAIN)
    entries = {entry.key: entry.value for entry in tensor.external_data}
    file = external_file(path.parent, entries.get("location", ""), where)
    try:
        offset, length = int(entries.get("offset", "0")), int(entries.get("length", _bytes(dtype, elements)))
    except ValueError as error:
        raise ModelFileError("offset or length of its external data is not a number", where=where) from error
    if offset < 0:
        raise ModelFileError(f"negative offset {offset} into its external data", where=where)
    _check_bytes(length, dtype, elements, where)
    size = file.stat().st_size
    if offset + length > size:
        raise ModelFileError(
            f"its data ends at byte {offset + length} of {file.name!r}, which has {size} bytes",
            where=where,
            remedy="copy the external data again, it is truncated",
        )


def external_file(folder: Path, location: str, where: str) -> Path:
    """The file that an external-data location names, which must lie inside the model's folder, links resolved.

    Raises ModelFileError when it is missing or lies outside.
    """
    parts = location.replace("\\", "/").split("/")  # what another system reads as a folder is one here
    if not location or "\0" in location:
        raise ModelFileError("its external data names no file", where=where, remedy=_EXPORT_AGAIN)
    inside = "keep external data beside the model, in the same folder"
    if not parts[0] or parts[0][1:2] == ":" or ".." in parts:
        raise ModelFileError(f"external data {location!r} lies outside the model's folder", where=where, remedy=inside)
    root, file = folder.resolve(), (folder / location).resolve()
    if not file.is_relative_to(root):
        raise ModelFileError(
            f"external data {location!r} is a link that leads outside the model's folder", where=where, remedy=inside
        )
    if not file.is_file():
        raise ModelFileError(
            f"external data {location!r} is missing", where=where, remedy="copy it beside the model file"
        )
    return file


def _bytes(dtype: ir.DataType, elements: int) -> int:
    return (elements * dtype.bitwidth + 7) // 8


def _graphs(proto: onnx.ModelProto) -> Iterator[onnx.GraphProto]:
    """The graph and every body inside it or inside a function."""
    waiting = [proto.graph]
    waiting += [body for function in proto.functions for node in function.node for body in _bodies(node)]
    for graph in waiting:
        yield graph
        waiting += [body for node in graph.node for body in _bodies(node)]


def _bodies(node: onnx.NodeProto) -> list[onnx.GraphProto]:
    single = [attribute.g for attribute in node.attribute if attribute.HasField("g")]
    return [*single, *(graph for attribute in node.attribute for graph in attribute.graphs)]


def _nodes(proto: onnx.ModelProto) -> Iterator[onnx.NodeProto]:
    for function in proto.functions:
        yield from function.node
    for graph in _graphs(proto):
        yield from graph.node


def _attributes(proto: onnx.ModelProto) -> Iterator[onnx.AttributeProto]:
    for function in proto.functions:
        yield from function.attribute_proto
    for node in _nodes(proto):
        yield from node.attribute


def _names(proto: onnx.ModelProto) -> Iterator[object]:
    for graph in _graphs(proto):
        yield from (value.name for value in (*graph.input, *graph.output, *graph.value_info))
        yield from (tensor.name for tensor in graph.initializer)
    for node in _nodes(proto):
        yield from (node.name, node.op_type, node.domain, *node.input, *node.output)
        yield from (attribute.name for attribute in node.attribute)


def _tensors(proto: onnx.ModelProto) -> Iterator[onnx.TensorProto]:
    for graph in _graphs(proto):
        yield from graph.initializer
        for sparse in graph.sparse_initializer:
            yield from (sparse.values, sparse.indices)
    for attribute in _attributes(proto):
        if attribute.HasField("t"):
            yield attribute.t
        yield from attribute.tensors
        if attribute.HasField("sparse_tensor"):
            yield from (attribute.sparse_tensor.values, attribute.sparse_tensor.indices)
        for sparse in attribute.sparse_tensors:
            yield from (sparse.values, sparse.indices)
