"""Cases in child processes: one that crashes or hangs is a failed case, not the end of the run."""

from __future__ import annotations

import faulthandler
import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

from conformance.cases import Case, all_cases
from conformance.execute import FAILED, Result, execute

Task = tuple[Case, str]  # a case and the engine that runs it
Done = Callable[[Case, str, Result], None]
Work = Callable[[Case, str, "Path | None"], Result]
_END_WAIT = 2.0  # seconds a worker gets to end by itself


def run_all(
    tasks: Sequence[Task], jobs: int, seconds: float, cache: Path | None, done: Done, work: Work = execute
) -> None:
    """Run tasks, `jobs` at a time; `done` is called in this process with each result as it comes.

    seconds: how long one task may take before its process is killed and the case counted as failed; work: what runs it.
    """
    waiting = list(reversed(tasks))
    workers: list[_Worker] = []
    try:
        while waiting or workers:
            while waiting and len(workers) < jobs:
                workers.append(_Worker(cache, work))
                workers[-1].give(waiting.pop(), seconds)
            wait([w.pipe for w in workers], timeout=max(0.05, min(w.deadline for w in workers) - time.monotonic()))
            for worker in list(workers):
                result = worker.result(seconds)
                if result is None:
                    continue
                case, engine = worker.task
                done(case, engine, result)
                if not worker.alive or not waiting:
                    worker.end()
                    workers.remove(worker)
                else:
                    worker.give(waiting.pop(), seconds)
    finally:
        for worker in workers:
            worker.kill()


class _Worker:
    """A child process that runs one task after another, and what it is doing."""

    def __init__(self, cache: Path | None, work: Work) -> None:
        # Forked, so that a child starts with all cases and all of graphfuse in memory.
        context = multiprocessing.get_context("fork")
        self.pipe, theirs = context.Pipe()
        self.process = context.Process(target=_serve, args=(theirs, self.pipe, cache, work), daemon=True)
        self.process.start()
        with suppress(OSError):  # a group of its own, so that its compilers end with it; the child says so too
            os.setpgid(self.process.pid or 0, self.process.pid or 0)
        theirs.close()
        self.alive = True
        self.task: Task
        self.deadline = 0.0

    def give(self, task: Task, seconds: float) -> None:
        self.task, self.deadline = task, time.monotonic() + seconds
        self.pipe.send((task[0].key, task[1]))

    def result(self, seconds: float) -> Result | None:
        """The task's result, None while it runs."""
        if self.pipe.poll():
            try:
                answer: Any = self.pipe.recv()
                return Result(*answer)
            except (EOFError, ConnectionError):
                return self._lost(_ending(self.process), seconds)
        if time.monotonic() > self.deadline:
            self.kill()
            return self._lost(f"not finished after {seconds:g} s", seconds)
        return None

    def _lost(self, reason: str, seconds: float) -> Result:
        self.alive = False
        taken = seconds - (self.deadline - time.monotonic())
        return Result(FAILED, reason, round(taken, 3))

    def end(self) -> None:
        if self.alive:
            self.pipe.send(None)
        self.pipe.close()
        self.process.join(_END_WAIT)
        self.kill()

    def kill(self) -> None:
        if self.process.is_alive():
            with suppress(ProcessLookupError):
                os.killpg(self.process.pid or 0, signal.SIGKILL)
            self.process.join()


def _ending(process: Any) -> str:
    process.join(_END_WAIT)
    code = process.exitcode
    if code is not None and code < 0:
        return f"crashed: {signal.Signals(-code).name}"
    return f"its process ended with status {code}"


def _serve(pipe: Connection, parents: Connection, cache: Path | None, work: Work) -> None:
    """A child's life: tasks in, results out, until None comes or the pipe closes."""
    parents.close()  # else this process would wait for itself when the parent is gone
    os.setpgid(0, 0)
    cases = {case.key: case for case in all_cases()}
    faulthandler.disable()  # a crash is a result too
    with open(os.devnull, "w", encoding="utf-8") as nowhere:
        os.dup2(nowhere.fileno(), sys.stderr.fileno())  # what libraries say about a case is in its result
        while True:
            try:
                task = pipe.recv()
            except (EOFError, ConnectionError):
                return
            if task is None:
                return
            key, engine = task
            result = work(cases[key], engine, cache)
            pipe.send((result.status, result.reason, result.seconds))
