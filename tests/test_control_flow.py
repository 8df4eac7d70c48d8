"""Control flow compiled: the same as onnxruntime on every path, with any number of threads, inside its memory."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import ModelProto

from codegen.sanitizing import build_sanitized, run_sanitized
from control_flow import Feeds, int64, parse, random_case, run
from graphfuse.compiler import Compiled, compile_model
from graphfuse.errors import InputError, UnsupportedModelError
from graphfuse.options import CompileOptions

FOLDER = Path(tempfile.gettempdir()) / f"graphfuse-control-flow-tests-{os.getuid()}"
OPTIONS = CompileOptions(verify=False, cflags=("-O1",), cache_dir=FOLDER)
RANDOM = 12
SANITIZED = ("grows", "grows_from_nothing", "branches_of_other_sizes", "stops_early", "nested", "scan")
# float32 sums in another order, a few operations deep; carried through up to a dozen iterations.
TOLERANCE = 3e-5

X = np.arange(6, dtype=np.float32).reshape(2, 3) / 4 - 0.5
WIDE = np.arange(40, dtype=np.float32).reshape(2, 20) / 16 - 1


def counts(*numbers: int, x: np.ndarray = X) -> list[Feeds]:
    return [{"n": int64(n), "x": x, "c": np.array(c)} for n in numbers for c in (True, False)]


LOOP = "(int64 i, bool p, float[P, Q] a) => (bool q, float[R, S] r"
MODELS: dict[str, tuple[str, Sequence[Feeds]]] = {
    "chooses": (
        """g (bool c, float[A, B] x) => (float[A, B] y, float[A, B] z) { u = Exp(x)
            y, z = If(c) <then_branch = t () => (float[A, B] v, float[A, B] w) { v = Erf(x) w = Identity(u) },
                          else_branch = e () => (float[A, B] s, float[A, B] r) { s = Neg(u) r = Sin(u) }> }""",
        [*counts(0), *counts(0, x=WIDE)],
    ),
    "branches_of_other_sizes": (
        """g (bool c, float[A, B] x) => (float[P, Q] y, float[R, S] z) {
            y = If(c) <then_branch = t () => (float[P, Q] v) { v = Concat<axis = 0>(x, x, x) },
                       else_branch = e () => (float[P, Q] s) { s = Erf(x) }>
            w = Exp(y) z = Concat<axis = 1>(w, y) }""",
        [*counts(0), *counts(0, x=WIDE)],
    ),
    "counts": (
        f"""g (int64 n, bool c, float[A, B] x) => (float[A, B] y, float[T, A, B] z) {{
            y, z = Loop(n, c, x) <body = b {LOOP}, float[R, S] s) {{
                q = Identity(p) f = Cast<to = 1>(i) g = Add(a, f) r = Tanh(g) s = Mul(r, x) }}> }}""",
        [*counts(0, 1, 2, 9), *counts(5, x=WIDE)],
    ),
    "grows": (
        f"""g (int64 n, bool c, float[A, B] x) => (float[P, B] y) {{
            y = Loop(n, c, x) <body = b {LOOP}) {{ q = Identity(p) r = Concat<axis = 0>(a, x) }}> }}""",
        [*counts(0, 1, 2, 7), *counts(3, x=WIDE)],
    ),
    "grows_from_nothing": (
        f"""g (int64 n, bool c, float[A, B] x) => (float[P, B] y, float[T, B] z) {{
            k = Constant<value = int64[1] {{0}}>() s0 = Shape(x) l = Constant<value = int64[1] {{1}}>()
            w = Gather(s0, l) d = Concat<axis = 0>(k, w) e = ConstantOfShape(d)
            y, z = Loop(n, c, e) <body = b {LOOP}, float[S] s) {{
                q = Identity(p) r = Concat<axis = 0>(a, x) s = ReduceSum<keepdims = 0>(r, k) }}> }}""",
        [*counts(1, 2, 7), *counts(3, x=WIDE)],
    ),
    "grows_by_what_a_branch_gives": (
        f"""g (int64 n, bool c, float[A, B] x) => (float[P, B] y) {{ t = Constant<value = bool {{1}}>()
            y = Loop(n, t, x) <body = b {LOOP}) {{
                q = Identity(p) s = Shape(a) k = Constant<value = int64 {{0}}>() h = Gather(s, k)
                f = Constant<value = int64 {{4}}>() e = Equal(h, f)
                u = If(e) <then_branch = t () => (float[J, K] v) {{ v = Concat<axis = 0>(x, x) }},
                           else_branch = o () => (float[J, K] w) {{ w = Exp(x) }}>
                r = Concat<axis = 0>(a, u) }}> }}""",
        [*counts(0, 1, 2, 3, 6), *counts(3, x=WIDE)],
    ),
    "carries_values_of_several_types": (
        """g (float[A, B] x, float limit) => (float[A, B] y, int64 steps, float[T, A, B] z) {
            k = Constant<value = int64 {0}>() t = Constant<value = bool {1}>()
            y, steps, z = Loop(, t, x, k) <body = b (int64 i, bool p, float[P, Q] a, int64 s)
                    => (bool q, float[R, S] r, int64 u, float[R, S] o) {
                f = Constant<value = float {1.5}>() r = Mul(a, f) m = ReduceMax<keepdims = 0>(r) q = Less(m, limit)
                e = Constant<value = int64 {1}>() u = Add(s, e) o = Identity(r) }> }""",
        [{"x": X, "limit": np.array(n, np.float32)} for n in (0.01, 50, 1e6)],
    ),
    "stops_early": (
        f"""g (int64 n, bool c, float[A, B] x) => (float[A, B] y, float[T] z) {{ one = Constant<value = float {{1.0}}>()
            y, z = Loop(n, c, x) <body = b {LOOP}, float s) {{
                r = Add(a, one) s = ReduceMax<keepdims = 0>(r) h = Constant<value = float {{4.0}}>() q = Less(s, h)
            }}> }}""",
        [*counts(0, 1, 2, 50), *counts(50, x=WIDE - 30)],
    ),
    "goes_on_until_it_stops": (
        f"""g (bool c, float[A, B] x) => (float[A, B] y) {{ one = Constant<value = float {{1.0}}>()
            y = Loop("", c, x) <body = b {LOOP}) {{
                r = Add(a, one) s = ReduceMax<keepdims = 0>(r) h = Constant<value = float {{4.0}}>() q = Less(s, h)
            }}> }}""",
        [*counts(0), *counts(0, x=WIDE - 30)],
    ),
    "swaps": (
        """g (int64 n, bool c, float[A, B] x) => (float[A, B] y, float[A, B] z) { u = Exp(x)
            y, z = Loop(n, c, x, u) <body = b (int64 i, bool p, float[P, Q] a, float[P, Q] d)
                => (bool q, float[P, Q] e, float[P, Q] f) { q = Identity(p) e = Identity(d) f = Add(a, d) }> }""",
        counts(0, 1, 2, 5),
    ),
    "nested": (
        f"""g (int64 n, bool c, float[A, B] x) => (float[A, B] y, float[T, B] z) {{
            m = Constant<value = int64 {{11}}>() most = Constant<value = float {{2.0}}>()
            y, z = Loop(n, c, x) <body = b {LOOP}, float[S] s) {{
                q = Identity(p)
                v, w = Loop(m, c, a) <body = d (int64 j, bool e, float[J, K] f)
                    => (bool g, float[J, K] h, float[J, K] k) {{
                        l = Cast<to = 1>(i) o = Sub(f, l) h = Sigmoid(o) k = Mul(h, a)
                        tot = ReduceSum<keepdims = 0>(k) g = Less(tot, most) }}>
                ax = Constant<value = int64[2] {{0, 1}}>() s = ReduceSum<keepdims = 0>(w, ax) r = Add(v, x) }}> }}""",
        [*counts(0, 1, 4), *counts(2, x=WIDE)],
    ),
    "scan": (
        """g (float[B, 4] h, float[B, T, 4] x, float[1] w) => (float[B, 4] y, float[B, 4, T] z, float[T, B, 4] v) {
            y, z, v = Scan(h, x) <num_scan_inputs = 1, scan_input_axes = [1], scan_input_directions = [1],
                scan_output_axes = [-1, 0], scan_output_directions = [0, 1],
                body = b (float[P, 4] a, float[P, 4] s) => (float[P, 4] d, float[P, 4] o, float[P, 4] e) {
                    m = Mul(a, w) d = Add(m, s) o = Tanh(d) e = Neg(s) }> }""",
        [
            {
                "h": np.full((b, 4), 0.5, np.float32),
                "x": np.linspace(-1, 1, b * t * 4, dtype=np.float32).reshape(b, t, 4),
                "w": np.array([0.5], np.float32),
            }
            for b, t in ((1, 1), (2, 5), (3, 20))
        ],
    ),
    "gathers_by_number": (
        """g (int64 n, float[A, B] x) => (float[B] y) { t = Constant<value = bool {1}>()
            k = Constant<value = int64 {0}>() e = Gather(x, k)
            y = Loop(n, t, e) <body = b (int64 i, bool p, float[Q] a) => (bool q, float[Q] r) {
                q = Identity(p) g = Gather(x, i) r = Add(a, g) }> }""",
        counts(0, 1, 2),
    ),
    "matrices": (
        f"""g (int64 n, bool c, float[20, 20] x) => (float[20, 20] y) {{
            y = Loop(n, c, x) <body = b {LOOP}) {{
                q = Identity(p) m = MatMul(a, x) d = Relu(m) f = Softmax(d) r = Sub(f, a) }}> }}""",
        counts(0, 1, 6, x=np.random.default_rng(0).standard_normal((20, 20), np.float32)),
    ),
}


def compiled(proto: ModelProto, folder: Path) -> Compiled:
    onnx.save(proto, folder / "m.onnx")
    return compile_model(folder / "m.onnx", folder / "m.gf", OPTIONS)


def check(made: Compiled, proto: ModelProto, cases: Sequence[Feeds]) -> None:
    assert made.ledger.missing() == ()
    with made.session(threads=1) as one, made.session(threads=2) as two:
        names = [tensor.name for tensor in one.manifest.inputs]
        for feeds in cases:
            given = {name: feeds[name] for name in names}
            results = one.run(None, given)
            for ours, again, theirs in zip(results, two.run(None, given), run(proto, feeds), strict=True):
                assert ours.dtype == theirs.dtype
                # onnxruntime takes sizes that only a body knows for 0 where it never runs; here they may be known.
                assert ours.shape == theirs.shape or (ours.size == theirs.size == 0 and ours.ndim == theirs.ndim)
                np.testing.assert_allclose(ours.reshape(theirs.shape), theirs, rtol=TOLERANCE, atol=TOLERANCE)
                assert ours.tobytes() == again.tobytes()


@pytest.mark.parametrize("name", MODELS)
def test_compiled_control_flow_is_the_same(tmp_path: Path, name: str) -> None:
    text, cases = MODELS[name]
    proto = parse(text)
    check(compiled(proto, tmp_path), proto, cases)


@pytest.mark.parametrize("seed", range(RANDOM))
def test_compiled_random_control_flow_is_the_same(tmp_path: Path, seed: int) -> None:
    proto, cases = random_case(seed)
    check(compiled(proto, tmp_path), proto, cases)


@pytest.mark.parametrize("name", SANITIZED)
def test_control_flow_stays_inside_its_memory(tmp_path: Path, name: str) -> None:
    text, cases = MODELS[name]
    proto = parse(text)
    made = compiled(proto, tmp_path)
    module = made.job.results["emit"]
    program = build_sanitized(module, made.job.target, tmp_path)
    for threads in (1, 2):
        found = run_sanitized(program, module, cases, threads)
        for feeds, results in zip(cases, found, strict=True):
            for ours, theirs in zip(results, run(proto, feeds), strict=True):
                np.testing.assert_allclose(ours.reshape(theirs.shape), theirs, rtol=TOLERANCE, atol=TOLERANCE)


def test_each_iteration_draws_other_random_numbers(tmp_path: Path) -> None:
    proto = parse(
        f"""g (int64 n, bool c, float[A, B] x) => (float[A, B] y, float[T, A, B] z) {{
            y, z = Loop(n, c, x) <body = b {LOOP}, float[R, S] s) {{
                q = Identity(p) s = RandomUniformLike(a) r = Add(a, s) }}> }}"""
    )
    session = compiled(proto, tmp_path).session(threads=2)
    y, z = session.run(None, counts(50)[0])
    assert len(np.unique(z)) > 0.98 * z.size
    np.testing.assert_allclose(y, X + z.sum(0), rtol=1e-5)
    session.set_threads(1)
    assert session.run(None, counts(50)[0])[1].tobytes() == z.tobytes()


# What may fail in the body of a loop, with inputs that make it fail.
FAILING = {
    "broadcast": (
        "float[N, 3] u, float[K, 3] v",
        "s = Mul(u, v) t = ReduceSum<keepdims = 0>(s, zero)",
        {"u": np.ones((2, 3), np.float32), "v": np.ones((5, 3), np.float32)},
    ),
    "reshape": (
        "float[12] u, int64[2] v",
        "s = Reshape(u, v) t = ReduceSum<keepdims = 0>(s, both)",
        {"u": np.ones(12, np.float32), "v": np.array([5, -7])},
    ),
    "gather": (
        "float[N, 3] u, int64[1] v",
        "s = Gather(u, v) t = Squeeze(s, zero)",
        {"u": np.ones((0, 3), np.float32), "v": np.array([9])},
    ),
    "matmul": (
        "float[1, N] u, float[K, 3] v",
        "s = MatMul(u, v) t = Squeeze(s, zero)",
        {"u": np.ones((1, 4), np.float32), "v": np.ones((5, 3), np.float32)},
    ),
    "best": (
        "float[7] u, int64[1] v",
        "s, w = TopK(u, v) t = ReduceSum<keepdims = 0>(s, zero)",
        {"u": np.ones(7, np.float32), "v": np.array([9])},
    ),
    "division": (
        "int64[3] u, int64[3] v",
        "s = Div(u, v) t = Cast<to = 1>(s)",
        {"u": np.array([1, 2, -(2**63)]), "v": np.array([0, 0, -1])},
    ),
    "endless": (
        "float[3] u, bool v",
        """t = Loop("", v, u) <body = d (int64 j, bool e, float[3] f) => (bool g, float[3] h) {
            g = Identity(e) h = Exp(f) }>""",
        {"u": np.ones(3, np.float32), "v": np.array(True)},
    ),
}


@pytest.mark.parametrize("name", FAILING)
def test_a_loop_that_does_not_run_does_not_fail(tmp_path: Path, name: str) -> None:
    """Even where what would fail is the same in every iteration, and could be computed ahead of the loop."""
    ports, work, given = FAILING[name]
    proto = parse(
        f"""g (int64 n, bool c, float[A, 3] x, {ports}) => (float[A, 3] y) {{
            zero = Constant<value = int64[1] {{0}}>() both = Constant<value = int64[2] {{0, 1}}>()
            y = Loop(n, c, x) <body = b {LOOP}) {{ q = Identity(p) {work} r = Add(a, t) }}> }}"""
    )
    feeds = {"n": int64(0), "c": np.array(True), "x": X[:, :3], **given}
    check(compiled(proto, tmp_path), proto, [feeds, {**feeds, "n": int64(9), "c": np.array(False)}])


def test_a_branch_that_is_not_taken_does_not_fail(tmp_path: Path) -> None:
    proto = parse("""g (bool c, float[N] x, float[3] z) => (float[3] y) {
        y = If(c) <then_branch = a () => (float[3] u) { u = Mul(x, z) },
                   else_branch = b () => (float[3] s) { s = Neg(z) }> }""")
    z = np.ones(3, np.float32)
    cases = [{"c": np.array(c), "x": np.ones(n, np.float32), "z": z} for c, n in ((False, 7), (True, 3))]
    made = compiled(proto, tmp_path)
    check(made, proto, cases)
    with made.session() as session, pytest.raises(InputError, match="must be equal"):
        session.run(None, {**cases[0], "c": np.array(True)})


def test_what_a_scan_takes_apart_has_to_be_as_long(tmp_path: Path) -> None:
    proto = parse("""g (float[T, 4] x, float[S, 4] z) => (float[T, 4] y) {
        y = Scan(x, z) <num_scan_inputs = 2, body = b (float[4] p, float[4] q) => (float[4] r) { r = Mul(p, q) }> }""")
    made = compiled(proto, tmp_path)
    check(made, proto, [{"x": floats, "z": -floats} for floats in (X.reshape(-1, 1) * np.ones(4, np.float32),)])
    with made.session() as session, pytest.raises(InputError, match="must be equal"):
        session.run(None, {"x": np.ones((5, 4), np.float32), "z": np.ones((3, 4), np.float32)})


def test_an_if_that_squeezes_is_checked_at_run_time(tmp_path: Path) -> None:
    """The ranks of its branches differ: only the squeeze is compiled, for sizes that it fits."""
    proto = parse("""g (float[N, K, 3] x) => (float[N, 3] y) {
        s = Shape(x) k = Constant<value = int64[1] {1}>() d = Gather(s, k) c = Equal(d, k)
        z = If(c) <then_branch = t () => (float[N, 3] a) { m = Constant<value = int64[1] {1}>() a = Squeeze(x, m) },
                   else_branch = e () => (float[N, K, 3] b) { b = Identity(x) }>
        y = Erf(z) }""")
    made = compiled(proto, tmp_path)
    check(made, proto, [{"x": X.reshape(2, 1, 3)}])
    with made.session() as session, pytest.raises(InputError):
        session.run(None, {"x": X.reshape(1, 2, 3)})


def test_a_sequence_is_returned_as_a_list(tmp_path: Path) -> None:
    proto = parse("""g (float[N, 3] x) => (seq(float[N, 3]) y, float[N, 3] z, seq(float) e) {
        z = Exp(x) u = Sin(z) y = SequenceConstruct(u, z, x) e = SequenceEmpty() }""")
    with compiled(proto, tmp_path).session() as session:
        (y, z, e) = session.run(None, {"x": X})
        for ours, theirs in zip([*y, z], [*run(proto, {"x": X})[0], np.exp(X)], strict=True):
            np.testing.assert_allclose(ours, theirs, rtol=1e-6)
        assert e == []
        assert len(session(X)[0]) == 3
        assert session.run(["y.1", "z"], {"x": X})[0].shape == (2, 3)
        assert list(session.manifest.results) == ["y", "z", "e"]


def verified(proto: ModelProto, folder: Path) -> Compiled:
    onnx.save(proto, folder / "m.onnx")
    return compile_model(folder / "m.onnx", folder / "m.gf", CompileOptions(cflags=("-O1",), cache_dir=FOLDER))


def test_verification_knows_lists(tmp_path: Path) -> None:
    proto = parse("g (float[N, 3] x) => (seq(float[N, 3]) y) { z = Exp(x) y = SequenceConstruct(z, x) }")
    made = verified(proto, tmp_path)
    assert made.certificate is not None
    assert made.certificate.passed
    assert [report.name for report in made.certificate.outputs] == ["y.0", "y.1"]


def test_a_list_of_nothing_is_all_that_is_returned(tmp_path: Path) -> None:
    proto = parse("g (float[0, 3] x) => (seq(float[P, 3]) y) { y = SplitToSequence<axis = 0>(x) }")
    made = verified(proto, tmp_path)
    assert made.certificate is not None
    assert made.certificate.passed
    assert "no output to compare" in made.certificate.verdict
    with made.session() as session:
        assert session.run(None, {"x": np.zeros((0, 3), np.float32)}) == [[]]


def test_a_body_that_gives_back_what_cannot_be_compiled(tmp_path: Path) -> None:
    """The error names the operator, not the loop that hands its result on."""
    text = """g (float[2, 3] x, int64 n, bool c) => (float[2, 3] z) { y = Made.By.Nobody(x)
        z = Loop(n, c, x) <body = b (int64 i, bool p, float[2, 3] a) => (bool q, float[2, 3] r) {
            q = Identity(p) r = Identity(y) }> }"""
    file = tmp_path / "model.onnx"
    header = '<ir_version: 10, opset_import: ["": 21, "Made.By": 1]>'
    file.write_bytes(onnx.parser.parse_model(header + text).SerializeToString())
    with pytest.raises(UnsupportedModelError) as caught:
        compile_model(file, tmp_path / "m.gf", OPTIONS)
    assert [op for op, _, _ in caught.value.nodes] == ["Nobody"]
