"""The progress of a compilation on stderr: one line that changes, or one line per stage where there is no terminal."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from types import TracebackType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.live import Live
    from rich.text import Text


class StageProgress:
    """Takes the messages of the pipeline, "build" or "build 3/12 gemm", and shows where in `stages` it is.

    As a context manager it removes its line at the end, whichever way that comes.
    """

    def __init__(self, stages: Sequence[str]) -> None:
        self._stages = tuple(stages)
        self._current = ""
        self._detail = ""
        self._live: Live | None = None

    def __enter__(self) -> StageProgress:
        if sys.stderr.isatty():
            from rich.live import Live

            from graphfuse.cli.console import console

            self._live = Live(
                console=console(sys.stderr), transient=True, refresh_per_second=10, get_renderable=self._line
            )
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live is not None:
            self._live.stop()

    def __call__(self, message: str) -> None:
        stage, _, self._detail = message.partition(" ")
        if self._live is None and stage != self._current:
            print(stage, file=sys.stderr, flush=True)
        self._current = stage

    def _line(self) -> Text:
        from rich.text import Text

        line = Text(no_wrap=True, overflow="ellipsis")
        position = self._stages.index(self._current) if self._current in self._stages else -1
        for k, stage in enumerate(self._stages):
            line.append(stage, "green" if k < position else "bold" if k == position else "dim")
            line.append(f" {self._detail.split(' ')[0]}" if k == position and self._detail else "").append(" ")
        return line.append(" ".join(self._detail.split(" ")[1:]), "dim")
