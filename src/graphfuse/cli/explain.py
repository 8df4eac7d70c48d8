"""graphfuse explain: what fused, what did not, and why."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from graphfuse.cli.console import show, show_json
from graphfuse.cli.values import AllowPickle, AsJson, Shapes, Values, parse_hints
from graphfuse.errors import ArtifactError

if TYPE_CHECKING:
    from graphfuse.ledger import Ledger
    from graphfuse.options import Hints

NAME = "explain"
EXAMPLES = """Examples:

graphfuse explain model.onnx

graphfuse explain model.gf --all

graphfuse explain model.onnx --json | jq .summary
"""


def command(
    model: Annotated[
        Path, typer.Argument(metavar="MODEL", help="A model file, or an artifact folder.", show_default=False)
    ],
    full: Annotated[
        bool, typer.Option("--all", "-a", metavar="", help="Tell every node, kernel and edge by itself.")
    ] = False,
    cpu: Annotated[str, typer.Option(help="The CPU that a model file is planned for.")] = "native",
    shapes: Shapes = [],  # noqa: B006 - typer copies it
    values: Values = [],  # noqa: B006
    allow_pickle: AllowPickle = False,
    as_json: AsJson = False,
) -> None:
    """Show what became of every node: what fused, what did not, and why."""
    hints = parse_hints(shapes, values)
    from graphfuse.artifact.bundle import is_artifact

    ledger = _of_artifact(model) if is_artifact(model) else _of_model(model, cpu, hints, allow_pickle)
    if as_json:
        from graphfuse.account import account_of

        show_json({"model": str(model), **account_of(ledger).to_dict()})
        return
    from graphfuse.account import render

    show(render(ledger, model.name or str(model), full=full))


def _of_artifact(folder: Path) -> Ledger:
    from graphfuse.artifact import read_bundle
    from graphfuse.ledger import Ledger

    read_bundle(folder, runnable=False)
    file = folder / "ledger.json"
    try:
        return Ledger.from_json(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or str(error)
        raise ArtifactError(
            "the ledger cannot be read", where=str(file), why=why, remedy="compile the model anew"
        ) from error


def _of_model(model: Path, cpu: str, hints: Hints, allow_pickle: bool) -> Ledger:
    from graphfuse.compiler import Job, run_stages
    from graphfuse.options import CompileOptions

    job = Job(model, CompileOptions(cpu=cpu), hints=hints, allow_pickle=allow_pickle)
    return run_stages(job, stop_after="emit").ledger
