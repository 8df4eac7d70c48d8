"""What every iteration of a loop computes alike is computed once, in front of the loop.

A loop may not run at all, and then nothing in it may fail: unless it surely runs, only what cannot fail is moved.
"""

from __future__ import annotations

import onnx_ir as ir

from graphfuse.graph.bodies import bodies, body_of, captured, inner_first, is_control, surely_runs
from graphfuse.graph.origins import label
from graphfuse.graph.randomness import is_random
from graphfuse.ledger import Ledger
from graphfuse.rules.builder import Builder
from graphfuse.rules.certain import cannot_fail

STAGE = "simplify"
ERROR_CLASS = "exact"
ORDER = 60


def apply(model: ir.Model, ledger: Ledger) -> bool:
    """Move nodes out of loops, out of inner ones first; whether any was moved."""
    loops = [node for node in inner_first(model.graph) if is_control(node, "Loop", "Scan")]
    if not loops:
        return False
    build = Builder(model)
    moved = [node for loop in loops for node in _hoist(loop, build, ledger)]
    return bool(moved)


def _hoist(loop: ir.Node, build: Builder, ledger: Ledger) -> list[ir.Node]:
    body, graph = body_of(loop), loop.graph
    assert graph is not None
    inside = set(body.inputs) | {value for node in body for value in node.outputs}
    moved = []
    always = surely_runs(loop)
    for node in list(body):
        if node.op_type == "Identity" or _is_drawn(node):
            continue  # a copy in a body is there because the body's results are its own
        if not always and not cannot_fail(node):
            continue
        if any(value in inside for value in (*node.inputs, *captured(node))):
            continue
        ends = [k for k, value in enumerate(body.outputs) if value.producer() is node]
        for k in ends:
            body.outputs[k] = build.end(body, body.outputs[k])
        body.remove(node)
        graph.insert_before(loop, node)
        inside -= set(node.outputs)
        moved.append(node)
        ledger.note("simplify", label(node), f"computed once, in front of {label(loop)}: no iteration changes it")
    return moved


def _is_drawn(node: ir.Node) -> bool:
    return is_random(node) or any(_is_drawn(inner) for body in bodies(node) for inner in body)


HITS = (
    """g (int64 n, float[2, 3] x, float[3, 3] w) => (float[2, 3] y) {
        t = Constant<value = bool {1}>()
        y = Loop(n, t, x) <body = b (int64 i, bool c, float[2, 3] a) => (bool d, float[2, 3] e) {
            d = Identity(c) u = Exp(w) v = Relu(u) e = MatMul(a, v) }> }""",
    """g (float[2] h, float[N, 2] x, float[2] w) => (float[2] y, float[N, 2] z) {
        y, z = Scan(h, x) <num_scan_inputs = 1, body = b (float[2] a, float[2] s) => (float[2] d, float[2] o) {
            u = Exp(w) e = Add(s, u) d = Add(a, e) o = Neg(w) }> }""",
    """g (int64 n, bool t, float[2, 3] x) => (float[2, 3] y) {
        y = Loop(n, t, x) <body = b (int64 i, bool c, float[2, 3] a) => (bool d, float[2, 3] e) {
            d = Identity(c)
            e = Loop(n, t, a) <body = f (int64 j, bool p, float[2, 3] q) => (bool r, float[2, 3] s) {
                r = Identity(p) u = Exp(x) v = Abs(a) o = Add(q, u) s = Sub(o, v) }> }> }""",
    """g (float[2, 3] x, float[A] w, float[3] s) => (float[2, 3] y) {
        n = Constant<value = int64 {20}>() t = Constant<value = bool {1}>()
        y = Loop(n, t, x) <body = b (int64 i, bool c, float[2, 3] a) => (bool d, float[2, 3] e) {
            d = Identity(c) u = Mul(w, s) e = Add(a, u) }> }""",
)
NEAR_MISSES = (
    (
        """g (int64 n, bool t, float[2, 3] x) => (float[2, 3] y) {
            y = Loop(n, t, x) <body = b (int64 i, bool c, float[2, 3] a) => (bool d, float[2, 3] e) {
                d = Identity(c) r = RandomNormalLike(x) f = Cast<to = 1>(i) g = Mul(r, f) h = Sub(g, g)
                e = Add(a, h) }> }""",
        "",
    ),
    (
        """g (int64 n, bool t, float[2, 3] x, float[N, 3] u, float[K, 3] v) => (float[2, 3] y) {
            y = Loop(n, t, x) <body = b (int64 i, bool c, float[2, 3] a) => (bool d, float[2, 3] e) {
                d = Identity(c) p = Mul(u, v) e = Add(a, p) }> }""",
        "",
    ),
    (
        """g (int64 n, bool t, float[2, 3] x, float[12] u, int64[2] s) => (float[2, 3] y) {
            y = Loop(n, t, x) <body = b (int64 i, bool c, float[2, 3] a) => (bool d, float[2, 3] e) {
                d = Identity(c) p = Reshape(u, s) e = Add(a, p) }> }""",
        "",
    ),
    (
        """g (int64 n, bool t, float[2, 3] x, float[1, K] u, float[L, 3] v) => (float[2, 3] y) {
            y = Loop(n, t, x) <body = b (int64 i, bool c, float[2, 3] a) => (bool d, float[2, 3] e) {
                d = Identity(c) p = MatMul(u, v) e = Add(a, p) }> }""",
        "",
    ),
    (
        """g (int64 n, bool t, float[2, 3] x, float[3] u) => (float[2, 3] y) {
            y = Loop(n, t, x) <body = b (int64 i, bool c, float[2, 3] a) => (bool d, float[2, 3] e) {
                d = Identity(c) p = Loop("", t, u) <body = f (int64 j, bool q, float[3] r) => (bool s, float[3] v) {
                    s = Identity(q) v = Exp(r) }> e = Add(a, p) }> }""",
        "",
    ),
)
