"""A sequence that a loop does nothing with but append to is what the loop stacks."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from graphfuse.graph.bodies import Carried, behind_identities, body_of, carried, inner_first, is_control, supersede
from graphfuse.graph.dims import symbols
from graphfuse.graph.origins import origins
from graphfuse.ledger import Ledger
from graphfuse.rules.builder import Builder
from graphfuse.rules.engine import infer_again
from graphfuse.rules.narrowing import rebuild, sweep
from graphfuse.rules.sequences import is_sequence, parts, position
from graphfuse.rules.values import dims, input_of, producer

STAGE = "simplify"
ERROR_CLASS = "exact"
ORDER = 8


def apply(model: ir.Model, ledger: Ledger) -> bool:
    """Rewrite loops, inner ones first; whether any was."""
    changed = False
    for node in list(inner_first(model.graph)):
        while node.graph is not None and is_control(node, "Loop"):
            found = next((k for k, pair in enumerate(carried(node)) if _is_appended(pair)), None)
            if found is None:
                break
            node = _stack(node, found, Builder(model), ledger)
            infer_again(model)
            changed = True
    return changed


def _is_appended(pair: Carried) -> bool:
    if not is_sequence(pair.before) or parts(pair.initial) != ():
        return False
    insert = producer(behind_identities(pair.after), "SequenceInsert")
    if insert is None or input_of(insert, 2) is not None or behind_identities(insert.inputs[0]) is not pair.before:
        return False
    shape = dims(insert.inputs[1])
    # Sizes that only the body knows may differ each time: then there is nothing to stack.
    if shape is None or any(name.startswith("_") for name in symbols(shape)):
        return False
    if not _only_feeds(pair.before, insert) or pair.result is None or pair.result.is_graph_output():
        return False
    return all(_is_rewritable(user, shape) for user, _ in pair.result.uses())


def _only_feeds(value: ir.Value, insert: ir.Node) -> bool:
    """Whether nobody reads a sequence but the node that appends to it, and copies on the way there."""
    users = [user for user, _ in value.uses()]
    return all(
        user is insert or (user.op_type == "Identity" and _only_feeds(user.outputs[0], insert)) for user in users
    )


def _is_rewritable(user: ir.Node, shape: tuple[object, ...]) -> bool:
    if user.domain != "" or user.op_type not in ("SequenceAt", "SequenceLength", "ConcatFromSequence"):
        return False
    if user.op_type != "ConcatFromSequence" or not _joins(user):
        return user.op_type != "SequenceAt" or position(user, 1) is None or (position(user, 1) or 0) >= 0
    return all(isinstance(d, int) for d in shape[user.attributes["axis"].as_int() % len(shape) + 1 :])


def _joins(node: ir.Node) -> bool:
    """Whether a ConcatFromSequence joins the tensors along an axis that they have."""
    return node.attributes.get_int("new_axis", 0) == 0


def _stack(node: ir.Node, k: int, build: Builder, ledger: Ledger) -> ir.Node:
    """The loop with the appended tensor as its last stacked result, in place of the k-th carried value."""
    body, pairs = body_of(node), carried(node)
    insert = producer(behind_identities(pairs[k].after), "SequenceInsert")
    assert insert is not None
    assert insert.inputs[1] is not None
    tensor, result = insert.inputs[1], pairs[k].result
    assert result is not None
    end = build.end(body, tensor)
    body.outputs[:] = [*body.outputs[: k + 1], *body.outputs[k + 2 :], end]
    sweep(body, ledger, "simplify_appended")
    body.inputs[:] = [value for value in body.inputs if value is not pairs[k].before]
    users = list(dict.fromkeys(user for user, _ in result.uses()))
    kept = [j for j in range(len(node.outputs)) if j != k]
    inputs = [*node.inputs[: 2 + k], *node.inputs[3 + k :]]
    # The readers of the sequence go first, so that nothing reads what the loop no longer makes.
    stand_in = ir.Value(name=build.value_name(f"{result.name}.stacked"))
    shape = dims(tensor)
    assert shape is not None
    for user in users:
        _read(user, stand_in, len(shape), shape, build, ledger)
    new = rebuild(node, inputs, kept, more=1)
    new.outputs[-1].name = stand_in.name
    ir.convenience.replace_all_uses_with(stand_in, new.outputs[-1])
    return new


def _read(
    user: ir.Node, stack: ir.Value, count: int, shape: tuple[object, ...], build: Builder, ledger: Ledger
) -> None:
    """Let a node that reads the sequence read the stacked tensor, whose first axis counts the sequence's tensors."""
    names = origins(user)
    if user.op_type == "SequenceLength":
        (sizes,) = build.node(user, "Shape", [stack], {"start": 0, "end": 1})
        scalar = build.constant(np.zeros(0, np.int64), f"{user.name}.scalar")
        supersede(user, build.node(user, "Reshape", [sizes, scalar], origins=names))
        return
    if user.op_type == "SequenceAt":
        supersede(user, build.node(user, "Gather", [stack, user.inputs[1]], {"axis": 0}, origins=names))
        return
    joins = _joins(user)
    rank = count if joins else count + 1
    axis = user.attributes["axis"].as_int() % rank
    # The new axis moves to its place; without one, it stands before the axis that it joins.
    perm = [*range(1, axis + 1), 0, *range(axis + 1, count + 1)]
    (moved,) = build.node(user, "Transpose", [stack], {"perm": perm}, origins=() if joins else names)
    if not joins:
        supersede(user, [moved])
        return
    target = build.constant(np.array([0] * axis + [-1, *shape[axis + 1 :]], np.int64), f"{user.name}.shape")
    supersede(user, build.node(user, "Reshape", [moved, target], origins=names))


