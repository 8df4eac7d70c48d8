"""What is known about tensors."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch

from graphfuse.importers.torchscript.prims.table import prim
from graphfuse.importers.torchscript.values import (
    CODES,
    NUMBERS,
    ListBox,
    Tensor,
    Unspellable,
)

if TYPE_CHECKING:
    from graphfuse.importers.torchscript.interpreter import Interpreter


@prim("aten::dim", "aten::ndimension")
def dim(run: Interpreter, node: Any, x: Tensor) -> Any:
    return x.rank


@prim("aten::size", "prim::shape")
def size(run: Interpreter, node: Any, x: Tensor, axis: int | None = None) -> Any:
    if axis is not None:
        if isinstance(axis, Tensor):
            raise Unspellable("an axis that depends on data is not supported")
        if isinstance(x.shape[x.axis(axis)], int):
            return run.b.size(x, axis)
        with run.operator("aten::size", [x]):
            return run.b.size(x, axis)
    if all(isinstance(d, int) for d in x.shape):
        return ListBox(list(x.shape), run.b.touch)
    with run.operator("aten::size", [x]):
        return ListBox(run.b.sizes(x), run.b.touch)


@prim("aten::numel")
def numel(run: Interpreter, node: Any, x: Tensor) -> Any:
    if all(isinstance(d, int) for d in x.shape):
        return math.prod(d for d in x.shape if isinstance(d, int))
    with run.operator("aten::numel", [x]):
        return run.b.number(run.b("Size", x))


@prim("prim::dtype")
def dtype(run: Interpreter, node: Any, x: Tensor) -> Any:
    return run.b.code_of(x)


@prim("prim::device", "aten::device")
def device(run: Interpreter, node: Any, *given: Any) -> Any:
    return torch.device("cpu")


@prim("prim::layout")
def layout(run: Interpreter, node: Any, *given: Any) -> Any:
    return 0


@prim("prim::type", "prim::index")
def device_part(run: Interpreter, node: Any, given: Any) -> Any:
    return "cpu" if node.kind() == "prim::type" else None


@prim(
    "prim::is_cuda", "aten::is_cuda", "prim::is_quantized", "prim::is_sparse", "prim::is_mkldnn", "prim::is_meta",
    "prim::is_nested", "prim::is_mps", "prim::is_xpu", "prim::is_vulkan",
    "aten::is_complex", "aten::is_autocast_enabled", "aten::is_autocast_cpu_enabled",
)  # fmt: skip
def no(run: Interpreter, node: Any, *given: Any) -> Any:
    return False


# Programs ask these to choose between operators that fuse by themselves, such as a whole encoder layer, and the plain
# ones that they are made of: the answers of training lead to the plain ones, which are what can be compiled.
@prim("aten::is_grad_enabled")
def is_grad_enabled(run: Interpreter, node: Any) -> Any:
    return True


@prim("prim::requires_grad", "aten::requires_grad")
def requires_grad(run: Interpreter, node: Any, x: Tensor) -> Any:
    return bool(x.path)


@prim("aten::is_floating_point")
def is_floating_point(run: Interpreter, node: Any, x: Tensor) -> Any:
    return x.is_float


@prim("aten::is_contiguous")
def yes(run: Interpreter, node: Any, *given: Any) -> Any:
    return True


@prim("aten::set_grad_enabled", "aten::manual_seed")
def ignored(run: Interpreter, node: Any, *given: Any) -> Any:
    return ()


@prim("aten::result_type", "aten::promote_types")
def result_type(run: Interpreter, node: Any, a: Any, b: Any) -> Any:
    if isinstance(a, Tensor) or isinstance(b, Tensor):
        return NUMBERS[run.b.promoted(a, b)]
    return NUMBERS[torch.promote_types(CODES[a], CODES[b])]
