"""graphfuse compile: a model file -> an artifact folder."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from graphfuse.cli.console import say, show, show_json
from graphfuse.cli.progress import StageProgress
from graphfuse.cli.values import (
    AllowPickle,
    AsJson,
    Dims,
    Inputs,
    Shapes,
    Threads,
    Values,
    load_inputs,
    parse_dims,
    parse_hints,
)
from graphfuse.errors import InputError

if TYPE_CHECKING:
    from graphfuse.options import CompileOptions

NAME = "compile"
EXAMPLES = """Examples:

graphfuse compile model.onnx

graphfuse compile model.onnx -o build/model.gf --cpu haswell --threads 4

graphfuse compile model.onnx --dim batch=8 --dim height=480

graphfuse compile model.tflite

graphfuse compile model.onnx --tune 60

graphfuse compile model.pt --shape x=1x512 --value sr=16000

graphfuse compile model.onnx --dump fuse --stop-after fuse
"""


def command(
    model: Annotated[Path, typer.Argument(metavar="MODEL", help="The model file, of any format.", show_default=False)],
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="The artifact folder; MODEL.gf here when left out.")
    ] = None,
    cpu: Annotated[str, typer.Option(help='The CPU to compile for: "native", a level, or a CPU by name.')] = "native",
    cc: Annotated[str, typer.Option(help='The C compiler: "zig", or a gcc or clang by name or path.')] = "zig",
    threads: Threads = None,
    disable: Annotated[list[str], typer.Option(metavar="RULE", help="Leave out a rewrite rule; may be repeated.")] = [],  # noqa: B006 - typer copies it
    numerics: Annotated[
        str, typer.Option(help='"strict": only rewrites that are exact or change the order of sums.')
    ] = "default",
    verify: Annotated[
        bool, typer.Option("--verify/--no-verify", metavar="", help="Compare the library with the model itself.")
    ] = True,
    dims: Dims = [],  # noqa: B006
    inputs: Inputs = [],  # noqa: B006
    shapes: Shapes = [],  # noqa: B006
    values: Values = [],  # noqa: B006
    allow_pickle: AllowPickle = False,
    rtol: Annotated[
        float | None, typer.Option(help="Relative tolerance of the comparison; by dtype when left out.")
    ] = None,
    atol: Annotated[
        float | None, typer.Option(help="Absolute tolerance; by the size of the output when left out.")
    ] = None,
    keep_going: Annotated[
        bool, typer.Option("--keep-going", metavar="", help="Write the artifact even if verification fails.")
    ] = False,
    embed_weights: Annotated[
        bool, typer.Option("--embed-weights", metavar="", help="Weights as arrays in model.c.")
    ] = False,
    optimize: Annotated[
        str, typer.Option(help='"speed", or "memory": the smallest arena, by strips of lines.')
    ] = "speed",
    strips: Annotated[
        bool,
        typer.Option("--strips/--no-strips", metavar="", help="Run kernels strip by strip where it pays."),
    ] = True,
    tune: Annotated[
        float, typer.Option(metavar="SECONDS", help="Choose kernels and strips by measurement here.")
    ] = 0.0,
    seed: Annotated[int, typer.Option(help="What random ops that have no seed draw from.")] = 0,
    cache: Annotated[
        bool,
        typer.Option("--cache/--no-cache", metavar="", help="Take what was compiled before with the same options."),
    ] = True,
    dump: Annotated[
        list[str], typer.Option(metavar="STAGE", help="Write a stage's result as text to stdout; may be repeated.")
    ] = [],  # noqa: B006
    stop_after: Annotated[str | None, typer.Option(metavar="STAGE", help="The last stage to run.")] = None,
    as_json: AsJson = False,
) -> None:
    """Compile a model into a fused native library, verified against its own framework."""
    if dump and as_json:
        raise InputError("--dump and --json both want stdout", remedy="give one of them")
    from graphfuse.options import CompileOptions

    options = CompileOptions(
        cpu=cpu, cc=cc, threads=threads, disabled_rules=tuple(disable), numerics=numerics, verify=verify,
        rtol=rtol, atol=atol, embed_weights=embed_weights, optimize=optimize,
        strips=strips, tune=tune, seed=seed, keep_going=keep_going, cache=cache,
    )  # fmt: skip
    sizes, given, hints = parse_dims(dims), load_inputs(inputs), parse_hints(shapes, values)
    said = f"{_sized(sizes)}{hints.key()}"
    reusable = cache and not (dump or stop_after or given)
    if reusable and _reused(model, options, said, output or Path(f"{model.stem}.gf"), as_json):
        return
    from graphfuse.compiler import STAGES, Job, keep, run_stages

    stages = [stage.name for stage in STAGES]
    _check_choices("stage", [*dump, *([stop_after] if stop_after else [])], stages)
    _check_rules(disable)
    writes = stop_after is None or stages.index(stop_after) >= stages.index("build")
    place = output or Path(f"{model.stem}.gf") if writes else None
    job = Job(model, options, place, given, sizes, hints=hints, allow_pickle=allow_pickle)
    with StageProgress(stages) as progress:
        job.progress = progress
        run_stages(job, stop_after=stop_after, dump=_dumper(dump) if dump else None)
    if reusable:
        keep(job, said)
    if as_json:
        from graphfuse.cli.summary import to_dict

        show_json(to_dict(job))
    elif dump:
        say(f"{model.name}: {', '.join(dump)} written to stdout" if not writes else f"{model.name} -> {place}")
    else:
        from graphfuse.cli.summary import render

        show(render(job))


def _reused(model: Path, options: CompileOptions, said: str, place: Path, as_json: bool) -> bool:
    """Make the artifact from one in the cache, and tell; False when there is none."""
    started = time.perf_counter()
    from graphfuse.artifact.reuse import Search, copy

    search = Search(model, options, said, thorough=True)
    from graphfuse.cli.reused import render, to_dict

    found = search.result()
    if found is None:
        return False
    copy(found, place)
    seconds = time.perf_counter() - started
    if as_json:
        show_json(to_dict(model, place, found, seconds))
    else:
        show(render(model, place, found, seconds))
    return True


def _sized(sizes: dict[str, int]) -> str:
    """The sizes that an artifact is verified at, as part of what it is found by."""
    return repr(sorted(sizes.items()))


def _dumper(wanted: list[str]) -> Any:
    def write(stage: str, text: str) -> None:
        if stage in wanted:
            sys.stdout.write(text)

    return write


def _check_choices(what: str, given: list[str], known: list[str]) -> None:
    for name in given:
        if name not in known:
            raise InputError(f"there is no {what} {name!r}", remedy=f"choose one of {', '.join(known)}")


def _check_rules(disable: list[str]) -> None:
    if disable:
        from graphfuse.rules import rule_files

        _check_choices("rule", disable, sorted(file.name for file in rule_files()))
