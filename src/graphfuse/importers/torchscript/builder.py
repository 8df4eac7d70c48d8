"""Spelling with types: every node's result has its element type and shape at once, by ONNX's own inference."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import torch
from onnx import TensorProto, TypeProto, helper, shape_inference

from graphfuse.graph.shape_rules import OPSET
from graphfuse.importers.spelling import Speller
from graphfuse.importers.torchscript.values import (
    CODES,
    DTYPES,
    NUMBERS,
    TORCH_DTYPES,
    Alias,
    Box,
    Dim,
    Nothing,
    Number,
    Plain,
    Tensor,
    Unspellable,
    array_of,
)

_OPSETS = [helper.make_opsetid("", OPSET)]
_KNOWN_ELEMENTS = 64  # of a constant that shapes may follow from
# Operators that inference, which knows them as functions, leaves without a shape.
_SHAPED_AS_FIRST = frozenset({"GroupNormalization", "InstanceNormalization", "HardSwish", "Mish", "Gelu", "Celu"})
FOLDED_ELEMENTS = 4096  # of a constant that is computed when the model is read

Scalar = bool | int | float | Number


class Builder:
    """The speller, for TorchScript's values. builder("Add", x, y) -> Tensor, or a tuple where `count` is not 1."""

    def __init__(self, speller: Speller) -> None:
        self.speller = speller
        self.notes: dict[tuple[str, str], None] = {}
        self._weights: dict[Any, Plain] = {}  # by where they lie: one that has several names is one
        self._journals: list[dict[Box, Any]] = []

    # ------------------------------------------------------------ what is changed in place

    def touch(self, box: Box) -> None:
        """Remember what a box holds before it is changed."""
        if self._journals:
            self._journals[-1].setdefault(box, box.state())

    @property
    def in_body(self) -> bool:
        """Whether what is run now may not be run, or be run again."""
        return bool(self._journals)

    @contextmanager
    def journal(self) -> Iterator[dict[Box, Any]]:
        """All that is changed inside is undone behind it; yields what was changed -> what it held."""
        changed: dict[Box, Any] = {}
        self._journals.append(changed)
        try:
            yield changed
        finally:
            self._journals.pop()
            for box, state in changed.items():
                box.restore(state)

    # ------------------------------------------------------------ nodes

    def __call__(self, op_type: str, *inputs: Any, count: int = 1, **attrs: Any) -> Any:
        values = [None if x is None else self.value(x) for x in inputs]
        attrs = {name: int(a) if isinstance(a, ir.DataType | bool) else a for name, a in attrs.items()}
        made = self.speller(op_type, *values, count=count, **attrs)
        results = (made,) if count == 1 else made
        self._infer(results[0].producer(), results)
        tensors = tuple(self.tensor(value) for value in results)
        return tensors[0] if count == 1 else tensors

    def value(self, given: Any) -> ir.Value:
        """A Tensor's value; ints, lists of ints and arrays are constants."""
        if isinstance(given, Tensor):
            return given.value
        if isinstance(given, ir.Value):
            return given
        if isinstance(given, Nothing):
            raise Unspellable("places of maxima are not supported as results")
        if isinstance(given, np.ndarray | np.generic | float):
            return self.speller.constant(given)
        return self.speller.constant(np.asarray(given, np.int64))

    def tensor(self, value: ir.Value) -> Tensor:
        return Tensor(Plain(value), self.touch)

    def number(self, tensor: Tensor, dim: str | None = None) -> Number:
        """A tensor of rank 0 as a number of the program."""
        tensor.plain.dim = dim or tensor.plain.dim
        return Number(tensor.plain, self.touch)

    def const(self, tensor: torch.Tensor) -> Tensor:
        """A constant that the spelling needs."""
        kept = tensor.detach()
        return Tensor(Plain(None, kept, lambda: self.speller.constant(array_of(kept))), self.touch)

    def weight(self, tensor: torch.Tensor, path: str) -> Tensor:
        """A constant of the user's, under its name."""
        kept = tensor.detach()
        key = (kept.data_ptr(), kept.storage_offset(), tuple(kept.shape), kept.stride(), kept.dtype)
        if key not in self._weights or not kept.numel():
            self._weights[key] = Plain(None, kept, lambda: self.speller.weight(array_of(kept), path))
        return Tensor(self._weights[key], self.touch, path=path)

    def view(self, base: Tensor, shown: Tensor, alias: Alias) -> Tensor:
        return Tensor(shown.plain, self.touch, alias)

    def note(self, subject: str, text: str) -> None:
        """A line of the ledger."""
        self.notes[subject, text] = None

    def _infer(self, node: ir.Node | None, results: Sequence[ir.Value]) -> None:
        assert node is not None
        proto = onnx.NodeProto(op_type=node.op_type, domain="")
        types: dict[str, TypeProto] = {}
        data: dict[str, TensorProto] = {}
        for k, value in enumerate(node.inputs):
            name = "" if value is None else f"i{k}"
            proto.input.append(name)
            if value is not None and value.type is not None:
                types[name] = _type_proto(value)
                if (known := _known(value)) is not None:
                    data[name] = known
        proto.output.extend(f"o{k}" for k in range(len(results)))
        for attribute in node.attributes.values():
            proto.attribute.append(ir.serde.serialize_attribute(attribute))
        schema = onnx.defs.get_schema(node.op_type, OPSET, "")
        try:
            found = shape_inference.infer_node_outputs(schema, proto, types, data, opset_imports=_OPSETS)
        except (shape_inference.InferenceError, onnx.checker.ValidationError) as error:
            raise Unspellable(str(error).partition("\n")[0]) from error
        for k, value in enumerate(results):
            if f"o{k}" in found:
                _set_type(value, found[f"o{k}"])
        first = node.inputs[0] if node.inputs else None
        if node.op_type in _SHAPED_AS_FIRST and first is not None:
            results[0].shape = first.shape

    # ------------------------------------------------------------ element types

    def cast(self, x: Tensor, dtype: torch.dtype | ir.DataType) -> Tensor:
        """x of another element type."""
        wanted = DTYPES[dtype] if isinstance(dtype, torch.dtype) else dtype
        if x.dtype == wanted:
            return x
        const = x.const
        if const is not None and const.numel() <= FOLDED_ELEMENTS:
            return self.const(const.to(TORCH_DTYPES[wanted]))
        made: Tensor = self("Cast", x, to=wanted)
        return made

    def torch_dtype(self, x: Tensor) -> torch.dtype:
        return TORCH_DTYPES[x.dtype]

    def promoted(self, *args: Any) -> torch.dtype:
        """The element type of an operator's result on these tensors and numbers, as torch has it."""
        samples = [_sample(arg) for arg in args]
        if not any(isinstance(sample, torch.Tensor) for sample in samples):  # numbers, which are Python's
            kinds = [torch.bool, torch.int64, torch.float64]
            return kinds[max({bool: 0, int: 1}.get(type(sample), 2) for sample in samples)]
        result = samples[0].dtype if isinstance(samples[0], torch.Tensor) else torch.result_type(samples[0], samples[0])
        ranks = [len(s.shape) if isinstance(s, torch.Tensor) else -1 for s in samples]
        current: Any = samples[0]
        for sample, rank in zip(samples[1:], ranks[1:], strict=True):
            result = torch.result_type(current, sample)
            size = (1,) * max(rank, current.dim() if isinstance(current, torch.Tensor) else -1, 0)
            current = torch.empty(size, dtype=result)
        return result

    def as_tensor(self, x: Any, dtype: torch.dtype | None = None) -> Tensor:
        """A tensor, or a scalar as one, of that element type."""
        if not isinstance(x, Tensor):
            chosen = dtype or (torch.get_default_dtype() if isinstance(x, float) else None)
            return self.const(torch.tensor(x, dtype=chosen))
        return x if dtype is None else self.cast(x, dtype)

    def operands(self, *args: Any) -> tuple[Tensor, ...]:
        """Tensors of the element type that they are promoted to."""
        dtype = self.promoted(*args)
        return tuple(self.as_tensor(arg, dtype) for arg in args)

    def dtype_of(self, code: Any, default: torch.dtype | None = None) -> torch.dtype:
        """The element type behind TorchScript's number for it."""
        if code is None:
            return default or torch.get_default_dtype()
        if code not in CODES:
            raise Unspellable(f"tensors of element type {code} are not supported")
        return CODES[code]

    def code_of(self, x: Tensor) -> int:
        return NUMBERS[TORCH_DTYPES[x.dtype]]

    # ------------------------------------------------------------ sizes

    def size(self, x: Tensor, dim: int) -> int | Number:
        """The size of an axis: an int where it is known."""
        axis = x.axis(dim)
        known = x.shape[axis]
        if isinstance(known, int):
            return known
        vector = self("Shape", x, start=axis, end=axis + 1)
        return self.number(self("Squeeze", vector, [0]), known)

    def sizes(self, x: Tensor) -> list[int | Number]:
        return [self.size(x, k) for k in range(x.rank)]

    def vector(self, dims: Sequence[Any]) -> Tensor:
        """A vector of int64 of these integers, known or not."""
        if all(isinstance(d, int) for d in dims):
            return self.const(torch.tensor([int(d) for d in dims], dtype=torch.int64))
        parts = [self.const(torch.tensor([d])) if isinstance(d, int) else self("Unsqueeze", d, [0]) for d in dims]
        made: Tensor = parts[0] if len(parts) == 1 else self("Concat", *parts, axis=0)
        return made

    def reshape(self, x: Tensor, dims: Sequence[Any]) -> Tensor:
        """x in another shape, of known and unknown sizes, one of which may be -1."""
        whole = all(isinstance(d, int) for d in x.shape)
        if whole and all(isinstance(d, int) for d in dims) and tuple(dims) == x.shape:
            return x
        if not whole and len(dims) == x.rank and [_dim(d) for d in dims] == list(x.shape) and None not in x.shape:
            return x
        y: Tensor = self("Reshape", x, self.vector(dims), allowzero=1 if 0 in dims else 0)
        self.shaped(y, [_dim(d) for d in dims])
        return y

    def shaped(self, x: Tensor, dims: Sequence[Dim]) -> Tensor:
        """Say what is known of a shape: -1 and None are not, but inference may know them."""
        value = x.value
        inferred = (
            list(value.shape) if value.shape is not None and len(value.shape) == len(dims) else [None] * len(dims)
        )
        value.shape = ir.Shape(
            [was if d is None or d == -1 or isinstance(was, int) else d for d, was in zip(dims, inferred, strict=True)]
        )
        return x

    def expand(self, x: Tensor, dims: Sequence[Any]) -> Tensor:
        """x broadcast to this shape."""
        if x.shape == tuple(_dim(d) for d in dims) and None not in x.shape:
            return x
        y: Tensor = self("Expand", x, self.vector(dims))
        return self.shaped(y, [_dim(d) for d in dims])


