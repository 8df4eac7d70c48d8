"""graphfuse demo: the embedded model compiled, checked and timed."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from graphfuse.cli.bench import status
from graphfuse.cli.console import show, show_json
from graphfuse.cli.progress import StageProgress
from graphfuse.cli.values import AsJson

if TYPE_CHECKING:
    import numpy as np
    from rich.console import RenderableType

    from graphfuse.bench.result import BenchResult
    from graphfuse.compiler import Job

    Array = np.ndarray[Any, Any]

NAME = "demo"
EXAMPLES = """Example: graphfuse demo --seconds 5"""
_BATCHES = (1, 64)


def command(
    seconds: Annotated[float, typer.Option(help="Seconds for each runtime and batch size.")] = 1.0,
    as_json: AsJson = False,
) -> None:
    """Compile the embedded model, a reader of handwritten digits: accuracy, regions, certificate and time."""
    from graphfuse.bench.compare import bench
    from graphfuse.compiler import STAGES, compile_model
    from graphfuse.demo import MODEL, accuracy, held_out_images
    from graphfuse.target import physical_cores

    images, labels = held_out_images()
    with tempfile.TemporaryDirectory(prefix="graphfuse-demo-") as folder:
        with StageProgress([stage.name for stage in STAGES]) as progress:
            compiled = compile_model(MODEL, Path(folder, "digits.gf"), progress=progress)
        with compiled.session() as session, status() as report:
            report("reading the held-out images")
            scores = {"onnxruntime": _reference(images), "graphfuse": session.run(None, {"image": images})[0]}
            results = [
                bench(
                    MODEL,
                    threads=(physical_cores(),),
                    inputs={"image": images[:batch]},
                    seconds=seconds,
                    artifact=compiled.artifact,
                    progress=report,
                )
                for batch in _BATCHES
            ]
    shares = {runtime: accuracy(found, labels) for runtime, found in scores.items()}
    same = int((scores["onnxruntime"].argmax(axis=1) == scores["graphfuse"].argmax(axis=1)).sum())
    if as_json:
        show_json(_to_dict(compiled.job, shares, same, len(labels), results))
    else:
        show(_render(compiled.job, shares, same, len(labels), results))


def _reference(images: Array) -> Array:
    from graphfuse.demo import MODEL
    from graphfuse.verify import Reference

    return Reference(MODEL).run({"image": images})["scores"]


def _to_dict(job: Job, shares: dict[str, float], same: int, count: int, results: list[BenchResult]) -> dict[str, Any]:
    from graphfuse.account import account_of
    from graphfuse.cli.summary import to_dict

    return {
        "accuracy": shares,
        "images": count,
        "same_answers": same,
        "compilation": {**to_dict(job), "artifact": None},
        "kernels": account_of(job.ledger).to_dict()["kernels"],
        "bench": [result.to_dict() for result in results],
    }


def _render(job: Job, shares: dict[str, float], same: int, count: int, results: list[BenchResult]) -> RenderableType:
    from rich.console import Group
    from rich.padding import Padding
    from rich.table import Table
    from rich.text import Text

    from graphfuse.account import render_fusion
    from graphfuse.bench.result import render as render_bench
    from graphfuse.cli.summary import certificate_text

    table = Table.grid(padding=(0, 2, 0, 0))
    for runtime, share in shares.items():
        table.add_row(f"  {runtime}", f"{share:.2%}", f"{round(share * count)} of {count} images read right")
    table.add_row("  same answer", f"{same / count:.2%}", f"{same} of {count}")

    def part(title: str, *content: RenderableType) -> RenderableType:
        return Padding(Group(Text(title, "bold underline"), *content), (0, 0, 1, 0))

    certificate = job.results["verify"]
    return Group(
        part("The model", Text("  reads handwritten digits, 32×32 pixels; these its training never saw"), table),
        part("What fused", render_fusion(job.ledger, "digits.onnx")),
        part("Does it still compute the same?", *([certificate_text(certificate)] if certificate else [])),
        part("How fast", render_bench(*results)),
    )
