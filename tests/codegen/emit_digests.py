"""Prints a digest of everything that is emitted for the named models; run in processes of different hash seeds."""

from __future__ import annotations

import hashlib
import sys
from pathlib import Path

import onnx_ir as ir

import zoo
from graphfuse.artifact.fused_model import fused_model
from graphfuse.compiler import Job, run_stages
from graphfuse.options import CompileOptions


def main(names: list[str]) -> None:
    for name in names:
        path = Path(name) if name.endswith(".onnx") else zoo.path(name)
        job = run_stages(Job(path, CompileOptions(cpu="x86_64_v3")), stop_after="emit")
        module = job.results["emit"]
        fused = ir.to_proto(fused_model(job.results["fuse"], job.results["recognize"]))
        parts = [
            module.source().encode(),
            module.preamble.encode() + "".join(module.kernels.values()).encode() + module.main.encode(),
            b"".join(module.weight_chunks()),
            job.ledger.to_json().encode(),
            fused.SerializeToString(deterministic=True),
        ]
        print(name, *(hashlib.sha256(part).hexdigest() for part in parts))


if __name__ == "__main__":
    main(sys.argv[1:])
