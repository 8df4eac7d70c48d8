"""Time graphfuse against its peers on the models of models.py: one table, a JSON file and a picture.

python bench/run.py --models resnet18,mlp --peers onnxruntime,openvino --quick
"""

from __future__ import annotations

import argparse
import signal
import sys
import tempfile
from contextlib import nullcontext
from pathlib import Path

from graphfuse.bench import peers
from graphfuse.bench.picture import picture
from graphfuse.bench.record import Report, here, load_report
from graphfuse.bench.suite import Settings, check_runtimes, measure
from graphfuse.bench.table import tables
from graphfuse.cli.console import console
from graphfuse.errors import GraphfuseError

OUTPUT = Path("build/bench/results.json")
QUICK_SECONDS, QUICK_ROUNDS = 0.5, 3
_WIDTH_WITHOUT_TERMINAL = 220


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    listed = {"type": lambda text: [part for part in text.split(",") if part], "metavar": "A,B,..."}
    parser.add_argument("--models", **listed, help="models to measure, by name; all when left out")
    parser.add_argument("--peers", **listed, help=f"runtimes to compare with: {', '.join(peers.names())}")
    parser.add_argument("--threads", **listed, help="numbers of threads; 1 and 2 when left out")
    parser.add_argument("--batch", type=int, help="only the rows of this batch")
    parser.add_argument("--seconds", type=float, default=3.0, help="of each runtime for a row")
    parser.add_argument("--rounds", type=int, default=10, help="that the seconds are spread over")
    parser.add_argument("--quick", action="store_true", help="short and rough, on the largest number of threads")
    parser.add_argument("--output", type=Path, default=OUTPUT, help=f"JSON file; {OUTPUT} when left out")
    parser.add_argument("--resume", action="store_true", help="keep the rows that the JSON file has")
    parser.add_argument("--show", action="store_true", help="measure nothing, show what the JSON file has")
    parser.add_argument("--folder", type=Path, help="keep conversions and compilations of peers here for the next run")
    return parser.parse_args()


def main() -> int:
    chosen = arguments()
    # Imported here: `--help` needs no test models.
    from models import specs

    if chosen.show:
        show(load_report(chosen.output))
        return 0
    everything = specs()
    names = list(dict.fromkeys(spec.model for spec in everything))
    if unknown := [name for name in chosen.models or [] if name not in names]:
        raise SystemExit(f"there is no model {unknown[0]!r}; choose from {', '.join(names)}")
    wanted = [
        spec for spec in everything if spec.model in (chosen.models or names) and chosen.batch in (None, spec.batch)
    ]
    threads = tuple(map(int, chosen.threads or (1, 2)))
    seconds, rounds = chosen.seconds, chosen.rounds
    if chosen.quick:
        seconds, rounds, threads = QUICK_SECONDS, QUICK_ROUNDS, (max(threads),)
    runtimes = check_runtimes(peers.names() if chosen.peers is None else chosen.peers)
    chosen.output.parent.mkdir(parents=True, exist_ok=True)
    report = load_report(chosen.output) if chosen.resume and chosen.output.exists() else here(seconds, rounds)
    interrupted = False
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with nullcontext(chosen.folder) if chosen.folder else tempfile.TemporaryDirectory() as folder:
        settings = Settings(Path(folder).resolve(), runtimes, threads, seconds, rounds)
        try:
            measure(wanted, settings, report, keep=lambda: report.save(chosen.output), progress=say)
        except KeyboardInterrupt:
            interrupted = True
    report.save(chosen.output)
    drawing = chosen.output.with_suffix(".svg")
    drawing.write_text(picture(report))
    show(report)
    say(f"written: {chosen.output}, {drawing}")
    return 130 if interrupted else 0


def show(report: Report) -> None:
    """The tables; as wide as they like where there is no terminal."""
    wide = console(sys.stdout)
    if not sys.stdout.isatty():
        wide.width = _WIDTH_WITHOUT_TERMINAL
    with wide.capture() as captured:
        wide.print(tables(report))
    sys.stdout.write("".join(f"{line.rstrip()}\n" for line in captured.get().splitlines()))


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    try:
        sys.exit(main())
    except GraphfuseError as error:
        sys.exit(f"bench: {error}")
