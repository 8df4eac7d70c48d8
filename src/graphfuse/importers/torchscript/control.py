"""prim::If and prim::Loop: taken or unrolled where that is known, else ONNX's If and Loop.

What a body changes of its surroundings (tensors in place, attributes, lists) is one more result of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import onnx_ir as ir
import torch

from graphfuse.importers.torchscript.specs import Spec, join, spec_of
from graphfuse.importers.torchscript.values import Box, ListBox, Number, Slot, Tensor, Unspellable, now

if TYPE_CHECKING:
    from graphfuse.importers.torchscript.interpreter import Env, Interpreter

_UNROLLED = 32  # iterations: a loop of no more is written out
_MOST_UNROLLED = 4096  # of one that cannot be spelled as a loop
_ENDLESS = 2**62
_ROUNDS = 8  # of finding out what a loop carries


def run(interpreter: Interpreter, node: Any, given: Sequence[Any], env: Env) -> list[Any]:
    """The results of an If or Loop. Raises Unspellable."""
    given = [_known(x) for x in given]
    if node.kind() == "prim::Loop":
        return _loop(interpreter, node, given, env)
    then, other = node.blocks()
    if not isinstance(given[0], Tensor):
        return interpreter.run_block(then if given[0] else other, env)
    for block, left in ((then, other), (other, then)):
        if _ends(block):
            return _only(interpreter, left, env)
    return _if(interpreter, node, given[0], env)


def _known(x: Any) -> Any:
    """The number behind one that turned out to be known."""
    return x.const.item() if isinstance(x, Number) and x.const is not None else x


def _ends(block: Any) -> bool:
    """Whether a block always raises an exception."""
    return any(node.kind() == "prim::RaiseException" for node in block.nodes())


def _only(interpreter: Interpreter, block: Any, env: Env) -> list[Any]:
    """The branch that is left where the other raises an exception."""
    interpreter.b.note(interpreter.scope or "forward", "an exception that only the data would tell is not raised")
    return interpreter.run_block(block, env)


@dataclass
class _Branch:
    """What a branch makes: its graph, its results, and what it leaves the things in that it changes."""

    graph: ir.Graph
    results: list[Any]
    effects: dict[Box, Any]


def _if(interpreter: Interpreter, node: Any, condition: Tensor, env: Env) -> list[Any]:
    from graphfuse.importers.torchscript.interpreter import Raises

    b = interpreter.b
    then, other = node.blocks()
    before = (dict(b.speller.operators), b.notes.copy())
    with interpreter.operator("prim::If", []):
        branches: list[_Branch | None] = []
        for name, block in (("then", then), ("else", other)):
            try:
                branches.append(_branch(interpreter, name, block, env))
            except Raises as error:
                branches.append(None)
                message = error.message
        if all(branch is not None for branch in branches):
            return _joined(interpreter, condition, *[branch for branch in branches if branch is not None])
    b.speller.operators, b.notes = before
    if branches == [None, None]:
        raise Raises(message)
    return _only(interpreter, then if branches[0] is not None else other, env)


def _branch(interpreter: Interpreter, name: str, block: Any, env: Env) -> _Branch:
    b = interpreter.b
    born = now()  # what is older stands around the body
    with b.speller.body(name) as graph, b.journal() as changed:
        results = [_as_now(value) for value in interpreter.run_block(block, env)]
        effects = {box: _held(box) for box in changed if box.born < born and not _is_view(box)}
    return _Branch(graph, results, effects)


def _is_view(box: Box) -> bool:
    return isinstance(box, Tensor) and box.alias is not None


def _held(box: Box) -> Any:
    """What is in a box, as a value of the program."""
    if isinstance(box, Tensor):
        return Tensor(box.plain, box._touch)
    if isinstance(box, ListBox):
        return box.copy()
    assert isinstance(box, Slot)
    return _as_now(box.now)


def _as_now(value: Any) -> Any:
    """The value apart from what changes it later, such as leaving the body that changed it."""
    if isinstance(value, Number):
        return value
    if isinstance(value, Tensor):
        return Tensor(value.plain, value._touch)
    return tuple(_as_now(item) for item in value) if isinstance(value, tuple) else value


def _put(box: Box, value: Any) -> None:
    """Change what is in a box."""
    if isinstance(box, Tensor | Slot):
        box.assign(value)
    elif isinstance(box, ListBox):
        box.become(value)


def _joined(interpreter: Interpreter, condition: Tensor, then: _Branch, other: _Branch) -> list[Any]:
    b = interpreter.b
    boxes = list(dict.fromkeys([*then.effects, *other.effects]))
    one = [*then.results, *(then.effects.get(box, _held(box)) for box in boxes)]
    two = [*other.results, *(other.effects.get(box, _held(box)) for box in boxes)]
    specs = [join(spec_of(x), y) for x, y in zip(one, two, strict=True)]
    for branch, values in ((then, one), (other, two)):
        with b.speller.inside(branch.graph):
            for spec, value in zip(specs, values, strict=True):
                branch.graph.outputs.extend(_own(b, v) for v in spec.values(b, value))
    count = len(then.graph.outputs)
    made: list[ir.Value] = []
    if count:
        holds = b.as_tensor(condition, torch.bool).value
        found = b.speller("If", holds, count=count, then_branch=then.graph, else_branch=other.graph)
        made = [found] if count == 1 else list(found)
    left = iter(made)
    joined = [spec.made(b, left) for spec in specs]
    for box, value in zip(boxes, joined[len(then.results) :], strict=True):
        _put(box, value)
    return joined[: len(then.results)]


def _own(b: Any, value: ir.Value) -> ir.Value:
    """A result of a body's own: a copy of what is made around it, or is a result already."""
    copy: ir.Value = b.speller("Identity", value)
    copy.type, copy.shape = value.type, value.shape
    return copy