def _dim(size: Any) -> Dim:
    """The size as a dimension of a shape; -1 is open."""
    if isinstance(size, Number):
        return size.dim
    return size if size != -1 else None


def _sample(arg: Any) -> Any:
    """Something of the same type and category for torch.result_type."""
    if isinstance(arg, Number) or (isinstance(arg, Tensor) and arg.wrapped):
        return {ir.DataType.INT64: 1, ir.DataType.BOOL: True}.get(arg.dtype, 1.0)
    if isinstance(arg, Tensor):
        return torch.empty((1,) * min(arg.rank, 1), dtype=TORCH_DTYPES[arg.dtype])
    return arg


def _type_proto(value: ir.Value) -> TypeProto:
    if isinstance(value.type, ir.SequenceType):
        return helper.make_sequence_type_proto(helper.make_tensor_type_proto(int(value.type.dtype), None))
    shape = None if value.shape is None else [d if isinstance(d, int) else d.value for d in value.shape]
    return helper.make_tensor_type_proto(int(value.dtype or 0), shape)


def _known(value: ir.Value) -> TensorProto | None:
    tensor = value.const_value
    if tensor is None or tensor.size > _KNOWN_ELEMENTS:
        return None
    return onnx.numpy_helper.from_array(tensor.numpy())


def _set_type(value: ir.Value, proto: TypeProto) -> None:
    if proto.HasField("sequence_type"):
        value.type = ir.SequenceType(ir.TensorType(ir.DataType(proto.sequence_type.elem_type.tensor_type.elem_type)))
        return
    value.type = ir.TensorType(ir.DataType(proto.tensor_type.elem_type))
    if proto.tensor_type.HasField("shape"):
        dims = proto.tensor_type.shape.dim
        value.shape = ir.Shape([d.dim_value if d.HasField("dim_value") else d.dim_param or None for d in dims])
