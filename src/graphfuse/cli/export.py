"""graphfuse export: a model's folds and recognitions for other frameworks."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from graphfuse.cli.console import show, show_json
from graphfuse.cli.values import AsJson, Dims, parse_dims
from graphfuse.errors import InputError, VerificationError

if TYPE_CHECKING:
    from graphfuse.verify import Certificate

NAME = "export"
FORMATS = ("onnx",)
EXAMPLES = """Examples:

graphfuse export model.onnx -o lighter.onnx

graphfuse export model.tflite --to onnx -o model.onnx
"""


def command(
    model: Annotated[Path, typer.Argument(metavar="MODEL", help="The model file.", show_default=False)],
    output: Annotated[Path, typer.Option("--output", "-o", help="The file to write.")],
    to: Annotated[str, typer.Option(help='"onnx": standard operators.')] = "onnx",
    disable: Annotated[list[str], typer.Option(metavar="RULE", help="Leave out a rewrite rule; may be repeated.")] = [],  # noqa: B006 - typer copies it
    verify: Annotated[bool, typer.Option("--verify/--no-verify", metavar="", help="Compare it with the model.")] = True,
    dims: Dims = [],  # noqa: B006
    as_json: AsJson = False,
) -> None:
    """Write a model with its folds and recognitions applied, for any runtime of the chosen format."""
    if to not in FORMATS:
        raise InputError(f"there is no format {to!r}", remedy=f"choose one of {', '.join(FORMATS)}")
    if not output.parent.is_dir():
        raise InputError("the folder does not exist", where=str(output.parent))
    from graphfuse.export.onnx import portable_model, write_portable
    from graphfuse.importers.open import open_model
    from graphfuse.options import CompileOptions

    started, sizes = time.perf_counter(), parse_dims(dims)
    source = open_model(model)
    portable = portable_model(source, CompileOptions(disabled_rules=tuple(disable)))
    write_portable(portable, output)
    certificate = _certificate(source, output, to, sizes) if verify else None
    told = {
        "model": str(model),
        "format": source.format,
        "written": str(output),
        "to": to,
        "opset": portable.graph.opset_imports[""] if to == "onnx" else None,
        "nodes": len(portable.graph),
        "seconds": round(time.perf_counter() - started, 3),
        "certificate": json.loads(certificate.to_json()) if certificate else None,
    }
    if as_json:
        show_json(told)
    else:
        _tell(told, certificate)
    if certificate is not None and not certificate.passed:
        raise VerificationError(certificate.verdict, where=str(output))


def _certificate(source: Any, output: Path, to: str, sizes: dict[str, int]) -> Certificate:
    from graphfuse.importers.source import Converted
    from graphfuse.verify import verify

    states = source.converted.states if isinstance(source, Converted) else ()
    from graphfuse.export.check import ExportedSession

    session = ExportedSession(output, states)
    return verify(session, source, dims=sizes)


def _tell(told: dict[str, Any], certificate: Certificate | None) -> None:
    from rich.console import Group
    from rich.text import Text

    from graphfuse.cli.summary import certificate_text
    from graphfuse.errors import one_line

    what = f"ONNX, opset {told['opset']}" if told["to"] == "onnx" else "a program of torch.export"
    head = Text.assemble((one_line(told["model"]), "bold"), f" ({told['format']}) → ", one_line(told["written"]))
    body = Text(f"  {what}, {told['nodes']} nodes, {told['seconds']:.1f} s")
    show(Group(head, body, *([certificate_text(certificate)] if certificate else [Text("  not verified", "yellow")])))
