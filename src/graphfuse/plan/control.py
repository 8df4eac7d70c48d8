"""Planning control flow: each body is planned like a program of its own, with places from the graph around it.

What a body reads of that graph it reads where it is. The branches of an If compute right into the If's results. A
loop's carried value has two places, which change roles behind every iteration; a slice of a tensor is a view that
moves with the number of the iteration, and so is the piece of a stacked result that an iteration computes.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from graphfuse.fusion.regions import Region, fuse
from graphfuse.graph.dims import Dim, add, maximum, measured, mul, product, symbol_named
from graphfuse.graph.dtypes import U8
from graphfuse.ops.control import Carry, Conditional, Iteration, Slices
from graphfuse.ops.tensor import Body, Opaque, Tensor
from graphfuse.plan.calls import Appended, Assign, Call, Carrier, Choice, Plan, Repeat
from graphfuse.plan.site import KernelCode
from graphfuse.plan.view import Buffer, View, dense

if TYPE_CHECKING:
    from graphfuse.plan.planner import Planner

_WHY = "a loop's value has a place of its own"


def plan_control(planner: Planner, region: Region, nest: Conditional | Iteration) -> None:
    """Append the call of an If, Loop or Scan."""
    results = {t.prim.index: t for t in region.outputs if isinstance(t.prim, Opaque)}
    if isinstance(nest, Conditional):
        _plan_choice(planner, region, nest, results)
    else:
        _plan_repeat(planner, region, nest, results)


def _plan_choice(planner: Planner, region: Region, nest: Conditional, results: Mapping[int, Tensor]) -> None:
    places = {k: planner.view(t) for k, t in results.items()}
    fusions, bodies = [], []
    for word, branch, sizes in zip(("then", "else"), nest.branches, nest.sizes_of, strict=True):
        fusion = fuse(branch.program, prefix=f"{region.name}.{word}.")
        homes = [(branch.outputs[k], _branch_home(nest, place, branch.outputs[k])) for k, place in places.items()]
        body = planner.body(fusion).run_body(_captured(planner, branch), homes, (), sizes.values())
        learns = (*body.learns, *(Assign(name, value) for name, value in sizes.items()))
        bodies.append(replace(body, learns=learns))
        fusions.append(fusion)
    condition = planner.view(nest.condition)
    control = Choice(condition, tuple(fusions), tuple(bodies), _workspace(bodies, region.name))
    _append(planner, region, nest, control, [*places.values(), condition])


def _branch_home(nest: Conditional, place: View, output: Tensor) -> View:
    """The place of an If's result as one branch knows it, which may have a size of its own for it."""
    if not nest.own.isdisjoint(measured(*place.shape)):
        return dense(_outer(place.buffer, product(output.shape)), output.shape)
    return replace(place, buffer=_outer(place.buffer))


def _plan_repeat(planner: Planner, region: Region, nest: Iteration, results: Mapping[int, Tensor]) -> None:
    planner.assign({name: first for c in nest.carried for name, (first, _) in c.sizes.items()})
    carriers = [_carrier(planner, region, c) for c in nest.carried]
    leaves = _captured(planner, nest.body)
    for c, carrier in zip(nest.carried, carriers, strict=True):
        leaves[c.before] = dense(_outer(carrier.before), c.before.shape)
    leaves.update((s.part, _slice(planner, nest, s)) for s in nest.slices)
    homes = [
        (c.after, dense(_outer(carrier.after), c.after.shape))
        for c, carrier in zip(nest.carried, carriers, strict=True)
        if carrier.after is not None
    ]
    first = len(carriers)
    stacked = {k: planner.view(results[first + k]) for k in range(len(nest.stacks)) if first + k in results}
    grown = {k: place for k, place in stacked.items() if _grows(nest, k, place)}
    appended = [_appended(nest, k, place) for k, place in grown.items()]
    homes += [(nest.stacks[k].part, _piece(nest, k, place)) for k, place in stacked.items() if k not in grown]
    homes += [(part, x.part) for part, x in appended]
    ends = [] if nest.goes_on is None else [nest.goes_on]
    needs = [after for c in nest.carried for _, after in c.sizes.values()]
    needs += [size for _, x in appended for size in x.sizes.values()]
    fusion = fuse(nest.body.program, prefix=f"{region.name}.body.")
    body = planner.body(fusion).run_body(leaves, homes, ends, needs, [x.part for _, x in appended])
    condition = None if nest.condition is None else planner.view(nest.condition)
    control = Repeat(
        nest.trips,
        nest.number,
        nest.count,
        condition,
        body.ends[-1] if ends else None,
        tuple(carriers),
        tuple(x for _, x in appended),
        (fusion,),
        (body,),
        _workspace([body], region.name),
    )
    carried = [dense(carrier.before, c.before.shape) for c, carrier in zip(nest.carried, carriers, strict=True)]
    conditions = [] if condition is None else [condition]
    _append(planner, region, nest, control, [*carried, *stacked.values(), *conditions])
    for k, place in enumerate(carried):
        if k in results:
            _hand_on(planner, results[k], place)


