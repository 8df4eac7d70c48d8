"""python -m conformance: run the suite, print the totals, renew docs/conformance.md."""

from __future__ import annotations

import argparse
import os
import re
import sys
import time
from pathlib import Path

from conformance.cases import KINDS, Case, all_cases
from conformance.execute import ENGINES, PASSED, Result
from conformance.report import Outcome, document, failures, load_results, save, totals
from conformance.workers import run_all
from graphfuse.ops.registry import all_ops
from graphfuse.options import default_cache_root

DOCUMENT = Path(__file__).parents[2] / "docs" / "conformance.md"
_SAVE_EVERY = 100  # results


def main() -> int:
    """Run what the command line asks for. Returns the exit status, 0 when the run came to its end."""
    asked = _arguments()
    cases = [case for case in all_cases() if case.kind in asked.kind and re.search(asked.only, case.name)]
    if not cases:
        print(f"no case matches {asked.only!r}", file=sys.stderr)
        return 2
    outcomes = {case.key: Outcome(case) for case in cases}
    if asked.resume is not None:
        _take_over(outcomes, load_results(asked.resume), asked.again)
    missing = [(o.case, e) for e in asked.engine for o in outcomes.values() if e not in o.results]
    file, progress = asked.json or asked.resume, _Progress(len(missing), asked.verbose)
    all_ops()  # loaded once, before the workers fork

    def done(case: Case, engine: str, result: Result) -> None:
        outcomes[case.key].results[engine] = result
        progress.step(case, engine, result)
        if file is not None and progress.count % _SAVE_EVERY == 0:
            save(outcomes.values(), file)

    run_all(missing, asked.jobs, asked.timeout, asked.cache, done)
    progress.end()
    found = list(outcomes.values())
    if file is not None:
        save(found, file)
    if asked.failures:
        print("\n".join(failures(found)), "\n")
    print("\n".join(totals(found)))
    if len(found) == len(all_cases()) and set(asked.engine) == set(ENGINES):
        DOCUMENT.write_text(document(found), encoding="utf-8")
    return 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m conformance", description=__doc__)
    parser.add_argument("--only", default="", metavar="REGEX", help="cases whose name matches")
    parser.add_argument("--kind", nargs="+", choices=KINDS, default=KINDS, help="cases of these kinds")
    parser.add_argument("--engine", nargs="+", choices=ENGINES, default=ENGINES, help="what runs them")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="processes (default: one a core)")
    parser.add_argument("--timeout", type=float, default=120.0, metavar="SECONDS", help="for one case")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every result there")
    parser.add_argument("--resume", type=Path, metavar="FILE", help="run only what has no result in FILE, add to it")
    parser.add_argument("--again", action="store_true", help="with --resume: also what failed")
    parser.add_argument("--failures", action="store_true", help="print the cases that do not pass, by reason")
    parser.add_argument("--verbose", action="store_true", help="print every result as it comes")
    cache = default_cache_root() / "conformance"
    parser.add_argument("--cache", type=Path, default=cache, metavar="FOLDER", help="of compiled objects")
    return parser.parse_args()


def _take_over(outcomes: dict[str, Outcome], earlier: dict[str, dict[str, Result]], again: bool) -> None:
    for key, results in earlier.items():
        if key not in outcomes:
            continue
        for engine, result in results.items():
            if not again or result.status == PASSED or engine == "onnxruntime":
                outcomes[key].results[engine] = result


class _Progress:
    """How far the run is: one line that renews itself on a terminal, else a line now and then."""

    def __init__(self, total: int, verbose: bool) -> None:
        self.count, self._total, self._verbose = 0, total, verbose
        self._passed = dict.fromkeys(ENGINES, 0)
        self._started = time.monotonic()
        self._live = sys.stderr.isatty() and not verbose

    def step(self, case: Case, engine: str, result: Result) -> None:
        self.count += 1
        self._passed[engine] += result.status == PASSED
        if self._verbose:
            print(f"{result.status:14} {engine:11} {case.key} {result.seconds:.2f} s {result.reason}", flush=True)
        elif self._live or self.count % 200 == 0:
            self._print("\r" if self._live else "", "" if self._live else "\n")

    def end(self) -> None:
        if self._total and not self._verbose:
            self._print("\r" if self._live else "", "\n")

    def _print(self, before: str, after: str) -> None:
        passed = ", ".join(f"{name} {count} passed" for name, count in self._passed.items())
        seconds = time.monotonic() - self._started
        text = f"{before}{self.count} of {self._total} run in {seconds:.0f} s: {passed}{after}"
        print(text, end="", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
