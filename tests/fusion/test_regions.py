"""Which primitives share a kernel, shown on graphs small enough to read; and why others do not."""

from __future__ import annotations

import random

import onnx_ir as ir
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from codegen.building import fused, parse
from fusion.graphs import draw_graph
from graphfuse.fusion.element import Elements
from graphfuse.fusion.passes import schedule
from graphfuse.fusion.regions import PLACEMENTS, VIEWS, Fusion, producers
from graphfuse.ops.expr import Expr
from graphfuse.ops.interpret import topological
from graphfuse.plan.site import accumulator
from ops.cases import inferred

AXIS = "ax = Constant<value = int64[1] {1}>()"


def fuse_text(text: str) -> Fusion:
    return fused(inferred(parse(text)))


def ops(fusion: Fusion) -> list[list[str]]:
    """The op types of every region, in order, each once."""
    node_of = fusion.program.node_of
    return [list(dict.fromkeys(node_of[t].op_type for t in r.tensors)) for r in fusion.regions]


def outputs(fusion: Fusion) -> list[list[str]]:
    node_of = fusion.program.node_of
    return [[node_of[t].op_type for t in r.outputs] for r in fusion.regions]


def reasons(fusion: Fusion) -> dict[tuple[str, str], str]:
    """(producer, consumer) -> the condition that failed, for edges that leave a region."""
    name = fusion.program.name
    region = fusion.region_of
    return {(name(a), name(t)): v.condition for (a, t), v in fusion.verdicts.items() if region.get(a) != region.get(t)}


ONE_REGION = {
    "conv, batch norm, relu, residual": (
        """g (float[1, 8, 6, 6] x, float[8, 8, 1, 1] w, float[8, 1, 1] s, float[8, 1, 1] b) => (float[1, 8, 6, 6] y) {
            c = Conv(x, w) m = Mul(c, s) n = Add(m, b) r = Relu(n) y = Add(r, x)
        }""",
        ["Conv", "Mul", "Add", "Relu"],
    ),
    "residual before the activation": (
        """g (float[4, 6] x, float[6, 6] w, float[4, 6] z) => (float[4, 6] y) {
            m = MatMul(x, w) a = Add(z, m) y = Sigmoid(a)
        }""",
        ["MatMul", "Add", "Sigmoid"],
    ),
    "pointwise feeding the residual": (
        """g (float[4, 6] x, float[6, 6] w, float[4, 6] z) => (float[4, 6] y) {
            t = Tanh(z) m = MatMul(x, w) y = Add(t, m)
        }""",
        ["MatMul", "Tanh", "Add"],
    ),
    "pointwise tree with broadcasting and two outputs": (
        """g (float[64, 30] x, float[64, 1] s, float[30] b) => (float[64, 30] y, float[64, 30] z) {
            a = Mul(x, s) c = Add(a, b) y = Relu(c) d = Tanh(c) z = Mul(d, x)
        }""",
        ["Mul", "Add", "Relu", "Tanh"],
    ),
    "softmax": ("g (float[4, 30] x) => (float[4, 30] y) { y = Softmax(x) }", ["Softmax"]),
    "softmax in primitives": (
        f"""g (float[4, 30] x) => (float[4, 30] y) {{
            {AXIS} m = ReduceMax(x, ax) d = Sub(x, m) e = Exp(d) s = ReduceSum(e, ax) y = Div(e, s)
        }}""",
        ["ReduceMax", "Sub", "Exp", "ReduceSum", "Div"],
    ),
    "pointwise around softmax": (
        "g (float[4, 30] x) => (float[4, 30] y) { a = Relu(x) b = Softmax(a) y = Mul(b, x) }",
        ["Relu", "Softmax", "Mul"],
    ),
    "layer norm": (
        "g (float[4, 30] x, float[30] s, float[30] b) => (float[4, 30] y) { y = LayerNormalization(x, s, b) }",
        ["LayerNormalization"],
    ),
    "layer norm in primitives": (
        f"""g (float[4, 30] x, float[30] s, float[30] b) => (float[4, 30] y) {{
            {AXIS} m = ReduceMean(x, ax) d = Sub(x, m) q = Mul(d, d) v = ReduceMean(q, ax)
            k = Constant<value = float {{0.001}}>() e = Add(v, k) r = Sqrt(e) n = Div(d, r) h = Mul(n, s) y = Add(h, b)
        }}""",
        ["ReduceMean", "Sub", "Mul", "Add", "Sqrt", "Div"],
    ),
    "mean, put back by unsqueeze": (
        f"""g (float[4, 6] x) => (float[4, 6] y) {{
            {AXIS} m = ReduceMean<keepdims = 0>(x, ax) u = Unsqueeze(m, ax) y = Sub(x, u)
        }}""",
        ["ReduceMean", "Unsqueeze", "Sub"],
    ),
    "gather into its only reader": (
        """g (float[9, 6] x, int64[4] i, float[4, 6] z) => (float[4, 6] y) { a = Gather(x, i) y = Add(a, z) }""",
        ["Gather", "Add"],
    ),
    "upsampling into an addition": (
        """g (float[1, 8, 4, 4] x, float[1, 8, 8, 8] z) => (float[1, 8, 8, 8] y) {
            r = Constant<value = float[0] {}>() s = Constant<value = float[4] {1, 1, 2, 2}>()
            a = Resize<mode = "nearest">(x, r, s) y = Add(a, z)
        }""",
        ["Resize", "Add"],
    ),
}


