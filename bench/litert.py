"""Time TFLite models against LiteRT with XNNPACK, both from Python, in turns.

python bench/litert.py --threads 2 --json build/bench/litert.json
python bench/litert.py my_model.tflite
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import models
import numpy as np
from ai_edge_litert.interpreter import Interpreter

from graphfuse.bench.timing import turn
from graphfuse.compiler import compile_model
from graphfuse.options import CompileOptions

NAMES = ("hand_landmark_lite", "okay_nabu", "basic-pitch.tflite")
SECONDS, ROUNDS = 8.0, 40
WAYS = ("run", "bound", "litert")


def compare(path: Path, chosen: argparse.Namespace) -> dict[str, Any]:
    """Times of a call in milliseconds: `Session.run`, a bound call, and LiteRT with its inputs set and outputs read."""
    with tempfile.TemporaryDirectory() as folder:
        compiled = compile_model(path, Path(folder) / "model.gf", CompileOptions())
        session = compiled.session(threads=chosen.threads)
        peer = Interpreter(str(path), num_threads=chosen.threads)
        peer.allocate_tensors()
        feeds = [_values(detail) for detail in peer.get_input_details()]
        inputs = {port.name: x for port, x in zip(session.get_inputs(), feeds, strict=True)}
        calls = (lambda: session.run(None, inputs), session.bind(inputs), _litert(peer, feeds))
        times: list[list[float]] = [[] for _ in calls]
        for k in range(chosen.rounds):
            for which in range(3) if k % 2 else (2, 1, 0):
                times[which] += turn(calls[which], chosen.seconds / chosen.rounds / 3)
    row: dict[str, Any] = {"model": path.name, "threads": chosen.threads}
    for way, found in zip(WAYS, times, strict=True):
        row |= {f"{way}_best_ms": min(found) * 1e3, f"{way}_median_ms": statistics.median(found) * 1e3}
    return row


def _values(detail: dict[str, Any]) -> np.ndarray[Any, Any]:
    rng, dtype = np.random.default_rng(0), np.dtype(detail["dtype"])
    if dtype.kind == "f":
        return rng.uniform(0, 1, detail["shape"]).astype(dtype)
    bounds = np.iinfo(dtype)
    return rng.integers(bounds.min, bounds.max, detail["shape"], dtype, endpoint=True)


def _litert(peer: Interpreter, feeds: list[np.ndarray[Any, Any]]) -> Callable[[], object]:
    places = [detail["index"] for detail in peer.get_input_details()]
    results = [detail["index"] for detail in peer.get_output_details()]

    def call() -> object:
        for place, x in zip(places, feeds, strict=True):
            peer.set_tensor(place, x)
        peer.invoke()
        return [peer.get_tensor(k) for k in results]

    return call


def line(row: dict[str, Any]) -> str:
    times = "  ".join(f"{way} {row[f'{way}_best_ms']:.4f} / {row[f'{way}_median_ms']:.4f}" for way in WAYS)
    faster = row["litert_best_ms"] / row["run_best_ms"], row["litert_median_ms"] / row["run_median_ms"]
    return f"{row['model']:34} {times} ms  run is faster x{faster[0]:.2f} best, x{faster[1]:.2f} median"


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("files", nargs="*", type=Path, help=f"TFLite files; when left out: {', '.join(NAMES)}")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=SECONDS, help="for a model, all ways together")
    parser.add_argument("--rounds", type=int, default=ROUNDS, help="that the seconds are spread over")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the rows here")
    chosen = parser.parse_args()
    rows = []
    for path in chosen.files or map(models.real_models.fetch, NAMES):
        rows.append(compare(path, chosen))
        print(line(rows[-1]), file=sys.stderr, flush=True)
    if chosen.json:
        chosen.json.parent.mkdir(parents=True, exist_ok=True)
        chosen.json.write_text(json.dumps(rows, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
