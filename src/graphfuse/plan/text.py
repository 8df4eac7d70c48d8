"""Fused programs and plans as text, for dumps, tests and bug reports."""

from __future__ import annotations

from collections.abc import Sequence

from graphfuse.fusion.regions import Fusion
from graphfuse.graph.dims import Dim
from graphfuse.ops.tensor import Contract, Reduce, Tensor
from graphfuse.plan.calls import Plan
from graphfuse.plan.view import View


def fusion_text(fusion: Fusion) -> str:
    """Every region with its primitives, what it reads and what it hands on."""
    lines: list[str] = []
    for region in fusion.regions:
        lines.append(f"{region.name} {region.kind} {_shape(region.space)}")
        for t in region.tensors:
            mark = " ->" if t in region.outputs else ""
            args = ", ".join(fusion.program.name(a) for a in t.args)
            kind = f"{t.dtype.name.lower()}{_shape(t.shape)}"
            lines.append(f"  {fusion.program.name(t)}: {_primitive(t)}({args}) {kind}{mark}")
    for (a, t), verdict in fusion.verdicts.items():
        if fusion.region_of.get(a) is not fusion.region_of.get(t):
            culprit = f" ({verdict.culprit})" if verdict.culprit else ""
            edge = f"{fusion.program.name(a)} -> {fusion.program.name(t)}"
            lines.append(f"not fused: {edge}: {verdict.condition}{culprit}")
    return "\n".join(lines) + "\n"


def plan_text(plan: Plan) -> str:
    """Every kernel call with its arguments, and the arena."""
    lines = [f"arena {plan.arena.size} bytes"]
    for call in plan.calls:
        code = call.code
        lines.append(f"{call.label}: {call.kernel} rows={code.rows} columns={code.columns} {code.describe}")
        lines += [f"  {_place(plan, p)}" for p in call.code.pointers]
    return "\n".join(lines) + "\n"


def _primitive(t: Tensor) -> str:
    if isinstance(t.prim, (Contract, Reduce)):
        return t.prim.kind
    return type(t.prim).__name__.lower()


def _place(plan: Plan, p: object) -> str:
    if not isinstance(p, View):
        return "packed weights"
    at = plan.arena.offsets.get(p.buffer, p.buffer.index)
    return f"{p.buffer.kind}[{at}]+{p.offset} {_shape(p.shape)} strides {_shape(p.strides)}"


def _shape(shape: Sequence[Dim]) -> str:
    return "[" + ", ".join(map(str, shape)) + "]"