@pytest.mark.parametrize("name", ONE_REGION)
def test_one_region(name: str) -> None:
    text, expected = ONE_REGION[name]
    fusion = fuse_text(text)
    assert len(fusion.regions) == 1, ops(fusion)
    assert set(ops(fusion)[0]) == set(expected)


def test_batch_norm_runs_on_the_accumulators() -> None:
    fusion = fuse_text(
        """g (float[1, 8, 6, 6] x, float[8, 8, 1, 1] w, float[8] s) => (float[1, 8, 6, 6] y) {
            c = Conv(x, w) n = BatchNormalization(c, s, s, s, s) r = Relu(n) y = Add(r, x)
        }"""
    )
    # What depends on the statistics alone is computed once for each channel.
    assert ops(fusion) == [["BatchNormalization"], ["Conv", "BatchNormalization", "Relu", "Add"]]
    assert [r.space for r in fusion.regions] == [(1, 8, 1, 1), (1, 8, 6, 6)]


def test_of_two_convolutions_the_later_takes_the_sum() -> None:
    fusion = fuse_text(
        """g (float[1, 8, 6, 6] x, float[8, 8, 1, 1] w) => (float[1, 8, 6, 6] y) {
            [first] a = Conv(x, w) [second] b = Conv(x, w) [sum] y = Add(a, b)
        }"""
    )
    assert ops(fusion) == [["Conv"], ["Conv", "Add"]]
    assert reasons(fusion) == {("first", "sum"): "both regions have a contraction or reduction of their own"}


def test_a_value_needed_elsewhere_is_stored_too() -> None:
    fusion = fuse_text(
        """g (float[4, 6] x, float[6, 6] w) => (float[4, 6] y, float[4, 6] z) {
            a = Relu(x) b = Tanh(a) y = Exp(b) z = MatMul(a, w)
        }"""
    )
    assert ops(fusion) == [["Relu", "Tanh", "Exp"], ["MatMul"]]
    assert outputs(fusion)[0] == ["Relu", "Exp"]


def test_a_contraction_does_not_compute_its_own_operand() -> None:
    """The relu before a convolution is also its residual: the convolution needs all of it in memory first."""
    for residual in ("a", "t"):
        fusion = fuse_text(
            f"""g (float[1, 8, 6, 6] x, float[8, 8, 1, 1] w) => (float[1, 8, 6, 6] y) {{
                a = Relu(x) t = Tanh(a) c = Conv(a, w) [sum] y = Add(c, {residual})
            }}"""
        )
        assert ops(fusion)[1] == ["Conv", "Add"]
        assert "the contraction reads it, or what is made of it, from memory" in reasons(fusion).values()


def test_a_diamond_through_another_region_is_refused() -> None:
    fusion = fuse_text(
        f"""g (float[4, 6] x) => (float[4, 6] y) {{
            {AXIS} [relu] a = Relu(x) s = ReduceSum(a, ax) t = Transpose<perm = [1, 0]>(s) u = MatMul(s, t)
            [top] v = ReduceMax(u, ax) [gate] y = Mul(a, v)
        }}"""
    )
    assert ["Mul"] in ops(fusion)
    assert reasons(fusion)["relu", "gate"] == "another operand depends on this region's result"
    [verdict] = [v for (a, t), v in fusion.verdicts.items() if fusion.program.name(a) == "relu"]
    assert verdict.culprit == "top"
    assert verdict.remedy


