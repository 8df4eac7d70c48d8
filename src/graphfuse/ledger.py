"""The one account: what became of every node of the user's graph, of every edge between regions, and why.

Every stage writes here and nothing is decided that is not written here; `explain` only renders it. All names are the
user's own node names, given at import; regions have the names that the fuse stage gives them.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable
from typing import Any, Literal, get_args

from graphfuse.errors import InternalError

Fate = Literal["folded", "removed", "fused", "alone"]
FATES: tuple[str, ...] = get_args(Fate)
FORMAT = 1


@dataclasses.dataclass(frozen=True)
class NodeRecord:
    """The end of one node of the user's graph.

    fate: folded (its effect went into constants), removed (it had no effect, or was known at compile time), fused (it
    shares a kernel) or alone (a kernel of its own). into: the user's node it was folded into, or the region; by: the
    rule or stage that decided; reason: why, in words.
    """

    name: str
    op_type: str
    fate: Fate
    into: str = ""
    by: str = ""
    reason: str = ""


@dataclasses.dataclass(frozen=True)
class EdgeRecord:
    """One edge between regions: the first condition that failed, what failed it, and what the miss costs.

    bytes: memory traffic that fusing would have saved, per run, 0 when unknown; predicted_us: the same as time.
    """

    producer: str
    consumer: str
    value: str
    condition: str
    culprit: str = ""
    remedy: str = ""
    bytes: int = 0
    predicted_us: float = 0.0


@dataclasses.dataclass(frozen=True)
class MissRecord:
    """A rule that matched at a node but was refused by its check: the reason, and the value or node that caused it."""

    rule: str
    node: str
    reason: str
    culprit: str = ""


@dataclasses.dataclass(frozen=True)
class NoteRecord:
    """Anything else a stage decided that a user may ask about."""

    stage: str
    subject: str
    text: str


class Ledger:
    """The account of one compilation. Not thread-safe; one ledger for each model."""

    def __init__(self) -> None:
        self._op_types: dict[str, str] = {}
        self._nodes: dict[str, NodeRecord] = {}
        self.edges: list[EdgeRecord] = []
        self.misses: list[MissRecord] = []
        self.notes: list[NoteRecord] = []

    # -- the user's nodes ------------------------------------------------------------------------------------------

    def register(self, name: str, op_type: str) -> None:
        """Open the account of one node of the user's graph; names are unique.

        Raises InternalError when the name is already registered.
        """
        if name in self._op_types:
            raise InternalError("a node was registered twice", where=name)
        self._op_types[name] = op_type

    def settle(self, names: Iterable[str], fate: Fate, *, into: str = "", by: str = "", reason: str = "") -> None:
        """Close the account of these nodes: the same fate, target and reason for each.

        Raises InternalError for a name that is not the user's, or that has a fate already.
        """
        for name in tuple(names):
            self._settle(NodeRecord(name, self.op_type(name), fate, into, by, reason))

    def _settle(self, record: NodeRecord) -> None:
        if record.fate not in FATES:
            raise InternalError(f"there is no fate {record.fate!r}", where=record.name)
        first = self._nodes.get(record.name)
        if first is not None:
            why = f"{first.fate} by {first.by}, then {record.fate} by {record.by}"
            raise InternalError("a node was accounted for twice", where=record.name, why=why)
        self._nodes[record.name] = record

    def op_type(self, name: str) -> str:
        """The operator type of one of the user's nodes. Raises InternalError for an unknown name."""
        if name not in self._op_types:
            raise InternalError("a node was accounted for that is not in the user's graph", where=name)
        return self._op_types[name]

    def record(self, name: str) -> NodeRecord | None:
        """The record of a node, or None while it has no fate."""
        return self._nodes.get(name)

    @property
    def names(self) -> tuple[str, ...]:
        """All of the user's nodes, in file order."""
        return tuple(self._op_types)

    @property
    def nodes(self) -> tuple[NodeRecord, ...]:
        """The records made so far, in file order."""
        return tuple(self._nodes[name] for name in self._op_types if name in self._nodes)

    def missing(self) -> tuple[str, ...]:
        """The user's nodes that have no fate yet, in file order; empty when the account is complete."""
        return tuple(name for name in self._op_types if name not in self._nodes)

    # -- everything else -------------------------------------------------------------------------------------------

    def miss(self, rule: str, node: str, reason: str, culprit: str = "") -> None:
        """Record a rule's near miss; the same miss twice is kept once."""
        record = MissRecord(rule, node, reason, culprit)
        if record not in self.misses:
            self.misses.append(record)

    def note(self, stage: str, subject: str, text: str) -> None:
        """Record a decision that is neither a node's fate, an edge nor a miss; the same note twice is kept once."""
        record = NoteRecord(stage, subject, text)
        if record not in self.notes:
            self.notes.append(record)

    def to_json(self) -> str:
        """The whole account as JSON text; the same account gives the same bytes."""
        return json.dumps(
            {
                "format": FORMAT,
                "graph": [[name, op_type] for name, op_type in self._op_types.items()],
                "nodes": [dataclasses.asdict(record) for record in self.nodes],
                "edges": [dataclasses.asdict(record) for record in self.edges],
                "misses": [dataclasses.asdict(record) for record in self.misses],
                "notes": [dataclasses.asdict(record) for record in self.notes],
            },
            indent=1,
            ensure_ascii=False,
        )

    @classmethod
    def from_json(cls, text: str) -> Ledger:
        """Read what `to_json` wrote. Raises ValueError when the text is not such an account."""
        data: Any = json.loads(text)
        if not isinstance(data, dict) or data.get("format") != FORMAT:
            raise ValueError(f"not a ledger of format {FORMAT}")
        ledger = cls()
        try:
            for name, op_type in data["graph"]:
                ledger.register(name, op_type)
            for record in data["nodes"]:
                ledger._settle(NodeRecord(**record))
            ledger.edges = [EdgeRecord(**record) for record in data["edges"]]
            ledger.misses = [MissRecord(**record) for record in data["misses"]]
            ledger.notes = [NoteRecord(**record) for record in data["notes"]]
        except (KeyError, TypeError, InternalError) as error:
            raise ValueError(f"the ledger is damaged: {error}") from error
        return ledger
