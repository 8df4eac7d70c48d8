"""Child processes that end with us: every compiler call of a build, killed together when the build is given up."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from graphfuse.errors import ToolchainError

# No single kernel takes a compiler this long; a compiler that does hangs.
TIMEOUT_SECONDS = 900


@dataclass(frozen=True)
class Finished:
    """How a child ended: its exit status (negative: killed by that signal), and what it wrote."""

    status: int
    output: str
    errors: str


class Children:
    """Runs programs without a shell, from any thread; `kill` ends those that run and refuses new ones."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._live: list[subprocess.Popen[bytes]] = []
        self._killed = False

    def run(self, argv: Sequence[str], cwd: Path, env: Mapping[str, str]) -> Finished:
        """Runs one program to its end. Raises ToolchainError if it cannot start, hangs, or `kill` was called."""
        child = self._start(argv, cwd, env)
        try:
            output, errors = child.communicate(timeout=TIMEOUT_SECONDS)
        except subprocess.TimeoutExpired as error:
            raise ToolchainError(f"the compiler did not finish in {TIMEOUT_SECONDS} s", where=argv[0]) from error
        finally:
            _kill_group(child)
            with self._lock:
                self._live.remove(child)
        return Finished(child.returncode, output.decode(errors="replace"), errors.decode(errors="replace"))

    def kill(self) -> None:
        """Ends every program that runs, with its own children; later `run` calls fail."""
        with self._lock:
            self._killed = True
            for child in self._live:
                _kill_group(child)

    def _start(self, argv: Sequence[str], cwd: Path, env: Mapping[str, str]) -> subprocess.Popen[bytes]:
        with self._lock:  # held while starting, so that `kill` misses no child
            if self._killed:
                raise ToolchainError("the build was given up")
            try:
                child = subprocess.Popen(
                    argv,
                    cwd=cwd,
                    env=env,
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.PIPE,
                    start_new_session=True,
                )
            except OSError as error:
                why = error.strerror or str(error)
                raise ToolchainError("the compiler cannot be started", where=argv[0], why=why) from error
            self._live.append(child)
            return child


def _kill_group(child: subprocess.Popen[bytes]) -> None:
    if child.poll() is not None:
        return
    with suppress(ProcessLookupError, PermissionError):
        # The whole group: `zig cc` and gcc do their work in children of their own.
        os.killpg(child.pid, signal.SIGKILL)
    child.wait()