def _carrier(planner: Planner, region: Region, c: Carry) -> Carrier:
    """Places for a carried value, with its first value in one of them."""
    count, dtype = product(c.before.shape), c.before.dtype
    name = f"{planner.program.name(region.anchor)}: {c.before.value.name if c.before.value is not None else '?'}"
    changes = c.after is not c.before
    places = tuple(Buffer("arena", count, dtype, name=name) for _ in range(2 if changes else 1))
    before = Buffer("pointer", count, dtype, name=name, behind=places)
    after = Buffer("pointer", product(c.after.shape), dtype, name=name, behind=places) if changes else None
    planner.copy(planner.view(c.initial), dense(before, c.initial.shape), region.anchor, _WHY)
    return Carrier(before, after, {name: size for name, (_, size) in c.sizes.items()})


def _slice(planner: Planner, nest: Iteration, s: Slices) -> View:
    place = planner.view(s.source)
    return _at(replace(place, buffer=_outer(place.buffer)), s.axis, _position(nest, s.reverse, s.source.shape[s.axis]))


def _piece(nest: Iteration, k: int, place: View) -> View:
    stack = nest.stacks[k]
    rows = place.shape[stack.axis]
    return _at(replace(place, buffer=_outer(place.buffer)), stack.axis, _position(nest, stack.reverse, rows))


def _grows(nest: Iteration, k: int, place: View) -> bool:
    """Whether a stack's size is known only behind the last iteration."""
    return bool(nest.stacks[k].sizes) or nest.count in measured(place.buffer.elements)


def _appended(nest: Iteration, k: int, place: View) -> tuple[Tensor, Appended]:
    """A stack that grows, and the place in which each iteration computes what it adds."""
    part = nest.stacks[k].part
    buffer = Buffer("arena", product(part.shape), part.dtype, name=place.buffer.name)
    return part, Appended(place, dense(buffer, part.shape), nest.stacks[k].sizes)


def _position(nest: Iteration, reverse: bool, rows: Dim) -> Dim:
    number: Dim = symbol_named(nest.number)
    return add(add(rows, -1), mul(-1, number)) if reverse else number


def _at(view: View, axis: int, index: Dim) -> View:
    """The view without an axis, at an index into it."""
    return replace(
        view,
        shape=(*view.shape[:axis], *view.shape[axis + 1 :]),
        strides=(*view.strides[:axis], *view.strides[axis + 1 :]),
        offset=add(view.offset, mul(index, view.strides[axis])),
    )


def _hand_on(planner: Planner, t: Tensor, place: View) -> None:
    """Let a loop's result be where the last iteration left it, or bring it to where it is wanted."""
    if t in planner.views:
        planner.copy(place, planner.view(t), t, _WHY)
    else:
        planner.views[t] = place


def _captured(planner: Planner, body: Body) -> dict[Tensor, View]:
    places: dict[Tensor, View] = {}
    for leaf in body.captured:
        assert leaf.outer is not None
        place = planner.view(leaf.outer)
        places[leaf] = replace(place, buffer=_outer(place.buffer))
    return places


def _outer(buffer: Buffer, elements: Dim | None = None) -> Buffer:
    """A buffer as a body knows it."""
    count = buffer.elements if elements is None else elements
    return Buffer("outer", count, buffer.dtype, name=buffer.name, behind=(buffer,))


def _workspace(bodies: Sequence[Plan], name: str) -> Buffer:
    """Memory for the arena of any one of the bodies."""
    return Buffer("arena", maximum(*(body.arena.size for body in bodies)), U8, name=name)


def _append(
    planner: Planner, region: Region, nest: Conditional | Iteration, control: Choice | Repeat, places: Iterable[View]
) -> None:
    read = [planner.view(t) for t in nest.args]
    work = sum((call.code.work for body in control.bodies for call in body.calls), start=0)
    pointers = [*places, *read, dense(control.workspace, (control.workspace.elements,))]
    code = KernelCode(nest.name, "", list(dict.fromkeys(pointers)), list(nest.sizes()), 1, work, describe=nest.name)
    call = Call(code, region.name, planner.nodes(region.tensors), region, nest.name, control=control)
    planner.append(call)
