"""Where commands write: results on stdout, everything else on stderr."""

from __future__ import annotations

import io
import json
import os
import sys
from typing import IO, TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

_WIDTH_WITHOUT_TERMINAL = 120


def show(renderable: RenderableType) -> None:
    """Write a result to stdout; without a terminal in plain text, no wider than it needs to be."""
    if sys.stdout.isatty():
        console(sys.stdout).print(renderable)
        return
    buffer = io.StringIO()
    console(buffer).print(renderable)
    lines = (line.rstrip() for line in buffer.getvalue().splitlines())
    sys.stdout.write("".join(f"{line}\n" for line in lines))


def show_json(data: Any) -> None:
    """Write a result to stdout as JSON: ASCII only, so that it survives every locale."""
    sys.stdout.write(json.dumps(data, indent=2, allow_nan=False) + "\n")


def say(text: str) -> None:
    """One line on stderr about what is going on."""
    print(text, file=sys.stderr, flush=True)


def console(stream: IO[str]) -> Console:
    """A console on a stream: NO_COLOR and COLUMNS are honoured, names are never taken for markup or emoji."""
    from rich.console import Console

    width = None if stream.isatty() or "COLUMNS" in os.environ else _WIDTH_WITHOUT_TERMINAL
    return Console(file=stream, width=width, markup=False, emoji=False, highlight=False)
