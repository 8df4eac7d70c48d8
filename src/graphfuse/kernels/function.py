"""The C function of one kernel while it is being written."""

from __future__ import annotations

from graphfuse.codegen.params import Params
from graphfuse.codegen.vector import Context, Scope
from graphfuse.codegen.writer import Writer
from graphfuse.graph.dims import Dim
from graphfuse.ops.expr import Var
from graphfuse.plan.site import SIGNATURE, ContractionSite, NestSite


class Function:
    """Sections of the function in order: parameters (`params`), what never changes (`root`), the loops (`body`)."""

    def __init__(self, site: ContractionSite | NestSite, lane: Var) -> None:
        whole = Writer(depth=1)
        head = whole.section()
        head.line("(void)p, (void)d, (void)r0, (void)r1, (void)c0, (void)c1, (void)scratch;")
        self._whole = whole
        self.params = Params(head)
        self.root = Scope(Context(self.params, site.views, lane), whole.section())
        self.body = whole.section()

    def dim(self, value: Dim, hint: str = "n") -> str:
        """A size or stride as C text."""
        return self.params.dim(value, hint)

    def source(self) -> str:
        return f"{SIGNATURE} {{\n{self._whole.text()}}}\n"


def affine(terms: list[tuple[str, Dim]], params: Params, constant: Dim = 0) -> str:
    """The C text of constant + sum(text * stride), without the terms that are nothing."""
    parts = [text if stride == 1 else f"{text} * {params.dim(stride, 's')}" for text, stride in terms if stride != 0]
    if constant != 0:
        parts.append(params.dim(constant, "o"))
    return " + ".join(parts) or "0"


def times(number: int, stride: Dim, params: Params) -> str:
    """The C text of number * stride."""
    if isinstance(stride, int):
        return str(number * stride)
    return "0" if number == 0 else f"{number} * {params.dim(stride, 's')}"
