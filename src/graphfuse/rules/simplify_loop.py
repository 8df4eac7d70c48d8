"""Loop and Scan go where it is known how often they run, and that is seldom: each iteration stands by itself."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from graphfuse.graph.bodies import (
    body_of,
    carried,
    changes_rank,
    empty,
    inner_first,
    is_control,
    scan_facts,
    supersede,
    trips,
)
from graphfuse.graph.origins import origins
from graphfuse.ledger import Ledger
from graphfuse.rules.builder import Builder
from graphfuse.rules.engine import infer_again
from graphfuse.rules.sequences import is_sequence

STAGE = "simplify"
ERROR_CLASS = "exact"
ORDER = 9

# Iterations that are spelled out where nothing asks for it, and the nodes that come of it.
_MOST_TRIPS = 8
_MOST_NODES = 256
# The same where a loop cannot be compiled as one: it carries a sequence, or a tensor of another rank each time.
_MOST_FORCED_TRIPS = 1024
_MOST_FORCED_NODES = 8192


def apply(model: ir.Model, ledger: Ledger) -> bool:
    """Spell out loops, inner ones first; whether any was."""
    loops = [node for node in inner_first(model.graph) if is_control(node, "Loop", "Scan")]
    changed = False
    for node in loops:
        count = trips(node) if node.graph is not None else None
        if count is None or not _worth(node, count):
            continue
        changed = _spell_out(node, count, Builder(model), ledger) or changed
        if changed:
            infer_again(model)
    return changed


def _worth(node: ir.Node, count: int) -> bool:
    nodes = count * sum(1 for _ in inner_first(body_of(node)))
    pairs = carried(node)
    forced = any(is_sequence(pair.initial) or is_sequence(pair.before) or changes_rank(pair.before) for pair in pairs)
    if forced:
        return count <= _MOST_FORCED_TRIPS and nodes <= _MOST_FORCED_NODES
    return count <= 1 or (count <= _MOST_TRIPS and nodes <= _MOST_NODES)


def _spell_out(node: ir.Node, count: int, build: Builder, ledger: Ledger) -> bool:
    is_loop = node.op_type == "Loop"
    body, pairs = body_of(node), carried(node)
    stacks = body.outputs[is_loop + len(pairs) :]
    stacked: list[ir.Value] | None = [] if count else _nothing(node, stacks, build)
    if stacked is None:
        return False
    values, rows = [pair.initial for pair in pairs], []
    for k in range(count):
        given = _counters(node, k, build) + values if is_loop else values + _slices(node, k, count, build)
        results = build.copy(node, body, given, k)[is_loop:]
        values = [*results[: len(pairs)]]
        rows.append(results[len(pairs) :])
    if rows:
        stacked = _stack(node, list(zip(*rows, strict=True)), build)
    why = f"it runs {count} time{'s' * (count != 1)}"
    inside = [name for inner in inner_first(body) for name in origins(inner)]
    ledger.settle(origins(node), "removed", by="simplify_loop", reason=f"{why}, each by itself")
    supersede(node, [*values, *stacked][: len(node.outputs)])
    empty(body)
    if count == 0:
        ledger.settle(inside, "removed", by="simplify_loop", reason=f"the loop around it never runs: {why}")
    return True


_Given = list[ir.Value | None]


def _counters(node: ir.Node, k: int, build: Builder) -> _Given:
    """The iteration's number and the condition, which a Loop's body starts with."""
    number = build.constant(np.array(k, np.int64), f"{node.name}.{k}")
    return [number, build.constant(np.array(True), f"{node.name}.runs")]


def _slices(node: ir.Node, k: int, count: int, build: Builder) -> _Given:
    """What a Scan's body gets of the scanned inputs."""
    facts = scan_facts(node)
    taken: _Given = []
    for source, axis, reverse in zip(node.inputs[facts.states :], facts.input_axes, facts.input_reverse, strict=True):
        at = build.constant(np.array(count - 1 - k if reverse else k, np.int64), f"{node.name}.{k}")
        taken += build.node(node, "Gather", [source, at], {"axis": axis})
    return taken


def _stack(node: ir.Node, columns: Sequence[Sequence[ir.Value]], build: Builder) -> list[ir.Value]:
    """What the iterations made, side by side."""
    results: list[ir.Value] = []
    for column, axis, reverse in zip(columns, *_stacking(node, len(columns)), strict=True):
        axes = build.constant(np.array([axis], np.int64), f"{node.name}.axes")
        rows = [build.node(node, "Unsqueeze", [value, axes])[0] for value in column]
        results += build.node(node, "Concat", rows[::-1] if reverse else rows, {"axis": axis})
    return results


