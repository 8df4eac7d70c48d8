"""graphfuse profile: where the time of a model goes, and how far each kernel call is from the machine's limits."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from graphfuse.cli.console import show, show_json
from graphfuse.cli.values import (
    AllowPickle,
    AsJson,
    Dims,
    Inputs,
    Seed,
    Shapes,
    Threads,
    Values,
    load_inputs,
    open_given,
    parse_dims,
    parse_hints,
)
from graphfuse.errors import InputError, ModelFileError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Any

    import numpy as np

    from graphfuse.importers.source import Source

NAME = "profile"
EXAMPLES = """Examples:

graphfuse profile model.onnx

graphfuse profile model.onnx --threads 1 --sort time --top 10

graphfuse profile model.gf --dim batch=8 --json

graphfuse profile model.pt --shape x=1x512 --value sr=16000
"""


def command(
    model: Annotated[
        Path, typer.Argument(metavar="MODEL", help="A model file, or an artifact folder.", show_default=False)
    ],
    threads: Threads = None,
    dims: Dims = [],  # noqa: B006 - typer copies it
    inputs: Inputs = [],  # noqa: B006
    shapes: Shapes = [],  # noqa: B006
    values: Values = [],  # noqa: B006
    allow_pickle: AllowPickle = False,
    seconds: Annotated[float, typer.Option(help="Seconds to run the model for.")] = 2.0,
    seed: Seed = 0,
    sort: Annotated[
        str, typer.Option(help='"program": in order of execution; "time": the costliest first.')
    ] = "program",
    top: Annotated[int | None, typer.Option(min=1, help="Show only so many of the costliest calls.")] = None,
    cpu: Annotated[str, typer.Option(help="The CPU that a model file is compiled for.")] = "native",
    fresh: Annotated[bool, typer.Option("--fresh", metavar="", help="Measure the machine's limits anew.")] = False,
    as_json: AsJson = False,
) -> None:
    """Show the time of every kernel call, what it computes and moves, and which limit of the machine it is under."""
    if sort not in ("program", "time"):
        raise InputError(f"there is no order {sort!r}", remedy="choose one of program, time")
    given, sizes, hints = load_inputs(inputs), parse_dims(dims), parse_hints(shapes, values)
    from graphfuse.bench.profile import profile
    from graphfuse.bench.report import render_profile
    from graphfuse.cli.bench import status
    from graphfuse.options import CompileOptions

    with status() as progress:
        found, _ = profile(
            open_given(model, hints, allow_pickle, given),
            threads=threads, dims=sizes, inputs=given, seconds=seconds, seed=seed,
            options=CompileOptions(cpu=cpu), fresh=fresh, progress=progress,
        )  # fmt: skip
    if as_json:
        show_json(found.to_dict())
    else:
        show(render_profile(found, sort, top))


def show_limits(
    model: Source | Path | None,
    counts: Sequence[int],
    given: Mapping[str, np.ndarray[Any, Any]],
    sizes: Mapping[str, int],
    seconds: float,
    seed: int,
    fresh: bool,
    as_json: bool,
) -> None:
    """What `graphfuse bench --limits` shows: the machine's limits; with a model, how far each call is from them."""
    if isinstance(model, Path) and not model.exists():
        raise ModelFileError("no such file", where=str(model), remedy="name a model file or an artifact folder")
    from graphfuse.bench.limits import machine_limits
    from graphfuse.bench.profile import profile
    from graphfuse.bench.report import render_limits, render_profile
    from graphfuse.cli.bench import status

    with status() as progress:
        machine = machine_limits(tuple(counts), fresh=fresh, progress=progress)
        profiles = []
        for limits in machine.limits if model is not None else ():
            assert model is not None
            found, _ = profile(
                model, threads=limits.threads, dims=sizes, inputs=given, seconds=seconds, seed=seed, progress=progress
            )
            profiles.append(found)
    if as_json:
        told = {**machine.to_dict(), "profiles": [found.to_dict() for found in profiles]}
        show_json(told if model is not None else machine.to_dict())
        return
    show(render_limits(machine))
    for found in profiles:
        show(render_profile(found))
