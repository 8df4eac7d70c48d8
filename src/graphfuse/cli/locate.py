"""Where a wrong result first arises: the model compiled once more with every region's results as outputs."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from graphfuse.errors import GraphfuseError

if TYPE_CHECKING:
    import numpy as np
    import onnx

    from graphfuse.fuse.regions import Fusion
    from graphfuse.options import CompileOptions


def first_wrong_region(
    model: Path, options: CompileOptions, inputs: Mapping[str, np.ndarray[Any, Any]], dims: Mapping[str, int]
) -> str:
    """The first region in order of execution whose results differ, in words; empty where none can be named.

    Exposing what passes between regions leaves the regions as they are, so the fault shows where it arises - unless the
    artifact at fault was made by another compiler, or the fault is in the memory plan.
    """
    from graphfuse.compiler import Job, compile_model, run_stages
    from graphfuse.verify import verify

    try:
        fusion = run_stages(Job(model, options), stop_after="fuse").results["fuse"]
        with tempfile.TemporaryDirectory(prefix="graphfuse-") as folder:
            exposed = Path(folder, "exposed.onnx")
            regions = _expose(model, fusion, exposed)
            compiled = compile_model(exposed, Path(folder, "exposed.gf"), replace(options, verify=False))
            with compiled.session() as session:
                certificate = verify(session, exposed, inputs, dims=dims, rtol=options.rtol, atol=options.atol)
    except (GraphfuseError, OSError):
        return ""
    wrong = {report.name: report for report in certificate.outputs if not report.passed}
    for value, region in regions.items():
        if value in wrong:
            return f"first wrong in region {region}: the value {value!r}, {wrong[value].reason}"
    return ""


def _expose(model: Path, fusion: Fusion, target: Path) -> dict[str, str]:
    """Write the model with what its regions compute as further outputs; value -> region, in order of execution."""
    import onnx

    proto = onnx.load(model)
    computed = {output for node in proto.graph.node for output in node.output if output}
    declared = {output.name for output in proto.graph.output}
    regions: dict[str, str] = {}
    for region in fusion.regions:
        users = ", ".join(dict.fromkeys(fusion.program.name(t) for t in region.tensors))
        for tensor in region.outputs:
            name = (tensor.value.name if tensor.value is not None else None) or ""
            if name in computed:
                regions.setdefault(name, f"{region.name} ({users})")
    for name in regions:
        if name not in declared:
            proto.graph.output.append(onnx.ValueInfoProto(name=name))
    _write(proto, target)
    return regions


def _write(proto: onnx.ModelProto, target: Path) -> None:
    import onnx

    large = sum(len(tensor.raw_data) for tensor in proto.graph.initializer) > 1_500_000_000
    onnx.save(proto, target, save_as_external_data=large, location=f"{target.name}.data" if large else None)
