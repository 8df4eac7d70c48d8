"""Writes what fusion and planning decided into the ledger: every node's end, every edge between regions."""

from __future__ import annotations

from collections.abc import Iterable

import onnx_ir as ir

from graphfuse.fusion.regions import Fusion, Region, Verdict
from graphfuse.graph.bodies import inner_first
from graphfuse.graph.dims import assuming, estimate, product
from graphfuse.graph.dtypes import item_bytes
from graphfuse.graph.origins import origins
from graphfuse.ledger import EdgeRecord, Ledger
from graphfuse.ops.tensor import Tensor
from graphfuse.plan.calls import Call, Plan

# What reading or writing memory costs where caches do not help; a round figure for desktop and server cores.
BYTES_PER_US = 20_000


def account(fusion: Fusion, plan: Plan, ledger: Ledger) -> None:
    """Settle every node that is left, those of bodies too, and record every edge between regions."""
    settled: set[str] = set()
    _account(fusion, plan, ledger, settled)
    for node in inner_first(fusion.program.graph):
        names = [n for n in origins(node) if n not in settled]
        if names:
            ledger.settle(names, "removed", by="plan", reason="it never runs: which branch is taken is known")


def _account(fusion: Fusion, plan: Plan, ledger: Ledger, settled: set[str]) -> None:
    # A node with a loop nest is accounted for there, wherever its other parts are.
    for region in sorted(fusion.regions, key=lambda r: r.kind != "opaque"):
        _settle_region(fusion, region, ledger, settled)
    for node in _nodes(fusion):
        names = [n for n in origins(node) if n not in settled]
        if names:
            settled.update(names)
            fate, into, reason = _end_of_view(fusion, plan, node)
            ledger.settle(names, fate, into=into, by="plan", reason=reason)  # type: ignore[arg-type]
    with assuming(fusion.program.one_item):
        for region in fusion.regions:
            _record_edges(fusion, plan, region, ledger)
    for call in plan.calls:
        for step in call.parts or (call,):
            how = step.code.describe or step.kernel
            if call.parts:
                how = f"{how}, in {call.code.describe.partition(':')[0]} with {_others(call, step)}"
            ledger.note("plan", step.label, f"{how}: {step.code.name}")
        if call.control is not None:
            for inner, body in zip(call.control.fusions, call.control.bodies, strict=True):
                _account(inner, body, ledger, settled)


def _nodes(fusion: Fusion) -> list[ir.Node]:
    """The nodes of a graph, and those of branches that are always taken, which it computes as its own."""
    return list(dict.fromkeys([*fusion.program.graph, *fusion.program.node_of.values()]))


def _others(call: Call, step: Call) -> str:
    return " and ".join(other.label for other in call.parts if other is not step)


def _settle_region(fusion: Fusion, region: Region, ledger: Ledger, settled: set[str]) -> None:
    every = _names(fusion, region.tensors)
    names = [n for n in every if n not in settled]
    settled.update(names)
    if len(every) > 1:
        ledger.settle(names, "fused", into=region.name, by="fuse", reason="")
    elif names:
        ledger.settle(names, "alone", into=region.name, by="fuse", reason=_why_alone(fusion, region))


def _names(fusion: Fusion, tensors: Iterable[Tensor]) -> list[str]:
    nodes = dict.fromkeys(fusion.program.node_of[t] for t in tensors)
    return list(dict.fromkeys(name for node in nodes for name in origins(node)))


def _why_alone(fusion: Fusion, region: Region) -> str:
    why, node = _first_refusal(fusion, region), fusion.program.node_of[region.anchor]
    if region.kind != "opaque":
        return why
    parts = [r.name for r in fusion.regions if r is not region and fusion.program.node_of[r.anchor] is node]
    return f"{why}; the rest of it is in {' and '.join(parts)}" if parts else why


def _first_refusal(fusion: Fusion, region: Region) -> str:
    for t in region.tensors:
        for a in t.args:
            verdict = fusion.verdicts.get((a, t))
            if verdict is not None:
                return _sentence(verdict)
    readers = [c for t in region.outputs for c in fusion.program.consumers.get(t, [])]
    for t in region.outputs:
        for c in readers:
            verdict = fusion.verdicts.get((t, c))
            if verdict is not None:
                return _sentence(verdict)
    return "no neighbour computes over the same space"


def _sentence(verdict: Verdict) -> str:
    return f"{verdict.condition} ({verdict.culprit})" if verdict.culprit else verdict.condition


def _end_of_view(fusion: Fusion, plan: Plan, node: ir.Node) -> tuple[str, str, str]:
    """Fate, target and reason of a node that computes nothing of its own."""
    program = fusion.program
    mine = [t for t in program.tensors if program.node_of[t] is node]
    if not mine:
        used = any(v in program.of_value and program.of_value[v] in program.position for v in node.outputs)
        return "removed", "", "its result is its input" if used else "its result is not used"
    copied = [t for t in mine if t in plan.copies]
    if copied:
        return "alone", "", f"a copy: {plan.copies[copied[0]]}"
    readers = [r for t in mine for c in program.consumers.get(t, []) if (r := fusion.region_of.get(c)) is not None]
    writers = [r for t in mine for a in t.args if (r := fusion.region_of.get(a)) is not None]
    near = [r.name for r in readers + writers]
    return "fused", near[0] if near else "", "other strides over the same memory, no copy"


def _record_edges(fusion: Fusion, plan: Plan, region: Region, ledger: Ledger) -> None:
    program = fusion.program
    inside = set(map(id, region.tensors))
    seen: set[tuple[str, str]] = set()
    for t in region.tensors:
        for a in t.args:
            if id(a) in inside:
                continue
            for source, through in _sources(fusion, a):
                value = source.value.name if source.value is not None and source.value.name else program.name(source)
                key = (fusion.region_of[source].name, value)
                if key in seen:
                    continue
                seen.add(key)
                apart = plan.strips.get((key[0], region.name))
                if apart == "":
                    continue  # it runs strip by strip: the value does not exist whole
                verdict = fusion.verdicts.get((a, t)) or _default(fusion, t, through)
                size = 2 * estimate(product(source.shape)) * item_bytes(source.dtype)
                ledger.edges.append(
                    EdgeRecord(
                        producer=program.name(source),
                        consumer=program.name(t),
                        value=value,
                        condition=verdict.condition,
                        culprit=verdict.culprit,
                        remedy=verdict.remedy or (f"not strip by strip: {apart}" if apart else ""),
                        bytes=size,
                        predicted_us=round(size / BYTES_PER_US, 2),
                    )
                )


def _sources(fusion: Fusion, t: Tensor) -> list[tuple[Tensor, Tensor | None]]:
    """The computed tensors behind views and placements, each with the first of those that was passed through."""
    found: list[tuple[Tensor, Tensor | None]] = []
    seen: set[int] = set()
    stack: list[tuple[Tensor, Tensor | None]] = [(t, None)]
    while stack:
        x, first = stack.pop()
        if id(x) in seen:
            continue
        seen.add(id(x))
        if x in fusion.region_of:
            found.append((x, first))
        else:
            stack += [(a, first or x) for a in reversed(x.args)]
    return found


def _default(fusion: Fusion, t: Tensor, through: Tensor | None) -> Verdict:
    name = fusion.program.name
    if through is not None:
        return Verdict("a change of shape or place stands between the two", name(through))
    return Verdict("another operand was joined first", name(t))
