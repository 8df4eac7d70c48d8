"""Sizes left open that are 0 when a model runs: onnxruntime's result, or an error that names what there is none of."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest

from graphfuse.compiler import compile_model
from graphfuse.errors import InputError
from graphfuse.options import CompileOptions

SLICES = {
    "of the last": (-1, 2**63 - 1, 1),
    "of the last two": (-2, 99, 1),
    "of all but the last": (0, -1, 1),
    "of all but the first": (1, 2**63 - 1, 1),
    "backwards": (-1, -(2**63), -1),
    "backwards, every second": (-2, -99, -2),
}
MODELS = {
    "map": "g (float[N, M] x, float[M] b) => (float[N, M] y) { y = Add(x, b) }",
    "product": "g (float[N, K] x, float[K, M] w) => (float[N, M] y) { y = MatMul(x, w) }",
    "sum": "g (float[N, M] x) => (float y) { y = ReduceSum<keepdims = 0>(x) }",
    "maximum": """g (float[N, M] x) => (float[N, 1] y) {
        a = Constant<value = int64[1] {1}>() y = ReduceMax(x, a) }""",
    "softmax": "g (float[N, M] x) => (float[N, M] y) { y = Softmax(x) }",
    "attention": """g (float[B, S, 8] q, float[B, L, 8] k, float[B, L, 8] v) => (float[B, S, 8] y) {
        t = Transpose<perm = [0, 2, 1]>(k) s = MatMul(q, t) p = Softmax(s) y = MatMul(p, v) }""",
    "concatenation": "g (float[N, 3] x, float[M, 3] z) => (float[K, 3] y) { y = Concat<axis = 0>(x, z) }",
    "images": """g (float[N, 3, 8, 8] x, float[4, 3, 3, 3] w) => (float[N, 4, 3, 3] y) {
        c = Conv(x, w) y = MaxPool<kernel_shape = [2, 2], strides = [2, 2]>(c) }""",
    "reshape": """g (float[N, M, 4] x) => (float[K, 2] y) {
        s = Constant<value = int64[2] {-1, 2}>() y = Reshape(x, s) }""",
    "slice": """g (float[N, 3] x) => (float[K, 3] y) {
        s = Constant<value = int64[1] {0}>() e = Constant<value = int64[1] {2}>() y = Slice(x, s, e) }""",
    **{
        f"slice {which}": f"""g (float[N, 3] x) => (float[K, 3] y) {{
        s = Constant<value = int64[1] {{{start}}}>() e = Constant<value = int64[1] {{{end}}}>()
        a = Constant<value = int64[1] {{0}}>() t = Constant<value = int64[1] {{{step}}}>()
        z = Slice(x, s, e, a, t) y = Exp(z) }}"""
        for which, (start, end, step) in SLICES.items()
    },
    "differences": """g (float[N, 3] x) => (float[K, 3] y) {
        z = Constant<value = int64[1] {0}>() e = Constant<value = int64[1] {-1}>()
        o = Constant<value = int64[1] {1}>() f = Constant<value = int64[1] {9223372036854775807}>()
        a = Slice(x, o, f) b = Slice(x, z, e) y = Sub(a, b) }""",
    "border": """g (float[N, 3] x) => (float[K, 3] y) {
        s = Constant<value = int64[4] {1, 0, 2, 0}>() y = Pad(x, s) }""",
    "sums of what came before": """g (float[N, M] x) => (float[N, M] y) {
        a = Constant<value = int64 {1}>() y = CumSum(x, a) }""",
    "places": "g (float[N, M] x) => (int64[2, K] y) { y = NonZero(x) }",
    "indices": "g (float[4, 3] x, int64[N] i) => (float[N, 3] y) { y = Gather(x, i) }",
    "scatter": "g (float[4, 3] x, int64[N, 1] i, float[N, 3] u) => (float[4, 3] y) { y = ScatterND(x, i, u) }",
}
# A model and the sizes that it cannot have.
REFUSED = {
    "gather": ("g (float[N, 3] x, int64[M] i) => (float[M, 3] y) { y = Gather(x, i) }", {"N": 0, "M": 2}),
    "scatter": (
        "g (float[N, 3] x, int64[M, 1] i, float[M, 3] u) => (float[N, 3] y) { y = ScatterND(x, i, u) }",
        {"N": 0, "M": 2},
    ),
    "the last element": (
        """g (float[N, 3] x, float[4, 3] z) => (float[4, 3] y) {
            s = Constant<value = int64[1] {-1}>() e = Constant<value = int64[1] {99999999999}>()
            a = Slice(x, s, e) y = Add(a, z) }""",
        {"N": 0},
    ),
    "all but the last": (
        """g (float[N, 3] x) => (float y) {
            s = Constant<value = int64[1] {0}>() e = Constant<value = int64[1] {-1}>()
            z = Slice(x, s, e) y = ReduceSum<keepdims = 0>(z) }""",
        {"N": 0},
    ),
    "mirrored border": (
        """g (float[N, 3] x) => (float[K, 3] y) {
            s = Constant<value = int64[4] {1, 0, 2, 0}>() y = Pad<mode = "edge">(x, s) }""",
        {"N": 0},
    ),
}


def model(text: str) -> onnx.ModelProto:
    return onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["": 18]> {" ".join(text.split())}')


def open_sizes(proto: onnx.ModelProto) -> list[str]:
    dims = (d.dim_param for v in proto.graph.input for d in v.type.tensor_type.shape.dim)
    return list(dict.fromkeys(name for name in dims if name))


def arrays(proto: onnx.ModelProto, sizes: dict[str, int]) -> dict[str, np.ndarray]:
    rng, made = np.random.default_rng(0), {}
    for value in proto.graph.input:
        shape = [sizes[d.dim_param] if d.dim_param else d.dim_value for d in value.type.tensor_type.shape.dim]
        dtype = onnx.helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type)
        x = rng.standard_normal(shape) if dtype.kind == "f" else rng.integers(0, 2, shape)
        made[value.name] = np.asarray(x, dtype)
    return made


@pytest.mark.parametrize("name", MODELS)
def test_the_same_as_onnxruntime(name: str, tmp_path: Path) -> None:
    proto = model(MODELS[name])
    onnx.save(proto, tmp_path / "m.onnx")
    options = CompileOptions(verify=False, cache=False)
    session = compile_model(tmp_path / "m.onnx", tmp_path / "m.gf", options).session(threads=2)
    peer = onnxruntime.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    symbols = open_sizes(proto)
    for chosen in itertools.product([0, 3], repeat=len(symbols)):
        feeds = arrays(proto, dict(zip(symbols, chosen, strict=True)))
        for got, wanted in zip(session.run(None, feeds), peer.run(None, feeds), strict=True):
            assert (got.dtype, got.shape) == (wanted.dtype, wanted.shape)
            np.testing.assert_allclose(got, wanted, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", REFUSED)
def test_what_needs_an_element_says_so(name: str, tmp_path: Path) -> None:
    text, sizes = REFUSED[name]
    proto = model(text)
    onnx.save(proto, tmp_path / "m.onnx")
    options = CompileOptions(verify=False, cache=False)
    session = compile_model(tmp_path / "m.onnx", tmp_path / "m.gf", options).session(threads=1)
    session.run(None, arrays(proto, dict.fromkeys(sizes, 2)))
    with pytest.raises(InputError, match=r"no elements|without elements|do not exist|negative"):
        session.run(None, arrays(proto, sizes))
