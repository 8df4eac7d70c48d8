"""Results in the place of dying operands: the same bits as apart, never where an operand is still read."""

from __future__ import annotations

import random
from dataclasses import replace
from itertools import combinations
from pathlib import Path

import numpy as np
import onnx
import pytest

import zoo
from codegen.building import Emitted, build, emitted, parse
from codegen.sanitizing import build_sanitized, run_sanitized
from fusion.graphs import SYMBOLIC_SIZE, draw_graph, inputs_of
from graphfuse.codegen.module import assemble
from graphfuse.compiler import Job, run_stages
from graphfuse.graph.dims import assuming, estimate, evaluate
from graphfuse.options import CompileOptions
from graphfuse.plan.calls import Plan, lifetimes
from graphfuse.plan.in_place import take_places
from graphfuse.plan.memory import live
from graphfuse.plan.view import View
from graphfuse.runtime.preamble import pool_source, preamble, slots_source
from ops.cases import inferred

CPUS = ("native", "x86_64_v3", "x86_64")


def in_place(e: Emitted) -> Emitted:
    """The same model with results in the place of operands."""
    plan = take_places(e.plan)
    lanes = e.target.lanes
    module = assemble(plan, (preamble(lanes, False), preamble(lanes, True)), pool_source(), slots_source())
    return Emitted(e.fusion, plan, module, e.target)


def values(seed: int, *shape: int) -> str:
    numbers = np.random.default_rng(seed).standard_normal(int(np.prod(shape))).round(3)
    return ", ".join(map(str, numbers))


def weights(**shapes: tuple[int, ...]) -> str:
    parts = [
        f"float[{', '.join(map(str, shape))}] {name} = {{{values(k, *shape)}}}"
        for k, (name, shape) in enumerate(shapes.items())
    ]
    return f"<{', '.join(parts)}>"


