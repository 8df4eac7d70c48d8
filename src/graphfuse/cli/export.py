"""graphfuse export: a model's folds and recognitions for other frameworks."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from graphfuse.cli.console import show, show_json
from graphfuse.cli.values import AllowPickle, AsJson, Dims, Shapes, Values, parse_dims, parse_hints
from graphfuse.errors import InputError, VerificationError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from graphfuse.importers.common import StateVariable
    from graphfuse.importers.source import Source
    from graphfuse.options import CompileOptions
    from graphfuse.verify import Certificate
    from graphfuse.verify.check import Verified

NAME = "export"
FORMATS = ("onnx", "torch")
EXAMPLES = """Examples:

graphfuse export model.onnx -o lighter.onnx

graphfuse export model.tflite --to onnx -o model.onnx

graphfuse export model.onnx --to torch -o model.pt2

graphfuse export model.pt --shape x=Nx512 -o model.onnx
"""


def command(
    model: Annotated[Path, typer.Argument(metavar="MODEL", help="The model file.", show_default=False)],
    output: Annotated[Path, typer.Option("--output", "-o", help="The file to write.")],
    to: Annotated[str, typer.Option(help='"onnx": standard operators; "torch": a program of torch.export.')] = "onnx",
    disable: Annotated[list[str], typer.Option(metavar="RULE", help="Leave out a rewrite rule; may be repeated.")] = [],  # noqa: B006 - typer copies it
    verify: Annotated[bool, typer.Option("--verify/--no-verify", metavar="", help="Compare it with the model.")] = True,
    dims: Dims = [],  # noqa: B006
    shapes: Shapes = [],  # noqa: B006
    values: Values = [],  # noqa: B006
    allow_pickle: AllowPickle = False,
    as_json: AsJson = False,
) -> None:
    """Write a model with its folds and recognitions applied, for any runtime of the chosen format."""
    if to not in FORMATS:
        raise InputError(f"there is no format {to!r}", remedy=f"choose one of {', '.join(FORMATS)}")
    if not output.parent.is_dir():
        raise InputError("the folder does not exist", where=str(output.parent), remedy="make it, or name another")
    if to == "torch" and output.suffix != ".pt2":
        name = output.with_suffix(".pt2").name
        raise InputError("torch reads programs from .pt2 files alone", where=str(output), remedy=f"name it {name}")
    from graphfuse.importers.open import open_model
    from graphfuse.options import CompileOptions

    started, sizes = time.perf_counter(), parse_dims(dims)
    source = open_model(model, allow_pickle, parse_hints(shapes, values))
    options = CompileOptions(disabled_rules=tuple(disable))
    session, facts = (_to_onnx if to == "onnx" else _to_torch)(source, options, output, sizes)
    certificate = _certificate(session(), source, sizes) if verify else None
    told = {
        "model": str(model),
        "format": source.format,
        "written": str(output),
        "to": to,
        **facts,
        "seconds": round(time.perf_counter() - started, 3),
        "certificate": json.loads(certificate.to_json()) if certificate else None,
    }
    if as_json:
        show_json(told)
    else:
        _tell(told, certificate)
    if certificate is not None and not certificate.passed:
        raise VerificationError(certificate.verdict, where=str(output))


# What was written: something that runs it for verification, and what is told about it.
if TYPE_CHECKING:
    _Written = tuple[Callable[[], Verified], dict[str, Any]]


def _to_onnx(source: Source, options: CompileOptions, output: Path, _: dict[str, int]) -> _Written:
    from graphfuse.export.check import ExportedSession
    from graphfuse.export.onnx import portable_model, write_portable

    portable = portable_model(source, options)
    write_portable(portable, output)
    facts = {"opset": portable.graph.opset_imports[""], "nodes": len(portable.graph)}
    return lambda: ExportedSession(output, portable, _states(source)), facts


def _to_torch(source: Source, options: CompileOptions, output: Path, sizes: dict[str, int]) -> _Written:
    from graphfuse.export.check import ProgramSession, manifest_of
    from graphfuse.export.onnx import rewritten_model
    from graphfuse.export.torch import export_program, module_of, write_program

    model = rewritten_model(source, options)
    module = module_of(model, source.where)
    program = export_program(module, model, manifest_of(model), sizes, source.where)
    write_program(program, output)
    facts = {"opset": None, "nodes": len(module.graph.nodes), "fixed": list(program.fixed)}
    return lambda: ProgramSession(output, model, program.inputs, _states(source)), facts


def _states(source: Source) -> Sequence[StateVariable]:
    from graphfuse.importers.source import Converted

    return source.converted.states if isinstance(source, Converted) else ()


def _certificate(session: Verified, source: Source, sizes: dict[str, int]) -> Certificate:
    from graphfuse.verify import verify

    return verify(session, source, dims=sizes)


def _tell(told: dict[str, Any], certificate: Certificate | None) -> None:
    from rich.console import Group
    from rich.text import Text

    from graphfuse.cli.summary import certificate_text
    from graphfuse.errors import one_line

    what = f"ONNX, opset {told['opset']}" if told["to"] == "onnx" else "a program of torch.export"
    head = Text.assemble((one_line(told["model"]), "bold"), f" ({told['format']}) → ", one_line(told["written"]))
    body = Text(f"  {what}, {told['nodes']} nodes, {told['seconds']:.1f} s")
    if told.get("fixed"):
        sizes = ", ".join(map(one_line, told["fixed"]))
        body.append(f"\n  sizes that torch.export could not leave free: {sizes}", "yellow")
    show(Group(head, body, *([certificate_text(certificate)] if certificate else [Text("  not verified", "yellow")])))
