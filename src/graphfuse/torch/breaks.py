"""explain: which graphs Dynamo makes of a module, where and why they break, and what would join them."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from graphfuse.account import account_of
from graphfuse.compiler import Job, run_stages
from graphfuse.errors import GraphfuseError, one_line
from graphfuse.importers.exported import describe, quiet_exporter
from graphfuse.ledger import FATES
from graphfuse.options import CompileOptions
from graphfuse.torch.backend import reason_of
from graphfuse.torch.piece import PieceSource, piece_of

# What Dynamo's reason holds -> what that means, and a rewrite that would join the pieces.
_REASONS = (
    (
        r"generic_jump|[Dd]ata-dependent (branching|jump|assertion)",
        "a branch (`if`, `while`, `assert`) asks for the value of a tensor, which is known only when it runs",
        "torch.cond(predicate, true_fn, false_fn, operands) keeps both branches in one graph; where both may be "
        "computed, torch.where(predicate, a, b) is faster",
    ),
    (
        r"\.item\(\)|\.tolist\(\)|scalar_outputs|__(bool|int|float|index)__|call_method TensorVariable\(\) item",
        "a number is taken out of a tensor (.item(), int(), float(), .tolist())",
        "compute with the tensor itself, or take the number out behind the last tensor operation",
    ),
    (
        r"dynamic shape operator|nonzero|dynamic_output_shape",
        "the size of a result depends on the data",
        "select with torch.where or a mask of the whole size instead",
    ),
    (
        r"`?print`?|logging|warnings",
        "something is printed or logged",
        "move it out of forward, or name it in torch._dynamo.config.reorderable_logging_functions",
    ),
    (
        r"torch\._dynamo\.graph_break|graph_break\(\)",
        "the code asks for a break: torch._dynamo.graph_break()",
        "take that call out",
    ),
    (
        r"disable[d]? |torch\.compiler\.disable|_dynamo\.disable",
        "a function is marked not to be compiled",
        "take off torch.compiler.disable, or call it behind the rest",
    ),
)


@dataclasses.dataclass(frozen=True)
class Break:
    """Where a graph ends and the next begins. file, line: of the user's code; what: the code there."""

    file: str
    line: int
    what: str
    reason: str
    rewrite: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line}: `{self.what}`\n    why: {self.reason}\n    to join the pieces: {self.rewrite}"


@dataclasses.dataclass(frozen=True)
class Graph:
    """One graph of Dynamo's. summary: figures of its account; problem: why torch has to run it, or empty."""

    operators: int
    summary: Mapping[str, Any]
    problem: str = ""

    def __str__(self) -> str:
        if self.problem:
            return f"{self.operators} operators, left to torch: {self.problem}"
        fates = ", ".join(f"{self.summary[fate]} {fate}" for fate in FATES if self.summary[fate])
        calls = self.summary["kernel_calls"]
        return f"{self.operators} operators in {calls} kernel{'s' * (calls != 1)}: {fates}"


@dataclasses.dataclass(frozen=True)
class Explanation:
    """What torch.compile makes of a module. str() tells it in a few lines."""

    where: str
    graphs: tuple[Graph, ...]
    breaks: tuple[Break, ...]

    def to_dict(self) -> dict[str, Any]:
        """The same for machines."""
        return {
            "model": self.where,
            "graphs": [{**dataclasses.asdict(graph), "summary": dict(graph.summary)} for graph in self.graphs],
            "breaks": [dataclasses.asdict(found) for found in self.breaks],
        }

    def __str__(self) -> str:
        count = len(self.graphs)
        lines = [f"{self.where}: {count} graph{'s' * (count != 1)}, {len(self.breaks) or 'no'} break"]
        lines[0] += "s" * (len(self.breaks) != 1)
        lines += [f"  graph {k}: {graph}" for k, graph in enumerate(self.graphs, 1)]
        lines += [f"  break {k}: {found}" for k, found in enumerate(self.breaks, 1)]
        return "\n".join(lines)


def explain(model: Any, *args: Any, **kwargs: Any) -> Explanation:
    """What torch.compile makes of a module or function of PyTorch for these arguments, which it runs once.

    Dynamo starts anew: what torch.compile has made before in this process is made again when it is called. Raises
    whatever the module itself raises.
    """
    found: list[Graph] = []
    breaks: list[Break] = []

    def look(graph: torch.fx.GraphModule, examples: Sequence[Any], **_: Any) -> Any:
        with torch._guards.tracing(None):
            found.append(_look(graph, examples))
        reason = getattr(graph, "compile_subgraph_reason", None)
        if reason is not None and reason.graph_break:
            breaks.append(_break(reason))
        return graph.forward

    torch._dynamo.reset()
    try:
        with torch.no_grad(), quiet_exporter():
            torch.compile(model, backend=look)(*args, **kwargs)
    finally:
        torch._dynamo.reset()
    name = type(model).__name__ if isinstance(model, torch.nn.Module) else getattr(model, "__name__", "the function")
    return Explanation(name, tuple(found), tuple(breaks))


def _look(graph: torch.fx.GraphModule, examples: Sequence[Any]) -> Graph:
    operators = sum(node.op.startswith("call_") for node in graph.graph.nodes)
    try:
        job = Job(PieceSource(piece_of(graph, examples), examples, "a graph"), CompileOptions())
        run_stages(job, stop_after="plan")
    except GraphfuseError as error:
        return Graph(operators, {}, reason_of(error))
    except Exception as error:  # whatever torch raises for a graph that it cannot export
        return Graph(operators, {}, describe(error))
    return Graph(len(job.ledger.names), account_of(job.ledger).to_dict()["summary"])


def _break(reason: Any) -> Break:
    text = str(reason.reason)
    frame = reason.user_stack[-1] if reason.user_stack else None
    place = (frame.filename, frame.lineno or 0, one_line(frame.line or "", 120)) if frame is not None else ("", 0, "")
    known = next(((why, rewrite) for pattern, why, rewrite in _REASONS if re.search(pattern, text)), None)
    if known is None:
        hint = re.search(r"Hint: (.*)", text)
        explanation = re.search(r"Explanation: (.*)", text)
        why = explanation[1] if explanation else text.splitlines()[0]
        known = one_line(why, 200), one_line(hint[1], 200) if hint else "keep this out of forward"
    file, line, what = place
    return Break(file, line, what, *known)