# name -> (text, results that take an operand's place). The residual is computed, read once more and dies.
CASES = {
    "pixels by channels": (
        f"""g (float[N, 13, 7, 5] x) => (float[N, 13, 7, 5] y) {weights(w=(13, 13, 1, 1), v=(13, 13, 1, 1))} {{
            r = Conv(x, w) a = Conv(r, v) b = Add(a, r) c = Relu(b) y = Exp(c) }}""",
        0,  # the residual is what the convolution reads, and the result is the caller's
    ),
    "1x1 convolution": (
        f"""g (float[N, 13, 7, 5] x) => (float[N, 13] y)
            {weights(w=(13, 13, 1, 1), v=(13, 13, 1, 1), u=(13, 13, 1, 1))} {{
            r = Conv(x, w) h = Conv(r, v) t = Tanh(h) a = Conv(t, u) b = Add(a, r) c = Relu(b)
            d = GlobalAveragePool(c) y = Flatten(d) }}""",
        1,
    ),
    "3x3 convolution": (
        f"""g (float[N, 17, 9, 11] x) => (float[N, 17] y) {weights(w=(17, 17, 3, 3), v=(17, 17, 3, 3))} {{
            r = Conv<pads = [1, 1, 1, 1]>(x, w) s = Sigmoid(r) h = Conv<pads = [1, 1, 1, 1]>(s, v) b = Add(h, s)
            k = Conv<pads = [1, 1, 1, 1]>(b, w) b2 = Add(k, b) c = Relu(b2) d = GlobalMaxPool(c) y = Flatten(d) }}""",
        0,  # each is read by the convolution that it is added to
    ),
    "3x3 behind another": (
        f"""g (float[N, 17, 9, 11] x) => (float[N, 17] y) {weights(w=(17, 17, 3, 3), v=(17, 17, 3, 3))} {{
            r = Conv<pads = [1, 1, 1, 1]>(x, w) h = Conv<pads = [1, 1, 1, 1]>(r, v) g = Relu(h)
            k = Conv<pads = [1, 1, 1, 1]>(g, w) b = Add(k, r) c = Relu(b) d = GlobalMaxPool(c) y = Flatten(d) }}""",
        1,
    ),
    "strided and depthwise": (
        f"""g (float[N, 19, 9, 9] x) => (float[N, 19] y)
            {weights(w=(19, 19, 3, 3), v=(19, 1, 3, 3), u=(19, 19, 1, 1))} {{
            r = Conv<pads = [1, 1, 1, 1], strides = [2, 2]>(x, w) p = Conv(r, u) q = Relu(p)
            h = Conv<pads = [1, 1, 1, 1], group = 19>(q, v) b = Add(r, h) c = HardSwish(b)
            d = GlobalMaxPool(c) y = Flatten(d) }}""",
        1,
    ),
    "3x3 of stride 2": (
        f"""g (float[N, 17, 9, 11] x) => (float[N, 17] y) {weights(w=(17, 17, 3, 3), v=(17, 17, 3, 3))} {{
            r = Conv<pads = [1, 1, 1, 1], strides = [2, 2]>(x, w) h = Conv<pads = [1, 1, 1, 1]>(x, v) g = Relu(h)
            k = Conv<pads = [1, 1, 1, 1], strides = [2, 2]>(g, w) b = Add(k, r) c = Relu(b)
            d = GlobalMaxPool(c) y = Flatten(d) }}""",
        1,
    ),
    "pooling and a transposed convolution": (
        f"""g (float[N, 6, 5, 5] x) => (float[N, 6] y) {weights(w=(6, 6, 1, 1), v=(6, 6, 3, 3))} {{
            r = Conv(x, w) q = Relu(r) p = Exp(q) m = MaxPool<kernel_shape = [3, 3], pads = [1, 1, 1, 1]>(p)
            b = Add(m, r) h = Conv(b, w) i = Tanh(h) t = ConvTranspose<pads = [1, 1, 1, 1]>(i, v) c = Add(t, b)
            d = GlobalMaxPool(c) y = Flatten(d) }}""",
        2,
    ),
    "tokens": (
        f"""g (float[N, 10, 33] x) => (float[N, 10, 33] y)
            {weights(w=(33, 47), v=(47, 33), s=(33,), b=(33,))} {{
            a = Exp(x) n = LayerNormalization(a, s, b) h = MatMul(n, w) i = Gelu(h) o = MatMul(i, v) c = Add(o, a)
            m = LayerNormalization(c, s, b) h2 = MatMul(m, w) i2 = Gelu(h2) o2 = MatMul(i2, v) y = Add(c, o2) }}""",
        1,  # the other one is the caller's
    ),
    "softmax and its neighbours": (
        """g (float[N, 7, 45] x, float[N, 7, 45] z) => (float[N, 7, 45] y) {
            a = Softmax<axis = 1>(x) b = Softmax(a) c = Softmax<axis = 0>(b) e = Mul(c, z)
            y = Softmax<axis = 1>(e) }""",
        2,
    ),
    "read again later": (
        """g (float[N, 7, 45] x) => (float[N, 7, 45] y) {
            a = Softmax<axis = 1>(x) b = Softmax(a) c = Softmax<axis = 0>(b) d = Add(c, a)
            y = Softmax<axis = 1>(d) }""",
        1,
    ),
    "a broadcast operand": (
        """g (float[N, 1, 45] x, float[N, 7, 45] z) => (float[N, 7, 45] y) {
            a = Softmax(x) b = Mul(a, z) c = Softmax<axis = 1>(b) y = Softmax<axis = 0>(c) }""",
        0,
    ),
    "a transposed operand": (
        """g (float[12, 12] x) => (float[12, 12] y) {
            a = Softmax(x) t = Transpose<perm = [1, 0]>(a) b = Mul(t, x) c = Softmax<axis = 0>(b) y = Softmax(c) }""",
        1,
    ),
}


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("cpu", CPUS)
def test_the_same_bits_as_apart(name: str, cpu: str) -> None:
    text, wanted = CASES[name]
    apart = emitted(inferred(parse(text)), cpu)
    together = in_place(apart)
    assert len(together.plan.homes) == wanted, [c.label for c in apart.plan.calls]
    first, second = build([apart, together])
    model = parse(text)
    for n in (1, 3):
        inputs = inputs_of(model, n, n)
        expected = [a.tobytes() for a in first(inputs)]
        for threads in (1, 2, 3):
            assert [a.tobytes() for a in second(inputs, threads)] == expected