# ---------------------------------------------------------------- loops


def _loop(interpreter: Interpreter, node: Any, given: list[Any], env: Env) -> list[Any]:
    [block] = node.blocks()
    trips, condition, values = given[0], given[1], list(given[2:])
    done = 0
    while True:
        condition = _known(condition)
        if not isinstance(condition, Tensor) and not condition:
            return values
        if not isinstance(trips, Tensor) and done >= trips:
            return values
        is_open = isinstance(condition, Tensor) or isinstance(trips, Tensor)
        if is_open:
            return _spelled(interpreter, block, trips, condition, done, values, env)
        if _UNROLLED < trips < _ENDLESS and done == 0:
            try:
                return _spelled(interpreter, block, trips, condition, 0, values, env)
            except Unspellable:
                if trips > _MOST_UNROLLED:
                    raise
        if done > _MOST_UNROLLED:
            raise Unspellable(f"a loop of more than {_MOST_UNROLLED} iterations is not unrolled")
        condition, *values = _iteration(interpreter, block, done, values, env)
        done += 1


def _iteration(interpreter: Interpreter, block: Any, number: Any, values: Sequence[Any], env: Env) -> list[Any]:
    for name, value in zip(block.inputs(), [number, *values], strict=True):
        env[name.debugName()] = value
    return interpreter.run_block(block, env)


def _spelled(
    interpreter: Interpreter, block: Any, trips: Any, condition: Any, done: int, values: list[Any], env: Env
) -> list[Any]:
    """The iterations from `done` on as a Loop."""
    b = interpreter.b
    with interpreter.operator("prim::Loop", []):
        specs, carried = _carried(interpreter, block, done, values, env)
        starts = [*values, *(_held(box) for box in carried)]
        inputs = [v for spec, value in zip(specs, starts, strict=True) for v in spec.values(b, value)]
        graph, results, after = _body(interpreter, block, done, values, env, specs, list(carried))
        again, outs = results[0], [*results[1:], *(after.get(box, _held(box)) for box in carried)]
        with b.speller.inside(graph):
            graph.outputs.append(_own(b, b.as_tensor(again, torch.bool).value))
            for spec, value in zip(specs, outs, strict=True):
                graph.outputs.extend(_own(b, v) for v in spec.values(b, value))
        endless = not isinstance(trips, Tensor) and trips >= _ENDLESS
        left: Any = None
        if not endless:
            left = trips if isinstance(trips, Tensor) else trips - done
            left = b("Sub", left, b.const(torch.tensor(done))) if isinstance(trips, Tensor) and done else left
        first = b.as_tensor(condition, torch.bool).value if isinstance(condition, Tensor) else None
        count = len(graph.outputs) - 1
        found = b.speller(
            "Loop", None if left is None else b.value(left), first, *inputs, count=max(1, count), body=graph
        )
        made = iter([found] if count == 1 else found if count else [])
    joined = [spec.made(b, made) for spec in specs]
    for box, value in zip(carried, joined[len(values) :], strict=True):
        _put(box, value)
    return joined[: len(values)]


def _carried(
    interpreter: Interpreter, block: Any, done: int, values: list[Any], env: Env
) -> tuple[list[Spec], list[Box]]:
    """What the iterations hand on: of each value what is the same in all of them, and what else they change."""
    b = interpreter.b
    specs = [spec_of(value) for value in values]
    boxes: list[Box] = []
    for _ in range(_ROUNDS):
        with b.speller.trial(), b.journal():
            _, results, after = _body(interpreter, block, done, values, env, specs, boxes)
            found = [join(spec, value) for spec, value in zip(specs, results[1:], strict=False)]
            for k, box in enumerate(boxes):
                found.append(join(specs[len(values) + k], after.get(box, _held(box))))
            fresh = [box for box in after if box not in boxes]
            states = {box: after[box] for box in fresh}
        for box in fresh:
            found.append(join(spec_of(_held(box)), states[box]))
        if found == specs:
            return specs, boxes
        specs, boxes = found, [*boxes, *fresh]
    raise Unspellable("what a loop hands on to its next iteration has another type each time")


def _body(
    interpreter: Interpreter,
    block: Any,
    done: int,
    values: Sequence[Any],
    env: Env,
    specs: Sequence[Spec],
    boxes: Sequence[Box],
) -> tuple[ir.Graph, list[Any], dict[Box, Any]]:
    """An iteration as a graph: it, the block's results, and what boxes hold behind it."""
    b = interpreter.b
    born = now()
    with b.speller.body("body") as graph, b.journal() as changed:
        number = _input(b, graph, ir.DataType.INT64)
        _input(b, graph, ir.DataType.BOOL)
        count: Number = b.number(b.tensor(number))
        if done:
            count = b.number(b("Add", count, b.const(torch.tensor(done))))
        starts = [*values, *(_held(box) for box in boxes)]
        inside = [spec.inside(b, graph, value) for spec, value in zip(specs, starts, strict=True)]
        for box, value in zip(boxes, inside[len(values) :], strict=True):
            _put(box, value)
        results = [_as_now(v) for v in _iteration(interpreter, block, count, inside[: len(values)], env)]
        after = {box: _held(box) for box in changed if box.born < born and not _is_view(box)}
    return graph, results, after


def _input(b: Any, graph: ir.Graph, dtype: ir.DataType) -> ir.Value:
    value = ir.Value(name=None, type=ir.TensorType(dtype), shape=ir.Shape([]))
    graph.inputs.append(b.speller.called(value, "iteration"))
    return value
