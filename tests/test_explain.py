"""The account of a compilation: complete, readable at any width, and nothing in it that the ledger does not hold."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
from rich.console import Console

from graphfuse.account import account_of, render, render_fusion
from graphfuse.account.names import amount, patterns, plural
from graphfuse.compiler import Job, run_stages
from graphfuse.demo import MODEL
from graphfuse.ledger import EdgeRecord, Ledger
from graphfuse.options import CompileOptions


def text(ledger: Ledger, width: int = 100, full: bool = False) -> str:
    buffer = io.StringIO()
    console = Console(file=buffer, width=width, markup=False, emoji=False, highlight=False)
    console.print(render(ledger, "m.onnx", full=full))
    return "\n".join(line.rstrip() for line in buffer.getvalue().splitlines())


def words(shown: str) -> str:
    """The text without its line breaks, so that what was folded can be found."""
    return "".join(shown.split())


@pytest.fixture
def ledger() -> Ledger:
    """Two blocks of conv + batch norm + relu, a reshape that is a view, a dropout, an add by itself, a copy."""
    made = Ledger()
    for k in (0, 1):
        made.register(f"/b.{k}/conv", "Conv")
        made.register(f"/b.{k}/bn", "BatchNormalization")
        made.register(f"/b.{k}/relu", "Relu")
    for name, op in (("/drop", "Dropout"), ("/flat", "Reshape"), ("/add", "Add")):
        made.register(name, op)
    for k in (0, 1):
        made.settle([f"/b.{k}/bn"], "folded", into=f"/b.{k}/conv", by="fold_batch_norm", reason="into its weights")
        made.settle([f"/b.{k}/conv", f"/b.{k}/relu"], "fused", into=f"R{k}", by="fuse")
    made.settle(["/drop"], "removed", by="eliminate_dropout", reason="inference")
    made.settle(["/flat"], "fused", into="R2", by="plan", reason="other strides over the same memory, no copy")
    made.settle(["/add"], "alone", into="R2", by="fuse", reason="no neighbour computes over the same space")
    made.note("plan", "R0", "gemm 14x32 tiles, packed weights: gf_gemm_1")
    made.note("plan", "R1", "gemm 6x64 tiles, packed weights: gf_gemm_2")
    made.note("plan", "copy for /flat", "rows, 1 pass: gf_rows_3")
    made.note("plan", "R2", "rows, 1 pass: gf_rows_3")
    made.note("import", "x", "a note of another stage")
    for k, size in ((0, 5000), (1, 2_000_000)):
        made.edges.append(
            EdgeRecord(
                f"/b.{k}/relu",
                f"/b.{k + 1}/conv" if k == 0 else "/add",
                "v",
                "the shapes differ",
                "[1] -> [2]",
                "pad it",
                size,
            )
        )
    made.miss("fold_batch_norm", "/b.0/bn", "the result of /b.0/conv is also used by /b.0/relu")
    made.miss("fold_batch_norm", "/b.1/bn", "the result of /b.1/conv is also used by /b.1/relu")
    return made


def test_the_summary_counts_every_node_once(ledger: Ledger) -> None:
    account = account_of(ledger)
    assert account.fates == {"folded": 2, "removed": 1, "fused": 5, "alone": 1}
    assert sum(account.fates.values()) == len(ledger.names)
    assert [node.name for node in account.views] == ["/flat"]
    assert (len(account.kernels), account.functions, account.missed_bytes) == (4, 3, 2_005_000)


def test_kernels_hold_the_users_nodes_and_what_was_folded_into_them(ledger: Ledger) -> None:
    first, _, copy, last = account_of(ledger).kernels
    assert [node.name for node in first.nodes] == ["/b.0/conv", "/b.0/relu"]
    assert [node.name for node in first.folded] == ["/b.0/bn"]
    assert (first.how, first.kind, first.function) == ("gemm 14x32 tiles, packed weights", "gemm", "gf_gemm_1")
    assert (copy.name, copy.nodes) == ("copy for /flat", ())
    assert [node.name for node in last.nodes] == ["/add"], "a view computes nothing"


def test_a_chain_of_folds_ends_in_the_node_that_computes() -> None:
    ledger = Ledger()
    for name in ("conv", "mul", "bn"):
        ledger.register(name, name)
    ledger.settle(["bn"], "folded", into="mul", by="a")
    ledger.settle(["mul"], "folded", into="conv", by="b")
    ledger.settle(["conv"], "alone", into="R0", by="fuse")
    ledger.note("plan", "R0", "gemm: f")
    assert [node.name for node in account_of(ledger).kernels[0].folded] == ["mul", "bn"]


def test_repeated_kernels_are_told_once(ledger: Ledger) -> None:
    shown = text(ledger)
    assert "    2×  Conv + (BatchNormalization) + Relu  gemm\n        /b.*/conv\n" in shown
    assert "m.onnx  9 nodes, 4 kernel calls" in shown
    assert "copy for /flat  rows" in shown


def test_misses_name_reason_remedy_and_bytes_the_costliest_first(ledger: Ledger) -> None:
    shown = text(ledger)
    section = shown[shown.index("Not fused") :]
    assert section.startswith("Not fused: 2 edges, 2 MB per run through memory\n")
    assert section.index("Relu → Add") < section.index("Relu → Conv")
    for part in ("2 MB", "5 kB", "the shapes differ: [1] -> [2]", "pad it", "/b.1/relu → /add"):
        assert part in section


def test_near_misses_of_a_rule_are_told_once_with_a_count(ledger: Ledger) -> None:
    shown = text(ledger)
    section = shown[shown.index("Rules that nearly applied") :]
    assert "2×  fold_batch_norm  /b.*/bn" in section
    assert "for example, the result of /b.0/conv is also used by /b.0/relu" in section
    assert "/b.1/conv" not in section


@pytest.mark.parametrize("width", [30, 80, 120])
def test_all_tells_every_node_whatever_the_width(ledger: Ledger, width: int) -> None:
    shown = words(text(ledger, width, full=True))
    for record in ledger.nodes:
        assert words(record.name) in shown
        assert words(record.reason) in shown
    for edge in ledger.edges:
        assert words(f"{edge.producer} → {edge.consumer}") in shown


@pytest.mark.parametrize("width", [30, 80, 120])
def test_no_line_is_wider_than_the_terminal(ledger: Ledger, width: int) -> None:
    assert max(map(len, text(ledger, width, full=True).splitlines())) <= width


def test_names_cannot_write_to_the_terminal() -> None:
    ledger = Ledger()
    ledger.register("[red]evil\x1b[2J\nname", "Relu")
    ledger.settle(ledger.names, "alone", into="R0", by="fuse", reason="\x1b]0;title\x07")
    ledger.note("plan", "R0", "rows\x1b[31m: f")
    ledger.miss("rule", "[red]evil\x1b[2J\nname", "because \x1b[2J")
    for full in (False, True):
        shown = text(ledger, full=full)
        assert "\x1b" not in shown
        assert "\x07" not in shown
        assert "[red]evil\\x1b[2J name" in shown, "shown as it is, not taken for markup"


def test_an_empty_account_has_no_empty_sections() -> None:
    shown = text(Ledger())
    assert "Not fused" not in shown
    assert "nearly" not in shown


def test_json_holds_the_summary_the_kernels_and_the_ledger(ledger: Ledger) -> None:
    data = json.loads(json.dumps(account_of(ledger).to_dict()))
    assert data["summary"] == {
        "nodes": 9, "folded": 2, "removed": 1, "fused": 5, "alone": 1, "views": 1,
        "kernel_calls": 4, "different_kernels": 3, "missed_edges": 2, "missed_bytes": 2_005_000,
    }  # fmt: skip
    assert data["kernels"][0]["folded"] == ["/b.0/bn"]
    assert Ledger.from_json(json.dumps(data["ledger"])).to_json() == ledger.to_json()


def test_a_compiled_model_is_told_completely() -> None:
    ledger = run_stages(Job(Path(MODEL), CompileOptions()), stop_after="plan").ledger
    account = account_of(ledger)
    computed = [node.name for kernel in account.kernels for node in kernel.nodes]
    assert len(computed) == len(set(computed)), "a node is in one kernel only"
    folded = [node.name for kernel in account.kernels for node in kernel.folded]
    others = [node.name for node in ledger.nodes if node.fate in ("removed", "folded") and node.name not in folded]
    views = [node.name for node in account.views]
    copies = [node.name for node in ledger.nodes if node.fate == "alone" and node.by == "plan"]
    assert sorted(computed + folded + others + views + copies) == sorted(ledger.names)
    assert "BatchNormalization" in {node.op_type for kernel in account.kernels for node in kernel.folded}
    shown = words(text(ledger, full=True))
    assert all(words(name) in shown for name in ledger.names)


def test_the_first_part_alone_has_no_misses(ledger: Ledger) -> None:
    buffer = io.StringIO()
    Console(file=buffer, width=80).print(render_fusion(ledger, "m.onnx"))
    assert "Conv" in buffer.getvalue()
    assert "Not fused" not in buffer.getvalue()


@pytest.mark.parametrize(
    "names, expected",
    [
        (["/a/b"], "/a/b"),
        (["/b.0/conv", "/b.1/conv"], "/b.*/conv"),
        (["/b.0/conv1", "/b.1/conv1"], "/b.*/conv1"),
        (["x", "y", "z1", "z2"], "x, y and 1 more"),
        (["", ""], ""),
    ],
)
def test_patterns(names: list[str], expected: str) -> None:
    assert patterns(names) == expected


@pytest.mark.parametrize(
    "count, expected",
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1 kB"),
        (1.5e6, "1.5 MB"),
        (999.6e6, "1000 MB"),
        (2.345e9, "2.35 GB"),
        (12e12, "12000 GB"),
    ],
)
def test_amounts(count: float, expected: str) -> None:
    assert amount(count) == expected


def test_plurals() -> None:
    assert [plural(k, "node") for k in (0, 1, 2)] == ["0 nodes", "1 node", "2 nodes"]
