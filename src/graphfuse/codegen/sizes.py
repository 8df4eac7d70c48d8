"""The sizes of a model as C: which variable each symbol is, and what is declared ahead of a function's body."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import sympy

from graphfuse.codegen.writer import Writer
from graphfuse.graph.dims import Dim, c_text, measured, saturating_text, steps, symbols

_STEP = re.compile(r"\bsize_\d+\b")


class Sizes:
    """Every size that a module computes with.

    symbols: the names of those that the inputs' shapes give, in order; measured: those that the model itself computes.
    """

    def __init__(self, sizes: Iterable[Dim]) -> None:
        every = list(sizes)
        self.symbols = [s for s in symbols(every) if not s.startswith("_")]
        self.measured = measured(*every)
        self.names = {s: f"{_identifier(s)}_{k}" for k, s in enumerate(self.symbols)}
        self.names.update((s, f"measured{s}") for s in self.measured)
        self._steps = {e: f"size_{k}" for k, e in enumerate(e for e in steps(set(every)) if not measured(e))}
        self._texts: dict[Dim, str] = {}
        self._used: set[Dim] = set()  # what occurs in the function being written
        self._read: set[str] = set()  # and the steps that its text names

    def text(self, d: Dim) -> str:
        """A size as a C expression."""
        if isinstance(d, int):
            return str(d)
        self._used.add(d)
        if d not in self._texts:
            self._texts[d] = c_text(d, self.names, self._steps)
        self._read.update(_STEP.findall(self._texts[d]))
        return self._texts[d]

    def saturating(self, d: Dim) -> str:
        """A size as a C expression that stays at the largest integer where it would pass it."""
        self._used.add(d)
        return saturating_text(d, self.names)

    @contextmanager
    def function(self, w: Writer, head: str) -> Iterator[None]:
        """A function body, with the sizes it is made of declared ahead."""
        self._used.clear()
        self._read.clear()
        with w.block(head):
            w.line("(void)dims;")
            declarations = w.section()
            yield
        needed = symbols(self._used)
        for k, s in enumerate(self.symbols):
            if s in needed:
                declarations.line(f"const int64_t {self.names[s]} = dims[{k}];")
        done: dict[sympy.Expr, str] = {}
        lines: list[tuple[str, str]] = []
        for e in steps(self._used):
            if e in self._steps:
                lines.append((self._steps[e], c_text(e, self.names, done)))
                done[e] = self._steps[e]
        # A step inside another may be spelled out there, where its terms were put in another order.
        for name, text in reversed(lines):
            self._read.update(_STEP.findall(text) if name in self._read else ())
        for name, text in lines:
            if name in self._read:
                declarations.line(f"const int64_t {name} = {text};")


def _identifier(text: str) -> str:
    """A C identifier fragment from any text; not unique by itself."""
    safe = re.sub(r"[^A-Za-z0-9_]+", "_", text)[:40].strip("_")
    return safe if safe and not safe[0].isdigit() else f"n{safe}"
