"""A small C writer: Python that writes C looks like the C it writes."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

# Between the two characters of a comment's beginning or end, or of a trigraph.
_COMMENT_HAZARD = re.compile(r"(?<=\*)(?=/)|(?<=/)(?=\*)|(?<=\?)(?=\?)")


class Writer:
    """Lines of C with indentation. A `section` is a place that can still be written to after later lines."""

    def __init__(self, depth: int = 0, names: _Names | None = None) -> None:
        self._parts: list[str | Writer] = []
        self._depth = depth
        self._names = names or _Names()

    def line(self, text: str = "") -> None:
        self._parts.append("  " * self._depth + text if text else "")

    def replace(self, old: str, new: str) -> None:
        """Replace the first occurrence of a text in each line written here."""
        self._parts = [part.replace(old, new, 1) if isinstance(part, str) else part for part in self._parts]

    def comment(self, text: str) -> None:
        """A comment; the text may come from a stranger's model, so it can't end the comment or start another."""
        safe = "".join(c if c.isprintable() and ord(c) < 127 else "?" for c in text)
        self.line(f"/* {re.sub(_COMMENT_HAZARD, ' ', safe)} */")

    @contextmanager
    def block(self, head: str = "") -> Iterator[None]:
        """`head { ... }`"""
        self.line(f"{head} {{" if head else "{")
        self._depth += 1
        yield
        self._depth -= 1
        self.line("}")

    @contextmanager
    def loop(self, name: str, start: str, stop: str, step: str = "1") -> Iterator[None]:
        """`for (int64_t name = start; name < stop; name += step)`; without a body loop when stop - start is 1."""
        advance = f"++{name}" if step == "1" else f"{name} += {step}"
        with self.block(f"for (int64_t {name} = {start}; {name} < {stop}; {advance})"):
            yield

    def let(self, c_type: str, value: str, hint: str = "t") -> str:
        """Declare a fresh constant and return its name."""
        name = self.fresh(hint)
        self.line(f"const {c_type} {name} = {value};")
        return name

    def fresh(self, hint: str) -> str:
        """A name not yet used in this function."""
        return self._names.fresh(hint)

    def section(self) -> Writer:
        """A sub-writer at this place."""
        part = Writer(self._depth, self._names)
        self._parts.append(part)
        return part

    def lines(self) -> Iterator[str]:
        for part in self._parts:
            if isinstance(part, Writer):
                yield from part.lines()
            else:
                yield part

    def text(self) -> str:
        return "\n".join(self.lines()) + "\n"


class _Names:
    def __init__(self) -> None:
        self._used: dict[str, int] = {}

    def fresh(self, hint: str) -> str:
        k = self._used.get(hint, -1) + 1
        self._used[hint] = k
        return f"{hint}{k}"
