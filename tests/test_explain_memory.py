"""The memory of a plan as the ledger tells it: sums that can be checked by hand, names of the user's nodes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import zoo
from codegen.building import emitted, parse
from graphfuse.account import account_of
from graphfuse.account.memory import MemoryUse, in_short, memory_of, render_memory
from graphfuse.cli import main
from graphfuse.compiler import Job, compile_model, run_stages
from graphfuse.demo import MODEL as DEMO
from graphfuse.ledger import Ledger
from graphfuse.options import CompileOptions
from graphfuse.plan.footprint import note_memory
from graphfuse.plan.in_place import take_places
from ops.cases import inferred


def memory(text: str, together: bool = True) -> MemoryUse:
    plan = emitted(inferred(parse(text))).plan
    ledger = Ledger()
    note_memory(take_places(plan) if together else plan, ledger)
    found = memory_of(Ledger.from_json(ledger.to_json()))
    assert found is not None
    return found


def test_by_hand() -> None:
    text = """g (float[16, 100] x) => (float[16, 100] y) {
        [first] a = Softmax<axis = 0>(x) [second] b = Softmax<axis = 1>(a) [third] c = Softmax<axis = 0>(b)
        [last] y = Softmax<axis = 1>(c) }"""
    apart, together = memory(text, together=False), memory(text)
    assert (apart.arena, apart.apart, apart.peak) == (12800, 3 * 6400, 12800)
    assert sorted(apart.live) == [("first", 6400), ("second", 6400)]
    assert (together.arena, together.apart, together.peak) == (6400, 3 * 6400, 6400)
    assert together.live == (("first", 6400),)  # later it is the second's, and then the third's
    assert together.sizes is None


def test_open_sizes_are_told() -> None:
    found = memory("g (float[N, 100] x) => (float[N, 100] y) { a = Softmax<axis = 0>(x) y = Softmax<axis = 1>(a) }")
    assert found.sizes == {"N": 1}
    assert "N" in found.expression
    assert found.arena == 448
    assert "at N=1" in in_short(found)


def test_nothing_in_between() -> None:
    found = memory("g (float[4] x) => (float[4] y) { y = Relu(x) }")
    assert (found.arena, found.apart, found.peak, found.live, found.at) == (0, 0, 0, (), "")


@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v2"])
def test_networks(name: str) -> None:
    job = run_stages(Job(zoo.path(name), CompileOptions()), stop_after="emit")
    found = memory_of(job.ledger)
    assert found is not None
    assert found.peak <= found.arena <= 1.05 * found.peak
    assert found.arena < found.apart / 2
    assert sum(size for _, size in found.live) == found.peak
    assert {node for node, _ in found.live} <= set(job.ledger.names)
    assert found.weights == sum(a.nbytes for a in job.results["emit"].weights)


@pytest.mark.parametrize(
    "notes", [{}, {"arena": "x"}, {"arena": "1", "apart": "1", "peak": "1", "live": "{"}, {"arena": "1", "sizes": "[]"}]
)
def test_what_cannot_be_read_is_left_out(notes: dict[str, str]) -> None:
    ledger = Ledger()
    for subject, text in notes.items():
        ledger.note("memory", subject, text)
    assert memory_of(ledger) is None
    assert account_of(ledger).to_dict()["memory"] is None


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert not ended.value.code
    return capsys.readouterr().out


def flowing(text: str) -> str:
    """A text without the line breaks of a narrow terminal."""
    return " ".join(text.split())


def test_commands_tell(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    artifact = compile_model(DEMO, tmp_path / "demo.gf").artifact
    for given in (DEMO, artifact):
        text = flowing(run(capsys, "explain", str(given)))
        assert "without sharing" in text
        assert "in use at the same time" in text
        told = json.loads(run(capsys, "explain", str(given), "--json"))["memory"]
        assert told["arena"] >= told["peak"] > 0
        assert told["weights"] > 0
    assert "without sharing" in flowing(run(capsys, "compile", str(DEMO), "-o", str(tmp_path / "other.gf")))
    assert "without sharing" in flowing(run(capsys, "profile", str(DEMO), "--seconds", "0.05"))


def test_hostile_names() -> None:
    from rich.console import Console

    found = MemoryUse(1, 2, 3, "[red]", (("\x1b[31m\n[bold]", 5),), None, "\x07", {"\x1b": 1})
    console = Console(width=100, record=True, markup=False, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(render_memory(found, full=True))
    console.print(in_short(found), markup=False)
    text = console.export_text()
    assert "\x1b" not in text
    assert "\x07" not in text
