"""Native work that Ctrl-C ends: Python handles signals in the main thread, which therefore must not do it itself."""

from __future__ import annotations

import _thread
import ctypes
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import TypeVar

from graphfuse.runtime.library import Library

T = TypeVar("T")

_LOOK_AGAIN = 0.5  # seconds; a signal that another thread got does not wake the main one


def interruptible(work: Callable[[], T], stop: Callable[[], None]) -> T:
    """The result of `work`, during which signals are handled as ever: what a handler raises stops it, and is raised.

    work: native code that does not hold the interpreter's lock; stop: makes it end soon, and may be called before it
    has begun. In other threads than the main one, where Python handles no signals, it is called as it is. Raises what
    `work` raises.
    """
    if threading.get_ident() != threading.main_thread().ident:
        return work()
    ended = _thread.allocate_lock()
    ended.acquire()
    results: list[T] = []
    errors: list[BaseException] = []
    ticket = [None]  # whoever takes it decides whether the work begins at all

    def run() -> None:
        try:
            ticket.pop()
            results.append(work())
        except BaseException as error:
            errors.append(error)
        ended.release()

    try:
        _thread.start_new_thread(run, ())
        while not ended.acquire(timeout=_LOOK_AGAIN):
            pass
    except BaseException:
        try:
            ticket.pop()
        except IndexError:  # it has begun
            stop()
            _wait(ended)
        raise
    if errors:
        raise errors[0]
    return results[0]


def _wait(ended: _thread.LockType) -> None:
    """Wait for work that has been stopped, whatever else is asked for meanwhile: it still uses its memory."""
    while True:
        with suppress(BaseException):
            ended.acquire()
            return


class InterruptibleCall:
    """`model_call` of a library with `model_stop`; ports: how many inputs and outputs the model has."""

    def __init__(self, library: Library, ports: int) -> None:
        assert library.model_stop is not None
        self._call, self._stop = library.model_call, library.model_stop
        self._arena = (ports + 2) * ctypes.sizeof(ctypes.c_void_p)

    def __call__(self, arguments: int) -> int:
        arena = ctypes.c_void_p.from_address(arguments + self._arena).value or 0
        try:
            return interruptible(lambda: self._call(arguments), lambda: self._stop(arena, 1))
        except BaseException:
            self._stop(arena, 0)
            raise
