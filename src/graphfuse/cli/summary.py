"""What a compilation came to, as text and for machines."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from graphfuse.account.account import account_of, grouped
from graphfuse.account.memory import in_short, memory_of
from graphfuse.account.names import plural
from graphfuse.errors import one_line

if TYPE_CHECKING:
    from graphfuse.artifact.bundle import Bundle
    from graphfuse.compiler import Job
    from graphfuse.verify import Certificate, InputRecord, OutputReport


def to_dict(job: Job) -> dict[str, Any]:
    """Figures of a compilation, as far as it ran; times in seconds, sizes in bytes."""
    account = account_of(job.ledger)
    bundle: Bundle | None = job.results.get("bundle") or job.results.get("build")
    certificate: Certificate | None = job.results.get("verify")
    memory = memory_of(job.ledger)
    return {
        "model": job.where,
        "format": job.source.format,
        "artifact": str(job.output) if "bundle" in job.results else None,
        "target": job.target.key(),
        "compiler": bundle.manifest.compiler if bundle else None,
        "account": account.to_dict()["summary"],
        "arena_bytes": None if memory is None else memory.expression or memory.arena,
        "memory": None if memory is None else memory.to_dict(),
        "weights_bytes": _weights(job, bundle) if "emit" in job.results else None,
        "seconds": {stage: round(seconds, 3) for stage, seconds in job.timings.items()},
        "certificate": json.loads(certificate.to_json()) if certificate else None,
    }


def render(job: Job) -> RenderableType:
    """The same in a few lines."""
    figures = to_dict(job)
    account = figures["account"]
    title = Text.assemble((one_line(job.source.name), "bold"), f" ({job.source.format})")
    if figures["artifact"]:
        title.append(" → ", "dim").append(one_line(figures["artifact"]))
    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_row("  graph", _graph(account))
    memory = memory_of(job.ledger)
    if memory is not None:
        table.add_row("  memory", in_short(memory))
    table.add_row(
        "  target", f"{figures['target']}" + (f", {one_line(figures['compiler'])}" if figures["compiler"] else "")
    )
    table.add_row("  time", _time(figures["seconds"]))
    certificate = job.results.get("verify")
    parts: list[RenderableType] = [title, table]
    if certificate is not None:
        parts.append(certificate_text(certificate))
    elif "bundle" in job.results:
        parts.append(Text("  not verified", "yellow"))
    return Group(*parts)


def certificate_text(certificate: Certificate) -> RenderableType:
    """The certificate: every output with its largest errors, then on what and by which rule they were compared."""
    table = Table.grid(padding=(0, 2, 0, 0))
    for report in certificate.outputs:
        table.add_row(*_report(report))
    origins = grouped(certificate.inputs, lambda record: record.origin)
    inputs = "; ".join(f"{', '.join(map(_input, group))} {group[0].origin}" for group in origins)
    reference = f"{certificate.reference} {certificate.versions.get(certificate.reference, '')}"
    return Group(table, Text(f"  against {reference} on {inputs}", "dim"))


def _input(record: InputRecord) -> str:
    return f"{one_line(record.name)} {_shape(record.shape)}"


def _report(report: OutputReport) -> tuple[Text, Text, Text]:
    verdict = Text("  verified", "green") if report.passed else Text("  differs", "bold red")
    name = Text(one_line(report.name))
    if not report.passed:
        instead = f" at {list(report.position)}: {report.ours:.6g} instead of {report.expected:.6g}"
        return verdict, name, Text(one_line(report.reason) + (instead if report.position else ""))
    if report.finite == 0:
        return verdict, name, Text("NaN or infinite everywhere, as expected: this says little", "yellow")
    finite = "" if report.finite == 1 else f"; {report.finite:.1%} of the values are finite"
    if report.max_abs == 0:
        return verdict, name, Text(f"equal{finite}")
    at = f" at {list(report.position)}" if report.position else ""
    return verdict, name, Text(f"largest error {report.max_abs:.2g}, relative {report.max_rel:.2g}{at}{finite}")


def _graph(account: dict[str, int]) -> Text:
    text = Text(f"{plural(account['nodes'], 'node')} → {plural(account['kernel_calls'], 'kernel call')}", "bold")
    if account["different_kernels"] < account["kernel_calls"]:
        text.append(f" of {plural(account['different_kernels'], 'different kernel')}", "not bold")
    text.append("; ", "not bold")
    counts = ", ".join(f"{account[fate]} {fate}" for fate in ("fused", "alone", "folded", "removed") if account[fate])
    return text.append(counts, "not bold")


def _time(seconds: dict[str, float]) -> Text:
    """The total, and the stages that took a good part of it."""
    total = sum(seconds.values())
    long = [(stage, spent) for stage, spent in seconds.items() if spent >= 0.05 * total]
    text = Text(f"{total:.2g} s")
    return text.append(": " + ", ".join(f"{stage} {spent:.2g}" for stage, spent in long), "dim")


def _weights(job: Job, bundle: Bundle | None) -> int:
    """Bytes of weights.bin; where there is none, of the arrays in the library."""
    written = bundle.manifest.weights_bytes if bundle else 0
    return written or sum(int(array.nbytes) for array in job.results["emit"].weights)


def _shape(shape: tuple[int, ...]) -> str:
    return "×".join(map(str, shape)) if shape else "scalar"
