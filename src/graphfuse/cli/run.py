"""graphfuse run: an artifact on given or generated inputs."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from graphfuse.cli.console import show, show_json
from graphfuse.cli.values import (
    AsJson,
    Dims,
    Inputs,
    Seed,
    Threads,
    check_output_path,
    load_inputs,
    parse_dims,
    save_outputs,
)

if TYPE_CHECKING:
    import numpy as np
    from rich.console import RenderableType

    Array = np.ndarray[Any, Any]

NAME = "run"
EXAMPLES = """Examples:

graphfuse run model.gf

graphfuse run model.gf --input x=x.npy -o y.npz

graphfuse run model.gf --dim batch=8 --seed 3 --threads 2
"""


def command(
    artifact: Annotated[Path, typer.Argument(metavar="MODEL.gf", help="The artifact folder.", show_default=False)],
    inputs: Inputs = [],  # noqa: B006 - typer copies it
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Write the outputs to a .npz file, or a single one to .npy.")
    ] = None,
    dims: Dims = [],  # noqa: B006
    seed: Seed = 0,
    threads: Threads = None,
    as_json: AsJson = False,
) -> None:
    """Run an artifact; inputs that are not given are random numbers of the right shape."""
    given, sizes = load_inputs(inputs), parse_dims(dims)
    from graphfuse.bench.inputs import accepted_inputs
    from graphfuse.compiler import load

    with load(artifact, threads=threads) as session:
        if output is not None:
            check_output_path(output, len(session.manifest.outputs))
        names = [tensor.name for tensor in session.manifest.outputs]
        arrays = accepted_inputs(session, artifact / "fused.onnx", given, sizes, seed)
        started = time.perf_counter()
        results = session.run(names, arrays)
        spent = time.perf_counter() - started
    outputs = dict(zip(names, results, strict=True))
    if output is not None:
        save_outputs(output, outputs)
    told = {
        "artifact": str(artifact),
        "inputs": {name: {**_facts(array), "given": name in given} for name, array in arrays.items()},
        "outputs": {name: _facts(array) for name, array in outputs.items()},
        "written": str(output) if output else None,
        "milliseconds": round(1e3 * spent, 4),
    }
    if as_json:
        show_json(told)
    else:
        show(_render(told))


def _facts(array: Array) -> dict[str, Any]:
    """Shape, dtype, range and mean of an array; of its finite values, of which there may be none."""
    import numpy as np

    facts: dict[str, Any] = {
        "dtype": array.dtype.name,
        "shape": list(array.shape),
        "min": None,
        "max": None,
        "mean": None,
    }
    wide = array.astype(np.float64)
    finite = wide[np.isfinite(wide)]
    if finite.size:
        facts |= {"min": float(finite.min()), "max": float(finite.max()), "mean": float(finite.mean())}
    facts["not_finite"] = int(wide.size - finite.size)
    return facts


def _render(told: dict[str, Any]) -> RenderableType:
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    from graphfuse.errors import one_line

    table = Table.grid(padding=(0, 2, 0, 0))
    for kind in ("inputs", "outputs"):
        for name, facts in told[kind].items():
            shape = "×".join(map(str, facts["shape"])) or "scalar"
            origin = "" if kind == "outputs" else "given" if facts["given"] else "random"
            lead = Text(f"  {kind[:-1]}", "dim")
            what = f"{facts['dtype']} {shape}"
            table.add_row(lead, Text(one_line(name), "bold"), what, _range(facts), Text(origin, "dim"))
    written = f", written to {one_line(told['written'])}" if told["written"] else ""
    return Group(table, Text(f"  {told['milliseconds']:.3g} ms{written}"))


def _range(facts: dict[str, Any]) -> str:
    """What values an array holds."""
    if 0 in facts["shape"]:
        return "empty"
    parts = [f"{facts['not_finite']} not finite"] if facts["not_finite"] else []
    if facts["mean"] is not None:
        parts = [f"{facts['min']:.4g} to {facts['max']:.4g}", f"mean {facts['mean']:.4g}", *parts]
    return ", ".join(parts)
