"""make fuzz ARGS="--models N --seconds S --seed K": batches of models, each in a process of its own, then shrinking."""

from __future__ import annotations

import argparse
import multiprocessing
import os
import subprocess
import sys
import time
import warnings
from multiprocessing.connection import Connection, wait
from pathlib import Path

from fuzz.models import draw
from fuzz.running import Build, Failure, Tally, check_batch, runs_of
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


SANITIZED = ("-O1", "-g1", "-fsanitize=address,undefined", "-fno-sanitize-recover=all")


def build_of(seed: int, sanitize: bool = False) -> Build:
    """How the batch of a seed is compiled."""
    build = BUILDS[seed // BATCH % len(BUILDS)]
    return Build(build.cpu, SANITIZED) if sanitize else build


def under_the_sanitizer() -> None:
    """Start again with the address sanitizer loaded ahead of everything: a library that is loaded needs it there."""
    if "libasan" in os.environ.get("LD_PRELOAD", ""):
        return
    # The references throw C++ exceptions, which the sanitizer asks to see the maker of.
    names = ("libasan.so", "libstdc++.so")
    found = [
        subprocess.run(["gcc", f"-print-file-name={n}"], capture_output=True, text=True).stdout.strip() for n in names
    ]
    environment = {**os.environ, "LD_PRELOAD": " ".join(found), "ASAN_OPTIONS": "detect_leaks=0"}
    os.execve(sys.executable, [sys.executable, "-m", "fuzz", *sys.argv[1:]], environment)


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
            in_a_process(_shrink, failure, chosen.output)
    return 1 if tally.failures else 0


def campaign(first: int, models: int, jobs: int, seconds: float, sanitize: bool) -> tuple[Tally, int]:
    """All batches; a process that dies is a failure of its models, each tried alone. The tally, and models run."""
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
                total.add(receiver.recv())
                done += len(seeds)
            except EOFError:
                waiting += [range(s, s + 1) for s in seeds] if len(seeds) > 1 else []
                if len(seeds) == 1:
                    process.join()
                    total.failures.append(Failure(seeds[0], "default", "died", f"exit code {process.exitcode}"))
                    done += 1
            process.join()
            print(f"\r{done} models, {len(total.failures)} failures", end="", file=sys.stderr, flush=True)
    print(file=sys.stderr)
    return total, done


def _batch(seeds: range, sanitize: bool, sender: Connection) -> None:
    warnings.simplefilter("ignore")
    sender.send(check_batch([draw(seed) for seed in seeds], build_of(seeds[0], sanitize)))


def report(tally: Tally, done: int, seconds: float) -> None:
    """What became of the models."""
    print(f"{done} models in {seconds:.0f} s, {done / max(seconds, 1e-9):.1f} a second")
    for word, count in sorted(tally.counts.items()):
        print(f"{count:8} {word}")
    for f in sorted(tally.failures, key=lambda f: (f.kind, f.text[:40], f.seed)):
        print(f"seed {f.seed} ({f.way}): {f.kind} {f.text[:300]}")


def one_for_each_seed(failures: list[Failure]) -> list[Failure]:
    return list({f.seed: f for f in reversed(failures)}.values())[::-1]


def in_a_process(target: object, *args: object) -> None:
    """A call that may kill its process."""
    process = multiprocessing.Process(target=target, args=args)  # type: ignore[arg-type]
    process.start()
    process.join()
    if process.exitcode:
        print(f"shrinking {args[0]} ended with exit code {process.exitcode}")


def _shrink(failure: Failure, output: Path) -> None:
    warnings.simplefilter("ignore")
    drawn = draw(failure.seed)
    for name, inputs in runs_of(drawn).items():
        case = Case(drawn.model, inputs)
        case.save(output, f"{failure.seed}")
        if complaint(case, failure.way, build_of(failure.seed)):
            small, what = shrink(case, failure.way, build_of(failure.seed))
            path = small.save(output, f"{failure.seed}-small")
            print(f"\nseed {failure.seed}, {failure.way}, {name}: {what[:500]}\n{small.text()[:2000]}{path}")
            return
    print(f"\nseed {failure.seed}, {failure.way}: right when compiled alone")


if __name__ == "__main__":
    sys.exit(main())
