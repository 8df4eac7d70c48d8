"""Ops that neither onnxruntime nor ONNX's evaluator computes: compared with their formula in NumPy."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper

from graphfuse.ops.samples import floats
from ops.cases import IR_VERSION, OPSET, inferred
from ops.running import interpret


def run(op_type: str, inputs: dict[str, np.ndarray], **attributes: Any) -> np.ndarray:
    """The op's only output."""
    node = helper.make_node(op_type, list(inputs), ["y"], name="node", **attributes)
    values = [
        helper.make_tensor_value_info(k, helper.np_dtype_to_tensor_dtype(x.dtype), x.shape) for k, x in inputs.items()
    ]
    graph = helper.make_graph([node], "g", values, [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION)
    return interpret(inferred(model), inputs)[0]


@pytest.mark.parametrize("p", [1, 2, 3])
def test_global_lp_pool(p: int) -> None:
    x = floats(2, 3, 5, 7)
    wanted = (np.abs(x.astype(np.float64)) ** p).sum((2, 3), keepdims=True) ** (1 / p)
    np.testing.assert_allclose(run("GlobalLpPool", {"x": x}, p=p), wanted, rtol=1e-5)


def test_max_roi_pool() -> None:
    """The loops of Fast R-CNN, as they are written there."""
    x = floats(2, 3, 9, 11)
    boxes = np.array([[0, 1, 2, 8, 7], [1, 0, 0, 10, 8], [1, 4, 4, 4, 4], [0, -3, 5, 30, 6]], np.float32)
    wanted = np.zeros((4, 3, 3, 2), np.float32)
    for r, (image, *corners) in enumerate(boxes):
        x1, y1, x2, y2 = (int(np.floor(v * 0.75 + 0.5)) for v in corners)
        height, width = max(y2 - y1 + 1, 1), max(x2 - x1 + 1, 1)
        for i in range(3):
            for j in range(2):
                rows = [int(np.floor(i * height / 3)), int(np.ceil((i + 1) * height / 3))]
                columns = [int(np.floor(j * width / 2)), int(np.ceil((j + 1) * width / 2))]
                top, bottom = np.clip(np.array(rows) + y1, 0, 9)
                left, right = np.clip(np.array(columns) + x1, 0, 11)
                bin_ = x[int(image), :, top:bottom, left:right]
                wanted[r, :, i, j] = bin_.max((1, 2)) if bin_.size else 0
    actual = run("MaxRoiPool", {"x": x, "boxes": boxes}, pooled_shape=[3, 2], spatial_scale=0.75)
    np.testing.assert_array_equal(actual, wanted)
