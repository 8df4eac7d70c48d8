"""What is computed in place and what costs a copy; corners of inputs and outputs, compiled and run."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise

import numpy as np
import onnx
import onnxruntime
import pytest

from codegen.building import Emitted, build, emitted, parse
from ops.cases import inferred


def emit(text: str) -> tuple[onnx.ModelProto, Emitted]:
    model = parse(text)
    return model, emitted(inferred(model))


def copies(e: Emitted) -> int:
    return sum(call.label.startswith("copy") for call in e.plan.calls)


def check(model: onnx.ModelProto, e: Emitted, sizes: Mapping[str, int] | None = None) -> None:
    """The compiled model equals onnxruntime on random inputs, bit for bit with one thread and two."""
    random = np.random.default_rng(0)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(model.SerializeToString(), options)
    inputs = {}
    for value in session.get_inputs():
        shape = [d if isinstance(d, int) else (sizes or {})[d] for d in value.shape]
        inputs[value.name] = random.standard_normal(shape).astype(np.float32)
    [run] = build([e])
    actual, again = run(inputs), run(inputs, threads=2)
    for a, b, wanted in zip(actual, again, session.run(None, inputs), strict=True):
        assert a.shape == wanted.shape
        assert a.tobytes() == b.tobytes()
        np.testing.assert_allclose(a, wanted, rtol=1e-5, atol=1e-6)


# text -> (number of copies, number of calls in all)
PLACED = {
    "concat of computed parts": (
        "g (float[4, 6] x) => (float[4, 12] y) { a = Relu(x) b = Tanh(x) y = Concat<axis = 1>(a, b) }",
        (0, 2),
    ),
    "concat that is read on": (
        """g (float[4, 6] x, float[4, 6] z) => (float[4, 12] y) {
            a = Relu(x) b = Softmax(z) c = Concat<axis = 1>(a, b) y = Exp(c)
        }""",
        (0, 3),
    ),
    "concat of concats": (
        """g (float[4, 6] x, float[4, 3] z) => (float[4, 18] y) {
            a = Relu(x) b = Tanh(z) c = Sigmoid(z) d = Concat<axis = 1>(b, c)
            e = Exp(x) y = Concat<axis = 1>(a, d, e)
        }""",
        (0, 4),
    ),
    "concat of an input": (
        "g (float[4, 6] x, float[4, 6] z) => (float[4, 12] y) { a = Relu(x) y = Concat<axis = 1>(z, a) }",
        (1, 2),
    ),
    "concat of the same twice": (
        "g (float[4, 6] x) => (float[8, 6] y) { a = Relu(x) y = Concat<axis = 0>(a, a) }",
        (2, 3),
    ),
    "pad of a computed value": (
        """g (float[4, 6] x) => (float[6, 9] y) {
            p = Constant<value = int64[4] {1, 2, 1, 1}>() a = Relu(x) y = Pad(a, p)
        }""",
        (0, 5),
    ),
    "split is a view": (
        """g (float[4, 6] x) => (float[4, 3] y, float[4, 3] z) {
            a, b = Split<axis = 1, num_outputs = 2>(x) y = Relu(a) z = Tanh(b)
        }""",
        (0, 2),
    ),
    "split and put back": (
        """g (float[4, 6] x) => (float[4, 6] y) {
            a, b = Split<axis = 1, num_outputs = 2>(x) c = Relu(a) d = Tanh(b) y = Concat<axis = 1>(d, c)
        }""",
        (0, 2),
    ),
    "output through a transpose": (
        "g (float[4, 6] x) => (float[6, 4] y) { a = Relu(x) y = Transpose<perm = [1, 0]>(a) }",
        (0, 1),
    ),
    "output through a reshape": (
        """g (float[4, 6] x) => (float[2, 12] y) {
            s = Constant<value = int64[2] {2, 12}>() a = Relu(x) y = Reshape(a, s)
        }""",
        (0, 1),
    ),
    "reshape of a transpose is a copy": (
        """g (float[4, 6] x) => (float[24] y) {
            s = Constant<value = int64[1] {24}>() t = Transpose<perm = [1, 0]>(x) r = Reshape(t, s) y = Relu(r)
        }""",
        (1, 2),
    ),
    "heads of attention side by side": (
        """g (float[N, 5, 8] x, float[N, 2, 5, 5] p) => (float[N, 5, 8] y) {
            s = Constant<value = int64[4] {0, 5, 2, 4}>() u = Constant<value = int64[3] {0, 5, 8}>()
            a = Reshape(x, s) v = Transpose<perm = [0, 2, 1, 3]>(a) m = MatMul(p, v)
            t = Transpose<perm = [0, 2, 1, 3]>(m) r = Reshape(t, u) y = Relu(r)
        }""",
        (0, 2),
    ),
    "an image flattened behind a convolution is a copy": (
        """g (float[N, 4, 3, 3] x) => (float[N, 36] y) {
            a = GlobalAveragePool(x) m = Sub(x, a) p = MaxPool<kernel_shape = [2, 2], pads = [1, 1, 0, 0]>(m)
            f = Flatten(p) y = Relu(f)
        }""",
        (1, 4),
    ),
    "heads split and joined": (
        """g (float[N, 5, 8] x, float[8, 8] w) => (float[N, 5, 8] y) {
            s = Constant<value = int64[4] {0, 5, 2, 4}>() u = Constant<value = int64[3] {0, 5, 8}>()
            a = MatMul(x, w) b = Reshape(a, s) c = Transpose<perm = [0, 2, 1, 3]>(b)
            d = Softmax(c) e = Transpose<perm = [0, 2, 1, 3]>(d) y = Reshape(e, u)
        }""",
        (0, 2),
    ),
}


@pytest.mark.parametrize("name", PLACED)
def test_in_place(name: str) -> None:
    text, wanted = PLACED[name]
    model, e = emit(text)
    assert (copies(e), len(e.plan.calls)) == wanted, [c.label for c in e.plan.calls]
    check(model, e, {"N": 3})


CORNERS = {
    "an output that is an input": "g (float[4] x, float[4] z) => (float[4] x, float[4] y) { y = Relu(z) }",
    "nothing but an input": "g (float[4, 3] x) => (float[4, 3] x) { }",
    "an input through a view": "g (float[4, 3] x) => (float[3, 4] y) { y = Transpose<perm = [1, 0]>(x) }",
    "the same tensor as two outputs": "g (float[4] x) => (float[4] y, float[4] z) { y = Relu(x) z = Identity(y) }",
    "an output that another reads": """
        g (float[4, 3] x) => (float[4, 3] y, float[4, 3] z) { y = Relu(x) z = Softmax(y) }""",
    "an output and a slice of it": """
        g (float[4, 6] x) => (float[4, 6] y, float[4, 3] z) {
            y = Relu(x) z, b = Split<axis = 1, num_outputs = 2>(y)
        }""",
    "an output inside another": """
        g (float[4, 6] x) => (float[4, 6] y, float[8, 6] z) { y = Relu(x) b = Tanh(x) z = Concat<axis = 0>(b, y) }""",
    "an output and its transpose": """
        g (float[4, 6] x) => (float[6, 4] z, float[4, 6] y) { y = Relu(x) z = Transpose<perm = [1, 0]>(y) }""",
    "a constant output": """
        g (float[4] x) => (float[2] k, float[4] y) { k = Constant<value = float[2] {1.5, -2}>() y = Relu(x) }""",
    "a weight as output": "g (float[2] x) => (float[2] w, float[2] y) <float[2] w = {3, 4}> { y = Add(x, w) }",
    "scalars": "g (float x, float z) => (float y) { a = Mul(x, z) y = Exp(a) }",
    "a scalar from a vector": """
        g (float[7] x) => (float y) { k = Constant<value = int64[1] {0}>() y = ReduceSum<keepdims = 0>(x, k) }""",
    "no elements": "g (float[0, 3] x) => (float[0, 3] y) { a = Relu(x) y = Exp(a) }",
    "a sum over no elements": """
        g (float[3, 0] x, float[3, 1] z) => (float[3, 1] y) {
            k = Constant<value = int64[1] {1}>() a = ReduceSum(x, k) y = Add(a, z)
        }""",
    "a concat with nothing": "g (float[0, 3] x, float[2, 3] z) => (float[2, 3] y) { y = Concat<axis = 0>(x, z) }",
    "an unused input": "g (float[3] x, float[N] z) => (float[3] y) { y = Relu(x) }",
    "no nodes but sizes": "g (float[N, M] x) => (float[M, N] y) { y = Transpose<perm = [1, 0]>(x) }",
    "a pooling of one broadcast pixel": """
        g (float[3, 1] x) => (float[3, 1, 4] y) {
            s = Constant<value = int64[3] {3, 1, 4}>() k = Constant<value = int64[1] {2}>()
            u = Unsqueeze(x, k) e = Expand(u, s) y = MaxPool<kernel_shape = [1]>(e)
        }""",
    "a pooling of one pixel": """
        g (float[1, 3, 1] x) => (float[1, 3, 1] y) { y = AveragePool<kernel_shape = [3], pads = [1, 1]>(x) }""",
    "broadcast output": """
        g (float[1, 3] x) => (float[4, 3] y) { s = Constant<value = int64[2] {4, 3}>() y = Expand(x, s) }""",
    "a matrix product over nothing": "g (float[3, 0] x, float[0, 2] z) => (float[3, 2] y) { y = MatMul(x, z) }",
}


@pytest.mark.parametrize("name", CORNERS)
def test_corners(name: str) -> None:
    model, e = emit(CORNERS[name])
    check(model, e, {"N": 3, "M": 5})


def test_one_library_for_every_size() -> None:
    model, e = emit(
        """g (float[N, M, 6] x, float[M, 6] z) => (float[N, M, 6] y, float[N, 1, 6] s) {
            k = Constant<value = int64[1] {1}>()
            a = Add(x, z) b = Softmax<axis = 1>(a) y = Mul(b, x) s = ReduceSum(y, k)
        }"""
    )
    for n, m in [(1, 1), (3, 7), (2, 100), (17, 16)]:
        check(model, e, {"N": n, "M": m})


@pytest.mark.parametrize("step", ["Transpose<perm = [1, 0]>({v})", "Concat<axis = 0>({v}, z)", "Neg({v})"])
def test_long_chains(step: str) -> None:
    """As deep as a stranger's model likes: nothing recurses along the graph."""
    names = ["x", *(f"v{k}" for k in range(1499)), "y"]
    body = " ".join(f"{b} = {step.format(v=a)}" for a, b in pairwise(names))
    _, e = emit(f"g (float[4, 4] x, float[1, 4] z) => (float[a, b] y) {{ {body} }}")
    assert e.plan.calls
