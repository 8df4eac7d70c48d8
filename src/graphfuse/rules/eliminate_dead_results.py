"""What control flow hands on and nobody reads goes: results of branches, values that loops carry, what they stack.

A value that a loop carries and never changes is the initial one.
"""

from __future__ import annotations

from collections.abc import Sequence

import onnx_ir as ir

from graphfuse.graph.bodies import (
    behind_identities,
    body_of,
    captured,
    carried,
    inner_first,
    is_control,
    scan_facts,
)
from graphfuse.ledger import Ledger
from graphfuse.rules.narrowing import is_read, rebuild, sweep

STAGE = "simplify"
ERROR_CLASS = "exact"
ORDER = 70


def apply(model: ir.Model, ledger: Ledger) -> bool:
    """Take out what nobody reads, inner bodies first; whether anything was."""
    changed = False
    for node in list(inner_first(model.graph)):
        if node.graph is None or not is_control(node) or not any(is_read(value) for value in node.outputs):
            continue  # a node nobody reads at all goes as a whole
        changed = (_narrow_if(node, ledger) if node.op_type == "If" else _narrow_loop(node, ledger)) or changed
    return changed


def _narrow_if(node: ir.Node, ledger: Ledger) -> bool:
    branches = [node.attributes[name].as_graph() for name in ("then_branch", "else_branch")]
    same = False
    for k, value in enumerate(node.outputs):
        a, b = (behind_identities(branch.outputs[k]) for branch in branches)
        if a is b and a is not None and a.graph not in branches and value.uses() and not value.is_graph_output():
            ir.convenience.replace_all_uses_with(value, a)
            same = True
    kept = [k for k, value in enumerate(node.outputs) if is_read(value)]
    if len(kept) == len(branches[0].outputs) or not kept:
        return same
    for branch in branches:
        branch.outputs[:] = [branch.outputs[k] for k in kept]
        sweep(branch, ledger, "eliminate_dead_results")
    rebuild(node, node.inputs, kept)
    return True


def _narrow_loop(node: ir.Node, ledger: Ledger) -> bool:
    body, pairs = body_of(node), carried(node)
    is_loop = node.op_type == "Loop"
    unchanged = [k for k, pair in enumerate(pairs) if _is_unchanged(node, k)]
    for k in unchanged:
        pair = pairs[k]
        assert pair.initial is not None
        ir.convenience.replace_all_uses_with(pair.before, pair.initial)
        if pair.result is not None and not pair.result.is_graph_output():
            ir.convenience.replace_all_uses_with(pair.result, pair.initial)
    stacked = range(len(pairs), len(body.outputs) - is_loop)
    wanted = [k for k in stacked if k < len(node.outputs) and is_read(node.outputs[k])]
    live = _live_pairs(node, [body.outputs[k + is_loop] for k in wanted])
    live = [k for k in live if k not in unchanged or is_read(pairs[k].result)]
    kept = [*live, *wanted]
    if len(kept) == len(body.outputs) - is_loop:
        return False
    skip = 2 * is_loop
    slices = body.inputs[len(pairs) :] if not is_loop else []
    attributes = _narrowed_attributes(node, [k - len(pairs) for k in wanted]) if not is_loop else {}
    body.outputs[:] = [*body.outputs[:is_loop], *(body.outputs[k + is_loop] for k in kept)]
    sweep(body, ledger, "eliminate_dead_results")
    body.inputs[:] = [*body.inputs[:skip], *(pairs[k].before for k in live), *slices]
    sources = node.inputs[len(pairs) :] if not is_loop else ()
    inputs = [*node.inputs[:skip], *(pairs[k].initial for k in live), *sources]
    rebuild(node, inputs, kept, attributes)
    return True


def _is_unchanged(node: ir.Node, k: int) -> bool:
    """Whether the body hands on a carried value as it got it."""
    pair = carried(node)[k]
    return pair.initial is not None and behind_identities(pair.after) is pair.before