@pytest.mark.parametrize("symbolic", [False, True])
def test_random_graphs(symbolic: bool) -> None:
    found: list[tuple[onnx.ModelProto, Emitted, Emitted]] = []
    for seed in range(7000, 7150):
        model = draw_graph(random.Random(seed).choice, symbolic)
        e = emitted(inferred(model))
        together = in_place(e)
        if together.plan.homes:
            found.append((model, e, together))
    assert len(found) > 5
    runs = build([x for _, *pair in found for x in pair])
    for k, (model, _, together) in enumerate(found):
        for n in (SYMBOLIC_SIZE, 1, 33) if symbolic else (SYMBOLIC_SIZE,):
            check_pointers(together.plan, n)
            inputs = inputs_of(model, k, n)
            expected = [a.tobytes() for a in runs[2 * k](inputs)]
            for threads in (1, 2):
                assert [a.tobytes() for a in runs[2 * k + 1](inputs, threads)] == expected


def check_pointers(plan: Plan, n: int) -> None:
    """What a call writes is known to it by one pointer alone: the compiler may take pointers for apart."""
    env = {"N": n, "batch": n}
    for call in plan.calls:
        places = {}
        for p in call.code.pointers:
            if isinstance(p, View) and p.buffer.kind == "arena":
                start = evaluate(plan.arena.offsets[p.buffer], env)
                places[p] = (start, start + evaluate(p.buffer.bytes, env))
        for (v, (a, b)), (w, (c, d)) in combinations(places.items(), 2):
            if v in call.results or w in call.results:
                assert b <= c or d <= a or v.buffer is w.buffer, call.label
        for result in call.results:
            assert sum(p == result for p in call.code.pointers) <= 1, call.label


@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v2", "vit_tiny"])
def test_networks(name: str) -> None:
    """No pointer meets another, and the arena is what lives at the same time."""
    job = run_stages(Job(zoo.path(name), CompileOptions(strips=False)), stop_after="plan")
    plan: Plan = job.results["plan"]
    assert len(plan.homes) >= 7
    check_pointers(plan, 1)
    with assuming(plan.one_item):
        spans = [(estimate(x.size), x.first, x.last) for x in lifetimes(plan.calls)]
        assert max(live(spans)) <= estimate(plan.arena.size) <= 1.05 * max(live(spans))
    # What stands in the plan for looking inside is the calls as they were.
    before = {p.buffer for step in plan.steps for p in step.code.pointers if isinstance(p, View)}
    assert before >= set(plan.homes)
    assert {view.buffer for view in plan.views.values()} >= set(plan.homes)


def test_an_arena_that_would_grow_is_left() -> None:
    e = emitted(inferred(parse(CASES["tokens"][0])))
    small = replace(e.plan, arena=replace(e.plan.arena, size=1))
    assert take_places(small) is small


@pytest.mark.sanitize
@pytest.mark.parametrize("name", ["3x3 behind another", "strided and depthwise", "tokens"])
def test_sanitizers_find_nothing(name: str, tmp_path: Path) -> None:
    e = in_place(emitted(inferred(parse(CASES[name][0]))))
    assert e.plan.homes
    program = build_sanitized(e.module, e.target, tmp_path)
    model = parse(CASES[name][0])
    runs = [inputs_of(model, n, n) for n in (1, 3)]
    one, two = run_sanitized(program, e.module, runs, 1), run_sanitized(program, e.module, runs, 2)
    assert [a.tobytes() for run in one for a in run] == [a.tobytes() for run in two for a in run]
