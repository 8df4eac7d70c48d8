"""The driver's side of the workers: start them, let one at a time work, survive what happens to them."""

from __future__ import annotations

import json
import os
import random
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

from graphfuse.bench.timing import REST
from graphfuse.errors import one_line

PREPARE_SECONDS = 600.0  # compiling a network with a C++ compiler on two cores takes minutes
TURN_SECONDS = 60.0  # beyond what was asked for: some calls of the slowest network there is


class WorkerLost(Exception):
    """A worker gave no answer: it crashed, or hung and was ended."""


class Worker:
    """A process that runs one runtime; it does nothing but wait unless asked.

    module: full name of a module like those of `peers`; environment: variables added to those of this process.
    """

    def __init__(self, module: str, environment: Mapping[str, str] | None = None) -> None:
        self.module = module
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 - lives as long as the worker
        self._pending = b""
        self._process = subprocess.Popen(
            [sys.executable, "-m", "graphfuse.bench.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            env={**os.environ, **(environment or {})},
            start_new_session=True,  # an interrupt is the driver's alone, and a worker's own children end with it
        )

    def ask(self, request: Mapping[str, Any], seconds: float) -> dict[str, Any]:
        """The answer to one request. Raises WorkerLost when there is none within so many seconds."""
        stdin = self._process.stdin
        assert stdin is not None
        try:
            stdin.write(json.dumps(request).encode() + b"\n")
            stdin.flush()
            return dict(json.loads(self._line(time.monotonic() + seconds)))
        except TimeoutError:
            self.close()
            raise WorkerLost(f"no answer in {seconds:g} seconds") from None
        except (OSError, ValueError):
            raise WorkerLost(self._obituary()) from None
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """End the process and whatever it started."""
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout, self._log):
            with suppress(OSError):
                stream.close()  # type: ignore[union-attr]

    def _line(self, deadline: float) -> bytes:
        assert self._process.stdout is not None
        descriptor = self._process.stdout.fileno()
        while b"\n" not in self._pending:
            left = deadline - time.monotonic()
            if left <= 0 or not select.select([descriptor], [], [], left)[0]:
                raise TimeoutError
            piece = os.read(descriptor, 1 << 16)
            if not piece:
                raise OSError("the worker is gone")
            self._pending += piece
        line, _, self._pending = self._pending.partition(b"\n")
        return line

    def _obituary(self) -> str:
        """How the process ended, and the last it said."""
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(5)
        code = self._process.poll()
        self._log.seek(0, os.SEEK_END)
        self._log.seek(max(0, self._log.tell() - 2000))
        lines = self._log.read().decode(errors="replace").splitlines()
        said = next((line for line in reversed(lines) if line.strip()), "")
        self.close()
        how = _signal_name(-code) if code is not None and code < 0 else f"exit code {code}"
        return one_line(f"crashed with {how}" + (f": {said}" if said else ""), 160)


def interleave(
    workers: Mapping[str, Worker],
    seconds: float,
    rounds: int,
    seed: int = 0,
    progress: Callable[[str], None] = lambda _: None,
) -> tuple[dict[str, list[list[float]]], dict[str, str]]:
    """Times of every worker by name, one list of seconds for each round; and why a worker was lost, by name.

    seconds: of each worker in all rounds together. One works at a time, in an order that is shuffled for each round.
    """
    order = list(workers)
    generator = random.Random(seed)
    times: dict[str, list[list[float]]] = {name: [] for name in order}
    lost: dict[str, str] = {}
    request = {"do": "turn", "seconds": seconds / rounds, "warm": 2, "least": 3, "most": 4000}
    for number in range(rounds):
        progress(f"round {number + 1} of {rounds}")
        generator.shuffle(order)
        for name in [name for name in order if name not in lost]:
            time.sleep(REST)
            try:
                times[name].append(workers[name].ask(request, seconds + TURN_SECONDS)["times"])
            except WorkerLost as error:
                lost[name] = str(error)
    return times, lost


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