def _live_pairs(node: ir.Node, wanted: Sequence[ir.Value]) -> list[int]:
    """The carried values that somebody reads: behind the loop, or in it on the way to what is read behind it."""
    body, pairs = body_of(node), carried(node)
    live = {k for k, pair in enumerate(pairs) if is_read(pair.result)}
    roots = [*body.outputs[: node.op_type == "Loop"], *wanted, *(pairs[k].after for k in sorted(live))]
    seen: set[ir.Value] = set()
    place = {pair.before: k for k, pair in enumerate(pairs)}
    while roots:
        value = roots.pop()
        if value in seen:
            continue
        seen.add(value)
        if value in place and place[value] not in live:
            live.add(place[value])
            roots.append(pairs[place[value]].after)
        maker = value.producer()
        if maker is not None and maker.graph is body:
            roots += [v for v in (*maker.inputs, *captured(maker)) if v is not None]
    return sorted(live)


def _narrowed_attributes(node: ir.Node, stacks: list[int]) -> dict[str, ir.Attr]:
    """A Scan's attributes with these stacked results only."""
    facts = scan_facts(node)
    axes = node.attributes.get_ints("scan_output_axes", (0,) * len(facts.output_axes))
    return {
        "scan_output_axes": ir.AttrInt64s("scan_output_axes", [axes[k] for k in stacks]),
        "scan_output_directions": ir.AttrInt64s(
            "scan_output_directions", [int(facts.output_reverse[k]) for k in stacks]
        ),
    }


HITS = (
    """g (int64 n, bool t, float[2, 3] x, float[2] z) => (float[2, 3] y) {
        y, u, v = Loop(n, t, x, z) <body = b (int64 i, bool c, float[2, 3] a, float[2] p)
            => (bool d, float[2, 3] e, float[2] q, float[2] s) {
                d = Identity(c) e = Exp(a) q = Neg(p) s = Abs(q) }> }""",
    """g (int64 n, bool t, float[2, 3] x, float[2, 3] z) => (float[2, 3] y, float[2, 3] w) {
        y, u = Loop(n, t, x, z) <body = b (int64 i, bool c, float[2, 3] a, float[2, 3] p)
            => (bool d, float[2, 3] e, float[2, 3] q) {
                d = Identity(c) e = Add(a, p) q = Identity(p) }> w = Relu(u) }""",
    """g (bool c, float[2, 3] x) => (float[2, 3] y) {
        u, y, w = If(c) <then_branch = a () => (float[2, 3] p, float[2, 3] q, float[2, 3] r) {
            p = Exp(x) q = Abs(x) r = Abs(p) }, else_branch = b () => (float[2, 3] d, float[2, 3] e, float[2, 3] f) {
            d = Relu(x) e = Neg(d) f = Exp(d) }> }""",
    """g (float[2] h, float[2] k, float[N, 2] x) => (float[2] y, float[2, N] z) {
        y, v, u, z = Scan(h, k, x) <num_scan_inputs = 1, scan_output_axes = [0, 1], scan_output_directions = [0, 1],
            body = b (float[2] a, float[2] p, float[2] s) => (float[2] d, float[2] q, float[2] o, float[2] m) {
                d = Add(a, s) q = Mul(p, s) o = Exp(q) m = Neg(d) }> }""",
    """g (bool c, float[2, 3] x) => (float[2, 3] y, float[2, 3] z) { w = Sinh(x)
        y, u = If(c) <then_branch = a () => (float[2, 3] p, float[2, 3] q) { p = Exp(x) q = Identity(w) },
        else_branch = b () => (float[2, 3] d, float[2, 3] e) { d = Relu(x) e = Identity(w) }> z = Abs(u) }""",
)
NEAR_MISSES = (
    (
        """g (int64 n, bool t, float[2] x, float[2] z) => (float[2] y) {
            y, u = Loop(n, t, x, z) <body = b (int64 i, bool c, float[2] a, float[2] p)
                => (bool d, float[2] e, float[2] q) { d = Identity(c) e = Add(a, p) q = Exp(p) }> }""",
        "",
    ),
)
