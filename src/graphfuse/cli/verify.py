"""graphfuse verify: an artifact against the model it was made from."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from graphfuse.cli.console import show, show_json
from graphfuse.cli.values import (
    AllowPickle,
    AsJson,
    Dims,
    Inputs,
    Seed,
    Threads,
    Values,
    load_inputs,
    parse_dims,
    parse_hints,
)
from graphfuse.errors import GraphfuseError, VerificationError
from graphfuse.options import CompileOptions, Hints

if TYPE_CHECKING:
    import numpy as np

    from graphfuse.importers.source import Source
    from graphfuse.runtime.session import Session
    from graphfuse.verify import Certificate

    Array = np.ndarray[Any, Any]

NAME = "verify"
EXAMPLES = """Examples:

graphfuse verify model.gf --against model.onnx

graphfuse verify model.gf --against model.onnx --input x=x.npy --seed 7

graphfuse verify model.gf --against model.onnx --dim batch=5 --rtol 1e-5
"""


def command(
    artifact: Annotated[Path, typer.Argument(metavar="MODEL.gf", help="The artifact folder.", show_default=False)],
    against: Annotated[Path, typer.Option(metavar="MODEL", help="The model file it was made from.")],
    inputs: Inputs = [],  # noqa: B006 - typer copies it
    dims: Dims = [],  # noqa: B006
    values: Values = [],  # noqa: B006
    allow_pickle: AllowPickle = False,
    seed: Seed = 0,
    rtol: Annotated[float | None, typer.Option(help="Relative tolerance; by dtype when left out.")] = None,
    atol: Annotated[
        float | None, typer.Option(help="Absolute tolerance; by the size of the output when left out.")
    ] = None,
    threads: Threads = None,
    as_json: AsJson = False,
) -> None:
    """Compare an artifact with its model in its own framework: exit code 0 when they agree, 1 when they differ."""
    given, sizes = load_inputs(inputs), parse_dims(dims)
    from graphfuse.compiler import load
    from graphfuse.importers.open import open_model
    from graphfuse.verify import verify

    options = CompileOptions(rtol=rtol, atol=atol, threads=threads)
    source = open_model(against, allow_pickle, parse_hints([], values))
    with load(artifact, threads=threads) as session:
        given = session.typed(given)
        if source.takes_hints:
            source.hints = _compiled_for(session, source.hints)
        if {tensor.name for tensor in session.manifest.inputs} == given.keys():
            session.run(None, given)  # tells what does not fit better than onnxruntime does
        certificate = verify(session, source, given, dims=sizes, seed=seed, rtol=rtol, atol=atol)
    region = "" if certificate.passed else _locate(certificate, source, options, given)
    _tell(certificate, region, as_json)
    if not certificate.passed:
        raise VerificationError(certificate.verdict, where=str(artifact), why=region)


def _compiled_for(session: Session, hints: Hints) -> Hints:
    """What the artifact says of its inputs, and the user of other arguments."""
    ports = session.manifest.inputs
    return Hints({port.name: port.shape for port in ports}, {port.name: port.dtype for port in ports}, hints.values)


def _locate(certificate: Certificate, model: Source, options: CompileOptions, given: Mapping[str, Array]) -> str:
    """Where the difference first arises when the model is compiled anew; empty when that cannot be told."""
    from graphfuse.compiler import Job, locate, run_stages

    job = Job(model, options, inputs=given, dims=certificate.dims)
    try:
        found = locate(run_stages(job, stop_after="emit"), certificate)
    except GraphfuseError:
        return ""
    if found.startswith("first wrong"):
        return found
    return "compiled anew, every region agrees: was the artifact made from another model, or by another version?"


def _tell(certificate: Certificate, region: str, as_json: bool) -> None:
    if as_json:
        show_json({**json.loads(certificate.to_json()), "first_wrong_region": region or None})
        return
    from graphfuse.cli.summary import certificate_text

    show(certificate_text(certificate))
