"""Figures, tables, JSON and picture of the comparison, on made-up times."""

from __future__ import annotations

import io
import json
import math
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from graphfuse.bench.picture import picture
from graphfuse.bench.record import Case, Cell, Report, geometric_mean, load_report, merged
from graphfuse.bench.reference import distance
from graphfuse.bench.table import tables
from graphfuse.errors import InputError


def cell(runtime: str, threads: int, best: float | None, **more: object) -> Cell:
    found = Cell(runtime, threads, **more)  # type: ignore[arg-type]
    if best is not None:
        found.take_times([[best / 1e3, 2 * best / 1e3], [1.5 * best / 1e3]])
    return found


def report() -> Report:
    """Two models; of the second, the bf16 peer is fastest and does not count, and one peer is wrong."""
    first = Case("first", cells=[
        cell("graphfuse", 2, 1.0, digest="a", stable=True, error=1e-6, error_rms=2e-7),
        cell("onnxruntime", 2, 3.0, error=1e-6, error_rms=1e-7),
        cell("openvino", 2, 2.0),
        cell("graphfuse", 1, 1.0, digest="a", stable=True),
    ])  # fmt: skip
    second = Case("second <&>", cells=[
        cell("graphfuse", 2, 4.0, digest="a", stable=True),
        cell("openvino_bf16", 2, 0.5),
        cell("onnxruntime", 2, 2.0),
        cell("ncnn", 2, None, status="wrong", reason="its output is off by 0.5"),
    ])  # fmt: skip
    eight = Case("first", 8, cells=[cell("graphfuse", 2, 1.0, digest="b"), cell("onnxruntime", 2, 9.0)])
    return Report("a machine", "x", seconds=1.0, rounds=2, cases=[first, second, eight])


def text_of(found: Report) -> str:
    buffer = io.StringIO()
    Console(file=buffer, width=240).print(tables(found))
    return buffer.getvalue()


def test_figures_of_a_cell() -> None:
    found = cell("ncnn", 1, 2.0)
    assert (found.best_ms, found.median_ms, found.calls) == (2.0, 3.0, 3)
    assert found.rounds_ms == [2.0, 3.0]


def test_the_ratio_is_to_the_best_peer_that_counts() -> None:
    first, second, eight = report().cases
    assert first.ratio(2) == pytest.approx(2.0)
    assert second.ratio(2) == pytest.approx(0.5)
    assert first.ratio(1) is None
    assert eight.ratio(2) == pytest.approx(9.0)
    assert first.error_ratio(2) == pytest.approx(2.0)
    assert report().mean(2) == (pytest.approx(1.0), 2), "batch 8 is not part of the mean"


def test_geometric_mean() -> None:
    assert geometric_mean([]) == (None, 0)
    assert geometric_mean([1.0, 4.0, 2.0]) == (pytest.approx(2.0), 3)


def test_bits_have_to_agree_on_all_threads_and_runs() -> None:
    first = report().cases[0]
    assert first.identical() is True
    first.cells[-1].digest = "other"
    assert first.identical() is False
    first.cells[-1].digest, first.cells[-1].stable = "a", False
    assert first.identical() is False
    assert Case("x", cells=[cell("ncnn", 1, 1.0, digest="a")]).identical() is None


def test_distances_are_shares_of_the_exact_result() -> None:
    exact = {"y": np.array([3.0, -4.0]), "z": np.array([1.0])}
    found = {"y": np.array([3.0, -4.4], np.float32), "z": np.array([1.0])}
    assert distance(found, exact) == (pytest.approx(0.1), pytest.approx(0.4 / 5))
    assert distance({**found, "y": found["y"][None]}, exact)[0] == pytest.approx(0.1), (
        "axes of one element may be dropped"
    )
    assert distance({**found, "y": np.zeros(3)}, exact)[0] == math.inf
    assert distance({**found, "y": np.array([math.nan, 1])}, exact)[0] == math.inf
    strange = np.array([math.nan, math.inf, 2.0])
    assert distance({"y": strange}, {"y": strange}) == (0.0, 0.0)
    assert distance({"y": -strange}, {"y": strange})[0] == math.inf
    assert distance({"y": np.zeros((0, 2))}, {"y": np.zeros((0, 2))}) == (0.0, 0.0)


def test_json_comes_back(tmp_path: Path) -> None:
    found = report()
    found.cases[0].cells[0].error = math.inf
    found.save(tmp_path / "r.json")
    data = json.loads((tmp_path / "r.json").read_text())
    assert data["summary"]["2"] == {"geometric_mean": pytest.approx(1.0), "rows": 2}
    assert data["cases"][0]["rows"]["2"] == {
        "best_peer": "openvino", "ratio": pytest.approx(2.0), "error_ratio": pytest.approx(2.0),
    }  # fmt: skip
    again = load_report(tmp_path / "r.json")
    found.cases[0].cells[0].error = None
    assert again == found


