"""The account is exact: every node once, nothing unknown, the same bytes there and back."""

from __future__ import annotations

import json

import pytest

from graphfuse.errors import InternalError
from graphfuse.ledger import EdgeRecord, Ledger, MissRecord, NodeRecord


def opened() -> Ledger:
    ledger = Ledger()
    for name, op_type in (("conv1", "Conv"), ("bn1", "BatchNormalization"), ("relu1", "Relu")):
        ledger.register(name, op_type)
    return ledger


def test_missing_shrinks_to_nothing() -> None:
    ledger = opened()
    assert ledger.missing() == ("conv1", "bn1", "relu1")
    ledger.settle(["bn1"], "folded", into="conv1", by="fold_batch_norm", reason="part of the weights")
    assert ledger.missing() == ("conv1", "relu1")
    ledger.settle(["relu1", "conv1"], "fused", into="region_0", by="fuse")
    assert ledger.missing() == ()
    assert [record.name for record in ledger.nodes] == ["conv1", "bn1", "relu1"]
    expected = NodeRecord("bn1", "BatchNormalization", "folded", "conv1", "fold_batch_norm", "part of the weights")
    assert ledger.record("bn1") == expected


def test_no_node_twice() -> None:
    ledger = opened()
    ledger.settle(["conv1"], "alone", into="region_0", by="fuse")
    with pytest.raises(InternalError, match=r"conv1.*twice.*alone by fuse, then removed by x"):
        ledger.settle(["conv1"], "removed", by="x")
    with pytest.raises(InternalError, match="registered twice"):
        ledger.register("conv1", "Conv")


def test_no_unknown_node() -> None:
    with pytest.raises(InternalError, match="not in the user's graph"):
        opened().settle(["conv2"], "removed", by="x")


def test_no_unknown_fate() -> None:
    with pytest.raises(InternalError, match="no fate 'lost'"):
        opened().settle(["conv1"], "lost", by="x")  # type: ignore[arg-type]


def test_a_miss_is_kept_once() -> None:
    ledger = opened()
    for _ in range(2):
        ledger.miss("fold_batch_norm", "bn1", "conv1 is also an output", "c")
    assert ledger.misses == [MissRecord("fold_batch_norm", "bn1", "conv1 is also an output", "c")]


def test_json_there_and_back() -> None:
    ledger = opened()
    ledger.settle(["bn1"], "folded", into="conv1", by="fold_batch_norm", reason="größer \u2028 als \x00 'nichts'")
    edge = EdgeRecord("region_0", "region_1", "x", "too large", "conv1", "use a smaller image", 4096, 1.25)
    ledger.edges.append(edge)
    ledger.miss("fold_pad", "conv1", "crops")
    ledger.note("import", "x", "dimension 0 is called N")
    text = ledger.to_json()
    again = Ledger.from_json(text)
    assert again.to_json() == text
    assert again.missing() == ("conv1", "relu1")
    assert again.edges == [edge]


@pytest.mark.parametrize(
    "text",
    [
        "[]",
        '{"format": 99}',
        '{"format": 1}',
        json.dumps({"format": 1, "graph": [], "nodes": [{"name": "x"}], "edges": [], "misses": [], "notes": []}),
        json.dumps({"format": 1, "graph": [["x", "Relu"], ["x", "Relu"]], "nodes": [], "edges": [], "misses": []}),
    ],
)
def test_damaged_json_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="ledger"):
        Ledger.from_json(text)