def _stacking(node: ir.Node, count: int) -> tuple[Sequence[int], Sequence[bool]]:
    """The new axis of each stacked result, and whether it goes backward."""
    if node.op_type == "Loop":
        return [0] * count, [False] * count
    facts = scan_facts(node)
    return [axis or 0 for axis in facts.output_axes], facts.output_reverse


def _nothing(node: ir.Node, stacks: Sequence[ir.Value], build: Builder) -> list[ir.Value] | None:
    """The stacked results of no iteration, None where only an iteration would tell their sizes."""
    results = []
    for value, axis in zip(stacks, _stacking(node, len(stacks))[0], strict=True):
        if value.shape is None or not value.shape.is_static() or value.dtype is None:
            return None
        shape = list(value.shape.numpy())
        shape.insert(axis, 0)
        results.append(build.constant(np.zeros(shape, value.dtype.numpy()), f"{value.name}.none"))
    return results


HITS = (
    """g (float[2, 3] x) => (float[2, 3] y, float[P, 2, 3] z) {
        n = Constant<value = int64 {3}>() t = Constant<value = bool {1}>()
        y, z = Loop(n, t, x) <body = b (int64 i, bool c, float[2, 3] a) => (bool d, float[2, 3] e, float[2, 3] s) {
            d = Identity(c) f = Cast<to = 1>(i) e = Add(a, f) s = Exp(e) }> }""",
    """g (float[2, 3] x) => (float[2, 3] y, float[P, 2, 3] z) {
        n = Constant<value = int64 {0}>() t = Constant<value = bool {1}>()
        y, z = Loop(n, t, x) <body = b (int64 i, bool c, float[2, 3] a) => (bool d, float[2, 3] e, float[2, 3] s) {
            d = Identity(c) f = Cast<to = 1>(i) e = Add(a, f) s = Exp(e) }> }""",
    """g (float[2, 3] x) => (float[2, 3] y) {
        n = Constant<value = int64 {1000}>() t = Constant<value = bool {1}>() never = Constant<value = bool {0}>()
        y = Loop(n, t, x) <body = b (int64 i, bool c, float[2, 3] a) => (bool d, float[2, 3] e) {
            d = Identity(never) e = Exp(a) }> }""",
    """g (float[2, 1] x) => (float[1, 2] y) {
        n = Constant<value = int64 {12}>() t = Constant<value = bool {1}>() s = SequenceEmpty()
        u = Loop(n, t, s) <body = b (int64 i, bool c, seq(float[2, 1]) a) => (bool d, seq(float[2, 1]) e) {
            d = Identity(c) f = Cast<to = 1>(i) g = Add(x, f) e = SequenceInsert(a, g) }>
        k = Constant<value = int64 {11}>() v = SequenceAt(u, k)
        r = Constant<value = int64[2] {1, 2}>() y = Reshape(v, r) }""",
    """g (float[B, 4] h, float[3, B, 4] x, float[B, 4, 3] u) => (float[B, 4] y, float[B, 4, 3] z) {
        y, z = Scan(h, x, u) <num_scan_inputs = 2, scan_input_axes = [0, 2], scan_input_directions = [1, 0],
            scan_output_axes = [-1], scan_output_directions = [1],
            body = b (float[B, 4] a, float[B, 4] p, float[B, 4] q) => (float[B, 4] d, float[B, 4] o) {
                e = Mul(p, q) d = Add(a, e) o = Tanh(d) }> }""",
)
NEAR_MISSES = (
    (
        """g (float[2, 3] x) => (float[2, 3] y) {
            n = Constant<value = int64 {9}>() t = Constant<value = bool {1}>()
            y = Loop(n, t, x) <body = b (int64 i, bool c, float[2, 3] a) => (bool d, float[2, 3] e) {
                d = Identity(c) e = Exp(a) }> }""",
        "",
    ),
    (
        """g (float[2, 3] x, bool t) => (float[2, 3] y) {
            n = Constant<value = int64 {2}>()
            y = Loop(n, t, x) <body = b (int64 i, bool c, float[2, 3] a) => (bool d, float[2, 3] e) {
                d = Identity(c) e = Exp(a) }> }""",
        "",
    ),
)
