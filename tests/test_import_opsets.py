"""A model means the same after conversion to the one opset: old spellings of every op that changed, in onnxruntime."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx.parser
import onnx_ir as ir
import onnxruntime
import pytest

from graphfuse.compiler import compile_model
from graphfuse.errors import UnsupportedModelError
from graphfuse.graph.origins import origins
from graphfuse.importers.onnx import import_onnx
from graphfuse.options import CompileOptions

onnxruntime.set_default_logger_severity(4)

# (opset, graph); inputs are random floats of the declared shape, symbols are 3.
CASES = [
    (7, "g (float[2, 3] x) => (float[2, 3] y) { y = Clip<min = -0.5, max = 0.5>(x) }"),
    (7, "g (float[2, 3] x) => (float[2, 3] y) { y = Dropout<ratio = 0.5>(x) }"),
    (10, "g (float[N, 3] x) => (float[N, 3] y) { y = Dropout(x) }"),
    (12, "g (float[N, 3] x) => (float[N, 3] y) { y = Dropout(x) }"),
    (
        7,
        """g (float[2, 3, 4, 4] x, float[3] s, float[3] v) => (float[2, 3, 4, 4] y) { a = Abs(v) y =
            BatchNormalization(x, s, s, s, a) }""",
    ),
    (
        9,
        """g (float[N, 3, 4] x, float[3] s, float[3] v) => (float[N, 3, 4] y) { a = Abs(v) y =
            BatchNormalization(x, s, s, s, a) }""",
    ),
    (11, "g (float[2, 3, 4] x) => (float[2, 3, 4] y) { y = Softmax<axis = 1>(x) }"),
    (11, "g (float[2, 3, 4] x) => (float[2, 3, 4] y) { y = Softmax(x) }"),
    (7, "g (float[N, H, W] x) => (float[N, H, W] y) { y = Softmax<axis = 2>(x) }"),
    (12, "g (float[N, H, W] x) => (float[N, H, W] y) { y = LogSoftmax<axis = -1>(x) }"),
    (
        7,
        """g (float[1, 2, 3, 4] x) => (float[1, 2, 6, 12] y) { y = Upsample<mode = "nearest", scales = [1., 1., 2.,
            3.]>(x) }""",
    ),
    (
        9,
        """g (float[1, 2, 3, 4] x) => (float[1, 2, 6, 8] y) { s = Constant<value = float[4] {1., 1., 2., 2.}>() y =
            Upsample<mode = "linear">(x, s) }""",
    ),
    (
        9,
        """g (float[1, 2, 3, 4] x) => (float[1, 2, 4, 6] y) { s = Constant<value = float[4] {1., 1., 1.5, 1.5}>() y
            = Upsample(x, s) }""",
    ),
    (
        10,
        """g (float[1, 2, H, W] x) => (float[1, 2, P, Q] y) { s = Constant<value = float[4] {1., 1., 2., 1.5}>() y
            = Resize<mode = "nearest">(x, s) }""",
    ),
    (
        10,
        """g (float[1, 2, 4, 6] x) => (float[1, 2, 2, 9] y) { s = Constant<value = float[4] {1., 1., 0.5, 1.5}>() y
            = Resize<mode = "linear">(x, s) }""",
    ),
    (
        11,
        """g (float[1, 2, 4, 6] x) => (float[1, 2, 8, 9] y) { r = Constant<value = float[0] {}>() s =
            Constant<value = float[4] {1., 1., 2., 1.5}>() y = Resize<mode = "linear",
            coordinate_transformation_mode = "half_pixel">(x, r, s) }""",
    ),
    (
        13,
        """g (float[1, 2, 4, 6] x) => (float[1, 2, 5, 9] y) { s = Constant<value = int64[4] {1, 2, 5, 9}>() y =
            Resize<mode = "cubic", coordinate_transformation_mode = "align_corners">(x, , , s) }""",
    ),
    (11, "g (float[2, 1, 3, 1] x) => (float[2, 3] y) { y = Squeeze<axes = [1, -1]>(x) }"),
    (11, "g (float[N, 3] x) => (float[N, 1, 3, 1] y) { y = Unsqueeze<axes = [1, 3]>(x) }"),
    (7, "g (float[2, 5] x) => (float[2, 2] a, float[2, 3] b) { a, b = Split<axis = 1, split = [2, 3]>(x) }"),
    (13, "g (float[6, 2] x) => (float[2, 2] a, float[2, 2] b, float[2, 2] c) { a, b, c = Split(x) }"),
    (7, "g (float[2, 3, 4] x) => (float[2, 4] y) { y = ReduceSum<axes = [1], keepdims = 0>(x) }"),
    (17, "g (float[2, 3, 4] x) => (float[1, 3, 1] y) { y = ReduceMean<axes = [0, -1]>(x) }"),
    (13, "g (float[2, 3, 4] x) => (float[1, 1, 1] y) { y = ReduceMax(x) }"),
    (11, "g (float[2, 3, 4] x) => (float[2, 4] y) { y = ReduceL2<axes = [1], keepdims = 0>(x) }"),
    (7, "g (float[2, 3] x) => (float[3, 6] y) { y = Pad<pads = [0, 1, 1, 2], value = 0.5>(x) }"),
    (10, 'g (float[2, 3] x) => (float[2, 6] y) { y = Pad<mode = "reflect", pads = [0, 1, 0, 2]>(x) }'),
    (9, "g (float[4, 5] x) => (float[2, 3] y) { y = Slice<axes = [0, 1], starts = [1, -4], ends = [3, -1]>(x) }"),
    (9, "g (float[N, 5] x) => (float[N, 2] y, int64[N, 2] i) { y, i = TopK<k = 2>(x) }"),
    (
        10,
        """g (float[N, 5] x) => (float[N, 2] y, int64[N, 2] i) { k = Constant<value = int64[1] {2}>() y, i =
            TopK(x, k) }""",
    ),
    (
        7,
        """g (float[2, 3] x, float[3, 4] w, float[4] b) => (float[2, 4] y) { y = Gemm<alpha = 0.5, beta = 2.0>(x,
            w, b) }""",
    ),
    (7, "g (float[2, 3, 4] x, float[3, 1] s) => (float[2, 3, 4] y) { y = PRelu(x, s) }"),
    (
        7,
        """g (float[1, 2, 6, 6] x) => (float[1, 2, 3, 3] y) { y = AveragePool<kernel_shape = [3, 3], strides = [2,
            2], pads = [1, 1, 1, 1]>(x) }""",
    ),
    (
        11,
        """g (float[1, 2, 6, 6] x) => (float[1, 2, 4, 4] y) { y = AveragePool<kernel_shape = [2, 2], strides = [2,
            2], pads = [1, 1, 1, 1], count_include_pad = 1>(x) }""",
    ),
    (8, "g (float[1, 2, 6, 6] x) => (float[1, 2, 3, 3] y) { y = MaxPool<kernel_shape = [2, 2], strides = [2, 2]>(x) }"),
    (11, "g (float[2, 5] x) => (int64[2, 1] y) { y = ArgMax<axis = 1>(x) }"),
    (7, "g (float[2, 3] x) => (int64[2, 3] y) { y = Cast<to = 7>(x) }"),
    (7, "g (float[3, 4] x) => (float[2, 4] y) { i = Constant<value = int64[2] {2, 0}>() y = Gather(x, i) }"),
    (8, "g (float[3, 1] x) => (float[2, 3, 4] y) { s = Constant<value = int64[3] {2, 1, 4}>() y = Expand(x, s) }"),
    (9, "g (float[3, 4] x, float[3, 4] z) => (float[3, 4] y) { c = Greater(x, z) y = Where(c, x, z) }"),
    (8, "g (float[3, 4] x, float[4] z) => (float[3, 4] y) { y = Sum(x, z, z) }"),
    (8, "g (float[3, 4] x, float[4] z) => (float[3, 4] y) { a = Max(x, z) b = Min(a, x) y = Mean(a, b) }"),
    (7, "g (float[2, 8, 2, 2] x) => (float[2, 2, 4, 4] y) { y = DepthToSpace<blocksize = 2>(x) }"),
    (11, 'g (float[2, 8, 2, 2] x) => (float[2, 2, 4, 4] y) { y = DepthToSpace<blocksize = 2, mode = "CRD">(x) }'),
    (7, "g (float[1, 3, 4, 4] x, float[3] s) => (float[1, 3, 4, 4] y) { y = InstanceNormalization(x, s, s) }"),
    (7, "g (float[1, 4, 5, 5] x) => (float[1, 4, 5, 5] y) { y = LRN<size = 3>(x) }"),
    (9, "g (float[2, 3] x) => (float[2, 3] y) { s = Shape(x) z = ConstantOfShape(s) y = Add(x, z) }"),
    (10, "g (float[2, 3] x) => (float[2, 3] y) { c = Constant<value = float {0.7}>() y = Mod<fmod = 1>(x, c) }"),
    (11, "g (float[2, 3] x) => (float[2, 3] y) { k = Constant<value = int64 {1}>() y = CumSum(x, k) }"),
    (
        9,
        """g (float[3, 2] x) => (float[3, 2] y) { i = Constant<value = int64[1, 2] {2, 0}>() u = Constant<value =
            float[1, 2] {9., 8.}>() y = Scatter(x, i, u) }""",
    ),
    (
        11,
        """g (float[3, 2] x) => (float[3, 2] y) { i = Constant<value = int64[1, 2] {2, 0}>() u = Constant<value =
            float[1, 2] {9., 8.}>() y = ScatterElements(x, i, u) }""",
    ),
    (17, "g (float[2, 3, 4] x, float[4] s) => (float[2, 3, 4] y) { y = LayerNormalization(x, s, s) }"),
    (
        7,
        """g (float[5, 1, 3] x, float[1, 6, 3] w, float[1, 6, 2] r) => (float[5, 1, 1, 2] y) { y = GRU<hidden_size
            = 2>(x, w, r) }""",
    ),
    (
        7,
        """g (float[5, 1, 3] x, float[1, 8, 3] w, float[1, 8, 2] r) => (float[5, 1, 1, 2] y) { y = LSTM<hidden_size
            = 2>(x, w, r) }""",
    ),
    (
        7,
        """g (float[1, 2, 5, 5] x, float[3, 2, 3, 3] w) => (float[1, 3, 5, 5] y) { y = Conv<auto_pad =
            "SAME_UPPER">(x, w) }""",
    ),
    (
        7,
        """g (float[1, 2, 3, 3] x, float[2, 3, 2, 2] w) => (float[1, 3, 6, 6] y) { y = ConvTranspose<strides = [2,
            2]>(x, w) }""",
    ),
    (
        16,
        """g (float[1, 1, 4, 4] x, float[1, 3, 3, 2] p) => (float[1, 1, 3, 3] y) { y = GridSample<mode =
            "bilinear">(x, p) }""",
    ),
    (
        9,
        """g (float[2, 3] x) => (float[3] y) { s = ReduceSum<keepdims = 0>(x) z = Constant<value = float {0.}>() c
            = Greater(s, z) y = If(c) <then_branch = t () => (float[3] a) { a = ReduceSum<axes = [0], keepdims =
            0>(x) }, else_branch = e () => (float[3] b) { u = Slice<axes = [0], starts = [0], ends = [1]>(x) b =
            Squeeze<axes = [0]>(u) }> }""",
    ),
    (
        11,
        """g (float[1, 3] x) => (float[1, 3] y) { n = Constant<value = int64 {3}>() c = Constant<value = bool
            {1}>() y = Loop(n, c, x) <body = b (int64 i, bool k, float[1, 3] v) => (bool k2, float[1, 3] w) { k2 =
            Identity(k) s = Squeeze<axes = [0]>(v) u = Unsqueeze<axes = [0]>(s) w = Add(u, v) }> }""",
    ),
    (
        25,
        """g (float[N, 4] x) => (float[M] y) { s = Constant<value = int64[1] {-1}>() a = Reshape(x, s) y = Cast<to
            = 1>(a) }""",
    ),
]


def build(opset: int, text: str) -> onnx.ModelProto:
    return onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["": {opset}]> ' + " ".join(text.split()))


def run(data: bytes, feeds: dict[str, np.ndarray]) -> list[np.ndarray]:
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    return onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"]).run(None, feeds)


@pytest.mark.parametrize("opset, text", CASES)
def test_conversion_keeps_the_meaning(tmp_path: Path, opset: int, text: str) -> None:
    proto = build(opset, text)
    file = tmp_path / "model.onnx"
    file.write_bytes(proto.SerializeToString())
    rng = np.random.default_rng(0)
    feeds = {
        value.name: rng.standard_normal([d.dim_value or 3 for d in value.type.tensor_type.shape.dim]).astype(np.float32)
        for value in proto.graph.input
    }
    imported = import_onnx(file)
    assert imported.model.opset_imports[""] == max(24, opset)
    imported.model.opset_imports[""] = 24  # onnxruntime does not take all later ones
    proto.ir_version = 8
    got = run(ir.to_proto(imported.model).SerializeToString(), feeds)
    want = run(proto.SerializeToString(), feeds) if opset < 25 else [feeds["x"].reshape(-1)]
    for name, a, b in zip([value.name for value in imported.model.graph.outputs], got, want, strict=True):
        assert a.dtype == b.dtype
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6, err_msg=name)
    # The shapes that import states are the shapes that come out, symbols being 3.
    symbols = {d.value for v in imported.model.graph.inputs for d in v.shape if isinstance(d, ir.SymbolicDim)}
    for value, array in zip(imported.model.graph.outputs, got, strict=True):
        stated = [d if isinstance(d, int) else d.evaluate(dict.fromkeys(symbols, 3)) for d in value.shape]
        assert stated == list(array.shape)
    assert imported.ledger.missing() == tuple(
        name for name in imported.ledger.names if imported.ledger.op_type(name) != "Constant"
    )


@pytest.mark.parametrize("rank, slopes", [(2, 4), (3, 4), (5, 4), (4, 1)])
@pytest.mark.parametrize("given", [True, False])
def test_slopes_of_old_opsets_belong_to_channels(tmp_path: Path, rank: int, slopes: int, given: bool) -> None:
    """Up to opset 6 PRelu has one slope for each channel; onnxruntime starts at opset 7: the formula is the oracle."""
    shape, rng = [3, 4, 2, 3, 2][:rank], np.random.default_rng(0)
    x, slope = (rng.standard_normal(s).astype(np.float32) for s in (shape, slopes))
    text = f"""g (float{shape} x, float[{slopes}] s) => (float{shape} y) {{ y = PRelu(x, s) }}"""
    proto = build(6, text)
    if given:
        proto.graph.initializer.append(onnx.numpy_helper.from_array(slope, "s"))
        del proto.graph.input[1]
    (tmp_path / "m.onnx").write_bytes(proto.SerializeToString())
    imported = ir.to_proto(import_onnx(tmp_path / "m.onnx").model)
    (got,) = run(imported.SerializeToString(), {"x": x} if given else {"x": x, "s": slope})
    np.testing.assert_array_equal(got, np.where(x < 0, slope.reshape(-1, *[1] * (rank - 2)) * x, x))


def test_a_node_split_in_several_stays_one(tmp_path: Path) -> None:
    proto = build(11, "g (float[N, 3, 4] x) => (float[N, 3, 4] y) { y = Softmax<axis = 1>(x) }")
    proto.graph.node[0].name = "probabilities"
    (tmp_path / "m.onnx").write_bytes(proto.SerializeToString())
    imported = import_onnx(tmp_path / "m.onnx")
    carriers = [node.op_type for node in imported.model.graph if origins(node) == ("probabilities",)]
    assert carriers == ["Softmax"]


@pytest.mark.parametrize("opset, mode", [(10, "output_half_pixel"), (15, "output_half_pixel"), (16, "")])
def test_region_pooling_keeps_its_pixel_centres(tmp_path: Path, opset: int, mode: str) -> None:
    """onnxruntime has no RoiAlign of opset 24; before opset 16 there was no half-pixel shift."""
    text = """g (float[1, 1, 8, 8] x, float[1, 4] r) => (float[1, 1, 2, 2] y) {
        i = Constant<value = int64[1] {0}>() y = RoiAlign<output_height = 2, output_width = 2>(x, r, i) }"""
    (tmp_path / "m.onnx").write_bytes(build(opset, text).SerializeToString())
    (node,) = import_onnx(tmp_path / "m.onnx").model.graph
    assert node.attributes.get_string("coordinate_transformation_mode", "") == mode


@pytest.mark.parametrize(
    "opset, text, reason",
    [
        (
            8,
            "g (float[1, 4] x) => (float[1, 4] y) { y = BatchNormalization<spatial = 0>(x, x, x, x, x) }",
            "spatial",
        ),
        (
            9,
            """g (float[1, 1, 4, 4] x) => (float[1, 1, 2, 2] y) {
                s = Constant<value = float[4] {1., 1., 0.6, 0.6}>() y = Upsample(x, s) }""",
            "which element is nearest",
        ),
        (
            11,
            """g (float[1, 1, 4, 4] x) => (float[1, 1, 2, 2] y) { r = Constant<value = float[0] {}>()
                s = Constant<value = float[4] {1., 1., 2., 2.}>()
                y = Resize<coordinate_transformation_mode = "tf_half_pixel_for_nn">(x, r, s) }""",
            "withdrawn",
        ),
        (
            18,
            """g (float[2, 4, 3] x, float[2] s) => (float[2, 4, 3] y) {
                y = GroupNormalization<num_groups = 2>(x, s, s) }""",
            "withdrawn",
        ),
        (11, "g (float[2, 3, 4] x) => (float[2, 3, 4] y) { y = Hardmax<axis = 1>(x) }", "flattens"),
    ],
)
def test_what_cannot_be_converted_is_refused_by_name(tmp_path: Path, opset: int, text: str, reason: str) -> None:
    proto = build(opset, text)
    proto.graph.node[len(proto.graph.node) - 1].name = "the culprit"
    (tmp_path / "m.onnx").write_bytes(proto.SerializeToString())
    with pytest.raises(UnsupportedModelError, match="the culprit") as caught:
        import_onnx(tmp_path / "m.onnx")
    assert reason in str(caught.value)


# Scan of opset 8: what comes ahead of it, its lengths, and its directions.
BATCHES = [
    ("", '""', "[0, 0]"),
    ("", '""', "[0, 1]"),
    ("", "n", "[0, 0]"),
    ("m = Identity(n)", "m", "[1, 0]"),
]


@pytest.mark.parametrize("shape", ["3, 5", "1, 5", "B, T"])
@pytest.mark.parametrize("ahead, lengths, directions", BATCHES)
def test_scans_over_batches(tmp_path: Path, shape: str, ahead: str, lengths: str, directions: str) -> None:
    batch = shape.split(",", maxsplit=1)[0]
    proto = build(
        8,
        f"""g (int64[{batch}] n, float[{batch}, 4] h, float[{shape}, 4] x, float[{shape}, 4] z)
                => (float[{batch}, 4] s, float[{shape}, 4] y, float[{shape}, 2, 2] w) {{
            {ahead} a = Abs(x) k = Neg(h)
            s, y, w = Scan({lengths}, k, a, z) <num_scan_inputs = 2, directions = {directions}, body = b
                    (float[4] p, float[4] q, float[4] r) => (float[4] t, float[4] u, float[2, 2] v) {{
                c = Mul(p, r) d = Add(c, q) t = Clip<min = -2.0, max = 2.0>(d) u = Softmax<axis = 0>(t)
                l = Constant<value = int64[2] {{2, 2}}>() v = Reshape(t, l) }}>
            }}""",
    )
    file = tmp_path / "model.onnx"
    file.write_bytes(proto.SerializeToString())
    session = compile_model(file, tmp_path / "m.gf", CompileOptions(verify=False, cache=False)).session(threads=1)
    rng = np.random.default_rng(0)
    items = 1 if batch == "1" else 3
    feeds = {name: rng.standard_normal((items, 5, 4)).astype(np.float32) for name in "xz"}
    feeds["h"] = rng.standard_normal((items, 4)).astype(np.float32)
    feeds["n"] = np.array([2, 5, 1][:items], np.int64)
    peer = run(proto.SerializeToString(), feeds)
    if lengths != '""':
        assert not peer[1][0, 2:].any()  # onnxruntime, too, puts zeros behind the steps of an item
    for got, wanted in zip(session.run(None, feeds), peer, strict=True):
        assert got.shape == wanted.shape
        np.testing.assert_allclose(got, wanted, rtol=1e-5, atol=1e-6)


UNTYPED = {
    "ai.onnx.ml.DictVectorizer": 'string_vocabulary = ["a"]',
    "ai.onnx.ml.TreeEnsemble": """nodes_splits = float[1] {1.0}, nodes_modes = uint8[1] {0}, nodes_featureids = [0],
        nodes_truenodeids = [0], nodes_falsenodeids = [0], nodes_trueleafs = [1], nodes_falseleafs = [1],
        leaf_weights = float[1] {1.0}, leaf_targetids = [0], tree_roots = [0], n_targets = 1""",
    "RegexFullMatch": "",
}


@pytest.mark.parametrize("opset", [20, 24])
@pytest.mark.parametrize("op", UNTYPED)
def test_operators_behind_unknown_ones(tmp_path: Path, op: str, opset: int) -> None:
    """onnx's inference reads the type of what they take, which an operator of another domain does not tell it."""
    kind = "bool" if op == "RegexFullMatch" else "float"
    text = f"""<ir_version: 10, opset_import: ["": {opset}, "ai.onnx.ml": 5, "com.microsoft": 1]>
        g (float[2, 2] x) => ({kind}[N] y) {{ h = com.microsoft.FastGelu(x) y = {op}<{UNTYPED[op]}>(h) }}"""
    file = tmp_path / "model.onnx"
    onnx.save(onnx.parser.parse_model(text.replace("<>", "")), file)
    assert op.split(".")[-1] in [node.op_type for node in import_onnx(file).model.graph]
