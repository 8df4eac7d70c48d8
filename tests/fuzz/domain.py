"""What the operators are not defined for: runs that bring them such values say nothing."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
import onnx

from fuzz.oracles import Array, reference

# Ops whose results nothing promises where an input is NaN or infinite.
FINITE_ONLY = frozenset(
    [
        # The references do not agree on what a maximum over NaN is, or what lies at an infinite place of an image.
        "DeformConv",
        "GlobalMaxPool",
        "GridSample",
        "MaxPool",
        "MaxRoiPool",
        "NonMaxSuppression",
        "RoiAlign",
        # An infinity has a scale of infinity, in which nothing is a number; onnxruntime's kernels then take any code.
        "DynamicQuantizeLSTM",
        "DynamicQuantizeLinear",
        "DynamicQuantizeMatMul",
        # Infinity times a coefficient that is 0 but for its rounding.
        "DFT",
        "STFT",
        # onnxruntime's softmax takes scores of NaN for nothing at all, and skips what is masked or adds a 0 for it.
        "GroupQueryAttention",
        "MultiHeadAttention",
    ]
)


def is_defined(model: onnx.ModelProto, inputs: Mapping[str, Array]) -> bool:
    """Whether every operator of the main graph is given what it is defined for. Raises NoAnswer."""
    names = sorted({x for node in model.graph.node for x in _finite_inputs(node)})
    if not names:
        return True
    probe = onnx.ModelProto()
    probe.CopyFrom(model)
    del probe.graph.output[:]
    made = {y for node in model.graph.node for y in node.output}
    given = {**inputs, **{t.name: onnx.numpy_helper.to_array(t) for t in model.graph.initializer}}
    computed = [name for name in names if name in made]
    if computed:
        probe.graph.output.extend(onnx.ValueInfoProto(name=name) for name in computed)
        given |= dict(zip(computed, reference(probe)(inputs), strict=True))
    shares = [
        given[x] for node in model.graph.node if node.op_type == "NonMaxSuppression" for x in node.input[3:4] if x
    ]
    if any(((share < 0) | (share > 1)).any() for share in shares):
        return False  # how much of two boxes is common: onnxruntime refuses the others, the evaluator goes by them
    return all(np.isfinite(given[x].astype(np.float64)).all() for x in names if given[x].dtype.kind in "fV")


def _finite_inputs(node: onnx.NodeProto) -> Iterator[str]:
    if node.op_type in FINITE_ONLY:
        yield from (x for x in node.input if x)
