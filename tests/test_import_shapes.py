"""Shapes that import states are the shapes that come out, for every size of the symbols."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx.parser
import onnx_ir as ir
import onnxruntime
import pytest

from graphfuse.graph.infer import elements
from graphfuse.graph.shape_rules import slice_extent
from graphfuse.importers.onnx import import_onnx

onnxruntime.set_default_logger_severity(4)
FAR = 2**63 - 1


@pytest.mark.parametrize("step", [1, 2, 3, -1, -2])
def test_extent_of_a_slice(step: int) -> None:
    """As NumPy slices, but that a start before the axis is its first element; with numbers and, if told, a symbol."""
    symbol = ir.SymbolicDim("N")
    ends = [*range(-7, 8), 10**9, FAR] if step > 0 else [*range(-7, 8), -FAR]
    for start in range(-7, 8):
        for end in ends:
            told = slice_extent(symbol, start, end, step)
            for size in range(1, 7):
                expected = len(np.arange(size)[max(start, -size) : None if end == -FAR else end : step])
                assert slice_extent(size, start, end, step) == expected
                if told is not None:
                    assert (told if isinstance(told, int) else told.evaluate({"N": size})) == expected


# Shape computations as exporters write them; x is N x H x 4.
CASES = [
    "s = Shape(x) y = ConstantOfShape(s)",
    "s = Shape<start = 0, end = 2>(x) two = Constant<value = int64 {2}>() h = Div(s, two) y = ConstantOfShape(h)",
    "s = Shape<start = 1, end = 2>(x) k = Constant<value = int64 {3}>() m = Mod(s, k) y = ConstantOfShape(m)",
    """s = Shape<start = 0, end = 2>(x) k = Constant<value = int64[1] {3}>() m = Max(s, k) n = Min(m, k) y =
       ConstantOfShape(n)""",
    """s = Shape<start = 0, end = 1>(x) k = Constant<value = int64[1] {-2}>() m = Add(s, s) n = Sub(m, k) y =
       ConstantOfShape(n)""",
    "k = Constant<value = int64[2] {0, 1}>() e = Constant<value = int64[2] {2, 1000000000}>() y = Slice(x, k, e)",
    """k = Constant<value = int64[1] {-2}>() e = Constant<value = int64[1] {-1}>() a = Constant<value =
       int64[1] {1}>() y = Slice(x, k, e, a)""",
    """k = Constant<value = int64[1] {0}>() e = Shape<start = 0, end = 1>(x) a = Constant<value = int64[1]
       {1}>() y = Slice(x, k, e, a)""",
    """s = Shape<start = 1, end = 2>(x) z = Constant<value = int64[5] {0, 1, 0, 0, 2}>() p = Concat<axis =
       0>(z, s) y = Pad(x, p)""",
    """n = Shape<start = 0, end = 1>(x) m = Constant<value = int64[2] {-1, 4}>() t = Concat<axis = 0>(n, m)
       k = Constant<value = int64[1] {3}>() o = ConstantOfShape<value = int64[1] {1}>(k)
       f = Constant<value = int64 {-1}>() g = Mul(o, f) q = Equal(t, g) w = Where(q, o, t)
       c = Constant<value = float[1, 1, 4] {1., 2., 3., 4.}>() y = Expand(c, w)""",
    's = Constant<value = float[3] {1.0, 1.0, 0.7}>() y = Resize<mode = "nearest">(x, , s)',
    's = Constant<value = float[3] {1.0, 1.5, 2.0}>() y = Resize<mode = "linear">(x, , s)',
]


@pytest.mark.parametrize("body", CASES)
def test_stated_shapes_come_out(tmp_path: Path, body: str) -> None:
    text = f'<ir_version: 9, opset_import: ["": 20]> g (float[N, H, 4] x) => (float y) {{ {" ".join(body.split())} }}'
    proto = onnx.parser.parse_model(text)
    proto.graph.output[0].type.tensor_type.ClearField("shape")
    (tmp_path / "m.onnx").write_bytes(proto.SerializeToString())
    imported = import_onnx(tmp_path / "m.onnx")
    assert imported.unknown == ()
    (output,) = imported.model.graph.outputs
    session = onnxruntime.InferenceSession(ir.to_proto(imported.model).SerializeToString())
    for n, h in ((1, 1), (2, 3), (5, 4), (3, 7)):
        (result,) = session.run(None, {"x": np.zeros((n, h, 4), np.float32)})
        stated = [d if isinstance(d, int) else d.evaluate({"N": n, "H": h}) for d in output.shape]
        assert stated == list(result.shape)


def test_scaled_sizes_are_those_of_float32(tmp_path: Path) -> None:
    """10 * 0.7 is 7 in float32 and just below in exact arithmetic."""
    text = """<ir_version: 9, opset_import: ["": 20]> g (float[1, 1, 10] x) => (float[1, 1, M] y) {
        s = Constant<value = float[3] {1.0, 1.0, 0.7}>() y = Resize<mode = "nearest">(x, , s) }"""
    (tmp_path / "m.onnx").write_bytes(onnx.parser.parse_model(text).SerializeToString())
    (output,) = import_onnx(tmp_path / "m.onnx").model.graph.outputs
    session = onnxruntime.InferenceSession(str(tmp_path / "m.onnx"))
    assert list(output.shape) == list(session.run(None, {"x": np.zeros((1, 1, 10), np.float32)})[0].shape)


def test_a_quotient_of_floats_is_no_truncated_one(tmp_path: Path) -> None:
    """Scales are computed as one size divided by another, both cast to float."""
    text = """<ir_version: 9, opset_import: ["": 20]> g (float[4, 10] x) => (float[2] y) {
        s = Shape(x) f = Cast<to = 1>(s) k = Constant<value = float[2] {8., 25.}>() y = Div(k, f) }"""
    (tmp_path / "m.onnx").write_bytes(onnx.parser.parse_model(text).SerializeToString())
    imported = import_onnx(tmp_path / "m.onnx")
    (output,) = imported.model.graph.outputs
    assert elements(output) is None
    assert output.const_value is None
    session = onnxruntime.InferenceSession(ir.to_proto(imported.model).SerializeToString())
    np.testing.assert_array_equal(session.run(None, {"x": np.zeros((4, 10), np.float32)})[0], [2.0, 2.5])