HITS = (
    """g (float[2, 3] x) => (float[2, 3] w, float[P, 2, 3] y, float[2, P, 3] z) {
        n = Constant<value = int64 {11}>() t = Constant<value = bool {1}>() s = SequenceEmpty()
        u, w = Loop(n, t, s, x) <body = b (int64 i, bool c, seq(float[2, 3]) a, float[2, 3] p)
            => (bool d, seq(float[2, 3]) e, float[2, 3] q) {
                d = Identity(c) q = Tanh(p) f = Cast<to = 1>(i) g = Add(p, f) e = SequenceInsert(a, g) }>
        y0 = ConcatFromSequence<axis = 0, new_axis = 1>(u) y = Relu(y0)
        z = ConcatFromSequence<axis = -2, new_axis = 1>(u) }""",
    """g (float[2, 3] x, int64 j) => (float[P, 3] y, float[2, Q] z, float[2, 3] v, int64 m) {
        n = Constant<value = int64 {11}>() t = Constant<value = bool {1}>() s = SequenceEmpty()
        u = Loop(n, t, s) <body = b (int64 i, bool c, seq(float[2, 3]) a) => (bool d, seq(float[2, 3]) e) {
            d = Identity(c) f = Cast<to = 1>(i) g = Add(x, f) e = SequenceInsert(a, g) }>
        y = ConcatFromSequence<axis = 0>(u) z = ConcatFromSequence<axis = 1>(u) k = Constant<value = int64 {9}>()
        v = SequenceAt(u, k) m = SequenceLength(u) }""",
)
NEAR_MISSES = (
    (
        """g (float[2, 3] x) => (float[P, Q] y) {
            n = Constant<value = int64 {11}>() t = Constant<value = bool {1}>() s = SequenceEmpty()
            u, w = Loop(n, t, s, x) <body = b (int64 i, bool c, seq(float[P, Q]) a, float[P, Q] p)
                => (bool d, seq(float[P, Q]) e, float[P, Q] q) {
                    d = Identity(c) q = Concat<axis = 0>(p, x) e = SequenceInsert(a, p) }>
            y = ConcatFromSequence<axis = 0>(u) }""",
        "",
    ),
)
