"""Every way a command can end: what is told on stderr, and with which exit code. Never a traceback."""

from __future__ import annotations

import functools
import os
import signal
import sys
import traceback
from collections.abc import Callable
from contextlib import suppress
from typing import Any, ParamSpec

import typer

from graphfuse.errors import GraphfuseError, one_line

INTERRUPTED, BROKEN_PIPE, TERMINATED = 130, 141, 143  # 128 and the signal's number, as shells have it
TRACEBACK_VARIABLE = "GRAPHFUSE_TRACEBACK"

P = ParamSpec("P")


def guarded(command: Callable[P, None]) -> Callable[P, None]:
    """The command with every exception told in a short block and turned into an exit code."""

    @functools.wraps(command)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        try:
            command(*args, **kwargs)
            sys.stdout.flush()
        except typer.Exit:
            raise
        except (Exception, KeyboardInterrupt) as error:
            raise typer.Exit(tell(error)) from None

    return run


def tell(error: BaseException) -> int:
    """Say on stderr what went wrong; the exit code for it."""
    if os.environ.get(TRACEBACK_VARIABLE):
        traceback.print_exception(error)
    if isinstance(error, KeyboardInterrupt):
        return _say("interrupted", INTERRUPTED)
    if isinstance(error, BrokenPipeError):
        _drop_output()
        return BROKEN_PIPE
    if isinstance(error, GraphfuseError):
        return _say(str(error), error.exit_code)
    if isinstance(error, MemoryError):
        return _say("there is not enough memory; use smaller inputs, or a machine with more", GraphfuseError.exit_code)
    if isinstance(error, OSError):
        place = f"{error.filename}: " if error.filename else ""
        return _say(f"{place}{error.strerror or error}", GraphfuseError.exit_code)
    what = f"{type(error).__name__}: {one_line(str(error), 200)}"
    place = _place(error)
    remedy = f"this is a bug in graphfuse, please report it with what {TRACEBACK_VARIABLE}=1 shows"
    return _say(f"{what} ({place}); {remedy}", GraphfuseError.exit_code)


def tell_usage(error: Any) -> int:
    """Say on stderr what is wrong with the command line; the exit code for it."""
    context = getattr(error, "ctx", None)
    command = context.command_path if context is not None else "graphfuse"
    return _say(f"{error.format_message()}\ntry: {command} --help", GraphfuseError.exit_code)


def prepare_streams() -> None:
    """Make output safe for any locale, and let a termination clean up as an interrupt does."""
    for stream in (sys.stdout, sys.stderr):
        with suppress(AttributeError, ValueError):
            stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
    with suppress(ValueError):  # only the main thread may set it
        signal.signal(signal.SIGTERM, _terminated)


def _terminated(_signal: int, _frame: object) -> None:
    raise SystemExit(TERMINATED)


def _say(text: str, code: int) -> int:
    with suppress(OSError):
        print(f"graphfuse: {text}", file=sys.stderr, flush=True)
    return code


def _place(error: BaseException) -> str:
    frames = traceback.extract_tb(error.__traceback__)
    return f"{os.path.basename(frames[-1].filename)}:{frames[-1].lineno}" if frames else "unknown place"


def _drop_output() -> None:
    """Nobody reads any more: let nothing at exit try to write again."""
    with suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
