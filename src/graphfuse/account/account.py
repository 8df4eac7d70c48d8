"""The ledger put in the order in which a reader asks: how many, what runs together, what does not and why."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Hashable, Iterable
from dataclasses import dataclass, field
from typing import Any, TypeVar

from graphfuse.account.memory import memory_of
from graphfuse.ledger import FATES, EdgeRecord, Ledger, MissRecord, NodeRecord

T = TypeVar("T")

_VIEWS_BY = "plan"  # who settles the nodes that are only other strides over memory
_FOLDED = "folded"
_WORDS = re.compile(r"[A-Za-z-]+(?: [A-Za-z-]+)*(?![^\s,])")  # up to the first that holds a number


@dataclass(frozen=True)
class Kernel:
    """One kernel call: a region, or a copy that a region needs.

    nodes: the user's nodes that it computes; folded: those that went into its constants; how: the kernel in words;
    function: its name in model.c. Identical calls share a function.
    """

    name: str
    nodes: tuple[NodeRecord, ...]
    folded: tuple[NodeRecord, ...]
    how: str
    function: str

    @property
    def kind(self) -> str:
        """How without its details: "gemm" for "gemm 14x32 tiles, packed weights"."""
        words = _WORDS.match(self.how)
        return words[0] if words else self.how

    @property
    def members(self) -> tuple[NodeRecord, ...]:
        """All of the user's nodes that it stands for."""
        return self.nodes + self.folded


@dataclass(frozen=True)
class Account:
    """A model's ledger as its reader wants it. kernels are in order of execution; everything else in file order."""

    ledger: Ledger
    kernels: tuple[Kernel, ...]
    fates: dict[str, int]
    views: tuple[NodeRecord, ...] = field(default=())

    @property
    def functions(self) -> int:
        """Different kernels: calls of the same code count once."""
        return len({kernel.function for kernel in self.kernels})

    @property
    def missed_bytes(self) -> int:
        """Memory traffic per run between kernels that fusing would have saved."""
        return sum(edge.bytes for edge in self.ledger.edges)

    def to_dict(self) -> dict[str, Any]:
        """The whole account for machines: the summary, the kernels, and the ledger as it is stored."""
        kernels = [
            {
                "name": kernel.name,
                "nodes": [node.name for node in kernel.nodes],
                "folded": [node.name for node in kernel.folded],
                "how": kernel.how,
                "function": kernel.function,
            }
            for kernel in self.kernels
        ]
        summary = {
            "nodes": len(self.ledger.names),
            **self.fates,
            "views": len(self.views),
            "kernel_calls": len(self.kernels),
            "different_kernels": self.functions,
            "missed_edges": len(self.ledger.edges),
            "missed_bytes": self.missed_bytes,
        }
        memory = memory_of(self.ledger)
        return {
            "summary": summary,
            "memory": None if memory is None else memory.to_dict(),
            "kernels": kernels,
            "ledger": json.loads(self.ledger.to_json()),
        }


def account_of(ledger: Ledger) -> Account:
    """The account that a complete ledger holds."""
    members: dict[str, list[NodeRecord]] = {}
    for node in ledger.nodes:
        if node.into and node.fate != _FOLDED and node.by != _VIEWS_BY:
            members.setdefault(node.into, []).append(node)
    folded: dict[str, list[NodeRecord]] = {}
    for node in ledger.nodes:
        if node.fate == _FOLDED and node.into:
            folded.setdefault(_carrier(ledger, node), []).append(node)
    kernels = []
    for note in ledger.notes:
        if note.stage != "plan":
            continue
        how, _, function = note.text.rpartition(": ")
        nodes = tuple(members.get(note.subject, ()))
        inside = tuple(f for node in nodes for f in folded.get(node.name, ()))
        kernels.append(Kernel(note.subject, nodes, inside, how, function))
    fates = {fate: sum(node.fate == fate for node in ledger.nodes) for fate in FATES}
    views = tuple(node for node in ledger.nodes if node.by == _VIEWS_BY and node.fate == "fused")
    return Account(ledger, tuple(kernels), fates, views)


def _carrier(ledger: Ledger, node: NodeRecord) -> str:
    """The node that a chain of folds ends in."""
    into = node.into
    for _ in ledger.names:
        further = ledger.record(into)
        if further is None or further.fate != _FOLDED or not further.into:
            break
        into = further.into
    return into


# ---------------------------------------------------------------- what repeats, told once


def grouped(items: Iterable[T], key: Callable[[T], Hashable]) -> list[list[T]]:
    """The items of equal key together, in the order of their first."""
    groups: dict[Hashable, list[T]] = {}
    for item in items:
        groups.setdefault(key(item), []).append(item)
    return list(groups.values())


def kernel_groups(account: Account) -> list[list[Kernel]]:
    """Kernels that compute the same operators by the same kind of kernel."""
    order = {name: k for k, name in enumerate(account.ledger.names)}
    return grouped(account.kernels, lambda kernel: (chain(kernel, order), kernel.kind, bool(kernel.nodes)))


def edge_groups(ledger: Ledger) -> list[list[EdgeRecord]]:
    """Edges between the same operators refused for the same reason, the costliest first."""
    groups = grouped(
        ledger.edges, lambda e: (ledger_op(ledger, e.producer), ledger_op(ledger, e.consumer), e.condition)
    )
    return sorted(groups, key=lambda group: -sum(edge.bytes for edge in group))


def miss_groups(ledger: Ledger) -> list[list[MissRecord]]:
    """Near misses of the same rule for the same reason, numbers in the names it mentions aside."""
    return grouped(ledger.misses, lambda miss: (miss.rule, re.sub(r"\d+", "#", miss.reason)))


def chain(kernel: Kernel, order: dict[str, int]) -> tuple[tuple[str, bool], ...]:
    """The operators that a kernel stands for, in file order, each with whether it was folded into constants."""
    members = sorted(kernel.members, key=lambda node: order[node.name])
    return tuple((node.op_type, node.fate == _FOLDED) for node in members)


def ledger_op(ledger: Ledger, name: str) -> str:
    """The operator of a user's node; the name itself where a helper that a rewrite added is named."""
    known = ledger.record(name)
    return known.op_type if known is not None else name
