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
