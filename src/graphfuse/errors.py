"""Everything graphfuse raises on purpose: a small typed tree, each error one clear line or a short block."""

from __future__ import annotations

from collections.abc import Iterable


class GraphfuseError(Exception):
    """An error with a place and a remedy.

    what: the fault, in one sentence; where: the file, node, input or dimension it was found in (the user's own name);
    why: what caused it, when that is not plain from `what`; remedy: what the user can do. Rendered by `str`.
    """

    exit_code = 2

    def __init__(self, what: str, *, where: str = "", why: str = "", remedy: str = "") -> None:
        self.what = one_line(what)
        self.where = one_line(where)
        self.why = one_line(why)
        self.remedy = one_line(remedy)
        super().__init__(self.what)

    def __str__(self) -> str:
        text = f"{self.where}: {self.what}" if self.where else self.what
        text += f" ({self.why})" if self.why else ""
        return f"{text}; {self.remedy}" if self.remedy else text


class ModelFileError(GraphfuseError):
    """The file cannot be read as a model: missing, not ONNX, truncated, inconsistent, or its external data is."""


class UnsupportedModelError(GraphfuseError):
    """The model is valid but holds nodes that graphfuse cannot compile; all of them are listed at once.

    nodes: (operator type, the user's node name, reason) for each of them, in file order; task: what was to be done.
    """

    def __init__(
        self, nodes: Iterable[tuple[str, str, str]], *, where: str = "", remedy: str = "", task: str = "compiled"
    ) -> None:
        self.nodes = tuple((one_line(op), one_line(name), one_line(reason)) for op, name, reason in nodes)
        count = len(self.nodes)
        super().__init__(f"{count} node{'s' * (count != 1)} cannot be {task}", where=where, remedy=remedy)

    def __str__(self) -> str:
        rows = [f"  {op} {name!r}: {reason}" for op, name, reason in self.nodes]
        return "\n".join([super().__str__(), *rows])


class InputError(GraphfuseError):
    """A value given at run time does not fit: wrong input name, dtype or shape."""


class ToolchainError(GraphfuseError):
    """No compiler works, or the compiler refused the generated C."""


class ArtifactError(GraphfuseError):
    """An artifact cannot be read or written."""


class VerificationError(GraphfuseError):
    """The compiled library and the reference disagree."""

    exit_code = 1


class InternalError(GraphfuseError):
    """graphfuse broke one of its own rules: a bug in graphfuse, whatever the model."""

    def __init__(self, what: str, *, where: str = "", why: str = "") -> None:
        super().__init__(what, where=where, why=why, remedy="this is a bug in graphfuse, please report it")


def one_line(text: str, limit: int = 400) -> str:
    """Text fit for one line of a terminal: control characters escaped, line breaks joined, bounded length."""
    joined = " ".join(str(text).split())
    shown = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in joined)
    return shown if len(shown) <= limit else shown[: limit - 3] + "..."
