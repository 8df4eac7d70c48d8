"""Equal sites are costed and emitted once: planning takes time for distinct kernels, not for layers.

Two sites are equal when nothing that a kernel may look at tells them apart: shapes, strides, what is constant, which
operands lie in the same place, and the expressions, but for which tensors they are. What depends on the values of
constants (`Kernel.accepts`) is asked of every site.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from graphfuse.ops.expr import Expr, Load, children
from graphfuse.ops.tensor import Tensor
from graphfuse.plan.site import ContractionSite, Kernel, KernelCode, Lines, Packed
from graphfuse.plan.view import View
from graphfuse.target import Target

T = TypeVar("T")


@dataclass(frozen=True)
class Signed:
    """A site's signature, and its tensors in the order in which the signature numbers them."""

    site: ContractionSite
    signature: tuple[object, ...]
    tensors: tuple[Tensor, ...]


@dataclass(frozen=True)
class _Slot:
    """A pointer of emitted code as the number of a tensor; `packed` is what a constant is packed like."""

    number: int
    packed: Packed | None = None


class KernelMemo:
    """What kernels answered for sites of one plan."""

    def __init__(self, target: Target) -> None:
        self._target = target
        self._answers: dict[object, Any] = {}
        self._signed: dict[int, Signed] = {}

    def cost(self, kernel: Kernel, site: ContractionSite) -> float:
        """`kernel.cost`."""
        key = ("cost", kernel.name, self._sign(site).signature)
        return self._remembered(key, lambda: kernel.cost(site, self._target))

    def lines(self, kernel: Kernel, site: ContractionSite) -> Lines | None:
        """`kernel.lines`, its source being this site's."""
        signed = self._sign(site)
        key = ("lines", kernel.name, signed.signature)
        known: tuple[Lines | None, _Slot | None] | None = self._answers.get(key)
        if known is None:
            found = kernel.lines(site, self._target)
            slot = None if found is None else _slot(found.source, signed)
            if found is None or slot is not None:
                self._answers[key] = (found, slot)
            return found
        found, slot = known
        if found is None or slot is None:
            return None
        return replace(found, source=site.view(signed.tensors[slot.number]))

    def emit(self, kernel: Kernel, site: ContractionSite, any_rows: bool = False) -> KernelCode:
        """`kernel.emit`, its pointers being this site's."""
        signed = self._sign(site)
        key = ("emit", kernel.name, any_rows, signed.signature)
        known: tuple[KernelCode, list[_Slot]] | None = self._answers.get(key)
        if known is None:
            code = kernel.emit(site, self._target, any_rows=any_rows)
            slots = [slot for p in code.pointers if (slot := _slot(p, signed)) is not None]
            if len(slots) == len(code.pointers) and not code.parts:
                self._answers[key] = (replace(code), slots)
            return code
        code, slots = known
        return replace(code, pointers=[_pointer(slot, signed) for slot in slots], dims=list(code.dims))

    def _remembered(self, key: object, compute: Callable[[], T]) -> T:
        if key not in self._answers:
            self._answers[key] = compute()
        answer: T = self._answers[key]
        return answer

    def _sign(self, site: ContractionSite) -> Signed:
        known = self._signed.get(id(site))
        if known is None or known.site is not site:
            known = self._signed[id(site)] = sign(site)  # which keeps the site, and so its id, alive
        return known


def sign(site: ContractionSite) -> Signed:
    """The signature of a site."""
    numbers: dict[Tensor, int] = {}

    def number(t: Tensor) -> int:
        return numbers.setdefault(t, len(numbers))

    prim = site.prim
    roots = [*site.outputs, *site.line_sums]
    asked = tuple(number(t) for t in (site.contraction, *prim.args, *(t for t, _ in roots)))
    expressions = _listed([e for _, e in roots], number)
    for t in site.views:
        number(t)
    tensors = tuple(numbers)
    views = [site.views.get(t) for t in tensors]
    first = {view: k for k, view in reversed(list(enumerate(views)))}
    buffers = {view.buffer: k for k, view in reversed(list(enumerate(views))) if view is not None}
    facts = tuple(
        (t.shape, t.dtype, site.constants(t) is not None and site.held_by(t))
        + ((v.shape, v.strides, v.offset, v.dtype, first[v], buffers[v.buffer]) if v is not None else ())
        for t, v in zip(tensors, views, strict=True)
    )
    signature = (prim.kind, prim.attrs, asked, len(site.outputs), expressions, facts)
    return Signed(site, signature, tensors)


def _listed(roots: list[Expr], number: Callable[[Tensor], int]) -> tuple[object, ...]:
    """The expressions as a list in which children are numbers of earlier entries, and tensors are numbers."""
    places: dict[int, int] = {}
    listed: list[object] = []
    stack = list(reversed(roots))
    while stack:
        e = stack[-1]
        waiting = [c for c in children(e) if id(c) not in places]
        if waiting:
            stack += reversed(waiting)
            continue
        stack.pop()
        if id(e) in places:
            continue
        places[id(e)] = len(listed)
        below = tuple(places[id(c)] for c in children(e))
        if isinstance(e, Load):
            parts = tuple(None if c is None else places[id(c)] for c in (*e.index, e.guard, e.fill))
            listed.append(("load", number(e.tensor), parts))
        else:
            listed.append((e, ()) if not below else (type(e), getattr(e, "fn", None), e.dtype, below))
    return (*listed, tuple(places[id(e)] for e in roots))


def _slot(pointer: object, signed: Signed) -> _Slot | None:
    """Which tensor a pointer stands for; None when it stands for none of the site's as it is."""
    if isinstance(pointer, Packed):
        numbers = [k for k, t in enumerate(signed.tensors) if t is pointer.source]
        return _Slot(numbers[0], pointer) if numbers else None
    views = signed.site.views
    numbers = [k for k, t in enumerate(signed.tensors) if t in views and views[t] == pointer]
    return _Slot(numbers[0]) if isinstance(pointer, View) and numbers else None


def _pointer(slot: _Slot, signed: Signed) -> object:
    t = signed.tensors[slot.number]
    if slot.packed is None:
        return signed.site.view(t)
    return Packed(t, slot.packed.arrange, slot.packed.dtype, slot.packed.key)