@pytest.mark.parametrize(
    "text", ["", "[]", '{"format": "another"}', '{"format": "graphfuse bench", "format_version": 9}']
)
def test_another_file_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "r.json").write_text(text)
    with pytest.raises(InputError, match="no result of the bench"):
        load_report(tmp_path / "r.json")


def test_a_later_row_takes_the_place_of_an_earlier_one() -> None:
    old, new = report(), report()
    new.cases = [Case("first", compile_s=3.0, cells=[cell("graphfuse", 2, 0.5), cell("ncnn", 2, 4.0)])]
    both = merged([old, new])
    assert [case.name for case in both.cases] == ["first", "second <&>", "first x8"]
    first = both.cases[0]
    assert set(first.row(2)) == {"graphfuse", "ncnn"}
    assert first.ratio(2) == pytest.approx(8.0)
    assert set(first.row(1)) == {"graphfuse"}
    assert first.compile_s == 3.0
    assert old.cases[0].ratio(2) == pytest.approx(2.0)


def test_tables_hold_times_ratios_and_reasons() -> None:
    shown = text_of(report())
    lines = shown.splitlines()
    [row] = [line for line in lines if line.startswith("second") and "0.500" in line]
    assert row.split()[-3:] == ["0.50", "0.500", "0.750"], "the ratio, then peers that do not count"
    assert "4.000 6.000" in row
    assert "wrong" in row
    assert "geometric mean of 2 ratios at batch 1: 1.000" in shown
    assert "second <&>, ncnn: wrong: its output is off by 0.5 (2 threads)" in shown
    assert "the same bits on 1 and 2 threads and from run to run: 3 of 3 models" in shown
    assert "nothing was measured" in text_of(Report())


def test_a_missing_package_is_one_line() -> None:
    gone = [cell("ncnn", threads, None, status="missing", reason="No module named 'ncnn'") for threads in (1, 2)]
    shown = text_of(Report(cases=[Case("a", cells=gone), Case("b", cells=gone)]))
    assert shown.count("ncnn is not installed: pip install ncnn pnnx") == 1
    assert "No module" not in shown


def test_rows_of_a_busy_machine_are_named() -> None:
    assert "not quiet" in text_of(report()), "the made-up medians are half above the best"
    quiet = Report(cases=[Case("a", cells=[cell("graphfuse", 1, 1.0), cell("ncnn", 1, 1.0)])])
    for each in quiet.cases[0].cells:
        each.median_ms = 1.1
    assert "not quiet" not in text_of(quiet)
    quiet.cases[0].cells[0].median_ms = quiet.cases[0].cells[1].median_ms = 1.7
    assert "far above the best times: a (1)" in text_of(quiet)


def test_the_cost_of_a_call_is_told_on_the_smallest_model() -> None:
    found = Report(cases=[Case("mlp", cells=[cell("graphfuse", 1, 0.0021), cell("ncnn", 1, 0.005)])])
    assert "three linear layers, 1 thread: graphfuse 2.1, ncnn 5.0" in text_of(found)


# ---------------------------------------------------------------- the picture

SVG = "{http://www.w3.org/2000/svg}"


def test_bars_are_as_long_as_the_logarithm_of_the_ratio() -> None:
    root = ElementTree.fromstring(picture(report(), 2))
    bars = {
        title.text: bar
        for bar in root.iter(f"{SVG}rect")
        if (title := bar.find(f"{SVG}title")) is not None and title.text
    }
    assert list(bars) == [
        "first, onnxruntime: 3.00", "first, openvino: 2.00",
        "second <&>, onnxruntime: 0.50", "second <&>, openvino bf16: 0.12",
        "first x8, onnxruntime: 9.00",
    ]  # fmt: skip
    width = {name: float(bar.attrib["width"]) for name, bar in bars.items()}
    octave = width["first, openvino: 2.00"]
    assert width["first, onnxruntime: 3.00"] == pytest.approx(octave * math.log2(3), abs=0.2)
    assert width["second <&>, onnxruntime: 0.50"] == pytest.approx(octave, abs=0.2)
    assert width["second <&>, openvino bf16: 0.12"] == pytest.approx(3 * octave, abs=0.2)
    one = float(bars["first, openvino: 2.00"].attrib["x"])
    slower = bars["second <&>, onnxruntime: 0.50"]
    assert float(slower.attrib["x"]) + float(slower.attrib["width"]) == pytest.approx(one, abs=0.2)


def test_the_picture_says_what_it_shows_and_fits_dark_pages() -> None:
    text = picture(report(), 2)
    root = ElementTree.fromstring(text)
    words = [each.text for each in root.iter(f"{SVG}text")]
    assert "Time of other runtimes over graphfuse's, 2 threads" in words
    assert "second <&>" in words
    assert {"1/8", "1/2", "1", "2", "16"} <= set(words)
    assert "prefers-color-scheme: dark" in text
    assert ElementTree.fromstring(picture(Report())).tag == f"{SVG}svg"