def test_a_mean_broadcast_along_the_wrong_axis_is_refused() -> None:
    fusion = fuse_text(
        f"""g (float[6, 6] x) => (float[6, 6] y) {{
            {AXIS} [mean] m = ReduceMean<keepdims = 0>(x, ax) [less] y = Sub(x, m)
        }}"""
    )
    assert ops(fusion) == [["ReduceMean"], ["Sub"]]
    assert reasons(fusion) == {("mean", "less"): "a value made once per row is read at another row"}


def test_reductions_over_different_axes_are_two_passes() -> None:
    fusion = fuse_text(
        f"""g (float[4, 6] x) => (float[4, 6] y) {{
            zero = Constant<value = int64[1] {{0}}>() {AXIS}
            [rows] a = ReduceSum(x, ax) [columns] b = ReduceSum(x, zero) c = Mul(x, a) y = Mul(c, b)
        }}"""
    )
    assert len(fusion.regions) == 2
    assert "the reductions are over different axes" in reasons(fusion).values()


@pytest.mark.parametrize(
    "text, count",
    [
        # Views cost nothing, but what is behind one is another iteration space.
        ("a = Relu(x) t = Transpose<perm = [1, 0]>(a) b = Tanh(t) y = Transpose<perm = [1, 0]>(b)", 2),
        ("s, t = Split<axis = 1, num_outputs = 2>(x) a = Relu(s) b = Tanh(t) y = Concat<axis = 1>(a, b)", 2),
        ("y = Transpose<perm = [1, 0]>(x)", 0),
    ],
)
def test_views_and_placements_belong_to_no_region(text: str, count: int) -> None:
    fusion = fuse_text(f"g (float[6, 6] x) => (float[6, 6] y) {{ {text} }}")
    assert len(fusion.regions) == count
    for t in fusion.program.tensors:
        assert (t in fusion.region_of) != isinstance(t.prim, (*VIEWS, *PLACEMENTS))


# ---------------------------------------------------------------- any graph


def check_regions(fusion: Fusion) -> None:
    """Every primitive lies in one region, or is a view or placement; regions can run one after another."""
    program = fusion.program
    where = [t for r in fusion.regions for t in r.tensors]
    assert len(where) == len(set(where))
    assert set(where) == set(fusion.region_of)
    for t in program.tensors:
        assert t in fusion.region_of or isinstance(t.prim, (*VIEWS, *PLACEMENTS))
    done: set[str] = set()
    for region in fusion.regions:
        assert {r.name for r in producers(fusion, region)} <= done, f"{region.name} runs too early"
        done.add(region.name)
        inside = set(region.tensors)
        assert set(topological(region.outputs)) >= inside, f"{region.name} computes what nobody needs"
        for t in inside:
            wanted = program.is_output(t) or any(c not in inside for c in program.consumers.get(t, []))
            assert wanted == (t in region.outputs)


def check_schedules(fusion: Fusion) -> None:
    """Every region's elements can be written as expressions over what it reads: no value at a wrong row."""
    for region in fusion.regions:
        if region.kind == "rows":
            schedule(region)
        if region.kind == "contraction":
            assert not set(region.anchor.args) & set(region.tensors)
            results: dict[object, Expr] = {region.anchor: accumulator(region.anchor)}
            elements = Elements(region.tensors, region.space, results)  # type: ignore[arg-type]
            for t in region.outputs:
                elements.at_canonical(t)


@given(st.data(), st.booleans())
@settings(max_examples=150)
def test_any_graph_fuses(data: st.DataObject, symbolic: bool) -> None:
    model = draw_graph(lambda options: data.draw(st.sampled_from(options)), symbolic)
    fusion = fused(inferred(model))
    check_regions(fusion)
    check_schedules(fusion)


@pytest.mark.parametrize("block", range(4))
def test_many_graphs_fuse(block: int) -> None:
    """The same for graphs of a seed: more of them, larger ones."""
    for seed in range(50 * block, 50 * block + 50):
        fusion = fused(inferred(draw_graph(random.Random(seed).choice, symbolic=seed % 2 == 0)))
        check_regions(fusion)
        check_schedules(fusion)


def test_a_graph_of_nothing() -> None:
    graph = ir.from_proto(parse("g (float[4] x) => (float[4] x) { }"))
    assert fused(graph).regions == []
