"""The module as a program of torch.export, its free sizes kept."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx_ir as ir
import torch
from torch import fx
from torch.export import Dim

from graphfuse.artifact.manifest import Manifest, Tensor
from graphfuse.errors import ArtifactError, UnsupportedModelError
from graphfuse.export.torch.graph import REMEDY
from graphfuse.importers.exported import describe, quiet_exporter
from graphfuse.importers.torch_tensors import to_tensor
from graphfuse.toolchain.files import disk_errors
from graphfuse.verify.inputs import SIZES, generate_inputs, plausible_dims


@dataclass(frozen=True)
class Program:
    """program: a torch.export.ExportedProgram; inputs: the user's names and the shapes that it takes; fixed: free sizes
    of the model that are not free in the program, each as "name = size"."""

    program: Any
    inputs: tuple[Tensor, ...]
    fixed: tuple[str, ...] = ()


def export_program(
    module: fx.GraphModule, model: ir.Model, manifest: Manifest, sizes: Mapping[str, int] | None = None, where: str = ""
) -> Program:
    """The module, traced with inputs of plausible sizes.

    manifest: its inputs; sizes: of free dimensions, to trace with. A size that the program turns out to
    depend on is fixed. Raises UnsupportedModelError where torch.export fails.
    """
    proto = ir.to_proto(model)
    reason: Exception | None = None
    tried: list[dict[str, int]] = []
    for batch, other in SIZES:
        dims = plausible_dims(manifest, batch, other, sizes or {})
        if dims in tried:
            continue
        tried.append(dims)
        try:
            arrays = generate_inputs(manifest, proto, dims, 0)
            tensors = tuple(to_tensor(arrays[tensor.name]) for tensor in manifest.inputs)
            with torch.no_grad():
                module(*tensors)
            return _traced(module, tensors, manifest)
        except Exception as error:  # whatever the module's operators and torch's tracer raise
            reason = error
    assert reason is not None
    refused = [("torch.export", type(module).__name__, describe(reason))]
    remedy = f"give sizes with --dim, or {REMEDY}"
    raise UnsupportedModelError(refused, where=where, remedy=remedy, task="exported to PyTorch") from reason


def _traced(module: fx.GraphModule, tensors: tuple[Any, ...], manifest: Manifest) -> Program:
    named = {symbol: Dim(symbol) for symbol in manifest.symbols}
    for automatic in (False, True):
        shapes = tuple(
            {k: Dim.AUTO if automatic else named.get(d, Dim.AUTO) for k, d in enumerate(t.shape) if isinstance(d, str)}
            for t in manifest.inputs
        )
        try:
            with quiet_exporter(), torch.no_grad():
                program = torch.export.export(module, tensors, dynamic_shapes=shapes, strict=False)
            break
        except Exception:  # constraints between sizes are found, or a size is fixed
            if automatic:
                raise
    return _described(program, manifest.inputs)


def _described(program: Any, inputs: Sequence[Tensor]) -> Program:
    taken = {spec.arg.name for spec in program.graph_signature.input_specs if spec.kind.name == "USER_INPUT"}
    values = [n.meta["val"] for n in program.graph.nodes if n.op == "placeholder" and n.name in taken]
    fixed: dict[str, None] = {}
    known = []
    for tensor, value in zip(inputs, values, strict=True):
        shape: list[int | str] = []
        for ours, theirs in zip(tensor.shape, value.shape, strict=True):
            is_fixed = isinstance(ours, str) and isinstance(theirs, int)
            shape.append(int(theirs) if is_fixed else ours)
            if is_fixed:
                fixed[f"{ours} = {int(theirs)}"] = None
        known.append(Tensor(tensor.name, tensor.dtype, tuple(shape)))
    return Program(program, tuple(known), tuple(fixed))


def write_program(program: Program, path: Path) -> None:
    """Write the program, whole or not at all. Raises ArtifactError."""
    remedy = "name a file in a folder that can be written"
    with (
        disk_errors(ArtifactError, path, remedy),
        tempfile.TemporaryDirectory(dir=path.parent, prefix=".gf-") as folder,
    ):
        place = Path(folder) / "program.pt2"
        with quiet_exporter():
            torch.export.save(program.program, place)
        os.replace(place, path)
