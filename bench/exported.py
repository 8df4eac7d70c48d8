"""Time what `graphfuse export --to onnx` writes against the original, both in onnxruntime with its own optimisations.

python bench/exported.py --models resnet18,magika --json build/bench/exported.json
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

import onnxruntime
from models import Inputs, specs

from graphfuse.bench.timing import turn
from graphfuse.errors import GraphfuseError
from graphfuse.export.onnx import portable_model, write_portable
from graphfuse.options import CompileOptions

SECONDS, ROUNDS, NOISE = 4.0, 20, 1.03


def compare(name: str, inputs: Callable[[], Inputs], chosen: argparse.Namespace) -> dict[str, Any]:
    """Times of both files, in turns: milliseconds, and the original's time divided by the exported one's."""
    path, arrays = inputs()
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / "exported.onnx"
        try:
            write_portable(portable_model(path, CompileOptions(disabled_rules=tuple(chosen.disable))), output)
        except GraphfuseError as error:
            return {"model": name, "refused": str(error)}
        sessions = [_session(file, chosen.threads) for file in (path, output)]
        calls = [lambda s=s: s.run(None, arrays) for s in sessions]  # type: ignore[misc]
        times: list[list[float]] = [[], []]
        for k in range(chosen.rounds):
            for which in (0, 1) if k % 2 else (1, 0):
                times[which] += turn(calls[which], chosen.seconds / chosen.rounds / 2)
    best = [min(t) * 1e3 for t in times]
    median = [statistics.median(t) * 1e3 for t in times]
    return {
        "model": name,
        "original_best_ms": best[0],
        "exported_best_ms": best[1],
        "original_median_ms": median[0],
        "exported_median_ms": median[1],
        "faster_best": best[0] / best[1],
        "faster_median": median[0] / median[1],
        "slower": best[1] > best[0] * NOISE and median[1] > median[0] * NOISE,
    }


def _session(path: Path, threads: int) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = threads, 3
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def line(row: dict[str, Any]) -> str:
    if "refused" in row:
        return f"{row['model']:22} refused: {row['refused'].splitlines()[0]}"
    return (
        f"{row['model']:22} {row['original_best_ms']:9.3f} -> {row['exported_best_ms']:9.3f} ms best,"
        f" {row['original_median_ms']:9.3f} -> {row['exported_median_ms']:9.3f} median"
        f"  x{row['faster_best']:.3f} x{row['faster_median']:.3f}{'  SLOWER' if row['slower'] else ''}"
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--models", help="models to measure, by name, with commas; all when left out")
    parser.add_argument("--disable", action="append", default=[], metavar="RULE", help="leave out a rewrite rule")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=SECONDS, help="for a model, both files together")
    parser.add_argument("--rounds", type=int, default=ROUNDS, help="that the seconds are spread over")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the rows here")
    chosen = parser.parse_args()
    known = {spec.model: spec.load for spec in specs() if spec.batch == 1}
    names = chosen.models.split(",") if chosen.models else list(known)
    if unknown := [name for name in names if name not in known]:
        raise SystemExit(f"there is no model {unknown[0]!r}; choose from {', '.join(known)}")
    rows = []
    for name in names:
        rows.append(compare(name, known[name], chosen))
        print(line(rows[-1]), file=sys.stderr, flush=True)
    if chosen.json:
        chosen.json.write_text(json.dumps({"threads": chosen.threads, "rows": rows}, indent=1) + "\n")
    return int(any(row.get("slower", False) for row in rows))


if __name__ == "__main__":
    raise SystemExit(main())
