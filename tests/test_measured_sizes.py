"""Models whose sizes depend on data: as onnxruntime, for sizes that grow and shrink from call to call; errors."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import onnx
import onnx.parser
import onnxruntime
import pytest

from graphfuse.compiler import compile_model
from graphfuse.errors import InputError
from graphfuse.options import CompileOptions
from graphfuse.runtime.session import Session

onnxruntime.set_default_logger_severity(4)
RNG = np.random.default_rng(5)
Feeds = dict[str, np.ndarray]


def floats(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape).astype(np.float32)


def boxes(n: int) -> np.ndarray:
    corners = np.sort(RNG.random((1, n, 2, 2)), axis=2)
    return corners.reshape(1, n, 4).astype(np.float32)


MODELS: dict[str, tuple[str, list[Feeds]]] = {
    "where something is": (
        """g (float[N, M] x) => (float[K] y, int64[2, K] at) { half = Constant<value = float {0.5}>()
            b = Greater(x, half) at = NonZero(b) t = Transpose(at) v = GatherND(x, t) e = Exp(v) y = Mul(e, v) }""",
        [{"x": x} for x in (floats(3, 7), floats(1, 1) - 9, floats(40, 300), floats(2, 2))],
    ),
    "detections": (
        """g (float[1, B, 4] boxes, float[1, C, B] scores) => (float[K, 4] kept, int64[K, 3] at) {
            most = Constant<value = int64[1] {20}>() overlap = Constant<value = float[1] {0.5}>()
            least = Constant<value = float[1] {0.3}>() zero = Constant<value = int64[1] {0}>()
            at = NonMaxSuppression(boxes, scores, most, overlap, least) two = Constant<value = int64[1] {2}>()
            one = Constant<value = int64[1] {1}>() c = Gather<axis = 1>(at, two) s = Squeeze(c, one)
            b = Squeeze(boxes, zero) kept = Gather(b, s) }""",
        [{"boxes": boxes(n), "scores": RNG.random((1, c, n), np.float32)} for n, c in ((7, 2), (90, 5), (1, 1))],
    ),
    "a shape from data": (
        """g (int64[2] shape, float[N] x) => (float[A, B] y, float z) {
            y = Reshape(x, shape) e = Softmax(y) z = ReduceSum<keepdims = 0>(e) }""",
        [{"shape": np.array(s, np.int64), "x": floats(24)} for s in ((4, 6), (24, 1), (-1, 8))],
    ),
    "a window from data": (
        """g (int64[1] first, int64[1] last, float[N, 8] x, float[8, 5] w) => (float[K, 5] y) {
            s = Slice(x, first, last) y = MatMul(s, w) }""",
        [
            {"first": np.array([a], np.int64), "last": np.array([b], np.int64), "x": floats(20, 8), "w": floats(8, 5)}
            for a, b in ((0, 20), (3, 4), (-5, 900), (7, 2))
        ],
    ),
    "a quotient of a size that may be 0": (
        """g (float[N, M] x) => (float[K, 2] y, float[A, B] z) { none = Constant<value = float {0}>()
            b = Greater(x, none) at = NonZero(b) t = Transpose(at) y = Cast<to = 1>(t)
            shape = Shape(y) p = Constant<value = int64[1] {0}>() q = Constant<value = int64[1] {1}>()
            k = Gather(shape, p) s = Shape(x) n = ReduceProd<keepdims = 1>(s, p) m = Max(k, q) d = Div(n, m)
            f = Concat<axis = 0>(k, d) e = Constant<value = float[1] {1}>() z = Expand(e, f) }""",
        [{"x": x} for x in (floats(3, 4), -np.abs(floats(3, 4)), np.abs(floats(3, 4)), floats(1, 1))],
    ),
    "a window over what was kept": (
        """g (float[5, 3, 7] x, bool[7] c) => (float[5, 3, K] y, float[5, 4, L] z) { v = Compress<axis = -1>(x, c)
            y = AveragePool<ceil_mode = 1, kernel_shape = [2]>(v) s = Constant<value = int64[3] {4, 3, 3}>()
            w = ConstantOfShape<value = float[1] {0.5}>(s) z = Conv(v, w) }""",
        [{"x": floats(5, 3, 7), "c": np.arange(7) < n} for n in (7, 3, 6)],
    ),
    "nothing whatever the data": (
        """g (float[N, 4] x) => (float[Z, 4] y, float[N, 4] z) { none = Constant<value = int64[1] {0}>()
            y = Slice(x, none, none) z = Relu(x) }""",
        [{"x": floats(3, 4)}],
    ),
}


def compiled(name: str, folder: Path) -> Session:
    model = onnx.parser.parse_model(f'<ir_version: 10, opset_import: ["": 21]> {MODELS[name][0]}')
    onnx.save(model, folder / "m.onnx")
    return compile_model(folder / "m.onnx", folder / "m.gf", CompileOptions(verify=False)).session(threads=2)


@pytest.mark.parametrize("name", MODELS)
def test_it_computes_what_onnxruntime_does(name: str, tmp_path: Path) -> None:
    session, cases = compiled(name, tmp_path), MODELS[name][1]
    reference = onnxruntime.InferenceSession(tmp_path / "m.onnx")
    for threads in (2, 1):
        session.set_threads(threads)
        for feeds in [*cases, *reversed(cases)]:
            for ours, theirs in zip(session.run(None, feeds), reference.run(None, feeds), strict=True):
                assert ours.shape == theirs.shape
                assert ours.dtype == theirs.dtype
                np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-5)


def test_results_are_the_callers_own(tmp_path: Path) -> None:
    session, cases = compiled("where something is", tmp_path), MODELS["where something is"][1]
    first = session.run(None, cases[0])
    before = [a.copy() for a in first]
    session.run(None, cases[2])
    for a, b in zip(first, before, strict=True):
        assert a.tobytes() == b.tobytes()


def test_calls_at_the_same_time(tmp_path: Path) -> None:
    session, cases = compiled("where something is", tmp_path), MODELS["where something is"][1]
    expected = [session.run(None, feeds) for feeds in cases]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda k: (k, session.run(None, cases[k])), [k % len(cases) for k in range(200)]))
    for k, results in found:
        for a, b in zip(results, expected[k], strict=True):
            assert a.shape == b.shape
            assert a.tobytes() == b.tobytes()


@pytest.mark.parametrize(
    ("shape", "message"),
    [((5, 5), "cannot be reshaped"), ((-3, 8), "negative"), ((1 << 40, 1 << 40), "cannot be reshaped|memory")],
)
def test_sizes_that_cannot_be(shape: tuple[int, int], message: str, tmp_path: Path) -> None:
    session = compiled("a shape from data", tmp_path)
    with pytest.raises(InputError, match=message):
        session.run(None, {"shape": np.array(shape, np.int64), "x": floats(24)})
    assert session.run(None, MODELS["a shape from data"][1][0])[0].shape == (4, 6)


def test_more_than_there_is_memory_for(tmp_path: Path) -> None:
    text = "g (int64[2] shape) => (float[A, B] y) { z = ConstantOfShape(shape) y = Cos(z) }"
    onnx.save(onnx.parser.parse_model(f'<ir_version: 10, opset_import: ["": 21]> {text}'), tmp_path / "m.onnx")
    session = compile_model(tmp_path / "m.onnx", tmp_path / "m.gf", CompileOptions(verify=False)).session()
    for shape in ((1 << 20, 1 << 25), (1 << 40, 1 << 40), (1 << 45, 1 << 45)):
        with pytest.raises(InputError, match="memory"):
            session.run(None, {"shape": np.array(shape, np.int64)})
    assert session.run(None, {"shape": np.array([2, 3], np.int64)})[0].tolist() == [[1, 1, 1], [1, 1, 1]]


def test_an_output_of_unknown_size_cannot_be_bound(tmp_path: Path) -> None:
    session = compiled("where something is", tmp_path)
    with pytest.raises(InputError, match="depends on data"):
        session.bind({"x": floats(2, 2)})
