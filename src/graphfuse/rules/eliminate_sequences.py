"""Sequences and optionals go: where their parts are known, the nodes that take one read its parts."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx_ir as ir

from graphfuse.graph.bodies import empty, inner_first, supersede
from graphfuse.graph.lists import note_list
from graphfuse.graph.origins import origins
from graphfuse.ledger import Ledger
from graphfuse.rules.builder import Builder
from graphfuse.rules.engine import infer_again
from graphfuse.rules.sequences import LONGEST, Parts, content, is_sequence, parts, position
from graphfuse.rules.values import array, dims, input_of, keeps_shape

STAGE = "simplify"
ERROR_CLASS = "exact"
ORDER = 7

_REASON = "what it holds is known at compile time"


def apply(model: ir.Model, ledger: Ledger) -> bool:
    """Spell out what is known; whether anything was."""
    takers = [node for node in inner_first(model.graph) if node.domain == "" and node.op_type in _TAKERS]
    lists = [value for value in model.graph.outputs if not isinstance(value.type, ir.TensorType | None)]
    if not takers and not lists:
        return False
    build = Builder(model)
    changed = False
    for node in takers:
        if node.graph is not None:
            changed = _TAKERS[node.op_type](node, build, ledger) or changed
    for value in lists:
        changed = _spell_out(model, value, build) or changed
    if changed:
        infer_again(model)
    return changed


def _replace(node: ir.Node, result: ir.Value, ledger: Ledger) -> bool:
    """Let a value take the place of a node that only picks it."""
    names = origins(node)
    supersede(node, [result])
    ledger.settle(names, "removed", by="eliminate_sequences", reason=_REASON)
    return True


def _at(node: ir.Node, build: Builder, ledger: Ledger) -> bool:
    found, index = parts(node.inputs[0]), position(node, 1)
    if found is None:
        return False
    if index is not None:
        return -len(found) <= index < len(found) and _replace(node, found[index], ledger)
    if not found or not all(keeps_shape(found[0], other) for other in found):
        return False
    # Any of several tensors of one shape: they are stacked, and one is taken out.
    zero = build.constant(np.zeros(1, np.int64), f"{node.name}.axes")
    rows = [build.node(node, "Unsqueeze", [part, zero])[0] for part in found]
    (stack,) = build.node(node, "Concat", rows, {"axis": 0})
    supersede(node, build.node(node, "Gather", [stack, node.inputs[1]], {"axis": 0}, origins=origins(node)))
    return True


def _length(node: ir.Node, build: Builder, ledger: Ledger) -> bool:
    found = parts(node.inputs[0])
    if found is None:
        return False
    return _replace(node, build.constant(np.array(len(found), np.int64), f"{node.name}.length"), ledger)


def _concat(node: ir.Node, build: Builder, ledger: Ledger) -> bool:
    found = parts(node.inputs[0])
    if not found:
        return False
    axis = node.attributes["axis"].as_int()
    tensors = list(found)
    if node.attributes.get_int("new_axis", 0):
        axes = build.constant(np.array([axis], np.int64), f"{node.name}.axes")
        tensors = [build.node(node, "Unsqueeze", [part, axes])[0] for part in found]
    supersede(node, build.node(node, "Concat", tensors, {"axis": axis}, origins=origins(node)))
    return True


def _split(node: ir.Node, build: Builder, ledger: Ledger) -> bool:
    """A split into pieces of known sizes: a Split, and a sequence of what it makes."""
    data, given = node.inputs[0], input_of(node, 1)
    shape = dims(data)
    axis = node.attributes.get_int("axis", 0)
    sizes = None if shape is None else _sizes(shape[axis], array(given) if given is not None else np.array(1))
    listed = dims(given)
    if sizes is not None:
        split, count = build.constant(np.array(sizes, np.int64), f"{node.name}.split"), len(sizes)
    elif given is not None and listed is not None and len(listed) == 1 and isinstance(listed[0], int):
        split, count = given, listed[0]  # sizes that only a run knows, but so many of them
    else:
        return False
    if data is None or data.dtype is None or count > LONGEST:
        return False
    if not count:
        (empty,) = build.node(node, "SequenceEmpty", [], {"dtype": int(data.dtype)})
        return _replace(node, empty, ledger)
    pieces = build.node(node, "Split", [data, split], {"axis": axis}, outputs=count, origins=origins(node))
    if given is None and not node.attributes.get_int("keepdims", 1):
        axes = build.constant(np.array([axis], np.int64), f"{node.name}.axes")
        pieces = [build.node(node, "Squeeze", [piece, axes])[0] for piece in pieces]
    supersede(node, build.node(node, "SequenceConstruct", pieces))
    return True


def _sizes(size: object, split: np.ndarray | None) -> list[int] | None:
    if split is None:
        return None
    if split.ndim:
        return [int(s) for s in split]
    step = int(split)
    if not isinstance(size, int) or step < 1:
        return None
    return [min(step, size - start) for start in range(0, size, step)]


def _has(node: ir.Node, build: Builder, ledger: Ledger) -> bool:
    found = content(input_of(node, 0))
    if found is None:
        return False
    return _replace(node, build.constant(np.array(found[0]), f"{node.name}.answer"), ledger)


def _get(node: ir.Node, build: Builder, ledger: Ledger) -> bool:
    found = content(node.inputs[0])
    return found is not None and found[1] is not None and _replace(node, found[1], ledger)


def _map(node: ir.Node, build: Builder, ledger: Ledger) -> bool:
    """The body once for each element, and sequences of what it makes."""
    body = node.attributes["body"].as_graph()
    columns = [_column(value) for value in node.inputs]
    lengths = {len(c) for c in columns if isinstance(c, tuple)}
    if None in columns or len(lengths) != 1:
        return False
    (length,) = lengths
    rows = []
    for k in range(length):
        given = [c[k] if isinstance(c, tuple) else c for c in columns]
        rows.append(build.copy(node, body, given, k))
    settled = [] if length else [name for inner in inner_first(body) for name in origins(inner)]
    ledger.settle(settled, "removed", by="eliminate_sequences", reason="the sequence is empty")
    results = []
    for j, result in enumerate(node.outputs):
        if length:
            results += build.node(node, "SequenceConstruct", [row[j] for row in rows])
        else:
            kind = body.outputs[j].dtype or ir.DataType.FLOAT
            results += build.node(node, "SequenceEmpty", [], {"dtype": int(kind)})
        results[-1].type = results[-1].type or result.type
    names = origins(node)
    supersede(node, results)
    empty(body)
    ledger.settle(names, "removed", by="eliminate_sequences", reason=_REASON)
    return True


def _column(value: ir.Value | None) -> Parts | ir.Value | None:
    """The parts of a sequence, or the tensor that goes with every one of them."""
    return parts(value) if is_sequence(value) else value


def _if(node: ir.Node, build: Builder, ledger: Ledger) -> bool:
    """Branches that give sequences of one length give their tensors instead."""
    branches = [node.attributes[name].as_graph() for name in ("then_branch", "else_branch")]
    lists = [k for k, value in enumerate(node.outputs) if is_sequence(value) or isinstance(value.type, ir.OptionalType)]
    found = [[_column_of(branch.outputs[k]) for branch in branches] for k in lists]
    if not lists or any(a is None or b is None or len(a) != len(b) for a, b in found):
        return False
    spelled = dict(zip(lists, found, strict=True))
    starts: list[int] = []
    for which, branch in enumerate(branches):
        ends: list[ir.Value] = []
        starts = []
        for k, value in enumerate(list(branch.outputs)):
            starts.append(len(ends))
            pair = spelled.get(k)
            ends += [value] if pair is None else [build.end(branch, part) for part in pair[which] or ()]
        branch.outputs[:] = ends
    attributes = {name: ir.AttrGraph(name, branch) for name, branch in zip(_BRANCHES, branches, strict=True)}
    count = len(branches[0].outputs)
    values = build.node(node, "If", [node.inputs[0]], attributes, outputs=count, origins=origins(node))
    results: list[ir.Value] = []
    for k, value in enumerate(node.outputs):
        last = starts[k + 1] if k + 1 < len(starts) else count
        mine = values[starts[k] : last]
        if k not in spelled:
            results += mine
        elif is_sequence(value):
            results += build.node(node, "SequenceConstruct", mine)
        else:
            results += build.node(node, "Optional", mine)
        results[-1].type = results[-1].type or value.type
    supersede(node, results)
    return True


_BRANCHES = ("then_branch", "else_branch")


def _column_of(value: ir.Value) -> Parts | None:
    """The tensors that stand for a sequence, or for an optional that holds one."""
    if is_sequence(value):
        return parts(value)
    found = content(value)
    return (found[1],) if found is not None and found[1] is not None else None


_TAKERS: dict[str, Callable[[ir.Node, Builder, Ledger], bool]] = {
    "SequenceAt": _at,
    "SequenceLength": _length,
    "ConcatFromSequence": _concat,
    "SplitToSequence": _split,
    "SequenceMap": _map,
    "OptionalHasElement": _has,
    "OptionalGetElement": _get,
    "If": _if,
}


def _spell_out(model: ir.Model, value: ir.Value, build: Builder) -> bool:
    """Return the tensors of a list in place of the list."""
    name = value.name or ""
    if isinstance(value.type, ir.OptionalType) and not is_sequence(value):
        found = content(value)
        tensors: Parts | None = (found[1],) if found is not None and found[1] is not None else None
        names = [name]
    else:
        tensors = parts(value)
        names = [build.value_name(f"{name}.{k}") for k in range(len(tensors or ()))]
        if tensors is not None:
            note_list(model, name, names)
    if tensors is None:
        return False
    graph = model.graph
    k = list(graph.outputs).index(value)
    value.name = build.value_name(f"{name}.list")
    ends = [build.end(graph, part) for part in tensors]
    for end, wanted in zip(ends, names, strict=True):
        end.name = wanted
    graph.outputs[k : k + 1] = ends
    return True


HITS = (
    """g (float[N, 3] x, float[N, 3] z) => (float[N, 3] y) {
        k = Constant<value = int64 {-1}>() s = SequenceConstruct(x, z) a = Abs(x) t = SequenceInsert(s, a)
        y0 = SequenceAt(t, k) y = Relu(y0) }""",
    """g (float[N, 3] x, float[N, 3] z) => (float[P, 3] y, int64 n) {
        zero = Constant<value = int64 {0}>() s = SequenceEmpty() t = SequenceInsert(s, x) u = SequenceInsert(t, z, zero)
        y = ConcatFromSequence<axis = 0>(u) n = SequenceLength(u) }""",
    """g (float[5, 3] x, int64 k) => (float[P, Q] y) {
        two = Constant<value = int64 {2}>() one = Constant<value = int64 {1}>()
        s = SplitToSequence<axis = 0>(x, two) t = SequenceErase(s, one) y = SequenceAt(t, one) }""",
    """g (float[0, 3] x) => (int64 n) { two = Constant<value = int64 {2}>() s = SplitToSequence(x, two)
        n = SequenceLength(s) }""",
    """g (float[2, 3] x) => (float[P, Q] y) {
        s = SplitToSequence<axis = 1, keepdims = 0>(x) y = ConcatFromSequence<axis = 0, new_axis = 1>(s) }""",
    """g (float[4, 3] x, float[3] w) => (float[P, Q] y) {
        s = SplitToSequence<axis = 0>(x)
        t = SequenceMap(s, w) <body = b (float[1, 3] a, float[3] c) => (float[1, 3] d) { e = Mul(a, c) d = Exp(e) }>
        y = ConcatFromSequence<axis = 0>(t) }""",
    """g (bool c, float[2, 3] x) => (float[2, 3] y) {
        s = If(c) <then_branch = a () => (seq(float[2, 3]) u) { e = Exp(x) u = SequenceConstruct(x, e) },
                   else_branch = b () => (seq(float[2, 3]) v) { r = Relu(x) v = SequenceConstruct(r, x) }>
        one = Constant<value = int64 {1}>() y = SequenceAt(s, one) }""",
    """g (float[2, 3] x) => (float[2, 3] y, bool h) {
        o = Optional(x) h = OptionalHasElement(o) z = OptionalGetElement(o) y = Relu(z) }""",
)
NEAR_MISSES = (
    (
        """g (float[2, 3] x, float[3] z, int64 k) => (float[P, 3] y) {
            s = SequenceConstruct(x, z) t = SequenceErase(s, k) y = SequenceAt(t, k) }""",
        "",
    ),
)
