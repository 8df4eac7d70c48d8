"""make fuzz ARGS="--models N --seconds S --seed K": batches of models, each in a process of its own, then shrinking."""

from __future__ import annotations

import argparse
import multiprocessing
import os
import sys
import time
import warnings
from multiprocessing.connection import Connection, wait
from pathlib import Path

from codegen import redzones
from fuzz.models import draw
from fuzz.running import Build, Failure, Tally, check_batch, runs_of, ways
from fuzz.shrink import Case, complaint, shrink

BATCH = 50
# By the number of the batch: mostly what compiles fastest.
BUILDS = (
    Build(),
    Build("x86_64"),
    Build(),
    Build(flags=("-O3",)),
    Build("haswell"),
    Build(),
    Build("x86_64", ("-O3",)),
)
MOST_SHRUNK = 20
_END = "\r" if sys.stderr.isatty() else "\n"


def build_of(seed: int, sanitize: bool = False) -> Build:
    """How the batch of a seed is compiled."""
    build = BUILDS[seed // BATCH % len(BUILDS)]
    return Build(build.cpu, redzones.FLAGS) if sanitize else build


def under_the_sanitizer() -> None:
    """Start again with the address sanitizer loaded ahead of everything: a library that is loaded needs it there."""
    if redzones.is_sanitized():
        return
    os.execve(sys.executable, [sys.executable, "-m", "fuzz", *sys.argv[1:]], redzones.environment())


def main() -> int:
    parser = argparse.ArgumentParser(prog="fuzz", description=__doc__)
    parser.add_argument("--models", type=int, default=1000, help="how many models to draw")
    parser.add_argument("--seconds", type=float, default=0, help="stop after this time (default: never)")
    parser.add_argument("--seed", type=int, default=0, help="the first model; each has a seed of its own")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="processes at a time")
    parser.add_argument("--sanitize", action="store_true", help="under the address and undefined-behaviour sanitizers")
    parser.add_argument("--output", type=Path, default=Path("build/fuzz"), help="where failing models are written")
    parser.add_argument("--no-shrink", action="store_true", help="only report")
    chosen = parser.parse_args()
    if chosen.sanitize:
        under_the_sanitizer()
    started = time.monotonic()
    tally, done = campaign(chosen.seed, chosen.models, chosen.jobs, chosen.seconds, chosen.sanitize)
    report(tally, done, time.monotonic() - started)
    if not chosen.no_shrink:
        for failure in one_for_each_seed(tally.failures)[:MOST_SHRUNK]:
            in_a_process(_shrink, failure, chosen.output, chosen.sanitize)
    return 1 if tally.failures else 0


def campaign(first: int, models: int, jobs: int, seconds: float, sanitize: bool) -> tuple[Tally, int]:
    """All batches; a process that dies is tried again in halves. The tally, and how many models ran."""
    total, done = Tally(), 0
    waiting = [range(k, min(k + BATCH, first + models)) for k in range(first, first + models, BATCH)][::-1]
    running: dict[Connection, tuple[range, multiprocessing.Process]] = {}
    end = time.monotonic() + seconds if seconds else float("inf")
    while running or (waiting and time.monotonic() < end):
        while waiting and len(running) < jobs and time.monotonic() < end:
            seeds = waiting.pop()
            receiver, sender = multiprocessing.Pipe(duplex=False)
            process = multiprocessing.Process(target=_batch, args=(seeds, sanitize, sender))
            process.start()
            sender.close()
            running[receiver] = seeds, process
        for receiver in wait(list(running)):
            seeds, process = running.pop(receiver)
            try:
                total.add(_told(receiver.recv()))
                done += len(seeds)
            except EOFError:
                process.join()
                half = len(seeds) // 2
                waiting += [seeds[half:], seeds[:half]] if half else []
                if not half:
                    text = f"exit code {process.exitcode} {redzones.report(process.pid)}"
                    total.add(_told(Tally(failures=[Failure(seeds[0], "default", "died", text)])))
                    done += 1
            process.join()
            redzones.report(process.pid)
            print(f"{done} models, {len(total.failures)} failures", file=sys.stderr, end=_END, flush=True)
    print(file=sys.stderr)
    return total, done


def _told(tally: Tally) -> Tally:
    """A batch's tally, its failures printed at once: a campaign that is cut off has told what it found."""
    for failure in tally.failures:
        print(line(failure), flush=True)
    return tally


def _batch(seeds: range, sanitize: bool, sender: Connection) -> None:
    warnings.simplefilter("ignore")
    if sanitize:
        redzones.keep_report()
    sender.send(check_batch([draw(seed) for seed in seeds], build_of(seeds[0], sanitize)))


def report(tally: Tally, done: int, seconds: float) -> None:
    """What became of the models."""
    print(f"{done} models in {seconds:.0f} s, {done / max(seconds, 1e-9):.1f} a second")
    for word, count in sorted(tally.counts.items()):
        print(f"{count:8} {word}")
    for f in sorted(tally.failures, key=lambda f: (f.kind, f.text[:40], f.seed)):
        print(line(f))


def line(f: Failure) -> str:
    """A failure in a few words."""
    return f"seed {f.seed} ({f.way}): {f.kind} {f.text[:300]}"


def one_for_each_seed(failures: list[Failure]) -> list[Failure]:
    return list({f.seed: f for f in reversed(failures)}.values())[::-1]


def in_a_process(target: object, *args: object) -> None:
    """A call that may kill its process."""
    process = multiprocessing.Process(target=target, args=args)  # type: ignore[arg-type]
    process.start()
    process.join()
    if process.exitcode:
        print(f"shrinking {args[0]} ended with exit code {process.exitcode}")


def _shrink(failure: Failure, output: Path, sanitize: bool) -> None:
    warnings.simplefilter("ignore")
    drawn, build = draw(failure.seed), build_of(failure.seed, sanitize)
    for name, inputs in runs_of(drawn).items():
        case = Case(drawn.model, inputs)
        case.save(output, f"{failure.seed}")
        # A process that died left no word of the way.
        for way in ways() if failure.kind == "died" else [failure.way]:
            if complaint(case, way, build):
                small, what = shrink(case, way, build)
                path = small.save(output, f"{failure.seed}-small")
                print(f"\nseed {failure.seed}, {way}, {name}: {what[:500]}\n{small.text()[:2000]}{path}")
                return
    print(f"\nseed {failure.seed}, {failure.way}: right when compiled alone")


if __name__ == "__main__":
    sys.exit(main())
