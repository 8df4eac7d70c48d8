"""graphfuse bench: a model compiled here against other runtimes."""

from __future__ import annotations

import sys
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from graphfuse.cli.console import console, say, show, show_json
from graphfuse.cli.values import (
    AllowPickle,
    AsJson,
    Dims,
    Inputs,
    Seed,
    Shapes,
    Values,
    load_inputs,
    open_given,
    parse_dims,
    parse_hints,
)
from graphfuse.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Callable

NAME = "bench"
EXAMPLES = """Examples:

graphfuse bench model.onnx

graphfuse bench model.onnx --vs onnxruntime --threads 1,2,4 --dim batch=8

graphfuse bench model.onnx --seconds 10 --json

graphfuse bench model.pt --shape x=1x512 --value sr=16000

graphfuse bench --limits

graphfuse bench --limits model.onnx --threads 1
"""


def command(
    model: Annotated[Path | None, typer.Argument(metavar="MODEL", help="The model file.", show_default=False)] = None,
    versus: Annotated[
        list[str], typer.Option("--vs", metavar="PEER", help="A runtime to compare with; may be repeated.")
    ] = [  # noqa: B006
        "onnxruntime"
    ],
    threads: Annotated[
        str,
        typer.Option("--threads", "-t", metavar="N,N,...", help="Numbers of threads; 1 and all cores when left out."),
    ] = "",
    dims: Dims = [],  # noqa: B006 - typer copies it
    inputs: Inputs = [],  # noqa: B006
    shapes: Shapes = [],  # noqa: B006
    values: Values = [],  # noqa: B006
    allow_pickle: AllowPickle = False,
    seconds: Annotated[float, typer.Option(help="Seconds for each runtime on each number of threads.")] = 3.0,
    seed: Seed = 0,
    limits: Annotated[
        bool,
        typer.Option(
            "--limits",
            metavar="",
            help="Measure this machine's limits instead; of a model, how far each kernel is off.",
        ),
    ] = False,
    fresh: Annotated[bool, typer.Option("--fresh", metavar="", help="With --limits: measure anew.")] = False,
    as_json: AsJson = False,
) -> None:
    """Time a model against other runtimes: same inputs, same threads, in turns."""
    from graphfuse.bench.peers import check as check_peers

    given, sizes, counts = load_inputs(inputs), parse_dims(dims), _counts(threads)
    hints = parse_hints(shapes, values)
    names = [name for text in versus for name in text.split(",") if name]
    check_peers(names)
    subject = None if model is None else open_given(model, hints, allow_pickle, given)
    if limits:
        from graphfuse.cli.profile import show_limits

        show_limits(subject, counts, given, sizes, seconds, seed, fresh, as_json)
        return
    if subject is None:
        raise InputError("bench needs a model file", remedy="name one, or give --limits for this machine's limits")
    from graphfuse.bench.compare import bench
    from graphfuse.bench.result import render

    with status() as progress:
        result = bench(
            subject, names, threads=counts, dims=sizes, inputs=given, seconds=seconds, seed=seed, progress=progress
        )
    if as_json:
        show_json({**result.to_dict()})
    else:
        show(render(result))


def status() -> AbstractContextManager[Callable[[str], None]]:
    """What is going on, on one line of stderr that vanishes; line by line where there is no terminal."""
    return _Status() if sys.stderr.isatty() else nullcontext(say)


class _Status:
    def __enter__(self) -> Callable[[str], None]:
        self._status = console(sys.stderr).status("starting")
        self._status.start()
        return self._status.update

    def __exit__(self, *_: Any) -> None:
        self._status.stop()


def _counts(text: str) -> tuple[int, ...]:
    counts = [part.strip() for part in text.split(",")] if text else []
    if not all(part.isascii() and part.isdigit() and len(part) < 5 for part in counts):
        raise InputError(f"--threads {text!r} is no list of numbers", remedy="write numbers with commas, such as 1,2,4")
    return tuple(int(part) for part in counts)
