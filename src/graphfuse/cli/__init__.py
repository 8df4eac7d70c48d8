"""The command line: `graphfuse COMMAND`, one file for each command.

Nothing heavy is imported until a command runs, so that help and mistyped options answer at once.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Annotated

import typer

from graphfuse import __version__
from graphfuse.cli import bench, cache, compile, demo, explain, export, profile, run, verify
from graphfuse.cli.guard import guarded, prepare_streams, tell, tell_usage

app = typer.Typer(
    name="graphfuse",
    help="Compile a trained model into a fused, verified native library.",
    epilog="graphfuse COMMAND --help shows the options of a command, with examples.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)
for module in (compile, run, verify, explain, profile, export, bench, demo):
    app.command(module.NAME, epilog=module.EXAMPLES)(guarded(module.command))
app.add_typer(cache.app, name="cache")


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"graphfuse {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", metavar="", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    pass


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and exit: 0 done, 1 results differ, 2 an error, told in one short block on stderr."""
    prepare_streams()
    try:
        code = app(args=None if arguments is None else list(arguments), prog_name="graphfuse", standalone_mode=False)
    except Exception as error:
        # typer raises its own for a mistyped command line; which class that is depends on its version.
        code = tell_usage(error) if hasattr(error, "format_message") else tell(error)
    sys.exit(code if isinstance(code, int) else 0)
